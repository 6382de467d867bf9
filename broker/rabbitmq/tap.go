package rabbitmq

import (
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// tap brings the jobs of one queue, over one link. Beside those that are in work the
// server sends as many jobs as the Fetches under way have asked for, or as will be settled
// in a moment, at the pace of the last. They come on pipes; why there are several, see there.
//
// One goroutine asks the server to send jobs and to stop; see tend.
type tap struct {
	queue string // linda's name
	from  string // the server's
	alone string // the server's, of the jobs that crashed
	most  int    // the prefetch of the URL
	link  *link
	shed  func(*tap, []*delivery) // gives jobs to others
	gone  chan struct{}           // closed when it brings no more, since a pipe broke
	asked chan struct{}           // told when there may be something to tend
	rests chan chan struct{}      // asks to give away now what nobody has asked for

	reason *amqp.Error // why a pipe broke; nil: its connection did; to be read after gone

	mu      sync.Mutex
	waiting []*delivery   // guarded by mu, as all below: jobs that nobody has asked for yet
	crashed []*delivery   // of those: jobs that crashed, which are to be moved
	moved   chan struct{} // closed when those that are being moved are; nil: there are none
	single  []*delivery   // of those: jobs that crashed, which go alone
	more    chan struct{} // closed when there are more of them, if that is awaited
	awaited bool
	wanted  int       // how many jobs the Fetches under way wait for
	trust   int       // how many jobs a new flow may have at most
	pace    pace      // of those that are settled
	last    time.Time // when one ended
	flows   []*flow   // none: the server sends nothing
	opened  time.Time // when the last of them was
	bell    *flow     // of the jobs that crashed, one at a time; nil where flows are none
	looked  time.Time // when there were none of them on the server
	pipes   map[*pipe]struct{}
	spare   []*pipe // of those: nobody has them
	ended   []*pipe // of those: their consumers have ended
	closed  bool
}

// firstTrust is how many jobs the first flow of a tap may have; it is more with
// every Fetch that brings some. The server, when it has just been started, breaks
// channels of those who come to a queue, and counts whatever it had sent on them.
const firstTrust = 4

// delivery is a job in the hands of this process, and the token of its receipt.
type delivery struct {
	tap  *tap
	pipe *pipe
	tag  uint64
	body []byte
	past int64 // how often the server has handed it out before
	lone bool  // it crashed, and is of the queue of those, or to be moved there
	came time.Time
	kept time.Time // guarded by the mutex of the tap: since when it waits for a Fetch
	over bool      // guarded by the mutex of the tap: it is settled
}

// newTap makes a tap that has its seats on the link.
func newTap(k *link, queue string, c *config, shed func(*tap, []*delivery)) *tap {
	return &tap{
		queue: queue, from: c.ready(queue), alone: c.alone(queue), most: c.prefetch, link: k, shed: shed,
		gone: newSignal(), asked: make(chan struct{}, 1), rests: make(chan chan struct{}),
		more: newSignal(), last: time.Now(), trust: firstTrust, pipes: make(map[*pipe]struct{}),
	}
}

// newDelivery reads what the server counts: a quorum queue how often a message
// came back, a classic one only whether it did.
func newDelivery(p *pipe, m *amqp.Delivery, lone bool) *delivery {
	d := &delivery{tap: p.tap, pipe: p, tag: m.DeliveryTag, body: m.Body, lone: lone, came: time.Now()}
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
	if _, total := t.room(); n > 0 && t.trust < 4*total {
		t.trust = min(4*total, t.most)
	}
	jobs := (*from)[:n:n]
	*from = (*from)[n:]
	if len(*from) == 0 {
		*from = nil
	}
	return jobs, t.more
}

// end closes the pipes: all that is in work comes back. Nothing may be
// acknowledged behind that, or the server breaks the whole connection.
func (t *tap) end(reason *amqp.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	for p := range t.pipes {
		p.sendAcks(true)
		p.close()
	}
	t.closed, t.reason = true, reason
	t.waiting, t.crashed, t.single, t.spare, t.ended = nil, nil, nil, nil, nil
	if len(t.pipes) == 0 {
		t.link.unseat(tapSeats)
	}
	close(t.gone)
}

func (t *tap) broken() bool {
	select {
	case <-t.gone:
		return true
	default:
		return t.link.broken()
	}
}

// why tells why the tap is gone.
func (t *tap) why(what string) error {
	<-t.gone
	if t.reason == nil {
		return fmt.Errorf("linda/rabbitmq: %s: %w", what, errBroken)
	}
	return fmt.Errorf("linda/rabbitmq: %s: %w: %s", what, errBroken, t.reason.Reason)
}
