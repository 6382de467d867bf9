package linda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// lane is what a Run has for each of its queues. Each has a settler and a
// keeper of its own, so that a queue that fails holds up no other.
type lane struct {
	queue   string
	weight  int
	results chan result
	keeper  *keeper
	outage  outage

	trouble pause     // the poller's own, as below: grows while fetching fails
	rest    time.Time // until then nothing is fetched
	lot     float64   // drawn anew for each fetch; the lowest comes first
}

func newLanes(s Settings, t Toucher) []*lane {
	lanes := make([]*lane, 0, len(s.Queues))
	for _, share := range s.shares() {
		l := &lane{queue: share.Queue, weight: max(share.Weight, 1), trouble: retryPause}
		l.results = make(chan result, s.Concurrency+maxPrefetch)
		l.outage = outage{log: s.Logger, queue: l.queue}
		l.keeper = newKeeper(t, l.queue, s.lease(), &l.outage)
		lanes = append(lanes, l)
	}
	return lanes
}

// queuesOf names lanes.
func queuesOf(lanes []*lane) []string {
	queues := make([]string, len(lanes))
	for i, l := range lanes {
		queues[i] = l.queue
	}
	return queues
}

// queues names all of them, for the log.
func (r *run) queues() string { return strings.Join(queuesOf(r.lanes), ",") }

// turn returns the lanes to fetch from now, the first one first: those that are
// neither paused nor at rest nor full, as Settings list them where the order is strict.
// Else it is drawn by lot, in which a weight of 3 wins against one of 1 three
// times out of four. So each comes first now and then, and none starves. Queues
// with suspects on trial come before the others.
func (r *run) turn() []*lane {
	now := time.Now()
	lanes := slices.DeleteFunc(slices.Clone(r.lanes), func(l *lane) bool {
		return l.rest.After(now) || r.gate.shut(l.queue) || r.lobby.full(l.queue)
	})
	if len(lanes) > 1 && !r.settings.Strict {
		for _, l := range lanes {
			l.lot = rand.ExpFloat64() / float64(l.weight)
		}
		slices.SortFunc(lanes, func(a, b *lane) int { return cmp.Compare(a.lot, b.lot) })
	}
	if r.trials.fetches > 0 {
		tried := func(l *lane) bool { return r.trials.of[l] }
		others := slices.DeleteFunc(slices.Clone(lanes), tried)
		lanes = append(slices.DeleteFunc(lanes, func(l *lane) bool { return !tried(l) }), others...)
	}
	return lanes
}

// awaitTurn waits until there may be a lane to fetch from, holdFor at most.
func (r *run) awaitTurn() {
	ctx, stop := r.lobby.watch(r.gate.until(r.polling))
	defer stop()
	_ = sleep(ctx, r.rested(holdFor))
}

// rested returns the time until the next lane has rested, most at most.
func (r *run) rested(most time.Duration) time.Duration {
	for _, l := range r.lanes {
		if wait := time.Until(l.rest); wait > 0 {
			most = min(most, wait)
		}
	}
	return most
}

// resting reports whether some lane is at rest.
func (r *run) resting() bool {
	now := time.Now()
	return slices.ContainsFunc(r.lanes, func(l *lane) bool { return l.rest.After(now) })
}

// fetch asks the broker for jobs of some lanes. It ends early where a lane that
// is at rest now will have its turn again, or a job that waits for a slot may
// start. While jobs wait here it does not ask for long, since they may have to
// be handed back; nor after a failure, since an empty queue is also an answer.
func (r *run) fetch(lanes []*lane, room int) []*Job {
	ctx, cancel := r.gate.until(r.polling), func() {}
	failed := func(l *lane) bool { return l.outage.has(fetching) }
	if len(r.jobs) > 0 || r.resting() || slices.ContainsFunc(lanes, failed) {
		ctx, cancel = context.WithTimeout(ctx, r.rested(holdFor))
	}
	defer cancel()
	ctx, stop := r.lobby.watch(ctx)
	defer stop()
	room = r.lobby.room(lanes, room)
	var jobs []*Job
	var err error
	sent := time.Now()
	if len(lanes) == 1 {
		jobs, err = r.backend.fetcher.Fetch(ctx, lanes[0].queue, room, r.lease)
	} else {
		jobs, err = r.backend.multi.FetchAny(ctx, queuesOf(lanes), room, r.lease)
	}
	errs := EachError(err, len(lanes))
	for i, err := range errs {
		if errors.Is(err, ctx.Err()) && !errors.Is(err, ErrUnknown) {
			errs[i] = nil // the broker waited as long as it was asked to
		}
	}
	hasty := len(jobs) == 0 && ctx.Err() == nil && time.Since(sent) < retryPause.wait // it should have waited
	for i, l := range lanes {
		l.fetched(sent, errs[i], hasty)
	}
	return jobs
}

// fetched notes how a fetch went. A lane that has failed rests for a while.
func (l *lane) fetched(sent time.Time, err error, hasty bool) {
	switch {
	case err != nil:
		l.outage.begins(fetching, sent, err)
		l.rest = time.Now().Add(l.trouble.next())
		return
	case hasty:
		l.rest = time.Now().Add(l.trouble.next())
	default:
		l.trouble = retryPause
	}
	l.outage.ends(fetching)
}

// gate knows which queues a program has paused in this process.
type gate struct {
	mu     sync.Mutex
	paused map[string]bool    // guarded by mu, as all below
	parent context.Context    // of ctx
	ctx    context.Context    // of fetches; ends when a queue is paused or resumed
	cancel context.CancelFunc // of ctx
}

func (g *gate) shut(queue string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused[queue]
}

// set pauses or resumes a queue, and ends the fetches that do not know of it.
func (g *gate) set(queue string, pause bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused == nil {
		g.paused = make(map[string]bool)
	}
	g.paused[queue] = pause
	if g.cancel != nil {
		g.cancel()
		g.parent = nil
	}
}

// until returns a context for fetches: it ends with parent, or when the gate
// changes.
func (g *gate) until(parent context.Context) context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.parent != parent {
		g.parent = parent
		g.ctx, g.cancel = context.WithCancel(parent)
	}
	return g.ctx
}

// Pause makes this Dispatcher fetch no more jobs of one of its queues, until
// Resume. The jobs that it has fetched go on. To pause a queue for all
// processes see [Pauser].
func (d *Dispatcher) Pause(queue string) error { return d.setPause(queue, true) }

// Resume ends Pause.
func (d *Dispatcher) Resume(queue string) error { return d.setPause(queue, false) }

func (d *Dispatcher) setPause(queue string, pause bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.backend == nil {
		return ErrClosed
	}
	if !slices.ContainsFunc(d.settings.shares(), func(s Share) bool { return s.Queue == queue }) {
		return fmt.Errorf("linda: pause: this dispatcher does not work on queue %.64q", queue)
	}
	d.gate.set(queue, pause)
	return nil
}
