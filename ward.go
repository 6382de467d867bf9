package linda

import (
	"sync/atomic"
	"time"
)

const (
	// suspectPause is how long a job waits for a suspect to finish.
	suspectPause = time.Second
	// wardWait is how long a suspect waits for the other handlers to end.
	wardWait = 10 * time.Second
	// wardMost is how long a suspect keeps other jobs from starting.
	wardMost = time.Minute
)

// ward keeps a suspect, a job whose process crashed so often that the next
// crash makes it dead, apart from the other jobs: it runs alone, so that the
// innocent are told from the guilty. Handlers that run for long bound this:
// they are not waited for, and a suspect that is one is not left alone, for
// ever.
type ward struct {
	turn   chan struct{} // holds a token while a suspect waits or runs
	closed atomic.Bool   // nothing else may start
	active atomic.Int64  // ordinary handlers that run
	left   chan struct{} // told when one of them ends while closed
}

func newWard() ward {
	return ward{turn: make(chan struct{}, 1), left: make(chan struct{}, 1)}
}

// enter reports whether an ordinary job may start; if so, leave must follow.
func (w *ward) enter() bool {
	w.active.Add(1) // before the look at closed, as runAlone looks at active after closing
	if w.closed.Load() {
		w.leave()
		return false
	}
	return true
}

func (w *ward) leave() {
	w.active.Add(-1)
	if w.closed.Load() {
		select {
		case w.left <- struct{}{}:
		default:
		}
	}
}

// suspicious reports whether the next crash would make a job dead.
func (r *run) suspicious(job *Job) bool {
	crashes := job.Crashes()
	return crashes > 0 && crashes >= r.policy.maxCrashes-1
}

// runAlone runs a suspect once no other job runs, or releases it if another
// suspect is at it.
func (r *run) runAlone(slot int, dl *delivery) {
	select {
	case r.ward.turn <- struct{}{}:
	default:
		r.release(dl, suspectPause)
		return
	}
	defer func() { <-r.ward.turn }()
	defer r.closeWard()()
	r.handBack(nil)
	if !r.awaitOthers() {
		r.release(dl, 0)
		return
	}
	r.runHandler(slot, dl)
}

// closeWard keeps other jobs from starting until the function it returns is
// called, or wardMost has passed.
func (r *run) closeWard() (open func()) {
	set := func(closed bool) {
		r.ward.closed.Store(closed)
		r.load.close(closed)
	}
	set(true)
	opened := make(chan struct{})
	t := time.AfterFunc(wardMost, func() {
		defer close(opened)
		set(false)
	})
	return func() {
		if t.Stop() {
			set(false)
		} else {
			<-opened // it must not open the ward of the next suspect
		}
	}
}

// awaitOthers waits until no ordinary job runs, or for wardWait. It returns
// false if Run was told to stop.
func (r *run) awaitOthers() bool {
	enough := time.NewTimer(wardWait)
	defer enough.Stop()
	for r.ward.active.Load() > 0 {
		select {
		case <-r.ward.left:
		case <-enough.C:
			return true
		case <-r.polling.Done():
			return false
		}
	}
	return true
}
