package linda

import (
	"slices"
	"time"
)

// calmWait is how long a suspect waits for the handlers that run to end.
const calmWait = 10 * time.Second

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
	if !r.awaitCalm() {
		return 0, false
	}
	r.trials.on = r.trials.fetches > 0
	return min(r.trials.fetches, 1), true
}

// isolate takes a batch that was fetched. If it has suspects, and they are not
// alone, none of it starts: all goes back, the suspects first, to be fetched
// one by one. Handlers that already run may still crash the process; there is
// no telling them from the suspects if they do.
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
	if len(suspects) == 0 || len(batch) == 1 && r.load.held.Load() == 1 && r.pending.Load() == 0 {
		return true
	}
	// Where the broker puts what comes back at the head, the suspects are the
	// next; elsewhere, or if another process has taken them, a few more fetches
	// must do.
	most := min(len(batch), 2*len(suspects)+8)
	r.trials = trials{on: true, fetches: most, suspects: len(suspects), of: make(map[*lane]bool)}
	for _, dl := range suspects {
		r.trials.of[dl.lane] = true
	}
	for _, dl := range slices.Backward(r.lobby.unpark()) {
		r.release(dl, 0)
	}
	others := slices.DeleteFunc(batch, r.suspicious)
	for _, dl := range slices.Backward(append(suspects, others...)) {
		r.release(dl, 0)
	}
	return false
}

// awaitCalm waits until the process holds no job, or for calmWait, since some
// handlers run for hours. It returns false once polling has ended.
func (r *run) awaitCalm() bool {
	enough := time.NewTimer(calmWait)
	defer enough.Stop()
	r.load.wakeAt.Store(0)
	defer r.load.wakeAt.Store(-1)
	for r.load.held.Load()+r.pending.Load() > 0 {
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
