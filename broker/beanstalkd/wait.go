package beanstalkd

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda"
)

const (
	// waitFor is how long one command waits in the server. It cannot be called
	// off, so it is also how long the server believes in a worker that has
	// stopped fetching; a job that it hands over then is given back.
	waitFor = 5 * time.Second
	// lookEvery is how often jobs are looked for where no connection may wait.
	lookEvery = 50 * time.Millisecond
	// spare is how many connections are kept that have no job.
	spare = 4
)

// tube is where the jobs of a queue come from: the connections that watch it,
// and no other tube. One of them waits in the server, as long as somebody wants
// a job. The job that it gets is reserved by that connection, which from then on
// must not wait, since nothing that is sent behind a command that waits is done
// before it ends. So the next wait is another connection's.
type tube struct {
	broker *broker
	name   string
	turn   chan struct{} // held by who opens a connection for take

	mu      sync.Mutex
	conns   []*conn // guarded by mu, as all below
	wants   []*want
	waiting bool // a goroutine waits on behalf of wants
	last    int  // how many jobs the last fetch has handed out
	wary    bool // it gave some back
	peace   peace
}

// want is a fetch that waits for a job.
type want struct{ got chan offer }

type offer struct {
	conn *conn
	job  *reservation
	err  error
}

func (b *broker) tube(queue string) *tube {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tubes[queue]
	if t == nil {
		t = &tube{broker: b, name: queue, turn: make(chan struct{}, 1)}
		b.tubes[queue] = t
	}
	return t
}

// guess is how many jobs to ask for first, and how many at most.
func (t *tube) guess() (first, most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wary {
		return drainLeast, drainLeast
	}
	return min(max(t.last, drainLeast), drainMost), math.MaxInt
}

// drained tells how many jobs a fetch has handed out, and whether some went back
// since one crashed: others may have as well.
func (t *tube) drained(n int, wary bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.wary = n, wary
}

// peaceful returns what the server has told last, and told tells the next.
func (t *tube) peaceful() peace {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peace
}

func (t *tube) told(p peace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peace = p
}

// take returns a connection that does not wait, and keeps it from doing so until
// it is left.
func (t *tube) take(ctx context.Context) (*conn, error) {
	if c := t.pick(false); c != nil {
		return c, nil
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-t.turn }()
	if c := t.pick(false); c != nil {
		return c, nil
	}
	return t.dial(ctx, false)
}

func (t *tube) leave(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.draining--
}

// pick finds a connection to take jobs on, or one to wait on, which must have
// none; nil where there is none.
func (t *tube) pick(wait bool) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = slices.DeleteFunc(t.conns, (*conn).lost)
	for _, c := range t.conns {
		switch {
		case c.waiting || c.silent(stalled):
		case !wait:
			c.draining++
			return c
		case c.draining == 0 && c.idle():
			c.waiting = true
			return c
		}
	}
	return nil
}

// dial opens a connection that watches the tube alone.
func (t *tube) dial(ctx context.Context, wait bool) (*conn, error) {
	c, err := t.broker.dial(ctx)
	if err != nil {
		return nil, err
	}
	cmd := &commands{}
	cmd.about("watch", t.name)
	if t.name != "default" {
		cmd.about("ignore", "default")
	}
	if _, err := c.send(cmd); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if wait {
		c.waiting = true
	} else {
		c.draining++
	}
	t.conns = append(t.conns, c)
	return c, nil
}

// await waits for a job.
func (t *tube) await(ctx context.Context) (offer, error) {
	w := &want{got: make(chan offer, 1)}
	t.mu.Lock()
	t.wants = append(t.wants, w)
	begin := !t.waiting
	t.waiting = true
	t.mu.Unlock()
	if begin && !t.broker.begin(t.wait) {
		return offer{}, linda.ErrClosed
	}
	var ended error
	select {
	case o := <-w.got:
		return o, o.err
	case <-ctx.Done():
		ended = ctx.Err()
	case <-t.broker.ctx.Done():
		ended = linda.ErrClosed
	}
	t.mu.Lock()
	t.wants = slices.DeleteFunc(t.wants, func(other *want) bool { return other == w })
	t.mu.Unlock()
	select {
	case o := <-w.got: // at this very moment
		if o.job != nil {
			t.broker.giveBack(o.conn, []*reservation{o.job})
		}
	default:
	}
	return offer{}, ended
}

// wait waits in the server until nobody wants a job any more.
func (t *tube) wait() {
	for t.wanted() {
		c, seconds, err := t.place()
		if err != nil {
			t.refuse(err)
			return
		}
		cmd := &commands{wait: time.Duration(seconds) * time.Second}
		cmd.add("reserve-with-timeout", seconds)
		limited, cancel := context.WithTimeout(t.broker.ctx, cmd.wait+stalled)
		answers, err := c.do(limited, cmd, nil)
		if err != nil && limited.Err() != nil && seconds > 0 {
			c.fail(errSilent) // it has no jobs to lose
		}
		cancel()
		var got []*reservation
		if err == nil {
			got = t.broker.claim(c, answers)
		}
		t.end(c, seconds)
		switch {
		case err != nil:
			t.refuse(err)
			return
		case len(got) > 0:
			t.offer(c, got[0])
		case seconds == 0 || answers[0].word == "DEADLINE_SOON": // it would be said again at once
			select {
			case <-time.After(lookEvery):
			case <-t.broker.ctx.Done():
			}
		}
	}
}

// place returns a connection to wait on and for how long: not at all where all
// have jobs, and there may not be more of them.
func (t *tube) place() (c *conn, seconds uint64, err error) {
	seconds = uint64(waitFor / time.Second)
	if c := t.pick(true); c != nil {
		return c, seconds, nil
	}
	if t.broker.count() < t.broker.config.conns {
		c, err = t.dial(t.broker.ctx, true)
		return c, seconds, err
	}
	c, err = t.take(t.broker.ctx)
	return c, 0, err
}

// end tells that a connection waits no more, and closes one that is not needed.
func (t *tube) end(c *conn, seconds uint64) {
	t.mu.Lock()
	if seconds == 0 {
		c.draining--
	} else {
		c.waiting = false
	}
	var idle []*conn
	for _, c := range t.conns {
		if !c.waiting && c.draining == 0 && c.idle() {
			idle = append(idle, c)
		}
	}
	var surplus *conn
	if len(idle) > spare {
		surplus = idle[len(idle)-1]
		t.conns = slices.DeleteFunc(t.conns, func(c *conn) bool { return c == surplus })
	}
	t.mu.Unlock()
	if surplus != nil {
		surplus.fail(errRetired)
	}
}

// wanted reports whether a fetch waits; if none does, the waiting ends.
func (t *tube) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = len(t.wants) > 0
	return t.waiting
}

// offer gives a job to the fetch that waits longest, or back to the server.
func (t *tube) offer(c *conn, job *reservation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wants) == 0 {
		t.broker.giveBack(c, []*reservation{job})
		return
	}
	t.wants[0].got <- offer{conn: c, job: job}
	t.wants = t.wants[1:]
}

// refuse tells every fetch that waiting is not possible.
func (t *tube) refuse(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.wants {
		w.got <- offer{err: err}
	}
	t.wants, t.waiting = nil, false
}
