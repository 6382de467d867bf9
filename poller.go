package linda

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// poll is the only place that pops. It ends when polling does; no error ends
// it. It closes jobs.
func (r *run) poll() {
	var late []*delivery // fetched after the stop had begun
	defer func() {
		close(r.jobs)
		r.handBack(append(r.gate.unpark(), late...))
	}()
	pause := retryPause
	for {
		room, ok := r.awaitRoom()
		if !ok {
			return
		}
		if r.gate.start(room) > 0 {
			continue
		}
		sent := time.Now()
		jobs, ended, err := r.fetch(room)
		batch := r.adopt(jobs)
		if r.polling.Err() != nil {
			late = batch
			return
		}
		if r.isolate(batch) {
			r.hand(r.gate.admit(batch, room))
		}
		switch {
		case err != nil:
			r.outage.begins(fetching, sent, err)
			_ = sleep(r.polling, pause.next())
			continue
		case len(jobs) == 0 && !ended && time.Since(sent) < retryPause.wait: // a Fetch that should have waited
			_ = sleep(r.polling, pause.next())
		default:
			pause = retryPause
		}
		r.outage.ends(fetching)
	}
}

// fetch asks the broker for jobs. While some wait here it does not ask for
// long, since they may have to be handed back; nor after a failure, since an
// empty queue is also an answer; nor when a job that waits for a slot may start.
// ended says that it was not to wait any longer.
func (r *run) fetch(room int) (jobs []*Job, ended bool, err error) {
	ctx, cancel := r.polling, func() {}
	if len(r.jobs) > 0 || r.outage.has(fetching) {
		ctx, cancel = context.WithTimeout(ctx, holdFor)
	}
	defer cancel()
	ctx, stop := r.gate.watch(ctx)
	defer stop()
	if room = r.gate.room(room); room == 0 {
		<-ctx.Done()
		return nil, true, nil
	}
	jobs, err = r.backend.fetcher.Fetch(ctx, r.settings.Queue, room, r.lease)
	if errors.Is(err, ctx.Err()) && !errors.Is(err, ErrUnknown) {
		err = nil // the broker waited as long as it was asked to
	}
	return jobs, ctx.Err() != nil, err
}

// adopt makes deliveries of jobs and keeps their reservations from now on.
func (r *run) adopt(jobs []*Job) []*delivery {
	if len(jobs) == 0 {
		return nil
	}
	now := time.Now()
	batch := make([]*delivery, len(jobs))
	for i, job := range jobs {
		if job.receipt == nil { // a broker that knows nothing of receipts
			giveReceipt(job, r.backend.Broker, r.settings.Queue, now, r.lease)
		}
		batch[i] = &delivery{job: job, id: job.ID, class: job.Payload.Class, handed: now}
	}
	r.keeper.hold(batch)
	r.load.hand(len(batch), now)
	return batch
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
			for _, dl := range slices.Backward(r.gate.unpark()) {
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
	return wait/2 + rand.N(wait/2+1)
}
