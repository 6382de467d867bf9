package linda

import (
	"slices"
	"time"

	"github.com/amlun/linda/internal/chance"
)

// poll is the only place that pops. It ends when polling does; no error ends
// it. It closes jobs.
func (r *run) poll() {
	var late []*delivery // fetched after the stop had begun
	defer func() {
		close(r.jobs)
		r.handBack(append(r.lobby.unpark(), late...))
	}()
	for {
		room, ok := r.awaitRoom()
		if !ok {
			return
		}
		if r.lobby.start(room) > 0 {
			continue
		}
		lanes := r.turn()
		if len(lanes) == 0 {
			r.awaitTurn()
			continue
		}
		batch := r.adopt(lanes, r.fetch(lanes, room))
		if r.polling.Err() != nil {
			late = batch
			return
		}
		if r.isolate(batch) {
			r.hand(r.lobby.admit(batch, room))
		}
	}
}

// adopt makes deliveries of the jobs of some lanes, and keeps their
// reservations from now on.
func (r *run) adopt(lanes []*lane, jobs []*Job) []*delivery {
	if len(jobs) == 0 {
		return nil
	}
	now := time.Now()
	batch := make([]*delivery, len(jobs))
	l, from := lanes[0], 0 // the lane of the jobs since from
	for i, job := range jobs {
		if job.receipt == nil { // a broker that knows nothing of receipts
			giveReceipt(job, r.backend.Broker, l.queue, now, r.lease)
		}
		if next := laneOf(job, l, lanes); next != l {
			l.keeper.hold(batch[from:i])
			l, from = next, i
		}
		batch[i] = &delivery{job: job, lane: l, id: job.ID, class: job.Payload.Class, handed: now}
	}
	l.keeper.hold(batch[from:])
	r.load.hand(len(batch), now)
	return batch
}

// laneOf returns the lane that a job was fetched from, as a rule that of the
// job before it.
func laneOf(job *Job, last *lane, lanes []*lane) *lane {
	if len(lanes) > 1 && job.receipt.queue != last.queue {
		for _, l := range lanes {
			if l.queue == job.receipt.queue {
				return l
			}
		}
	}
	return last
}

// hand passes jobs to the workers. The channel has room for all that
// awaitRoom allows.
func (r *run) hand(batch []*delivery) {
	for _, dl := range batch {
		r.jobs <- dl
	}
}

// awaitRoom waits until jobs can be started soon, and returns how many; it is
// not ok once polling has ended.
func (r *run) awaitRoom() (room int, ok bool) {
	if room, ok := r.awaitTrial(); room > 0 || !ok {
		return room, ok
	}
	for r.polling.Err() == nil {
		chance.Last(1)
		if r.load.stuck(len(r.jobs)) {
			r.handBack(nil)
		}
		if room, ok := r.load.room(len(r.jobs)); ok {
			return room, true
		}
		look := time.NewTimer(holdFor)
		select {
		case <-r.load.freed:
		case <-look.C:
			for _, dl := range slices.Backward(r.lobby.unpark()) {
				r.release(dl, 0)
			}
		case <-r.polling.Done():
		}
		look.Stop()
	}
	return 0, false
}

// handBack releases the jobs that no worker has taken, and those that came
// after them. A job that a worker has received is started, so what is left is
// a row of the queue; the last of it goes first, since each is put at the head.
func (r *run) handBack(late []*delivery) {
	var back []*delivery
	for len(r.jobs) > 0 {
		select {
		case dl, ok := <-r.jobs:
			if ok {
				back = append(back, dl)
			}
		default:
		}
	}
	for _, dl := range slices.Backward(append(back, late...)) {
		r.release(dl, 0)
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
	return wait/2 + chance.N(wait/2+1)
}
