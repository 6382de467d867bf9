package beanstalkd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda"
)

// reservation is one delivery: this job, reserved by this connection, this time.
type reservation struct {
	conn    *conn
	id      uint64
	body    string
	native  int64 // deliveries that the server has counted for this body
	counted bool  // native is that
	plain   bool  // it was never anything but ready before
	job     *linda.Job
	receipt *linda.Receipt

	mu       sync.Mutex
	pri      uint64        // guarded by mu: the priority
	ttr      time.Duration // guarded by mu: the time to run
	known    bool          // guarded by mu: pri and ttr are what the server has told
	surely   time.Time     // guarded by mu: until then the server has not taken it back
	touching bool          // guarded by mu: an answer to a touch is awaited
	outcome  *outcome      // guarded by mu: of the last settlement
}

func (r *reservation) sure(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until.After(r.surely) {
		r.surely = until
	}
}

func (b *broker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	jobs, err := b.FetchNow(ctx, queue, max, lease)
	if err != nil || len(jobs) > 0 || max < 1 {
		return jobs, err
	}
	o, err := b.tube(queue).await(ctx)
	if err != nil {
		return nil, b.reason(ctx, err)
	}
	jobs, err = b.drain(ctx, queue, o.conn, o.job, max, lease)
	return jobs, b.reason(ctx, err)
}

// FetchNow is Fetch, but does not wait for jobs.
func (b *broker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	if err := b.check(ctx, queue); err != nil || max < 1 {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := b.tube(queue)
	c, err := t.take(ctx)
	if err != nil {
		return nil, b.reason(ctx, err)
	}
	defer t.leave(c)
	jobs, err := b.drain(ctx, queue, c, nil, max, lease)
	return jobs, b.reason(ctx, err)
}

const (
	drainLeast = few // which makes no question more
	drainMost  = 256
)

// drain reserves up to max jobs that are ready on a connection, first included,
// and hands them out. Each exchange asks about the jobs of the one before.
func (b *broker) drain(ctx context.Context, queue string, c *conn, first *reservation, max int, lease time.Duration) ([]*linda.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	t := b.tube(queue)
	got := gathering{}
	if first != nil {
		got.add(row{jobs: []*reservation{first}})
	}
	size, most := t.guess()
	max = min(max, most)
	for empty := false; !empty || len(got.asking) > 0; size *= 4 {
		ask := &commands{}
		for _, r := range got.asking {
			ask.add("stats-job", r.id)
		}
		room := min(size, drainMost, max-len(got.jobs))
		if empty || room < 1 {
			room = 0
		}
		ask.reserve(room)
		if room > few {
			ask.add("stats")
		}
		if ask.n == 0 {
			break
		}
		before := t.peaceful()
		sent := time.Now()
		answers, err := c.do(ctx, ask, func(late []reply) { b.giveBack(c, b.claim(c, late)) })
		if err != nil {
			b.giveBack(c, got.jobs)
			return nil, err
		}
		answers = got.read(answers, sent)
		empty = empty || got.crashed()
		next := row{jobs: b.claim(c, answers[:room]), sent: sent}
		if room > few {
			after := readPeace(answers[room].data)
			next.quiet = before != peace{} && before == after
			t.told(after)
		}
		got.add(next)
		empty = empty || len(next.jobs) < room || room == 0
	}
	jobs, err := b.handOut(ctx, queue, c, got.counted(), lease)
	t.drained(len(jobs), len(jobs) < len(got.jobs))
	return jobs, err
}

// gathering is the jobs that a fetch has reserved so far.
type gathering struct {
	jobs   []*reservation // in the order of the server
	asking []*reservation // whose deliveries to ask for next
	rest   []vouched      // of which the answers tell as well
	sent   time.Time      // the exchange that reserved those
}

func (g *gathering) add(w row) {
	g.jobs = append(g.jobs, w.jobs...)
	ask, rest := w.split()
	g.asking = append(g.asking, ask...)
	g.rest, g.sent = rest, w.sent
}

// read reads the answers about jobs, and returns the other answers.
func (g *gathering) read(answers []reply, sent time.Time) []reply {
	n := len(g.asking)
	for i, r := range g.asking {
		if answers[i].word == "OK" { // else it is gone already
			r.know(answers[i].data, sent)
		}
	}
	g.asking = nil
	for _, v := range g.rest {
		if v.head.plain {
			v.job.assume(g.sent)
		} else {
			g.asking = append(g.asking, v.job)
		}
	}
	g.rest = nil
	return answers[n:]
}

// crashed reports whether the server has counted more than this delivery of a
// job: it goes alone, so that no more are needed.
func (g *gathering) crashed() bool {
	return slices.ContainsFunc(g.jobs, func(r *reservation) bool { return r.native > 1 })
}

// counted returns the jobs of which it is known how often they were delivered.
func (g *gathering) counted() []*reservation {
	return slices.DeleteFunc(g.jobs, func(r *reservation) bool { return !r.counted })
}

// claim returns the reservations among the answers.
func (b *broker) claim(c *conn, answers []reply) []*reservation {
	var got []*reservation
	for _, answer := range answers {
		if answer.word != "RESERVED" {
			continue
		}
		if r := c.reserved(answer.id); r != nil {
			r.body, r.pri = answer.data, b.config.pri // until the server tells
			got = append(got, r)
			// An earlier reservation of the job by this connection has
			// ended, though its time had not come here.
			b.keeper.Lose(func(old *reservation) bool { return old.conn == c && old.id == r.id })
		}
	}
	return got
}

// giveBack releases jobs that nobody wants, to the head of the queue and without
// a count, and does not wait. Those of which the priority is not known are asked
// about first, since a release sets it.
func (b *broker) giveBack(c *conn, rs []*reservation) {
	release, ask := &commands{}, &commands{}
	var asked []*reservation
	for _, r := range rs {
		pri, _, known := r.traits()
		if known {
			c.forget(r)
			release.add("release", r.id, pri, 0)
		} else {
			ask.add("stats-job", r.id)
			asked = append(asked, r)
		}
	}
	if release.n > 0 {
		_, _ = c.send(release)
	}
	if ask.n == 0 {
		return
	}
	c.tell(ask, func(answers []reply) {
		for i, r := range asked {
			if answers[i].word == "OK" {
				r.learn(answers[i].data)
			} else {
				c.forget(r) // it is gone
			}
		}
		b.giveBack(c, slices.DeleteFunc(asked, func(r *reservation) bool { return c.reserved(r.id) != r }))
	})
}

// handOut makes jobs of what was reserved. A job that crashed goes alone: if the
// process ends before it has looked at it, no other is held to have crashed with
// it. The others go back.
func (b *broker) handOut(ctx context.Context, queue string, c *conn, rs []*reservation, lease time.Duration) ([]*linda.Job, error) {
	jobs := make([]*linda.Job, 0, len(rs))
	for _, r := range rs {
		job, _ := linda.Decode(queue, r.body)
		job.Redelivered(r.native)
		crashed := job.Crashes() > 0
		if crashed && len(jobs) > 0 {
			break
		}
		jobs = append(jobs, job)
		if crashed {
			break
		}
	}
	b.giveBack(c, rs[len(jobs):])
	rs = rs[:len(jobs)]
	if lease == 0 {
		return b.deleteNow(ctx, queue, c, rs, jobs)
	}
	until := time.Now().Add(lease)
	for i, job := range jobs {
		job.Reserve(b, queue, rs[i], until)
		held := *job
		r := rs[i]
		r.job, r.body = &held, ""
		r.receipt, _ = job.Receipt(b, queue)
		b.keeper.Hold(r, r.receipt)
	}
	if c.lost() { // before the keeper had them
		b.keeper.Lose(func(r *reservation) bool { return r.conn == c })
	}
	return jobs, nil
}

// deleteNow deletes jobs before they are handed out, and returns those that this
// has deleted.
func (b *broker) deleteNow(ctx context.Context, queue string, c *conn, rs []*reservation, jobs []*linda.Job) ([]*linda.Job, error) {
	if len(rs) == 0 {
		return nil, nil
	}
	cmd := &commands{}
	for _, r := range rs {
		c.forget(r)
		cmd.add("delete", r.id)
	}
	answers, err := c.do(ctx, cmd, nil)
	if err != nil {
		return nil, err
	}
	var deleted []*linda.Job
	for i, job := range jobs {
		if answers[i].word == "DELETED" {
			job.Reserve(b, queue, rs[i], time.Time{})
			deleted = append(deleted, job)
		}
	}
	return deleted, nil
}
