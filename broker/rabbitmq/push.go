package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// PushBatch is that of a [linda.BatchPusher].
func (b *broker) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	bodies, err := linda.EncodeBatch(ctx, queue, jobs)
	if err != nil || len(jobs) == 0 {
		return err
	}
	posts := make([]post, len(jobs))
	for i, job := range jobs {
		if job.UniqueKey != "" {
			return fmt.Errorf("linda/rabbitmq: unique keys: %w", errors.ErrUnsupported)
		}
		if job.Delay > delayMost {
			return fmt.Errorf("%w: %v, at most %v", linda.ErrDelayTooLong, job.Delay, delayMost)
		}
		posts[i] = post{body: bodies[i], delay: job.Delay}
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return linda.Batch(b.send(ctx, queue, posts))
}

// post is a body that is to be in a queue after a delay.
type post struct {
	body  []byte
	delay time.Duration
	dead  bool // in the queue of the dead jobs
	alone bool // in that of the jobs that crashed
}

// Posts that the server did not take, or that were not sent since it did not find or
// make what they need, are tried again for a while: on a busy machine it takes seconds
// until a new quorum queue has its leader.
const (
	sendFor   = 4 * time.Second
	sendPause = 30 * time.Millisecond // before the second try, doubled before each other
	sendMost  = 500 * time.Millisecond
)

// send publishes posts and awaits their confirms. It returns an error for each.
func (b *broker) send(ctx context.Context, queue string, posts []post) []error {
	errs := b.sendOnce(ctx, queue, posts)
	began := time.Now()
	for pause := sendPause; time.Since(began) < sendFor; pause = min(2*pause, sendMost) {
		var again []int
		for i, err := range errs {
			if errors.Is(err, errUnroutable) || errors.Is(err, errRefused) || passes(err) {
				again = append(again, i)
			}
		}
		if len(again) == 0 || !wait(ctx, pause) {
			break
		}
		if k, err := b.work.get(ctx); err == nil { // the queue may have been deleted since it was declared
			k.declared.forget("queue " + queue)
			k.declared.forget("due " + queue)
		}
		rest := make([]post, len(again))
		for n, i := range again {
			rest[n] = posts[i]
		}
		for n, err := range b.sendOnce(ctx, queue, rest) {
			errs[again[n]] = err
		}
	}
	return errs
}

// wait waits, and reports whether ctx lasted so long.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *broker) sendOnce(ctx context.Context, queue string, posts []post) []error {
	messages, err := b.address(ctx, queue, posts)
	if err != nil {
		return same(b.closedOr(err), len(posts))
	}
	k, err := b.publish.get(ctx)
	if err != nil {
		return same(b.closedOr(err), len(posts))
	}
	errs := k.outlet.publish(ctx, messages)
	for i, err := range errs {
		if err != nil && !errors.Is(err, linda.ErrUnknown) {
			errs[i] = b.closedOr(err)
		}
	}
	return errs
}

// address finds where to publish posts, and has the server make it where it is
// missing.
func (b *broker) address(ctx context.Context, queue string, posts []post) ([]message, error) {
	k, err := b.work.get(ctx)
	if err != nil {
		return nil, err
	}
	messages := make([]message, len(posts))
	var delays stays
	for i, p := range posts {
		m := message{key: b.config.ready(queue), body: p.body}
		switch {
		case p.dead:
			m.key = b.config.dead(queue)
		case p.alone:
			m.key = b.config.alone(queue)
		case p.delay > 0:
			var in stays
			m.exchange, m.key, in = b.config.delayed(queue, p.delay)
			delays |= in
		}
		messages[i] = m
	}
	if delays == 0 {
		return messages, b.declareQueue(ctx, k, queue)
	}
	made := b.beginQueue(k, queue) // beside the delays, since both have to ripen
	if err := cmp.Or(b.declareDelays(ctx, k, delays), k.declared.await(ctx, made)); err != nil {
		return nil, err
	}
	return messages, b.declareDue(ctx, k, queue)
}

func same(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
