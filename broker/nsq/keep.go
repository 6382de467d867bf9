package nsq

import (
	"context"
	"sync"
	"time"

	"github.com/amlun/linda"
)

// lose ends the reservations of the deliveries that match: the server has them
// back. What is known to be lost was not settled by an earlier try either.
func (b *broker) lose(match func(*delivery) bool) {
	now := time.Now()
	b.keeper.Lose(func(d *delivery) bool {
		if !match(d) {
			return false
		}
		if receipt := d.receipt.Load(); receipt != nil {
			receipt.Extend(now)
		}
		return true
	})
}

// renew tells the server of jobs that they are in work, those for which a third
// of its patience has passed.
func (b *broker) renew(ds []*delivery) {
	now := time.Now()
	taps := make(map[*tap][]*delivery)
	for _, d := range ds {
		taps[d.feed.tap] = append(taps[d.feed.tap], d)
	}
	lost := make(map[*delivery]bool)
	for t, ds := range taps {
		for _, d := range t.touch(ds, now) {
			lost[d] = true
		}
	}
	if len(lost) > 0 {
		b.lose(func(d *delivery) bool { return lost[d] })
	}
}

// touch returns those that are lost.
func (t *tap) touch(ds []*delivery, now time.Time) (lost []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := make(map[*feed][]*delivery)
	for _, d := range ds {
		f := d.feed
		switch {
		case d.dropped(now):
			lost = append(lost, d)
		case now.Sub(d.touched) >= f.timeout/3:
			rows[f] = append(rows[f], d)
		}
	}
	for f, row := range rows {
		err := f.conn.send(func(out []byte) []byte {
			for _, d := range row {
				out = appendTouch(out, d.id)
			}
			return out
		})
		for _, d := range row {
			if err == nil {
				d.touched = now
			}
		}
	}
	return lost
}

// lapse gives jobs back whose reservations have ended. The server counts that.
func (b *broker) lapse(ds []*delivery) {
	taps := make(map[*tap][]*delivery)
	for _, d := range ds {
		taps[d.feed.tap] = append(taps[d.feed.tap], d)
	}
	for t, ds := range taps {
		t.end(ds, requeue)
	}
}

func requeue(out []byte, d *delivery) []byte { return appendREQ(out, d.id, 0) }

// giveBack puts jobs back that nobody has asked for, or that are not due yet:
// as copies, since the server would count it as a delivery to have them back.
// They are among those that are leaving.
func (b *broker) giveBack(t *tap, ds []*delivery) {
	if len(ds) == 0 {
		return
	}
	if !b.begin(func() {
		ctx, cancel := context.WithTimeout(b.wires, callLimit)
		defer cancel()
		b.putBack(ctx, t, ds)
	}) {
		t.left(len(ds))
	}
}

func (b *broker) putBack(ctx context.Context, t *tap, ds []*delivery) {
	posts := make([]*post, len(ds))
	for i, d := range ds {
		posts[i] = &post{topic: t.topic, body: d.unstarted(), due: d.due, again: true}
	}
	errs := b.post(ctx, posts)
	var moved, not []*delivery
	for i, d := range ds {
		if errs[i] == nil {
			moved = append(moved, d)
		} else {
			not = append(not, d)
		}
	}
	t.end(moved, t.finish)
	t.end(not, func(out []byte, d *delivery) []byte {
		wait := time.Duration(0)
		if !d.due.IsZero() {
			wait = min(time.Until(d.due)-ahead, d.feed.server.known().maxReq)
		}
		return appendREQ(out, d.id, wait)
	})
	t.left(len(ds))
}

// unstarted is the body of a job that was delivered, but to no handler.
func (d *delivery) unstarted() string {
	if d.past == 0 {
		return d.body
	}
	back := linda.Settlement{Job: d.job, Op: linda.OpRelease, Unstarted: true}
	body := back.Body()
	if !d.due.IsZero() {
		body = linda.DueBody(body, d.due)
	}
	return body
}

// left says that jobs are on their way no more.
func (t *tap) left(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving -= n
	t.adjust()
}

// giveAllBack gives back all jobs when the broker closes: at once, so that
// nobody has to wait until the server does so itself.
func (b *broker) giveAllBack() {
	ctx, cancel := context.WithTimeout(b.wires, closeLimit)
	defer cancel()
	b.mu.Lock()
	taps := make([]*tap, 0, len(b.taps))
	for _, t := range b.taps {
		taps = append(taps, t)
	}
	b.mu.Unlock()
	var all sync.WaitGroup
	for _, t := range taps {
		all.Go(func() { b.empty(ctx, t) })
	}
	all.Wait()
}

// empty gives back what a tap holds, and waits until it is written.
func (b *broker) empty(ctx context.Context, t *tap) {
	t.mu.Lock()
	t.closed = true
	idle := append(t.waiting, t.early...)
	t.waiting, t.early = nil, nil
	t.leaving += len(idle)
	t.adjust()
	t.mu.Unlock()
	if len(idle) > 0 {
		limited, cancel := context.WithTimeout(ctx, closeLimit/2)
		b.putBack(limited, t, idle)
		cancel()
	}
	t.mu.Lock()
	var held []*delivery
	var conns []*conn
	for _, f := range t.feeds {
		if f.conn == nil {
			continue
		}
		conns = append(conns, f.conn)
		for _, d := range f.held {
			held = append(held, d)
		}
	}
	t.mu.Unlock()
	t.end(held, requeue)
	for _, c := range conns {
		_ = c.flushed(ctx)
	}
}
