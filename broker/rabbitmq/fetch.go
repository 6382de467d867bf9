package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// Fetch is that of a [linda.Fetcher].
func (b *broker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	if err := b.checkFetch(ctx, queue, max, lease); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		jobs, err := b.fetch(ctx, queue, max, lease)
		if !passes(err) || try == fetchTries {
			return jobs, err
		}
		if !wait(ctx, fetchPause<<(try-1)) {
			return nil, b.closedOr(ctx.Err())
		}
	}
}

// The server closes the channel, or even the connection, of who consumes from
// a queue that somebody else is declaring just then, or whose leader is being
// chosen.
const (
	fetchTries = 7
	fetchPause = 50 * time.Millisecond // before the second try, doubled before each other
)

var errBroken = errors.New("the connection broke")

// passes reports whether it is worth asking again in a moment.
func passes(err error) bool { return errors.Is(err, errBroken) || errors.Is(err, errNotFound) }

func (b *broker) fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.tap(ctx, queue)
	if err != nil {
		return nil, err
	}
	if jobs, _ := b.takeOut(ctx, t, max, lease); len(jobs) > 0 {
		return jobs, nil
	}
	t.want(max)
	defer t.want(-max)
	for {
		jobs, more := b.takeOut(ctx, t, max, lease)
		if len(jobs) > 0 {
			return jobs, nil
		}
		var look <-chan time.Time
		if t.busy() {
			look = time.After(lookEvery)
		}
		select {
		case <-more:
		case <-look:
		case <-t.gone:
			return nil, b.closedOr(t.why("fetch from queue " + queue))
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.life.Done():
			return nil, linda.ErrClosed
		}
	}
}

// takeOut hands out what is here, or a job that crashed and is not; and returns a
// channel that is closed when there is more.
func (b *broker) takeOut(ctx context.Context, t *tap, max int, lease time.Duration) ([]*linda.Job, <-chan struct{}) {
	if d := t.another(ctx); d != nil {
		return b.handOut(t, []*delivery{d}, lease), nil
	}
	jobs, more := t.take(max)
	return b.handOut(t, jobs, lease), more
}

// FetchNow is that of [linda.NineMethods].
func (b *broker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	if err := b.checkFetch(ctx, queue, max, lease); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	for try := 1; ; try++ {
		jobs, err := b.get(ctx, queue, max, lease)
		// What a broken connection was handing out the server takes back.
		if !passes(err) || try == fetchTries || !wait(ctx, fetchPause<<(try-1)) {
			return jobs, err
		}
	}
}

// get asks for jobs one by one: first for one that crashed, unless there was none
// a moment ago.
func (b *broker) get(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.tap(ctx, queue)
	if err != nil {
		return nil, err
	}
	looked := t.lookDue()
	var jobs []*delivery
	if looked {
		jobs, err = t.getSome(ctx, 1, true)
	}
	if len(jobs) == 0 && err == nil {
		jobs, err = t.getSome(ctx, max, false)
	}
	if len(jobs) == 0 && err == nil && !looked {
		jobs, err = t.getSome(ctx, 1, true)
	}
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, errSeats) {
			err = t.why("fetch from queue " + queue)
		}
		return nil, b.closedOr(explain("fetch from queue "+queue, err))
	}
	return b.handOut(t, jobs, lease), nil
}

func (b *broker) checkFetch(ctx context.Context, queue string, max int, lease time.Duration) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	switch most := b.config.leaseMax(); {
	case max < 1:
		return fmt.Errorf("linda/rabbitmq: fetch of %d jobs", max)
	case lease < 0:
		return fmt.Errorf("linda/rabbitmq: a reservation of %v", lease)
	case lease > most:
		return tooLong(lease, most)
	}
	return nil
}

func tooLong(lease, most time.Duration) error {
	return fmt.Errorf("linda/rabbitmq: a reservation of %v, at most %v: the server takes deliveries back after its consumer_timeout; "+
		"raise that in rabbitmq.conf and tell the option consumer_timeout of the URL", lease, most)
}

// handOut makes jobs of deliveries, with their receipts. A job that crashed is not
// handed out beside others, but moved to where it is fetched alone: what crashes
// next must not count against it, nor it against them.
func (b *broker) handOut(t *tap, deliveries []*delivery, lease time.Duration) []*linda.Job {
	now := time.Now()
	jobs := make([]*linda.Job, 0, len(deliveries))
	gone := make([]*delivery, 0, len(deliveries)) // at most once
	for _, d := range deliveries {
		job := d.job()
		if job.Crashes() > 0 && len(deliveries) > 1 {
			t.move(d)
			continue
		}
		jobs = append(jobs, job)
		if lease == 0 {
			job.Reserve(b, t.queue, d, time.Time{})
			gone = append(gone, d)
			continue
		}
		job.Reserve(b, t.queue, d, now.Add(lease))
		if receipt, err := job.Receipt(b, t.queue); err == nil {
			b.keeper.Hold(d, receipt)
		}
	}
	switch {
	case lease == 0:
		t.acknowledge(gone)
	case t.broken(): // perhaps before they were held
		b.keeper.Lose(func(d *delivery) bool { return d.tap == t })
	}
	return jobs
}

// job reads the body. The server has counted the deliveries since that was
// stored.
func (d *delivery) job() *linda.Job {
	job, _ := linda.Decode(d.tap.queue, string(d.body))
	job.Redelivered(d.past + 1)
	return job
}
