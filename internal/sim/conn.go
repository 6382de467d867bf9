package sim

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"sync"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos"
)

// The operations of a connection.
const (
	opPush   = "push"
	opFetch  = "fetch"
	opSettle = "settle"
	opTouch  = "touch"
	opTick   = "tick"
)

var (
	errRefused = errors.New("sim: connection refused")
	errGone    = errors.New("sim: the process is dead")
	errBroken  = fmt.Errorf("%w: the connection broke", linda.ErrUnknown)
)

// Conn is a broker: one process's connection to the server, on which
// operations go wrong. It is written with what linda offers to authors of
// brokers, as any that speaks to a server over a network.
type Conn struct {
	linda.NineMethods
	world *world
	proc  uint32
	waits uint64 // guarded by the mutex of the server: how often it has waited there

	mu    sync.Mutex
	calls map[string]uint64 // guarded by mu, as all below
	held  time.Time         // until then nothing gets through
	dead  bool              // its process is: nothing leaves any more
}

func newConn(w *world, proc uint32) *Conn {
	c := &Conn{world: w, proc: proc, calls: make(map[string]uint64)}
	c.Of = c
	return c
}

// Connect and Close and MigrateExpiredJobs are the server's affair.
func (c *Conn) Connect(*neturl.URL) error { return nil }

// Close does nothing: the world ends its connections.
func (c *Conn) Close() error { return nil }

// MigrateExpiredJobs does nothing: the server does so by itself.
func (c *Conn) MigrateExpiredJobs(string) {}

// Guarantees says what the simulated server promises.
func (c *Conn) Guarantees() linda.Guarantees {
	g := c.world.server.store.(linda.Guarantor).Guarantees()
	g.Notes = nil
	return g
}

func (c *Conn) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

func (c *Conn) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dead
}

// hold lets nothing through for a while.
func (c *Conn) hold(until time.Time) {
	c.mu.Lock()
	c.held = until
	c.mu.Unlock()
	c.world.server.leave(errBroken, func(w *wait) bool { return w.conn == c })
}

// tell adds events of this process to the history, unless it is dead.
func (c *Conn) tell(events ...chaos.Event) {
	if !c.alive() {
		return
	}
	for i := range events {
		events[i].Proc = c.proc
	}
	c.world.tell(events...)
}

// call takes a request to the server and its answer back, as far as the draw
// lets it. The request may be carried out after call has returned, or twice.
func call[T any](ctx context.Context, c *Conn, op, queue string, request func() T) (answer T, err error) {
	j, ok := c.journey(op, queue)
	if !ok {
		return answer, errGone
	}
	if j.fate != passes {
		defer c.world.fault(c.proc)()
	}
	time.Sleep(j.up)
	switch j.fate {
	case refused:
		return answer, errRefused
	case cut:
		return answer, errBroken
	case late:
		return await(ctx, c, j, request)
	case dropped:
		_ = pass(ctx, answerLimit)
		time.Sleep(j.down) // linda's own timers end at this instant too
		return answer, fmt.Errorf("%w: no answer", linda.ErrUnknown)
	}
	c.world.server.do(func() { answer = request() })
	time.Sleep(j.down)
	switch {
	case !c.alive():
		return answer, errGone
	case j.fate == lost:
		var none T
		return none, errBroken
	case j.fate == twice:
		c.world.later(c.proc, j.wait, func() { request() })
	}
	return answer, nil
}

// await is call with an answer that may come too late.
func await[T any](ctx context.Context, c *Conn, j journey, request func() T) (answer T, err error) {
	came := make(chan T, 1)
	c.world.later(c.proc, j.wait, func() { came <- request() })
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	select {
	case answer = <-came:
		return answer, nil
	case <-limit.C:
	case <-ctx.Done():
	}
	time.Sleep(j.down)
	return answer, fmt.Errorf("%w: no answer in time", linda.ErrUnknown)
}

// Fetch is that of a linda.Fetcher.
func (c *Conn) Fetch(ctx context.Context, queue string, most int, lease time.Duration) ([]*linda.Job, error) {
	return c.FetchAny(ctx, []string{queue}, most, lease)
}

// FetchNow is Fetch without waiting.
func (c *Conn) FetchNow(ctx context.Context, queue string, most int, lease time.Duration) ([]*linda.Job, error) {
	sent := time.Now()
	jobs, err := call(ctx, c, opFetch, queue, func() []*linda.Job { return c.world.server.take([]string{queue}, most, lease) })
	return c.got(jobs, sent, lease), err
}

// FetchAny is that of a linda.MultiFetcher. A fetch that finds nothing waits at
// the server, and its answer is on its way when the server has given it jobs.
func (c *Conn) FetchAny(ctx context.Context, queues []string, most int, lease time.Duration) ([]*linda.Job, error) {
	sent := time.Now()
	s := c.world.server
	jobs, err := call(ctx, c, opFetch, queues[0], func() []*linda.Job { return s.take(queues, most, lease) })
	if err != nil || len(jobs) > 0 {
		return c.got(jobs, sent, lease), err
	}
	w := &wait{conn: c, queues: queues, max: most, lease: lease, answer: make(chan fetched, 1)}
	s.await(w)
	select {
	case f := <-w.answer:
		jobs, err = f.jobs, f.err
	case <-ctx.Done():
		s.leave(ctx.Err(), func(other *wait) bool { return other == w })
		f := <-w.answer // it may have been served first
		jobs, err = f.jobs, f.err
	}
	now := time.Now()
	time.Sleep(time.Duration(mix(c.world.seed, uint64(c.proc), uint64(now.UnixNano())) % uint64(time.Millisecond)))
	if !c.alive() {
		return nil, errGone
	}
	return c.got(jobs, now, lease), err
}

// got hands out jobs with receipts of this broker's.
func (c *Conn) got(jobs []*linda.Job, sent time.Time, lease time.Duration) []*linda.Job {
	out := make([]*linda.Job, len(jobs))
	events := make([]chaos.Event, len(jobs))
	for i, job := range jobs {
		r, err := job.Receipt(c.world.server.store, job.Queue)
		must(err)
		mine := *job
		mine.Reserve(c, job.Queue, r.Token(), sent.Add(lease))
		out[i] = &mine
		events[i] = c.world.about(job, chaos.Fetched)
		events[i].Value = c.world.at(sent)
	}
	c.tell(events...)
	return out
}

// PushBatch is that of a linda.BatchPusher.
func (c *Conn) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	s := c.world.server
	pushed, err := call(ctx, c, opPush, queue, func() error {
		for _, job := range jobs {
			if job.Delay > 0 {
				s.at(time.Now().Add(job.Delay))
			}
		}
		return s.store.PushBatch(context.Background(), queue, jobs)
	})
	if err != nil {
		return err
	}
	return pushed
}

// Settle is that of a linda.Settler.
func (c *Conn) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	errs := make([]error, len(batch))
	var asked []linda.Settlement
	var receipts []*linda.Receipt
	var tokens []any
	var index []int
	for i := range batch {
		r, err := batch[i].Begin(c, queue)
		if errs[i] = err; err == nil {
			asked, receipts, tokens, index = append(asked, batch[i]), append(receipts, r), append(tokens, r.Token()), append(index, i)
		}
	}
	sent := time.Now()
	var answers []error
	var err error
	if len(asked) > 0 {
		answers, err = call(ctx, c, opSettle, queue, func() []error { return c.world.server.settle(queue, asked, tokens) })
	}
	for k, r := range receipts {
		answer := err
		if err == nil {
			answer = answers[k]
		}
		errs[index[k]] = r.End(answer)
	}
	for i := range batch {
		c.tell(c.world.settled(&batch[i], sent, errs[i])...)
	}
	if err != nil && len(asked) == len(batch) {
		return err
	}
	return linda.Batch(errs)
}

// Touch is that of a linda.Toucher.
func (c *Conn) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	errs := make([]error, len(jobs))
	var asked []*linda.Job
	var receipts []*linda.Receipt
	var tokens []any
	var index []int
	for i, job := range jobs {
		r, err := job.Receipt(c, queue)
		if errs[i] = err; err == nil {
			asked, receipts, tokens, index = append(asked, job), append(receipts, r), append(tokens, r.Token()), append(index, i)
		}
	}
	if len(asked) == 0 {
		return linda.Batch(errs)
	}
	sent := time.Now()
	answers, err := call(ctx, c, opTouch, queue, func() []error { return c.world.server.touch(queue, lease, asked, tokens) })
	if err != nil {
		return err
	}
	for k, r := range receipts {
		if answers[k] == nil {
			r.Extend(sent.Add(lease))
			e := c.world.about(asked[k], chaos.Touched)
			e.Value = c.world.at(sent)
			c.tell(e)
		} else if !r.Lose() {
			answers[k] = nil // it is settled, or being settled
		} else {
			answers[k] = linda.ErrLeaseLost
		}
		errs[index[k]] = answers[k]
	}
	return linda.Batch(errs)
}

// ticked is the answer to a Tick.
type ticked struct {
	done []linda.Ticked
	now  time.Time
	err  error
}

// Tick is that of a linda.Ticker.
func (c *Conn) Tick(ctx context.Context, queue string, ticks []linda.Tick) ([]linda.Ticked, time.Time, error) {
	t, err := call(ctx, c, opTick, queue, func() ticked {
		done, now, err := c.world.server.store.Tick(context.Background(), queue, ticks)
		for i, d := range done {
			if d.Pushed {
				c.world.ticked(ticks[i])
			}
		}
		return ticked{done, now, err}
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	return t.done, t.now, t.err
}
