package brokertest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/amlun/linda"
)

var nameCases = []testCase{
	{name: "bad-names", check: badNames,
		rule: "A queue name outside the grammar is ErrBadName from every method."},
	{name: "good-names", check: goodNames,
		rule: "Every name within the grammar is a queue, to its length of 60."},
	{name: "names-stay-apart", check: namesStayApart,
		rule: "Queues whose names are alike, or look like what a broker keeps for another, do not share jobs."},
}

var illegal = []string{
	"", "a:b", "a:reserved", "a:delayed", "{x}", "}", "{", " ", "a b", "a ", "\n", "a\n", "a\r\nDELETE 1", "\x00", "a\x00", "é", "aé",
	"\u202egro", "..", ".a", "/", "a/b", "%", "a%20b", "-x", "_x", "a#ephemeral", "a*", "a>", "a,b", "a@b", "a\\b", "\xff",
	strings.Repeat("a", 61), strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("a", 200),
	strings.Repeat("a", 249), strings.Repeat("a", 256), strings.Repeat("a", 300),
}

func badNames(c *trial) {
	b := c.open()
	c.push(b, 1)
	job := c.one(b)
	for _, name := range illegal {
		for call, err := range c.callAll(b, name, job) {
			c.is(err, linda.ErrBadName, call+" with "+show(name))
		}
		b.MigrateExpiredJobs(name)
	}
	c.nothing(b)
	c.delete(b, job)
}

// callAll calls every method that names a queue, and returns the errors.
func (c *trial) callAll(b linda.Broker, queue string, job *linda.Job) map[string]error {
	ctx := c.Context()
	errs := map[string]error{
		"Push":             b.Push(newJob("job"), queue),
		"Later":            b.Later(1, newJob("job"), queue),
		"Delete":           b.Delete(queue, job),
		"Release":          b.Release(queue, job),
		"ReleaseWithDelay": b.ReleaseWithDelay(queue, job, 1),
	}
	_, errs["Pop"] = b.Pop(queue, 1)
	for call, err := range c.callOptional(ctx, b, queue, job) {
		errs[call] = err
	}
	return errs
}

func goodNames(c *trial) {
	b := c.open()
	for _, start := range []string{"a", "Z", "0", "amq.", "a..b", "a.", "a--", "a__", "9-", "a.reserved", "con", "null", "a.dead.dead."} {
		unique := newQueue("x")
		for _, name := range []string{start + unique, start + unique + strings.Repeat(".", 60-len(start)-len(unique))} {
			c.queues = append(c.queues, name)
			c.must(b.Push(newJob("job"), name), "Push to "+name)
			job := c.pop(b, name)
			equal(c, job.Queue, name, "Queue")
			c.delete(b, job)
		}
	}
}

func namesStayApart(c *trial) {
	b := c.open()
	base := c.queue
	for _, suffix := range []string{
		".dead", "-dead", "_dead", ".delayed", "-delayed", "_delayed", ".reserved", "-reserved", ".ready", ".wake", ".unique",
		".", "-", "_", ".0", ".1", ".d", ".b",
	} {
		c.queues = append(c.queues, base+suffix)
	}
	c.queues = append(c.queues, strings.ToUpper(base), strings.ReplaceAll(base, "-", "."), strings.ReplaceAll(base, "-", "_"))
	c.queues = slices.DeleteFunc(c.queues, func(q string) bool {
		err := b.Push(newJob(q), q)
		refused := errors.Is(err, linda.ErrBadName) // it cannot be told from another
		if !refused {
			c.must(err, "Push to "+q)
		}
		return refused
	})
	for _, q := range c.queues {
		c.must(b.Later(1, newJob(q), q), "Later to "+q)
	}
	time.Sleep(time.Second)
	for _, q := range c.queues {
		for _, job := range c.reserve(b, q, 2, c.long) {
			equal(c, job.Payload.Class, q, "the queue that a job of "+q+" was pushed to")
			c.delete(b, job)
		}
	}
	c.nothing(b)
}
