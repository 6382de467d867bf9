package nsq

import (
	"context"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// tap returns the tap of a queue, and opens it where there is none. How long
// the server waits for a sign of life is settled by the first reservation.
func (b *broker) tap(queue string, lease time.Duration) (*tap, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.taps[queue]; t != nil {
		return t, nil
	}
	if b.ended || b.life.Err() != nil {
		return nil, linda.ErrClosed
	}
	timeout := b.config.msgTimeout
	if lease > 0 {
		timeout = min(timeout, max(lease, shortest))
	}
	for _, s := range b.servers {
		timeout = min(timeout, s.known().maxMsgTimeout)
	}
	t := &tap{
		broker: b, queue: queue, topic: ready(queue), msgTimeout: timeout,
		asked: make(chan struct{}, 1), news: make(chan struct{}),
	}
	b.taps[queue] = t
	b.going.Go(func() { t.tend(b.life) })
	for _, s := range b.servers {
		b.feed(t, s)
	}
	select {
	case b.opened <- struct{}{}:
	default: // it is being told already
	}
	return t, nil
}

// feed adds a server to a tap. It needs mu.
func (b *broker) feed(t *tap, s *server) {
	f := &feed{tap: t, server: s}
	t.mu.Lock()
	t.feeds = append(t.feeds, f)
	t.mu.Unlock()
	b.going.Go(func() { f.run(b.life) })
}

// Fetch is that of a [linda.Fetcher].
func (b *broker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.checkFetch(ctx, queue, max, lease)
	if err != nil {
		return nil, err
	}
	t.want(max)
	defer t.want(-max)
	for {
		jobs, news, down := t.take(max)
		if out := b.handOut(t, jobs, lease); len(out) > 0 {
			return out, nil
		}
		if len(jobs) > 0 { // lost since they came
			continue
		}
		if down != nil {
			return nil, b.closedOr(down)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.life.Done():
			return nil, linda.ErrClosed
		}
	}
}

const (
	// shortest is the least patience that the server is asked to have: a process
	// that is held up for a moment keeps its jobs.
	shortest = 5 * time.Second
	// glance is how long a job that is there takes to come, at least.
	glance = 5 * time.Millisecond
	// longGlance is how long one is waited for where the server cannot be asked.
	longGlance = 200 * time.Millisecond
	mostGlance = 250 * time.Millisecond
	lookEvery  = 5 * time.Millisecond
)

// FetchNow is that of [linda.NineMethods]. The server cannot be asked for a job
// if there is one. So it is allowed to send some, and asked, over HTTP, how many
// it has.
func (b *broker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	t, err := b.checkFetch(ctx, queue, max, lease)
	if err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	t.want(max)
	defer t.want(-max)
	empty := make(chan error, 1)
	if !b.begin(func() { empty <- t.isEmpty(ctx) }) {
		return nil, linda.ErrClosed
	}
	for ended := false; ; {
		jobs, news, down := t.take(max)
		if out := b.handOut(t, jobs, lease); len(out) > 0 {
			return out, nil
		}
		if down != nil || ended {
			return nil, b.closedOr(down)
		}
		select {
		case <-news:
		case err := <-empty:
			if err != nil {
				return nil, b.closedOr(err)
			}
			ended = true // but for what came at this moment
		case <-b.life.Done():
			return nil, linda.ErrClosed
		}
	}
}

func (b *broker) checkFetch(ctx context.Context, queue string, max int, lease time.Duration) (*tap, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, err
	}
	switch most := b.leaseMax(); {
	case max < 1:
		return nil, fmt.Errorf("linda/nsq: fetch of %d jobs", max)
	case lease < 0:
		return nil, fmt.Errorf("linda/nsq: a reservation of %v", lease)
	case lease > most:
		return nil, tooLong(lease, most)
	}
	return b.tap(queue, lease)
}

func tooLong(lease, most time.Duration) error {
	return fmt.Errorf("linda/nsq: a reservation of %v, at most %v: nsqd takes its messages back after that, touched or not; start it with a larger -max-msg-timeout",
		lease, most)
}

// handOut gives deliveries their receipts. It leaves out those that were lost
// since they came.
func (b *broker) handOut(t *tap, ds []*delivery, lease time.Duration) []*linda.Job {
	if len(ds) == 0 {
		return nil
	}
	gone := make(map[*delivery]bool)
	if lease == 0 {
		for _, d := range t.end(ds, t.finish) {
			gone[d] = true
		}
	}
	now := time.Now()
	jobs := make([]*linda.Job, 0, len(ds))
	for _, d := range ds {
		if gone[d] {
			continue
		}
		job := *d.job
		if lease == 0 {
			job.Reserve(b, t.queue, d, time.Time{})
		} else {
			job.Reserve(b, t.queue, d, now.Add(lease))
			if receipt, err := job.Receipt(b, t.queue); err == nil {
				d.receipt.Store(receipt)
				b.keeper.Hold(d, receipt)
			}
		}
		jobs = append(jobs, &job)
	}
	if lease > 0 {
		b.loseEnded(t, ds)
	}
	return jobs
}

// loseEnded ends the reservations of deliveries that were lost before the keeper
// had them.
func (b *broker) loseEnded(t *tap, ds []*delivery) {
	var ended []*delivery
	t.mu.Lock()
	for _, d := range ds {
		if d.over {
			ended = append(ended, d)
		}
	}
	t.mu.Unlock()
	if len(ended) > 0 {
		lost := make(map[*delivery]bool, len(ended))
		for _, d := range ended {
			lost[d] = true
		}
		b.lose(func(d *delivery) bool { return lost[d] })
	}
}

// finish is the command that ends a message for good. It needs the mutex of the
// tap.
func (t *tap) finish(out []byte, d *delivery) []byte {
	d.feed.done.add(d.id)
	return appendFIN(out, d.id)
}
