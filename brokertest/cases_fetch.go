package brokertest

import (
	"context"
	"errors"
	"time"

	"github.com/amlun/linda"
)

var fetchCases = []testCase{
	{name: "fetch-several", needs: needs(fetcher), check: fetchSeveral,
		rule: "Fetch reserves several jobs at once, never more than it was asked for."},
	{name: "fetch-woken", needs: needs(fetcher), check: fetchWoken,
		rule: "A waiting Fetch returns a job that another connection pushes."},
	{name: "fetch-woken-each", needs: needs(fetcher), check: fetchWokenEach,
		rule: "Of several waiting Fetches, as many return as there are jobs pushed, each with its own."},
	{name: "fetch-due", needs: needs(fetcher), check: fetchDue,
		rule: "A waiting Fetch returns a delayed job when its delay ends."},
	{name: "fetch-expired", needs: needs(fetcher), check: fetchExpired,
		rule: "A waiting Fetch returns a job whose reservation by somebody else ends."},
	{name: "fetch-released", needs: needs(fetcher), check: fetchReleased,
		rule: "A waiting Fetch returns a job that another connection releases."},
	{name: "fetch-ends", needs: needs(fetcher), check: fetchEnds,
		rule: "A waiting Fetch ends with its context, with the context's error, and takes no job afterwards."},
	{name: "fetch-at-most-once", needs: needs(fetcher), check: fetchAtMostOnce,
		rule: "Fetch with a lease of 0 deletes the jobs at once."},
	{name: "fetch-sub-second", needs: needs(fetcher), check: fetchSubSecond,
		rule: "A lease holds for as long as asked, to the fraction of a second, and ends after it."},
}

// waiting is a Fetch under way.
type waiting struct {
	cancel context.CancelFunc
	jobs   chan []*linda.Job
	err    chan error
}

// fetch starts to wait for one job in a goroutine of its own, and gives it
// time to begin.
func (c *trial) fetch(b linda.Broker) *waiting {
	c.Helper()
	f := as[linda.Fetcher](c, b)
	ctx, cancel := context.WithCancel(c.Context())
	w := &waiting{cancel, make(chan []*linda.Job, 1), make(chan error, 1)}
	go func() {
		jobs, err := f.Fetch(ctx, c.queue, 1, c.long)
		w.jobs <- jobs
		w.err <- err
	}()
	time.Sleep(100 * time.Millisecond)
	return w
}

// job waits for the end of the Fetch, which has brought one job.
func (c *trial) job(w *waiting) *linda.Job {
	c.Helper()
	select {
	case jobs := <-w.jobs:
		c.must(<-w.err, "Fetch")
		if len(jobs) != 1 {
			c.Fatalf("Fetch returned %d jobs and no error, want 1", len(jobs))
		}
		return jobs[0]
	case <-time.After(c.patience()):
		c.Fatalf("Fetch still waits %v after the job was ready", c.patience())
		return nil
	}
}

func fetchSeveral(c *trial) {
	b := c.open()
	c.push(b, 10)
	until := time.Now().Add(c.patience())
	left := 10
	for left > 0 {
		jobs, err := c.next(b, c.queue, 3, c.long, until)
		c.must(err, "Fetch")
		if len(jobs) == 0 || len(jobs) > 3 {
			c.Fatalf("Fetch returned %d jobs, want 1 to 3", len(jobs))
		}
		left -= len(jobs)
		c.delete(b, jobs...)
	}
	equal(c, left, 0, "jobs left")
	c.nothing(b)
}

func fetchWoken(c *trial) {
	worker, producer := c.open(), c.open()
	w := c.fetch(worker)
	c.push(producer, 1)
	c.delete(worker, c.job(w))
}

func fetchWokenEach(c *trial) {
	producer := c.open()
	workers := []linda.Broker{c.open(), c.open()}
	var waits []*waiting
	for i := range 4 {
		waits = append(waits, c.fetch(workers[i%2]))
	}
	c.push(producer, 4)
	seen := make(map[string]bool)
	for i, w := range waits {
		job := c.job(w)
		equal(c, seen[job.ID], false, "the job was fetched before")
		seen[job.ID] = true
		c.delete(workers[i%2], job)
	}
}

func fetchDue(c *trial) {
	worker, producer := c.open(), c.open()
	w := c.fetch(worker)
	start := time.Now()
	c.must(producer.Later(1, newJob("later"), c.queue), "Later")
	job := c.job(w)
	c.notEarly(start, time.Second, "the job")
	c.delete(worker, job)
}

func fetchExpired(c *trial) {
	worker, other := c.open(), c.open()
	c.push(other, 1)
	start := time.Now()
	held := c.reserve(other, c.queue, 1, c.lease)[0]
	job := c.job(c.fetch(worker))
	c.notEarly(start, c.lease, "the job")
	equal(c, job.ID, held.ID, "id")
	c.delete(worker, job)
}

func fetchReleased(c *trial) {
	worker, other := c.open(), c.open()
	c.push(other, 1)
	held := c.one(other)
	w := c.fetch(worker)
	c.must(other.Release(c.queue, held), "Release")
	c.delete(worker, c.job(w))
}

func fetchEnds(c *trial) {
	b := c.open()
	w := c.fetch(b)
	w.cancel()
	select {
	case err := <-w.err:
		c.is(err, context.Canceled, "Fetch whose context was cancelled")
	case <-time.After(time.Second):
		c.Fatal("Fetch still waits a second after its context was cancelled")
	}
	f := as[linda.Fetcher](c, b)
	err := c.within(time.Second+c.harness.Slack, "Fetch", func() error {
		ctx, cancel := context.WithTimeout(c.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := f.Fetch(ctx, c.queue, 1, c.long)
		return err
	})
	c.is(err, context.DeadlineExceeded, "Fetch whose deadline passed")
	c.push(b, 1)
	c.delete(b, c.one(b))
}

func fetchAtMostOnce(c *trial) {
	b := c.open()
	c.push(b, 2)
	for _, job := range c.reserve(b, c.queue, 2, 0) {
		c.must(b.Delete(c.queue, job), "Delete of a job that is gone")
	}
	c.nothing(b)
}

func fetchSubSecond(c *trial) {
	b := c.open()
	c.push(b, 1)
	lease := c.lease + 123*time.Millisecond
	start := time.Now()
	c.reserve(b, c.queue, 1, lease)
	ctx, cancel := context.WithTimeout(c.Context(), lease-50*time.Millisecond)
	defer cancel()
	jobs, err := as[linda.Fetcher](c, b).Fetch(ctx, c.queue, 1, c.long)
	if len(jobs) > 0 || !errors.Is(err, context.DeadlineExceeded) {
		c.notEarly(start, lease, "the next delivery")
	}
	if len(jobs) == 0 {
		jobs = c.reserve(b, c.queue, 1, c.long)
	}
	c.delete(b, jobs...)
}
