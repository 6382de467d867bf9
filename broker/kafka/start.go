package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fromTheStart makes a group that is new to a topic begin with its first record,
// or with the first that was not done in classic mode. The group's setting that
// says so reaches the servers a moment after it is written, and a group that is
// joined before begins at the end: it would never see the jobs that were pushed
// until then.
func (b *broker) fromTheStart(ctx context.Context, group string, t *topic) error {
	starts, err := b.shareStarts(ctx, group, t)
	if err != nil {
		return err
	}
	done, err := b.leftByClassic(ctx, t)
	if err != nil {
		return err
	}
	request := kmsg.NewPtrAlterShareGroupOffsetsRequest()
	request.GroupID = group
	topic := kmsg.NewAlterShareGroupOffsetsRequestTopic()
	topic.Topic = t.name
	for partition, start := range starts {
		if start >= 0 && start >= done[partition] {
			continue
		}
		first, err := b.offset(ctx, t.name, partition, earliest)
		if err != nil {
			return err
		}
		p := kmsg.NewAlterShareGroupOffsetsRequestTopicPartition()
		p.Partition, p.StartOffset = partition, max(first, done[partition])
		topic.Partitions = append(topic.Partitions, p)
	}
	if len(topic.Partitions) == 0 {
		return nil
	}
	request.Topics = append(request.Topics, topic)
	return b.patiently(ctx, func() error {
		answer, err := request.RequestWith(ctx, b.client)
		if err != nil {
			return err
		}
		err = kerr.ErrorForCode(answer.ErrorCode)
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
			}
		}
		if errors.Is(err, kerr.NonEmptyGroup) {
			return nil // another process was first
		}
		if err != nil {
			return fmt.Errorf("begin the share group %s: %w", group, err)
		}
		return nil
	})
}

// shareStarts returns up to where the jobs of partitions are done by a share
// group, -1 where it knows nothing of them yet.
func (b *broker) shareStarts(ctx context.Context, group string, t *topic) (starts map[int32]int64, err error) {
	request := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	g := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
	g.GroupID = group
	topic := kmsg.NewDescribeShareGroupOffsetsRequestGroupTopic()
	topic.Topic = t.name
	topic.Partitions = t.partitions()
	g.Topics = append(g.Topics, topic)
	request.Groups = append(request.Groups, g)
	err = b.patiently(ctx, func() error {
		answer, err := request.RequestWith(ctx, b.client)
		if err != nil {
			return err
		}
		starts = make(map[int32]int64)
		for _, partition := range topic.Partitions {
			starts[partition] = -1
		}
		if len(answer.Groups) != 1 || errors.Is(kerr.ErrorForCode(answer.Groups[0].ErrorCode), kerr.GroupIDNotFound) {
			return nil
		}
		if err := kerr.ErrorForCode(answer.Groups[0].ErrorCode); err != nil {
			return fmt.Errorf("describe the share group %s: %w", group, err)
		}
		for _, t := range answer.Groups[0].Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("describe the share group %s: %w", group, err)
				}
				starts[p.Partition] = p.StartOffset
			}
		}
		return nil
	})
	return starts, err
}

// patiently repeats a question while the server says that it can be.
func (b *broker) patiently(ctx context.Context, question func() error) error {
	for try := 1; ; try++ {
		err := question()
		if !retriable(err) || sleep(ctx, backoff(try)) != nil {
			return err
		}
	}
}
