package brokertest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

var fencingCases = []testCase{
	{name: "stale-settle", check: func(c *trial) { staleSettle(c, c.open(), c.open()) },
		rule: "Who lost a reservation to another worker gets ErrLeaseLost from everything, and the other worker's is left alone."},
	{name: "stale-settle-same-connection", check: func(c *trial) { b := c.open(); staleSettle(c, b, b) },
		rule: "A delivery whose reservation ended cannot be settled by the connection that has the next delivery of the job."},
	{name: "late-settle", check: lateSettle,
		rule: "A settlement after the reservation ended, with the job in nobody's hands, is carried out or is ErrLeaseLost, and what it says is true."},
	{name: "double-settle", check: doubleSettle,
		rule: "A delivery is settled once: after any settlement every other one is ErrNotReserved and does nothing."},
	{name: "concurrent-settle", check: concurrentSettle,
		rule: "Of settlements of one delivery at the same time exactly one succeeds; the others are ErrNotReserved."},
	{name: "copies-share-reservation", check: copiesShareReservation,
		rule: "A copy of a popped job settles it in the job's place, once."},
	{name: "never-popped", check: neverPopped,
		rule: "A job that was never popped is ErrNotReserved, also one that equals a job in the queue."},
	{name: "other-connection", check: otherConnection,
		rule: "A job popped by one connection is ErrNotReserved to another, and stays reserved."},
	{name: "other-queue", check: otherQueue,
		rule: "A job popped from one queue is ErrNotReserved in another, and stays reserved."},
}

var touchCases = []testCase{
	{name: "touch-prolongs", needs: needs(fetcher, toucher), check: touchProlongs,
		rule: "A touched reservation outlives its first end, and ends a lease after the last touch."},
	{name: "touch-shortens", needs: needs(fetcher, toucher), check: touchShortens,
		rule: "Touch makes a reservation end a lease from now, also when that is sooner."},
	{name: "touch-settled", needs: needs(toucher), check: touchSettled,
		rule: "Touch of a batch prolongs those that are held and reports just the others, as ErrNotReserved."},
}

// use is something that only the holder of a reservation may do.
type use struct {
	name string
	do   func(b linda.Broker, queue string, job *linda.Job) error
}

// endings are the ways to end a reservation.
func (c *trial) endings() []use {
	uses := []use{
		{"Delete", func(b linda.Broker, queue string, job *linda.Job) error { return b.Delete(queue, job) }},
		{"Release", func(b linda.Broker, queue string, job *linda.Job) error { return b.Release(queue, job) }},
		{"ReleaseWithDelay", func(b linda.Broker, queue string, job *linda.Job) error {
			return b.ReleaseWithDelay(queue, job, 1)
		}},
	}
	if !c.settles {
		return uses
	}
	for name, s := range map[string]linda.Settlement{
		"Settle with OpDelete":                {Op: linda.OpDelete},
		"Settle with OpRelease":               {Op: linda.OpRelease},
		"Settle with OpRelease and Unstarted": {Op: linda.OpRelease, Unstarted: true},
		"Settle with OpBury":                  {Op: linda.OpBury, Reason: "stale"},
	} {
		uses = append(uses, use{name, func(b linda.Broker, queue string, job *linda.Job) error {
			s.Job = job
			return unbatch(as[linda.Settler](c, b).Settle(c.Context(), queue, []linda.Settlement{s}))
		}})
	}
	return uses
}

func (c *trial) uses() []use {
	uses := c.endings()
	if c.touches {
		uses = append(uses, use{"Touch", func(b linda.Broker, queue string, job *linda.Job) error {
			return unbatch(as[linda.Toucher](c, b).Touch(c.Context(), queue, c.long, []*linda.Job{job}))
		}})
	}
	return uses
}

// unbatch is the error of a batch of one.
func unbatch(err error) error { return linda.EachError(err, 1)[0] }

func byID(jobs []*linda.Job) map[string]*linda.Job {
	m := make(map[string]*linda.Job, len(jobs))
	for _, job := range jobs {
		m[job.ID] = job
	}
	return m
}

func staleSettle(c *trial, slow, quick linda.Broker) {
	uses := c.uses()
	c.push(slow, len(uses))
	lost := c.reserve(slow, c.queue, len(uses), c.lease)
	held := byID(c.reserve(quick, c.queue, len(uses), c.long))
	for i, use := range uses {
		err := use.do(slow, c.queue, lost[i])
		c.is(err, linda.ErrNotReserved, "stale "+use.name)
		c.is(err, linda.ErrLeaseLost, "stale "+use.name)
		c.is(use.do(slow, c.queue, lost[i]), linda.ErrNotReserved, "stale "+use.name+" again")
	}
	c.nothing(c.open())
	for i, use := range uses {
		job := held[lost[i].ID]
		if job == nil {
			c.Fatalf("%v was not delivered again", lost[i])
		}
		if err := quick.Delete(c.queue, job); err != nil {
			c.Errorf("after a stale %s the holder cannot delete: %v", use.name, err)
		}
	}
	c.nothing(slow)
}

func lateSettle(c *trial) {
	b := c.open()
	c.push(b, 1)
	start := time.Now()
	job := c.reserve(b, c.queue, 1, c.lease)[0]
	time.Sleep(c.lease - time.Since(start) + 100*time.Millisecond)
	switch err := b.Delete(c.queue, job); {
	case err == nil:
		c.nothing(b)
	case errors.Is(err, linda.ErrLeaseLost):
		c.delete(b, c.one(b))
	default:
		c.Errorf("Delete after the end of the reservation: %v", err)
	}
}

func doubleSettle(c *trial) {
	b := c.open()
	for _, first := range c.endings() {
		c.push(b, 1)
		job := c.one(b)
		c.must(first.do(b, c.queue, job), first.name)
		for _, second := range c.uses() {
			c.is(second.do(b, c.queue, job), linda.ErrNotReserved, second.name+" after "+first.name)
		}
		switch first.name {
		case "Delete", "Settle with OpDelete":
		case "Settle with OpBury":
			c.purge(b, linda.Dead)
		default:
			c.delete(b, c.one(b))
		}
		c.nothing(b)
	}
}

func concurrentSettle(c *trial) {
	b := c.open()
	for range 20 {
		c.push(b, 1)
		job := c.one(b)
		var (
			all             sync.WaitGroup
			deleted, putted atomic.Int64
			wrong           = make(chan error, 8)
		)
		for i := range 8 {
			settle, count := b.Delete, &deleted
			if i%2 == 1 {
				settle, count = b.Release, &putted
			}
			all.Go(func() {
				switch err := settle(c.queue, job); {
				case err == nil:
					count.Add(1)
				case !errors.Is(err, linda.ErrNotReserved):
					wrong <- err
				}
			})
		}
		all.Wait()
		close(wrong)
		for err := range wrong {
			c.Errorf("a settlement that came too late: %v", err)
		}
		if n := deleted.Load() + putted.Load(); n != 1 {
			c.Fatalf("%d settlements succeeded, want 1", n)
		}
		if putted.Load() == 1 {
			c.delete(b, c.one(b))
		}
		c.nothing(b)
	}
}

func copiesShareReservation(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.pop(b, c.queue)
	twin := *job
	c.must(b.Delete(c.queue, &twin), "Delete of the copy")
	c.is(b.Delete(c.queue, job), linda.ErrNotReserved, "Delete of the original")
	c.nothing(b)
}

func neverPopped(c *trial) {
	b := c.open()
	pushed := newJob("job")
	pushed.ID = linda.NewID()
	pushed.Queue = c.queue
	c.must(b.Push(pushed, c.queue), "Push")
	for _, use := range c.uses() {
		c.is(use.do(b, c.queue, pushed), linda.ErrNotReserved, use.name+" of a job in READY")
	}
	held := c.one(b)
	forged := &linda.Job{ID: held.ID, Queue: held.Queue, Payload: held.Payload}
	for _, use := range c.uses() {
		c.is(use.do(b, c.queue, pushed), linda.ErrNotReserved, use.name+" of a job that was pushed")
		c.is(use.do(b, c.queue, forged), linda.ErrNotReserved, use.name+" of an equal job")
	}
	c.nothing(b)
	c.delete(b, held)
}

func otherConnection(c *trial) {
	holder, other := c.open(), c.open()
	c.push(holder, 1)
	job := c.one(holder)
	for _, use := range c.uses() {
		c.is(use.do(other, c.queue, job), linda.ErrNotReserved, use.name+" by another connection")
	}
	c.nothing(other)
	c.delete(holder, job)
}

func otherQueue(c *trial) {
	b := c.open()
	elsewhere := c.newQueue("elsewhere")
	c.push(b, 1)
	job := c.one(b)
	for _, use := range c.uses() {
		c.is(use.do(b, elsewhere, job), linda.ErrNotReserved, use.name+" in another queue")
	}
	c.nothing(b)
	c.delete(b, job)
}

func touchProlongs(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.reserve(b, c.queue, 1, c.hold)[0]
	var touched time.Time
	for range 3 {
		time.Sleep(c.hold / 2)
		touched = time.Now()
		c.must(as[linda.Toucher](c, b).Touch(c.Context(), c.queue, c.hold, []*linda.Job{job}), "Touch")
		c.nothing(b)
	}
	again := c.one(b)
	c.notEarly(touched, c.hold, "the next delivery")
	c.is(unbatch(as[linda.Toucher](c, b).Touch(c.Context(), c.queue, c.hold, []*linda.Job{job})),
		linda.ErrLeaseLost, "Touch after the end")
	c.counts(again, 2, 1)
	c.delete(b, again)
}

func touchShortens(c *trial) {
	b, other := c.open(), c.open()
	c.push(b, 1)
	job := c.one(b)
	w := c.fetch(other)
	touched := time.Now()
	c.must(as[linda.Toucher](c, b).Touch(c.Context(), c.queue, c.lease, []*linda.Job{job}), "Touch")
	again := c.job(w)
	c.notEarly(touched, c.lease, "the next delivery")
	c.is(b.Delete(c.queue, job), linda.ErrLeaseLost, "Delete after the end")
	c.delete(other, again)
}

func touchSettled(c *trial) {
	b := c.open()
	c.push(b, 3)
	jobs := c.reserve(b, c.queue, 3, c.long)
	c.delete(b, jobs[1])
	err := as[linda.Toucher](c, b).Touch(c.Context(), c.queue, c.long, jobs)
	c.onlyFails(err, 3, 1, linda.ErrNotReserved)
	c.delete(b, slices.Delete(jobs, 1, 2)...)
}

// onlyFails checks that of n items of a batch just one has failed.
func (c *trial) onlyFails(err error, n, bad int, want error) {
	c.Helper()
	var batch *linda.BatchError
	if !errors.As(err, &batch) || len(batch.Errs) != n {
		c.Fatalf("got %v, want a BatchError of %d entries", err, n)
	}
	for i, err := range batch.Errs {
		if i == bad {
			c.is(err, want, "the item that is not held")
		} else if err != nil {
			c.Errorf("item %d: %v", i, err)
		}
	}
}
