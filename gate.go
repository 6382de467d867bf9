package linda

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// slotHold is how long a slot is taken for where there are no leases.
	slotHold = time.Minute
	// slotTurn is for how long a slot is passed on within the process. Then it
	// is given back, so that other processes have a chance to take it.
	slotTurn = time.Second
	// askSlots is how often a limit that is full is asked for, at most.
	askSlots = 250 * time.Millisecond
	// scanMost is how many jobs to fetch where the last ones were all put back.
	scanMost = 100
)

// gate is between the poller and the workers: it lets a job pass when its
// limits have slots for it. Where they have none it keeps a few jobs, so that
// there is one at hand when a slot is free, and puts the others back.
//
// admit, start, room, watch and unpark are the poller's.
type gate struct {
	*run
	limits []*limited
	nonce  string // starts the names of holders
	taken  uint64 // numbers them
	scan   bool   // the last jobs were all put back
	wake   chan struct{}

	mu        sync.Mutex
	held      map[*slot]bool     // guarded by mu: slots to be renewed
	interrupt context.CancelFunc // guarded by mu: ends the poller's wait
	news      bool               // guarded by mu: a slot may be free that was not
}

// limited is a limit of a Run.
type limited struct {
	key    string
	hold   time.Duration // how long a slot is taken for
	parked []*delivery   // wait for a slot; the poller's own
	fails  pause         // the poller's own

	pace              // guarded by gate.mu, as all below
	waiting int       // the number of parked
	again   time.Time // until then the limit is full, as far as is known
	spare   []*slot   // of jobs that are done, for those that are parked
	freeing []*slot   // to be given back
}

// slot is a place within a limit.
type slot struct {
	of     *limited
	holder string
	taken  time.Time // when the broker gave it
	sure   bool      // it did
	since  time.Time // guarded by gate.mu, as all below: when dl got it
	until  time.Time // when it ends at the earliest
	dl     *delivery // nil: it is spare
}

func newGate(r *run, limits []Limit) *gate {
	g := &gate{run: r, nonce: rand.Text()[:16], wake: make(chan struct{}, 1), held: make(map[*slot]bool)}
	for _, l := range limits {
		if l.Queue != "" && l.Queue != r.settings.Queue {
			continue
		}
		hold := l.Per
		if l.Running > 0 {
			if hold = r.lease; hold == 0 {
				hold = slotHold
			}
		}
		g.limits = append(g.limits, &limited{
			key: l.name(), hold: hold, fails: retryPause,
			pace: pace{Limit: l, workers: r.settings.Concurrency},
		})
	}
	return g
}

// room returns how many jobs to fetch instead of room: none while jobs of a
// limited queue wait here, since all others would have to wait as well.
func (g *gate) room(room int) int {
	scan := g.scan && !g.trials.on
	for _, l := range g.limits {
		if l.Queue == "" {
			continue
		}
		if len(l.parked) > 0 {
			return 0
		}
		room, scan = min(room, l.most()), false
	}
	if scan {
		return max(room, scanMost)
	}
	return room
}

// admit returns those of a batch that can start, up to room. The others wait
// here, or go back.
func (g *gate) admit(batch []*delivery, room int) []*delivery {
	if len(g.limits) == 0 || len(batch) == 0 {
		return batch
	}
	g.acquire(batch)
	var started []*delivery
	back := make(map[*limited][]*delivery)
	for _, dl := range batch {
		switch l := dl.full; {
		case l == nil:
			started = append(started, dl)
		case g.parks(l, dl):
			g.park(l, dl)
			g.load.free()
		default:
			back[l] = append(back[l], dl)
		}
	}
	g.scan = len(started) == 0 && len(back) > 0
	for l, jobs := range back {
		g.putBack(l, jobs)
	}
	extra := started[min(room, len(started)):] // of a scan
	for _, dl := range slices.Backward(extra) {
		g.release(dl, 0)
	}
	return started[:len(started)-len(extra)]
}

// parks reports whether a job waits here for a slot. A suspect does not: when
// it starts, nothing else is held.
func (g *gate) parks(l *limited, dl *delivery) bool {
	if g.trials.on || g.suspicious(dl) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return l.Queue != "" || l.waiting < l.stock(time.Now())
}

// park keeps a job that waits for a slot.
func (g *gate) park(l *limited, dl *delivery) {
	l.parked = append(l.parked, dl)
	g.mu.Lock()
	defer g.mu.Unlock()
	l.waiting = len(l.parked)
}

// putBack releases jobs that find a limit full.
func (g *gate) putBack(l *limited, jobs []*delivery) {
	now := time.Now()
	for _, dl := range jobs {
		g.mu.Lock()
		delay := l.putBack(now)
		g.mu.Unlock()
		if g.backend.delayMax > 0 {
			delay = min(delay, g.backend.delayMax)
		}
		g.pass(dl, result{
			settle: Settlement{Job: dl.job, Op: OpRelease, Delay: delay, Unstarted: true},
			event:  Event{Kind: EventLimited, Attempt: dl.job.Attempt(), Delay: delay},
		})
	}
}

// start hands jobs that waited here to the workers, up to room, and returns how
// many.
func (g *gate) start(room int) (started int) {
	g.mu.Lock()
	g.news = false
	g.mu.Unlock()
	for _, l := range g.limits {
		n := min(room-started, len(l.parked))
		if n == 0 || !g.open(l) {
			continue
		}
		batch, rest := slices.Clone(l.parked[:n]), l.parked[n:]
		g.acquire(batch)
		var pass, stay []*delivery
		for _, dl := range batch {
			switch {
			case dl.full == nil:
				pass = append(pass, dl)
			case dl.full == l:
				stay = append(stay, dl)
			default:
				g.park(dl.full, dl)
			}
		}
		g.setParked(l, append(stay, rest...))
		g.handOver(pass)
		g.hand(pass)
		started += len(pass)
	}
	return started
}

func (g *gate) setParked(l *limited, parked []*delivery) {
	l.parked = parked
	g.mu.Lock()
	defer g.mu.Unlock()
	l.waiting = len(parked)
	if l.waiting == 0 {
		g.giveBack(l.spare...)
		l.spare = nil
	}
}

// handOver counts jobs that waited here as held for the workers.
func (g *gate) handOver(jobs []*delivery) {
	now := time.Now()
	for _, dl := range jobs {
		dl.handed = now
	}
	g.load.hand(len(jobs), now)
}

// open reports whether a limit may have a free slot.
func (g *gate) open(l *limited) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(l.spare) > 0 || !time.Now().Before(l.again)
}

// unpark returns the jobs that wait here, for the caller to release.
func (g *gate) unpark() (jobs []*delivery) {
	for _, l := range g.limits {
		jobs = append(jobs, l.parked...)
		g.setParked(l, nil)
	}
	g.handOver(jobs)
	return jobs
}

// watch returns a context for the poller's wait. It ends when a job that waits
// here may start.
func (g *gate) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var until time.Time
	for _, l := range g.limits {
		if l.waiting > 0 && (until.IsZero() || l.again.Before(until)) {
			until = l.again
		}
	}
	if until.IsZero() {
		return ctx, func() {}
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	if g.interrupt = cancel; g.news {
		cancel()
	}
	return ctx, cancel
}

// tell ends the poller's wait. The caller holds mu.
func (g *gate) tell() {
	g.news = true
	if g.interrupt != nil {
		g.interrupt()
	}
}

// acquire takes slots for jobs, of all their limits. A job that does not get
// them all has none, and knows by full which limit it was.
func (g *gate) acquire(batch []*delivery) {
	for _, dl := range batch {
		dl.full = nil
	}
	for _, l := range g.limits {
		var want []*delivery
		for _, dl := range batch {
			if dl.full == nil && l.covers(g.settings.Queue, dl.class) {
				want = append(want, dl)
			}
		}
		for _, dl := range g.ask(l, g.reuse(l, want)) {
			dl.full = l
			g.mu.Lock()
			g.giveBack(dl.slots...)
			g.mu.Unlock()
			dl.slots = nil
		}
	}
}

// reuse gives spare slots to jobs, and returns those that got none.
func (g *gate) reuse(l *limited, want []*delivery) []*delivery {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for len(want) > 0 && len(l.spare) > 0 {
		s := l.spare[0]
		l.spare = l.spare[1:]
		s.dl, s.since = want[0], now
		s.dl.slots = append(s.dl.slots, s)
		want = want[1:]
	}
	return want
}

// ask asks the broker for slots, unless the limit is known to be full, and
// returns the jobs that got none.
func (g *gate) ask(l *limited, want []*delivery) []*delivery {
	if len(want) == 0 || !g.open(l) {
		return want
	}
	sent := time.Now()
	holders, slots := make([]string, len(want)), make([]*slot, len(want))
	for i, dl := range want {
		g.taken++
		holders[i] = g.nonce + "." + strconv.FormatUint(g.taken, 36)
		slots[i] = &slot{of: l, holder: holders[i], taken: sent, since: sent, until: sent.Add(l.hold), dl: dl}
	}
	ctx, cancel := context.WithTimeout(g.polling, settleLimit)
	defer cancel()
	n, free, err := g.backend.limiter.TakeSlots(ctx, l.key, l.most(), l.hold, holders)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		l.again = time.Now().Add(l.fails.next())
		g.giveBack(slots...) // some may have been taken
		if g.polling.Err() == nil {
			g.outage.begins(limiting, sent, err)
		}
		return want
	}
	l.fails = retryPause
	g.outage.ends(limiting)
	if n < len(want) {
		l.again = time.Now().Add(l.wait(free))
	}
	for i, s := range slots[:n] {
		l.begins(sent)
		s.sure = true
		want[i].slots = append(want[i].slots, s)
		if l.Running > 0 {
			g.held[s] = true
		}
	}
	return want[n:]
}

// wait returns when to ask a full limit again. Slots of running jobs may be
// given back by other processes at any time; those of a rate end by themselves.
func (l *limited) wait(free time.Duration) time.Duration {
	if l.Running > 0 {
		return min(free, askSlots/2+mathrand.N(askSlots/2))
	}
	return min(free, time.Second) + mathrand.N(2*time.Millisecond)
}

// done ends what a delivery holds, once it is settled.
func (g *gate) done(res *result) {
	if len(res.dl.slots) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, s := range res.dl.slots {
		l, started := s.of, !res.settle.Unstarted
		if l.Rate > 0 {
			if !started {
				g.giveBack(s)
			}
			continue
		}
		if started {
			l.ended(now.Sub(s.since))
		}
		if started && l.waiting > len(l.spare) && now.Sub(s.taken) < slotTurn && now.Before(s.ends()) {
			s.dl = nil
			l.spare = append(l.spare, s)
			g.tell()
		} else {
			g.giveBack(s)
		}
	}
}

// ends is when nobody may use the slot any more. The caller holds mu.
func (s *slot) ends() time.Time { return s.until.Add(-s.of.hold / 10) }

// giveBack has slots given back. The caller holds mu.
func (g *gate) giveBack(slots ...*slot) {
	for _, s := range slots {
		delete(g.held, s)
		s.of.freeing = append(s.of.freeing, s)
	}
	if len(slots) > 0 {
		select {
		case g.wake <- struct{}{}:
		default: // it is being told already
		}
	}
}
