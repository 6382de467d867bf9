package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fromTheStart makes a group that is new to a topic begin with its first
// record. The group's setting that says so reaches the servers a moment after
// it is written, and a group that is joined before begins at the end: it would
// never see the jobs that were pushed until then.
func (b *broker) fromTheStart(ctx context.Context, group string, t *topic) error {
	fresh, err := b.unknownTo(ctx, group, t)
	if err != nil || len(fresh) == 0 {
		return err
	}
	request := kmsg.NewPtrAlterShareGroupOffsetsRequest()
	request.GroupID = group
	topic := kmsg.NewAlterShareGroupOffsetsRequestTopic()
	topic.Topic = t.name
	for _, partition := range fresh {
		first, err := b.offset(ctx, t.name, partition, earliest)
		if err != nil {
			return err
		}
		p := kmsg.NewAlterShareGroupOffsetsRequestTopicPartition()
		p.Partition, p.StartOffset = partition, first
		topic.Partitions = append(topic.Partitions, p)
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

// unknownTo returns the partitions of which a group knows nothing yet.
func (b *broker) unknownTo(ctx context.Context, group string, t *topic) (fresh []int32, err error) {
	request := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	g := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
	g.GroupID = group
	topic := kmsg.NewDescribeShareGroupOffsetsRequestGroupTopic()
	topic.Topic = t.name
	for partition := range t.leaders {
		topic.Partitions = append(topic.Partitions, int32(partition))
	}
	g.Topics = append(g.Topics, topic)
	request.Groups = append(request.Groups, g)
	err = b.patiently(ctx, func() error {
		answer, err := request.RequestWith(ctx, b.client)
		if err != nil {
			return err
		}
		fresh = topic.Partitions
		if len(answer.Groups) != 1 || errors.Is(kerr.ErrorForCode(answer.Groups[0].ErrorCode), kerr.GroupIDNotFound) {
			return nil
		}
		if err := kerr.ErrorForCode(answer.Groups[0].ErrorCode); err != nil {
			return fmt.Errorf("describe the share group %s: %w", group, err)
		}
		fresh = nil
		for _, t := range answer.Groups[0].Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("describe the share group %s: %w", group, err)
				}
				if p.StartOffset < 0 {
					fresh = append(fresh, p.Partition)
				}
			}
		}
		return nil
	})
	return fresh, err
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
