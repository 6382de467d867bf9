package linda

import (
	"slices"
	"time"
)

// calmWait is how long a suspect waits for the handlers that run to end. The
// process starts no other job meanwhile.
const calmWait = 3 * time.Second

// A suspect is a job whose next crash makes it dead. It may be what killed its
// processes, or only have been near: a crash counts against every job that the
// process held. So a suspect is fetched alone, when the process holds nothing
// else, and what it does then it does alone.
//
// trials counts the fetches for which the poller goes on like that. It owns
// them.
type trials struct {
	on       bool           // until it is calm after the last one
	fetches  int            // of one job each, that are left
	suspects int            // that are still to be met
	of       map[*lane]bool // the lanes they are of
}

// suspicious reports whether the next crash would make a job dead.
func (r *run) suspicious(dl *delivery) bool {
	crashes := dl.job.Crashes()
	return crashes > 0 && crashes == r.policy.maxCrashes-1
}

// awaitTrial returns how many jobs to fetch, or 0 if no trial is to be made.
func (r *run) awaitTrial() (room int, ok bool) {
	if !r.trials.on {
		return 0, true
	}
	if !r.awaitCalm(0) {
		return 0, false
	}
	r.trials.on = r.trials.fetches > 0
	return min(r.trials.fetches, 1), true
}

// isolate takes a batch that was fetched, and reports whether to start it. A
// suspect that came alone starts when it is calm. If there are several jobs and
// suspects among them, none starts: all go back, the suspects first, to be
// fetched one by one. Handlers that already run may still crash the process; there
// is no telling them from the suspects if they do.
func (r *run) isolate(batch []*delivery) (ok bool) {
	suspects := slices.DeleteFunc(slices.Clone(batch), func(dl *delivery) bool { return !r.suspicious(dl) })
	if r.trials.fetches > 0 {
		r.trials.fetches--
		r.trials.suspects -= len(suspects)
		if r.trials.suspects <= 0 {
			r.trials.fetches = 0
		}
		return true
	}
	if len(suspects) == 0 {
		return true
	}
	for _, dl := range slices.Backward(r.lobby.unpark()) {
		r.release(dl, 0)
	}
	if len(batch) == 1 { // the broker hands suspects out alone: other processes need not stop for this one
		r.trials = trials{on: true}
		ok = r.awaitCalm(1)
		if !ok {
			r.release(batch[0], 0)
		}
		return ok
	}
	// Where the broker puts what comes back at the head, the suspects are the
	// next; elsewhere, or if another process has taken them, a few more fetches
	// must do.
	most := min(len(batch), 2*len(suspects)+8)
	r.trials = trials{on: true, fetches: most, suspects: len(suspects), of: make(map[*lane]bool)}
	for _, dl := range suspects {
		r.trials.of[dl.lane] = true
	}
	others := slices.DeleteFunc(batch, r.suspicious)
	for _, dl := range slices.Backward(append(suspects, others...)) {
		r.release(dl, 0)
	}
	return false
}

// awaitCalm waits until the process holds no more than so many jobs, or for
// calmWait, since some handlers run for hours. It returns false once polling has
// ended.
func (r *run) awaitCalm(held int64) bool {
	enough := time.NewTimer(calmWait)
	defer enough.Stop()
	r.calming.Store(true)
	defer r.calming.Store(false)
	r.load.wakeAt.Store(held)
	defer r.load.wakeAt.Store(-1)
	for r.load.held.Load()+r.pending.Load() > held {
		select {
		case <-r.load.freed:
		case <-enough.C:
			return true
		case <-r.polling.Done():
			return false
		}
	}
	return true
}
