package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

var concurrencyCases = []testCase{
	{name: "many-workers", check: func(c *trial) { manyWorkers(c, 8) },
		rule: "Eight workers on three connections share two thousand jobs: each job once, none lost."},
	{name: "many-producers", check: manyProducers,
		rule: "Jobs pushed by many goroutines at once, while others pop, all arrive, each once."},
	{name: "release-storm", check: releaseStorm,
		rule: "Jobs that workers release, and whose reservations end, are never in two hands and never lost."},
}

// drain starts workers that take and delete n jobs, and returns how often
// each id came out.
func (c *trial) drain(n, workers int) map[string]int {
	c.Helper()
	brokers := []linda.Broker{c.open(), c.open(), c.open()}
	var (
		all  sync.WaitGroup
		left atomic.Int64
		mu   sync.Mutex
		seen = make(map[string]int) // guarded by mu
	)
	left.Store(int64(n))
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	for i := range workers {
		b := brokers[i%len(brokers)]
		all.Go(func() {
			for ctx.Err() == nil && left.Load() > 0 {
				jobs, err := c.next(b, c.queue, 10, c.long, time.Now().Add(200*time.Millisecond))
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					c.Errorf("fetch: %v", err)
					return
				}
				for _, job := range jobs {
					mu.Lock()
					seen[job.ID]++
					mu.Unlock()
					if err := b.Delete(c.queue, job); err != nil {
						c.Errorf("Delete: %v", err)
					}
				}
				left.Add(-int64(len(jobs)))
			}
		})
	}
	all.Wait()
	for id, times := range seen {
		if times != 1 {
			c.Errorf("job %s came out %d times", id, times)
		}
	}
	if len(seen) != n {
		c.Errorf("%d of %d jobs came out", len(seen), n)
	}
	return seen
}

func manyWorkers(c *trial, workers int) {
	const n = 2000
	b := c.open()
	c.push(b, n)
	c.drain(n, workers)
	c.nothing(b)
}

func manyProducers(c *trial) {
	const producers, each = 16, 50
	brokers := []linda.Broker{c.open(), c.open()}
	var all sync.WaitGroup
	for i := range producers {
		all.Go(func() {
			for j := range each {
				if err := brokers[i%2].Push(newJob(fmt.Sprintf("job-%d-%d", i, j)), c.queue); err != nil {
					c.Errorf("Push: %v", err)
				}
			}
		})
	}
	c.drain(producers*each, 4)
	all.Wait()
	c.nothing(brokers[0])
}

// releaseStorm has each job released twice and abandoned once before it is
// deleted.
func releaseStorm(c *trial) {
	const n = 100
	b := c.open()
	c.push(b, n)
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		runs = make(map[string]int)       // guarded by mu, as below
		held = make(map[string]time.Time) // until when
		done = 0
	)
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	for range 4 {
		b := c.open()
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				left := n - done
				mu.Unlock()
				if left == 0 {
					return
				}
				sent := time.Now()
				jobs, err := c.next(b, c.queue, 1, c.lease, sent.Add(c.lease))
				if errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				if err != nil {
					c.Errorf("fetch: %v", err)
					return
				}
				job := jobs[0]
				mu.Lock()
				if until := held[job.ID].Add(-c.harness.Skew); time.Now().Before(until) {
					c.Errorf("%v came out while it was reserved", job)
				}
				runs[job.ID]++
				run := runs[job.ID]
				held[job.ID] = sent.Add(c.lease)
				if run != 3 {
					delete(held, job.ID)
				}
				mu.Unlock()
				switch {
				case run < 3:
					err = b.Release(c.queue, job)
				case run == 3:
					continue // as if the worker had died
				default:
					err = b.Delete(c.queue, job)
				}
				mu.Lock()
				switch {
				case errors.Is(err, linda.ErrLeaseLost): // a busy machine; it comes again
				case err != nil:
					c.Errorf("run %d: %v", run, err)
				case run > 3:
					done++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	equal(c, done, n, "jobs deleted")
	c.nothing(b)
}
