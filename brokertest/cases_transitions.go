package brokertest

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/amlun/linda"
)

var transitionCases = []testCase{
	{name: "push-pop-delete", check: pushPopDelete,
		rule: "A pushed job is popped with its class, its arguments, an id and attempt 1, and is gone once deleted."},
	{name: "push-leaves-job-alone", check: pushLeavesJobAlone,
		rule: "Push and Later do not change the job, and the queue they are given counts, not Job.Queue."},
	{name: "empty-pop", check: emptyPop,
		rule: "Pop on an empty queue, also one that never was, returns nil, nil at once."},
	{name: "lease-expiry", check: leaseExpiry,
		rule: "A job whose reservation ends is popped once more, not before, with one more attempt and one crash."},
	{name: "deleted-stays-gone", check: deletedStaysGone,
		rule: "A deleted job does not come back when its reservation would have ended."},
	{name: "release", check: release,
		rule: "A released job is ready at once, is the same job, has one more attempt and no crash."},
	{name: "release-with-delay", check: releaseWithDelay,
		rule: "A job released with a delay is ready after the delay, not earlier, as the same job."},
	{name: "released-lease-ends", check: releasedLeaseEnds,
		rule: "The end of a reservation that was released does nothing to the job any more."},
	{name: "later", check: later,
		rule: "A job pushed by Later is ready after the delay, not earlier."},
	{name: "migrate", check: migrate,
		rule: "MigrateExpiredJobs makes ready what is due, leaves alone what is not, and may be called at any time."},
	{name: "same-id", check: sameID,
		rule: "Two jobs to which the program gave the same id are two, also while both are delayed."},
	{name: "same-body", needs: needs(rawPush), check: sameBody,
		rule: "Two jobs with the same body, id and all, are two, also where one is delivered while the other waits."},
	{name: "at-most-once", check: atMostOnce,
		rule: "Pop with a timeout of 0 deletes the job at once; Delete of it is nil, a second settlement ErrNotReserved."},
	{name: "at-most-once-release", check: atMostOnceRelease,
		rule: "Release of a job popped with a timeout of 0 puts a fresh copy back, once."},
	{name: "bad-timeout", check: badTimeout,
		rule: "Pop with a timeout that is negative, or too long to hold, is an error and takes no job."},
	{name: "fifo", needs: needs(ordered), check: fifo,
		rule: "Jobs that were never released come out in the order they were pushed, over all connections."},
}

func pushPopDelete(c *trial) {
	b := c.open()
	c.must(b.Push(newJob("greet", "world", 7), c.queue), "Push")
	job := c.pop(b, c.queue)
	equal(c, job.Payload.Class, "greet", "class")
	equal(c, fmt.Sprint(job.Payload.Args), "[world 7]", "arguments of a popped job")
	equal(c, job.Queue, c.queue, "Queue")
	equal(c, job.ID == "", false, "the id is empty")
	equal(c, job.Failures(), 0, "Failures")
	equal(c, job.LastError(), "", "LastError")
	c.counts(job, 1, 0)
	c.nothing(b)
	c.delete(b, job)
	c.nothing(b)
}

func pushLeavesJobAlone(c *trial) {
	b := c.open()
	job := newJob("greet", "world")
	job.Queue = "elsewhere"
	before := *job
	c.must(b.Push(job, c.queue), "Push")
	c.must(b.Later(0, job, c.queue), "Later")
	equal(c, reflect.DeepEqual(*job, before), true, "the job is as before")
	got := c.reserve(b, c.queue, 2, c.long)
	equal(c, got[0].Queue, c.queue, "Queue of the popped job")
	c.delete(b, got...)
}

func emptyPop(c *trial) {
	b := c.open()
	for range 2 {
		err := c.within(time.Second, "Pop", func() error {
			job, err := b.Pop(c.queue, 30)
			if job != nil {
				return fmt.Errorf("a job came out: %v", job)
			}
			return err
		})
		c.must(err, "Pop of an empty queue")
		c.push(b, 1) // now one that is there and empty
		c.delete(b, c.pop(b, c.queue))
	}
}

func leaseExpiry(c *trial) {
	b := c.open()
	c.push(b, 1)
	start := time.Now()
	first := c.reserve(b, c.queue, 1, c.lease)[0]
	second := c.one(b)
	c.notEarly(start, c.lease, "the next delivery")
	equal(c, second.ID, first.ID, "id of the next delivery")
	c.counts(second, 2, 1)
	c.nothing(b)
	c.delete(b, second)
	c.nothing(b)
}

func deletedStaysGone(c *trial) {
	b := c.open()
	c.push(b, 1)
	start := time.Now()
	c.delete(b, c.reserve(b, c.queue, 1, c.hold)[0])
	time.Sleep(c.hold - time.Since(start) + 100*time.Millisecond)
	c.nothing(b)
}

func release(c *trial) {
	b := c.open()
	c.push(b, 1)
	first := c.pop(b, c.queue)
	c.must(b.Release(c.queue, first), "Release")
	second := c.pop(b, c.queue)
	equal(c, second.ID, first.ID, "id")
	c.counts(second, 2, 0)
	c.nothing(b)
	c.delete(b, second)
}

func releaseWithDelay(c *trial) {
	b := c.open()
	c.push(b, 1)
	first := c.pop(b, c.queue)
	start := time.Now()
	c.must(b.ReleaseWithDelay(c.queue, first, 1), "ReleaseWithDelay")
	c.nothing(b)
	second := c.one(b)
	c.notEarly(start, time.Second, "the job")
	equal(c, second.ID, first.ID, "id")
	c.counts(second, 2, 0)
	c.nothing(b)
	c.delete(b, second)
}

func releasedLeaseEnds(c *trial) {
	b := c.open()
	c.push(b, 1)
	start := time.Now()
	first := c.reserve(b, c.queue, 1, c.hold)[0]
	c.must(b.Release(c.queue, first), "Release")
	second := c.one(b)
	time.Sleep(c.hold - time.Since(start) + 100*time.Millisecond)
	c.nothing(b)
	c.delete(b, second)
	c.nothing(b)
}

func later(c *trial) {
	b := c.open()
	start := time.Now()
	c.must(b.Later(1, newJob("later"), c.queue), "Later")
	c.nothing(b)
	job := c.one(b)
	c.notEarly(start, time.Second, "the job")
	c.counts(job, 1, 0)
	c.nothing(b)
	c.delete(b, job)
}

func sameID(c *trial) {
	b := c.open()
	job := newJob("twin")
	job.ID = linda.NewID()
	c.must(b.Push(job, c.queue), "Push")
	c.must(b.Push(job, c.queue), "Push")
	for range 2 { // the second time they have failed alike
		first, second := c.one(b), c.one(b)
		equal(c, first.ID, job.ID, "id of the first")
		equal(c, second.ID, job.ID, "id of the second")
		c.must(b.ReleaseWithDelay(c.queue, first, 1), "ReleaseWithDelay of the first")
		c.must(b.ReleaseWithDelay(c.queue, second, 1), "ReleaseWithDelay of the second")
	}
	c.delete(b, c.one(b), c.one(b))
	c.nothing(b)
}

func sameBody(c *trial) {
	b := c.open()
	body := `{"linda":{"id":"` + linda.NewID() + `","n":0},"Payload":{"class":"twin","args":[]}}`
	push := func() {
		if err := c.harness.RawPush(c, c.queue, []byte(body)); err != nil {
			c.Skip("the server cannot hold this body: ", err)
		}
	}
	for range 2 {
		push()
		c.must(b.ReleaseWithDelay(c.queue, c.one(b), 2), "ReleaseWithDelay")
	}
	c.delete(b, c.one(b), c.one(b))
	for range 3 { // all of them reserved, the first two perhaps by one exchange
		push()
	}
	jobs, err := c.next(b, c.queue, 2, c.long, time.Now().Add(c.patience()))
	c.must(err, "reserving two")
	for len(jobs) < 3 {
		jobs = append(jobs, c.one(b))
	}
	c.delete(b, jobs...)
	c.nothing(b)
}

func migrate(c *trial) {
	b := c.open()
	b.MigrateExpiredJobs(c.queue) // there is no such queue yet
	c.must(b.Later(1, newJob("later"), c.queue), "Later")
	c.push(b, 2)
	held := c.reserve(b, c.queue, 2, c.long)
	c.must(b.Release(c.queue, held[1]), "Release")
	c.nothingBut(b, held[1].ID)
	time.Sleep(time.Second)
	for range 3 {
		b.MigrateExpiredJobs(c.queue)
	}
	job := c.one(b)
	equal(c, job.Payload.Class, "later", "class of the job that was due")
	c.delete(b, job, held[0])
}

// nothingBut takes and deletes the one job that is ready.
func (c *trial) nothingBut(b linda.Broker, id string) {
	c.Helper()
	job := c.pop(b, c.queue)
	equal(c, job.ID, id, "id of the job that is ready")
	c.delete(b, job)
	c.nothing(b)
}

// popGone pops the job that is there with a timeout of 0.
func (c *trial) popGone(b linda.Broker) *linda.Job {
	c.Helper()
	var job *linda.Job
	c.until("Pop returns a job", func() bool {
		var err error
		job, err = b.Pop(c.queue, 0)
		c.must(err, "Pop")
		return job != nil
	})
	return job
}

func atMostOnce(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.popGone(b)
	c.counts(job, 1, 0)
	c.nothing(b)
	if c.inspects {
		equal(c, c.stats(b, c.queue).Reserved > 0, false, "it is counted as reserved")
	}
	c.must(b.Delete(c.queue, job), "Delete of a job that is gone")
	c.is(b.Delete(c.queue, job), linda.ErrNotReserved, "a second Delete")
	c.is(b.Release(c.queue, job), linda.ErrNotReserved, "Release after Delete")
	c.nothing(b)
}

func atMostOnceRelease(c *trial) {
	b := c.open()
	c.must(b.Push(newJob("greet", "world"), c.queue), "Push")
	first := c.popGone(b)
	c.must(b.Release(c.queue, first), "Release")
	c.is(b.Release(c.queue, first), linda.ErrNotReserved, "a second Release")
	c.is(b.Delete(c.queue, first), linda.ErrNotReserved, "Delete after Release")
	second := c.pop(b, c.queue)
	equal(c, second.Payload.Class, "greet", "class")
	equal(c, string(second.Body()), string(first.Body()), "body")
	c.nothing(b)
	c.delete(b, second)
}

func badTimeout(c *trial) {
	b := c.open()
	c.push(b, 1)
	timeouts := []int64{-1, math.MinInt64, math.MaxInt64}
	if c.LeaseMax > 0 {
		timeouts = append(timeouts, int64(c.LeaseMax/time.Second)+1)
	}
	for _, timeout := range timeouts {
		job, err := b.Pop(c.queue, timeout)
		equal(c, job == nil && err != nil, true, fmt.Sprintf("Pop for %d s is an error and no job", timeout))
	}
	c.delete(b, c.pop(b, c.queue))
}

func fifo(c *trial) {
	brokers := []linda.Broker{c.open(), c.open()}
	const n = 60
	for i := range n {
		c.must(brokers[i%2].Push(newJob(fmt.Sprint("job-", i)), c.queue), "Push")
	}
	for i := range n {
		b := brokers[i/2%2]
		job := c.pop(b, c.queue)
		if want := fmt.Sprint("job-", i); job.Payload.Class != want {
			c.Fatalf("%s came out, it is the turn of %s", job.Payload.Class, want)
		}
		c.delete(b, job)
	}
}
