package cuts

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/beanstalkd"
	_ "github.com/amlun/linda/broker/kafka"
	_ "github.com/amlun/linda/broker/nsq"
	_ "github.com/amlun/linda/broker/rabbitmq"
	"github.com/amlun/linda/internal/brokerd"
)

// counted are the brokers that store a job anew to change it, and of which some
// cannot tell how many jobs are in which state. There the jobs are taken out in
// the end and counted. A broker is added by a line.
var counted = []countedTarget{
	{name: "beanstalkd", kind: brokerd.Beanstalkd, stride: 13},
	{name: "rabbitmq", kind: brokerd.RabbitMQ, options: "?queue_type=classic", stride: 701, loose: true, again: true, each: true},
	{name: "nsq", kind: brokerd.Nsqd, options: "&msg_timeout=1s", stride: 101, loose: true, each: true, fresh: true,
		args:  []string{"-mem-queue-size=10", "-queue-scan-selection-count=10000"},   // thousands of queues
		brief: []string{"push", "push again", "fetch", "delete", "release", "bury"}}, // a delay in a new queue takes five seconds
	{name: "kafka", kind: brokerd.Kafka, options: "&lock=2s", stride: 1009, tells: true, each: true, limit: time.Second,
		brief: []string{"push again", "delete", "retry"}}, // the client goes on connecting until its time is over
	{name: "kafka in classic mode", kind: brokerd.Kafka, options: "&lock=2s&mode=classic", stride: 1009, tells: true, each: true, limit: time.Second,
		brief: []string{}},
}

// countedTarget is a broker, and what a cut may do to its jobs.
type countedTarget struct {
	name    string
	kind    brokerd.Kind
	args    []string      // of the server
	options string        // of the URL
	stride  int           // how many bytes apart the cuts of a short run are
	limit   time.Duration // of one call, if not the usual one
	loose   bool          // it does not confirm settlements: one that was answered may be undone
	again   bool          // it sends a push again whose outcome it does not know
	each    bool          // each try of a settlement whose outcome is unknown may leave a copy
	brief   []string      // the operations of a short run; nil: all; empty: there is none
	fresh   bool          // it is seen to be itself by a new connection, which a new queue needs
	tells   bool          // it tells its clients its address: see brokerd.Advertise
}

// longest is more than any operation sends or gets, also where it declares on the
// server what is missing.
const longest = 30_000

// How many copies there may be of a job.
const (
	never  = 0
	once   = 1
	stored = 2 // the new one and the old one
)

// countedOp is one operation under the knife.
type countedOp struct {
	name string
	held bool // it is about a job that the client has fetched
	jobs int  // otherwise: that are pushed before
	// known: the client has pushed to the queue before, so that it declares nothing.
	known bool
	// run does it.
	run func(ctx context.Context, c *countedCut) error
	// least and most are how many copies of each job there are if it returned
	// nil, and failed and failedMost if it returned an error and no later try
	// succeeded.
	least, most, failed, failedMost int
	push                            bool // its jobs are new: an error says whether there may be one
	dead                            bool // its job is dead then
	counts                          bool // it tells how many jobs there are
}

var countedOps = []countedOp{
	{name: "connect", run: func(_ context.Context, c *countedCut) error {
		b, err := linda.NewBroker(c.l.url)
		if err != nil {
			return err
		}
		return b.Close()
	}},
	{name: "push", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 1, 0)
	}},
	{name: "push again", known: true, push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 1, 0)
	}},
	{name: "later", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 1, time.Second)
	}},
	{name: "batch", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 3, 0)
	}},
	{name: "fetch", jobs: 2, least: once, most: stored, failed: once, failedMost: stored, run: func(ctx context.Context, c *countedCut) error {
		jobs, err := c.l.client.Fetch(ctx, c.queue, 2, lease)
		c.isTheirs(jobs)
		c.held = jobs
		return err
	}},
	{name: "delete", held: true, failedMost: once, run: c1(linda.Settlement{Op: linda.OpDelete})},
	{name: "release", held: true, least: once, most: once, failed: once, failedMost: stored, run: c1(linda.Settlement{Op: linda.OpRelease, Reason: "r"})},
	{name: "hand back", held: true, least: once, most: once, failed: once, failedMost: stored, run: c1(linda.Settlement{Op: linda.OpRelease, Unstarted: true})},
	{name: "retry", held: true, least: once, most: once, failed: once, failedMost: stored, run: c1(linda.Settlement{Op: linda.OpRelease, Delay: time.Second, Reason: "r"})},
	{name: "bury", held: true, dead: true, least: once, most: once, failed: once, failedMost: stored, run: c1(linda.Settlement{Op: linda.OpBury, Reason: "r"})},
	{name: "touch", held: true, least: once, most: stored, failed: once, failedMost: stored, run: func(ctx context.Context, c *countedCut) error {
		return c.l.client.Touch(ctx, c.queue, lease, c.held)
	}},
	{name: "stats", counts: true, jobs: 3, least: once, most: stored, failed: once, failedMost: stored, run: func(ctx context.Context, c *countedCut) error {
		s, err := c.l.client.Stats(ctx, c.queue)
		if err == nil && s.Ready != 3 && s.Ready != -1 {
			c.wrong("it counts %+v", s)
		}
		return err
	}},
}

// c1 settles the job that the client holds.
func c1(how linda.Settlement) func(ctx context.Context, c *countedCut) error {
	return func(ctx context.Context, c *countedCut) error {
		how := how
		how.Job = c.held[0]
		return c.l.client.Settle(ctx, c.queue, []linda.Settlement{how})
	}
}

// Wherever a connection is cut no job is lost, none comes from nowhere, an error
// says what may have happened, and the client gets its own answers.
func TestCutAfterEveryByteLeavesACopyOfEachJob(t *testing.T) {
	for _, target := range counted {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			var all outcomes
			defer func() {
				t.Logf("%d cuts: done %d, not done %d, unknown %d", all.cuts, all.done, all.undone, all.unknown)
			}()
			if stride(t, target.stride) < target.stride {
				for _, op := range countedOps { // thousands of queues make a server slow
					t.Run(op.name, func(t *testing.T) { newCountedSweep(t, target, lanes).both(t, op, 0, &all) })
				}
				return
			}
			if target.brief != nil && len(target.brief) == 0 {
				t.Skip("only where LINDA_LONG or LINDA_CUT_EVERY is set")
			}
			s := newCountedSweep(t, target, few)
			for i, op := range countedOps {
				if target.brief == nil || slices.Contains(target.brief, op.name) {
					t.Run(op.name, func(t *testing.T) { s.both(t, op, i, &all) })
				}
			}
		})
	}
}
