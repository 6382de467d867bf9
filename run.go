package linda

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// lastCall is how long Run waits for handlers to notice that their contexts
// have ended, and for the settler, once the grace period is over.
const lastCall = 200 * time.Millisecond

// run is one Run of a Dispatcher: a poller, workers, a settler and a keeper,
// joined by two channels.
//
//	poller --jobs--> workers --results--> settler
//	                 keeper prolongs what they hold
type run struct {
	settings Settings
	lease    time.Duration // 0: at most once
	policy   policy
	backend  backend
	handlers map[string]Handler

	polling context.Context // ends when Run is told to stop
	working context.Context // the parent of the handlers' contexts
	endWork context.CancelCauseFunc

	jobs    chan *delivery
	results chan result
	gone    chan struct{} // closed when nobody reads results any more
	load    load
	keeper  *keeper
	outage  outage
	suspect chan struct{} // holds a token while a suspect job runs
	workers sync.WaitGroup
	running sync.Map // *delivery whose handler runs
	pending atomic.Int64
}

func newRun(ctx context.Context, s Settings, b backend, handlers map[string]Handler) *run {
	r := &run{
		settings: s,
		lease:    s.lease(),
		policy:   policy{maxAttempts: s.MaxAttempts, maxCrashes: s.MaxCrashes, backoff: s.Backoff},
		backend:  b,
		handlers: handlers,
		polling:  ctx,
		jobs:     make(chan *delivery, s.Concurrency+maxPrefetch),
		results:  make(chan result, s.Concurrency+maxPrefetch),
		gone:     make(chan struct{}),
		suspect:  make(chan struct{}, 1),
		outage:   outage{log: s.Logger, queue: s.Queue},
	}
	r.working, r.endWork = context.WithCancelCause(context.WithoutCancel(ctx))
	r.load = load{workers: s.Concurrency, prefetch: r.lease > 0, freed: make(chan struct{}, 1)}
	r.keeper = newKeeper(b.toucher, s.Queue, r.lease, &r.outage)
	return r
}

// run works until polling ends and everything is in order, or the grace period
// is over.
func (r *run) run() error {
	defer r.endWork(ErrStopping)
	flush, settled, kept := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() { defer close(kept); r.keeper.run() }()
	go func() { defer close(settled); r.settle(flush) }()
	for range r.settings.Concurrency {
		r.workers.Go(r.work)
	}
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		r.poll()
		r.workers.Wait()
	}()

	<-r.polling.Done()
	r.settings.Logger.LogAttrs(context.Background(), slog.LevelInfo, "linda: stopping", slog.String("queue", r.settings.Queue))
	over := time.NewTimer(r.settings.Grace)
	defer over.Stop()
	r.await(worked, over)
	close(flush)
	r.await(settled, over)
	close(r.gone)
	r.keeper.stop()
	over.Reset(0)
	r.await(kept, over)
	return r.remains()
}

// await waits for done until the grace period is over and a last call after it.
func (r *run) await(done <-chan struct{}, over *time.Timer) {
	select {
	case <-done:
		return
	case <-over.C:
	}
	r.endWork(ErrStopping)
	over.Reset(0) // for whoever waits next
	last := time.NewTimer(lastCall)
	defer last.Stop()
	select {
	case <-done:
	case <-last.C:
	}
}

// remains returns a StopError if anything is left undone.
func (r *run) remains() error {
	var e StopError
	r.running.Range(func(dl, _ any) bool {
		e.Running = append(e.Running, dl.(*delivery).job.ID)
		return true
	})
	e.Unsettled = int(r.pending.Load())
	if len(e.Running)+e.Unsettled == 0 {
		return nil
	}
	return &e
}

// delivery is one delivery of a job while this process holds it.
type delivery struct {
	job    *Job
	handed time.Time // when the poller got it
	kept   *keptBatch

	mu     sync.Mutex
	over   bool                    // guarded by mu: the reservation is lost
	cancel context.CancelCauseFunc // guarded by mu: ends the handler's context
	done   atomic.Bool             // settled, or given up
}

// begin gives the delivery the function that ends its handler's context. It
// returns false if the reservation is lost already.
func (dl *delivery) begin(cancel context.CancelCauseFunc) bool {
	dl.mu.Lock()
	defer dl.mu.Unlock()
	dl.cancel = cancel
	return !dl.over
}

// lose ends the handler's context, now or when it starts.
func (dl *delivery) lose() {
	dl.mu.Lock()
	defer dl.mu.Unlock()
	dl.over = true
	if dl.cancel != nil {
		dl.cancel(ErrLeaseLost)
	}
}

func (dl *delivery) lost() bool {
	dl.mu.Lock()
	defer dl.mu.Unlock()
	return dl.over
}

// result is what a worker has to say about a delivery.
type result struct {
	dl     *delivery
	settle Settlement
	skip   bool // nothing is to be settled
	event  Event
}

// send passes a result to the settler.
func (r *run) send(res result) {
	r.pending.Add(1)
	select {
	case r.results <- res:
	case <-r.gone: // Run has returned; the reservation ends by itself
	}
}

// outage reports a broker that does not answer once, not at every try.
type outage struct {
	log   *slog.Logger
	queue string
	down  atomic.Bool
}

func (o *outage) begins(err error) {
	if o.down.CompareAndSwap(false, true) {
		o.log.LogAttrs(context.Background(), slog.LevelError, "linda: broker does not do as asked; trying again",
			slog.String("queue", o.queue), slog.String("err", clip(err.Error())))
	}
}

func (o *outage) ends() {
	if o.down.CompareAndSwap(true, false) {
		o.log.LogAttrs(context.Background(), slog.LevelInfo, "linda: broker answers again", slog.String("queue", o.queue))
	}
}
