package cuts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos/proxy"
)

const (
	// patience is how long the client may take to be itself again.
	patience = 30 * time.Second
	// missing is how long a job may take to come back, where a sample is cut: many
	// cuts of a server take all of its time.
	missing     = 15 * time.Second
	missingLong = 90 * time.Second
)

// countedCut is one cut of one operation, on a queue of its own.
type countedCut struct {
	l           *lane
	op          countedOp
	name, queue string
	jobs        []*linda.Job // that were pushed, or were to be
	held        []*linda.Job // that the client has fetched
	errs        []error      // of the operation, one for each try
	greeting    string       // the id of a job that was there before
	at          int          // the byte
	faults      []string     // that were found
	disturbed   error        // of counting: what is popped and does not come is gone
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
	return c.l.client.PushBatch(ctx, c.queue, c.jobs)
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
func (c *countedCut) make(dir proxy.Direction, at int) (happened bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.prepare(ctx); err != nil {
		c.errs = []error{err}
		c.wrong("before it: %v", err)
		return false
	}
	disarm := c.l.arm(proxy.Fault{Kind: []proxy.Kind{proxy.Reset, proxy.Close}[at%2], Dir: dir, After: int64(at)})
	err := c.try()
	happened = disarm()
	c.l.s.note(err)
	if c.op.held && c.op.name != "touch" {
		c.again()
	}
	c.letGo()
	c.canary()
	return happened
}

// note counts how an operation went.
func (s *countedSweep) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.outcomes.done++
	case errors.Is(err, linda.ErrUnknown):
		s.outcomes.unknown++
	default:
		s.outcomes.undone++
	}
}

// try does the operation once.
func (c *countedCut) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.l.s.limit)
	defer cancel()
	began := time.Now()
	err := c.op.run(ctx, c)
	c.errs = append(c.errs, err)
	if took := time.Since(began); took > limit+3*time.Second { // to connect has a limit of its own
		c.wrong("it took %v", took)
	}
	return err
}

// again repeats a settlement that has failed, as linda does.
func (c *countedCut) again() {
	for range 200 {
		last := c.errs[len(c.errs)-1]
		if last == nil || errors.Is(last, linda.ErrNotReserved) {
			return
		}
		time.Sleep(10 * time.Millisecond)
		_ = c.try()
	}
	c.wrong("it is never settled")
}

// prepare brings the queue into the state that the operation needs.
func (c *countedCut) prepare(ctx context.Context) error {
	n := c.op.jobs
	if c.op.held {
		n = 1
	}
	for i := range n {
		job := newJob(i)
		job.ID = linda.NewID()
		c.jobs = append(c.jobs, job)
		if err := c.l.direct.PushBatch(ctx, c.queue, []*linda.Job{job}); err != nil {
			return err
		}
	}
	if c.op.known {
		if err := c.greet(ctx); err != nil {
			return err
		}
	}
	for c.op.counts { // a server may take a moment to count what it has confirmed
		s, err := c.l.direct.Stats(ctx, c.queue)
		if err != nil {
			return err
		}
		if s.Ready == int64(n) || s.Ready < 0 {
			break
		}
	}
	for c.op.held && len(c.held) == 0 { // a connection that has died is noticed now
		jobs, err := c.l.client.Fetch(ctx, c.queue, 1, lease)
		if ctx.Err() != nil {
			return err
		}
		c.held = jobs
	}
	return nil
}

// greet pushes a job by the client, and takes it out.
func (c *countedCut) greet(ctx context.Context) error {
	job := newJob(0)
	job.ID = linda.NewID()
	c.greeting = job.ID
	for c.l.client.PushBatch(ctx, c.queue, []*linda.Job{job}) != nil { // as after the cut before it
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for ctx.Err() == nil {
		if got, err := c.l.direct.Pop(c.queue, 0); got != nil || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// letGo hands back what the client still holds.
func (c *countedCut) letGo() {
	if c.op.held && c.op.name != "touch" {
		return
	}
	for _, job := range c.held {
		for range 200 {
			ctx, cancel := context.WithTimeout(context.Background(), c.l.s.limit)
			err := c.l.client.Settle(ctx, c.queue, []linda.Settlement{{Job: job, Op: linda.OpRelease, Unstarted: true}})
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
	case len(c.errs) == 1 && last == nil && c.l.s.loose && c.op.most < stored:
		return c.op.least, c.op.most + 1
	case len(c.errs) == 1 && last == nil:
		return c.op.least, c.op.most
	}
	most = c.op.failedMost
	if most == stored && c.l.s.each {
		most = max(stored, len(c.errs))
	}
	if most >= stored && c.l.s.loose && last == nil {
		most++
	}
	return c.op.failed, most
}

// pushed are those of a job that was pushed.
func (c *countedCut) pushed(err error) (least, most int) {
	most = once
	if c.l.s.again {
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
func (c *countedCut) count(ctx context.Context) {
	copies := make(map[string]int)
	for _, job := range c.buried(ctx) {
		copies[job.ID]++
	}
	if c.op.dead && len(c.errs) == 1 && c.errs[0] == nil && copies[c.jobs[0].ID] == 0 {
		c.wrong("it says that the job is dead, and it is not")
	}
	c.takeOut(copies)
	for i, job := range c.jobs {
		least, most := c.bounds(i)
		if n := copies[job.ID]; n < least || n > most {
			c.wrong("there are %d of job %d, not %d to %d", n, i, least, most)
		}
		delete(copies, job.ID)
	}
	delete(copies, c.greeting) // where it was not removed for good
	if len(copies) > 0 {
		c.wrong("there are jobs from nowhere: %v", copies)
	}
}

// takeOut adds the jobs of the queue to copies. It ends with an empty queue, and
// waits for a while where jobs are missing.
func (c *countedCut) takeOut(copies map[string]int) {
	wait := missing
	if len(c.l.s.lanes) > few {
		wait = missingLong
	}
	for end := time.Now().Add(wait); time.Now().Before(end); {
		job, err := c.l.direct.Pop(c.queue, 0)
		switch {
		case job != nil:
			copies[job.ID]++
			continue
		case err != nil:
			c.disturbed = err
		case c.enough(copies):
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *countedCut) enough(copies map[string]int) bool {
	for i, job := range c.jobs {
		if least, _ := c.bounds(i); copies[job.ID] < least {
			return false
		}
	}
	return true
}

func (c *countedCut) buried(ctx context.Context) []*linda.Job {
	if !c.op.dead {
		return nil
	}
	jobs, err := c.l.direct.Peek(ctx, c.queue, linda.Dead, 10)
	if err != nil {
		c.disturbed = err
	}
	return jobs
}

// canary sees to it that the client gets its own answers. What earlier canaries
// have left is known.
func (c *countedCut) canary() {
	queue := c.l.canaryQueue
	if c.l.s.fresh {
		queue = c.queue + ".canary"
	}
	job := newJob(0)
	job.ID = linda.NewID()
	c.l.canaries[job.ID] = true
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for pushed := false; ctx.Err() == nil; {
		if !pushed {
			pushed = c.l.client.PushBatch(ctx, queue, []*linda.Job{job}) == nil
		}
		if !pushed {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		jobs, err := c.l.client.Fetch(ctx, queue, 1, lease)
		if err != nil {
			continue
		}
		got := jobs[0]
		if !c.l.canaries[got.ID] || got.Queue != queue {
			c.wrong("the canary is another bird: %s of queue %s", got.ID, got.Queue)
			return
		}
		if c.l.client.Settle(ctx, queue, []linda.Settlement{{Job: got, Op: linda.OpDelete}}) == nil && got.ID == job.ID {
			return
		}
	}
	c.wrong("the client does not recover")
}
