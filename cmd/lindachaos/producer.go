package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos"
)

const (
	pushers   = 8
	batchMost = 40
	pushLimit = 2 * time.Second
)

// producer pushes the jobs of a workload, the next ones after those that its
// history tells of.
type producer struct {
	*order
	d       *linda.Dispatcher
	history *chaos.History
	last    atomic.Uint32 // number of a job
	acked   atomic.Int64
	full    atomic.Bool // enough jobs wait

	mu   sync.Mutex
	next time.Time // guarded by mu: of the next push, where there is a rate
}

// produce pushes until ctx ends.
func (o *order) produce(ctx context.Context, d *linda.Dispatcher, h *chaos.History) error {
	p := &producer{order: o, d: d, history: h, next: time.Now()}
	last, err := chaos.LastJob(o.Dir, o.Name)
	if err != nil {
		return err
	}
	p.last.Store(last)
	var wg sync.WaitGroup
	wg.Go(func() { p.tell(ctx) })
	wg.Go(func() { p.watch(ctx) })
	for i := range pushers {
		wg.Go(func() { p.push(ctx, rand.New(rand.NewPCG(o.Seed, uint64(o.Proc)<<8|uint64(i)))) })
	}
	wg.Wait()
	return nil
}

// tell tells how many jobs have been acknowledged since it last did.
func (p *producer) tell(ctx context.Context) {
	for rest(ctx, 20*time.Millisecond) {
		p.told(p.acked.Swap(0))
	}
}

// watch pauses the pushers while many jobs wait.
func (p *producer) watch(ctx context.Context) {
	waiting := readyJobs(p.d.Broker())
	if w := targets[p.Broker].waiting; w != nil {
		var done func()
		waiting, done = w(p.URL)
		defer done()
	}
	for rest(ctx, 5*time.Millisecond) {
		once, cancel := context.WithTimeout(ctx, pushLimit)
		n, err := waiting(once)
		cancel()
		if err == nil {
			p.full.Store(n > p.Backlog)
		}
	}
}

// count tells how many jobs wait.
type count func(ctx context.Context) (int64, error)

func readyJobs(b linda.Broker) count {
	return func(ctx context.Context) (int64, error) {
		in, ok := linda.As[linda.Inspector](b)
		if !ok {
			return 0, nil
		}
		s, err := in.Stats(ctx, queue)
		return s.Ready, err
	}
}

func (p *producer) push(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		n := 1
		if r.IntN(4) > 0 {
			n += r.IntN(batchMost)
		}
		if p.full.Load() || !p.turn(ctx, n) {
			rest(ctx, time.Millisecond)
			continue
		}
		if !p.batch(ctx, n) {
			rest(ctx, 20*time.Millisecond)
		}
	}
}

// turn waits until n more jobs are due by the rate. It is not ok once ctx has
// ended.
func (p *producer) turn(ctx context.Context, n int) (ok bool) {
	if p.Rate <= 0 {
		return true
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now.Add(-time.Second)) {
		p.next = now.Add(-time.Second) // what could not be pushed in an outage is not all made good
	}
	at := p.next
	p.next = at.Add(time.Duration(n) * time.Second / time.Duration(p.Rate))
	p.mu.Unlock()
	return rest(ctx, time.Until(at))
}

// batch pushes the next n jobs and writes down what becomes of them; it is not
// ok where all failed.
func (p *producer) batch(ctx context.Context, n int) (ok bool) {
	last := p.last.Add(uint32(n))
	jobs := make([]*linda.Job, n)
	events := make([]chaos.Event, n)
	for i := range jobs {
		number := last - uint32(n-1-i)
		work := chaos.WorkOf(p.Seed, number)
		jobs[i] = chaos.JobOf(p.Seed, number)
		events[i] = chaos.Event{Kind: chaos.PushCalled, Job: number, Value: int64(work.Delay), Code: uint8(work.Class)}
	}
	p.history.Write(events...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pushLimit)
	defer cancel()
	var err error
	if n == 1 {
		err = p.d.Push(ctx, jobs[0])
	} else {
		err = p.d.PushBatch(ctx, jobs)
	}
	acked := 0
	for i, err := range linda.EachError(err, n) {
		events[i].Value = 0
		switch {
		case err == nil:
			events[i].Kind = chaos.Pushed
			acked++
		case errors.Is(err, linda.ErrUnknown):
			events[i].Kind = chaos.PushUnknown
		default:
			events[i].Kind = chaos.PushRefused
		}
	}
	p.history.Write(events...)
	p.acked.Add(int64(acked))
	return acked > 0
}

// rest waits, and is not ok once ctx has ended.
func rest(ctx context.Context, d time.Duration) (ok bool) {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
