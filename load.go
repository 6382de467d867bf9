package linda

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPrefetch bounds how many jobs are held beyond the free workers.
	maxPrefetch = 500
	// prefetchFor is how much work the poller keeps at hand: what the workers
	// do in this time. It covers a few exchanges with the broker.
	prefetchFor = 10 * time.Millisecond
	// slowHandler is from when on an exchange with the broker costs next to
	// nothing beside the job, so that none is held in advance.
	slowHandler = 100 * time.Millisecond
	// holdFor is how long a job may wait for a worker here before it is handed
	// back for another process.
	holdFor = time.Second
)

// load measures the workers, to tell how many jobs to hold.
type load struct {
	workers  int
	prefetch bool
	freed    chan struct{} // told when so many jobs are finished that the poller should look

	held     atomic.Int64 // jobs that are not finished
	wakeAt   atomic.Int64 // the held at which the poller wants to be told; -1: it does not
	lastTake atomic.Int64 // unix ns when a worker last took a job
	lastHand atomic.Int64 // unix ns when the workers last got jobs
	late     atomic.Bool  // a job has waited longer than holdFor

	mu       sync.Mutex
	busy     time.Duration // guarded by mu: how long handlers ran since the last look
	finished int           // guarded by mu: how many of them returned since

	average float64 // ns a handler runs, 0 if that is not known; the poller's own
}

func newLoad(workers int, prefetch bool) *load {
	return &load{workers: workers, prefetch: prefetch, freed: make(chan struct{}, 1)}
}

// room returns how many jobs to fetch, and whether it is enough to be worth an
// exchange with the broker. Where it is not, freed tells when to ask again.
func (l *load) room(queued int) (room int, ok bool) {
	ahead := l.ahead()
	most, enough := l.workers+ahead, 1
	if queued > 0 {
		enough = max(1, ahead/2)
	}
	// A job that is finished after this line is told of, one that is finished
	// before it is counted below.
	l.wakeAt.Store(int64(most - enough))
	room = most - int(l.held.Load())
	if room < enough {
		return 0, false
	}
	l.wakeAt.Store(-1)
	return room, true
}

// ahead returns how many jobs to hold beyond those that run: none for slow
// handlers, as many as the workers finish in prefetchFor for quick ones.
func (l *load) ahead() int {
	if !l.prefetch {
		return 0
	}
	l.mu.Lock()
	busy, n := l.busy, l.finished
	l.busy, l.finished = 0, 0
	l.mu.Unlock()
	if n > 0 {
		latest := max(1, float64(busy)/float64(n))
		if l.average == 0 {
			l.average = latest
		}
		l.average += (latest - l.average) / 4
	}
	if l.average == 0 || l.average >= float64(slowHandler) {
		return 0
	}
	return int(min(maxPrefetch, float64(l.workers)*float64(prefetchFor)/l.average))
}

// stuck reports whether jobs wait longer than holdFor for a worker, and if so
// forgets what it knows of the handlers' speed.
func (l *load) stuck(queued int) bool {
	since := time.Now().Add(-holdFor).UnixNano()
	idle := queued > 0 && l.lastTake.Load() <= since && l.lastHand.Load() <= since
	if late := l.late.Swap(false); !late && !idle {
		return false
	}
	l.average = float64(holdFor)
	return true
}

// hand notes that the workers get jobs.
func (l *load) hand(n int, now time.Time) {
	l.held.Add(int64(n))
	l.lastHand.Store(now.UnixNano())
}

// take notes that a worker took a job, and how long it had waited for one.
func (l *load) take(now, handed time.Time) {
	l.lastTake.Store(now.UnixNano())
	if now.Sub(handed) > holdFor {
		l.late.Store(true)
	}
}

// ran notes how long a handler ran. Both numbers change together, or the
// average would not be one.
func (l *load) ran(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy += took
	l.finished++
}

// free notes that a job is finished.
func (l *load) free() {
	if l.held.Add(-1) <= l.wakeAt.Load() {
		l.wake()
	}
}

func (l *load) wake() {
	select {
	case l.freed <- struct{}{}:
	default: // it is being told already
	}
}
