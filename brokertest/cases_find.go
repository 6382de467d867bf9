package brokertest

import (
	"fmt"
	"time"

	"github.com/amlun/linda"
)

var findCases = []testCase{
	{name: "find", needs: needs(overseer, settler), check: find,
		rule: "Find returns the job with an id in whatever state it is, without reserving it, and nil for any other id."},
	{name: "find-among-many", needs: needs(overseer, batchPusher), check: findAmongMany,
		rule: "Find and Remove reach the last of many jobs, and Remove leaves the others in their order."},
	{name: "remove", needs: needs(overseer, settler), check: remove,
		rule: "Remove deletes the one job with an id and reports whether it did; a reserved job it leaves to its worker."},
	{name: "remove-frees-key", needs: needs(inspector, uniquer), check: removeFreesKey,
		rule: "The unique key of a job that was removed is free."},
}

// found expects a job to be in a state, "" for none.
func (c *trial) found(b linda.Broker, id string, want linda.State) {
	c.Helper()
	job, state, err := as[linda.Inspector](c, b).Find(c.Context(), c.queue, id)
	c.must(err, "Find")
	equal(c, state, want, "state of the job found")
	if want == "" {
		equal(c, job == nil, true, "no job found")
	} else if job == nil || job.ID != id {
		c.Errorf("found %v, want job %s", job, id)
	}
}

func find(c *trial) {
	b := c.open()
	job := newJob("job")
	job.ID = linda.NewID()
	other := newJob("other")
	other.Payload.Args = []any{fmt.Sprintf(`{"linda":{"id":"%s"}}`, job.ID)} // is not the job
	c.must(b.Later(3600, other, c.queue), "Later")
	c.found(b, job.ID, "")
	c.must(b.Push(job, c.queue), "Push")
	c.found(b, job.ID, linda.Ready)
	held := c.one(b)
	c.found(b, job.ID, linda.Reserved)
	c.must(b.ReleaseWithDelay(c.queue, held, 1), "ReleaseWithDelay")
	c.found(b, job.ID, linda.Delayed)
	held = c.reserve(b, c.queue, 1, c.long)[0]
	c.settle(b, linda.Settlement{Job: held, Op: linda.OpBury, Reason: "no use"})
	c.found(b, job.ID, linda.Dead)
	for _, id := range []string{"", "x", job.ID[1:], job.ID + "0", `"`} {
		c.found(b, id, "")
	}
	c.purge(b, linda.Dead)
	c.purge(b, linda.Delayed)
}

func findAmongMany(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	jobs := numbered(2500)
	for _, n := range []int{1200, 2499} {
		jobs[n].ID = linda.NewID()
	}
	c.pushBatch(b, jobs...)
	for _, n := range []int{2499, 1200} {
		c.found(b, jobs[n].ID, linda.Ready)
		removed, err := i.Remove(c.Context(), c.queue, jobs[n].ID)
		c.must(err, "Remove")
		equal(c, removed, true, "removed")
	}
	popped := c.reserve(b, c.queue, 2498, c.long)
	if c.Ordered {
		equal(c, popped[1200].Payload.Class, "job-1201", "class of the job behind the one removed")
		equal(c, popped[2497].Payload.Class, "job-2498", "class of the last job")
	}
	c.delete(b, popped...)
}

func remove(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	push := func(delay time.Duration) string {
		job := newJob("job")
		job.ID, job.Delay = linda.NewID(), delay
		c.must(b.Push(job, c.queue), "Push")
		return job.ID
	}
	removes := func(id string, want bool, when string) {
		c.Helper()
		removed, err := i.Remove(c.Context(), c.queue, id)
		c.must(err, "Remove "+when)
		equal(c, removed, want, "removed "+when)
	}
	id := push(0)
	removes(id, true, "when ready")
	removes(id, false, "again")
	removes(push(time.Hour), true, "when delayed")

	id = push(0)
	held := c.one(b)
	removed, err := i.Remove(c.Context(), c.queue, id)
	c.is(err, linda.ErrReserved, "Remove of a reserved job")
	equal(c, removed, false, "a reserved job was removed")
	c.settle(b, linda.Settlement{Job: held, Op: linda.OpBury, Reason: "no use"})
	removes(id, true, "when dead")
	c.nothing(b)
}

func removeFreesKey(c *trial) {
	b := c.open()
	first := newJob("first")
	first.ID, first.UniqueKey = linda.NewID(), "key"
	c.must(b.Push(first, c.queue), "Push")
	_, err := as[linda.Inspector](c, b).Remove(c.Context(), c.queue, first.ID)
	c.must(err, "Remove")
	second := newJob("second")
	second.UniqueKey = "key"
	c.must(b.Push(second, c.queue), "Push with the same key")
	c.delete(b, c.one(b))
}
