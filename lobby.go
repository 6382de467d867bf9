package linda

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// scanMost is how many jobs to fetch where the last ones were all put back.
const scanMost = 100

// lobby is between the poller and the workers: it lets a job pass when its
// limits have slots for it. Where they have none it keeps a few jobs, so that
// there is one at hand when a slot is free, and puts the others back.
//
// admit, start, full, room, watch and unpark are the poller's.
type lobby struct {
	*run
	limits []*limited
	outage outage // of the limits
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

	pace              // guarded by lobby.mu, as all below
	waiting int       // the number of parked
	again   time.Time // until then the limit is full, as far as is known
	spare   []*slot   // of jobs that are done, for those that are parked
	freeing []*slot   // to be given back
}

func newLobby(r *run, limits []Limit) *lobby {
	b := &lobby{run: r, nonce: rand.Text()[:16], wake: make(chan struct{}, 1), held: make(map[*slot]bool)}
	b.outage = outage{log: r.settings.Logger, queue: r.queues()}
	queues := queuesOf(r.lanes)
	for _, l := range limits {
		if l.Queue != "" && !slices.Contains(queues, l.Queue) {
			continue
		}
		hold := l.Per
		if l.Running > 0 {
			if hold = r.lease; hold == 0 {
				hold = slotHold
			}
		}
		b.limits = append(b.limits, &limited{
			key: l.name(), hold: hold, fails: retryPause,
			pace: pace{Limit: l, workers: r.settings.Concurrency},
		})
	}
	return b
}

// full reports whether jobs of a limited queue wait here: all others of that
// queue would have to wait as well.
func (b *lobby) full(queue string) bool {
	return slices.ContainsFunc(b.limits, func(l *limited) bool { return l.Queue == queue && len(l.parked) > 0 })
}

// room returns how many jobs to fetch from lanes instead of room: of a limited
// queue no more than may wait here, where it is the first, since what the others
// bring is not known.
func (b *lobby) room(lanes []*lane, room int) int {
	scan := b.scan && !b.trials.on
	for _, l := range b.limits {
		if l.Queue == lanes[0].queue {
			room = min(room, b.stock(l))
		}
		if slices.ContainsFunc(lanes, func(other *lane) bool { return other.queue == l.Queue }) {
			scan = false
		}
	}
	if scan {
		return max(room, scanMost)
	}
	return room
}

// stock is how many jobs of a limit may wait here.
func (b *lobby) stock(l *limited) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return l.stock(time.Now())
}

// admit returns those of a batch that can start, up to room. The others wait
// here, or go back: to the head of a limited queue that is not fetched from
// while some wait, else for a while.
func (b *lobby) admit(batch []*delivery, room int) []*delivery {
	if len(b.limits) == 0 || len(batch) == 0 {
		return batch
	}
	b.acquire(batch)
	var started, extra []*delivery
	back := make(map[*limited][]*delivery)
	for _, dl := range batch {
		switch l := dl.full; {
		case l == nil && len(started) < room:
			started = append(started, dl)
		case l == nil: // of a scan
			extra = append(extra, dl)
		case b.parks(l, dl):
			b.park(l, dl)
			b.load.free()
		case l.Queue != "" && len(l.parked) > 0 && !b.suspicious(dl):
			extra = append(extra, dl)
		default:
			back[l] = append(back[l], dl)
		}
	}
	b.scan = len(started) == 0 && len(back) > 0
	for l, jobs := range back {
		b.putBack(l, jobs)
	}
	for _, dl := range slices.Backward(extra) {
		b.release(dl, 0)
	}
	return started
}

// parks reports whether a job waits here for a slot. A suspect does not: when
// it starts, nothing else is held.
func (b *lobby) parks(l *limited, dl *delivery) bool {
	return !b.trials.on && !b.suspicious(dl) && len(l.parked) < b.stock(l)
}

// park keeps a job that waits for a slot.
func (b *lobby) park(l *limited, dl *delivery) {
	l.parked = append(l.parked, dl)
	b.mu.Lock()
	defer b.mu.Unlock()
	l.waiting = len(l.parked)
}

// putBack releases jobs that find a limit full.
func (b *lobby) putBack(l *limited, jobs []*delivery) {
	now := time.Now()
	for _, dl := range jobs {
		b.mu.Lock()
		delay := l.putBack(now)
		b.mu.Unlock()
		if b.backend.delayMax > 0 {
			delay = min(delay, b.backend.delayMax)
		}
		b.pass(dl, result{
			settle: Settlement{Job: dl.job, Op: OpRelease, Delay: delay, Unstarted: true},
			event:  Event{Kind: EventLimited, Attempt: dl.job.Attempt(), Delay: delay},
		})
	}
}

// start hands jobs that waited here to the workers, up to room, and returns how
// many.
func (b *lobby) start(room int) (started int) {
	b.mu.Lock()
	b.news = false
	b.mu.Unlock()
	for _, l := range b.limits {
		n := min(room-started, len(l.parked))
		if n == 0 || !b.open(l) {
			continue
		}
		batch, rest := slices.Clone(l.parked[:n]), l.parked[n:]
		b.acquire(batch)
		var pass, stay []*delivery
		for _, dl := range batch {
			switch {
			case dl.full == nil:
				pass = append(pass, dl)
			case dl.full == l:
				stay = append(stay, dl)
			default:
				b.park(dl.full, dl)
			}
		}
		b.setParked(l, append(stay, rest...))
		b.handOver(pass)
		b.hand(pass)
		started += len(pass)
	}
	return started
}

func (b *lobby) setParked(l *limited, parked []*delivery) {
	l.parked = parked
	b.mu.Lock()
	defer b.mu.Unlock()
	l.waiting = len(parked)
	if l.waiting == 0 {
		b.giveBack(l.spare...)
		l.spare = nil
	}
}

// handOver counts jobs that waited here as held for the workers.
func (b *lobby) handOver(jobs []*delivery) {
	now := time.Now()
	for _, dl := range jobs {
		dl.handed = now
	}
	b.load.hand(len(jobs), now)
}

// open reports whether a limit may have a free slot.
func (b *lobby) open(l *limited) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(l.spare) > 0 || !time.Now().Before(l.again)
}

// unpark returns the jobs that wait here, for the caller to release.
func (b *lobby) unpark() (jobs []*delivery) {
	for _, l := range b.limits {
		jobs = append(jobs, l.parked...)
		b.setParked(l, nil)
	}
	b.handOver(jobs)
	return jobs
}

// watch returns a context for the poller's wait. It ends when a job that waits
// here may start.
func (b *lobby) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var until time.Time
	for _, l := range b.limits {
		if l.waiting > 0 && (until.IsZero() || l.again.Before(until)) {
			until = l.again
		}
	}
	if until.IsZero() {
		return ctx, func() {}
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	if b.interrupt = cancel; b.news {
		cancel()
	}
	return ctx, cancel
}

// tell ends the poller's wait. The caller holds mu.
func (b *lobby) tell() {
	b.news = true
	if b.interrupt != nil {
		b.interrupt()
	}
}
