package linda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// backend is a broker with the capabilities that the engine works with: the
// broker's own, or emulated by the nine methods.
type backend struct {
	Broker
	fetcher Fetcher
	multi   MultiFetcher
	pusher  BatchPusher
	settler Settler
	toucher Toucher // nil: reservations cannot be prolonged
	uniquer Uniquer // nil: keys are refused
	ticker  Ticker  // nil: schedules are refused
	limiter Limiter // nil: limits are refused

	delayMax time.Duration // the longest delay it takes; 0: any, as far as is known
}

func newBackend(b Broker, interval time.Duration) *backend {
	settler, ok := As[Settler](b)
	if !ok {
		b = &tracked{Broker: b}
		settler = &nineSettler{Broker: b, calls: make(map[*Job]*nineCall)}
	}
	be := &backend{Broker: b, settler: settler}
	if be.fetcher, ok = As[Fetcher](b); !ok {
		be.fetcher = &ninePoller{b, interval}
	}
	if be.multi, ok = As[MultiFetcher](b); !ok {
		be.multi = newQueueWatcher(be)
	}
	if be.pusher, ok = As[BatchPusher](b); !ok {
		be.pusher = &ninePusher{b}
	}
	be.toucher, _ = As[Toucher](b)
	be.uniquer, _ = As[Uniquer](b)
	be.ticker, _ = As[Ticker](b)
	be.limiter, _ = As[Limiter](b)
	if g, ok := As[Guarantor](b); ok {
		be.delayMax = g.Guarantees().DelayMax
	}
	return be
}

// push adds jobs to one queue.
func (b *backend) push(ctx context.Context, queue string, jobs []*Job) error {
	keyed := func(job *Job) bool { return job.UniqueKey != "" }
	if b.uniquer == nil && slices.ContainsFunc(jobs, keyed) {
		return fmt.Errorf("linda: this broker has no unique jobs: %w", errors.ErrUnsupported)
	}
	return b.pusher.PushBatch(ctx, queue, jobs)
}

// tracked gives the jobs of a nine-method broker receipts, unless that does so
// itself, so that the engine knows what a handler has settled through it.
type tracked struct{ Broker }

// Unwrap returns the broker itself.
func (t *tracked) Unwrap() Broker { return t.Broker }

func (t *tracked) Pop(queue string, timeout int64) (*Job, error) {
	sent := time.Now()
	job, err := t.Broker.Pop(queue, timeout)
	if job == nil {
		return nil, err
	}
	if !t.foreign(job) {
		lease, _ := seconds(timeout)
		giveReceipt(job, t, queue, sent, lease)
	}
	job.fillArgs()
	return job, err
}

// foreign reports whether the broker has put a receipt of its own on a job.
func (t *tracked) foreign(job *Job) bool {
	return job.receipt != nil && job.receipt.broker != Broker(t)
}

// giveReceipt puts a receipt on a job whose broker has put none.
func giveReceipt(job *Job, b Broker, queue string, since time.Time, lease time.Duration) {
	until := time.Time{}
	if lease > 0 {
		until = since.Add(lease)
	}
	job.Reserve(b, queue, nil, until)
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
	if t.foreign(s.Job) {
		return call() // which begins and ends the settlement
	}
	r, err := s.Begin(t, queue)
	if err != nil {
		return err
	}
	return r.End(call())
}

// nineSettler settles by Delete and Release. Since those take no context, a
// call may outlast the Settle that made it; the next Settle of the job then
// waits for that call and does not make another.
type nineSettler struct {
	Broker
	mu    sync.Mutex
	calls map[*Job]*nineCall // guarded by mu
}

// nineCall is how far the settlement of a job is.
type nineCall struct {
	pushed bool            // its copy is in the dead queue, or where it was released to
	done   <-chan struct{} // closed when the call has returned
	err    error           // what it returned
}

func (b *nineSettler) Settle(ctx context.Context, queue string, batch []Settlement) error {
	errs := make([]error, len(batch))
	for i := range batch {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = b.settle(ctx, queue, batch[i])
		}
	}
	return Batch(errs)
}

func (b *nineSettler) settle(ctx context.Context, queue string, s Settlement) error {
	call := b.start(queue, s)
	select {
	case <-call.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if call.err == nil || !call.pushed || errors.Is(call.err, ErrNotReserved) {
		delete(b.calls, s.Job)
	} else {
		call.done = nil // the next one goes on where this one ended
	}
	return call.err
}

// start begins a call unless one is under way.
func (b *nineSettler) start(queue string, s Settlement) *nineCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	call := b.calls[s.Job]
	if call == nil {
		call = new(nineCall)
		b.calls[s.Job] = call
	}
	if call.done == nil {
		call.done = goes(func() { call.err = b.carryOut(call, queue, s) })
	}
	return call
}

func (b *nineSettler) carryOut(call *nineCall, queue string, s Settlement) (err error) {
	job, before := s.Job, s.Job.head
	job.head = before.after(s.Unstarted, s.Snoozed, s.Reason)
	defer func() {
		if err != nil {
			job.head = before // it may be tried again
		}
	}()
	gone := job.receipt.Gone()
	switch {
	case call.pushed:
	case s.Op == OpBury:
		err = b.Push(burial(job), DeadQueue(queue))
		call.pushed = err == nil
	case s.Op == OpRelease && gone:
		err = pushAfter(b, queue, job, s.Delay)
		call.pushed = err == nil
	}
	switch {
	case err != nil || gone:
		return err
	case s.Op != OpRelease:
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
	if _, err := EncodeBatch(ctx, queue, jobs); err != nil {
		return err
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue
		}
		errs[i] = within(ctx, func() error { return pushAfter(b, queue, job, job.Delay) })
	}
	return Batch(errs)
}

func pushAfter(b Broker, queue string, job *Job, delay time.Duration) error {
	if delay > 0 {
		return b.Later(wholeSeconds(delay), job, queue)
	}
	return b.Push(job, queue)
}

// ninePoller pops at intervals.
type ninePoller struct {
	Broker
	interval time.Duration
}

func (b *ninePoller) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	for {
		b.MigrateExpiredJobs(queue)
		jobs, err := b.popSome(ctx, queue, max, lease)
		if err != nil || len(jobs) > 0 {
			return jobs, err
		}
		if err := sleep(ctx, b.interval); err != nil {
			return nil, err
		}
	}
}

// popSome pops until there is nothing more, but does not keep workers waiting
// for jobs that are there.
func (b *ninePoller) popSome(ctx context.Context, queue string, max int, lease time.Duration) (jobs []*Job, err error) {
	for start := time.Now(); len(jobs) < max && ctx.Err() == nil; {
		job, err := b.Pop(queue, wholeSeconds(lease))
		if err != nil || job == nil {
			return jobs, err
		}
		if jobs = append(jobs, job); time.Since(start) > prefetchFor {
			break
		}
	}
	return jobs, nil
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
