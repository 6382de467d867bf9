package linda

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// stopSlack is how much longer than Grace a stop may take.
const stopSlack = 250 * time.Millisecond

func TestStopHandsBackWhatHasNotStartedAtOnceAndInOrder(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency = 2 }, func(t *testing.T, r *rig) {
		r.takes("quick", 20*time.Microsecond)
		r.takes("slow", 10*time.Second)
		r.push("quick", 2000)
		r.start(100 * time.Millisecond) // the poller learns that jobs are quick
		ids := r.push("slow", 300)
		r.after(time.Millisecond)
		r.holds(Stats{Reserved: 300})
		r.cancel()
		r.after(time.Millisecond)
		r.holds(Stats{Ready: 298, Reserved: 2})
		ready := r.peek(Ready)
		areSame(t, "ready", idsOf(ready), ids[2:])
		for _, job := range ready {
			is(t, "attempts", job.Attempt(), 0)
			is(t, "crashes", job.Crashes(), 0)
		}
		took, err := r.stop()
		is(t, "error", err, nil)
		between(t, "stop", took, 9*time.Second, 10*time.Second)
		r.holds(Stats{Ready: 298})
	})
}

// Everything that was prefetched fits in no one exchange.
func TestOrderIsKeptAcrossExchanges(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency = 600 }, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		run := newRun(ctx, r.d.settings, *r.d.backend, new(gate), nil)
		ids := r.push("a", 1100)
		flush := make(chan struct{})
		settled := goes(func() { newSettler(run, run.lanes[0]).loop(context.Background(), flush) })
		for range 2 {
			jobs, err := r.b.Fetch(t.Context(), "q", 550, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			batch := run.adopt(run.lanes, jobs)
			if len(run.jobs) == 0 {
				run.hand(batch)
				continue
			}
			run.handBack(batch)
		}
		close(flush)
		<-settled
		areSame(t, "ready", idsOf(r.peek(Ready)), ids[:1000])
		r.holds(Stats{Ready: 1100})
	})
}

func TestStopWaitsForHandlersWithinGrace(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency, s.Grace = 1000, 5*time.Second }, func(t *testing.T, r *rig) {
				r.takes("a", 2*time.Second)
				r.push("a", n)
				r.start(time.Second)
				took, err := r.stop()
				is(t, "error", err, nil)
				if n > 0 {
					between(t, "stop", took, time.Second, time.Second+10*time.Millisecond)
				} else {
					is(t, "stop", took, 0)
				}
				is(t, "done", r.count(EventDone), n)
				r.holds(Stats{})
			})
		})
	}
}

func TestStopDoesNotWaitForHandlersThatIgnoreTheirContext(t *testing.T) {
	for _, n := range []int{1, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency, s.Grace, s.Timeout = 1000, 5*time.Second, 2 }, func(t *testing.T, r *rig) {
				late := make(chan struct{})
				r.handle("deaf", func(ctx context.Context, _ *Job) error { <-late; return nil })
				r.handle("good", func(ctx context.Context, _ *Job) error { <-ctx.Done(); return ctx.Err() })
				ids := r.push("deaf", n)
				good := r.push("good", 1)[0]
				r.start(time.Second)
				took, err := r.stop()
				between(t, "stop", took, 5*time.Second, 5*time.Second+stopSlack)
				var stop *StopError
				if !errors.As(err, &stop) {
					t.Fatal(err)
				}
				is(t, "unsettled", stop.Unsettled, 0)
				is(t, "running", len(stop.Running), n)
				if n == 1 {
					is(t, "id", stop.Running[0], ids[0])
					areSame(t, "events", r.kinds(good), []EventKind{EventReleased})
				}
				close(late) // they return after Run: nobody listens, the reservations end
				r.after(3 * time.Second)
				is(t, "done", r.count(EventDone), 0)
				r.b.MigrateExpiredJobs("q")
				s, _ := r.b.Stats(t.Context(), "q")
				between(t, "ready again", int(s.Ready), n, n+1)
			})
		})
	}
}

func TestStopIsBoundedWhateverTheBrokerDoes(t *testing.T) {
	const grace = 3 * time.Second
	for name, f := range map[string]fault{"fails": {err: errDown}, "hangs": {hang: true}, "is deaf": {deaf: true}, "is slow": {wait: 700 * time.Millisecond}} {
		for _, n := range []int{0, 1, 1000} {
			for _, obeys := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %d in flight, handlers obey: %v", name, n, obeys), func(t *testing.T) {
					inRig(t, func(s *Settings) { s.Concurrency, s.Grace, s.Timeout = 1000, grace, 9 }, func(t *testing.T, r *rig) {
						late := make(chan struct{})
						defer close(late)
						r.handle("a", func(ctx context.Context, job *Job) error {
							if obeys {
								return sleep(ctx, 2*time.Second)
							}
							<-late
							return nil
						})
						ids := r.push("a", n)
						r.start(time.Second)
						r.b.always(f, "fetch", "settle", "touch")
						took, err := r.stop()
						between(t, "stop", took, 0, grace+stopSlack)
						var stop *StopError
						if errors.As(err, &stop) {
							is(t, "left", len(stop.Running)+stop.Unsettled, n)
						} else {
							is(t, "error", err, nil)
							is(t, "done", r.count(EventDone), n)
						}
						r.b.always(fault{}, "fetch", "settle", "touch")
						r.after(20 * time.Second)
						r.b.MigrateExpiredJobs("q")
						s, _ := r.b.Stats(t.Context(), "q")
						is(t, "lost", len(ids)-int(s.Ready+s.Delayed+s.Dead)-len(r.b.settled), 0)
					})
				})
			}
		}
	}
}

func TestStopBeforeAnythingStarted(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.takes("a", 0)
		r.push("a", 10)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		is(t, "error", r.d.Run(ctx), nil)
		is(t, "runs", len(r.runs), 0)
		r.holds(Stats{Ready: 10})
	})
}

// Jobs that Fetch had reserved when it was told to stop go back.
func TestJobsFetchedDuringTheStopAreHandedBack(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.takes("a", 0)
		r.d.backend.fetcher = lateFetcher{r.b}
		ids := r.push("a", 3)
		r.start(time.Second)
		took, err := r.stop()
		is(t, "error", err, nil)
		is(t, "stop", took, 400*time.Millisecond)
		is(t, "runs", len(r.runs), 0)
		areSame(t, "ready", idsOf(r.peek(Ready)), ids)
		is(t, "attempts", r.peek(Ready)[0].Attempt(), 0)
	})
}

// lateFetcher takes its time to notice the end of ctx, and has jobs then.
type lateFetcher struct{ b *faulty }

func (f lateFetcher) Fetch(ctx context.Context, queue string, most int, lease time.Duration) ([]*Job, error) {
	<-ctx.Done()
	time.Sleep(400 * time.Millisecond)
	return f.b.FetchNow(context.WithoutCancel(ctx), queue, most, lease)
}

func TestRunTwiceAtOnceIsAnErrorAndAgainAfterAStopWorks(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.takes("a", time.Millisecond)
		for round := range 3 {
			r.start(time.Second)
			isError(t, "second Run", r.d.Run(t.Context()), errRunning)
			if err := r.d.Push(t.Context(), &Job{Payload: Payload{Class: "a"}}); err != nil {
				t.Fatal(err)
			}
			r.after(time.Second)
			is(t, "done", r.count(EventDone), round+1)
			r.end()
		}
	})
}

func TestCloseStopsRunAndIsHarmlessTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := New(Settings{Connection: "memory://", Queue: "q", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		d.Handle("a", HandlerFunc(func(context.Context, *Job) error { time.Sleep(time.Second); done++; return nil }))
		push := func() error { return d.Push(t.Context(), &Job{Payload: Payload{Class: "a"}}) }
		if err := push(); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- d.Run(context.Background()) }()
		synctest.Wait()
		broker := d.Broker()
		closed := make(chan error, 3)
		for range 3 {
			go func() { closed <- d.Close() }()
		}
		for range 3 {
			is(t, "Close", <-closed, nil)
		}
		is(t, "Run", <-stopped, nil)
		is(t, "done", done, 1)
		isError(t, "Push after Close", push(), ErrClosed)
		isError(t, "Run after Close", d.Run(t.Context()), ErrClosed)
		is(t, "Broker after Close", d.Broker(), nil)
		isError(t, "the broker", broker.Push(&Job{Payload: Payload{Class: "a"}}, "q"), ErrClosed)
		is(t, "Close again", d.Close(), nil)
	})
}

func TestCloseLeavesABrokerThatWasGivenOpen(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.start(time.Second)
		is(t, "Close", r.d.Close(), nil)
		is(t, "Run", <-r.stopped, nil)
		is(t, "Push", r.b.Push(&Job{Payload: Payload{Class: "a"}}, "q"), nil)
	})
}

// Stops at odd moments, with prefetch, failures and retries under way: each job
// is somewhere afterwards.
func TestNothingIsLostByStops(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency, s.MaxAttempts, s.Grace = 8, 3, 50*time.Millisecond }, func(t *testing.T, r *rig) {
		r.handle("a", func(ctx context.Context, job *Job) error {
			var n int
			if err := job.Payload.Decode(&n); err != nil {
				return err
			}
			switch {
			case n%7 == 0:
				return errors.New("broken")
			case n%11 == 0:
				return Snooze(5 * time.Millisecond)
			case n%13 == 0:
				runtime.Goexit()
			}
			return sleep(ctx, time.Duration(n%50)*100*time.Microsecond)
		})
		const jobs = 1500
		r.push("a", jobs)
		for i := range 40 {
			r.start(time.Duration(i) * 517 * time.Microsecond)
			r.end()
			s, err := r.b.Stats(t.Context(), "q")
			if err != nil {
				t.Fatal(err)
			}
			is(t, "reserved", s.Reserved, 0)
			is(t, "jobs", int(s.Ready+s.Delayed+s.Dead)+r.count(EventDone), jobs)
		}
		told := make(map[string]bool)
		for _, e := range r.events {
			told[e.ID] = true
		}
		for id := range r.runs {
			if !told[id] {
				t.Errorf("%s ran and nobody tells", id)
			}
		}
	})
}
