package kafka

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// Fetch is that of a [linda.Fetcher].
func (b *broker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.fetch(ctx, queue, max, lease, false)
}

// FetchNow is Fetch, but does not wait for jobs.
func (b *broker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.fetch(ctx, queue, max, lease, true)
}

func (b *broker) fetch(ctx context.Context, queue string, max int, lease time.Duration, now bool) ([]*linda.Job, error) {
	if err := linda.CheckName(queue); err != nil {
		return nil, err
	}
	if err := b.refused(ctx); err != nil {
		return nil, err
	}
	if lease < 0 || 0 < lease && lease < leaseMin {
		return nil, fmt.Errorf("linda/kafka: fetch: a reservation of %v, at least %v", lease, leaseMin)
	}
	if max <= 0 {
		return nil, nil
	}
	from, err := b.source(queue)
	if err != nil {
		return nil, err
	}
	if now {
		if there, err := b.there(ctx, queue); err != nil || !there {
			return nil, err
		}
	}
	b.startMover()
	for {
		deliveries, err := from.take(ctx, max, now)
		if err != nil || len(deliveries) == 0 {
			return nil, err
		}
		jobs, err := b.handOut(ctx, queue, deliveries, lease)
		if err != nil || len(jobs) > 0 {
			return jobs, err
		}
	}
}

// there reports whether there is a topic for the queue.
func (b *broker) there(ctx context.Context, queue string) (bool, error) {
	topic := b.topicOf(queue)
	if b.known(topic) {
		return true, nil
	}
	found, err := lookUp(ctx, b.client, topic)
	if found != nil {
		b.remember(topic)
	}
	return found != nil, b.fault("fetch", err)
}

// handOut makes jobs of deliveries. One that the server has handed out before
// is not given to a worker but put in its queue anew, as far from the number
// of deliveries after which the server drops a record as can be; and so is one
// of another program, which has no id that would last.
func (b *broker) handOut(ctx context.Context, queue string, deliveries []*delivery, lease time.Duration) ([]*linda.Job, error) {
	var again []*delivery
	deliveries = slices.DeleteFunc(deliveries, func(d *delivery) bool {
		anew := d.count > 1 || lease > 0 && linda.BodyID(d.value) == ""
		if anew {
			again = append(again, d)
		}
		return anew
	})
	if len(again) > 0 {
		b.reseat(ctx, b.topicOf(queue), again)
	}
	if lease == 0 {
		return b.handOver(ctx, queue, deliveries)
	}
	until := time.Now().Add(lease)
	jobs := make([]*linda.Job, len(deliveries))
	for i, d := range deliveries {
		job := d.job(queue)
		job.Reserve(b, queue, d, until)
		if receipt, err := job.Receipt(b, queue); err == nil {
			d.receipt = receipt
			b.keeper.Hold(d, receipt)
		}
		jobs[i] = job
	}
	b.loseEnded(deliveries)
	return jobs, nil
}

// loseEnded ends the reservations of deliveries that were over before the keeper
// knew them.
func (b *broker) loseEnded(deliveries []*delivery) {
	var ended []*delivery
	for _, d := range deliveries {
		if left, _ := d.origin.left(d); left <= 0 {
			ended = append(ended, d)
		}
	}
	if len(ended) > 0 {
		b.keeper.Lose(func(d *delivery) bool { return slices.Contains(ended, d) })
	}
}

// handOver deletes the records before it returns their jobs (at most once).
func (b *broker) handOver(ctx context.Context, queue string, deliveries []*delivery) ([]*linda.Job, error) {
	errs := conclude(ctx, deliveries, accept)
	var jobs []*linda.Job
	for i, d := range deliveries {
		if errs[i] == nil {
			job := d.job(queue)
			job.Reserve(b, queue, d, time.Time{})
			jobs = append(jobs, job)
		}
	}
	if len(jobs) == 0 && len(deliveries) > 0 {
		return nil, b.fault("fetch", errs[0])
	}
	return jobs, nil
}

func (d *delivery) job(queue string) *linda.Job {
	job, _ := linda.Decode(queue, d.value) // the error is the job's
	job.Redelivered(int64(d.count))
	job.Key = string(d.key)
	return job
}

// reseat writes the jobs of deliveries to the end of their queue, with the
// deliveries so far in their bookkeeping, and then accepts the old records. It
// does not end with ctx, though the wait for it does: what was on its way to the
// server then might be there without its old record being accepted.
func (b *broker) reseat(ctx context.Context, topic string, deliveries []*delivery) {
	done := make(chan struct{})
	b.run(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		defer cancel()
		b.writeAgain(ctx, topic, deliveries)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (b *broker) writeAgain(ctx context.Context, topic string, deliveries []*delivery) {
	records := make([]*kgo.Record, len(deliveries))
	for i, d := range deliveries {
		again := linda.Settlement{Job: d.job(""), Op: linda.OpRelease, Unstarted: true}
		records[i] = &kgo.Record{Topic: topic, Key: d.key, Value: []byte(again.Body())}
	}
	var written, failed []*delivery
	for i, err := range b.produce(ctx, "fetch", records) {
		if err == nil {
			written = append(written, deliveries[i])
		} else {
			failed = append(failed, deliveries[i])
		}
	}
	_ = conclude(ctx, written, accept)
	if len(failed) > 0 && b.config.classic { // a lock of the server would end
		_ = sleep(b.ctx, time.Second)
		giveBack(failed)
	}
}

// conclude sends the same verdict for all deliveries and waits for the answers.
func conclude(ctx context.Context, deliveries []*delivery, kind int8) []error {
	type outcome struct {
		i   int
		err error
	}
	errs := make([]error, len(deliveries))
	outcomes := make(chan outcome, len(deliveries))
	for i, d := range deliveries {
		errs[i] = errPending
		d.origin.send(&verdict{delivery: d, kind: kind, done: func(err error) { outcomes <- outcome{i, err} }})
	}
	for n := 0; n < len(deliveries); n++ {
		select {
		case o := <-outcomes:
			errs[o.i] = o.err
		case <-ctx.Done():
			n = len(deliveries)
		}
	}
	for i, err := range errs {
		if err == errPending {
			errs[i] = fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
		}
	}
	return errs
}
