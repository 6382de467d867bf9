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

var contextCases = []testCase{
	{name: "ended-context", needs: needs(anyOptional), check: endedContext,
		rule: "A call whose context has ended returns the context's error and stores, reserves and settles nothing."},
}

var closeCases = []testCase{
	{name: "close-ends-fetch", needs: needs(fetcher), check: closeEndsFetch,
		rule: "Close ends a waiting Fetch within a second, with ErrClosed."},
	{name: "close-twice", check: closeTwice,
		rule: "Close may be called again, also by several goroutines at once."},
	{name: "closed", check: closed,
		rule: "Every call after Close is ErrClosed and does nothing."},
	{name: "close-leaves-others", check: closeLeavesOthers,
		rule: "Close of one connection does not disturb another, nor its reservations."},
	{name: "close-returns-jobs", check: closeReturnsJobs,
		rule: "Jobs that a connection held when it was closed come to another by the end of their reservation."},
	{name: "close-during-calls", check: closeDuringCalls,
		rule: "Calls that Close interrupts return; what Push said it has is there afterwards."},
}

// callOptional calls what the optional interfaces of a broker offer, and
// returns the errors.
func (c *trial) callOptional(ctx context.Context, b linda.Broker, queue string, job *linda.Job) map[string]error {
	errs := make(map[string]error)
	if f, ok := linda.As[linda.Fetcher](b); ok {
		limited, cancel := context.WithTimeout(ctx, c.patience()) // a call that is let through by mistake must not wait
		defer cancel()
		_, errs["Fetch"] = f.Fetch(limited, queue, 1, c.long)
	}
	if p, ok := linda.As[linda.BatchPusher](b); ok {
		errs["PushBatch"] = p.PushBatch(ctx, queue, []*linda.Job{newJob("job")})
	}
	if s, ok := linda.As[linda.Settler](b); ok {
		for op, name := range []string{"delete", "release", "bury"} {
			errs["Settle to "+name] = unbatch(s.Settle(ctx, queue, []linda.Settlement{{Job: job, Op: linda.Op(op)}}))
		}
	}
	if t, ok := linda.As[linda.Toucher](b); ok {
		errs["Touch"] = unbatch(t.Touch(ctx, queue, c.long, []*linda.Job{job}))
	}
	if u, ok := linda.As[linda.Uniquer](b); ok {
		keyed := newJob("job")
		keyed.UniqueKey = "key"
		errs["PushUnique"] = u.PushUnique(ctx, queue, keyed)
	}
	if i, ok := linda.As[linda.Inspector](b); ok {
		_, errs["Stats"] = i.Stats(ctx, queue)
		_, errs["Peek"] = i.Peek(ctx, queue, linda.Ready, 1)
		_, errs["Kick"] = i.Kick(ctx, queue, 1)
		_, _, errs["Find"] = i.Find(ctx, queue, "an-id")
		_, errs["Remove"] = i.Remove(ctx, queue, "an-id")
		_, errs["Purge"] = i.Purge(ctx, queue, linda.Dead)
	}
	return errs
}

func endedContext(c *trial) {
	b := c.open()
	c.push(b, 2)
	held := c.one(b)
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	for call, err := range c.callOptional(ended, b, c.queue, held) {
		c.is(err, context.Canceled, call)
	}
	if i, ok := linda.As[linda.Inspector](b); ok {
		_, err := i.Queues(ended)
		c.is(err, context.Canceled, "Queues")
	}
	ready := c.pop(b, c.queue) // Fetch has not taken it
	c.nothing(b)               // PushBatch has pushed nothing
	c.delete(b, held, ready)   // Settle has not used the receipt
	if u, ok := linda.As[linda.Uniquer](b); ok {
		job := newJob("job")
		job.UniqueKey = "key"
		c.must(u.PushUnique(c.Context(), c.queue, job), "PushUnique after one whose context had ended")
		c.delete(b, c.one(b))
	}
}

func closeEndsFetch(c *trial) {
	b := c.open()
	w := c.fetch(b)
	c.must(c.within(time.Second, "Close", b.Close), "Close")
	select {
	case err := <-w.err:
		c.is(err, linda.ErrClosed, "Fetch")
	case <-time.After(time.Second):
		c.Fatal("Fetch still waits a second after Close")
	}
	other := c.open()
	c.push(other, 1) // for nobody who is closed
	c.delete(other, c.pop(other, c.queue))
}

func closeTwice(c *trial) {
	b := c.open()
	c.push(b, 1)
	c.delete(b, c.pop(b, c.queue))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := b.Close(); err != nil {
				c.Errorf("Close: %v", err)
			}
		})
	}
	all.Wait()
	c.must(b.Close(), "Close again")
}

func closed(c *trial) {
	b, other := c.open(), c.open()
	c.push(b, 1)
	held := c.one(b)
	c.must(b.Close(), "Close")
	err := c.within(c.patience(), "calls after Close", func() error {
		for call, err := range c.callAll(b, c.queue, held) {
			c.is(err, linda.ErrClosed, call+" after Close")
		}
		b.MigrateExpiredJobs(c.queue)
		return nil
	})
	c.must(err, "calls after Close")
	if i, ok := linda.As[linda.Inspector](b); ok {
		_, err := i.Queues(c.Context())
		c.is(err, linda.ErrClosed, "Queues after Close")
	}
	if job, err := other.Pop(c.queue, int64(c.long/time.Second)); err != nil || job != nil && job.ID != held.ID {
		c.Errorf("a call after Close did something: Pop returned %v, %v", job, err)
	}
	c.dirty = true // the held job comes back when its long reservation ends
}

func closeLeavesOthers(c *trial) {
	b, other := c.open(), c.open()
	c.push(b, 2)
	held := c.one(other)
	w := c.fetchAfter(other, c.one(b), b)
	c.delete(other, held, c.job(w))
	c.push(other, 1)
	c.delete(other, c.pop(other, c.queue))
}

// fetchAfter has worker wait while another connection deletes its job, closes
// and a third one pushes.
func (c *trial) fetchAfter(worker linda.Broker, job *linda.Job, closing linda.Broker) *waiting {
	c.Helper()
	w := c.fetchOrPop(worker)
	c.delete(closing, job)
	c.must(closing.Close(), "Close")
	c.push(c.open(), 1)
	return w
}

// fetchOrPop is fetch for brokers that have only Pop.
func (c *trial) fetchOrPop(b linda.Broker) *waiting {
	c.Helper()
	if c.fetches {
		return c.fetch(b)
	}
	w := &waiting{func() {}, make(chan []*linda.Job, 1), make(chan error, 1)}
	go func() {
		jobs, err := c.next(b, c.queue, 1, c.long, time.Now().Add(c.patience()))
		w.jobs <- jobs
		w.err <- err
	}()
	return w
}

func closeReturnsJobs(c *trial) {
	b, other := c.open(), c.open()
	c.push(b, 5)
	c.reserve(b, c.queue, 5, c.lease)
	c.must(b.Close(), "Close")
	jobs := c.reserve(other, c.queue, 5, c.long)
	for _, job := range jobs {
		if c.AttemptsExact && job.Attempt() < 2 {
			c.Errorf("%v: the delivery to the closed connection was not counted", job)
		}
	}
	c.delete(other, jobs...)
}

func closeDuringCalls(c *trial) {
	other := c.open()
	var pushed, unknown atomic.Int64
	for range 5 {
		b := c.open()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := 0; ; i++ {
					switch err := b.Push(newJob(fmt.Sprint("job-", i)), c.queue); {
					case err == nil:
						pushed.Add(1)
					case errors.Is(err, linda.ErrClosed):
						return
					case errors.Is(err, linda.ErrUnknown):
						unknown.Add(1)
					default:
						c.Errorf("Push during Close: %v", err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		c.must(b.Close(), "Close")
		c.must(c.within(c.patience(), "Push after Close", func() error { all.Wait(); return nil }), "")
	}
	c.delete(other, c.reserve(other, c.queue, int(pushed.Load()), c.long)...)
	if unknown.Load() == 0 {
		c.nothing(other)
	} else {
		c.dirty = true // a push whose outcome is unknown may have left a job
	}
}
