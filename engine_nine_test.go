package linda

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// inNine runs a test with a Dispatcher on a broker that has the nine methods
// and nothing else.
func inNine(t *testing.T, change func(*Settings), test func(t *testing.T, b *nineBroker, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newNine()
		r := newRig(t, func(s *Settings) {
			s.Broker, s.Timeout, s.MaxAttempts = b, 10, 3
			if change != nil {
				change(s)
			}
		})
		test(t, b, r)
		_ = r.d.Close()
		_ = r.b.Close()
	})
}

func TestNineMethodsAreEnough(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		r.takes("good", 10*time.Millisecond)
		var failures []int
		r.handle("bad", func(_ context.Context, job *Job) error {
			failures = append(failures, job.Failures())
			is(t, "attempt", job.Attempt(), len(failures))
			return errors.New("broken")
		})
		r.push("good", 100)
		bad := r.push("bad", 1)[0]
		r.start(0)
		r.after(time.Minute)
		is(t, "done", r.count(EventDone), 100)
		areSame(t, "failures", failures, []int{0, 1, 2})
		areSame(t, "events", r.kinds(bad), []EventKind{EventRetried, EventRetried, EventDead})
		is(t, "ready", b.len("q"), 0)
		is(t, "reserved", len(b.reserved), 0)
		is(t, "calls to remember", len(r.d.backend.settler.(*nineSettler).calls), 0)
		r.end()

		dead, err := b.Pop("q.dead", 60)
		if err != nil || dead == nil {
			t.Fatal(dead, err)
		}
		is(t, "class", dead.Payload.Class, "bad")
		is(t, "args", fmt.Sprint(dead.Payload.Args), "[0]")
		is(t, "reason", dead.LastError(), "broken")
	})
}

func TestNineMethodsDelayIsNeverEarly(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		at := make(chan time.Time, 1)
		r.handle("a", func(context.Context, *Job) error { at <- time.Now(); return nil })
		r.start(0)
		begin := time.Now()
		if err := r.d.Later(t.Context(), 1500*time.Millisecond, &Job{Payload: Payload{Class: "a"}}); err != nil {
			t.Fatal(err)
		}
		between(t, "delay", (<-at).Sub(begin), 1500*time.Millisecond, 3100*time.Millisecond)
		r.end()
	})
}

func TestNineMethodsHandlerSettledIsNoticed(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		r.handle("cron", func(_ context.Context, job *Job) error {
			return r.d.Broker().ReleaseWithDelay("q", job, 60)
		})
		id := r.push("cron", 1)[0]
		r.start(10*61*time.Second + time.Second)
		is(t, "runs", r.ran(id), 11)
		is(t, "settled", r.count(EventSettled), 11)
		is(t, "deletes", b.calls["delete"], 0)
		r.end()
		is(t, "delayed", b.len("q"), 1)
	})
}

func TestNineMethodsHandlerContextEndsWithTheReservation(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		begin, took := time.Now(), make(chan time.Duration, 9)
		r.handle("a", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			isError(t, "cause", context.Cause(ctx), ErrLeaseLost)
			took <- time.Since(begin)
			return nil
		})
		r.push("a", 1)
		r.start(20 * time.Second)
		between(t, "context ended after", <-took, 8*time.Second, 9*time.Second)
		is(t, "done", r.count(EventDone), 1)
		r.end()
	})
}

func TestNineMethodsErrorsOfPopDoNotEndThePoller(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		b.set(func() { b.fail["pop"] = errDown })
		r.takes("a", 0)
		r.push("a", 1)
		r.start(time.Minute)
		between(t, "pops in a minute", b.calls["pop"], 50, 150)
		b.set(func() { delete(b.fail, "pop") })
		r.after(5 * time.Second)
		is(t, "done", r.count(EventDone), 1)
		r.end()
	})
}

func TestNineMethodsFetchDoesNotKeepWorkersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNine()
		p := &ninePoller{slowPop{b}, time.Second}
		for range 100 {
			if err := b.Push(&Job{Payload: Payload{Class: "a"}}, "q"); err != nil {
				t.Fatal(err)
			}
		}
		jobs, err := p.Fetch(t.Context(), "q", 100, time.Minute)
		is(t, "error", err, nil)
		between(t, "jobs", len(jobs), 2, 4)
	})
}

type slowPop struct{ *nineBroker }

func (b slowPop) Pop(queue string, timeout int64) (*Job, error) {
	time.Sleep(4 * time.Millisecond)
	return b.nineBroker.Pop(queue, timeout)
}

// A call without a context may hang longer than the engine waits for it. It is
// not made a second time beside itself.
func TestNineMethodsCallThatHangsIsNotRepeated(t *testing.T) {
	inNine(t, func(s *Settings) { s.Timeout = 60 }, func(t *testing.T, b *nineBroker, r *rig) {
		hang := make(chan struct{})
		b.set(func() { b.hang["delete"] = hang })
		r.takes("a", 0)
		id := r.push("a", 1)[0]
		r.start(20 * time.Second)
		is(t, "deletes under way", b.calls["delete"], 1)
		is(t, "events meanwhile", len(r.kinds(id)), 0)
		b.set(func() { delete(b.hang, "delete") })
		close(hang)
		r.after(5 * time.Second)
		is(t, "deletes", b.calls["delete"], 1)
		areSame(t, "events", r.kinds(id), []EventKind{EventDone})
		r.end()
	})
}

func TestNineMethodsBurialIsPushedOnce(t *testing.T) {
	inNine(t, func(s *Settings) { s.Timeout = 60 }, func(t *testing.T, b *nineBroker, r *rig) {
		b.set(func() { b.fail["delete"] = errDown })
		r.handle("a", func(context.Context, *Job) error { return Discard(errors.New("no good")) })
		id := r.push("a", 1)[0]
		r.start(20 * time.Second)
		between(t, "deletes tried", b.calls["delete"], 5, 100)
		b.set(func() { delete(b.fail, "delete") })
		r.after(5 * time.Second)
		areSame(t, "events", r.kinds(id), []EventKind{EventDead})
		is(t, "dead", b.len("q.dead"), 1)
		r.end()
	})
}

func TestNineMethodsAtMostOnce(t *testing.T) {
	inNine(t, func(s *Settings) { s.Timeout = AtMostOnce }, func(t *testing.T, b *nineBroker, r *rig) {
		r.takes("good", 0)
		r.handle("bad", func(context.Context, *Job) error { return errors.New("broken") })
		r.handle("snooze", func(context.Context, *Job) error { return Snooze(time.Hour) })
		r.push("good", 10)
		r.push("bad", 1)
		r.push("snooze", 1)
		r.start(30 * time.Second)
		is(t, "done", r.count(EventDone), 10)
		is(t, "dead", r.count(EventDead), 1)
		is(t, "dead jobs", b.len("q.dead"), 1)
		is(t, "snoozed jobs", b.len("q"), 1)
		r.end()
	})
}

func TestNineMethodsRefuseUniqueJobs(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		err := r.d.Push(t.Context(), &Job{UniqueKey: "k", Payload: Payload{Class: "a"}})
		isError(t, "Push", err, errors.ErrUnsupported)
		is(t, "pushed", b.len("q"), 0)
	})
}

func TestNineMethodsPushIsBoundedByItsContext(t *testing.T) {
	inNine(t, nil, func(t *testing.T, b *nineBroker, r *rig) {
		hang := make(chan struct{})
		b.set(func() { b.hang["push"] = hang })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		err := r.d.Push(ctx, &Job{Payload: Payload{Class: "a"}})
		isError(t, "Push", err, ErrUnknown)
		isError(t, "Push", err, context.DeadlineExceeded)
		is(t, "took", time.Since(begin), time.Second)
		close(hang)
	})
}

func TestNineMethodsStop(t *testing.T) {
	for _, op := range []string{"", "pop", "delete", "release"} {
		t.Run("hanging "+op, func(t *testing.T) {
			inNine(t, func(s *Settings) { s.Concurrency, s.Grace = 2, 2*time.Second }, func(t *testing.T, b *nineBroker, r *rig) {
				r.takes("quick", 20*time.Microsecond)
				r.takes("slow", time.Second)
				r.push("quick", 500)
				r.start(time.Second)
				r.push("slow", 20)
				r.after(1100 * time.Millisecond)
				hang := make(chan struct{})
				b.set(func() { b.hang[op] = hang })
				r.after(100 * time.Millisecond)
				took, err := r.stop()
				between(t, "stop", took, 0, 2*time.Second+stopSlack)
				b.set(func() { delete(b.hang, op) })
				close(hang)
				if op == "" {
					is(t, "error", err, nil)
					is(t, "reserved", len(b.reserved), 0)
				}
				r.after(20 * time.Second)
				b.MigrateExpiredJobs("q")
				done := r.count(EventDone)
				if got := done + b.len("q"); got < 520-2 && op != "" || got != 520 && op == "" {
					t.Errorf("%d done, %d left of 520", done, b.len("q"))
				}
			})
		})
	}
}

// bare hides all but the nine methods of a broker, which still puts its own
// receipts on the jobs.
type bare struct{ Broker }

func TestNineMethodsMayComeWithReceiptsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := NewBroker("memory://")
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, func(s *Settings) { s.Broker, s.MaxAttempts = bare{memory}, 2 })
		r.takes("good", time.Millisecond)
		r.handle("bad", func(context.Context, *Job) error { return errors.New("broken") })
		rounds := 0
		r.handle("cron", func(_ context.Context, job *Job) error {
			rounds++
			return r.d.Broker().ReleaseWithDelay("q", job, 10)
		})
		r.push("good", 10)
		r.push("bad", 1)
		r.push("cron", 1)
		r.start(35 * time.Second)
		is(t, "rounds", rounds, 4)
		is(t, "done", r.count(EventDone), 10)
		is(t, "dead", r.count(EventDead), 1)
		is(t, "lost", r.count(EventLost), 0)
		r.end()
		stats, err := memory.(Inspector).Stats(t.Context(), "q")
		is(t, "left", stats, Stats{Delayed: 1})
		if err != nil {
			t.Error(err)
		}
		_ = r.d.Close()
		_ = memory.Close()
		_ = r.b.Close()
	})
}
