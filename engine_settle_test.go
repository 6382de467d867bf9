package linda

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// F4: what finished while the broker was away is settled once when it is back.
func TestOutageWhileHandlersFinishMakesNoDuplicates(t *testing.T) {
	faults := map[string]fault{
		"refuses": {err: errDown}, "hangs": {hang: true}, "unknown": {err: ErrUnknown}, "answers are lost": {late: ErrUnknown},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency, s.Timeout = 100, 30 }, func(t *testing.T, r *rig) {
				r.takes("a", time.Second)
				ids := r.push("a", 100)
				r.start(500 * time.Millisecond)
				r.b.always(f, "settle", "fetch", "touch")
				r.after(10 * time.Second)
				before := r.b.count("settle")
				between(t, "tries during the outage", before, 3, 50)
				r.b.always(fault{}, "settle", "fetch", "touch")
				r.after(3 * time.Second)
				between(t, "exchanges after the outage", r.b.count("settle")-before, 0, 4)
				r.after(time.Minute)
				for _, id := range ids {
					is(t, "runs", r.ran(id), 1)
					areSame(t, "events", r.kinds(id), []EventKind{EventDone})
				}
				is(t, "errors logged", r.logged("level=ERROR"), 1)
				is(t, "recoveries logged", r.logged("answers again"), 1)
				r.end()
				r.holds(Stats{})
			})
		})
	}
}

func TestSettlementWithAnUnknownOutcomeIsDoneNotLost(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.b.on("settle", func(n int) fault {
			if n == 0 {
				return fault{late: fmt.Errorf("%w: reset by peer", ErrUnknown)}
			}
			return fault{}
		})
		r.takes("a", time.Millisecond)
		id := r.push("a", 1)[0]
		r.start(5 * time.Second)
		areSame(t, "events", r.kinds(id), []EventKind{EventDone})
		is(t, "carried out", len(r.b.settled), 1)
		r.end()
	})
}

// A broker without receipts answers the second try with ErrNotReserved.
func TestUnknownOutcomeIsUnderstoodWithoutReceipts(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		run := newRun(t.Context(), r.d.settings, *r.d.backend, new(gate), nil)
		s := newSettler(run, run.lanes[0])
		for _, c := range []struct {
			first, second error
			want          EventKind
		}{
			{ErrUnknown, ErrNotReserved, EventDone},
			{context.DeadlineExceeded, ErrNotReserved, EventDone},
			{errDown, ErrNotReserved, EventLost},
			{ErrUnknown, ErrLeaseLost, EventLost},
		} {
			job := &Job{ID: "x"}
			giveReceipt(job, r.b, "q", time.Now(), time.Minute)
			res := result{dl: &delivery{job: job}, event: Event{Kind: EventDone, Queue: "q", ID: "x"}}
			is(t, "final at first", s.final(&res, c.first), false)
			is(t, "final", s.final(&res, c.second), true)
			is(t, fmt.Sprint(c.first, ", ", c.second), res.event.Kind, c.want)
		}
	})
}

func TestSettlementThatAlwaysFailsDoesNotHoldUpTheOthers(t *testing.T) {
	for _, bad := range []int{1, 2, 7} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency = 50 }, func(t *testing.T, r *rig) {
				r.b.veto = func(s Settlement) error {
					if s.Op == OpBury {
						return errors.New("test: cannot bury")
					}
					return nil
				}
				r.takes("good", 10*time.Millisecond)
				r.handle("bad", func(context.Context, *Job) error {
					time.Sleep(10 * time.Millisecond)
					return Discard(errDown)
				})
				r.push("good", 20)
				ids := r.push("bad", bad)
				r.push("good", 200)
				r.start(10 * time.Second)
				is(t, "done", r.count(EventDone), 220)
				r.holds(Stats{Reserved: int64(bad)})
				r.push("good", 100)
				r.after(3 * time.Second)
				is(t, "done later", r.count(EventDone), 320)
				before := r.b.count("settle")
				r.after(time.Minute)
				between(t, "tries in a minute", r.b.count("settle")-before, 30, 120*(bad+1))
				is(t, "errors logged", r.logged("level=ERROR"), 1)
				is(t, "runs", r.ran(ids[0]), 1)
				r.b.mu.Lock()
				r.b.veto = nil
				r.b.mu.Unlock()
				r.after(5 * time.Second)
				r.holds(Stats{Dead: int64(bad)})
				is(t, "recoveries logged", r.logged("answers again"), 1)
				r.end()
			})
		})
	}
}

// The broker's first failures are settlements that it cannot bear, and it seems
// to be down: what comes then must not wait behind them for ever.
func TestSettlementsThatAlwaysFailAreNotTheOnlyOnesTried(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency = 50 }, func(t *testing.T, r *rig) {
		r.b.veto = func(s Settlement) error {
			if s.Op == OpBury {
				return errors.New("test: cannot bury")
			}
			return nil
		}
		r.handle("bad", func(context.Context, *Job) error {
			time.Sleep(10 * time.Millisecond)
			return Discard(errDown)
		})
		r.takes("good", 15*time.Millisecond)
		r.push("bad", 4)
		r.push("good", 20)
		r.start(3 * time.Second)
		is(t, "done", r.count(EventDone), 20)
		r.b.mu.Lock()
		r.b.veto = nil
		r.b.mu.Unlock()
		r.after(3 * time.Second)
		r.end()
		r.holds(Stats{Dead: 4})
	})
}

func TestSettlementsAreGrouped(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency = 100 }, func(t *testing.T, r *rig) {
		r.b.always(fault{wait: 5 * time.Millisecond}, "settle")
		r.takes("a", time.Millisecond)
		r.push("a", 2000)
		r.start(10 * time.Second)
		is(t, "done", r.count(EventDone), 2000)
		between(t, "exchanges for 2,000 jobs", r.b.count("settle"), 4, 100)
		r.end()
	})
}

// While nothing can be settled, finished jobs must not pile up without end.
func TestUnsettledResultsAreBounded(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.b.always(fault{err: errDown}, "settle")
		r.takes("a", 10*time.Microsecond)
		r.push("a", 5000)
		r.start(30 * time.Second)
		r.mu.Lock()
		started := len(r.runs)
		r.mu.Unlock()
		between(t, "jobs run", started, 1000, settleOpen+settleMost+maxPrefetch+2*4)
		r.b.always(fault{}, "settle")
		r.after(10 * time.Second)
		is(t, "done", r.count(EventDone), 5000)
		r.end()
		r.holds(Stats{})
	})
}

func TestDelayIsNotLongerThanTheBrokerTakes(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.d.backend.delayMax = time.Hour
		r.handle("a", func(context.Context, *Job) error { return Snooze(48 * time.Hour) })
		r.push("a", 1)
		r.start(time.Second)
		is(t, "delay", r.b.settled[0].Delay, time.Hour)
		r.end()
	})
}

func TestAtMostOnce(t *testing.T) {
	inRig(t, func(s *Settings) { s.Timeout = AtMostOnce }, func(t *testing.T, r *rig) {
		r.handle("good", func(context.Context, *Job) error {
			time.Sleep(10 * time.Microsecond)
			return nil
		})
		r.push("good", 1000)
		r.start(time.Second)
		is(t, "done", r.count(EventDone), 1000)
		is(t, "exchanges", r.b.count("settle"), 0)
		between(t, "jobs held", fetchedAtOnce(r), 1, 4)
		r.holds(Stats{})

		// A failure is not run again, and not lost even if it takes a while.
		r.b.on("settle", func(n int) fault { return map[bool]fault{true: {err: errDown}}[n < 5] })
		r.end()
		r.handle("bad", func(context.Context, *Job) error {
			time.Sleep(10 * time.Minute)
			return errors.New("broken")
		})
		r.start(0)
		id := r.push("bad", 1)[0]
		r.after(11 * time.Minute)
		is(t, "runs", r.ran(id), 1)
		areSame(t, "events", r.kinds(id), []EventKind{EventDead})
		r.holds(Stats{Dead: 1})
		is(t, "reason", r.peek(Dead)[0].LastError(), "broken")

		r.end()
	})
}

// fetchedAtOnce returns the most jobs that one fetch brought.
func fetchedAtOnce(r *rig) int {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.batch
}

func TestAtMostOnceReleasesWhatTheHandlerAsks(t *testing.T) {
	inRig(t, func(s *Settings) { s.Timeout = AtMostOnce }, func(t *testing.T, r *rig) {
		r.handle("snooze", func(_ context.Context, job *Job) error { return Snooze(time.Hour) })
		r.handle("cron", func(_ context.Context, job *Job) error {
			return r.d.Broker().ReleaseWithDelay("q", job, 60)
		})
		r.push("snooze", 1)
		id := r.push("cron", 1)[0]
		r.start(10*time.Minute + time.Second)
		is(t, "runs", r.ran(id), 11)
		r.end()
		r.holds(Stats{Delayed: 2})
	})
}
