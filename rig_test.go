package linda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a Dispatcher on a faulty broker whose events and log are recorded. It
// lives in a bubble of testing/synctest, which fails a test that leaves a
// goroutine behind.
type rig struct {
	t testing.TB
	b *faulty
	d *Dispatcher

	cancel  context.CancelFunc
	stopped chan error

	mu     sync.Mutex
	log    bytes.Buffer // guarded by mu, as all below
	events []Event
	runs   map[string]int // by job id
	live   int            // handlers that run
	most   int            // most that did
}

// inRig runs a test in a bubble, and sees to it that nothing is left behind.
func inRig(t *testing.T, change func(*Settings), test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		defer func() {
			close(r.b.over)
			_ = r.d.Close()
			_ = r.b.Close()
		}()
		test(t, r)
	})
}

func newRig(t testing.TB, change func(*Settings)) *rig {
	r := &rig{t: t, b: newFaulty(t), runs: make(map[string]int), stopped: make(chan error, 1)}
	s := Settings{Queue: "q", Broker: r.b, Concurrency: 4, Backoff: func(n int) time.Duration { return time.Duration(n) * time.Second }}
	s.Logger = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.OnEvent = func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}
	if change != nil {
		change(&s)
	}
	d, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	r.d = d
	return r
}

// Write makes the rig the log's writer.
func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// handle registers a handler and counts its runs.
func (r *rig) handle(class string, f func(ctx context.Context, job *Job) error) {
	r.d.Handle(class, HandlerFunc(func(ctx context.Context, job *Job) error {
		r.mu.Lock()
		r.runs[job.ID]++
		r.live++
		r.most = max(r.most, r.live)
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			r.live--
			r.mu.Unlock()
			r.b.finished()
		}()
		return f(ctx, job)
	}))
}

// takes registers a handler that needs so long and succeeds.
func (r *rig) takes(class string, d time.Duration) {
	r.handle(class, func(ctx context.Context, _ *Job) error { return sleep(ctx, d) })
}

// push adds n jobs of a class and returns their ids.
func (r *rig) push(class string, n int) []string {
	r.t.Helper()
	jobs, ids := make([]*Job, n), make([]string, n)
	for i := range jobs {
		ids[i] = fmt.Sprintf("%s-%04d", class, i)
		jobs[i] = &Job{ID: ids[i], Payload: Payload{Class: class, Args: []any{i}}}
	}
	if err := r.d.PushBatch(context.Background(), jobs); err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// start begins to run, and after waits for so long.
func (r *rig) start(after time.Duration) {
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.stopped <- r.d.Run(ctx) }()
	r.after(after)
}

// after lets so much time pass, and what is due at its end happen. It is for
// the test's own goroutine.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// stop tells Run to stop, and returns its error and how long it took.
func (r *rig) stop() (time.Duration, error) {
	begin := time.Now()
	r.cancel()
	err := <-r.stopped
	took := time.Since(begin)
	synctest.Wait()
	return took, err
}

// end stops and expects that nothing is left undone.
func (r *rig) end() {
	r.t.Helper()
	if _, err := r.stop(); err != nil {
		r.t.Errorf("stop: %v", err)
	}
}

// count returns how many events were of a kind, and fails if one of them is
// not of the queue.
func (r *rig) count(kind EventKind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == kind {
			n++
		}
		if e.Queue != "q" || e.ID == "" {
			r.t.Errorf("event is incomplete: %+v", e)
		}
	}
	return n
}

// kinds returns the kinds of events of a job, in order.
func (r *rig) kinds(id string) []EventKind {
	r.mu.Lock()
	defer r.mu.Unlock()
	var kinds []EventKind
	for _, e := range r.events {
		if e.ID == id {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (r *rig) ran(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[id]
}

// logged counts the lines of the log that hold a text.
func (r *rig) logged(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

// holds fails unless the broker has so many jobs in each state.
func (r *rig) holds(want Stats) {
	r.t.Helper()
	got, err := r.b.Stats(context.Background(), "q")
	if err != nil || got != want {
		r.t.Errorf("the broker holds %+v, %v, want %+v", got, err, want)
	}
}

// peek returns the jobs in a state.
func (r *rig) peek(state State) []*Job {
	r.t.Helper()
	jobs, err := r.b.Peek(context.Background(), "q", state, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	return jobs
}

func idsOf(jobs []*Job) []string {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return ids
}

// is fails unless got is want.
func is[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// areSame fails unless the elements are the same in the same order.
func areSame[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// between fails unless got is between low and high.
func between[T int | time.Duration](t testing.TB, what string, got, low, high T) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: got %v, want %v to %v", what, got, low, high)
	}
}

func isError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
