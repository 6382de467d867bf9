package brokertest

import (
	"fmt"
	"math"
	"time"

	"github.com/amlun/linda"
)

var delayCases = []testCase{
	{name: "no-delay", check: noDelay,
		rule: "A delay that is negative or 0 is none, at every way to give one."},
	{name: "sub-second-delay", needs: needs(batchPusher), check: subSecondDelay,
		rule: "Job.Delay holds to the fraction of a second, rounded up: the job is never early."},
	{name: "sub-second-release", needs: needs(settler), check: subSecondRelease,
		rule: "Settlement.Delay holds to the fraction of a second, rounded up: the job is never early."},
	{name: "push-honours-delay", needs: needs(batchPusher), check: pushHonoursDelay,
		rule: "Push of a job with a Delay delays it, and Later's own delay counts in its place."},
	{name: "long-delay", needs: needs(inspector), check: longDelay,
		rule: "Delays beyond 32 bits of seconds are held, or refused with ErrDelayTooLong where they are beyond DelayMax."},
	{name: "delay-too-long", check: delayTooLong,
		rule: "A delay that is too long is ErrDelayTooLong, stores nothing, and leaves a reserved job reserved."},
	{name: "due-order", check: dueOrder,
		rule: "Jobs with different delays come out when they are due, whatever the order in which they were pushed."},
	{name: "equal-delay-order", needs: needs(batchPusher, ordered), check: equalDelayOrder,
		rule: "Jobs of one batch with the same delay come out in the order of the batch."},
	{name: "many-due-at-once", needs: needs(batchPusher), check: manyDueAtOnce,
		rule: "Jobs that are due at the same time each come out once, to several connections that look for them."},
}

func noDelay(c *trial) {
	b := c.open()
	for _, delay := range []int64{0, -1, math.MinInt64} {
		c.must(b.Later(delay, newJob("now"), c.queue), "Later")
		job := c.pop(b, c.queue)
		c.must(b.ReleaseWithDelay(c.queue, job, delay), "ReleaseWithDelay")
		c.delete(b, c.pop(b, c.queue))
	}
	job := newJob("now")
	job.Delay = math.MinInt64
	c.must(b.Push(job, c.queue), "Push")
	c.delete(b, c.pop(b, c.queue))
}

// milliseconds are delays around what brokers round to.
var milliseconds = []int{1, 2, 10, 99, 250, 501, 999, 1001}

func subSecondDelay(c *trial) {
	b := c.open()
	var jobs []*linda.Job
	for _, ms := range milliseconds {
		job := newJob(fmt.Sprint(ms))
		job.Delay = time.Duration(ms)*time.Millisecond + 1
		jobs = append(jobs, job)
	}
	start := time.Now()
	c.must(as[linda.BatchPusher](c, b).PushBatch(c.Context(), c.queue, jobs), "PushBatch")
	for range jobs {
		c.arrives(b, start)
	}
}

// arrives takes the next job, whose class is its delay, and checks the time.
func (c *trial) arrives(b linda.Broker, start time.Time) {
	c.Helper()
	job := c.one(b)
	took := time.Since(start)
	var ms int
	fmt.Sscan(job.Payload.Class, &ms)
	delay := time.Duration(ms)*time.Millisecond + 1
	c.notEarly(start, delay, fmt.Sprint("a delay of ", delay))
	if late := took - delay - c.DelayResolution; late > c.harness.Slack {
		c.Errorf("a delay of %v took %v", delay, took)
	}
	c.delete(b, job)
}

func subSecondRelease(c *trial) {
	b := c.open()
	for _, ms := range milliseconds {
		c.must(b.Push(newJob(fmt.Sprint(ms)), c.queue), "Push")
	}
	var batch []linda.Settlement
	for _, job := range c.reserve(b, c.queue, len(milliseconds), c.long) {
		var ms int
		fmt.Sscan(job.Payload.Class, &ms)
		batch = append(batch, linda.Settlement{Job: job, Op: linda.OpRelease, Delay: time.Duration(ms)*time.Millisecond + 1})
	}
	start := time.Now()
	c.must(as[linda.Settler](c, b).Settle(c.Context(), c.queue, batch), "Settle")
	for range batch {
		c.arrives(b, start)
	}
}

func pushHonoursDelay(c *trial) {
	b := c.open()
	job := newJob("500")
	job.Delay = 500*time.Millisecond + 1
	start := time.Now()
	c.must(b.Push(job, c.queue), "Push")
	c.arrives(b, start)
	job.Delay = time.Hour
	c.must(b.Later(0, job, c.queue), "Later")
	c.delete(b, c.pop(b, c.queue))
}

func longDelay(c *trial) {
	b := c.open()
	held := int64(0)
	take := func(delay int64, err error, what string) {
		if c.DelayMax > 0 && time.Duration(delay)*time.Second > c.DelayMax {
			c.is(err, linda.ErrDelayTooLong, what)
			return
		}
		c.must(err, what)
		held++
	}
	for _, delay := range []int64{3601, 1 << 31, 1<<31 + 1, 1 << 32, 1<<32 + 1, 1 << 33} {
		take(delay, b.Later(delay, newJob("far"), c.queue), fmt.Sprintf("Later of %d s", delay))
		c.push(b, 1)
		job := c.pop(b, c.queue)
		before := held
		take(delay, b.ReleaseWithDelay(c.queue, job, delay), fmt.Sprintf("ReleaseWithDelay of %d s", delay))
		if held == before { // refused
			c.delete(b, job)
		}
	}
	c.nothing(b)
	if got := c.stats(b, c.queue).Delayed; got != -1 {
		equal(c, got, held, "jobs that are delayed")
	}
	c.purge(b, linda.Delayed)
}

func delayTooLong(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.one(b)
	for _, delay := range []int64{math.MaxInt64, math.MaxInt64 / int64(time.Second) * 2, math.MaxInt64/int64(time.Second) + 1} {
		what := fmt.Sprintf(" of %d s", delay)
		c.is(b.Later(delay, newJob("far"), c.queue), linda.ErrDelayTooLong, "Later"+what)
		c.is(b.ReleaseWithDelay(c.queue, job, delay), linda.ErrDelayTooLong, "ReleaseWithDelay"+what)
	}
	if p, ok := linda.As[linda.BatchPusher](b); ok && 0 < c.DelayMax && c.DelayMax < math.MaxInt64 {
		far := newJob("far")
		far.Delay = c.DelayMax + 1
		c.is(p.PushBatch(c.Context(), c.queue, []*linda.Job{newJob("near"), far}), linda.ErrDelayTooLong, "PushBatch")
	}
	c.nothing(b)
	c.delete(b, job)
	c.nothing(b)
}

func dueOrder(c *trial) {
	b := c.open()
	for settled := false; !settled; {
		start := time.Now()
		for _, delay := range []int64{2, 0, 1} {
			c.must(b.Later(delay, newJob(fmt.Sprint(delay)), c.queue), "Later")
		}
		settled = time.Since(start) < 900*time.Millisecond // else the longer delay may be over first
		for delay := range 3 {
			job := c.one(b)
			if settled {
				equal(c, job.Payload.Class, fmt.Sprint(delay), "delay of the job that comes out")
				c.notEarly(start, time.Duration(delay)*time.Second, "the job")
			}
			c.delete(b, job)
		}
	}
}

func equalDelayOrder(c *trial) {
	b := c.open()
	var jobs []*linda.Job
	for i := range 50 {
		job := newJob(fmt.Sprint("job-", i))
		job.Delay = 200 * time.Millisecond
		jobs = append(jobs, job)
	}
	c.must(as[linda.BatchPusher](c, b).PushBatch(c.Context(), c.queue, jobs), "PushBatch")
	got := c.reserve(b, c.queue, len(jobs), c.long)
	equal(c, classes(got), classes(jobs), "order")
	c.delete(b, got...)
}

func manyDueAtOnce(c *trial) {
	const n = 1000
	producer := c.open()
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = newJob("due")
		jobs[i].Delay = 300 * time.Millisecond
	}
	start := time.Now()
	c.must(as[linda.BatchPusher](c, producer).PushBatch(c.Context(), c.queue, jobs), "PushBatch")
	seen := c.drain(n, 4)
	c.notEarly(start, 300*time.Millisecond, "the jobs")
	equal(c, len(seen), n, "different jobs")
	c.nothing(producer)
}
