package linda

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Once the grace period is over, handlers have lastWords to notice that their
// contexts have ended, the settler has until lastCall, and what linda itself
// started has as long again as between the two to end.
const (
	lastWords = 150 * time.Millisecond
	lastCall  = 190 * time.Millisecond
)

// run is one Run of a Dispatcher: a poller, workers, a settler and a keeper for
// each queue, joined by channels, and beside them a producer.
//
//	poller --jobs--> workers --results--> settler of the job's queue
//	                 keepers prolong what they hold
//	lobby, before the jobs, keeps those whose limits are full
//	producer pushes the jobs of schedules
type run struct {
	settings Settings
	lease    time.Duration // 0: at most once
	policy   policy
	backend  backend
	handlers map[string]Handler

	schedules []*schedule

	polling context.Context // ends when Run is told to stop
	working context.Context // the parent of the handlers' contexts
	endWork context.CancelCauseFunc

	lanes   []*lane // one for each queue
	gate    *gate
	jobs    chan *delivery
	gone    chan struct{} // closed when nobody reads results any more
	load    *load
	lobby   *lobby
	trials  trials
	workers sync.WaitGroup
	running []atomic.Pointer[delivery] // what each worker's handler is at
	pending atomic.Int64               // results that are not settled
	calming atomic.Bool                // the poller waits until there are none
	telling sync.Mutex                 // held while Settings.OnEvent is called
}

func newRun(ctx context.Context, s Settings, b backend, g *gate, handlers map[string]Handler) *run {
	r := &run{
		settings: s,
		lease:    s.lease(),
		policy:   policy{maxAttempts: s.MaxAttempts, maxCrashes: s.MaxCrashes, backoff: s.Backoff},
		backend:  b,
		handlers: handlers,
		polling:  ctx,
		lanes:    newLanes(s, b.toucher),
		gate:     g,
		jobs:     make(chan *delivery, s.Concurrency+maxPrefetch),
		gone:     make(chan struct{}),
		running:  make([]atomic.Pointer[delivery], s.Concurrency),
	}
	r.working, r.endWork = context.WithCancelCause(context.WithoutCancel(ctx))
	r.lobby = newLobby(r, nil)
	r.load = newLoad(s.Concurrency, r.lease > 0)
	return r
}

// run works until polling ends and everything is in order, or the grace period
// is over.
func (r *run) run() error {
	defer r.endWork(ErrStopping)
	r.tellNotes()
	calls, endCalls := context.WithCancel(context.Background())
	defer endCalls()
	flush := make(chan struct{})
	kept := r.each(func(l *lane) { l.keeper.run(calls) })
	slotsKept := goes(func() { r.lobby.keep(calls) })
	over := make(chan struct{})
	slotsFreed := goes(func() { r.lobby.free(calls, over) })
	settled := r.each(func(l *lane) { newSettler(r, l).loop(calls, flush) })
	for i := range r.settings.Concurrency {
		r.workers.Go(func() { r.work(i) })
	}
	polled := goes(r.poll)
	produced := goes(newProducer(r, r.schedules).produce)

	<-r.polling.Done()
	r.settings.Logger.LogAttrs(context.Background(), slog.LevelInfo, "linda: stopping", slog.String("queue", r.queues()))
	worked := goes(func() {
		if !await(polled, time.Now().Add(lastCall)) {
			r.handBack(nil) // the broker holds up the poller, which would do it
		}
		<-polled
		r.workers.Wait()
	})
	end := time.Now().Add(r.settings.Grace)
	if !await(worked, end) {
		r.endWork(ErrStopping)
		await(worked, end.Add(lastWords))
	}
	close(flush)
	await(settled, end.Add(lastCall))
	close(r.gone)
	close(over)
	await(slotsFreed, time.Now().Add(lastCall-lastWords))
	endCalls()
	end = time.Now().Add(lastCall - lastWords)
	await(settled, end)
	await(kept, end)
	await(slotsKept, end)
	await(slotsFreed, end)
	await(produced, end)
	return r.remains()
}

// tellNotes logs what the broker wants an operator to know.
func (r *run) tellNotes() {
	if g, ok := As[Guarantor](r.backend.Broker); ok {
		for _, note := range g.Guarantees().Notes {
			r.settings.Logger.LogAttrs(context.Background(), slog.LevelInfo, "linda: "+note, slog.String("queue", r.queues()))
		}
	}
}

// each runs f for every lane, side by side, and closes the channel when all have
// returned.
func (r *run) each(f func(l *lane)) <-chan struct{} {
	var all sync.WaitGroup
	for _, l := range r.lanes {
		all.Go(func() { f(l) })
	}
	return goes(all.Wait)
}

// goes runs f and closes the channel when it has returned.
func goes(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// await waits for done and reports whether that came in time.
func await(done <-chan struct{}, until time.Time) bool {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// remains returns a StopError if anything is left undone.
func (r *run) remains() error {
	var e StopError
	for i := range r.running {
		if dl := r.running[i].Load(); dl != nil {
			e.Running = append(e.Running, dl.id)
		}
	}
	e.Unsettled = int(r.pending.Load())
	if len(e.Running)+e.Unsettled == 0 {
		return nil
	}
	return &e
}

// delivery is one delivery of a job while this process holds it.
type delivery struct {
	job       *Job
	lane      *lane
	id, class string    // of the job, which its handler may change
	handed    time.Time // when the poller got it
	done      atomic.Bool
	slots     []*slot  // of its limits
	full      *limited // the limit that it waits for; the lobby's own

	ctx  jobContext  // of the handler
	gone atomic.Bool // the reservation is lost
}

// lose ends the handler's context, now or when it starts.
func (dl *delivery) lose() {
	dl.gone.Store(true)
	dl.ctx.end(ErrLeaseLost)
}

func (dl *delivery) lost() bool { return dl.gone.Load() }

// result is what a worker has to say about a delivery.
type result struct {
	dl     *delivery
	settle Settlement
	skip   bool      // nothing is to be settled
	asked  bool      // settle is what the handler asked of the broker
	unsure bool      // a try had an unknown outcome
	made   time.Time // when the settler got it
	event  Event
}

// send passes a result to the settler of its queue.
func (r *run) send(res result) {
	r.pending.Add(1)
	select {
	case res.dl.lane.results <- res:
	case <-r.gone: // Run has returned; the reservation ends by itself
	}
}
