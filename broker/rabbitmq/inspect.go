package rabbitmq

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// What the server cannot do. To look at a message it has to hand it out, which
// counts as a delivery; that does no harm to the dead ones.
var (
	errDeadOnly = fmt.Errorf("linda/rabbitmq: the server shows no jobs but the dead: %w", errors.ErrUnsupported)
	errNoList   = fmt.Errorf("linda/rabbitmq: the server does not list queues over AMQP: %w", errors.ErrUnsupported)
)

// Stats is that of a [linda.Inspector]. It counts what is READY and DEAD.
func (b *broker) Stats(ctx context.Context, queue string) (linda.Stats, error) {
	s := linda.Stats{Delayed: -1, Reserved: -1}
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return s, err
	}
	b.rest(ctx, queue)
	if s.Ready, err = b.count(ctx, k, b.config.ready(queue)); err != nil {
		return s, err
	}
	crashed, err := b.count(ctx, k, b.config.alone(queue))
	if err != nil {
		return s, err
	}
	s.Ready += crashed
	s.Dead, err = b.count(ctx, k, b.config.dead(queue))
	return s, err
}

// rest gives away what was sent here and not asked for, so that it is counted.
func (b *broker) rest(ctx context.Context, queue string) {
	b.mu.Lock()
	o := b.taps[queue]
	b.mu.Unlock()
	if o == nil {
		return
	}
	select {
	case <-o.done:
		if o.tap != nil {
			o.tap.rest(ctx)
		}
	case <-ctx.Done():
	}
}

// reach checks a call and returns the link for it.
func (b *broker) reach(ctx context.Context, queue string) (*link, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, err
	}
	k, err := b.work.get(ctx)
	return k, b.closedOr(err)
}

// count returns how many messages a queue of the server holds: none where it
// is not there.
func (b *broker) count(ctx context.Context, k *link, name string) (int64, error) {
	n := make(chan int64, 1)
	err := k.on(ctx, "count queue "+name, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		var refused *amqp.Error
		if errors.As(err, &refused) && refused.Code == amqp.NotFound {
			err = nil
		}
		n <- int64(q.Messages)
		return err
	})
	if err != nil {
		return 0, b.closedOr(err)
	}
	return <-n, nil
}

func known(state linda.State) error {
	switch state {
	case linda.Ready, linda.Delayed, linda.Reserved, linda.Dead:
		return nil
	}
	return fmt.Errorf("linda/rabbitmq: there is no state %q", state)
}

// Peek is that of a [linda.Inspector], for DEAD jobs. While it looks, nobody
// else sees them.
func (b *broker) Peek(ctx context.Context, queue string, state linda.State, max int) ([]*linda.Job, error) {
	if err := known(state); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return nil, err
	}
	if state != linda.Dead {
		return nil, errDeadOnly
	}
	var jobs []*linda.Job
	max = min(max, linda.MaxInspect)
	err = b.browse(ctx, k, queue, func(ch *amqp.Channel, m *amqp.Delivery) (bool, error) {
		jobs = append(jobs, linda.DecodePeeked(queue, string(m.Body)))
		return len(jobs) < max, nil
	}, max > 0)
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

// browse shows the dead jobs of a queue to see, the longest dead first, until
// it wants no more; then they go back as they were, but for those that it has
// acknowledged. An error of see ends it.
func (b *broker) browse(ctx context.Context, k *link, queue string, see func(*amqp.Channel, *amqp.Delivery) (bool, error), more bool) error {
	if err := b.declareQueue(ctx, k, queue); err != nil {
		return b.closedOr(err)
	}
	// A goroutine of its own gets them, since a call of the client cannot be
	// interrupted; see must run in this one.
	found := make(chan *amqp.Delivery)
	next := make(chan bool)
	channel := make(chan *amqp.Channel, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- k.on(ctx, "look at the dead jobs of queue "+queue, func(ch *amqp.Channel) error {
			channel <- ch
			var last uint64
			for more := more; more; {
				m, ok, err := ch.Get(b.config.dead(queue), false)
				if err != nil || !ok {
					more = false
					if err != nil {
						return err
					}
					continue
				}
				last = m.DeliveryTag
				select {
				case found <- &m:
				case <-ctx.Done():
					return ctx.Err()
				}
				select {
				case more = <-next:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if last > 0 {
				// All that were not acknowledged go back, in their order, before
				// the answer to this.
				_ = ch.Nack(0, true, true)
				return ch.Qos(1, 0, false)
			}
			return nil
		})
	}()
	var ch *amqp.Channel
	for {
		select {
		case ch = <-channel:
		case m := <-found:
			more, err := see(ch, m)
			if err != nil {
				return err // the channel ends with ctx
			}
			select {
			case next <- more:
			case err := <-ended:
				return b.closedOr(err)
			}
		case err := <-ended:
			return b.closedOr(err)
		}
	}
}

// Kick is that of a [linda.Inspector]. A job is removed from the dead once the
// server has confirmed that it is READY.
func (b *broker) Kick(ctx context.Context, queue string, max int) (int, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return 0, err
	}
	max = min(max, linda.MaxInspect)
	kicked := 0
	err = b.browse(ctx, k, queue, func(ch *amqp.Channel, m *amqp.Delivery) (bool, error) {
		body := linda.KickedBody(queue, string(m.Body))
		if err := b.send(ctx, queue, []post{{body: []byte(body)}})[0]; err != nil {
			return false, err
		}
		kicked++
		return kicked < max, ch.Ack(m.DeliveryTag, false)
	}, max > 0)
	return kicked, err
}

// Find is that of a [linda.Inspector], for DEAD jobs; where the job is not
// among them, the error is that the others cannot be seen.
func (b *broker) Find(ctx context.Context, queue, id string) (*linda.Job, linda.State, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return nil, "", err
	}
	var job *linda.Job
	err = b.browse(ctx, k, queue, func(_ *amqp.Channel, m *amqp.Delivery) (bool, error) {
		if linda.BodyID(string(m.Body)) == id {
			job = linda.DecodePeeked(queue, string(m.Body))
		}
		return job == nil, nil
	}, true)
	switch {
	case err != nil:
		return nil, "", err
	case job == nil:
		return nil, "", errDeadOnly
	}
	return job, linda.Dead, nil
}

// Remove is that of a [linda.Inspector], for DEAD jobs, like Find.
func (b *broker) Remove(ctx context.Context, queue, id string) (bool, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return false, err
	}
	removed := false
	err = b.browse(ctx, k, queue, func(ch *amqp.Channel, m *amqp.Delivery) (bool, error) {
		if linda.BodyID(string(m.Body)) != id {
			return true, nil
		}
		removed = true
		return false, ch.Ack(m.DeliveryTag, false)
	}, true)
	if err == nil && !removed {
		err = errDeadOnly
	}
	return removed, err
}

// Purge is that of a [linda.Inspector], for READY and DEAD jobs.
func (b *broker) Purge(ctx context.Context, queue string, state linda.State) (int, error) {
	if err := known(state); err != nil {
		return 0, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	k, err := b.reach(ctx, queue)
	if err != nil {
		return 0, err
	}
	names := []string{b.config.ready(queue), b.config.alone(queue)}
	switch state {
	case linda.Reserved:
		return 0, linda.ErrReserved
	case linda.Delayed:
		return 0, fmt.Errorf("linda/rabbitmq: the jobs of all queues are delayed together: %w", errors.ErrUnsupported)
	case linda.Dead:
		names = []string{b.config.dead(queue)}
	}
	if err := b.declareQueue(ctx, k, queue); err != nil {
		return 0, b.closedOr(err)
	}
	b.rest(ctx, queue)
	purged := make(chan int, 1)
	err = k.on(ctx, "purge queue "+queue, func(ch *amqp.Channel) error {
		all := 0
		for _, name := range names {
			n, err := ch.QueuePurge(name, false)
			if err != nil {
				return err
			}
			all += n
		}
		purged <- all
		return nil
	})
	if err != nil {
		return 0, b.closedOr(err)
	}
	return <-purged, nil
}

// Queues is that of a [linda.Inspector]; the server cannot tell.
func (b *broker) Queues(ctx context.Context) ([]string, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	return nil, errNoList
}
