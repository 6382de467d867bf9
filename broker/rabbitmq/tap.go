package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

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
	flows   []*flow       // none: the server sends nothing
	settled tags
	closed  bool
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
