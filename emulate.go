package linda

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// backend is a broker with the capabilities that the engine works with: the
// broker's own, or emulated by the nine methods.
type backend struct {
	Broker
	fetcher Fetcher
	pusher  BatchPusher
	settler Settler
	toucher Toucher // nil: reservations cannot be prolonged
	uniquer Uniquer // nil: keys are refused
}

func newBackend(b Broker, interval time.Duration) *backend {
	settler, ok := As[Settler](b)
	if !ok {
		b = &tracked{Broker: b}
		settler = &nineSettler{b}
	}
	be := &backend{Broker: b, settler: settler}
	if be.fetcher, ok = As[Fetcher](b); !ok {
		be.fetcher = &ninePoller{b, interval}
	}
	if be.pusher, ok = As[BatchPusher](b); !ok {
		be.pusher = &ninePusher{b}
	}
	be.toucher, _ = As[Toucher](b)
	be.uniquer, _ = As[Uniquer](b)
	return be
}

// push adds jobs to one queue.
func (b *backend) push(ctx context.Context, queue string, jobs []*Job) error {
	keyed := 0
	for _, job := range jobs {
		if job.UniqueKey != "" {
			keyed++
		}
	}
	switch {
	case keyed == 0:
		return b.pusher.PushBatch(ctx, queue, jobs)
	case b.uniquer == nil:
		return fmt.Errorf("linda: this broker has no unique jobs: %w", errors.ErrUnsupported)
	}
	if _, err := encodeAll(ctx, queue, jobs); err != nil {
		return err
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		if job.UniqueKey != "" {
			errs[i] = b.uniquer.PushUnique(ctx, queue, job)
		} else {
			errs[i] = unbatch(b.pusher.PushBatch(ctx, queue, []*Job{job}))
		}
	}
	return Batch(errs)
}

// tracked gives the jobs of a nine-method broker receipts, so that the engine
// knows what a handler has settled through it.
type tracked struct{ Broker }

// Unwrap returns the broker itself.
func (t *tracked) Unwrap() Broker { return t.Broker }

func (t *tracked) Pop(queue string, timeout int64) (*Job, error) {
	sent := time.Now()
	job, err := t.Broker.Pop(queue, timeout)
	if job != nil {
		lease, _ := seconds(timeout)
		t.adopt(job, queue, sent, lease)
	}
	return job, err
}

func (t *tracked) adopt(job *Job, queue string, sent time.Time, lease time.Duration) {
	until := time.Time{}
	if lease > 0 {
		until = sent.Add(lease)
	}
	job.Reserve(t, queue, nil, until)
	job.Queue = queue
	job.head.ID = job.ID
	if job.head.Deliveries == 0 {
		job.head.Deliveries = 1
	}
}

func (t *tracked) Delete(queue string, job *Job) error {
	return t.settle(queue, Settlement{Job: job, Op: OpDelete}, func() error { return t.Broker.Delete(queue, job) })
}

func (t *tracked) Release(queue string, job *Job) error {
	return t.settle(queue, Settlement{Job: job, Op: OpRelease}, func() error { return t.Broker.Release(queue, job) })
}

func (t *tracked) ReleaseWithDelay(queue string, job *Job, delay int64) error {
	d, err := seconds(delay)
	if err != nil {
		return err
	}
	return t.settle(queue, Settlement{Job: job, Op: OpRelease, Delay: d}, func() error {
		return t.Broker.ReleaseWithDelay(queue, job, delay)
	})
}

func (t *tracked) settle(queue string, s Settlement, call func() error) error {
	r, err := s.Begin(t, queue)
	if err != nil {
		return err
	}
	return r.End(call())
}

// nineSettler settles by Delete and Release.
type nineSettler struct{ Broker }

func (b *nineSettler) Settle(ctx context.Context, queue string, batch []Settlement) error {
	errs := make([]error, len(batch))
	for i := range batch {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = within(ctx, func() error { return b.settle(queue, &batch[i]) })
		}
	}
	return Batch(errs)
}

func (b *nineSettler) settle(queue string, s *Settlement) (err error) {
	job, before := s.Job, s.Job.head
	job.head = before.after(s.Unstarted, s.Snoozed, s.Reason)
	defer func() {
		if err != nil {
			job.head = before // it may be tried again
		}
	}()
	switch {
	case s.Op == OpBury:
		if err := b.Push(burial(job), DeadQueue(queue)); err != nil {
			return err
		}
		return b.Delete(queue, job)
	case s.Op == OpDelete:
		return b.Delete(queue, job)
	case s.Delay > 0:
		return b.ReleaseWithDelay(queue, job, wholeSeconds(s.Delay))
	default:
		return b.Release(queue, job)
	}
}

// burial is the job that stands for a dead one in the dead queue: the same
// class and arguments with the reason, or the bytes of a body that is no job.
func burial(job *Job) *Job {
	dead := &Job{Payload: job.Payload, Headers: job.Headers, head: header{Err: job.head.Err}}
	if job.Err() != nil {
		dead.Payload = Payload{Class: "linda.unreadable", Args: []any{job.Body()}}
	}
	return dead
}

// ninePusher pushes one job after the other.
type ninePusher struct{ Broker }

func (b *ninePusher) PushBatch(ctx context.Context, queue string, jobs []*Job) error {
	if _, err := encodeAll(ctx, queue, jobs); err != nil {
		return err
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue
		}
		errs[i] = within(ctx, func() error {
			if job.Delay > 0 {
				return b.Later(wholeSeconds(job.Delay), job, queue)
			}
			return b.Push(job, queue)
		})
	}
	return Batch(errs)
}

// ninePoller pops at intervals.
type ninePoller struct {
	Broker
	interval time.Duration
}

func (b *ninePoller) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	for {
		b.MigrateExpiredJobs(queue)
		var jobs []*Job
		for len(jobs) < max {
			job, err := b.Pop(queue, wholeSeconds(lease))
			if err != nil && len(jobs) == 0 {
				return nil, err
			}
			if err != nil || job == nil {
				break // an error shows again at the next Pop
			}
			jobs = append(jobs, job)
		}
		if len(jobs) > 0 {
			return jobs, nil
		}
		if err := sleep(ctx, b.interval); err != nil {
			return nil, err
		}
	}
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 {
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return n
}

// within runs a call that takes no context until ctx ends.
func within(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
