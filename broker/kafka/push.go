package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// PushBatch is that of a [linda.BatchPusher].
func (b *broker) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	if err := b.refused(ctx); err != nil {
		return err
	}
	bodies, err := linda.EncodeBatch(ctx, queue, jobs)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if job.UniqueKey != "" {
			return fmt.Errorf("linda/kafka: push: a unique key: %w", errors.ErrUnsupported)
		}
	}
	ctx, cancel, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	now := time.Now()
	records := make([]*kgo.Record, len(jobs))
	for i, job := range jobs {
		records[i] = b.record(queue, string(bodies[i]), []byte(job.Key), now, job.Delay)
	}
	return linda.Batch(b.produce(ctx, "push", records))
}

// record is a job on its way to READY, or where there is a delay to DELAYED.
// Jobs with the same key go to the same partition.
func (b *broker) record(queue, body string, key []byte, now time.Time, delay time.Duration) *kgo.Record {
	r := &kgo.Record{Topic: b.topicOf(queue), Value: []byte(body)}
	if len(key) > 0 {
		r.Key = key
	}
	if delay > 0 {
		b.detain(r, now.UnixMilli()+int64((delay+time.Millisecond-1)/time.Millisecond), now)
	}
	return r
}

// produce writes records and returns what became of each: nil once all in-sync
// replicas have it.
func (b *broker) produce(ctx context.Context, what string, records []*kgo.Record) []error {
	errs := make([]error, len(records))
	if err := b.ready(ctx, records); err != nil {
		err = b.fault(what, err)
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	type outcome struct {
		i   int
		err error
	}
	outcomes := make(chan outcome, len(records))
	for i, r := range records {
		b.client.Produce(ctx, r, func(_ *kgo.Record, err error) { outcomes <- outcome{i, err} })
	}
	for i := range errs {
		errs[i] = errPending
	}
	for n := 0; n < len(records); n++ {
		select {
		case o := <-outcomes:
			errs[o.i] = b.produced(what, records[o.i].Topic, o.err)
		case <-ctx.Done():
			n = len(records) // what is on its way may arrive
		}
	}
	for i, err := range errs {
		if err == errPending {
			errs[i] = fmt.Errorf("linda/kafka: %s: %w: %w", what, linda.ErrUnknown, ctx.Err())
		}
	}
	return errs
}

var errPending = errors.New("no answer yet")

// produced is the error of one record. All but those by which the server
// refuses a record leave open whether it has it.
func (b *broker) produced(what, topic string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
		b.forget(topic)
	}
	var refusal *kerr.Error
	if errors.As(err, &refusal) && !refusal.Retriable && !errors.Is(err, kerr.UnknownServerError) {
		return b.fault(what, err)
	}
	return fmt.Errorf("linda/kafka: %s: %w: %w", what, linda.ErrUnknown, err)
}

// ready sees to it that the topics of records are there, and that delayed ones
// will be moved.
func (b *broker) ready(ctx context.Context, records []*kgo.Record) error {
	last := ""
	for _, r := range records {
		if r.Topic == last {
			continue
		}
		last = r.Topic
		partitions := b.config.partitions
		switch {
		case tierOf(r.Topic, b.config.prefix) >= 0:
			_, _, topic := detention(r)
			if err := errors.Join(b.ensureTiers(ctx), b.ensure(ctx, partitions, topic)); err != nil {
				return err
			}
			continue
		case r.Topic[0] == '_':
			partitions = 1
		}
		if err := b.ensure(ctx, partitions, r.Topic); err != nil {
			return err
		}
	}
	return nil
}

const (
	headerDue   = "linda-due"   // unix ms, of the job
	headerLeave = "linda-leave" // unix ms, of this tier
	headerTopic = "linda-topic" // where the job goes in the end
)

func stamp(ms int64) []byte { return strconv.AppendInt(nil, ms, 10) }
