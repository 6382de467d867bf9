package rabbitmq

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// linger is how long a job may wait here for a Fetch, and how long the server
// may go on sending jobs when nobody fetches. After that they are for others.
const linger = 250 * time.Millisecond

const (
	// flowFor is for how long the server may go on sending jobs at the pace of the workers
	// while none is acknowledged. One that takes a moment longer holds up those above it, and
	// where there is no room for them they are acknowledged one by one, which costs the
	// server a tenth of its speed. So one large flow is better than several small ones.
	flowFor = 40 * time.Millisecond
	// paceFrom is how many jobs the flows have together when the next one is as large as the
	// pace of the workers asks for, and therefore opened only once that is known. Their pace
	// rises with it, so there may be another one after that.
	paceFrom = 32
)

// flow is one consumer, as the server calls it, on a pipe of its own. A tap that needs
// more opens another one beside it: to end one while jobs are under way on it makes
// RabbitMQ 3.10 take them back, and count them as delivered.
type flow struct {
	name string
	pipe *pipe
	lone bool          // of jobs that crashed
	over chan struct{} // closed when no more will come
}

// want says that a Fetch waits for so many more jobs, or fewer.
func (t *tap) want(n int) {
	t.mu.Lock()
	t.wanted += n
	t.last = time.Now()
	tell := n > 0 && (t.short() || t.wanted == n)
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

// short reports whether the server may send much less than is wanted, or than will be
// settled in a moment. It needs mu.
func (t *tap) short() bool {
	room, total := t.room()
	switch now := time.Now(); {
	case len(t.flows) == 0:
		return true
	case total >= t.most:
		return false
	case total < paceFrom: // the pace is not asked yet
	case now.Sub(t.opened) < paceOver:
		return false
	case t.soon(now) >= 2*total:
		return true
	}
	return room < t.wanted-len(t.waiting) && room < (min(t.wanted, t.trust)+1)/2
}

// lack returns how many jobs the next flow is to bring at a time. It needs mu.
func (t *tap) lack() int {
	room, total := t.room()
	n := min(t.wanted-len(t.waiting)-room, t.trust, t.most-total)
	if total >= paceFrom {
		n = max(n, t.soon(time.Now())-total)
	}
	return n
}

// soon returns how many jobs the server may send while none is acknowledged, as the pace
// of the workers asks for. It needs mu.
func (t *tap) soon(now time.Time) int { return min(t.pace.within(flowFor, now), t.most) }

// room returns how many jobs the server may send now, and how many while none
// is settled. It needs mu.
func (t *tap) room() (room, total int) {
	for _, f := range t.flows {
		room, total = room+f.pipe.most-f.pipe.open, total+f.pipe.most
	}
	return room, total
}

// add takes in what the server has sent. What crashed is moved to where it is
// fetched alone, as long as it did not come from there.
func (t *tap) add(d *delivery) {
	t.mu.Lock()
	d.pipe.open++
	moves := d.past > 0 && !d.lone
	tell := false
	if !moves {
		tell = t.put(d, d.came)
	}
	t.mu.Unlock()
	switch {
	case moves:
		t.move(d)
	case tell:
		t.tell()
	}
}

// hold counts a job that is handed out at once.
func (t *tap) hold(d *delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.pipe.open++
}

// keep has jobs wait here for a Fetch.
func (t *tap) keep(jobs []*delivery) {
	now := time.Now()
	t.mu.Lock()
	tell := false
	for _, d := range jobs {
		tell = t.put(d, now)
	}
	t.mu.Unlock()
	if tell {
		t.tell()
	}
}

// put has a job wait here for a Fetch, and reports whether none is waiting. It
// needs mu.
func (t *tap) put(d *delivery, now time.Time) (idle bool) {
	d.kept = now
	if d.lone {
		t.single = append(t.single, d)
	} else {
		t.waiting = append(t.waiting, d)
	}
	if t.awaited {
		t.awaited = false
		close(t.more)
		t.more = newSignal()
	}
	return t.wanted == 0
}

// tend asks the server to send jobs while a Fetch waits, and to stop when none
// does any more. It ends with the channel, or when life does.
func (t *tap) tend(life context.Context) {
	look := time.NewTimer(linger)
	defer look.Stop()
	var moving sync.WaitGroup
	defer moving.Wait()
	for {
		var rested chan struct{}
		select {
		case <-t.gone:
			return
		case <-t.link.life.Done(): // of which no pipe tells where there is none
			t.end(nil)
			return
		case <-life.Done():
			return
		case rested = <-t.rests:
		case <-t.asked:
		case <-look.C:
		}
		short, unwanted, again := t.tidy(rested != nil)
		if t.startMove() { // beside this, as below: it may take long
			moving.Go(t.moveAll)
		}
		switch {
		case short:
			t.start()
		case unwanted:
			t.stop()
			moving.Go(t.giveAway)
		}
		if rested != nil {
			moving.Wait()
			close(rested)
		}
		if again > 0 {
			look.Reset(again)
		}
	}
}

// tidy closes the pipes that have had their time. It reports whether the server is to send
// more, and whether jobs are here, or come, that nobody wants; and when to look
// again, 0 for not before being told.
func (t *tap) tidy(rests bool) (short, unwanted bool, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.sweep(now)
	idle := t.wanted == 0 && (rests || now.Sub(t.last) >= linger)
	unwanted = idle || stale(t.waiting, now) || stale(t.single, now)
	switch {
	case t.wanted > 0 && t.short():
		return true, unwanted, paceOver
	case len(t.flows)+len(t.ended)+len(t.waiting)+len(t.single)+t.wanted > 0 || len(t.pipes) > tapSeats:
		return false, unwanted, linger / 2
	}
	return false, unwanted, 0
}

// stale reports whether jobs have waited here for too long.
func stale(waiting []*delivery, now time.Time) bool {
	return len(waiting) > 0 && now.Sub(waiting[0].kept) >= linger
}

// start has the server send as many jobs as are wanted, and of those that crashed
// one at a time, whose coming tells that there are such jobs.
func (t *tap) start() {
	t.mu.Lock()
	n := t.lack()
	if n <= 0 || t.closed {
		t.mu.Unlock()
		return
	}
	rings := t.bell != nil
	t.mu.Unlock()
	defer t.limit()()
	if !rings {
		t.open(1, true)
	}
	t.open(n, false)
}

// open has the server send up to so many jobs of one of its queues. Where no pipe is
// left it does nothing, and is asked again.
func (t *tap) open(most int, lone bool) {
	p, err := t.takePipe()
	if err != nil {
		return
	}
	f := &flow{name: newName(), pipe: p, lone: lone, over: newSignal()}
	from := t.from
	t.mu.Lock()
	p.flow, p.most = f, most
	if lone {
		t.bell, from = f, t.alone
	} else {
		t.flows, t.opened = append(t.flows, f), time.Now()
	}
	t.mu.Unlock()
	var deliveries <-chan amqp.Delivery
	if err = p.ch.Qos(most, 0, false); err == nil {
		deliveries, err = p.ch.Consume(from, f.name, false, false, false, false, nil)
	}
	if err != nil {
		close(f.over)
		t.end(refusal(err))
		return
	}
	go t.receive(f, deliveries)
}

// refusal returns why the server has closed a channel, nil where it has not.
func refusal(err error) *amqp.Error {
	var refused *amqp.Error
	errors.As(err, &refused)
	return refused
}

// receive takes in what comes of a flow.
func (t *tap) receive(f *flow, deliveries <-chan amqp.Delivery) {
	defer close(f.over)
	for m := range deliveries {
		t.add(newDelivery(f.pipe, &m, f.lone))
	}
	t.mu.Lock()
	stopped := t.bell != f && !slices.Contains(t.flows, f)
	t.mu.Unlock()
	if !stopped { // the queue was deleted, or its node is gone
		t.end(nil)
	}
}

// stop ends the flows, and returns when no more comes of them.
func (t *tap) stop() {
	t.mu.Lock()
	flows := t.flows
	if t.bell != nil {
		flows = append(flows, t.bell)
	}
	t.flows, t.bell = nil, nil
	t.mu.Unlock()
	if len(flows) == 0 {
		return
	}
	defer t.limit()()
	for _, f := range flows {
		if err := f.pipe.ch.Cancel(f.name, false); err != nil {
			t.end(refusal(err))
		}
		<-f.over
		t.mu.Lock()
		if !t.closed {
			t.ended = append(t.ended, f.pipe)
		}
		t.mu.Unlock()
	}
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

// passOn is how long the channel of a quorum queue takes at most to pass on what it
// was sent last.
const passOn = 100 * time.Millisecond

// empty gives away and acknowledges what there is, before the connection is closed.
//
// The channel of a quorum queue passes on 32 acknowledgements at a time, and forgets the
// others if it is closed before the queue has answered. To end a flow is a question
// to the queue, so whoever has its answer knows that all were passed on; where the flow
// had ended before, only time can tell.
func (t *tap) empty(ctx context.Context) {
	t.giveAway()
	t.awaitMoves(ctx)
	t.mu.Lock()
	var last time.Time // when a pipe without a flow was acknowledged on
	for _, p := range t.ended {
		if p.settled.waiting() > 0 {
			last = time.Now()
		} else if p.acked.After(last) {
			last = p.acked
		}
	}
	for p := range t.pipes {
		if !t.closed && !p.closing {
			p.sendAcks(true)
		}
	}
	t.mu.Unlock()
	stopped := newSignal()
	go func() { // ends with the link, or before
		t.stop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
	}
	wait(ctx, time.Until(last.Add(passOn)))
}
