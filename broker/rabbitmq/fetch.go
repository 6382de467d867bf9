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
		if !errors.Is(err, errBroken) || try == fetchTries {
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

func (b *broker) fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.tap(ctx, queue)
	if err != nil {
		return nil, err
	}
	if jobs, _ := t.take(max); len(jobs) > 0 {
		return b.handOut(t, jobs, lease), nil
	}
	t.want(max)
	defer t.want(-max)
	for {
		jobs, more := t.take(max)
		if len(jobs) > 0 {
			return b.handOut(t, jobs, lease), nil
		}
		select {
		case <-more:
		case <-t.gone:
			return nil, b.closedOr(t.why("fetch from queue " + queue))
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.life.Done():
			return nil, linda.ErrClosed
		}
	}
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
		if !errors.Is(err, errBroken) || try == fetchTries || !wait(ctx, fetchPause<<(try-1)) {
			return jobs, err
		}
	}
}

// get asks for jobs one by one.
func (b *broker) get(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.tap(ctx, queue)
	if err != nil {
		return nil, err
	}
	jobs, _ := t.take(max)
	for len(jobs) < max {
		d, err := t.getOne(ctx)
		if err != nil && len(jobs) == 0 {
			if ctx.Err() == nil {
				err = t.why("fetch from queue " + queue)
			}
			return nil, b.closedOr(explain("fetch from queue "+queue, err))
		}
		if err != nil || d == nil {
			break
		}
		jobs = append(jobs, d)
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

// handOut makes jobs of deliveries, with their receipts.
func (b *broker) handOut(t *tap, deliveries []*delivery, lease time.Duration) []*linda.Job {
	now := time.Now()
	jobs := make([]*linda.Job, len(deliveries))
	for i, d := range deliveries {
		job := d.job()
		jobs[i] = job
		if lease == 0 {
			job.Reserve(b, t.queue, d, time.Time{})
			continue
		}
		job.Reserve(b, t.queue, d, now.Add(lease))
		if receipt, err := job.Receipt(b, t.queue); err == nil {
			b.keeper.Hold(d, receipt)
		}
	}
	switch {
	case lease == 0:
		t.acknowledge(deliveries)
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
