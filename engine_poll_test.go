package linda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestNoErrorEndsThePollerAndTriesAreFew(t *testing.T) {
	for name, err := range map[string]error{"down": errDown, "closed": ErrClosed, "unknown": ErrUnknown, "deadline": context.DeadlineExceeded, "canceled": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			inRig(t, nil, func(t *testing.T, r *rig) {
				r.b.on("fetch", func(n int) fault {
					if n < 1000 {
						return fault{err: err}
					}
					return fault{}
				})
				r.takes("a", 0)
				id := r.push("a", 1)[0]
				r.start(time.Second)
				before := r.b.count("fetch")
				between(t, "tries in the first second", before, 3, 12)
				r.after(100 * time.Second)
				between(t, "tries in 100 s", r.b.count("fetch")-before, 90, 220)
				r.after(1000 * time.Second)
				is(t, "runs", r.ran(id), 1)
				is(t, "errors logged", r.logged("level=ERROR"), 1)
				is(t, "recoveries logged", r.logged("answers again"), 1)
				r.end()
			})
		})
	}
}

func TestRecoveryIsLoggedThoughTheQueueIsEmpty(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.b.on("fetch", func(n int) fault { return map[bool]fault{true: {err: errDown}}[n < 5] })
		r.start(10 * time.Second)
		is(t, "recoveries logged", r.logged("answers again"), 1)
		before := r.b.count("fetch")
		r.after(time.Hour)
		is(t, "fetches on an idle queue", r.b.count("fetch")-before, 0)
		r.end()
	})
}

func TestBadBodiesAreBuriedAndDoNotStopTheOthers(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.takes("a", 0)
		bad := []string{"{not json", "null", "[]", "", `""`, `{"Payload":{}}`, "\xff\xfe"}
		for _, body := range bad {
			inject(t, r, body)
			r.push("a", 1)
		}
		r.start(time.Second)
		is(t, "done", r.count(EventDone), len(bad))
		is(t, "dead", r.count(EventDead), len(bad))
		r.end()
		r.holds(Stats{Dead: int64(len(bad))})
		var bodies []string
		for _, job := range r.peek(Dead) {
			bodies = append(bodies, string(job.Body()))
		}
		slices.Sort(bodies)
		slices.Sort(bad)
		areSame(t, "bodies", bodies, bad)
	})
}

// inject puts a body in the queue as somebody else might.
func inject(t *testing.T, r *rig, body string) {
	t.Helper()
	q, unlock, err := r.b.use(t.Context(), "q")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	q.add(&memoryJob{body: body}, 0)
}

func TestPrefetchGoesByTheSpeedOfHandlers(t *testing.T) {
	cases := []struct {
		took      time.Duration
		low, high int // most jobs held beyond the workers
	}{
		{time.Minute, 0, 0},
		{slowHandler, 0, 0},
		{5 * time.Millisecond, 1, 100},
		{20 * time.Microsecond, 200, maxPrefetch},
	}
	for _, c := range cases {
		t.Run(c.took.String(), func(t *testing.T) {
			inRig(t, func(s *Settings) { s.Concurrency = 50 }, func(t *testing.T, r *rig) {
				r.takes("a", c.took)
				r.push("a", 5000)
				r.start(20*c.took + 50*time.Millisecond)
				r.b.mu.Lock()
				ahead := r.b.most - 50
				r.b.mu.Unlock()
				between(t, "jobs held beyond the workers", ahead, c.low, c.high)
				_, _ = r.stop()
			})
		})
	}
}

func TestFetchIsGroupedForQuickHandlers(t *testing.T) {
	inRig(t, func(s *Settings) { s.Concurrency = 10 }, func(t *testing.T, r *rig) {
		r.b.always(fault{wait: time.Millisecond}, "fetch") // as a server at some distance
		r.takes("a", 20*time.Microsecond)
		r.push("a", 10_000)
		r.start(time.Second)
		is(t, "done", r.count(EventDone), 10_000)
		between(t, "fetches", r.b.count("fetch"), 20, 200)
		r.end()
	})
}

func TestPollerDoesNotSpinOnAFetchThatDoesNotWait(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.d.backend.fetcher = hastyFetcher{r.b}
		r.takes("a", 0)
		r.start(time.Minute)
		between(t, "fetches in a minute", r.b.count("fetch"), 50, 200)
		id := r.push("a", 1)[0]
		r.after(time.Second)
		is(t, "runs", r.ran(id), 1)
		r.end()
	})
}

type hastyFetcher struct{ b *faulty }

func (f hastyFetcher) Fetch(ctx context.Context, queue string, most int, lease time.Duration) ([]*Job, error) {
	_, _ = f.b.meet(ctx, "fetch")
	return f.b.FetchNow(ctx, queue, most, lease)
}

func TestDelayedJobRunsWhenItIsDueNotAtAnInterval(t *testing.T) {
	inRig(t, func(s *Settings) { s.IntervalFloat = 3600 }, func(t *testing.T, r *rig) {
		at := make(chan time.Time, 1)
		r.handle("a", func(context.Context, *Job) error { at <- time.Now(); return nil })
		r.start(time.Second)
		begin := time.Now()
		if err := r.d.Later(t.Context(), 90*time.Second, &Job{Payload: Payload{Class: "a"}}); err != nil {
			t.Fatal(err)
		}
		between(t, "delay", (<-at).Sub(begin), 90*time.Second, 90*time.Second+time.Millisecond)
		r.end()
	})
}

func TestPushErrors(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		ctx := t.Context()
		isError(t, "nil", r.d.Push(ctx, nil), ErrBadJob)
		isError(t, "no class", r.d.Push(ctx, &Job{}), ErrBadJob)
		isError(t, "queue", r.d.Push(ctx, &Job{Queue: "a:b", Payload: Payload{Class: "a"}}), ErrBadName)
		isError(t, "one bad of a batch over queues", r.d.PushBatch(ctx, []*Job{
			{Queue: "one", Payload: Payload{Class: "a"}}, {Queue: "two"},
		}), ErrBadJob)
		is(t, "an empty batch", r.d.PushBatch(ctx, nil), nil)
		for _, queue := range []string{"q", "one", "two"} {
			if s, err := r.b.Stats(ctx, queue); err != nil || s != (Stats{}) {
				t.Errorf("%s: %+v, %v", queue, s, err)
			}
		}

		r.b.always(fault{hang: true}, "push")
		begin := time.Now()
		err := r.d.Push(context.Background(), &Job{Payload: Payload{Class: "a"}})
		isError(t, "hang", err, ErrUnknown)
		is(t, "without a deadline", time.Since(begin), callLimit)
		begin = time.Now()
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		isError(t, "hang", r.d.Push(short, &Job{Payload: Payload{Class: "a"}}), context.DeadlineExceeded)
		is(t, "with a deadline", time.Since(begin), time.Second)
		begin = time.Now()
		long, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		isError(t, "hang", r.d.Push(long, &Job{Payload: Payload{Class: "a"}}), context.DeadlineExceeded)
		is(t, "with a late deadline", time.Since(begin), time.Minute)
	})
}

func TestBatchOverQueuesTellsWhichJobsFailed(t *testing.T) {
	inRig(t, nil, func(t *testing.T, r *rig) {
		r.b.on("push", func(n int) fault { return map[bool]fault{true: {err: errDown}}[n == 1] })
		err := r.d.PushBatch(t.Context(), []*Job{
			{Queue: "one", Payload: Payload{Class: "a"}}, {Queue: "two", Payload: Payload{Class: "a"}}, {Queue: "one", Payload: Payload{Class: "a"}},
		})
		var batch *BatchError
		if !errors.As(err, &batch) {
			t.Fatal(err)
		}
		is(t, "errors", fmt.Sprint(batch.Errs), fmt.Sprint([]error{nil, errDown, nil}))
	})
}
