package brokertest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amlun/linda"
)

var inspectCases = []testCase{
	{name: "stats", needs: needs(inspector, settler), check: stats,
		rule: "Stats follows a job through all its states; a count that the broker cannot give is -1."},
	{name: "stats-after-time", needs: needs(inspector), check: statsAfterTime,
		rule: "Once they are migrated, jobs whose delay or reservation has ended are counted as ready."},
	{name: "peek", needs: needs(overseer, settler), check: peek,
		rule: "Peek shows the jobs in a state, the next in line first, up to as many as asked, and reserves none."},
	{name: "peek-bounded", needs: needs(overseer, batchPusher), check: peekBounded,
		rule: "Peek returns a thousand jobs at most, and none where none are asked for."},
	{name: "purge", needs: needs(overseer, settler), check: purge,
		rule: "Purge removes all jobs in one state, returns how many, and leaves the other states alone."},
	{name: "purge-reserved", needs: needs(inspector), check: purgeReserved,
		rule: "RESERVED jobs cannot be purged."},
	{name: "unknown-state", needs: needs(inspector), check: unknownState,
		rule: "A state that is none is an error of Peek and Purge."},
	{name: "queues", needs: needs(overseer, settler), check: queues,
		rule: "Queues lists, sorted, every queue that holds a job in any state, and none that is empty."},
	{name: "queues-not-waited-on", needs: needs(overseer, fetcher), check: queuesNotWaitedOn,
		rule: "An empty queue that a worker waits on is not listed by Queues."},
}

// expect checks the counts of the case's queue; those that the broker does not
// promise to give must be -1.
func (c *trial) expect(b linda.Broker, ready, delayed, reserved, dead int64, when string) {
	c.Helper()
	want := linda.Stats{Ready: ready, Delayed: delayed, Reserved: reserved, Dead: dead}
	for state, n := range map[linda.State]*int64{
		linda.Ready: &want.Ready, linda.Delayed: &want.Delayed, linda.Reserved: &want.Reserved, linda.Dead: &want.Dead,
	} {
		if !slices.Contains(c.Stats, state) {
			*n = -1
		}
	}
	equal(c, fmt.Sprintf("%+v", c.stats(b, c.queue)), fmt.Sprintf("%+v", want), "Stats "+when)
}

func stats(c *trial) {
	b := c.open()
	c.expect(b, 0, 0, 0, 0, "of an empty queue")
	c.push(b, 2)
	c.must(b.Later(60, newJob("later"), c.queue), "Later")
	c.expect(b, 2, 1, 0, 0, "after two Push and one Later")
	jobs := c.reserve(b, c.queue, 2, c.long)
	c.expect(b, 0, 1, 2, 0, "with both reserved")
	c.must(b.Release(c.queue, jobs[0]), "Release")
	c.expect(b, 1, 1, 1, 0, "after Release")
	c.must(b.ReleaseWithDelay(c.queue, jobs[1], 60), "ReleaseWithDelay")
	c.expect(b, 1, 2, 0, 0, "after ReleaseWithDelay")
	c.settle(b, linda.Settlement{Job: c.one(b), Op: linda.OpBury, Reason: "no use"})
	c.expect(b, 0, 2, 0, 1, "after it was buried")
	_, err := as[linda.Inspector](c, b).Kick(c.Context(), c.queue, 1)
	c.must(err, "Kick")
	c.expect(b, 1, 2, 0, 0, "after it was kicked")
	c.delete(b, c.one(b))
	c.expect(b, 0, 2, 0, 0, "after it was deleted")
	if c.purge(b, linda.Delayed); !c.dirty {
		c.expect(b, 0, 0, 0, 0, "at the end")
	}
}

func statsAfterTime(c *trial) {
	b := c.open()
	c.push(b, 1)
	c.must(b.Later(1, newJob("later"), c.queue), "Later")
	c.reserve(b, c.queue, 1, c.lease)
	time.Sleep(c.hold + 50*time.Millisecond)
	b.MigrateExpiredJobs(c.queue)
	c.expect(b, 2, 0, 0, 0, "when all is due")
	c.delete(b, c.reserve(b, c.queue, 2, c.long)...)
}

func peek(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	for _, delay := range []int64{50, 30, 40} {
		c.must(b.Later(delay, newJob(fmt.Sprint(delay)), c.queue), "Later")
	}
	equal(c, classes(c.peek(b, linda.Delayed)), "[30 40 50]", "Peek of delayed jobs, the next that is due first")
	c.purge(b, linda.Delayed)

	c.push(b, 3)
	jobs, err := i.Peek(c.Context(), c.queue, linda.Ready, 2)
	c.must(err, "Peek")
	if c.Ordered {
		equal(c, classes(jobs), "[job-0 job-1]", "Peek of two ready jobs")
	}
	equal(c, len(jobs), 2, "jobs peeked")
	for _, use := range c.uses() {
		c.is(use.do(b, c.queue, jobs[0]), linda.ErrNotReserved, use.name+" of a job that was peeked")
	}
	equal(c, jobs[0].Attempt(), 0, "Attempt of a job that was never popped")

	held := c.reserve(b, c.queue, 3, c.long)
	c.counts(held[0], 1, 0)
	equal(c, len(c.peek(b, linda.Ready)), 0, "ready jobs")
	reserved := c.peek(b, linda.Reserved)
	equal(c, len(byID(reserved)), 3, "reserved jobs")
	for _, job := range reserved {
		c.is(b.Delete(c.queue, job), linda.ErrNotReserved, "Delete of a reserved job that was peeked")
	}
	for _, job := range held {
		c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury, Reason: "because of " + job.Payload.Class})
	}
	dead := c.peek(b, linda.Dead)
	equal(c, classes(dead), classes(held), "Peek of dead jobs, the longest dead first")
	for _, job := range dead {
		equal(c, job.LastError(), "because of "+job.Payload.Class, "LastError")
		c.is(b.Release(c.queue, job), linda.ErrNotReserved, "Release of a dead job that was peeked")
	}
	c.purge(b, linda.Dead)
}

func peekBounded(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	c.pushBatch(b, numbered(1001)...)
	for max, want := range map[int]int{-1: 0, 0: 0, 1: 1, 1000: 1000, 1 << 40: 1000} {
		jobs, err := i.Peek(c.Context(), c.queue, linda.Ready, max)
		c.must(err, "Peek")
		equal(c, len(jobs), want, fmt.Sprintf("jobs for a max of %d", max))
	}
	c.purge(b, linda.Ready)
}

func purge(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	fill := func() (held *linda.Job) {
		c.push(b, 3)
		for range 2 {
			c.settle(b, linda.Settlement{Job: c.one(b), Op: linda.OpBury, Reason: "no use"})
		}
		held = c.one(b)
		c.push(b, 4)
		for range 3 {
			c.must(b.Later(60, newJob("later"), c.queue), "Later")
		}
		return held
	}
	held := fill()
	c.expect(b, 4, 3, 1, 2, "of a full queue")
	for _, step := range []struct {
		state                          linda.State
		removed                        int
		ready, delayed, reserved, dead int64
	}{
		{linda.Delayed, 3, 4, 0, 1, 2},
		{linda.Dead, 2, 4, 0, 1, 0},
		{linda.Ready, 4, 0, 0, 1, 0},
		{linda.Ready, 0, 0, 0, 1, 0},
	} {
		n, err := i.Purge(c.Context(), c.queue, step.state)
		c.must(err, "Purge")
		equal(c, n, step.removed, fmt.Sprintf("%s jobs purged", step.state))
		c.expect(b, step.ready, step.delayed, step.reserved, step.dead, fmt.Sprintf("after Purge of %s", step.state))
	}
	c.delete(b, held)
	if c.raw && c.rawPush(`{"Payload":{"class":"C"}}`) && c.rawPush(`{not json`) {
		n, err := i.Purge(c.Context(), c.queue, linda.Ready)
		c.must(err, "Purge of foreign bodies")
		equal(c, n, 2, "foreign bodies purged")
	}
}

func purgeReserved(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.one(b)
	_, err := as[linda.Inspector](c, b).Purge(c.Context(), c.queue, linda.Reserved)
	c.is(err, linda.ErrReserved, "Purge of reserved jobs")
	c.delete(b, job)
}

func unknownState(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	for _, state := range []linda.State{"", "READY", "all", "ready "} {
		_, err := i.Peek(c.Context(), c.queue, state, 1)
		equal(c, err != nil, true, fmt.Sprintf("Peek of state %q is an error", state))
		_, err = i.Purge(c.Context(), c.queue, state)
		equal(c, err != nil, true, fmt.Sprintf("Purge of state %q is an error", state))
	}
}

// listed reports which of the case's queues Queues lists.
func (c *trial) listed(b linda.Broker) string {
	c.Helper()
	names, err := as[linda.Inspector](c, b).Queues(c.Context())
	c.must(err, "Queues")
	equal(c, slices.IsSorted(names), true, "the queues are sorted")
	var found []int
	for i, q := range c.queues {
		if slices.Contains(names, q) {
			found = append(found, i)
		}
	}
	return fmt.Sprint(found)
}

func queues(c *trial) {
	b := c.open()
	c.newQueue("queues") // stays empty
	equal(c, c.listed(b), "[]", "queues before any push")
	c.push(b, 1)
	equal(c, c.listed(b), "[0]", "queues with a job in READY")
	job := c.one(b)
	equal(c, c.listed(b), "[0]", "queues with a job in RESERVED")
	c.must(b.ReleaseWithDelay(c.queue, job, 1), "ReleaseWithDelay")
	equal(c, c.listed(b), "[0]", "queues with a job in DELAYED")
	job = c.one(b)
	c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury})
	equal(c, c.listed(b), "[0]", "queues with a job in DEAD")
	c.purge(b, linda.Dead)
	equal(c, c.listed(b), "[]", "queues when all are empty")
}

func queuesNotWaitedOn(c *trial) {
	b := c.open()
	w := c.fetch(b)
	equal(c, c.listed(b), "[]", "queues with jobs")
	w.cancel()
	if err := <-w.err; !errors.Is(err, linda.ErrClosed) && err == nil {
		c.Error("Fetch returned no error")
	}
	equal(c, c.listed(b), "[]", "queues with jobs")
}
