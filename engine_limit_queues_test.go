package linda

import (
	"context"
	"sync"
	"testing"
	"time"
)

// onLimitedQueues is onQueues with limits, whose handler takes as long as the
// queue's entry says and notes how many run at once, of each queue and of all.
func onLimitedQueues(t *testing.T, change func(*Settings), limits []Limit, takes map[string]time.Duration, test func(t *testing.T, r *rig, most func(queue string) int)) {
	t.Helper()
	onQueues(t, func(s *Settings) {
		s.Concurrency = 10
		if change != nil {
			change(s)
		}
	}, func(t *testing.T, r *rig, _ func() []string) {
		var mu sync.Mutex
		live, most := make(map[string]int), make(map[string]int)
		r.handle("x", func(ctx context.Context, job *Job) error {
			of := job.Queue
			mu.Lock()
			for _, q := range []string{of, ""} {
				live[q]++
				most[q] = max(most[q], live[q])
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				live[of]--
				live[""]--
			}()
			return sleep(ctx, takes[of])
		})
		for _, l := range limits {
			isError(t, "Limit", r.d.Limit(l), nil)
		}
		test(t, r, func(queue string) int {
			mu.Lock()
			defer mu.Unlock()
			return most[queue]
		})
	})
}

// done counts the jobs of a queue that are done.
func (r *rig) done(queue string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == EventDone && e.Queue == queue {
			n++
		}
	}
	return n
}

func TestAQueueWhoseLimitIsFullHoldsUpNoOther(t *testing.T) {
	for _, strict := range []bool{false, true} {
		takes := map[string]time.Duration{"a": time.Second, "b": 100 * time.Millisecond, "c": 100 * time.Millisecond}
		onLimitedQueues(t, func(s *Settings) { s.Strict = strict }, []Limit{{Queue: "a", Running: 2}}, takes,
			func(t *testing.T, r *rig, most func(string) int) {
				r.pushTo("a", 40)
				r.pushTo("b", 200)
				r.pushTo("c", 200)
				// Eight workers at least do the 400 of b and c in 5 s.
				r.start(6 * time.Second)
				is(t, "done of b", r.done("b"), 200)
				is(t, "done of c", r.done("c"), 200)
				between(t, "done of a meanwhile", r.done("a"), 6, 12)
				r.after(15*time.Second + 500*time.Millisecond)
				is(t, "done of a", r.done("a"), 40)
				is(t, "most of a at once", most("a"), 2)
				r.end()
			})
	}
}

func TestALimitOfAQueueBoundsNoOtherQueue(t *testing.T) {
	takes := map[string]time.Duration{"a": time.Second, "b": time.Second}
	onLimitedQueues(t, nil, []Limit{{Queue: "a", Running: 1}, {Queue: "b", Running: 3}}, takes,
		func(t *testing.T, r *rig, most func(string) int) {
			r.pushTo("a", 10)
			r.pushTo("b", 30)
			r.start(11500 * time.Millisecond)
			is(t, "done of a", r.done("a"), 10)
			is(t, "done of b", r.done("b"), 30)
			is(t, "most of a at once", most("a"), 1)
			is(t, "most of b at once", most("b"), 3)
			r.end()
		})
}

func TestALimitOfAClassSpansTheQueues(t *testing.T) {
	takes := map[string]time.Duration{"a": 100 * time.Millisecond, "b": 100 * time.Millisecond}
	onLimitedQueues(t, nil, []Limit{{Class: "x", Running: 3}}, takes,
		func(t *testing.T, r *rig, most func(string) int) {
			r.takes("y", 100*time.Millisecond)
			r.pushTo("a", 60)
			r.pushTo("b", 60)
			jobs := make([]*Job, 100)
			for i := range jobs {
				jobs[i] = &Job{Queue: "c", Payload: Payload{Class: "y"}}
			}
			isError(t, "PushBatch", r.d.PushBatch(t.Context(), jobs), nil)
			r.start(3 * time.Second)
			is(t, "done of the class without a limit", r.done("c"), 100)
			r.after(6 * time.Second)
			is(t, "done", r.done("a")+r.done("b"), 120)
			is(t, "most at once", most(""), 3)
			r.end()
			for _, q := range []string{"a", "b", "c"} {
				is(t, "left in "+q, r.statsOf(q), Stats{})
			}
		})
}

// What one fetch brings of a queue that is not its first is not bounded by that
// queue's limit.
func TestJobsOfALimitedQueueThatAreTooManyGoBackToItsHead(t *testing.T) {
	takes := map[string]time.Duration{"a": 100 * time.Millisecond, "b": 100 * time.Millisecond}
	onLimitedQueues(t, func(s *Settings) { s.Strict = true }, []Limit{{Queue: "b", Running: 1}}, takes,
		func(t *testing.T, r *rig, most func(string) int) {
			r.pushTo("a", 1)
			r.pushTo("b", 20)
			r.start(50 * time.Millisecond)
			between(t, "reserved of b", int(r.statsOf("b").Reserved), 1, 2)
			is(t, "delayed of b", r.statsOf("b").Delayed, 0)
			r.after(2100 * time.Millisecond)
			is(t, "done of b", r.done("b"), 20)
			is(t, "most of b at once", most("b"), 1)
			r.end()
		})
}

func TestSuspectsOfSeveralQueuesRunAloneAndInTheEnd(t *testing.T) {
	for name, limits := range map[string][]Limit{"no limit": nil, "limits": {{Queue: "a", Running: 1}, {Class: "x", Running: 2}}} {
		t.Run(name, func(t *testing.T) {
			takes := map[string]time.Duration{"a": 100 * time.Millisecond, "b": 100 * time.Millisecond, "c": 100 * time.Millisecond}
			onLimitedQueues(t, func(s *Settings) { s.MaxCrashes = 2 }, limits, takes,
				func(t *testing.T, r *rig, _ func(string) int) {
					suspects := make(map[string]bool)
					alone := true
					var mu sync.Mutex
					inner := r.d.handlers["x"]
					r.d.HandleFunc("x", func(ctx context.Context, job *Job) error {
						mu.Lock()
						r.mu.Lock()
						alone = alone && (!suspects[job.ID] || r.live == 0)
						r.mu.Unlock()
						mu.Unlock()
						return inner.Handle(ctx, job)
					})
					for _, q := range []string{"a", "b"} {
						r.pushTo(q, 12)
						for range 3 {
							job, err := r.b.Pop(q, 1)
							isError(t, "Pop", err, nil)
							suspects[job.ID] = true
						}
					}
					r.pushTo("c", 12)
					r.after(2 * time.Second)
					r.start(2 * time.Minute)
					for _, q := range []string{"a", "b", "c"} {
						is(t, "done of "+q, r.done(q), 12)
					}
					is(t, "each suspect started alone", alone, true)
					r.end()
				})
		})
	}
}
