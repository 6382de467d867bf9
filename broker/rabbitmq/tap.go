package rabbitmq

import (
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
	alone string // the server's, of the jobs that crashed
	most  int    // the prefetch of the URL
	ch    *amqp.Channel
	link  *link
	shed  func(*tap, []*delivery) // gives jobs to others
	gone  chan struct{}           // closed when the channel is
	asked chan struct{}           // told when there may be something to tend
	rests chan chan struct{}      // asks to give away now what nobody has asked for
	turn  chan struct{}           // holds one: whoever waits for an answer on ch, since answers have no name; see ask

	reason *amqp.Error // why the server closed the channel; to be read after gone

	mu      sync.Mutex
	waiting []*delivery   // guarded by mu, as all below: jobs that nobody has asked for yet
	crashed []*delivery   // of those: jobs that crashed, which are to be moved
	moved   chan struct{} // closed when those that are being moved are; nil: there are none
	single  []*delivery   // of those: jobs that crashed, which go alone
	more    chan struct{} // closed when there are more of them, if that is awaited
	awaited bool
	wanted  int       // how many jobs the Fetches under way wait for
	trust   int       // how many jobs a new flow may have at most
	last    time.Time // when one ended
	flows   []*flow   // none: the server sends nothing
	bell    *flow     // of the jobs that crashed, one at a time; nil where flows are none
	looked  time.Time // when there were none of them on the server
	settled tags
	acked   time.Time // when acknowledgements were sent last
	acking  bool      // they will be again, by flush
	closed  bool
}

// firstTrust is how many jobs the first flow of a tap may have; it is more with
// every Fetch that brings some. The server, when it has just been started, breaks
// channels of those who come to a queue, and counts whatever it had sent on them.
const firstTrust = 4

// delivery is a job in the hands of this process, and the token of its receipt.
type delivery struct {
	tap  *tap
	flow *flow // nil: it was got by basic.get
	tag  uint64
	body []byte
	past int64 // how often the server has handed it out before
	lone bool  // it crashed, and is of the queue of those, or to be moved there
	came time.Time
	kept time.Time // guarded by the mutex of the tap: since when it waits for a Fetch
	over bool      // guarded by the mutex of the tap: it is settled
}

// newTap makes a tap that has a seat on the link.
func newTap(k *link, queue string, c *config, shed func(*tap, []*delivery)) (*tap, error) {
	ch, err := k.conn.Channel()
	if err != nil {
		k.taps.Add(-1)
		return nil, err
	}
	t := &tap{
		queue: queue, from: c.ready(queue), alone: c.alone(queue), most: c.prefetch, ch: ch, link: k, shed: shed,
		gone: newSignal(), asked: make(chan struct{}, 1), rests: make(chan chan struct{}), turn: make(chan struct{}, 1),
		more: newSignal(), last: time.Now(), trust: firstTrust,
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		for reason := range closed {
			t.reason = reason
		}
		t.mu.Lock()
		t.closed, t.waiting, t.crashed, t.single = true, nil, nil, nil
		t.mu.Unlock()
		k.taps.Add(-1)
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
// there are more. One that crashed goes alone.
func (t *tap) take(max int) ([]*delivery, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
	from := &t.waiting
	if len(t.single) > 0 {
		from, max = &t.single, 1
	}
	n := min(max, len(*from))
	t.awaited = t.awaited || n == 0
	if n > 0 {
		t.trust = min(4*t.trust, t.most)
	}
	jobs := (*from)[:n:n]
	*from = (*from)[n:]
	if len(*from) == 0 {
		*from = nil
	}
	return jobs, t.more
}

// ask asks the server for something on the channel when it is its turn. The client
// gives the next answer to whoever waits for one: of two who wait at the same time
// each may get that of the other, and the channel is closed.
func (t *tap) ask(question func() error) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
		return question()
	case <-t.gone:
		return amqp.ErrClosed
	}
}

// end closes the channel: all that is in work comes back. Nothing may be
// acknowledged behind that, or the server breaks the whole connection.
func (t *tap) end() {
	t.mu.Lock()
	if !t.closed {
		t.sendAcks(false)
	}
	t.closed = true
	t.mu.Unlock()
	_ = t.ch.Close()
}

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
