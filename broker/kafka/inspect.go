package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

func cannot(what string) error { return fmt.Errorf("linda/kafka: %s: %w", what, errors.ErrUnsupported) }

// checkState is the error of a name that is no state.
func checkState(what string, state linda.State) error {
	switch state {
	case linda.Ready, linda.Delayed, linda.Reserved, linda.Dead:
		return nil
	}
	return fmt.Errorf("linda/kafka: %s: there is no state %q", what, state)
}

// inspecting begins a call of the Inspector.
func (b *broker) inspecting(ctx context.Context, queue string) (context.Context, context.CancelFunc, error) {
	if err := linda.CheckName(queue); err != nil {
		return nil, nil, err
	}
	return b.begin(ctx)
}

// Stats is that of a [linda.Inspector]. Of the states only DEAD can be counted.
func (b *broker) Stats(ctx context.Context, queue string) (linda.Stats, error) {
	ctx, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return linda.Stats{}, err
	}
	defer cancel()
	first, end, err := b.span(ctx, b.deadTopicOf(queue))
	return linda.Stats{Ready: -1, Delayed: -1, Reserved: -1, Dead: end - first}, b.fault("stats", err)
}

// span returns where the only partition of a topic of dead jobs begins and
// ends; nothing where there is no such topic.
func (b *broker) span(ctx context.Context, topic string) (first, end int64, err error) {
	found, err := lookUp(ctx, b.client, topic)
	if err != nil || found == nil {
		return 0, 0, err
	}
	if first, err = b.offset(ctx, topic, 0, earliest); err == nil {
		end, err = b.offset(ctx, topic, 0, latest)
	}
	return first, end, err
}

const (
	latest   = -1
	earliest = -2
)

func (b *broker) offset(ctx context.Context, topic string, partition int32, at int64) (int64, error) {
	request := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = partition, at
	t.Partitions = append(t.Partitions, p)
	request.Topics = append(request.Topics, t)
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return 0, err
	}
	got := answer.Topics[0].Partitions[0]
	return got.Offset, kerr.ErrorForCode(got.ErrorCode)
}

// Peek is that of a [linda.Inspector], for DEAD.
func (b *broker) Peek(ctx context.Context, queue string, state linda.State, max int) ([]*linda.Job, error) {
	ctx, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if err := checkState("peek", state); err != nil {
		return nil, err
	}
	if state != linda.Dead {
		return nil, cannot("peek at " + string(state) + " jobs")
	}
	records, err := b.dead(ctx, queue, max)
	if err != nil {
		return nil, b.fault("peek", err)
	}
	jobs := make([]*linda.Job, len(records))
	for i, r := range records {
		jobs[i] = linda.DecodePeeked(queue, string(r.Value))
	}
	return jobs, nil
}

// dead reads up to n dead jobs, the longest dead first.
func (b *broker) dead(ctx context.Context, queue string, n int) ([]*kgo.Record, error) {
	n = min(n, linda.MaxInspect)
	topic := b.deadTopicOf(queue)
	first, end, err := b.span(ctx, topic)
	if err != nil || first == end || n <= 0 {
		return nil, err
	}
	end = min(end, first+int64(n))
	client, err := kgo.NewClient(append(b.config.clientOptions(), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(first)}}))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var records []*kgo.Record
	for int64(len(records)) < end-first {
		fetches := client.PollRecords(ctx, int(end-first)-len(records))
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		records = append(records, fetches.Records()...)
	}
	return records, nil
}

// Kick is that of a [linda.Inspector]. The jobs are written to their queue
// before they are taken from the dead ones.
func (b *broker) Kick(ctx context.Context, queue string, max int) (int, error) {
	ctx, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return 0, err
	}
	defer cancel()
	b.kicking.Lock()
	defer b.kicking.Unlock()
	records, err := b.dead(ctx, queue, max)
	if err != nil || len(records) == 0 {
		return 0, b.fault("kick", err)
	}
	kicked := make([]*kgo.Record, len(records))
	for i, r := range records {
		kicked[i] = &kgo.Record{Topic: b.topicOf(queue), Key: r.Key, Value: []byte(linda.KickedBody(queue, string(r.Value)))}
	}
	if err := errors.Join(b.produce(ctx, "kick", kicked)...); err != nil {
		return 0, err
	}
	err = b.cut(ctx, b.deadTopicOf(queue), records[len(records)-1].Offset+1)
	return len(records), b.fault("kick", err)
}

// cut deletes the records of a topic of dead jobs before an offset.
func (b *broker) cut(ctx context.Context, topic string, before int64) error {
	return b.cutAll(ctx, topic, map[int32]int64{0: before})
}

// Purge is that of a [linda.Inspector], for DEAD, and for READY by way of
// reserving the jobs.
func (b *broker) Purge(ctx context.Context, queue string, state linda.State) (int, error) {
	ctx, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return 0, err
	}
	defer cancel()
	if err := checkState("purge", state); err != nil {
		return 0, err
	}
	switch state {
	case linda.Reserved:
		return 0, fmt.Errorf("linda/kafka: purge: %w", linda.ErrReserved)
	case linda.Ready:
		return b.purgeReady(ctx, queue)
	case linda.Delayed:
		return 0, cannot("purge delayed jobs")
	}
	topic := b.deadTopicOf(queue)
	first, end, err := b.span(ctx, topic)
	if err != nil || first == end {
		return 0, b.fault("purge", err)
	}
	return int(end - first), b.fault("purge", b.cut(ctx, topic, end))
}

func (b *broker) purgeReady(ctx context.Context, queue string) (int, error) {
	l, err := b.line(queue)
	if err != nil {
		return 0, err
	}
	for n := 0; ; {
		deliveries, err := l.take(ctx, linda.MaxInspect, true)
		if err != nil || len(deliveries) == 0 {
			return n, err
		}
		for _, err := range conclude(ctx, deliveries, accept) {
			if err != nil {
				return n, b.fault("purge", err)
			}
			n++
		}
	}
}

// Find is not possible: the server does not tell which records are done.
func (b *broker) Find(ctx context.Context, queue, _ string) (*linda.Job, linda.State, error) {
	_, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return nil, "", err
	}
	cancel()
	return nil, "", cannot("find a job")
}

// Remove is not possible, as Find is not.
func (b *broker) Remove(ctx context.Context, queue, _ string) (bool, error) {
	_, cancel, err := b.inspecting(ctx, queue)
	if err != nil {
		return false, err
	}
	cancel()
	return false, cannot("remove a job")
}

// Queues is not possible, since delayed jobs of all queues are in one place.
func (b *broker) Queues(ctx context.Context) ([]string, error) {
	if err := b.refused(ctx); err != nil {
		return nil, err
	}
	return nil, cannot("list queues")
}
