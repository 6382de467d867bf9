package cuts

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/beanstalkd"
	_ "github.com/amlun/linda/broker/kafka"
	_ "github.com/amlun/linda/broker/rabbitmq"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos/proxy"
)

// counted are the brokers that store a job anew to change it, and of which some
// cannot tell how many jobs are in which state. There the jobs are taken out in
// the end and counted. A broker is added by a line.
var counted = []countedTarget{
	{name: "beanstalkd", kind: brokerd.Beanstalkd, stride: 13},
	{name: "rabbitmq", kind: brokerd.RabbitMQ, options: "?queue_type=classic", stride: 701, loose: true, again: true},
	{name: "kafka", kind: brokerd.Kafka, options: "&lock=2s", stride: 1009, tells: true,
		brief: []string{"push", "delete", "retry"}}, // each cut takes a second: the client joins its group again
}

// countedTarget is a broker, and what a cut may do to its jobs.
type countedTarget struct {
	name    string
	kind    brokerd.Kind
	options string   // of the URL
	stride  int      // how many bytes apart the cuts of a short run are
	loose   bool     // it does not confirm settlements: one that was answered may be undone
	again   bool     // it sends a push again whose outcome it does not know
	brief   []string // the operations of a short run; nil: all
	tells   bool     // it tells its clients its address: see brokerd.Advertise
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
	// run does it.
	run func(ctx context.Context, c *countedCut) error
	// least and most are how many copies of each job there are if it returned
	// nil, and failed and failedMost if it returned an error and no later try
	// succeeded.
	least, most, failed, failedMost int
	push                            bool // its jobs are new: an error says whether there may be one
	dead                            bool // its job is dead then
}

var countedOps = []countedOp{
	{name: "connect", run: func(_ context.Context, c *countedCut) error {
		b, err := linda.NewBroker(c.s.url)
		if err != nil {
			return err
		}
		return b.Close()
	}},
	{name: "push", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 1, 0)
	}},
	{name: "later", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 1, time.Second)
	}},
	{name: "batch", push: true, run: func(ctx context.Context, c *countedCut) error {
		return c.push(ctx, 3, 0)
	}},
	{name: "fetch", jobs: 2, least: once, most: stored, failed: once, failedMost: stored, run: func(ctx context.Context, c *countedCut) error {
		jobs, err := c.s.client.Fetch(ctx, c.queue, 2, lease)
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
		return c.s.client.Touch(ctx, c.queue, lease, c.held)
	}},
	{name: "stats", jobs: 3, least: once, most: stored, failed: once, failedMost: stored, run: func(ctx context.Context, c *countedCut) error {
		s, err := c.s.client.Stats(ctx, c.queue)
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
		return c.s.client.Settle(ctx, c.queue, []linda.Settlement{how})
	}
}

// Wherever a connection is cut no job is lost, none comes from nowhere, an error
// says what may have happened, and the client gets its own answers.
func TestCutAfterEveryByteLeavesACopyOfEachJob(t *testing.T) {
	for _, target := range counted {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			s := newCountedSweep(t, target)
			for i, op := range countedOps {
				if s.stride == target.stride && target.brief != nil && !slices.Contains(target.brief, op.name) {
					continue
				}
				t.Run(op.name, func(t *testing.T) {
					for _, dir := range []proxy.Direction{proxy.Up, proxy.Down} {
						s.sweep(t, op, dir, i%s.stride)
					}
				})
			}
			t.Logf("%d cuts: done %d, not done %d, unknown %d", s.cuts, s.done, s.undone, s.unknown)
		})
	}
}

// countedSweep is a client whose connections pass a proxy, and one who looks.
type countedSweep struct {
	countedTarget
	url                         string // by the proxy
	server                      *brokerd.Server
	direct, client              whole
	proxy                       *proxy.Proxy
	cuts, done, undone, unknown int
	canaries                    map[string]bool // that were pushed

	mu    sync.Mutex
	fault *proxy.Fault // guarded by mu: that befalls new connections
	made  []int        // guarded by mu: connections that were made meanwhile
}

func newCountedSweep(t *testing.T, target countedTarget) *countedSweep {
	s := &countedSweep{countedTarget: target, canaries: make(map[string]bool)}
	s.stride = stride(t, target.stride)
	var err error
	s.proxy, err = proxy.Start("", s.befall)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.proxy.Close()) })
	var options []brokerd.Option
	if s.tells {
		options = append(options, brokerd.Advertise(s.proxy.Addr))
	}
	s.server = brokerd.Run(t, target.kind, options...)
	to := s.server.Addr
	if s.tells {
		to = fmt.Sprint("127.0.0.1:", s.server.Ports[len(s.server.Ports)-1])
	}
	s.proxy.Forward(to)
	url, err := neturl.Parse(s.server.URL + s.options)
	require.NoError(t, err)
	url.Host = s.proxy.Addr
	s.url = url.String()
	s.client = open(t, s.url, byURL)
	return s
}

// befall plans the faults of a new connection.
func (s *countedSweep) befall(conn int) []proxy.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		return nil
	}
	s.made = append(s.made, conn)
	return []proxy.Fault{*s.fault}
}

// arm makes a fault befall all connections, those that are open and those to
// come, until the function that it returns is called. That reports whether it
// happened to any.
func (s *countedSweep) arm(f proxy.Fault) (disarm func() bool) {
	s.mu.Lock()
	s.fault, s.made = &f, nil
	s.mu.Unlock()
	before := s.proxy.Conns()
	for _, conn := range before {
		s.proxy.Inject(conn, f)
	}
	return func() bool {
		open := s.proxy.Conns()
		s.mu.Lock()
		made := s.made
		s.fault = nil
		s.mu.Unlock()
		s.proxy.Heal()
		return slices.ContainsFunc(append(before, made...), func(conn int) bool { return !slices.Contains(open, conn) })
	}
}

// sweep cuts an operation at one byte after another, until it is over before
// the cut, and then counts.
func (s *countedSweep) sweep(t *testing.T, op countedOp, dir proxy.Direction, from int) {
	// Some brokers have a limit of queues that one client may look into.
	s.direct = byURL(t, s.server.URL+s.options).(whole)
	defer func() { require.NoError(t, s.direct.Close()) }()
	var all []*countedCut
	for at := from; ; at += s.stride {
		if at >= longest {
			t.Errorf("%s: no end after %d bytes", op.name, longest)
			break
		}
		c := &countedCut{
			s: s, op: op, queue: fmt.Sprintf("cut.%d", queues.Add(1)),
			name: fmt.Sprintf("%s, byte %d of direction %d", op.name, at, dir),
		}
		all = append(all, c)
		if !c.make(t, dir, at) {
			break
		}
	}
	for _, c := range all {
		c.count(t)
		for _, fault := range c.faults {
			t.Errorf("%s (errors %v): %s", c.name, c.errs, fault)
		}
	}
}

// countedCut is one cut of one operation, on a queue of its own.
type countedCut struct {
	s           *countedSweep
	op          countedOp
	name, queue string
	jobs        []*linda.Job // that were pushed, or were to be
	held        []*linda.Job // that the client has fetched
	errs        []error      // of the operation, one for each try
	faults      []string
}

func (c *countedCut) wrong(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// push pushes n new jobs by the client.
func (c *countedCut) push(ctx context.Context, n int, delay time.Duration) error {
	for i := range n {
		job := newJob(i)
		job.ID, job.Delay = linda.NewID(), delay
		c.jobs = append(c.jobs, job)
	}
	return c.s.client.PushBatch(ctx, c.queue, c.jobs)
}

// isTheirs notes it if jobs are not of this queue.
func (c *countedCut) isTheirs(jobs []*linda.Job) {
	for _, job := range jobs {
		if job.Queue != c.queue || !slices.ContainsFunc(c.jobs, func(own *linda.Job) bool { return own.ID == job.ID }) {
			c.wrong("it returned job %s of queue %s", job.ID, job.Queue)
		}
	}
}

// make makes the cut, and reports whether there was one.
func (c *countedCut) make(t *testing.T, dir proxy.Direction, at int) (happened bool) {
	c.prepare(t)
	disarm := c.s.arm(proxy.Fault{Kind: []proxy.Kind{proxy.Reset, proxy.Close}[at%2], Dir: dir, After: int64(at)})
	err := c.try(t)
	happened = disarm()
	switch {
	case err == nil:
		c.s.done++
	case errors.Is(err, linda.ErrUnknown):
		c.s.unknown++
	default:
		c.s.undone++
	}
	if happened || err != nil {
		c.s.cuts++
	}
	if c.op.held && c.op.name != "touch" {
		c.again(t)
	}
	c.letGo(t)
	c.canary(t)
	return happened || err != nil
}

// try does the operation once.
func (c *countedCut) try(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	err := c.op.run(ctx, c)
	c.errs = append(c.errs, err)
	if took := time.Since(began); took > limit+2*time.Second {
		c.wrong("it took %v", took)
	}
	return err
}

// again repeats a settlement that has failed, as linda does.
func (c *countedCut) again(t *testing.T) {
	for range 200 {
		last := c.errs[len(c.errs)-1]
		if last == nil || errors.Is(last, linda.ErrNotReserved) {
			return
		}
		time.Sleep(10 * time.Millisecond)
		_ = c.try(t)
	}
	c.wrong("it is never settled")
}

// prepare brings the queue into the state that the operation needs.
func (c *countedCut) prepare(t *testing.T) {
	n := c.op.jobs
	if c.op.held {
		n = 1
	}
	for i := range n {
		job := newJob(i)
		job.ID = linda.NewID()
		c.jobs = append(c.jobs, job)
		require.NoError(t, c.s.direct.PushBatch(t.Context(), c.queue, []*linda.Job{job}), c.name)
	}
	if !c.op.held {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(c.held) == 0 {
		jobs, err := c.s.client.Fetch(ctx, c.queue, 1, lease)
		require.NoError(t, ctx.Err(), "%s: fetch to hold the job: %v", c.name, err)
		c.held = jobs
	}
}

// letGo hands back what the client still holds.
func (c *countedCut) letGo(t *testing.T) {
	if c.op.held && c.op.name != "touch" {
		return
	}
	for _, job := range c.held {
		for range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			err := c.s.client.Settle(ctx, c.queue, []linda.Settlement{{Job: job, Op: linda.OpRelease, Unstarted: true}})
			cancel()
			if err == nil || errors.Is(err, linda.ErrNotReserved) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// bounds are how many copies of a job there may be.
func (c *countedCut) bounds(i int) (least, most int) {
	last := c.errs[len(c.errs)-1]
	switch {
	case c.op.push:
		return c.pushed(linda.EachError(last, len(c.jobs))[i])
	case len(c.errs) == 1 && last == nil && c.s.loose && c.op.most < stored:
		return c.op.least, c.op.most + 1
	case len(c.errs) == 1 && last == nil:
		return c.op.least, c.op.most
	}
	return c.op.failed, c.op.failedMost
}

// pushed are those of a job that was pushed.
func (c *countedCut) pushed(err error) (least, most int) {
	most = once
	if c.s.again {
		most = stored
	}
	switch {
	case err == nil:
		return once, most
	case errors.Is(err, linda.ErrUnknown):
		return never, most
	}
	return never, never
}

// count takes out all jobs of the queue and judges how many there are.
func (c *countedCut) count(t *testing.T) {
	copies := make(map[string]int)
	for _, job := range c.buried(t) {
		copies[job.ID]++
	}
	if c.op.dead && len(c.errs) == 1 && c.errs[0] == nil && copies[c.jobs[0].ID] == 0 {
		c.wrong("it says that the job is dead, and it is not")
	}
	enough := func() bool {
		for i, job := range c.jobs {
			if least, _ := c.bounds(i); copies[job.ID] < least {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(15 * time.Second); ; {
		job, err := c.s.direct.Pop(c.queue, 0)
		require.NoError(t, err, c.name)
		if job != nil {
			copies[job.ID]++
			continue
		}
		if enough() || time.Now().After(end) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for i, job := range c.jobs {
		least, most := c.bounds(i)
		if n := copies[job.ID]; n < least || n > most {
			c.wrong("there are %d of job %d, not %d to %d", n, i, least, most)
		}
		delete(copies, job.ID)
	}
	if len(copies) > 0 {
		c.wrong("there are jobs from nowhere: %v", copies)
	}
}

func (c *countedCut) buried(t *testing.T) []*linda.Job {
	if !c.op.dead {
		return nil
	}
	jobs, err := c.s.direct.Peek(t.Context(), c.queue, linda.Dead, 10)
	require.NoError(t, err, c.name)
	return jobs
}

// canary sees to it that the client gets its own answers. What earlier canaries
// have left is known.
func (c *countedCut) canary(t *testing.T) {
	const queue = "cut.canary"
	job := newJob(0)
	job.ID = linda.NewID()
	c.s.canaries[job.ID] = true
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for pushed := false; ctx.Err() == nil; {
		if !pushed {
			pushed = c.s.client.PushBatch(ctx, queue, []*linda.Job{job}) == nil
		}
		if !pushed {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		jobs, err := c.s.client.Fetch(ctx, queue, 1, lease)
		if err != nil {
			continue
		}
		got := jobs[0]
		if !c.s.canaries[got.ID] || got.Queue != queue {
			c.wrong("the canary is another bird: %s of queue %s", got.ID, got.Queue)
			return
		}
		if c.s.client.Settle(ctx, queue, []linda.Settlement{{Job: got, Op: linda.OpDelete}}) == nil && got.ID == job.ID {
			return
		}
	}
	c.wrong("the client does not recover")
}
