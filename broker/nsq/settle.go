package nsq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// shortReason is what is kept of a reason for which a message has no room.
const shortReason = 64

// ending is one settlement on its way.
//
// The server cannot change a message. So where a job goes on to live a copy with
// the new bookkeeping is published, and once that is confirmed the message is
// finished: a crash between the two leaves two of it, never none.
type ending struct {
	settlement linda.Settlement
	receipt    *linda.Receipt
	at         int       // in its batch
	delivery   *delivery // nil: the job was deleted when it was popped
	*outcome
}

// outcome is what became of a settlement, also where its caller did not wait.
type outcome struct {
	done chan struct{} // closed when err is there
	err  error
}

// Settle is that of a [linda.Settler].
func (b *broker) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	errs := make([]error, len(batch))
	var deletes, others, earlier []*ending
	for i := range batch {
		e := &ending{settlement: batch[i], at: i}
		if e.receipt, errs[i] = e.settlement.Begin(b, queue); errs[i] != nil {
			continue
		}
		switch {
		case !e.claim():
			earlier = append(earlier, e)
		case e.settlement.Op == linda.OpDelete:
			deletes = append(deletes, e)
		default:
			others = append(others, e)
		}
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if len(others) > 0 && !b.begin(func() { b.carryOut(queue, others) }) {
		for _, e := range others {
			e.end(linda.ErrClosed)
		}
	}
	finish(ctx, deletes)
	for _, row := range [][]*ending{deletes, others, earlier} {
		for _, e := range row {
			errs[e.at] = b.result(e, e.wait(ctx))
		}
	}
	return linda.Batch(errs)
}

// claim makes this the settlement of its delivery, unless an earlier one is
// under way, or was carried out though its caller does not know: then it takes
// part in that, since a second copy would be a second job.
func (e *ending) claim() bool {
	e.outcome = &outcome{done: make(chan struct{})}
	if e.receipt.Gone() {
		return true
	}
	d := e.receipt.Token().(*delivery)
	e.delivery = d
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.outcome; o != nil && !o.failed() {
		e.outcome = o
		return false
	}
	d.outcome = e.outcome
	return true
}

func (o *outcome) end(err error) {
	o.err = err
	close(o.done)
}

// failed reports whether a settlement has ended and was not carried out.
func (o *outcome) failed() bool {
	select {
	case <-o.done:
		return o.err != nil
	default:
		return false
	}
}

// wait returns how a settlement went; after the end of ctx that is unknown.
func (o *outcome) wait(ctx context.Context) error {
	select {
	case <-o.done:
		return o.err
	default:
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
	}
}

// result ends the use of the receipt. That a reservation is lost is known for
// sure here, whatever became of an earlier try.
func (b *broker) result(e *ending, err error) error {
	if errors.Is(err, linda.ErrNotReserved) {
		e.receipt.Extend(time.Now())
	}
	if e.delivery != nil && (err == nil || errors.Is(err, linda.ErrNotReserved)) {
		b.keeper.Drop(e.delivery)
	}
	return e.receipt.End(err)
}

// finish removes jobs from the server: it returns when the commands have left.
// To know that they were carried out is not possible.
func finish(ctx context.Context, endings []*ending) {
	ds := make([]*delivery, 0, len(endings))
	for _, e := range endings {
		if e.delivery != nil {
			ds = append(ds, e.delivery)
		}
	}
	result := make(map[*delivery]error)
	if len(ds) > 0 {
		t := ds[0].feed.tap
		conns := t.connections(ds)
		for _, d := range t.end(ds, t.finish) {
			result[d] = linda.ErrNotReserved
			delete(conns, d)
		}
		for d, c := range conns {
			switch err := c.flushed(ctx); {
			case errors.Is(err, linda.ErrUnknown):
				result[d] = err
			case err != nil:
				result[d] = linda.ErrNotReserved // it was not sent, and the job comes again
			}
		}
	}
	for _, e := range endings {
		e.end(result[e.delivery])
	}
}

// connections are those that deliveries came by, as far as they last.
func (t *tap) connections(ds []*delivery) map[*delivery]*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	conns := make(map[*delivery]*conn, len(ds))
	for _, d := range ds {
		if !d.over {
			conns[d] = d.feed.conn
		}
	}
	return conns
}

// carryOut settles jobs that go on to live. It goes on when the caller has left,
// so that a copy which was published is followed by the end of the message.
func (b *broker) carryOut(queue string, endings []*ending) {
	now := time.Now()
	var copied []*ending
	var posts []*post
	for _, e := range endings {
		p, err := b.copyOf(e, queue, now)
		if err != nil {
			e.end(err)
			continue
		}
		copied, posts = append(copied, e), append(posts, p)
	}
	ctx, cancel := context.WithTimeout(b.wires, 2*callLimit)
	defer cancel()
	errs := b.post(ctx, posts)
	var done []*ending
	for i, e := range copied {
		if errs[i] != nil {
			e.end(errs[i])
		} else {
			done = append(done, e)
		}
	}
	finish(ctx, done)
}

// copyOf returns the copy of a job that goes on to live.
func (b *broker) copyOf(e *ending, queue string, now time.Time) (*post, error) {
	if d := e.delivery; d != nil {
		t := d.feed.tap
		t.mu.Lock()
		lost := d.dropped(now)
		t.mu.Unlock()
		if lost {
			return nil, linda.ErrNotReserved
		}
	}
	s := &e.settlement
	p := &post{topic: ready(queue), body: s.Body()}
	if s.Op == linda.OpBury {
		p.topic = dead(queue)
	}
	if len(p.body) > b.maxSize() {
		short := *s
		short.Reason = short.Reason[:min(len(short.Reason), shortReason)]
		p.body = short.Body()
	}
	if s.Op == linda.OpRelease && s.Delay > 0 {
		p.delay(now, s.Delay)
	}
	if len(p.body) > b.maxSize() {
		// Only the body of another program can be that long. It is kept as it
		// is, since to lose the bookkeeping is better than the job.
		p.body = string(s.Job.Body())
	}
	return p, nil
}

// Touch is that of a [linda.Toucher]. What the server has to know it is told as
// long as a reservation lasts; see renew.
func (b *broker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	if most := b.leaseMax(); lease <= 0 || lease > most {
		return tooLong(lease, most)
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		errs[i] = b.touch(queue, job, lease)
	}
	return linda.Batch(errs)
}

func (b *broker) touch(queue string, job *linda.Job, lease time.Duration) error {
	receipt, err := job.Receipt(b, queue)
	if err != nil {
		return err
	}
	if receipt.Gone() {
		return linda.ErrNotReserved
	}
	d := receipt.Token().(*delivery)
	t := d.feed.tap
	now := time.Now()
	t.mu.Lock()
	lost := d.dropped(now)
	t.mu.Unlock()
	most := b.leaseMax()
	switch until := now.Add(lease); {
	case lost:
		receipt.Lose()
		return linda.ErrLeaseLost
	case until.After(d.came.Add(most)):
		return tooLong(until.Sub(d.came), most)
	default:
		receipt.Extend(until)
		b.keeper.Drop(d) // the end may be sooner than it was
		b.keeper.Hold(d, receipt)
	}
	if _, err := job.Receipt(b, queue); err != nil { // settled or ended meanwhile
		b.keeper.Drop(d)
		return err
	}
	b.loseEnded(t, []*delivery{d})
	return nil
}
