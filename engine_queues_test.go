package linda

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"
)

// onQueues is a rig on the queues a, b and c, whose handler records which queue
// each job was of.
func onQueues(t *testing.T, change func(*Settings), test func(t *testing.T, r *rig, ran func() []string)) {
	t.Helper()
	inRig(t, func(s *Settings) {
		s.Queue, s.Queues, s.Concurrency = "", []Share{{Queue: "a"}, {Queue: "b"}, {Queue: "c"}}, 1
		if change != nil {
			change(s)
		}
	}, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		var order []string
		r.handle("x", func(ctx context.Context, job *Job) error {
			mu.Lock()
			order = append(order, job.Queue)
			mu.Unlock()
			return sleep(ctx, slowHandler)
		})
		test(t, r, func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), order...)
		})
	})
}

func (r *rig) pushTo(queue string, n int) {
	r.t.Helper()
	jobs := make([]*Job, n)
	for i := range jobs {
		jobs[i] = &Job{Queue: queue, Payload: Payload{Class: "x"}}
	}
	if err := r.d.PushBatch(context.Background(), jobs); err != nil {
		r.t.Fatal(err)
	}
}

func tally(queues []string) map[string]int {
	n := make(map[string]int)
	for _, q := range queues {
		n[q]++
	}
	return n
}

func (r *rig) statsOf(queue string) Stats {
	r.t.Helper()
	s, err := r.b.Stats(context.Background(), queue)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// queueBrokers are the ways to fetch from several queues: natively, by a Fetcher,
// and by the nine methods.
var queueBrokers = map[string]func(s *Settings){
	"native":  func(*Settings) {},
	"fetcher": func(s *Settings) { s.Broker = &onlyFetcher{Broker: s.Broker, of: s.Broker.(*faulty)} },
	"nine":    func(s *Settings) { s.Broker = &onlyNine{s.Broker} },
}

// onlyNine hides what a broker can do besides the nine methods.
type onlyNine struct{ Broker }

// onlyFetcher is a broker that can wait, but on one queue at a time.
type onlyFetcher struct {
	Broker
	of *faulty
}

func (b *onlyFetcher) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	return b.of.Fetch(ctx, queue, max, lease)
}

func (b *onlyFetcher) Settle(ctx context.Context, queue string, batch []Settlement) error {
	return b.of.Settle(ctx, queue, batch)
}

func TestStrictOrderHoldsOnEveryKindOfBroker(t *testing.T) {
	for name, broker := range queueBrokers {
		t.Run(name, func(t *testing.T) {
			onQueues(t, func(s *Settings) { s.Strict = true; broker(s) }, func(t *testing.T, r *rig, ran func() []string) {
				for _, q := range []string{"c", "b", "a"} {
					r.pushTo(q, 10)
				}
				r.start(20*slowHandler + slowHandler/2)
				r.pushTo("a", 5) // while those of c run
				r.after(time.Minute)
				order := ran()
				is(t, "runs", len(order), 35)
				// One job, at most, was fetched before a had jobs again.
				late := 0
				for i, q := range order {
					switch {
					case i < 10 && q != "a", i >= 10 && i < 20 && q != "b":
						t.Fatalf("run %d was of queue %s", i, q)
					case q == "a" && i >= 20:
						late = i
					}
				}
				between(t, "the last run of the urgent jobs", late, 24, 27)
				r.end()
			})
		})
	}
}

func TestWeightsShareTheTurns(t *testing.T) {
	for name, broker := range queueBrokers {
		t.Run(name, func(t *testing.T) {
			onQueues(t, func(s *Settings) {
				s.Queues = []Share{{"a", 3}, {"b", 1}}
				broker(s)
			}, func(t *testing.T, r *rig, ran func() []string) {
				const n = 2000
				r.pushTo("a", n)
				r.pushTo("b", n)
				r.start(n*slowHandler + slowHandler/2)
				got := tally(ran())
				total := float64(got["a"] + got["b"])
				// Five standard deviations of so many draws.
				slack := 5 * math.Sqrt(total*0.75*0.25)
				between(t, "runs of a", got["a"], int(total*0.75-slack), int(total*0.75+slack))
				_, _ = r.stop()
			})
		})
	}
}

func TestAPushToAnyQueueStartsAtOnce(t *testing.T) {
	for _, strict := range []bool{false, true} {
		for name, broker := range queueBrokers {
			if name == "nine" {
				continue // it looks at intervals
			}
			t.Run(name, func(t *testing.T) {
				onQueues(t, func(s *Settings) { s.Strict = strict; broker(s) }, func(t *testing.T, r *rig, ran func() []string) {
					r.start(time.Hour)
					for i, q := range []string{"c", "a", "b", "c"} {
						r.pushTo(q, 1)
						r.after(0)
						is(t, "runs", len(ran()), i+1)
						r.after(time.Hour)
					}
					r.end()
				})
			})
		}
	}
}

func TestTheStopReleasesTheJobsOfEveryQueue(t *testing.T) {
	onQueues(t, func(s *Settings) { s.Concurrency, s.Grace = 4, time.Millisecond }, func(t *testing.T, r *rig, _ func() []string) {
		r.takes("x", 5*time.Millisecond) // quick enough for some to be held in advance
		for _, q := range []string{"a", "b", "c"} {
			r.pushTo(q, 1000)
		}
		r.start(500 * time.Millisecond)
		r.end()
		left := int64(0)
		for _, q := range []string{"a", "b", "c"} {
			is(t, "reserved in "+q, r.statsOf(q).Reserved, 0)
			left += r.statsOf(q).Ready
		}
		done := int64(0)
		for _, e := range r.events {
			if e.Kind == EventDone {
				done++
			}
		}
		is(t, "jobs", left+done, 3000)
	})
}

func TestAQueueThatFailsHoldsUpNoOther(t *testing.T) {
	onQueues(t, nil, func(t *testing.T, r *rig, ran func() []string) {
		r.b.always(fault{err: errDown}, "fetch a")
		r.pushTo("b", 50)
		r.pushTo("c", 50)
		r.start(110 * slowHandler)
		is(t, "runs", len(ran()), 100)
		is(t, "errors logged", r.logged("level=ERROR"), 1)
		before := r.b.count("fetch a")
		r.after(100 * time.Second)
		between(t, "tries of the queue in 100 s", r.b.count("fetch a")-before, 90, 220)
		r.b.always(fault{}, "fetch a")
		r.pushTo("a", 1)
		r.after(2 * time.Second)
		is(t, "runs", len(ran()), 101)
		is(t, "recoveries logged", r.logged("answers again"), 1)
		r.end()
	})
}

func TestASettlementThatFailsHoldsUpNoOtherQueue(t *testing.T) {
	onQueues(t, nil, func(t *testing.T, r *rig, ran func() []string) {
		r.b.veto = func(s Settlement) error {
			if s.Job.Queue == "a" {
				return errDown
			}
			return nil
		}
		r.pushTo("a", 1)
		r.start(time.Second)
		r.pushTo("b", 1)
		r.after(slowHandler)
		is(t, "runs", len(ran()), 2)
		is(t, "reserved in b", r.statsOf("b").Reserved, 0)
		r.b.mu.Lock()
		r.b.veto = nil
		r.b.mu.Unlock()
		r.after(10 * time.Second)
		is(t, "reserved in a", r.statsOf("a").Reserved, 0)
		r.end()
	})
}

func TestReservationsOfEveryQueueAreKept(t *testing.T) {
	onQueues(t, func(s *Settings) { s.Concurrency, s.Timeout = 3, 2 }, func(t *testing.T, r *rig, _ func() []string) {
		r.takes("x", 30*time.Second)
		for _, q := range []string{"a", "b", "c"} {
			r.pushTo(q, 1)
		}
		r.start(time.Minute)
		for id, n := range r.runs {
			is(t, "runs of "+id, n, 1)
		}
		is(t, "jobs", len(r.runs), 3)
		r.end()
	})
}

func TestPauseStopsOneQueueAndResumeStartsItAtOnce(t *testing.T) {
	onQueues(t, nil, func(t *testing.T, r *rig, ran func() []string) {
		r.start(time.Second)
		if err := r.d.Pause("b"); err != nil {
			t.Fatal(err)
		}
		r.pushTo("b", 1)
		r.pushTo("c", 1)
		r.after(time.Minute)
		areSame(t, "runs", ran(), []string{"c"})
		for _, q := range []string{"a", "c"} {
			if err := r.d.Pause(q); err != nil {
				t.Fatal(err)
			}
		}
		r.pushTo("a", 1)
		r.after(time.Minute)
		is(t, "runs", len(ran()), 1)
		if err := r.d.Resume("b"); err != nil {
			t.Fatal(err)
		}
		r.after(0)
		areSame(t, "runs", ran(), []string{"c", "b"})
		if r.d.Pause("other") == nil {
			t.Error("a queue that is not served was paused")
		}
		r.end()
		_ = r.d.Close()
		isError(t, "pause of what is closed", r.d.Pause("a"), ErrClosed)
	})
}

func TestJobsWithoutAQueueGoToTheFirst(t *testing.T) {
	onQueues(t, nil, func(t *testing.T, r *rig, ran func() []string) {
		r.pushTo("", 1)
		is(t, "ready in a", r.statsOf("a").Ready, 1)
	})
}

func TestFaultsOfQueuesAreReported(t *testing.T) {
	_, err := New(Settings{Connection: "memory://", Strict: true,
		Queues: []Share{{Queue: "a"}, {Queue: "a"}, {Queue: "b", Weight: -1}, {Queue: "c", Weight: 2}, {Queue: "d e"}}})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 4 || !errors.Is(err, ErrBadName) {
		t.Errorf("faults: %v", err)
	}
}
