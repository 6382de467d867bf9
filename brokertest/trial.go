package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/amlun/linda"
)

// trial is one run of one case, with what the cases share: each method fails
// the case where the broker does not do what is asked. They are for the
// goroutine of the case.
type trial struct {
	testing.TB
	harness Harness
	promises
	queue  string        // the case's own
	queues []string      // all that it uses
	lease  time.Duration // a short reservation, to see it end
	hold   time.Duration // one that ends within the case too, with time to use it
	long   time.Duration // a reservation that does not end within the case
	dirty  bool          // the case leaves jobs behind and cannot help it
}

func newTrial(t testing.TB, h Harness, p promises, name string) *trial {
	c := &trial{TB: t, harness: h, promises: p}
	c.queue = c.newQueue(name)
	c.lease = max(p.LeaseMin, 300*time.Millisecond)
	if !p.fetches { // Pop takes whole seconds
		c.lease = wholeSeconds(c.lease)
	}
	c.hold = max(c.lease, 2*time.Second)
	c.long = max(time.Minute, 2*p.LeaseMin)
	if p.LeaseMax > 0 {
		c.long = min(c.long, p.LeaseMax)
	}
	return c
}

func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// newQueue returns the name of one more queue, which must be empty at the end.
func (c *trial) newQueue(name string) string {
	q := newQueue(name)
	c.queues = append(c.queues, q)
	return q
}

// open opens one more connection, closed at the end.
func (c *trial) open() linda.Broker {
	c.Helper()
	b := c.harness.Open(c)
	c.Cleanup(func() { _ = b.Close() })
	return b
}

// as is the capability of a broker that the case needs.
func as[T any](c *trial, b linda.Broker) T {
	c.Helper()
	t, ok := linda.As[T](b)
	if !ok {
		c.Fatalf("this connection is no %T, others are", (*T)(nil))
	}
	return t
}

// patience is how long to wait for a job that is due.
func (c *trial) patience() time.Duration { return c.hold + 2*time.Second + c.harness.Slack }

// newJob is a job that the case does not care for, but for its class.
func newJob(class string, args ...any) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: class, Args: args}}
}

// push pushes n jobs, of the classes job-0, job-1 and so on.
func (c *trial) push(b linda.Broker, n int) {
	c.Helper()
	for i := range n {
		c.must(b.Push(newJob(fmt.Sprint("job-", i)), c.queue), "Push")
	}
}

// reserve waits for n jobs and reserves them. Of a job whose short reservation
// ends meanwhile, it is the last delivery that counts.
func (c *trial) reserve(b linda.Broker, queue string, n int, lease time.Duration) []*linda.Job {
	c.Helper()
	var jobs []*linda.Job
	index := make(map[string]int)
	for until := time.Now().Add(c.patience()); len(jobs) < n; {
		got, err := c.next(b, queue, n-len(jobs), lease, until)
		if err != nil {
			c.Fatalf("%d of %d jobs came out, then: %v", len(jobs), n, err)
		}
		for _, job := range got {
			i, again := index[job.ID]
			switch {
			case !again:
				index[job.ID] = len(jobs)
				jobs = append(jobs, job)
			case lease == c.long:
				c.Fatalf("%v came out twice while it was reserved", job)
			default:
				jobs[i] = job
			}
		}
	}
	return jobs
}

// next waits for at least one job, by Fetch or by Pop.
func (c *trial) next(b linda.Broker, queue string, n int, lease time.Duration, until time.Time) ([]*linda.Job, error) {
	if f, ok := linda.As[linda.Fetcher](b); ok {
		ctx, cancel := context.WithDeadline(c.Context(), until)
		defer cancel()
		return f.Fetch(ctx, queue, n, lease)
	}
	for time.Now().Before(until) {
		b.MigrateExpiredJobs(queue)
		job, err := b.Pop(queue, int64(wholeSeconds(lease)/time.Second))
		if job != nil || err != nil {
			return []*linda.Job{job}, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, context.DeadlineExceeded
}

// one waits for a job and reserves it for long.
func (c *trial) one(b linda.Broker) *linda.Job {
	c.Helper()
	return c.reserve(b, c.queue, 1, c.long)[0]
}

// pop waits for a job by Pop alone, and reserves it for long.
func (c *trial) pop(b linda.Broker, queue string) *linda.Job {
	c.Helper()
	var job *linda.Job
	c.until("Pop returns a job", func() bool {
		b.MigrateExpiredJobs(queue)
		var err error
		job, err = b.Pop(queue, int64(c.long/time.Second))
		c.must(err, "Pop")
		return job != nil
	})
	return job
}

// nothing checks that no job is READY.
func (c *trial) nothing(b linda.Broker) {
	c.Helper()
	for _, q := range c.queues {
		b.MigrateExpiredJobs(q)
		job, err := b.Pop(q, int64(c.long/time.Second))
		c.must(err, "Pop")
		if job != nil {
			c.Fatalf("a job is ready that should not be: %v", job)
		}
	}
}

// delete deletes jobs that are reserved.
func (c *trial) delete(b linda.Broker, jobs ...*linda.Job) {
	c.Helper()
	for _, job := range jobs {
		c.must(b.Delete(job.Queue, job), "Delete")
	}
}

// settle ends the reservation of a job in one of the ways of a Settlement.
func (c *trial) settle(b linda.Broker, s linda.Settlement) {
	c.Helper()
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, []linda.Settlement{s}), "Settle")
}

// until waits for something that the server will do.
func (c *trial) until(what string, done func() bool) {
	c.Helper()
	for end := time.Now().Add(c.patience()); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("not within %v: %s", c.patience(), what)
		}
	}
}

// within runs a call that must return in time.
func (c *trial) within(limit time.Duration, what string, call func() error) error {
	c.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		c.Fatalf("%s has not returned after %v", what, limit)
		return nil
	}
}

func (c *trial) must(err error, what string) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

// is checks that err is the error wanted.
func (c *trial) is(err, want error, what string) {
	c.Helper()
	if !errors.Is(err, want) {
		c.Errorf("%s: got error %q, want %q", what, fmt.Sprint(err), want)
	}
}

func equal[T comparable](c *trial, got, want T, what string) {
	c.Helper()
	if got != want {
		c.Errorf("%s: got %s, want %s", what, show(got), show(want))
	}
}

// show shortens what is printed.
func show(v any) string {
	text := fmt.Sprintf("%v", v)
	if s, ok := v.(string); ok {
		text = fmt.Sprintf("%q", s)
	}
	if len(text) > 300 {
		text = fmt.Sprintf("%s... (%d bytes)", text[:300], len(text))
	}
	return text
}

// counts checks the attempt and the crashes of a delivery, where the broker
// promises to count.
func (c *trial) counts(job *linda.Job, attempt, crashes int) {
	c.Helper()
	if !c.AttemptsExact {
		return
	}
	equal(c, job.Attempt(), attempt, "Attempt")
	equal(c, job.Crashes(), crashes, "Crashes")
}

// notEarly checks that something took at least as long as asked.
func (c *trial) notEarly(since time.Time, asked time.Duration, what string) {
	c.Helper()
	if took := time.Since(since); took < asked-c.harness.Skew {
		c.Errorf("%s: early, after %v instead of %v", what, took, asked)
	}
}

// noResidue checks that the case's queues are empty, with whatever the server
// keeps beside them.
func (c *trial) noResidue() {
	if c.Failed() || c.dirty {
		return
	}
	b := c.open()
	for _, q := range c.queues {
		if c.inspects {
			s := c.stats(b, q)
			// Who stores a job anew removes the old one a moment later.
			for until := time.Now().Add(time.Second); holds(s) && time.Now().Before(until); s = c.stats(b, q) {
				time.Sleep(time.Millisecond)
			}
			if holds(s) {
				c.Errorf("jobs are left in queue %s: %+v", q, s)
			}
		}
		if c.harness.Keys == nil {
			continue
		}
		if keys := c.harness.Keys(c, q); len(keys) > 0 {
			c.Errorf("the server still holds for the empty queue %s: %q", q, keys)
		}
	}
}

// holds reports whether there is a job in any state that can be counted.
func holds(s linda.Stats) bool { return s.Ready > 0 || s.Delayed > 0 || s.Reserved > 0 || s.Dead > 0 }

func (c *trial) stats(b linda.Broker, queue string) linda.Stats {
	c.Helper()
	s, err := as[linda.Inspector](c, b).Stats(c.Context(), queue)
	c.must(err, "Stats")
	return s
}

// peek returns the jobs in a state.
func (c *trial) peek(b linda.Broker, state linda.State) []*linda.Job {
	c.Helper()
	jobs, err := as[linda.Inspector](c, b).Peek(c.Context(), c.queue, state, 1000)
	c.must(err, "Peek")
	return jobs
}

// purge removes the jobs in a state. Without an Inspector that can they stay.
func (c *trial) purge(b linda.Broker, state linda.State) {
	c.Helper()
	i, ok := linda.As[linda.Inspector](b)
	if !ok || !slices.Contains(c.Stats, state) {
		c.dirty = true
		return
	}
	_, err := i.Purge(c.Context(), c.queue, state)
	if errors.Is(err, errors.ErrUnsupported) && (!slices.Contains(c.Stats, state) || !c.peeks) {
		c.dirty = true
		return
	}
	c.must(err, "Purge")
}

func classes(jobs []*linda.Job) string {
	names := make([]string, len(jobs))
	for i, job := range jobs {
		names[i] = job.Payload.Class
	}
	return fmt.Sprint(names)
}
