package linda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// office is some processes on one broker, in a bubble: each has a Dispatcher
// with the same schedules, whose jobs are recorded.
type office struct {
	t     testing.TB
	b     *faulty
	start time.Time

	mu   sync.Mutex
	log  strings.Builder
	jobs []string // "class after-start" of the tick, in the order they ran
	late []time.Duration
}

func inOffice(t *testing.T, test func(t *testing.T, o *office)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &office{t: t, b: newFaulty(t), start: time.Now()}
		defer func() {
			close(o.b.over)
			_ = o.b.Close()
		}()
		test(t, o)
	})
}

func (o *office) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(p)
}

// process starts a Dispatcher with schedules, and returns what stops it.
func (o *office) process(schedules func(d *Dispatcher)) (stop func()) {
	o.t.Helper()
	d, err := New(Settings{Queue: "q", Broker: o.b, Logger: slog.New(slog.NewTextHandler(o, nil))})
	if err != nil {
		o.t.Fatal(err)
	}
	d.HandleFunc("c", o.record)
	schedules(d)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		isError(o.t, "stop", <-done, nil)
		_ = d.Close()
		synctest.Wait()
	}
}

func (o *office) record(_ context.Context, job *Job) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	name, _, _ := strings.Cut(job.ID, "@")
	o.jobs = append(o.jobs, fmt.Sprint(name, " ", job.Tick().Sub(o.start)))
	o.late = append(o.late, time.Since(job.Tick()))
	return nil
}

// pass lets time pass, and what is due at its end happen.
func (o *office) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// ran checks the jobs that ran since it was last asked.
func (o *office) ran(want ...string) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	slices.Sort(o.jobs) // workers are side by side
	areSame(o.t, "jobs that ran", o.jobs, want)
	o.jobs = nil
}

func (o *office) logged(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.log.String(), text)
}

// every is a schedule of jobs of class c.
func every(t testing.TB, name, spec string, options ...ScheduleOption) func(d *Dispatcher) {
	return func(d *Dispatcher) {
		t.Helper()
		isError(t, "Schedule", d.Schedule(name, spec, &Job{Payload: Payload{Class: "c"}}, options...), nil)
	}
}

func TestEachTickRunsOnceInWhateverNumberOfProcesses(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		const processes, schedules, seconds = 3, 100, 60
		var stops []func()
		for range processes {
			stops = append(stops, o.process(func(d *Dispatcher) {
				for i := range schedules {
					every(t, fmt.Sprint("s", i), "* * * * * *")(d)
				}
			}))
		}
		o.pass(seconds*time.Second + 500*time.Millisecond)
		for _, stop := range stops {
			stop()
		}
		seen := make(map[string]int)
		for _, job := range o.jobs {
			seen[job]++
		}
		is(t, "jobs", len(o.jobs), schedules*seconds)
		is(t, "ticks", len(seen), schedules*seconds)
		is(t, "earliest", slices.Min(o.late), 0)
		is(t, "latest", slices.Max(o.late), 0)
		if calls := o.b.count("tick"); calls > processes*(seconds+2) {
			t.Errorf("%d calls of the broker, want one for each process and second", calls)
		}
	})
}

func TestASchedulePushesItsJobAsItWas(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		args := []any{json.Number("12345678901234567890"), "x"}
		job := &Job{
			Payload: Payload{Class: "other", Args: args}, MaxAttempts: 3, TimeLimit: time.Minute,
			Headers: map[string]string{"trace": "1"}, ID: "not used", Queue: "elsewhere",
		}
		stop := o.process(func(d *Dispatcher) {
			isError(t, "Schedule", d.Schedule("s", "@every 10s", job), nil)
			isError(t, "Schedule", Define[int]("typed", OnQueue("elsewhere"), MaxAttempts(2)).Schedule(d, "typed", "@every 30s", 7), nil)
			args[1], job.Headers["trace"] = "changed", "changed"
		})
		o.pass(30 * time.Second)
		stop()
		jobs, err := o.b.Peek(t.Context(), "elsewhere", Ready, 10)
		isError(t, "Peek", err, nil)
		is(t, "jobs", len(jobs), 4)
		first, typed := jobs[0], jobs[3]
		is(t, "id", first.ID, "s@2000-01-01T00:00:10Z")
		is(t, "arguments", string(first.Body()), `{"queue":"elsewhere","Payload":{"class":"other","args":[12345678901234567890,"x"]}}`)
		is(t, "MaxAttempts", first.MaxAttempts, 3)
		is(t, "TimeLimit", first.TimeLimit, time.Minute)
		is(t, "header", first.Headers["trace"], "1")
		is(t, "tick", first.Tick(), o.start.Add(10*time.Second).UTC())
		is(t, "the typed one", string(typed.Body()), `{"queue":"elsewhere","Payload":{"class":"typed","args":[7]}}`)
		is(t, "its MaxAttempts", typed.MaxAttempts, 2)
		is(t, "a job of no schedule", new(Job).Tick(), time.Time{})
	})
}

func TestMissedTicks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		spec   string
		policy []ScheduleOption
		down   time.Duration // from 10m30s after the start
		want   []string      // what runs at the restart, and within a minute of it
	}{
		{"once is the default", "@every 1m", nil, time.Hour, []string{"s 1h10m0s", "s 1h11m0s"}},
		{"once, half an hour late", "@every 2h", []ScheduleOption{Missed(MissedOnce)}, 140 * time.Minute, []string{"s 2h0m0s"}},
		{"none was missed", "@every 1h", nil, 10 * time.Minute, nil},
		{"skip, if it is late", "@every 2h", []ScheduleOption{Missed(MissedSkip)}, 140 * time.Minute, nil},
		{"skip, if it is not late", "@every 1m", []ScheduleOption{Missed(MissedSkip)}, time.Hour, []string{"s 1h10m0s", "s 1h11m0s"}},
		{"skip, those before the latest", "@every 2m", []ScheduleOption{Missed(MissedSkip)}, 61 * time.Minute, []string{"s 1h12m0s"}},
		{"all", "@every 1m", []ScheduleOption{Missed(MissedAll)}, 3 * time.Minute,
			[]string{"s 11m0s", "s 12m0s", "s 13m0s", "s 14m0s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inOffice(t, func(t *testing.T, o *office) {
				schedule := every(t, "s", test.spec, test.policy...)
				first, second := o.process(schedule), o.process(schedule)
				o.pass(10*time.Minute + 30*time.Second)
				first()
				second()
				o.jobs = nil
				o.pass(test.down)
				first, second = o.process(schedule), o.process(schedule)
				o.pass(59 * time.Second)
				first()
				second()
				o.ran(test.want...)
				if n := o.logged("ticks were missed"); n > 2 {
					t.Errorf("told %d times that ticks were missed, want once for each process at most", n)
				}
			})
		})
	}
}

func TestAllMissedTicksArePushedHoweverMany(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		schedule := every(t, "s", "@every 1s", Missed(MissedAll))
		o.process(schedule)()
		o.pass(1000*time.Second + time.Millisecond)
		stop := o.process(schedule)
		o.pass(500 * time.Millisecond)
		stop()
		is(t, "jobs", len(o.jobs), 1000)
		slices.Sort(o.jobs)
		is(t, "different ones", len(slices.Compact(o.jobs)), 1000)
	})
}

func TestAScheduleBeginsWhenItFirstRuns(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		schedule := every(t, "s", "@every 1h", Missed(MissedAll))
		o.pass(5 * time.Hour)
		stop := o.process(schedule)
		o.pass(30 * time.Minute)
		o.ran()
		stop()
		o.pass(time.Hour)
		stop = o.process(schedule) // its very first tick was missed
		o.pass(time.Second)
		o.ran("s 6h0m0s")
		stop()
	})
}

func TestAScheduleWithAnotherSpecBeginsAnew(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		o.process(every(t, "s", "@every 1h", Missed(MissedAll)))()
		o.pass(59 * time.Minute)
		stop := o.process(every(t, "s", "@every 1m", Missed(MissedAll)))
		o.pass(2 * time.Minute)
		stop()
		o.ran("s 1h0m0s", "s 1h1m0s")
	})
}

func TestAScheduleThatNobodyRegistersDoesNothing(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		o.process(every(t, "old", "@every 1m"))()
		stop := o.process(every(t, "new", "@every 1m"))
		o.pass(time.Minute)
		stop()
		o.ran("new 1m0s")
	})
}

func TestATickIsTriedUntilTheBrokerTakesIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		f    fault
	}{
		{"refused", fault{err: errDown}},
		{"taken, and the answer lost", fault{late: ErrUnknown}},
		{"hanging", fault{hang: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inOffice(t, func(t *testing.T, o *office) {
				schedule := every(t, "s", "@every 1h")
				stops := []func(){o.process(schedule), o.process(schedule)}
				o.pass(59 * time.Minute)
				o.b.always(test.f, "tick")
				o.pass(11 * time.Minute)
				o.b.always(fault{}, "tick")
				o.pass(10 * time.Second)
				o.ran("s 1h0m0s")
				is(t, "errors in the log", o.logged("level=ERROR"), 2)
				o.pass(time.Hour)
				o.ran("s 2h0m0s")
				for _, stop := range stops {
					stop()
				}
			})
		})
	}
}

func TestAnOutageAtTheStartDelaysSchedulesOnly(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		o.b.always(fault{err: errDown}, "tick")
		stop := o.process(every(t, "s", "@every 1m"))
		isError(t, "Push", o.b.Push(&Job{ID: "job@", Payload: Payload{Class: "c", Args: nil}}, "q"), nil)
		o.pass(90 * time.Second)
		is(t, "other jobs", len(o.jobs), 1)
		o.jobs = nil
		o.b.always(fault{}, "tick")
		o.pass(90 * time.Second)
		o.ran("s 2m0s", "s 3m0s")
		stop()
	})
}

// skewed is a broker whose clock is not that of this machine.
type skewed struct {
	*faulty
	skew atomic.Int64 // how far its clock is ahead, in ns
}

func (b *skewed) ahead() time.Duration { return time.Duration(b.skew.Load()) }

func (b *skewed) Tick(ctx context.Context, queue string, ticks []Tick) ([]Ticked, time.Time, error) {
	mine := make([]Tick, len(ticks))
	for i, t := range ticks {
		t.At = t.At.Add(-b.ahead())
		mine[i] = t
	}
	done, now, err := b.faulty.Tick(ctx, queue, mine)
	for i := range done {
		if !done[i].Last.IsZero() {
			done[i].Last = done[i].Last.Add(b.ahead())
		}
	}
	return done, now.Add(b.ahead()), err
}

func TestTicksGoByTheClockOfTheBroker(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-90 * time.Minute, 20 * time.Second, 90 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &skewed{faulty: newFaulty(t)}
				b.skew.Store(int64(ahead))
				defer b.Close()
				d, err := New(Settings{Queue: "q", Broker: b, Concurrency: 1})
				isError(t, "New", err, nil)
				var late []time.Duration
				d.HandleFunc("c", func(_ context.Context, job *Job) error {
					late = append(late, time.Now().Add(b.ahead()).Sub(job.Tick()))
					return nil
				})
				every(t, "s", "@every 1m")(d)
				ctx, cancel := context.WithCancel(t.Context())
				done := goes(func() { _ = d.Run(ctx) })
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				b.skew.Add(int64(time.Hour)) // the server's clock is set
				time.Sleep(5*time.Minute + time.Second)
				cancel()
				<-done
				if len(late) < 10 || slices.Min(late) < 0 {
					t.Errorf("late by %v, want ten or more and none early", late)
				}
				is(t, "calls: one a minute, and the first", b.count("tick") <= 13, true)
			})
		})
	}
}

// behind is a broker whose clock is wrong until it is set.
type behind struct {
	*faulty
	by atomic.Int64 // ns
}

func (b *behind) Tick(ctx context.Context, queue string, ticks []Tick) ([]Ticked, time.Time, error) {
	done, now, err := b.faulty.Tick(ctx, queue, ticks)
	return done, now.Add(-time.Duration(b.by.Load())), err
}

func TestABrokersClockThatIsSetIsNoticedWithinAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &behind{faulty: newFaulty(t)}
		defer b.Close()
		b.by.Store(int64(10 * time.Hour))
		d, err := New(Settings{Queue: "q", Broker: b})
		isError(t, "New", err, nil)
		var ran atomic.Int64
		d.HandleFunc("c", func(context.Context, *Job) error { ran.Add(1); return nil })
		every(t, "s", "40 * * * *")(d)
		ctx, cancel := context.WithCancel(t.Context())
		done := goes(func() { _ = d.Run(ctx) })
		time.Sleep(38*time.Minute + 59*time.Second)
		b.by.Store(0)
		time.Sleep(time.Minute + 2*time.Second)
		synctest.Wait()
		is(t, "jobs", ran.Load(), 1)
		cancel()
		<-done
	})
}

func TestATickAddsNoJobWhileThatOfAnEarlierOneIsNotDone(t *testing.T) {
	t.Parallel()
	inOffice(t, func(t *testing.T, o *office) {
		stop := o.process(func(d *Dispatcher) {
			d.HandleFunc("slow", func(ctx context.Context, job *Job) error {
				_ = o.record(ctx, job)
				return sleep(ctx, 150*time.Second)
			})
			job := &Job{Payload: Payload{Class: "slow"}, UniqueKey: "s"}
			isError(t, "Schedule", d.Schedule("s", "@every 1m", job), nil)
		})
		o.pass(7*time.Minute + 30*time.Second)
		o.ran("s 1m0s", "s 4m0s", "s 7m0s")
		o.pass(2 * time.Minute)
		stop()
	})
}

func TestFaultsOfAScheduleAreToldAtOnce(t *testing.T) {
	t.Parallel()
	d, err := New(Settings{Connection: "memory://"})
	isError(t, "New", err, nil)
	defer d.Close()
	job := func() *Job { return &Job{Payload: Payload{Class: "c"}} }
	isError(t, "a good one", d.Schedule("good", "@daily", job()), nil)
	for name, test := range map[string]struct {
		name, spec string
		job        *Job
		option     ScheduleOption
		want       error
	}{
		"name":       {"a b", "@daily", job(), nil, ErrBadName},
		"no name":    {"", "@daily", job(), nil, ErrBadName},
		"same name":  {"good", "@hourly", job(), nil, ErrBadName},
		"spec":       {"s", "@sometimes", job(), nil, ErrBadSpec},
		"no job":     {"s", "@daily", nil, nil, ErrBadJob},
		"no class":   {"s", "@daily", &Job{}, nil, ErrBadJob},
		"arguments":  {"s", "@daily", &Job{Payload: Payload{Class: "c", Args: []any{func() {}}}}, nil, ErrBadJob},
		"size":       {"s", "@daily", &Job{Payload: Payload{Class: "c", Args: []any{strings.Repeat("x", MaxBody)}}}, nil, ErrTooLarge},
		"queue":      {"s", "@daily", &Job{Queue: "a:b", Payload: Payload{Class: "c"}}, nil, ErrBadName},
		"delay":      {"s", "@daily", &Job{Delay: 1, Payload: Payload{Class: "c"}}, nil, ErrBadJob},
		"location":   {"s", "@daily", job(), InLocation(nil), ErrBadSpec},
		"policy":     {"s", "@daily", job(), Missed(7), ErrBadSpec},
		"good again": {"s", "@daily", job(), InLocation(time.Local), nil},
	} {
		options := []ScheduleOption{test.option}
		if test.option == nil {
			options = nil
		}
		isError(t, name, d.Schedule(test.name, test.spec, test.job, options...), test.want)
	}
}

func TestABrokerWithoutTickerRefusesSchedules(t *testing.T) {
	t.Parallel()
	d := &Dispatcher{handlers: make(map[string]Handler)}
	job := &Job{Payload: Payload{Class: "c"}}
	isError(t, "Schedule before the broker is known", d.Schedule("s", "@daily", job), nil)
	isError(t, "open", d.open(Settings{Broker: newNine()}), nil)
	isError(t, "Run", d.Run(t.Context()), errors.ErrUnsupported)
	isError(t, "Schedule", d.Schedule("t", "@daily", job), errors.ErrUnsupported)
	isError(t, "Close", d.Close(), nil)
}

func TestThePackageHasSchedules(t *testing.T) {
	defer func() { std.schedules = nil }()
	job := &Job{Payload: Payload{Class: "c"}}
	isError(t, "Schedule", Schedule("s", "@daily", job), nil)
	isError(t, "Schedule again", Schedule("s", "@daily", job), ErrBadName)
}
