package brokertest

import (
	"context"
	"slices"
	"time"

	"github.com/amlun/linda"
)

var queuesCases = []testCase{
	{name: "fetch-any-order", needs: needs(multiFetcher), check: fetchAnyOrder,
		rule: "FetchAny takes the jobs of the first queue, then of the next, never more than it was asked for, and each is settled on its own queue."},
	{name: "fetch-any-woken", needs: needs(multiFetcher), check: fetchAnyWoken,
		rule: "A waiting FetchAny returns a job that another connection pushes to any of its queues."},
	{name: "fetch-any-ends", needs: needs(multiFetcher), check: fetchAnyEnds,
		rule: "A waiting FetchAny ends with its context, with the context's error."},
}

var pauseCases = []testCase{
	{name: "pause", needs: needs(pauser), check: pause,
		rule: "A paused queue takes jobs and settlements and hands out nothing, to nobody, until it is resumed; other queues go on."},
	{name: "pause-resume-wakes", needs: needs(pauser, fetcher), check: resumeWakes,
		rule: "A Fetch that waits on a paused queue returns its job within two seconds of Resume by another connection."},
}

// others makes two more queues beside the case's own.
func (c *trial) others() []string {
	queues := []string{c.queue, newQueue("more"), newQueue("more")}
	return queues
}

func (c *trial) pushTo(b linda.Broker, queue string, n int) {
	c.Helper()
	for range n {
		c.must(b.Push(newJob("queues"), queue), "Push")
	}
}

func (c *trial) fetchAny(b linda.Broker, queues []string, max int) []*linda.Job {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), c.patience())
	defer cancel()
	jobs, err := as[linda.MultiFetcher](c, b).FetchAny(ctx, queues, max, c.long)
	c.must(err, "FetchAny")
	return jobs
}

// deleteFrom deletes the jobs that are of a queue, and returns how many.
func (c *trial) deleteFrom(b linda.Broker, queue string, jobs []*linda.Job) int {
	c.Helper()
	n := 0
	for _, job := range jobs {
		if job.Queue == queue {
			c.must(b.Delete(queue, job), "Delete on the job's queue")
			n++
		}
	}
	return n
}

func fetchAnyOrder(c *trial) {
	b, queues := c.open(), c.others()
	for i, n := range []int{3, 2, 5} {
		c.pushTo(b, queues[i], n)
	}
	turned := []string{queues[1], queues[2], queues[0]}
	var got []string
	for range 2 {
		jobs := c.fetchAny(b, turned, 5)
		equal(c, len(jobs), 5, "jobs of one FetchAny")
		for _, job := range jobs {
			got = append(got, job.Queue)
		}
		for _, queue := range queues {
			c.deleteFrom(b, queue, jobs)
		}
	}
	want := slices.Concat(slices.Repeat(turned[:1], 2), slices.Repeat(turned[1:2], 5), slices.Repeat(turned[2:], 3))
	equal(c, slices.Compare(got, want), 0, "the order of the queues")
	for _, queue := range queues {
		job, err := b.Pop(queue, 60)
		c.must(err, "Pop")
		equal(c, job == nil, true, "the queue is empty")
	}
}

func fetchAnyWoken(c *trial) {
	worker, producer, queues := c.open(), c.open(), c.others()
	for _, queue := range queues {
		jobs := make(chan []*linda.Job, 1)
		go func() { jobs <- c.fetchAny(worker, queues, 5) }()
		time.Sleep(100 * time.Millisecond)
		c.pushTo(producer, queue, 1)
		equal(c, c.deleteFrom(worker, queue, <-jobs), 1, "jobs of the queue")
	}
}

func fetchAnyEnds(c *trial) {
	ctx, cancel := context.WithTimeout(c.Context(), 200*time.Millisecond)
	defer cancel()
	b := c.open()
	err := c.within(time.Second+c.harness.Slack, "FetchAny", func() error {
		_, err := as[linda.MultiFetcher](c, b).FetchAny(ctx, c.others(), 1, c.long)
		return err
	})
	c.is(err, context.DeadlineExceeded, "FetchAny whose deadline passed")
}

func pause(c *trial) {
	b, other, more := c.open(), c.open(), newQueue("more")
	p := as[linda.Pauser](c, b)
	c.push(b, 2)
	held := c.one(b)
	c.must(p.Pause(c.Context(), c.queue), "Pause")
	c.must(p.Pause(c.Context(), c.queue), "Pause of what is paused")
	paused, err := as[linda.Pauser](c, other).Paused(c.Context(), c.queue)
	c.must(err, "Paused")
	equal(c, paused, true, "Paused, as another connection sees it")
	c.nothing(other)
	c.delete(b, held)
	c.push(other, 1)
	c.pushTo(b, more, 1)
	c.nothing(b)
	job, err := other.Pop(more, 60)
	c.must(err, "Pop of another queue")
	equal(c, job != nil, true, "a job of another queue")
	c.must(other.Delete(more, job), "Delete")
	c.must(as[linda.Pauser](c, other).Resume(c.Context(), c.queue), "Resume")
	paused, err = p.Paused(c.Context(), c.queue)
	c.must(err, "Paused")
	equal(c, paused, false, "Paused after Resume")
	c.delete(b, c.one(b), c.one(b))
}

func resumeWakes(c *trial) {
	worker, other := c.open(), c.open()
	p := as[linda.Pauser](c, other)
	c.must(p.Pause(c.Context(), c.queue), "Pause")
	w := c.fetch(worker)
	c.push(other, 1)
	select {
	case <-w.jobs:
		c.Fatal("Fetch returned a job of a paused queue")
	case <-time.After(300 * time.Millisecond):
	}
	start := time.Now()
	c.must(p.Resume(c.Context(), c.queue), "Resume")
	c.delete(worker, c.job(w))
	if took := time.Since(start); took > 2*time.Second+c.harness.Slack {
		c.Errorf("Fetch returned %v after Resume", took)
	}
}
