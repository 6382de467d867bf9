package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// window is how many publishes may be without a confirm on one link, where a
// large body counts for several.
const (
	window     = 1024
	windowUnit = 4 << 10 // bytes
)

// errUnroutable means that the server has no queue for what was published.
var errUnroutable = errors.New("linda/rabbitmq: the queue is not there")

// errRefused means that the queue did not take a message. One that was declared
// a moment ago, or whose leader is being chosen, will.
var errRefused = fmt.Errorf("%w: linda/rabbitmq: the server does not take the job: its queue is full, or not available", linda.ErrUnknown)

// message is a body on its way to a queue or a delay.
type message struct {
	exchange, key string
	body          []byte
}

// outlet publishes over one link. Any number of goroutines share it, each
// message is confirmed on its own, and none waits for the confirm of another.
type outlet struct {
	ch   *amqp.Channel
	gone chan struct{} // closed when nothing can be confirmed any more
	turn chan struct{} // holds one: whoever takes it takes room in the window
	room chan struct{} // holds one for every publish without a confirm

	mu      sync.Mutex
	waiting map[uint64]*sent // guarded by mu, by publish number
	blocked chan struct{}    // guarded by mu: nil, or closed when the server takes jobs again
}

// sent is a message without a confirm.
type sent struct {
	shipment *shipment
	index    int // in it
	units    int // of the window
	err      error
}

// shipment is what one call publishes. Its fields are guarded by the mutex of
// the outlet.
type shipment struct {
	errs []error
	left int
	done chan struct{} // closed when none is left
}

// newOutlet puts a channel in confirm mode. The client hands the returns to
// this goroutine before the confirms that belong to them, since the channel of
// the returns has no buffer.
func newOutlet(k *link) error {
	ch, err := k.conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	o := &outlet{
		ch: ch, gone: make(chan struct{}), turn: make(chan struct{}, 1), room: make(chan struct{}, window),
		waiting: make(map[uint64]*sent),
	}
	returns := ch.NotifyReturn(make(chan amqp.Return))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, window))
	blocked := k.conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	k.outlet = o
	go o.listen(k, returns, confirms, blocked)
	return nil
}

func (o *outlet) listen(k *link, returns <-chan amqp.Return, confirms <-chan amqp.Confirmation, blocked <-chan amqp.Blocking) {
	defer o.end(k)
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			o.returned(r)
		case c, ok := <-confirms:
			if !ok {
				return
			}
			o.confirmed(c)
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			o.block(b.Active)
		}
	}
}

func (o *outlet) returned(r amqp.Return) {
	n, _ := strconv.ParseUint(r.MessageId, 10, 64)
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.waiting[n]; s != nil {
		s.err = errUnroutable
	}
}

func (o *outlet) confirmed(c amqp.Confirmation) {
	o.mu.Lock()
	s := o.waiting[c.DeliveryTag]
	delete(o.waiting, c.DeliveryTag)
	if s == nil {
		o.mu.Unlock()
		return
	}
	if !c.Ack && s.err == nil {
		s.err = errRefused
	}
	s.over()
	o.mu.Unlock()
	for range s.units {
		<-o.room
	}
}

// over needs the mutex of the outlet.
func (s *sent) over() {
	s.shipment.errs[s.index] = s.err
	if s.shipment.left--; s.shipment.left == 0 {
		close(s.shipment.done)
	}
}

func (o *outlet) block(active bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case active && o.blocked == nil:
		o.blocked = make(chan struct{})
	case !active && o.blocked != nil:
		close(o.blocked)
		o.blocked = nil
	}
}

// end tells everybody who waits that no confirm will come. A channel that the
// server has closed takes its link with it.
func (o *outlet) end(k *link) {
	_ = k.socket.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, s := range o.waiting {
		delete(o.waiting, n)
		if s.err == nil {
			s.err = fmt.Errorf("%w: linda/rabbitmq: the connection broke before the server confirmed", linda.ErrUnknown)
		}
		s.over()
	}
	close(o.gone)
}

// publish sends messages and waits until the server has confirmed them all, or
// ctx ends. It returns an error for each.
func (o *outlet) publish(ctx context.Context, messages []message) []error {
	s := &shipment{errs: make([]error, len(messages)), left: len(messages), done: make(chan struct{})}
	for i := range messages {
		if err := o.send(ctx, s, i, &messages[i]); err != nil {
			o.giveUp(s, i, err)
			break
		}
	}
	select {
	case <-s.done:
		return s.errs
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	errs := append([]error(nil), s.errs...)
	for _, w := range o.waiting {
		if w.shipment == s {
			errs[w.index] = fmt.Errorf("%w: linda/rabbitmq: the server has not confirmed: %w", linda.ErrUnknown, ctx.Err())
		}
	}
	return errs
}

// giveUp records that the messages from the i-th on were not sent.
func (o *outlet) giveUp(s *shipment, i int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ; i < len(s.errs); i++ {
		s.errs[i] = err
		s.left--
	}
	if s.left == 0 {
		close(s.done)
	}
}

func (o *outlet) send(ctx context.Context, s *shipment, i int, m *message) error {
	units := min(1+len(m.body)/windowUnit, window)
	if err := o.enter(ctx, units); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.gone: // end has been here, and will not come again
		return amqp.ErrClosed
	default:
	}
	n := o.ch.GetNextPublishSeqNo()
	o.waiting[n] = &sent{shipment: s, index: i, units: units}
	// This only fills a buffer: see socket.
	err := o.ch.Publish(m.exchange, m.key, true, false, amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: strconv.FormatUint(n, 10), Body: m.body,
	})
	if err != nil {
		delete(o.waiting, n)
		return fmt.Errorf("linda/rabbitmq: publish: %w", err)
	}
	return nil
}

// enter waits for room in the window, and for the server to take jobs at all.
func (o *outlet) enter(ctx context.Context, units int) error {
	for blocked := o.isBlocked(); blocked != nil; blocked = o.isBlocked() {
		select {
		case <-blocked:
		case <-o.gone:
			return amqp.ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: linda/rabbitmq: the server takes no jobs, it is short of memory or disk space: %w", linda.ErrFull, ctx.Err())
		}
	}
	if units == 1 { // nearly always
		return o.enterOnce(ctx)
	}
	select { // so that no two wait for each other's units
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-o.gone:
		return amqp.ErrClosed
	case <-ctx.Done():
		return o.crowded(ctx)
	}
	for taken := range units {
		if err := o.enterOnce(ctx); err != nil {
			for range taken {
				<-o.room
			}
			return err
		}
	}
	return nil
}

func (o *outlet) enterOnce(ctx context.Context) error {
	select {
	case o.room <- struct{}{}:
		return nil
	default:
	}
	select {
	case o.room <- struct{}{}:
		return nil
	case <-o.gone:
		return amqp.ErrClosed
	case <-ctx.Done():
		return o.crowded(ctx)
	}
}

func (o *outlet) crowded(ctx context.Context) error {
	return fmt.Errorf("linda/rabbitmq: not sent, since the server has not confirmed earlier jobs: %w", ctx.Err())
}

func (o *outlet) isBlocked() chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.blocked
}
