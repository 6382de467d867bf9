package beanstalkd

import (
	"context"
	"errors"
	"time"

	"github.com/amlun/linda"
)

// renew touches what a third of its time to run has passed for, or whose time is
// not known yet, and asks for that, without waiting.
// It is called for all jobs again and again.
func (b *broker) renew(rs []*reservation) {
	now := time.Now()
	rows := make(map[*conn][]*reservation)
	for _, r := range rs {
		r.mu.Lock()
		if !r.touching && (!r.known || now.After(r.surely.Add(-r.ttr+r.ttr/3))) {
			r.touching = true
			rows[r.conn] = append(rows[r.conn], r)
		}
		r.mu.Unlock()
	}
	for c, rs := range rows {
		b.touch(c, rs, now)
	}
}

func (b *broker) touch(c *conn, rs []*reservation, now time.Time) {
	cmd := &commands{}
	for _, r := range rs {
		cmd.add("touch", r.id)
	}
	var unknown []*reservation
	for _, r := range rs {
		if _, _, known := r.traits(); !known {
			cmd.add("stats-job", r.id)
			unknown = append(unknown, r)
		}
	}
	sent := c.tell(cmd, func(answers []reply) {
		for i, r := range unknown {
			if answer := answers[len(rs)+i]; answer.word == "OK" {
				r.learn(answer.data)
			}
		}
		b.touched(rs, answers, now)
	})
	if sent {
		return
	}
	for _, r := range rs { // the connection is gone, or cannot take more
		r.mu.Lock()
		r.touching = false
		r.mu.Unlock()
	}
}

// touched reads the answers to touches.
func (b *broker) touched(rs []*reservation, answers []reply, sent time.Time) {
	gone := make(map[*reservation]bool)
	for i, r := range rs {
		r.mu.Lock()
		r.touching = false
		settling := r.outcome != nil
		r.mu.Unlock()
		switch {
		case answers[i].word == "TOUCHED":
			_, ttr, _ := r.traits()
			r.sure(sent.Add(ttr))
		case !settling:
			gone[r] = true
			r.conn.forget(r)
		}
	}
	if len(gone) > 0 {
		b.keeper.Lose(func(r *reservation) bool { return gone[r] })
	}
}

// lapse gives jobs back whose reservations have ended: as copies, which count
// the delivery and go to the end of the queue. Where that fails the server takes
// them back when their time to run has passed.
func (b *broker) lapse(rs []*reservation) {
	queues := make(map[string][]*ending)
	for _, r := range rs {
		e := &ending{
			Settlement: &linda.Settlement{Job: r.job, Op: linda.OpRelease}, r: r, queue: r.job.Queue, lapse: true, touch: true,
			body: linda.LapsedBody(r.job), outcome: &outcome{done: make(chan struct{})},
		}
		queues[e.queue] = append(queues[e.queue], e)
	}
	for queue, endings := range queues {
		b.begin(func() {
			giveUp := time.AfterFunc(callLimit, func() { b.giveUp(endings) })
			b.carryOut(queue, endings)
			giveUp.Stop()
			for _, e := range endings {
				e.r.conn.forget(e.r) // whatever became of it, it is not ours
			}
		})
	}
}

// giveUp closes the connections that do not answer though reservations on them
// have ended: where the server still hears that, it has the jobs back.
func (b *broker) giveUp(endings []*ending) {
	for _, e := range endings {
		if e.r.conn.silent(stalled) {
			e.r.conn.fail(errSilent)
		}
	}
}

// Touch makes reservations end lease from now, and asks the server whether they
// last.
func (b *broker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	errs := make([]error, len(jobs))
	rows := make(map[*conn]*share)
	index := make(map[*conn][]int)
	receipts := make([]*linda.Receipt, len(jobs))
	for i, job := range jobs {
		if receipts[i], errs[i] = job.Receipt(b, queue); errs[i] != nil {
			continue
		}
		if receipts[i].Gone() {
			errs[i] = linda.ErrNotReserved
			continue
		}
		r := receipts[i].Token().(*reservation)
		if !r.conn.holds(r) {
			errs[i] = linda.ErrLeaseLost
			continue
		}
		if rows[r.conn] == nil {
			rows[r.conn] = &share{}
		}
		rows[r.conn].add("touch", r.id)
		index[r.conn] = append(index[r.conn], i)
	}
	sent := time.Now()
	for c, row := range rows {
		row.send(c)
	}
	for c, row := range rows {
		answers, err := row.wait(ctx)
		for k, i := range index[c] {
			if errs[i] = err; err != nil {
				continue
			}
			r := receipts[i].Token().(*reservation)
			switch errs[i] = answers[k].err("TOUCHED"); {
			case errs[i] == nil:
				_, ttr, _ := r.traits()
				r.sure(sent.Add(ttr))
				receipts[i].Extend(sent.Add(lease))
			case errors.Is(errs[i], linda.ErrNotReserved):
				errs[i] = linda.ErrLeaseLost
			}
		}
	}
	return linda.Batch(errs)
}
