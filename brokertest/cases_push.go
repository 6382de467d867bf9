package brokertest

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/amlun/linda"
)

var pushCases = []testCase{
	{name: "equal-jobs", check: func(c *trial) { equalJobs(c, 0) },
		rule: "A thousand equal pushes are a thousand jobs, each with its own id, each popped once and deleted alone."},
	{name: "equal-jobs-later", check: func(c *trial) { equalJobs(c, 1) },
		rule: "A thousand equal jobs with the same delay are a thousand jobs, each with its own id, each popped once."},
	{name: "same-job-twice", check: sameJobTwice,
		rule: "Pushing the same *Job again makes another job, also where the program set its id."},
	{name: "popped-job-again", check: poppedJobAgain,
		rule: "A popped job that is pushed again, even while reserved, is a new job with a new id, attempt 1 and the same arguments."},
	{name: "bad-job", check: badJob,
		rule: "A job that cannot be encoded is refused with ErrBadJob or ErrTooLarge, and nothing is stored."},
}

func equalJobs(c *trial, delay int64) {
	b := c.open()
	const n = 1000
	job := newJob("equal", "the same", 1)
	for range n {
		if delay == 0 {
			c.must(b.Push(job, c.queue), "Push")
		} else {
			c.must(b.Later(delay, job, c.queue), "Later")
		}
	}
	seen := make(map[string]bool)
	for len(seen) < n {
		for _, job := range c.reserve(b, c.queue, min(100, n-len(seen)), c.long) {
			if seen[job.ID] {
				c.Fatalf("%v came out twice", job)
			}
			seen[job.ID] = true
			c.delete(b, job)
		}
	}
	c.nothing(b)
}

func sameJobTwice(c *trial) {
	b := c.open()
	for _, id := range []string{"", linda.NewID()} {
		job := newJob("same", 1)
		job.ID = id
		for range 2 {
			c.must(b.Push(job, c.queue), "Push")
			c.must(b.Later(1, job, c.queue), "Later")
		}
		for range 4 {
			got := c.one(b)
			if id != "" {
				equal(c, got.ID, id, "id")
			}
			c.delete(b, got)
		}
		c.nothing(b)
	}
}

func poppedJobAgain(c *trial) {
	b := c.open()
	elsewhere := c.newQueue("elsewhere")
	job := newJob("again", json.Number("9007199254740993"), "x")
	job.ID = linda.NewID()
	c.must(b.Push(job, c.queue), "Push")
	first := c.pop(b, c.queue)
	c.must(b.Release(c.queue, first), "Release")
	first = c.pop(b, c.queue) // attempt 2
	for range 3 {
		c.must(b.Push(first, elsewhere), "Push of a reserved job")
	}
	c.must(b.Push(first, c.queue), "Push of a reserved job")
	c.must(b.Delete(c.queue, first), "Delete of the reserved job")
	c.must(b.Later(0, first, elsewhere), "Later of a job that was deleted")
	ids := map[string]bool{first.ID: true}
	for _, job := range append(c.reserve(b, elsewhere, 4, c.long), c.one(b)) {
		equal(c, ids[job.ID], false, "the id was there before")
		ids[job.ID] = true
		c.counts(job, 1, 0)
		equal(c, fmt.Sprint(rawArgs(c, job, 2)), `[9007199254740993 "x"]`, "arguments")
		c.delete(b, job)
	}
	c.nothing(b)
}

func badJob(c *trial) {
	b := c.open()
	deep := any(1)
	for range linda.MaxDepth {
		deep = []any{deep}
	}
	bad := map[string]*linda.Job{
		"a channel":         newJob("bad", make(chan int)),
		"NaN":               newJob("bad", math.NaN()),
		"a bad Marshaler":   newJob("bad", json.RawMessage(`{`)),
		"invalid UTF-8":     newJob("bad", "\xff"),
		"no class":          newJob(""),
		"class not UTF-8":   newJob("\xff"),
		"class too long":    newJob(strings.Repeat("x", 256)),
		"id with a quote":   {ID: `"`, Payload: linda.Payload{Class: "bad"}},
		"id too long":       {ID: strings.Repeat("x", 200), Payload: linda.Payload{Class: "bad"}},
		"negative attempts": {MaxAttempts: -1, Payload: linda.Payload{Class: "bad"}},
	}
	for name, job := range bad {
		c.is(b.Push(job, c.queue), linda.ErrBadJob, "Push: "+name)
		c.is(b.Later(1, job, c.queue), linda.ErrBadJob, "Later: "+name)
	}
	large := newJob("large")
	large.Headers = map[string]string{"x": strings.Repeat("x", linda.MaxBody)}
	c.is(b.Push(large, c.queue), linda.ErrTooLarge, "Push: headers too long")
	c.is(b.Push(newJob("deep", deep), c.queue), linda.ErrTooLarge, "Push: arguments too deep")
	c.nothing(b)
}
