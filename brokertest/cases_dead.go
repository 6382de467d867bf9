package brokertest

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amlun/linda"
)

var deadCases = []testCase{
	{name: "bury", needs: needs(settler, inspector), check: bury,
		rule: "A buried job is DEAD with its reason, byte for byte, and does not come back by itself."},
	{name: "bury-long-reason", needs: needs(settler, inspector), check: buryLongReason,
		rule: "A reason of any length and bytes buries the job, shortened to text."},
	{name: "kick", needs: needs(settler, inspector), check: kick,
		rule: "A kicked job is ready as the same job, byte for byte, with its attempts and failures begun anew."},
	{name: "kick-order", needs: needs(settler, inspector), check: kickOrder,
		rule: "Kick moves as many dead jobs as it is asked to, the longest dead first, and returns how many."},
	{name: "kick-bad-body", needs: needs(rawPush, inspector), check: kickBadBody,
		rule: "A body that is no job goes back to DEAD when it is kicked, byte for byte."},
	{name: "kick-fenced", needs: needs(settler, inspector), check: kickFenced,
		rule: "Who held a job before it was buried and kicked cannot settle it any more."},
	{name: "wrapped", check: wrapped,
		rule: "Capabilities are found through a wrapper that has Unwrap, and jobs cross it both ways."},
	{name: "guarantees", check: guarantees,
		rule: "What Guarantees says is consistent."},
}

func bury(c *trial) {
	b := c.open()
	c.must(b.Push(newJob("bury", "x", 1), c.queue), "Push")
	start := time.Now()
	job := c.reserve(b, c.queue, 1, c.hold)[0]
	c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury, Reason: "no use: <é>"})
	dead := c.peek(b, linda.Dead)
	if len(dead) != 1 {
		c.Fatalf("%d jobs are dead, want 1", len(dead))
	}
	equal(c, dead[0].ID, job.ID, "id")
	equal(c, dead[0].LastError(), "no use: <é>", "LastError")
	equal(c, dead[0].Failures(), 1, "Failures")
	equal(c, string(dead[0].Body()), string(job.Body()), "Body")
	time.Sleep(c.hold - time.Since(start) + 100*time.Millisecond)
	c.nothing(b)
	equal(c, len(c.peek(b, linda.Dead)), 1, "dead jobs after the end of the reservation")
	c.purge(b, linda.Dead)
}

func buryLongReason(c *trial) {
	b := c.open()
	for _, reason := range []string{strings.Repeat("é", 100_000), "\xff\x00\"\\\n}", strings.Repeat("\x00", 5000), ""} {
		c.push(b, 1)
		c.settle(b, linda.Settlement{Job: c.one(b), Op: linda.OpBury, Reason: reason})
		dead := c.peek(b, linda.Dead)
		if len(dead) != 1 {
			c.Fatalf("%d jobs are dead, want 1", len(dead))
		}
		got := dead[0].LastError()
		equal(c, got == "", reason == "", "the reason is empty")
		equal(c, utf8.ValidString(got) && len(got) < 10_000, true, "the reason is short text")
		c.purge(b, linda.Dead)
	}
}

func kick(c *trial) {
	b := c.open()
	pushed := newJob("kick", "x", 1)
	pushed.MaxAttempts = 9
	c.must(b.Push(pushed, c.queue), "Push")
	c.settle(b, linda.Settlement{Job: c.one(b), Op: linda.OpRelease, Reason: "first"})
	c.reserve(b, c.queue, 1, c.lease) // a crash
	job := c.one(b)
	c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury, Reason: "second"})
	n, err := as[linda.Inspector](c, b).Kick(c.Context(), c.queue, 10)
	c.must(err, "Kick")
	equal(c, n, 1, "jobs kicked")
	equal(c, len(c.peek(b, linda.Dead)), 0, "dead jobs")
	got := c.one(b)
	equal(c, got.ID, job.ID, "id")
	equal(c, string(got.Body()), string(job.Body()), "Body")
	equal(c, got.Failures(), 0, "Failures")
	equal(c, got.LastError(), "", "LastError")
	equal(c, got.MaxAttempts, 9, "MaxAttempts")
	c.counts(got, 1, 0)
	c.must(b.Release(c.queue, got), "Release")
	got = c.one(b)
	c.counts(got, 2, 0)
	c.delete(b, got)
}

func kickOrder(c *trial) {
	b := c.open()
	i := as[linda.Inspector](c, b)
	kick := func(max, want int) {
		c.Helper()
		n, err := i.Kick(c.Context(), c.queue, max)
		c.must(err, "Kick")
		equal(c, n, want, fmt.Sprintf("jobs kicked for a max of %d", max))
	}
	kick(5, 0)
	c.push(b, 5)
	jobs := c.reserve(b, c.queue, 5, c.long)
	for _, job := range jobs {
		c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury, Reason: "no use"})
		time.Sleep(2 * time.Millisecond) // so that they are not dead equally long
	}
	kick(0, 0)
	kick(-1, 0)
	kick(2, 2)
	first := c.reserve(b, c.queue, 2, c.long)
	want := byID(jobs[:2])
	equal(c, want[first[0].ID] != nil && want[first[1].ID] != nil, true, "the longest dead were kicked")
	c.nothing(b)
	kick(10, 3)
	c.delete(b, first...)
	c.delete(b, c.reserve(b, c.queue, 3, c.long)...)
}

func kickBadBody(c *trial) {
	b := c.open()
	bad := []string{`{not json`, `[`, `{"Payload":{}}`, "\xff"}
	for _, body := range bad {
		if !c.rawPush(body) {
			c.Fatalf("the server does not take %q", body)
		}
	}
	for range 2 {
		c.nothingButDead(b, len(bad))
		c.buried(b, bad)
		n, err := as[linda.Inspector](c, b).Kick(c.Context(), c.queue, 10)
		c.must(err, "Kick")
		equal(c, n, len(bad), "bodies kicked")
	}
	n, err := as[linda.Inspector](c, b).Purge(c.Context(), c.queue, linda.Ready)
	c.must(err, "Purge")
	equal(c, n, len(bad), "bodies purged")
}

// nothingButDead pops until n bodies are dead, and no job has come out.
func (c *trial) nothingButDead(b linda.Broker, n int) {
	c.Helper()
	c.until("all bad bodies are dead", func() bool {
		c.nothing(b)
		return len(c.peek(b, linda.Dead)) >= n
	})
}

func kickFenced(c *trial) {
	b, other := c.open(), c.open()
	c.push(b, 1)
	stale := c.reserve(b, c.queue, 1, c.lease)[0]
	job := c.one(other)
	c.settle(other, linda.Settlement{Job: job, Op: linda.OpBury, Reason: "no use"})
	_, err := as[linda.Inspector](c, other).Kick(c.Context(), c.queue, 1)
	c.must(err, "Kick")
	held := c.one(other)
	c.is(b.Delete(c.queue, stale), linda.ErrNotReserved, "Delete by who held it first")
	c.is(other.Release(c.queue, job), linda.ErrNotReserved, "Release by who buried it")
	c.nothing(b)
	c.delete(other, held)
}

// wrapper is what a program puts around a broker, for its metrics say.
type wrapper struct{ linda.Broker }

func (w wrapper) Unwrap() linda.Broker { return w.Broker }

func wrapped(c *trial) {
	inner := c.open()
	b := wrapper{wrapper{inner}}
	equal(c, has[linda.Fetcher](b), c.fetches, "a Fetcher is found")
	equal(c, has[linda.Settler](b), c.settles, "a Settler is found")
	equal(c, has[linda.Inspector](b), c.inspects, "an Inspector is found")
	c.push(b, 3)
	jobs := c.reserve(b, c.queue, 2, c.long)
	c.delete(b, jobs[0])
	c.delete(inner, jobs[1])
	c.delete(inner, c.pop(b, c.queue))
	c.nothing(b)
}

func guarantees(c *trial) {
	g, ok := linda.As[linda.Guarantor](c.open())
	if !ok {
		c.Skip("the broker is no linda.Guarantor")
	}
	says := g.Guarantees()
	equal(c, says.LeaseMin > 0, true, "LeaseMin is positive")
	equal(c, says.LeaseMax == 0 || says.LeaseMax >= says.LeaseMin, true, "LeaseMax is none or not below LeaseMin")
	equal(c, says.DelayMax > 0 && says.DelayResolution > 0, true, "DelayMax and DelayResolution are positive")
	equal(c, says.BodyMax > 0, true, "BodyMax is positive")
	for _, state := range says.Stats {
		switch state {
		case linda.Ready, linda.Delayed, linda.Reserved, linda.Dead:
		default:
			c.Errorf("Stats: there is no state %q", state)
		}
	}
	for _, note := range says.Notes {
		equal(c, strings.TrimSpace(note) != "", true, "a note has text")
	}
}
