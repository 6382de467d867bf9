// Package cuts cuts the connection to each broker after every byte of every
// request and of every answer, and looks at what becomes of the job and of the
// client.
package cuts

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// targets are the brokers that tell how many jobs are in which state, and change them
// where they are. The others are in counted.
var targets = []struct {
	name string
	kind brokerd.Kind
	open func(t *testing.T, url string) linda.Broker
}{
	{"redis", brokerd.Redis, byURL},
	{"redis by a client of the program", brokerd.Redis, byClient},
}

func byURL(t *testing.T, url string) linda.Broker {
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}

// byClient opens a broker on a client that repeats what has failed, as go-redis
// does unless it is told otherwise. The broker's own commands it must not repeat.
func byClient(t *testing.T, url string) linda.Broker {
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b, err := linda.NewRedisBroker(client)
	require.NoError(t, err)
	return b
}

const (
	lease = time.Minute
	limit = 3 * time.Second // of one call
	most  = 4000            // no request and no answer is so long
)

// whole is what the operations need.
type whole interface {
	linda.Broker
	linda.Fetcher
	linda.BatchPusher
	linda.Settler
	linda.Toucher
	linda.Inspector
}

// op is one operation under the knife.
type op struct {
	name string
	jobs int // that are pushed before; the client holds them if held, and they are dead if dead
	held bool
	dead bool
	// run does it, and tells what is wrong with what it returned; nil: nothing.
	run func(ctx context.Context, c *cut) error
	// want is what the server holds when it was carried out. A read changes
	// nothing.
	want linda.Stats
}

var ops = []op{
	{name: "push", want: linda.Stats{Ready: 1}, run: func(ctx context.Context, c *cut) error {
		return c.PushBatch(ctx, c.queue, []*linda.Job{newJob(1)})
	}},
	{name: "later", want: linda.Stats{Delayed: 1}, run: func(ctx context.Context, c *cut) error {
		job := newJob(1)
		job.Delay = time.Hour
		return c.PushBatch(ctx, c.queue, []*linda.Job{job})
	}},
	{name: "batch", want: linda.Stats{Ready: 3}, run: func(ctx context.Context, c *cut) error {
		return c.PushBatch(ctx, c.queue, []*linda.Job{newJob(1), newJob(2), newJob(3)})
	}},
	{name: "fetch", jobs: 2, want: linda.Stats{Reserved: 2}, run: func(ctx context.Context, c *cut) error {
		jobs, err := c.Fetch(ctx, c.queue, 2, lease)
		if err == nil {
			c.isTheirs(jobs, 2)
		}
		return err
	}},
	{name: "delete", jobs: 1, held: true, run: settle(linda.Settlement{Op: linda.OpDelete})},
	{name: "release", jobs: 1, held: true, want: linda.Stats{Ready: 1}, run: settle(linda.Settlement{Op: linda.OpRelease, Reason: "r"})},
	{name: "hand back", jobs: 1, held: true, want: linda.Stats{Ready: 1}, run: settle(linda.Settlement{Op: linda.OpRelease, Unstarted: true})},
	{name: "retry", jobs: 1, held: true, want: linda.Stats{Delayed: 1}, run: settle(linda.Settlement{Op: linda.OpRelease, Delay: time.Hour, Reason: "r"})},
	{name: "bury", jobs: 1, held: true, want: linda.Stats{Dead: 1}, run: settle(linda.Settlement{Op: linda.OpBury, Reason: "r"})},
	{name: "touch", jobs: 1, held: true, want: linda.Stats{Reserved: 1}, run: func(ctx context.Context, c *cut) error {
		return c.Touch(ctx, c.queue, lease, c.jobs)
	}},
	{name: "stats", jobs: 3, want: linda.Stats{Ready: 3}, run: func(ctx context.Context, c *cut) error {
		s, err := c.Stats(ctx, c.queue)
		if err == nil && s != (linda.Stats{Ready: 3}) {
			c.wrong("it counts %+v", s)
		}
		return err
	}},
	{name: "peek", jobs: 2, want: linda.Stats{Ready: 2}, run: func(ctx context.Context, c *cut) error {
		jobs, err := c.Peek(ctx, c.queue, linda.Ready, 10)
		if err == nil {
			c.isTheirs(jobs, 2)
		}
		return err
	}},
	{name: "remove", jobs: 1, run: func(ctx context.Context, c *cut) error {
		_, err := c.Remove(ctx, c.queue, c.jobs[0].ID)
		return err
	}},
	{name: "kick", jobs: 1, dead: true, want: linda.Stats{Ready: 1}, run: func(ctx context.Context, c *cut) error {
		_, err := c.Kick(ctx, c.queue, 10)
		return err
	}},
	{name: "purge", jobs: 1, dead: true, run: func(ctx context.Context, c *cut) error {
		_, err := c.Purge(ctx, c.queue, linda.Dead)
		return err
	}},
}

// settle settles what the client holds.
func settle(how linda.Settlement) func(ctx context.Context, c *cut) error {
	return func(ctx context.Context, c *cut) error {
		how := how
		how.Job = c.jobs[0]
		return c.Settle(ctx, c.queue, []linda.Settlement{how})
	}
}

func newJob(n int) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: "cut", Args: []any{n}}}
}

// stride is how many bytes apart the cuts are: LINDA_CUT_EVERY, or 1 where
// LINDA_LONG is set, or usual.
func stride(t testing.TB, usual int) int {
	if text := os.Getenv("LINDA_CUT_EVERY"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("LINDA_CUT_EVERY is %q", text)
		}
		return n
	}
	if os.Getenv("LINDA_LONG") != "" {
		return 1
	}
	return usual
}

// Nothing is lost and nothing mixed up, wherever a connection is cut.
func TestCutAfterEveryByteLosesNothingAndMixesNothingUp(t *testing.T) {
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			s := newSweep(t, target.kind, target.open)
			for i, op := range ops {
				for _, dir := range []proxy.Direction{proxy.Up, proxy.Down} {
					s.sweep(t, op, dir, i%s.stride)
				}
			}
			t.Logf("%d cuts: done %d, not done %d, unknown %d", s.cuts, s.done, s.undone, s.unknown)
		})
	}
}

// sweep is a client whose connections pass a proxy, and one who looks.
type sweep struct {
	stride                      int
	direct, client              whole
	proxy                       *proxy.Proxy
	cuts, done, undone, unknown int
}

var queues atomic.Int64

func newSweep(t *testing.T, kind brokerd.Kind, by func(*testing.T, string) linda.Broker) *sweep {
	server := brokerd.Run(t, kind)
	url, err := neturl.Parse(server.URL)
	require.NoError(t, err)
	p, err := proxy.Start(url.Host, nil)
	require.NoError(t, err)
	s := &sweep{stride: stride(t, 17), proxy: p, direct: open(t, server.URL, byURL)}
	url.Host = p.Addr
	s.client = open(t, url.String(), by)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return s
}

func open(t *testing.T, url string, by func(*testing.T, string) linda.Broker) whole {
	b := by(t, url)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b.(whole)
}

// sweep cuts an operation at one byte after another, until it is over before
// the cut.
func (s *sweep) sweep(t *testing.T, op op, dir proxy.Direction, from int) {
	for at := from; at < most; at += s.stride {
		c := &cut{whole: s.client, s: s, op: op, queue: fmt.Sprintf("cut.%d", queues.Add(1)), name: fmt.Sprintf("%s, byte %d of direction %d", op.name, at, dir)}
		if !c.make(t, dir, at) || t.Failed() {
			return
		}
	}
	t.Errorf("%s: no end after %d bytes", op.name, most)
}

// cut is one cut of one operation, on a queue of its own.
type cut struct {
	whole
	s           *sweep
	op          op
	name, queue string
	jobs        []*linda.Job
	faults      []string
}

func (c *cut) wrong(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// isTheirs notes it if jobs are not the first n of this queue.
func (c *cut) isTheirs(jobs []*linda.Job, n int) {
	if len(jobs) > n || len(jobs) == 0 {
		c.wrong("it returned %d jobs, not %d", len(jobs), n)
	}
	for _, job := range jobs {
		if job.Queue != c.queue || !slices.ContainsFunc(c.jobs, func(own *linda.Job) bool { return own.ID == job.ID }) {
			c.wrong("it returned job %s of queue %s", job.ID, job.Queue)
		}
	}
}

// make makes the cut, and reports whether there was one.
func (c *cut) make(t *testing.T, dir proxy.Direction, at int) (happened bool) {
	c.prepare(t)
	before := c.s.proxy.Conns()
	kind := []proxy.Kind{proxy.Reset, proxy.Close}[at%2]
	for _, conn := range before {
		c.s.proxy.Inject(conn, proxy.Fault{Kind: kind, Dir: dir, After: int64(at)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	err := c.op.run(ctx, c)
	if took := time.Since(began); took > limit+time.Second {
		c.wrong("it took %v", took)
	}
	open := c.s.proxy.Conns()
	happened = slices.ContainsFunc(before, func(conn int) bool { return !slices.Contains(open, conn) })
	c.s.proxy.Heal()
	c.judge(t, err)
	c.canary(t)
	for _, fault := range c.faults {
		t.Errorf("%s (error %v): %s", c.name, err, fault)
	}
	if happened {
		c.s.cuts++
	}
	return happened || err != nil
}

// prepare brings the queue into the state that the operation needs.
func (c *cut) prepare(t *testing.T) {
	ctx := t.Context()
	for i := range c.op.jobs {
		job := newJob(i)
		job.ID = linda.NewID()
		require.NoError(t, c.s.direct.PushBatch(ctx, c.queue, []*linda.Job{job}))
		c.jobs = append(c.jobs, job)
	}
	holder := c.s.direct
	if c.op.held {
		holder = c.s.client
	}
	if c.op.held || c.op.dead {
		c.jobs = nil
		for len(c.jobs) < c.op.jobs { // a connection that has died is noticed now
			jobs, err := holder.Fetch(ctx, c.queue, c.op.jobs, lease)
			if c.op.dead {
				require.NoError(t, err)
			}
			c.jobs = append(c.jobs, jobs...)
		}
	}
	if c.op.dead {
		for _, job := range c.jobs {
			require.NoError(t, holder.Settle(ctx, c.queue, []linda.Settlement{{Job: job, Op: linda.OpBury, Reason: "r"}}))
		}
	}
}

// judge looks at what the server holds, and whether the error says so.
func (c *cut) judge(t *testing.T, err error) {
	before := linda.Stats{Ready: int64(c.op.jobs)}
	switch {
	case c.op.held:
		before = linda.Stats{Reserved: int64(c.op.jobs)}
	case c.op.dead:
		before = linda.Stats{Dead: int64(c.op.jobs)}
	}
	now, statsErr := c.s.direct.Stats(t.Context(), c.queue)
	require.NoError(t, statsErr)
	done := now == c.op.want
	// The server may have taken back what a connection held that is gone.
	returned := now.Delayed == before.Delayed && now.Dead == before.Dead && now.Ready+now.Reserved == before.Ready+before.Reserved
	switch {
	case err == nil:
		c.s.done++
	case errors.Is(err, linda.ErrUnknown):
		c.s.unknown++
	default:
		c.s.undone++
	}
	if !done && !returned && !c.partly(now) {
		c.wrong("the server holds %+v: before it was %+v, and done it would be %+v", now, before, c.op.want)
	}
	switch {
	case err == nil && !done && !(c.op.want.Reserved > 0 && returned):
		c.wrong("it says that it is done, and the server holds %+v, not %+v", now, c.op.want)
	case err != nil && done && !returned && !errors.Is(err, linda.ErrUnknown):
		c.wrong("it says that it is not done, and the server holds %+v", now)
	}
	if c.op.held && err != nil && c.op.name != "touch" {
		c.again(t)
	}
}

// partly reports whether some jobs of a batch are there and others not.
func (c *cut) partly(now linda.Stats) bool {
	return c.op.name == "batch" && now.Ready < c.op.want.Ready && now.Delayed+now.Reserved+now.Dead == 0
}

// again settles a job whose settlement has failed, as linda does. It is done
// then, or the job is back in the queue.
func (c *cut) again(t *testing.T) {
	var err error
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err = c.op.run(ctx, c)
		cancel()
		if err == nil || errors.Is(err, linda.ErrNotReserved) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	now, statsErr := c.s.direct.Stats(t.Context(), c.queue)
	require.NoError(t, statsErr)
	switch {
	case err == nil && now != c.op.want:
		c.wrong("once more it says that it is done, and the server holds %+v", now)
	case err != nil && !errors.Is(err, linda.ErrNotReserved):
		c.wrong("once more: %v", err)
	case err != nil && now != c.op.want && now != (linda.Stats{Ready: 1}) && now != (linda.Stats{Reserved: 1}):
		c.wrong("it is not reserved any more, and the server holds %+v", now)
	}
}

// canary sees to it that the client gets its own answers.
func (c *cut) canary(t *testing.T) {
	queue := c.queue + ".canary"
	job := newJob(0)
	job.ID = linda.NewID()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for pushed := false; ; {
		if !pushed {
			pushed = c.PushBatch(ctx, queue, []*linda.Job{job}) == nil
		}
		if pushed {
			jobs, err := c.Fetch(ctx, queue, 1, lease)
			if err == nil {
				if len(jobs) != 1 || jobs[0].ID != job.ID {
					c.wrong("the canary is another bird: %v", jobs)
					return
				}
				if c.Settle(ctx, queue, []linda.Settlement{{Job: jobs[0], Op: linda.OpDelete}}) == nil {
					return
				}
			}
		}
		if ctx.Err() != nil {
			c.wrong("the client does not recover")
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
