package linda

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// maxPrefetch bounds how many jobs are held beyond the free workers.
	maxPrefetch = 500
	// prefetchFor is how much work the poller keeps at hand: what the workers
	// do in this time. It covers a few exchanges with the broker.
	prefetchFor = 10 * time.Millisecond
	// holdFor is how long a job may wait for a worker here before it is handed
	// back for another process.
	holdFor = time.Second
)

// poll is the only place that pops. It ends when polling does; no error ends
// it. It closes jobs.
func (r *run) poll() {
	defer close(r.jobs)
	pause := retryPause
	for {
		room := r.awaitRoom()
		if r.polling.Err() != nil {
			return
		}
		sent := time.Now()
		jobs, err := r.backend.fetcher.Fetch(r.polling, r.settings.Queue, room, r.lease)
		r.hand(jobs, sent)
		switch {
		case r.polling.Err() != nil:
			return
		case err != nil:
			r.outage.begins(err)
			_ = sleep(r.polling, pause.next())
		default:
			r.outage.ends()
			pause = retryPause
		}
	}
}

// hand passes jobs to the workers. The channel has room for all that
// awaitRoom allows.
func (r *run) hand(jobs []*Job, sent time.Time) {
	if len(jobs) == 0 {
		return
	}
	r.load.held.Add(int64(len(jobs)))
	r.load.lastFetch.Store(sent.UnixNano())
	batch := make([]*delivery, len(jobs))
	for i, job := range jobs {
		if job.receipt == nil {
			if t, ok := r.backend.Broker.(*tracked); ok {
				t.adopt(job, r.settings.Queue, sent, r.lease)
			}
		}
		batch[i] = &delivery{job: job, handed: sent}
	}
	r.keeper.hold(batch, sent)
	for _, dl := range batch {
		r.jobs <- dl
	}
}

// awaitRoom waits until jobs can be started soon, and returns how many.
func (r *run) awaitRoom() int {
	tick := time.NewTimer(holdFor)
	defer tick.Stop()
	for {
		room, enough := r.load.room(len(r.jobs))
		if room >= enough {
			return room
		}
		select {
		case <-r.load.freed:
		case <-tick.C:
			r.handBack()
			tick.Reset(holdFor)
		case <-r.polling.Done():
			return 0
		}
	}
}

// handBack releases the jobs that no worker has taken in time.
func (r *run) handBack() {
	if !r.load.stuck() {
		return
	}
	for {
		select {
		case dl := <-r.jobs:
			r.release(dl, 0)
		default:
			return
		}
	}
}

// load measures the workers, to tell how many jobs to hold.
type load struct {
	workers  int
	prefetch bool
	freed    chan struct{} // told when a worker is done while the poller waits

	held      atomic.Int64 // jobs that are not finished
	lastTake  atomic.Int64 // unix ns when a worker last took a job
	lastFetch atomic.Int64 // unix ns when jobs were last fetched
	late      atomic.Bool  // a job has waited longer than holdFor
	waiting   atomic.Bool  // the poller waits for freed
	busy      atomic.Int64 // ns that handlers ran since the last look
	finished  atomic.Int64 // handlers that returned since

	average float64 // ns a handler runs; the poller's own
}

// room returns how many jobs to fetch, and how many it must be to be worth an
// exchange with the broker.
func (l *load) room(queued int) (room, enough int) {
	l.waiting.Store(true)
	ahead := l.ahead()
	room = l.workers + ahead - int(l.held.Load())
	enough = 1
	if queued > 0 {
		enough = max(1, ahead/2)
	}
	if room >= enough {
		l.waiting.Store(false)
	}
	return room, enough
}

// ahead returns how many jobs to hold beyond those that run: none for slow
// handlers, as many as the workers finish in prefetchFor for quick ones.
func (l *load) ahead() int {
	if !l.prefetch {
		return 0
	}
	if n := l.finished.Swap(0); n > 0 {
		latest := float64(l.busy.Swap(0)) / float64(n)
		if l.average == 0 {
			l.average = latest
		}
		l.average += (latest - l.average) / 4
	}
	if l.average == 0 {
		return 0 // nothing is known yet
	}
	return int(min(maxPrefetch, float64(l.workers)*float64(prefetchFor)/l.average))
}

// stuck reports whether jobs wait longer than holdFor for a worker, and if so
// forgets what it knows of the handlers' speed.
func (l *load) stuck() bool {
	since := time.Now().Add(-holdFor).UnixNano()
	idle := l.lastTake.Load() <= since && l.lastFetch.Load() <= since
	if late := l.late.Swap(false); !idle && !late {
		return false
	}
	l.average = float64(holdFor)
	return true
}

// take notes that a worker took a job, and how long it had waited for one.
func (l *load) take(now, handed time.Time) {
	l.lastTake.Store(now.UnixNano())
	if now.Sub(handed) > holdFor {
		l.late.Store(true)
	}
}

// ran notes how long a handler ran.
func (l *load) ran(took time.Duration) {
	l.busy.Add(int64(took))
	l.finished.Add(1)
}

// free notes that a job is finished.
func (l *load) free() {
	l.held.Add(-1)
	if l.waiting.Load() {
		select {
		case l.freed <- struct{}{}:
		default:
		}
	}
}

// pause grows with every failure in a row.
type pause struct{ wait, most time.Duration }

// retryPause is for a broker that fails: first at once, then at most twice a
// second and at least once.
var retryPause = pause{wait: 25 * time.Millisecond, most: time.Second}

// next returns how long to wait now, with jitter so that processes which lost
// a broker together do not come back together.
func (p *pause) next() time.Duration {
	wait := p.wait
	p.wait = min(2*p.wait, p.most)
	return wait/2 + rand.N(wait/2+1)
}
