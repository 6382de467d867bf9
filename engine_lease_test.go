package linda

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

const testLease = 10 * time.Second

func leased(s *Settings) { s.Timeout = int64(testLease / time.Second) }

func TestHandlerOfFiveLeasesRunsOnce(t *testing.T) {
	inRig(t, leased, func(t *testing.T, r *rig) {
		r.takes("a", 5*testLease)
		ids := r.push("a", 4)
		r.start(6 * testLease)
		for _, id := range ids {
			is(t, "runs", r.ran(id), 1)
			areSame(t, "events", r.kinds(id), []EventKind{EventDone})
		}
		between(t, "touches", r.b.count("touch"), 5, 20)
		r.end()
	})
}

func TestTouchThatFailsForAWhileLosesNothing(t *testing.T) {
	for name, f := range map[string]fault{"fails": {err: errDown}, "hangs": {hang: true}, "is slow": {wait: 1500 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			inRig(t, leased, func(t *testing.T, r *rig) {
				r.b.always(f, "touch")
				r.takes("a", 5*testLease)
				id := r.push("a", 1)[0]
				r.start(testLease * 7 / 10)
				r.b.always(fault{}, "touch")
				r.after(6 * testLease)
				is(t, "runs", r.ran(id), 1)
				areSame(t, "events", r.kinds(id), []EventKind{EventDone})
				if f.err != nil {
					is(t, "errors logged", r.logged("level=ERROR"), 1)
					is(t, "recoveries logged", r.logged("answers again"), 1)
				}
				r.end()
			})
		})
	}
}

// lostAfter runs a handler that waits for the end of its context, and returns
// when and why that came.
func lostAfter(t *testing.T, r *rig) {
	begin := time.Now()
	took, cause := make(chan time.Duration, 9), make(chan error, 9)
	r.handle("a", func(ctx context.Context, _ *Job) error {
		<-ctx.Done()
		took <- time.Since(begin)
		cause <- context.Cause(ctx)
		return ctx.Err()
	})
	r.push("a", 1)
	r.start(testLease - 1)
	is(t, "cause", <-cause, ErrLeaseLost)
	between(t, "context ended after", <-took, testLease*8/10, testLease*9/10)
}

func TestContextEndsBeforeAReservationThatCannotBeProlonged(t *testing.T) {
	for name, f := range map[string]fault{"fails": {err: errDown}, "hangs": {hang: true}, "is deaf": {deaf: true}} {
		t.Run("touch "+name, func(t *testing.T) {
			inRig(t, leased, func(t *testing.T, r *rig) {
				r.b.always(f, "touch")
				lostAfter(t, r)
				r.b.always(fault{}, "touch")
				_, _ = r.stop()
			})
		})
	}
	t.Run("no Toucher", func(t *testing.T) {
		inRig(t, leased, func(t *testing.T, r *rig) {
			r.d.backend.toucher = nil
			lostAfter(t, r)
			_, _ = r.stop()
		})
	})
}

func TestLostReservationLeavesTheNextOwnerAlone(t *testing.T) {
	for _, answer := range []error{nil, errors.New("broken"), Snooze(time.Second), Discard(errors.New("no good"))} {
		t.Run(fmt.Sprint(answer), func(t *testing.T) {
			inRig(t, leased, func(t *testing.T, r *rig) {
				r.takes("wait", time.Second)
				r.handle("a", func(context.Context, *Job) error {
					time.Sleep(2 * time.Second)
					return answer
				})
				id := r.push("a", 1)[0]
				r.start(time.Second)
				next := r.b.steal(t, "q", id)
				r.after(3 * time.Second)
				areSame(t, "events", r.kinds(id), []EventKind{EventLost})
				r.holds(Stats{Reserved: 1})
				if err := r.b.Delete("q", next); err != nil {
					t.Errorf("the next owner cannot delete its job: %v", err)
				}
				r.end()
				is(t, "runs", r.ran(id), 1)
			})
		})
	}
}

func TestTouchThatFindsTheReservationLostEndsTheContext(t *testing.T) {
	inRig(t, leased, func(t *testing.T, r *rig) {
		var cause error
		r.handle("a", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		})
		id := r.push("a", 1)[0]
		r.start(time.Second)
		r.b.steal(t, "q", id)
		r.after(testLease/2 - time.Second)
		is(t, "cause", cause, ErrLeaseLost)
		areSame(t, "events", r.kinds(id), []EventKind{EventLost})
		r.holds(Stats{Reserved: 1})
		r.end()
	})
}

// The local clock says that the reservation may have ended, the server still
// has it: a success is worth a try, since whoever lost it is refused.
func TestSuccessAfterALocallyLostReservationIsSettled(t *testing.T) {
	inRig(t, leased, func(t *testing.T, r *rig) {
		r.b.always(fault{err: errDown}, "touch")
		r.handle("a", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			return nil
		})
		id := r.push("a", 1)[0]
		r.start(2 * testLease)
		areSame(t, "events", r.kinds(id), []EventKind{EventDone})
		r.holds(Stats{})
		r.end()
	})
}

func TestPrefetchedJobsAreKeptAliveAndHandedBackWhenNoWorkerComes(t *testing.T) {
	inRig(t, func(s *Settings) { s.Timeout, s.Concurrency = 1, 2 }, func(t *testing.T, r *rig) {
		r.takes("quick", 20*time.Microsecond)
		r.takes("slow", time.Hour)
		r.push("quick", 2000)
		r.start(100 * time.Millisecond) // the poller learns that jobs are quick
		is(t, "done", r.count(EventDone), 2000)
		ids := r.push("slow", 40)
		r.after(900 * time.Millisecond)
		r.holds(Stats{Reserved: 40})
		r.after(1500 * time.Millisecond)
		r.holds(Stats{Ready: 38, Reserved: 2})
		areSame(t, "ready, in order", idsOf(r.peek(Ready)), ids[2:])
		is(t, "attempts", r.peek(Ready)[0].Attempt(), 0)
		is(t, "crashes", r.peek(Ready)[0].Crashes(), 0)
		fetches, released := r.b.count("fetch"), r.count(EventReleased)
		r.after(10 * time.Minute)
		is(t, "fetches while no worker is free", r.b.count("fetch")-fetches, 0)
		is(t, "released while no worker is free", r.count(EventReleased)-released, 0)
		r.holds(Stats{Ready: 38, Reserved: 2})
		_, _ = r.stop()
	})
}

func TestReservationLostJustBeforeTheStartEndsTheContext(t *testing.T) {
	dl := new(delivery)
	dl.lose()
	dl.ctx.begin(t.Context(), new(Job), 0)
	is(t, "cause", dl.ctx.why(), ErrLeaseLost)
	is(t, "cause for one who asks", context.Cause(&dl.ctx), ErrLeaseLost)
}

func TestAJobWhoseReservationIsLostWhileItWaitsDoesNotStart(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency, s.Timeout = 1, 1 }, func(t *testing.T, r *rig) {
		ended := 0
		r.handle("quick", func(ctx context.Context, _ *Job) error {
			if ctx.Err() != nil {
				ended++
			}
			time.Sleep(20 * time.Microsecond)
			return nil
		})
		r.handle("slow", func(context.Context, *Job) error { time.Sleep(950 * time.Millisecond); return nil })
		r.push("quick", 2000)
		r.start(100 * time.Millisecond) // the poller learns that jobs are quick
		r.b.always(fault{err: errDown}, "touch")
		r.push("slow", 1)
		r.push("quick", 50)
		r.after(10 * time.Millisecond)
		r.holds(Stats{Reserved: 51})
		r.after(5 * time.Second)
		is(t, "started with a context that had ended", ended, 0)
		is(t, "left", len(r.peek(Ready))+len(r.peek(Reserved)), 0)
		r.end()
	})
}

func TestFinishedJobsAreNotKeptInMemory(t *testing.T) {
	k := newKeeper(nil, "q", time.Minute, nil)
	slow := &delivery{}
	k.hold([]*delivery{slow})
	for range 100 {
		batch := make([]*delivery, 500)
		for i := range batch {
			batch[i] = &delivery{}
			batch[i].done.Store(true)
		}
		k.hold(batch)
	}
	if len(k.held) > 3000 {
		t.Errorf("%d deliveries are kept for the sake of one", len(k.held))
	}
	is(t, "live", len(k.list()), 1)
}

func TestJobThatCrashedTooOftenIsDeadWithoutRunning(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxCrashes = 3; s.Timeout = 1 }, func(t *testing.T, r *rig) {
		r.takes("a", 0)
		id := r.push("a", 1)[0]
		crash(t, r, 3)
		r.start(3 * time.Second)
		is(t, "runs", r.ran(id), 0)
		areSame(t, "events", r.kinds(id), []EventKind{EventDead})
		r.end()
		r.holds(Stats{Dead: 1})
	})
}

// crash pops everything and abandons it, so often.
func crash(t *testing.T, r *rig, times int) {
	t.Helper()
	for range times {
		if _, err := r.b.memoryBroker.Fetch(t.Context(), "q", 100, time.Second); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
	}
}

func TestSuspectsRunAloneAndInnocentsDoNotDie(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxCrashes = 3 }, func(t *testing.T, r *rig) {
		r.handle("suspect", func(context.Context, *Job) error {
			time.Sleep(300 * time.Millisecond)
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.live != 1 {
				t.Errorf("%d handlers run beside a suspect", r.live-1)
			}
			return nil
		})
		r.takes("fresh", 100*time.Millisecond)
		suspects := r.push("suspect", 5)
		crash(t, r, 2)
		r.push("fresh", 100)
		r.start(time.Minute)
		for _, id := range suspects {
			is(t, "runs of "+id, r.ran(id), 1)
		}
		is(t, "done", r.count(EventDone), 105)
		r.end()
		r.holds(Stats{})
	})
}

// A job that kills its process takes others with it. Here "the process" is a
// broker's worker that abandons all it has popped when it meets the guilty one.
func TestPoisonDiesAndItsNeighboursDoNot(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxCrashes = 3 }, func(t *testing.T, r *rig) {
		r.takes("poison", time.Millisecond)
		r.takes("good", time.Millisecond)
		poison := r.push("poison", 1)[0]
		good := r.push("good", 7)
		crash(t, r, 2) // all eight are suspects now
		jobs, err := r.b.memoryBroker.Fetch(t.Context(), "q", 1, time.Second)
		if err != nil || jobs[0].ID != poison { // alone, as the engine would run it, it crashes
			t.Fatal(jobs, err)
		}
		r.after(time.Second)
		r.start(time.Minute)
		kinds := r.kinds(poison) // it may have been released while a suspect ran
		is(t, "end of the poison", kinds[len(kinds)-1], EventDead)
		is(t, "runs of the poison", r.ran(poison), 0)
		for _, id := range good {
			is(t, "runs of "+id, r.ran(id), 1)
		}
		r.end()
		r.holds(Stats{Dead: 1})
	})
}

// Handlers that run for hours must not keep a suspect from running for ever,
// nor a suspect that does so the other jobs.
func TestLongHandlersBoundTheIsolationOfASuspect(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxCrashes = 3 }, func(t *testing.T, r *rig) {
		r.takes("suspect", time.Hour)
		r.takes("long", time.Hour)
		r.takes("short", time.Millisecond)
		suspect := r.push("suspect", 1)[0]
		crash(t, r, 1)
		if _, err := r.b.memoryBroker.Fetch(t.Context(), "q", 1, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		long := r.push("long", 1)[0]
		r.start(6 * time.Second)
		is(t, "runs of the long handler", r.ran(long), 1)
		is(t, "runs of the suspect at first", r.ran(suspect), 0)
		is(t, "times that the suspect was handed back", len(r.kinds(suspect)), 0)
		short := r.push("short", 1)[0]
		r.after(calmWait)
		is(t, "runs of the suspect", r.ran(suspect), 1)
		is(t, "runs of the short handler at first", r.ran(short), 0)
		r.after(calmWait)
		is(t, "runs of the short handler", r.ran(short), 1)
		_, _ = r.stop()
	})
}
