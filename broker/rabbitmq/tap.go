package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// linger is how long a job may wait here for a Fetch, and how long the server
// may go on sending jobs when nobody fetches. After that they are for others.
const linger = 250 * time.Millisecond

// tap is the channel on which the jobs of one queue come, over one link. The
// server sends no more jobs than the Fetches under way have asked for, beside
// those that are in work.
//
// One goroutine asks the server to send jobs and to stop; see tend.
type tap struct {
	queue string // linda's name
	from  string // the server's
	most  int    // the prefetch of the URL
	ch    *amqp.Channel
	link  *link
	shed  func(*tap, []*delivery) // gives jobs to others
	gone  chan struct{}           // closed when the channel is
	asked chan struct{}           // told when there may be something to tend
	rests chan chan struct{}      // asks to give away now what nobody has asked for
	get   chan struct{}           // holds one: whoever uses basic.get, whose answers have no name

	reason *amqp.Error // why the server closed the channel; to be read after gone

	mu      sync.Mutex
	waiting []*delivery   // guarded by mu, as all below: jobs that nobody has asked for yet
	more    chan struct{} // closed when there are more of them
	wanted  int           // how many jobs the Fetches under way wait for
	last    time.Time     // when one ended
	flow    *flow         // nil: the server sends nothing
	settled tags
	closed  bool
}

// flow is one consumer, as the server calls it.
type flow struct {
	name string
	most int           // the server sends so many before one is settled
	open int           // guarded by the mutex of the tap: those that are not settled
	over chan struct{} // closed when no more will come
}

// delivery is a job in the hands of this process, and the token of its receipt.
type delivery struct {
	tap  *tap
	flow *flow // nil: it was got by basic.get
	tag  uint64
	body []byte
	past int64 // how often the server has handed it out before
	came time.Time
	over bool // guarded by the mutex of the tap: it is settled
}

func newTap(k *link, queue, from string, most int, shed func(*tap, []*delivery)) (*tap, error) {
	ch, err := k.conn.Channel()
	if err != nil {
		return nil, err
	}
	t := &tap{
		queue: queue, from: from, most: most, ch: ch, link: k, shed: shed,
		gone: newSignal(), asked: make(chan struct{}, 1), rests: make(chan chan struct{}), get: make(chan struct{}, 1), more: newSignal(), last: time.Now(),
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		for reason := range closed {
			t.reason = reason
		}
		t.mu.Lock()
		t.closed, t.waiting = true, nil
		t.mu.Unlock()
		close(t.gone)
	}()
	return t, nil
}

// newDelivery reads what the server counts: a quorum queue how often a message
// came back, a classic one only whether it did.
func newDelivery(t *tap, f *flow, m *amqp.Delivery) *delivery {
	d := &delivery{tap: t, flow: f, tag: m.DeliveryTag, body: m.Body, came: time.Now()}
	switch n := m.Headers["x-delivery-count"].(type) {
	case int64:
		d.past = n
	case int32:
		d.past = int64(n)
	}
	if d.past == 0 && m.Redelivered {
		d.past = 1
	}
	return d
}

// take returns up to max jobs that are here, and a channel that is closed when
// there are more.
func (t *tap) take(max int) ([]*delivery, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(max, len(t.waiting))
	jobs := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	if len(t.waiting) == 0 {
		t.waiting = nil
	}
	t.last = time.Now()
	return jobs, t.more
}

// want says that a Fetch waits for so many more jobs, or fewer.
func (t *tap) want(n int) {
	t.mu.Lock()
	t.wanted += n
	t.last = time.Now()
	tell := n > 0 && (t.flow == nil || t.short() || t.wanted == n)
	t.mu.Unlock()
	if tell {
		t.tell()
	}
}

func (t *tap) tell() {
	select {
	case t.asked <- struct{}{}:
	default: // it is being told already
	}
}

// short reports whether the server may send much less than is wanted. It needs
// mu.
func (t *tap) short() bool {
	f := t.flow
	return f == nil || f.most-f.open < t.wanted-len(t.waiting) && f.most < t.most && (f.most-f.open) < (t.wanted+1)/2
}

// add takes in what the server has sent.
func (t *tap) add(d *delivery) {
	t.mu.Lock()
	if d.flow != nil {
		d.flow.open++
	}
	t.waiting = append(t.waiting, d)
	close(t.more)
	t.more = newSignal()
	tell := t.wanted == 0
	t.mu.Unlock()
	if tell {
		t.tell()
	}
}

// tend asks the server to send jobs while a Fetch waits, and to stop when none
// does any more. It ends with the channel, or when life does.
func (t *tap) tend(life context.Context) {
	look := time.NewTimer(linger)
	defer look.Stop()
	for {
		var rested chan struct{}
		select {
		case <-t.gone:
			return
		case <-life.Done():
			return
		case rested = <-t.rests:
		case <-t.asked:
		case <-look.C:
		}
		t.mu.Lock()
		now := time.Now()
		flow, short := t.flow, t.wanted > 0 && t.short()
		idle := t.wanted == 0 && (rested != nil || now.Sub(t.last) >= linger)
		stale := len(t.waiting) > 0 && now.Sub(t.waiting[0].came) >= linger
		busy := t.flow != nil || len(t.waiting) > 0
		t.mu.Unlock()
		switch {
		case short:
			t.stop(flow)
			t.start()
		case idle || stale:
			t.stop(flow)
			t.giveAway()
		}
		if rested != nil {
			close(rested)
		}
		if busy {
			look.Reset(linger / 2)
		}
	}
}

// start has the server send as many jobs as are wanted.
func (t *tap) start() {
	t.mu.Lock()
	n := t.wanted - len(t.waiting)
	if n <= 0 || t.closed {
		t.mu.Unlock()
		return
	}
	f := &flow{name: newName(), most: min(n, t.most), over: newSignal()}
	t.flow = f
	t.mu.Unlock()
	defer t.limit()()
	err := t.ch.Qos(f.most, 0, false)
	var deliveries <-chan amqp.Delivery
	if err == nil {
		deliveries, err = t.ch.Consume(t.from, f.name, false, false, false, false, nil)
	}
	if err != nil {
		close(f.over)
		t.end()
		return
	}
	go func() {
		defer close(f.over)
		for m := range deliveries {
			t.add(newDelivery(t, f, &m))
		}
		t.mu.Lock()
		ours := t.flow != f
		t.mu.Unlock()
		if !ours { // the queue was deleted, or its node is gone
			t.end()
		}
	}()
}

// stop ends a flow, and returns when no more comes of it.
func (t *tap) stop(f *flow) {
	if f == nil {
		return
	}
	t.mu.Lock()
	t.flow = nil
	t.mu.Unlock()
	defer t.limit()()
	if err := t.ch.Cancel(f.name, false); err != nil {
		t.end()
	}
	<-f.over
}

// silence is how long the server may leave a question about a tap without an
// answer, before its link is taken for broken.
const silence = 10 * time.Second

// limit breaks the link unless it is undone in time.
func (t *tap) limit() (undo func()) {
	timer := time.AfterFunc(silence, func() { _ = t.link.socket.Close() })
	return func() { timer.Stop() }
}

// rest gives away the jobs that nobody has asked for, unless a Fetch waits.
func (t *tap) rest(ctx context.Context) {
	rested := newSignal()
	select {
	case t.rests <- rested:
	case <-t.gone:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-rested:
	case <-t.gone:
	case <-ctx.Done():
	}
}

// giveAway hands the jobs that nobody has asked for to others.
func (t *tap) giveAway() {
	t.mu.Lock()
	jobs := t.waiting
	t.waiting = nil
	t.mu.Unlock()
	if len(jobs) > 0 {
		t.shed(t, jobs)
	}
}

// end closes the channel: all that is in work comes back.
func (t *tap) end() { _ = t.ch.Close() }

func (t *tap) broken() bool {
	select {
	case <-t.gone:
		return true
	default:
		return t.link.broken()
	}
}

// why tells why the channel is gone.
func (t *tap) why(what string) error {
	<-t.gone
	if t.reason == nil {
		return fmt.Errorf("linda/rabbitmq: %s: %w", what, errBroken)
	}
	return fmt.Errorf("linda/rabbitmq: %s: %w: %s", what, errBroken, t.reason.Reason)
}

// acknowledge removes deliveries from the queue, and returns those that it
// could not: all of them when the channel is gone, and with it the
// reservations.
//
// Sending under the mutex only fills a buffer, see socket. It has to be there:
// an acknowledgement of many that overtakes one of them would have the server
// close the channel.
func (t *tap) acknowledge(deliveries []*delivery) (lost []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return deliveries
	}
	ours, lost := t.finish(deliveries)
	upTo, single := t.settled.settle(ours)
	ok := upTo == 0 || t.ch.Ack(upTo, true) == nil
	for _, tag := range single {
		ok = ok && t.ch.Ack(tag, false) == nil
	}
	if !ok {
		return deliveries
	}
	return lost
}

// reject gives deliveries back to the server, which counts them.
func (t *tap) reject(deliveries []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ours, _ := t.finish(deliveries)
	t.settled.note(ours...)
	for _, tag := range ours {
		if !t.closed {
			_ = t.ch.Reject(tag, true)
		}
	}
}

// finish ends deliveries, and returns the tags of those that were not ended
// before: the server closes the channel where one is settled twice. It needs
// mu.
func (t *tap) finish(deliveries []*delivery) (ours []uint64, before []*delivery) {
	for _, d := range deliveries {
		if d.over {
			before = append(before, d)
			continue
		}
		d.over = true
		if d.flow != nil {
			d.flow.open--
		}
		ours = append(ours, d.tag)
	}
	return ours, before
}

// got is what a basic.get has brought.
type got struct {
	delivery *delivery // nil: the queue is empty
	err      error
}

// getOne asks the server for one job. What comes after ctx has ended waits
// here for a Fetch, or is given to others.
func (t *tap) getOne(ctx context.Context) (*delivery, error) {
	select {
	case t.get <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.gone:
		return nil, amqp.ErrClosed
	}
	answer := make(chan got)
	go func() { // ends with the answer, or with the link
		defer func() { <-t.get }()
		m, ok, err := t.ch.Get(t.from, false)
		g := got{err: err}
		if ok && err == nil {
			g.delivery = newDelivery(t, nil, &m)
		}
		select {
		case answer <- g:
		case <-ctx.Done():
			if g.delivery != nil {
				t.add(g.delivery)
			}
		}
	}()
	select {
	case g := <-answer:
		return g.delivery, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
