package linda

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestEachJobRunsOnceAndNeverMoreThanConcurrencyAtATime(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.takes("a", 10*time.Millisecond)
		ids := r.push("a", 300)
		r.start(2 * time.Second)
		for _, id := range ids {
			is(t, "runs of "+id, r.ran(id), 1)
		}
		is(t, "done", r.count(EventDone), 300)
		is(t, "most at a time", r.most, 4)
		r.end()
		r.holds(Stats{})
		is(t, "errors logged", r.logged("level=ERROR"), 0)
	})
}

func TestHandlerSeesJobAndItsContext(t *testing.T) {
	type key struct{}
	inRig(t, nil, func(t *testing.T, r *rig) {
		ctx := context.WithValue(context.Background(), key{}, "value")
		var seen atomic.Int32
		r.handle("a", func(ctx context.Context, job *Job) error {
			is(t, "job.Context is the handler's", job.Context(), ctx)
			is(t, "a value of Run's context", ctx.Value(key{}), any("value"))
			is(t, "attempt", job.Attempt(), 1)
			is(t, "queue", job.Queue, "q")
			is(t, "args", fmt.Sprint(job.Payload.Args), "[0]")
			seen.Add(1)
			return nil
		})
		r.push("a", 1)
		ctx, r.cancel = context.WithCancel(ctx)
		go func() { r.stopped <- r.d.Run(ctx) }()
		r.after(time.Second)
		is(t, "runs", seen.Load(), 1)
		r.end()
	})
}

func TestTypedHandlersGetTheirArgument(t *testing.T) {
	type mail struct {
		To string
		N  int64
	}
	inRig(t, nil, func(t *testing.T, r *rig) {
		got := make(chan mail, 1)
		class := Define[mail]("mail", MaxAttempts(3))
		class.Handle(r.d, func(_ context.Context, m mail) error { got <- m; return nil })
		want := mail{"a@b.c", 1<<53 + 1}
		if _, err := class.Push(t.Context(), r.d, want); err != nil {
			t.Fatal(err)
		}
		r.start(time.Second)
		is(t, "argument", <-got, want)
		r.end()
	})
}

func TestTheLastHandlerOfAClassCounts(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.handle("a", func(context.Context, *Job) error { return errors.New("first") })
		r.takes("a", 0)
		r.push("a", 1)
		r.start(time.Second)
		is(t, "done", r.count(EventDone), 1)
		r.end()
	})
}

func TestMiddlewareWrapsInOrderWheneverItWasAdded(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		var trace strings.Builder
		wrap := func(name string) Middleware {
			return func(next Handler) Handler {
				return HandlerFunc(func(ctx context.Context, job *Job) error {
					fmt.Fprintf(&trace, "%s(", name)
					defer fmt.Fprint(&trace, ")")
					return next.Handle(ctx, job)
				})
			}
		}
		r.d.Use(wrap("a"), wrap("b"))
		r.takes("x", 0)
		r.d.Use(wrap("c"))
		r.push("x", 1)
		r.start(time.Second)
		r.end()
		is(t, "trace", trace.String(), "a(b(c()))")
	})
}

func TestHandlersOfDispatchersDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newRig(t, nil), newRig(t, nil)
		for name, r := range map[string]*rig{"a": a, "b": b} {
			r.handle("same", func(_ context.Context, job *Job) error {
				is(t, "rig", fmt.Sprint(job.Payload.Args[0]), name)
				return nil
			})
			for range 20 {
				if err := r.d.Push(t.Context(), &Job{Payload: Payload{Class: "same", Args: []any{name}}}); err != nil {
					t.Fatal(err)
				}
			}
			r.start(0)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, r := range []*rig{a, b} {
			is(t, "done", r.count(EventDone), 20)
			r.end()
		}
	})
}

func TestFailureIsRetriedWithBackoffAndDeadAtMaxAttempts(t *testing.T) {
	cases := []struct {
		name    string
		max     int // of Settings
		jobMax  int
		wantRun int
	}{
		{"settings", 4, 0, 4},
		{"job wins", 4, 2, 2},
		{"job wins upwards", 2, 5, 5},
		{"once", 1, 0, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inRig(t, func(s *Settings) { s.MaxAttempts = c.max }, func(t *testing.T, r *rig) {
				var at []time.Duration
				begin := time.Now()
				r.handle("a", func(_ context.Context, job *Job) error {
					at = append(at, time.Since(begin))
					is(t, "attempt", job.Attempt(), len(at))
					is(t, "failures", job.Failures(), len(at)-1)
					return errors.New("broken")
				})
				if err := r.d.Push(t.Context(), &Job{ID: "x", MaxAttempts: c.jobMax, Payload: Payload{Class: "a"}}); err != nil {
					t.Fatal(err)
				}
				r.start(time.Minute)
				is(t, "runs", len(at), c.wantRun)
				for i := 1; i < len(at); i++ {
					wait := at[i] - at[i-1]
					between(t, fmt.Sprintf("wait before run %d", i+1), wait, time.Duration(i)*time.Second, time.Duration(i)*time.Second+50*time.Millisecond)
				}
				r.end()
				r.holds(Stats{Dead: 1})
				dead := r.peek(Dead)[0]
				is(t, "reason", dead.LastError(), "broken")
				is(t, "retried", r.count(EventRetried), c.wantRun-1)
				is(t, "dead", r.count(EventDead), 1)
			})
		})
	}
}

func TestAnswersOfHandlers(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxAttempts = 3 }, func(t *testing.T, r *rig) {
		var snoozed, retried []time.Time
		r.handle("snooze", func(_ context.Context, job *Job) error {
			is(t, "attempt of a snoozed job", job.Attempt(), 1)
			if snoozed = append(snoozed, time.Now()); len(snoozed) <= 10 {
				return fmt.Errorf("wrapped: %w", Snooze(7*time.Second))
			}
			return nil
		})
		r.handle("retry", func(context.Context, *Job) error {
			retried = append(retried, time.Now())
			return RetryIn(20*time.Second, errors.New("not yet"))
		})
		r.handle("discard", func(context.Context, *Job) error { return Discard(errors.New("no good")) })
		for _, class := range []string{"snooze", "retry", "discard"} {
			r.push(class, 1)
		}
		r.start(5 * time.Minute)
		r.end()
		is(t, "runs of the snoozed job", len(snoozed), 11)
		between(t, "nap", snoozed[1].Sub(snoozed[0]), 7*time.Second, 7100*time.Millisecond)
		is(t, "runs of the retried job", len(retried), 3)
		between(t, "wait", retried[1].Sub(retried[0]), 20*time.Second, 20100*time.Millisecond)
		is(t, "runs of the discarded job", r.ran("discard-0000"), 1)
		r.holds(Stats{Dead: 2})
		is(t, "reasons", r.peek(Dead)[0].LastError()+", "+r.peek(Dead)[1].LastError(), "no good, not yet")
	})
}

func TestUnknownClassIsRetriedThenDeadNeverHot(t *testing.T) {
	inRig(t, func(s *Settings) { s.MaxAttempts = 5 }, func(t *testing.T, r *rig) {
		ids := r.push("nobody", 1)
		r.start(900 * time.Millisecond)
		is(t, "retries in the first second", r.count(EventRetried), 1)
		r.after(time.Minute)
		r.end()
		is(t, "end", r.kinds(ids[0])[4], EventDead)
		r.holds(Stats{Dead: 1})
		if reason := r.peek(Dead)[0].LastError(); !strings.Contains(reason, "unknown class") {
			t.Errorf("reason: %q", reason)
		}
	})
}

func TestMisbehavingHandlerFailsAndItsWorkerComesBack(t *testing.T) {
	cases := map[string]func() error{
		"panic(string)":      func() error { panic("oh") },
		"panic(error)":       func() error { panic(errDown) },
		"panic(nil)":         func() error { panic(nil) },
		"runtime error":      func() error { var p *int; *p = 1; return nil },
		"panic in defer":     func() error { defer func() { panic("later") }(); return nil },
		"runtime.Goexit":     func() error { runtime.Goexit(); return nil },
		"Goexit in defer":    func() error { defer runtime.Goexit(); return nil },
		"Goexit after panic": func() error { defer runtime.Goexit(); panic("oh") },
		"error of nil":       func() error { var e *nilError; return e },
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency, s.MaxAttempts = 1, 3 }, func(t *testing.T, r *rig) {
				r.handle("bad", func(context.Context, *Job) error { return f() })
				r.takes("good", time.Millisecond)
				bad := r.push("bad", 1)[0]
				r.push("good", 50)
				r.start(time.Minute)
				is(t, "runs", r.ran(bad), 3)
				is(t, "done", r.count(EventDone), 50)
				is(t, "most at a time", r.most, 1)
				r.end()
				r.holds(Stats{Dead: 1})
				if !strings.Contains(name, "Goexit") {
					is(t, "stacks logged", r.logged("stack="), 3)
				}
			})
		})
	}
}

func TestPanicKeepsItsErrorAndStack(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		var got error
		r.d.Use(func(next Handler) Handler { return next })
		r.handle("a", func(context.Context, *Job) error { panic(errDown) })
		r.push("a", 1)
		r.start(500 * time.Millisecond)
		r.mu.Lock()
		got = r.events[0].Err
		r.mu.Unlock()
		isError(t, "event", got, errDown)
		var p *PanicError
		if !errors.As(got, &p) || !strings.Contains(string(p.Stack), "TestPanicKeepsItsErrorAndStack") {
			t.Errorf("no stack in %v", got)
		}
		r.end()
	})
}

func TestHandlerMayChangeItsJob(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.handle("a", func(_ context.Context, job *Job) error {
			job.Queue, job.ID, job.Payload.Class = "other", "", "b"
			return r.d.Broker().Push(job, "other")
		})
		id := r.push("a", 1)[0]
		r.start(time.Second)
		r.end() // r.count checks that the event names queue and id
		areSame(t, "events", r.kinds(id), []EventKind{EventDone})
		r.holds(Stats{})
	})
}

// The owner's cron example: the job is released by its handler, for ever.
func TestHandlerThatReleasesItsJobRunsAgainForEver(t *testing.T) {
	for _, answer := range []error{nil, errors.New("ignored")} {
		t.Run(fmt.Sprint(answer), func(t *testing.T) {
			inRig(t, func(s *Settings) { s.MaxAttempts = 2 }, func(t *testing.T, r *rig) {
				var at []time.Time
				r.handle("cron", func(_ context.Context, job *Job) error {
					at = append(at, time.Now())
					if err := r.d.Broker().ReleaseWithDelay("q", job, 60); err != nil {
						t.Error(err)
					}
					return answer
				})
				id := r.push("cron", 1)[0]
				r.start(100*60*time.Second + time.Second)
				is(t, "runs", len(at), 101)
				for i := 1; i < len(at); i++ {
					between(t, "period", at[i].Sub(at[i-1]), 60*time.Second, 60*time.Second+20*time.Millisecond)
				}
				is(t, "events", len(r.kinds(id)), 101)
				is(t, "settled", r.count(EventSettled), 101)
				r.end()
				r.holds(Stats{Delayed: 1})
				is(t, "exchanges of the engine", r.b.count("settle"), 0)
			})
		})
	}
}

func TestReleaseByHandlerIsCarriedOutThoughTheBrokerFailed(t *testing.T) {
	faults := map[string]fault{
		"before":  {err: errDown},
		"unknown": {err: ErrUnknown},
		"after":   {late: ErrUnknown},
		"hangs":   {hang: true},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			inRig(t, nil, func(t *testing.T, r *rig) {
				r.b.always(f, "release")
				r.b.on("settle", func(n int) fault { // which is down too, at first
					if n < 5 {
						return fault{err: errDown}
					}
					return fault{}
				})
				r.handle("cron", func(_ context.Context, job *Job) error {
					err := r.d.Broker().ReleaseWithDelay("q", job, 60)
					if err == nil {
						t.Error("the release should have failed")
					}
					return err
				})
				id := r.push("cron", 1)[0]
				r.start(30 * time.Second)
				areSame(t, "events", r.kinds(id), []EventKind{EventSettled})
				r.holds(Stats{Delayed: 1})
				r.after(45 * time.Second)
				is(t, "runs", r.ran(id), 2)
				r.after(10 * time.Second)
				r.end()
				r.holds(Stats{Delayed: 1})
			})
		})
	}
}

func TestHandlerSettlesTwiceAndTheFirstCounts(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.handle("a", func(_ context.Context, job *Job) error {
			b := r.d.Broker()
			if err := b.Delete("q", job); err != nil {
				t.Error(err)
			}
			isError(t, "second", b.ReleaseWithDelay("q", job, 1), ErrNotReserved)
			again := *job
			isError(t, "of a copy", b.Release("q", &again), ErrNotReserved)
			return errors.New("ignored")
		})
		id := r.push("a", 1)[0]
		r.start(10 * time.Second)
		areSame(t, "events", r.kinds(id), []EventKind{EventSettled})
		r.end()
		r.holds(Stats{})
	})
}

// A goroutine of the handler settles the job while or after the handler returns.
func TestHandlerSettlesInAnotherGoroutine(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.b.always(fault{wait: 2 * time.Second}, "release")
		r.handle("during", func(_ context.Context, job *Job) error {
			go func() {
				if err := r.d.Broker().ReleaseWithDelay("q", job, 3600); err != nil {
					t.Error(err)
				}
			}()
			return sleep(context.Background(), time.Millisecond)
		})
		r.handle("failing", func(_ context.Context, job *Job) error {
			go func() {
				r.b.always(fault{wait: 2 * time.Second, err: errDown}, "release")
				isError(t, "release", r.d.Broker().ReleaseWithDelay("q", job, 3600), errDown)
			}()
			return sleep(context.Background(), time.Millisecond)
		})
		during := r.push("during", 1)[0]
		r.start(500 * time.Millisecond)
		is(t, "events before the goroutine is done", len(r.kinds(during)), 0)
		r.after(5 * time.Second)
		areSame(t, "events", r.kinds(during), []EventKind{EventSettled})
		failing := r.push("failing", 1)[0]
		r.after(8 * time.Second)
		areSame(t, "events", r.kinds(failing), []EventKind{EventSettled})
		r.end()
		r.holds(Stats{Delayed: 2})
	})
}

func TestHandlerContextTellsItsCause(t *testing.T) {
	cause := make(chan error, 1)
	waits := func(ctx context.Context, _ *Job) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}
	push := func(r *rig, limit time.Duration) {
		if err := r.d.Push(context.Background(), &Job{ID: "x", TimeLimit: limit, Payload: Payload{Class: "a"}}); err != nil {
			r.t.Fatal(err)
		}
	}
	t.Run("time limit of the job", func(t *testing.T) {
		inRig(t, func(s *Settings) { s.TimeLimit = time.Hour }, func(t *testing.T, r *rig) {
			r.handle("a", waits)
			push(r, 3*time.Second)
			r.start(3100 * time.Millisecond)
			is(t, "cause", <-cause, ErrTimeLimit)
			areSame(t, "events", r.kinds("x"), []EventKind{EventRetried})
			r.end()
		})
	})
	t.Run("time limit of the settings", func(t *testing.T) {
		inRig(t, func(s *Settings) { s.TimeLimit = 2 * time.Second }, func(t *testing.T, r *rig) {
			r.handle("a", waits)
			push(r, 0)
			r.start(2100 * time.Millisecond)
			is(t, "cause", <-cause, ErrTimeLimit)
			r.end()
		})
	})
	t.Run("stop", func(t *testing.T) {
		inRig(t, func(s *Settings) { s.Grace = 5 * time.Second }, func(t *testing.T, r *rig) {
			r.handle("a", waits)
			push(r, 0)
			r.start(time.Second)
			took, _ := r.stop()
			between(t, "stop", took, 5*time.Second, 5010*time.Millisecond)
			is(t, "cause", <-cause, ErrStopping)
			areSame(t, "events", r.kinds("x"), []EventKind{EventReleased})
			r.holds(Stats{Ready: 1})
			is(t, "attempts", r.peek(Ready)[0].Attempt(), 0)
		})
	})
}

func TestSettingsAreCheckedBeforeAnythingStarts(t *testing.T) {
	before := runtime.NumGoroutine()
	_, err := New(Settings{Queue: "a b", Connection: "memory://", Timeout: -5, Concurrency: -1, MaxAttempts: -1, MaxCrashes: -1,
		TimeLimit: -1, Grace: -1, IntervalFloat: -1})
	for _, field := range []string{"Queue", "Timeout", "Concurrency", "MaxAttempts", "MaxCrashes", "TimeLimit", "Grace", "IntervalFloat"} {
		if err == nil || !strings.Contains(err.Error(), "Settings."+field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	isError(t, "New", err, ErrBadName)
	is(t, "goroutines", runtime.NumGoroutine(), before)
}
