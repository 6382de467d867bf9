package brokertest

import (
	"fmt"
	"math"
	"time"

	"github.com/amlun/linda"
)

var batchCases = []testCase{
	{name: "batch-is-a-loop", needs: needs(batchPusher), check: batchIsALoop,
		rule: "PushBatch does what one Push after the other would, each job with its own delay."},
	{name: "batch-order", needs: needs(batchPusher, ordered), check: batchOrder,
		rule: "The jobs of a batch come out in its order."},
	{name: "batch-of-a-thousand", needs: needs(batchPusher, settler), check: batchOfAThousand,
		rule: "A thousand jobs are pushed in one call and deleted in one call."},
	{name: "batch-with-bad-job", needs: needs(batchPusher), check: batchWithBadJob,
		rule: "A batch with a job that cannot be encoded is refused, and none of it is stored."},
	{name: "empty-batch", needs: needs(anyOptional), check: emptyBatch,
		rule: "A batch of nothing does nothing, without an error."},
	{name: "settle-every-way", needs: needs(settler), check: settleEveryWay,
		rule: "One Settle deletes, releases, delays and buries, each job as asked."},
	{name: "settle-with-stale", needs: needs(settler), check: settleWithStale,
		rule: "Of a batch with one stale item just that one fails, named by its place in a BatchError."},
	{name: "settle-with-lost", needs: needs(settler), check: settleWithLost,
		rule: "Of a batch with one job that somebody else has by now just that one is ErrLeaseLost, and the others are settled."},
	{name: "settle-twice-in-batch", needs: needs(settler), check: settleTwiceInBatch,
		rule: "A job that is twice in a batch is settled once, the first way."},
	{name: "unstarted-to-head", needs: needs(settler, ordered), check: unstartedToHead,
		rule: "Jobs that are released Unstarted go back to the head of the queue, in their order."},
	{name: "released-to-tail", needs: needs(settler, ordered), check: releasedToTail,
		rule: "Jobs that are released go to the end of the queue, those of one batch in their order."},
}

var attemptCases = []testCase{
	{name: "attempts", needs: needs(exact, settler, fetcher), check: attempts,
		rule: "Attempts, failures, crashes and the last error are exact through release, failure, snooze, delay, hand-back and crash."},
	{name: "crashes", needs: needs(exact), check: crashes,
		rule: "Each reservation that ends by itself is one crash more, until the job is settled."},
}

func (c *trial) pushBatch(b linda.Broker, jobs ...*linda.Job) {
	c.Helper()
	c.must(as[linda.BatchPusher](c, b).PushBatch(c.Context(), c.queue, jobs), "PushBatch")
}

// numbered is n jobs of the classes job-0, job-1 and so on.
func numbered(n int) []*linda.Job {
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = newJob(fmt.Sprint("job-", i))
	}
	return jobs
}

func batchIsALoop(c *trial) {
	b := c.open()
	jobs := numbered(4)
	jobs[1].Delay, jobs[2].Delay = 400*time.Millisecond, -time.Second
	jobs[3].ID = linda.NewID()
	start := time.Now()
	c.pushBatch(b, jobs...)
	equal(c, jobs[0].ID, "", "id of the job that was pushed, which stays as it was")
	first := c.reserve(b, c.queue, 3, c.long)
	for _, job := range first {
		equal(c, job.Payload.Class == "job-1" && time.Since(start) < jobs[1].Delay, false, "the delayed job is early")
		c.counts(job, 1, 0)
		if job.Payload.Class == "job-3" {
			equal(c, job.ID, jobs[3].ID, "id")
		}
	}
	last := c.one(b)
	equal(c, len(byID(append(first, last))), 4, "different ids")
	c.notEarly(start, jobs[1].Delay, "the delayed job")
	c.delete(b, first...)
	c.delete(b, last)
	c.nothing(b)
}

func batchOrder(c *trial) {
	b := c.open()
	jobs := numbered(100)
	c.pushBatch(b, jobs[:50]...)
	c.pushBatch(b, jobs[50:]...)
	got := c.reserve(b, c.queue, 100, c.long)
	equal(c, classes(got), classes(jobs), "order")
	c.delete(b, got...)
}

func batchOfAThousand(c *trial) {
	b := c.open()
	c.pushBatch(b, numbered(1000)...)
	got := c.reserve(b, c.queue, 1000, c.long)
	batch := make([]linda.Settlement, len(got))
	for i, job := range got {
		batch[i] = linda.Settlement{Job: job, Op: linda.OpDelete}
	}
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, batch), "Settle")
	c.nothing(b)
}

func batchWithBadJob(c *trial) {
	b := c.open()
	p := as[linda.BatchPusher](c, b)
	jobs := append(numbered(5), newJob("bad", math.NaN()), newJob("job"))
	c.is(p.PushBatch(c.Context(), c.queue, jobs), linda.ErrBadJob, "PushBatch with a job that cannot be encoded")
	jobs[5] = newJob("large", make([]byte, linda.MaxBody))
	c.is(p.PushBatch(c.Context(), c.queue, jobs), linda.ErrTooLarge, "PushBatch with a job that is too large")
	c.nothing(b)
}

func emptyBatch(c *trial) {
	b := c.open()
	if p, ok := linda.As[linda.BatchPusher](b); ok {
		c.must(p.PushBatch(c.Context(), c.queue, nil), "PushBatch")
	}
	if s, ok := linda.As[linda.Settler](b); ok {
		c.must(s.Settle(c.Context(), c.queue, nil), "Settle")
	}
	if t, ok := linda.As[linda.Toucher](b); ok {
		c.must(t.Touch(c.Context(), c.queue, c.long, nil), "Touch")
	}
	c.nothing(b)
}

func settleEveryWay(c *trial) {
	b := c.open()
	c.push(b, 4)
	jobs := c.reserve(b, c.queue, 4, c.long)
	start := time.Now()
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, []linda.Settlement{
		{Job: jobs[0], Op: linda.OpDelete},
		{Job: jobs[1], Op: linda.OpRelease},
		{Job: jobs[2], Op: linda.OpRelease, Delay: time.Second},
		{Job: jobs[3], Op: linda.OpBury, Reason: "no use"},
	}), "Settle")
	ready := c.one(b)
	equal(c, ready.ID, jobs[1].ID, "the job that is ready")
	due := c.one(b)
	equal(c, due.ID, jobs[2].ID, "the job that was delayed")
	c.notEarly(start, time.Second, "it")
	c.nothing(b)
	if c.inspects {
		dead := c.peek(b, linda.Dead)
		equal(c, len(dead) == 1 && dead[0].ID == jobs[3].ID, true, "just the buried job is dead")
	}
	c.delete(b, ready, due)
	c.purge(b, linda.Dead)
}

func settleWithStale(c *trial) {
	b := c.open()
	c.push(b, 4)
	jobs := c.reserve(b, c.queue, 4, c.long)
	c.delete(b, jobs[2])
	err := as[linda.Settler](c, b).Settle(c.Context(), c.queue, []linda.Settlement{
		{Job: jobs[0], Op: linda.OpDelete},
		{Job: jobs[1], Op: linda.OpRelease},
		{Job: jobs[2], Op: linda.OpDelete},
		{Job: jobs[3], Op: linda.OpDelete},
	})
	c.onlyFails(err, 4, 2, linda.ErrNotReserved)
	again := c.one(b)
	equal(c, again.ID, jobs[1].ID, "the released job")
	c.delete(b, again)
	c.nothing(b)
}

func settleWithLost(c *trial) {
	slow, quick := c.open(), c.open()
	c.push(slow, 1)
	lost := c.reserve(slow, c.queue, 1, c.lease)[0]
	held := c.reserve(quick, c.queue, 1, c.long)[0]
	equal(c, held.ID, lost.ID, "the job that came again")
	c.push(slow, 3)
	jobs := c.reserve(slow, c.queue, 3, c.long)
	err := as[linda.Settler](c, slow).Settle(c.Context(), c.queue, []linda.Settlement{
		{Job: jobs[0], Op: linda.OpDelete},
		{Job: jobs[1], Op: linda.OpDelete},
		{Job: lost, Op: linda.OpDelete},
		{Job: jobs[2], Op: linda.OpDelete},
	})
	c.onlyFails(err, 4, 2, linda.ErrLeaseLost)
	c.delete(quick, held)
	c.nothing(quick)
}

func settleTwiceInBatch(c *trial) {
	b := c.open()
	c.push(b, 2)
	jobs := c.reserve(b, c.queue, 2, c.long)
	err := as[linda.Settler](c, b).Settle(c.Context(), c.queue, []linda.Settlement{
		{Job: jobs[0], Op: linda.OpDelete},
		{Job: jobs[1], Op: linda.OpDelete},
		{Job: jobs[0], Op: linda.OpRelease},
	})
	c.onlyFails(err, 3, 2, linda.ErrNotReserved)
	c.nothing(b)
}

func releasedToTail(c *trial) {
	b := c.open()
	c.push(b, 6)
	jobs := c.reserve(b, c.queue, 4, c.long)
	var batch []linda.Settlement
	for _, job := range jobs {
		batch = append(batch, linda.Settlement{Job: job, Op: linda.OpRelease})
	}
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, batch), "Settle")
	got := c.reserve(b, c.queue, 6, c.long)
	equal(c, classes(got), "[job-4 job-5 job-0 job-1 job-2 job-3]", "order")
	c.delete(b, got...)
}

func unstartedToHead(c *trial) {
	b := c.open()
	c.push(b, 6)
	jobs := c.reserve(b, c.queue, 4, c.long)
	var batch []linda.Settlement
	for _, job := range jobs {
		batch = append(batch, linda.Settlement{Job: job, Op: linda.OpRelease, Unstarted: true})
	}
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, batch), "Settle")
	got := c.reserve(b, c.queue, 6, c.long)
	equal(c, classes(got), classes(numbered(6)), "order")
	for _, job := range got {
		c.counts(job, 1, 0)
	}
	c.delete(b, got...)
}

func attempts(c *trial) {
	b := c.open()
	c.push(b, 1)
	for i, step := range []struct {
		attempt, failures, crashes int // of this delivery
		lastError                  string
		settle                     *linda.Settlement // nil: the worker crashes
	}{
		{1, 0, 0, "", &linda.Settlement{}},
		{2, 0, 0, "", &linda.Settlement{Reason: "first"}},
		{3, 1, 0, "first", &linda.Settlement{Snoozed: true}},
		{3, 1, 0, "first", &linda.Settlement{Unstarted: true}},
		{3, 1, 0, "first", &linda.Settlement{Snoozed: true, Delay: time.Millisecond}},
		{3, 1, 0, "first", &linda.Settlement{Reason: "second", Delay: time.Millisecond}},
		{4, 2, 0, "second", nil},
		{5, 2, 1, "second", &linda.Settlement{Unstarted: true}},
		{5, 2, 1, "second", nil},
		{6, 2, 2, "second", &linda.Settlement{Delay: time.Millisecond}},
		{7, 2, 0, "second", &linda.Settlement{Op: linda.OpBury, Reason: "third"}},
	} {
		lease := c.long
		if step.settle == nil {
			lease = c.lease
		}
		job := c.reserve(b, c.queue, 1, lease)[0]
		equal(c, fmt.Sprint(job.Attempt(), job.Failures(), job.Crashes(), " ", job.LastError()),
			fmt.Sprint(step.attempt, step.failures, step.crashes, " ", step.lastError),
			fmt.Sprintf("delivery %d: attempt, failures, crashes, last error", i+1))
		if step.settle == nil {
			continue
		}
		s := *step.settle
		s.Job = job
		if s.Op != linda.OpBury {
			s.Op = linda.OpRelease
		}
		c.settle(b, s)
	}
	if c.inspects {
		dead := c.peek(b, linda.Dead)
		if len(dead) != 1 {
			c.Fatalf("%d jobs are dead, want 1", len(dead))
		}
		equal(c, dead[0].LastError(), "third", "LastError of the dead job")
		equal(c, dead[0].Failures(), 3, "Failures of the dead job")
	}
	c.purge(b, linda.Dead)
}

func crashes(c *trial) {
	b := c.open()
	c.push(b, 1)
	for i := range 3 {
		c.counts(c.reserve(b, c.queue, 1, c.lease)[0], i+1, i)
	}
	job := c.one(b)
	c.counts(job, 4, 3)
	c.must(b.Release(c.queue, job), "Release")
	job = c.one(b)
	c.counts(job, 5, 0)
	c.delete(b, job)
}
