package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// ending is one settlement on its way.
type ending struct {
	settlement linda.Settlement
	receipt    *linda.Receipt
	delivery   *delivery
	record     *kgo.Record // to write before the old record is accepted
	err        error
}

// Settle is that of a [linda.Settler]. A job that is released or buried is
// written anew before its old record is accepted.
func (b *broker) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	if err := linda.CheckName(queue); err != nil {
		return err
	}
	ctx, cancel, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	endings := make([]*ending, len(batch))
	for i, s := range batch {
		endings[i] = b.beginEnding(queue, s)
	}
	b.renewLate(ctx, endings)
	b.write(ctx, endings)
	b.accept(ctx, endings)
	errs := make([]error, len(endings))
	for i, e := range endings {
		errs[i] = e.finish(b)
	}
	return linda.Batch(errs)
}

func (b *broker) beginEnding(queue string, s linda.Settlement) *ending {
	e := &ending{settlement: s}
	if e.receipt, e.err = s.Begin(b, queue); e.err != nil {
		return e
	}
	e.delivery = e.receipt.Token().(*delivery)
	switch s.Op {
	case linda.OpDelete:
	case linda.OpRelease:
		e.record = b.record(queue, s.Body(), e.delivery.key, time.Now(), s.Delay)
	case linda.OpBury:
		e.record = &kgo.Record{Topic: b.deadTopicOf(queue), Key: e.delivery.key, Value: []byte(s.Body())}
	default:
		e.err = fmt.Errorf("linda/kafka: settle: unknown operation %d", s.Op)
	}
	if left, _ := e.delivery.left(); e.err == nil && !e.receipt.Gone() && left <= 0 {
		e.err = linda.ErrNotReserved
	}
	return e
}

// left returns for how much longer the server's lock surely lasts, 0 or less
// where it may have ended, and whether it should be renewed before more is
// done.
func (d *delivery) left() (left time.Duration, late bool) {
	l := d.session.life.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.over {
		return 0, true
	}
	left = time.Until(d.until)
	return left, left < l.b.config.lock/3
}

// renewLate makes sure of the reservations that may end while the job is
// written, so that a worker that has lost its job does not make another of it.
func (b *broker) renewLate(ctx context.Context, endings []*ending) {
	var late []*ending
	var deliveries []*delivery
	for _, e := range endings {
		if e.err != nil || e.record == nil || e.receipt.Gone() {
			continue
		}
		if _, is := e.delivery.left(); is {
			late = append(late, e)
			deliveries = append(deliveries, e.delivery)
		}
	}
	for i, err := range conclude(ctx, deliveries, renewed) {
		late[i].err = err
	}
}

func (b *broker) write(ctx context.Context, endings []*ending) {
	var written []*ending
	var records []*kgo.Record
	for _, e := range endings {
		if e.err == nil && e.record != nil {
			written = append(written, e)
			records = append(records, e.record)
		}
	}
	if len(records) == 0 {
		return
	}
	for i, err := range b.produce(ctx, "settle", records) {
		written[i].err = err
	}
}

func (b *broker) accept(ctx context.Context, endings []*ending) {
	var accepted []*ending
	var deliveries []*delivery
	for _, e := range endings {
		if e.err == nil && !e.receipt.Gone() {
			accepted = append(accepted, e)
			deliveries = append(deliveries, e.delivery)
		}
	}
	for i, err := range conclude(ctx, deliveries, accept) {
		accepted[i].err = err
	}
}

// finish tells the receipt how it went, and returns the error for the caller.
func (e *ending) finish(b *broker) error {
	if e.receipt == nil {
		return e.err
	}
	if e.err == nil || errors.Is(e.err, linda.ErrNotReserved) {
		b.keeper.Drop(e.delivery)
	}
	if s := e.delivery.session; e.err != nil && s != nil && s.life.ended() {
		e.receipt.Extend(time.Now()) // see bury
	}
	return e.receipt.End(e.err)
}

// Touch is that of a [linda.Toucher]. The keeper renews the lock on the server
// for as long as that is.
func (b *broker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	if err := linda.CheckName(queue); err != nil {
		return err
	}
	if err := b.refused(ctx); err != nil {
		return err
	}
	if lease < leaseMin {
		return fmt.Errorf("linda/kafka: touch: a reservation of %v, at least %v", lease, leaseMin)
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		errs[i] = b.touch(queue, lease, job)
	}
	return linda.Batch(errs)
}

func (b *broker) touch(queue string, lease time.Duration, job *linda.Job) error {
	receipt, err := job.Receipt(b, queue)
	if err != nil {
		return err
	}
	if receipt.Gone() {
		return linda.ErrNotReserved
	}
	d := receipt.Token().(*delivery)
	if left, _ := d.left(); left <= 0 {
		b.lose(d)
		return linda.ErrLeaseLost
	}
	until := time.Now().Add(lease)
	shorter := until.Before(receipt.Until())
	receipt.Extend(until)
	if shorter && b.keeper.Drop(d) {
		b.keeper.Hold(d, receipt) // which looks at the end again
	}
	return nil
}

// lose ends the reservation of one delivery.
func (b *broker) lose(lost *delivery) {
	b.keeper.Lose(func(d *delivery) bool { return d == lost })
}

// renew is the keeper's: it renews the locks of deliveries on the server.
func renew(deliveries []*delivery) {
	for _, d := range deliveries {
		b := d.session.life.line.b
		d.session.send(&verdict{delivery: d, kind: renewed, done: func(err error) {
			if errors.Is(err, linda.ErrNotReserved) {
				b.lose(d)
			}
		}})
	}
}

// giveBack is the keeper's: the time of these deliveries is over.
func giveBack(deliveries []*delivery) {
	for _, d := range deliveries {
		d.session.send(&verdict{delivery: d, kind: release, done: func(error) {}})
	}
}
