package linda

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// inLimitedRig is inRig with limits.
func inLimitedRig(t *testing.T, change func(*Settings), limits []Limit, test func(t *testing.T, r *rig)) {
	t.Helper()
	inRig(t, change, func(t *testing.T, r *rig) {
		for _, l := range limits {
			isError(t, "Limit", r.d.Limit(l), nil)
		}
		test(t, r)
	})
}

// running returns how many handlers run, and mostAtOnce how many ever did.
func (r *rig) running() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

func (r *rig) mostAtOnce() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

func TestLimitsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	inRig(t, nil, func(t *testing.T, r *rig) {
		for _, l := range []Limit{
			{}, {Class: "c"}, {Running: 5}, {Class: "c", Queue: "q", Running: 5}, {Class: "c", Running: -1},
			{Class: "c", Running: 1, Rate: 1, Per: time.Second}, {Class: "c", Rate: 5}, {Class: "c", Running: 5, Per: time.Second},
			{Class: "c", Rate: -1, Per: time.Second}, {Class: "c", Rate: 1, Per: -time.Second}, {Queue: "a b", Running: 1},
			{Class: "c", Running: 100_001}, {Class: "c", Rate: 1, Per: 32 * 24 * time.Hour},
		} {
			if r.d.Limit(l) == nil {
				t.Errorf("%+v is taken", l)
			}
		}
		isError(t, "a limit", r.d.Limit(Limit{Class: "c", Running: 5}), nil)
		isError(t, "a rate beside it", r.d.Limit(Limit{Class: "c", Rate: 5, Per: time.Second}), nil)
		if r.d.Limit(Limit{Class: "c", Running: 6}) == nil {
			t.Error("a limit is set twice")
		}
	})
}

func TestLimitsNeedALimiter(t *testing.T) {
	t.Parallel()
	d, err := New(Settings{Broker: newNine()})
	isError(t, "New", err, nil)
	isError(t, "Limit", d.Limit(Limit{Class: "c", Running: 1}), errors.ErrUnsupported)
	late := &Dispatcher{handlers: make(map[string]Handler)}
	isError(t, "Limit of one that is not open", late.Limit(Limit{Class: "c", Running: 1}), nil)
	isError(t, "open", late.open(Settings{Broker: newNine()}), nil)
	isError(t, "Run", late.Run(t.Context()), errors.ErrUnsupported)
}

func TestNoMoreJobsOfAClassRunThanItsLimitAndOthersAreNotHeldUp(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.Concurrency = 10 }, []Limit{{Class: "slow", Running: 2}}, func(t *testing.T, r *rig) {
		var live, most atomic.Int64
		r.handle("slow", func(ctx context.Context, _ *Job) error {
			most.Store(max(most.Load(), live.Add(1)))
			defer live.Add(-1)
			return sleep(ctx, 100*time.Millisecond)
		})
		r.takes("quick", 10*time.Millisecond)
		r.push("slow", 200)
		quick := r.push("quick", 50)
		r.start(2 * time.Second)
		for _, id := range quick {
			is(t, "runs of "+id, r.ran(id), 1)
		}
		r.after(9 * time.Second) // 200 jobs of 100 ms by twos are 10 s
		is(t, "done", r.count(EventDone), 250)
		is(t, "most at once", most.Load(), 2)
		r.end()
		r.holds(Stats{})
		is(t, "limits that are left", len(r.b.store.limits), 0)
	})
}

func TestAnAttemptIsNotCountedForAJobThatFindsItsLimitFull(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, nil, []Limit{{Class: "c", Running: 1}}, func(t *testing.T, r *rig) {
		var wrong atomic.Int64
		r.handle("c", func(ctx context.Context, job *Job) error {
			if job.Attempt() != 1 || job.Crashes() != 0 {
				wrong.Add(1)
			}
			return sleep(ctx, time.Second)
		})
		r.push("c", 20)
		r.start(30 * time.Second)
		is(t, "done", r.count(EventDone), 20)
		if r.count(EventLimited) == 0 {
			t.Error("none was put back")
		}
		is(t, "jobs with another attempt than the first", wrong.Load(), 0)
		r.end()
	})
}

func TestNoMoreJobsOfAQueueRunThanItsLimitAndNoneIsPutBack(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, nil, []Limit{{Queue: "q", Running: 3}, {Queue: "other", Running: 1}}, func(t *testing.T, r *rig) {
		r.takes("c", 100*time.Millisecond)
		r.takes("d", 100*time.Millisecond)
		r.push("c", 60)
		r.push("d", 60)
		r.start(4200 * time.Millisecond)
		is(t, "done", r.count(EventDone), 120)
		is(t, "most at once", r.mostAtOnce(), 3)
		is(t, "put back", r.count(EventLimited), 0)
		r.end()
	})
}

func TestNoMoreJobsStartInAPeriodThanTheRate(t *testing.T) {
	t.Parallel()
	for _, limit := range []Limit{{Class: "c", Rate: 5, Per: time.Second}, {Queue: "q", Rate: 5, Per: time.Second}} {
		inLimitedRig(t, nil, []Limit{limit}, func(t *testing.T, r *rig) {
			var mu sync.Mutex
			var starts []time.Time
			r.handle("c", func(context.Context, *Job) error {
				mu.Lock()
				defer mu.Unlock()
				starts = append(starts, time.Now())
				return nil
			})
			r.push("c", 50)
			r.start(9500 * time.Millisecond)
			is(t, "started", len(starts), 50)
			for i := 5; i < len(starts); i++ {
				if gap := starts[i].Sub(starts[i-5]); gap < time.Second {
					t.Errorf("start %d is %v after start %d", i, gap, i-5)
				}
			}
			r.end()
		})
	}
}

func TestAJobNeedsASlotOfEachOfItsLimits(t *testing.T) {
	t.Parallel()
	limits := []Limit{{Class: "c", Running: 2}, {Class: "c", Rate: 3, Per: time.Second}, {Queue: "q", Running: 3}}
	inLimitedRig(t, nil, limits, func(t *testing.T, r *rig) {
		r.takes("c", 100*time.Millisecond)
		r.takes("d", 500*time.Millisecond)
		r.push("c", 30)
		r.push("d", 30)
		r.start(30 * time.Second)
		is(t, "done", r.count(EventDone), 60)
		between(t, "most at once", r.mostAtOnce(), 1, 3)
		r.end()
		for name := range r.b.store.limits {
			if name != "rate:class:c" {
				t.Errorf("slots are left in %s", name)
			}
		}
	})
}

func TestALimitHoldsForAllProcessesAndADeadOneLosesItsSlots(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.Timeout = 10 }, []Limit{{Class: "c", Running: 3}}, func(t *testing.T, r *rig) {
		dead := []string{"x.1", "x.2"} // slots of a process that is no more
		n, _, err := r.b.TakeSlots(t.Context(), "running:class:c", 3, 10*time.Second, dead)
		is(t, "slots", n, 2)
		isError(t, "TakeSlots", err, nil)
		second, err := New(Settings{Queue: "q", Broker: r.b, Logger: slog.New(slog.NewTextHandler(r, nil))})
		isError(t, "New", err, nil)
		isError(t, "Limit", second.Limit(Limit{Class: "c", Running: 3}), nil)
		r.takes("c", time.Second)
		second.Handle("c", r.d.handlers["c"])
		r.push("c", 100)
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan error, 1)
		go func() { over <- second.Run(ctx) }()
		r.start(9 * time.Second)
		is(t, "most at once", r.mostAtOnce(), 1)
		r.after(2300 * time.Millisecond)
		is(t, "run at once when the lease has ended", r.running(), 3)
		r.after(60 * time.Second)
		is(t, "most at once", r.mostAtOnce(), 3)
		cancel()
		isError(t, "Run", <-over, nil)
		r.end()
		r.holds(Stats{})
	})
}

func TestAHandlerThatLosesItsSlotIsToldBeforeAnotherHasIt(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.Timeout = 10 }, []Limit{{Class: "c", Running: 1}}, func(t *testing.T, r *rig) {
		var told time.Time
		r.handle("c", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			if told.IsZero() && errors.Is(context.Cause(ctx), ErrLeaseLost) {
				told = time.Now()
			}
			return ctx.Err()
		})
		r.push("c", 1)
		r.start(time.Minute)
		is(t, "it is kept while it is renewed", told.IsZero(), true)
		since := time.Now()
		r.b.always(fault{hang: true}, "renew")
		r.after(20 * time.Second)
		between(t, "told after", told.Sub(since), time.Second, 10*time.Second)
		r.b.always(fault{}, "renew")
		r.end()
	})
}

func TestHandlersThatOutlastALeaseKeepTheirSlots(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.Timeout = 2 }, []Limit{{Class: "c", Running: 2}}, func(t *testing.T, r *rig) {
		r.takes("c", 11*time.Second)
		r.push("c", 6)
		r.start(35 * time.Second)
		is(t, "done", r.count(EventDone), 6)
		is(t, "most at once", r.mostAtOnce(), 2)
		r.end()
	})
}

func TestALimiterThatFailsHoldsUpWhatIsLimitedAndNothingElse(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, nil, []Limit{{Class: "c", Running: 2}}, func(t *testing.T, r *rig) {
		r.takes("c", 10*time.Millisecond)
		r.takes("d", 10*time.Millisecond)
		r.b.always(fault{err: errDown}, "take")
		r.push("c", 10)
		r.push("d", 100)
		r.start(10 * time.Second)
		is(t, "done", r.count(EventDone), 100)
		between(t, "tries", r.b.count("take"), 5, 40)
		is(t, "errors in the log", r.logged("level=ERROR"), 1)
		r.b.always(fault{late: errDown}, "take") // slots are taken, nobody knows
		r.after(10 * time.Second)
		is(t, "done", r.count(EventDone), 100)
		r.b.always(fault{}, "take")
		r.after(35 * time.Second)
		is(t, "done", r.count(EventDone), 110)
		r.end()
		is(t, "limits that are left", len(r.b.store.limits), 0)
	})
}

func TestAStopGivesBackTheSlotsAndTheJobsThatWaitForThem(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.Concurrency = 10 }, []Limit{{Class: "c", Running: 2}}, func(t *testing.T, r *rig) {
		r.takes("c", time.Second)
		r.push("c", 9)
		r.start(500 * time.Millisecond)
		r.end()
		s, err := r.b.Stats(t.Context(), "q")
		isError(t, "Stats", err, nil)
		is(t, "done", r.count(EventDone), 2)
		is(t, "reserved", s.Reserved, 0)
		is(t, "all", s.Ready+s.Delayed, 7)
		is(t, "limits that are left", len(r.b.store.limits), 0)
	})
}

func TestSuspectsOfALimitedClassRunAloneAndInTheEnd(t *testing.T) {
	t.Parallel()
	inLimitedRig(t, func(s *Settings) { s.MaxCrashes = 2 }, []Limit{{Class: "c", Running: 1}}, func(t *testing.T, r *rig) {
		r.takes("c", 100*time.Millisecond)
		r.push("c", 12)
		for range 3 {
			if _, err := r.b.Pop("q", 1); err != nil { // each has a crash
				t.Fatal(err)
			}
		}
		r.after(2 * time.Second)
		r.start(2 * time.Minute)
		is(t, "done", r.count(EventDone), 12)
		is(t, "most at once", r.mostAtOnce(), 1)
		r.end()
	})
}

// With a thousand jobs that wait, each exchange is counted.
func TestALimitThatIsFullIsNoHotLoop(t *testing.T) {
	t.Parallel()
	for _, took := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		t.Run(fmt.Sprint(took), func(t *testing.T) {
			t.Parallel()
			inLimitedRig(t, func(s *Settings) { s.Concurrency = 10 }, []Limit{{Class: "c", Running: 5}}, func(t *testing.T, r *rig) {
				r.takes("c", took)
				r.push("c", 1000)
				count := func() int {
					n := 0
					for _, op := range []string{"fetch", "settle", "take", "renew", "free", "touch"} {
						n += r.b.count(op)
					}
					return n
				}
				r.start(2 * time.Second) // for the first look at all of them
				first := count()
				for i := range 4 {
					calls, done := count(), r.count(EventDone)
					if done == 1000 {
						break
					}
					r.after(time.Second)
					calls, done = count()-calls, r.count(EventDone)-done
					t.Logf("%v, second %d: %d calls, %d jobs done", took, i+3, calls, done)
					between(t, "calls in a second", calls, 1, 100+5*done)
				}
				t.Logf("%v: %d calls in the first 2 s", took, first)
				whole := time.Duration(1000/5) * took
				r.after(whole - 6*time.Second + whole/20 + 500*time.Millisecond)
				is(t, "done", r.count(EventDone), 1000)
				r.end()
			})
		})
	}
}

func TestPaceOfALimit(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := pace{Limit: Limit{Class: "c", Running: 5}, workers: 10}
	is(t, "stock before anything is known", p.stock(now), 5)
	p.begins(now)
	p.ended(100 * time.Millisecond)
	is(t, "stock", p.stock(now), 12)
	var last time.Duration
	for range 1000 {
		last = p.putBack(now)
	}
	between(t, "the last of 1000, of which 100 return in a second", last, 10*time.Second, 12*time.Second)
	between(t, "later", p.putBack(now.Add(time.Minute)), 500*time.Millisecond, 600*time.Millisecond)
	for range 100_000 {
		last = p.putBack(now)
	}
	is(t, "the last of very many", last, backMost)
	slow := pace{Limit: Limit{Class: "c", Rate: 1, Per: time.Hour}, workers: 10}
	is(t, "stock of a slow rate", slow.stock(now), 1)
	between(t, "back", slow.putBack(now), time.Second, 2*time.Second)
}

func TestAProcessThatHasAllSlotsLetsOthersHaveSome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newFaulty(t)
		defer b.Close()
		defer close(b.over)
		var stops []func()
		var ran [2]atomic.Int64
		for i := range 2 {
			d, err := New(Settings{Queue: fmt.Sprint("q", i), Broker: b, Logger: slog.New(slog.DiscardHandler)})
			isError(t, "New", err, nil)
			isError(t, "Limit", d.Limit(Limit{Class: "c", Running: 2}), nil)
			d.HandleFunc("c", func(ctx context.Context, _ *Job) error {
				ran[i].Add(1)
				return sleep(ctx, 50*time.Millisecond)
			})
			jobs := slices.Repeat([]*Job{{Payload: Payload{Class: "c"}}}, 10_000)
			isError(t, "PushBatch", d.PushBatch(context.Background(), jobs), nil)
			ctx, cancel := context.WithCancel(context.Background())
			over := make(chan error, 1)
			go func() { over <- d.Run(ctx) }()
			stops = append(stops, func() { cancel(); <-over })
			time.Sleep(time.Second) // the first has them all
		}
		time.Sleep(time.Minute)
		for i := range 2 {
			if n := ran[i].Load(); n < 50 {
				t.Errorf("process %d ran %d of %d", i, n, ran[0].Load()+ran[1].Load())
			}
		}
		t.Logf("%d and %d", ran[0].Load(), ran[1].Load())
		between(t, "all together", int(ran[0].Load()+ran[1].Load()), 2200, 2450)
		for _, stop := range stops {
			stop()
		}
	})
}
