package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// transfer writes records and, in the same transaction, how many of each tier
// are done.
func (m *mover) transfer(ctx context.Context, out []*kgo.Record, done map[int]int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	if err := m.writer.BeginTransaction(); err != nil {
		return err
	}
	err := m.writer.ProduceSync(ctx, out...).FirstErr()
	if err != nil { // a topic may be gone: look again
		for _, r := range out {
			m.b.forget(r.Topic)
		}
	} else {
		err = m.commitPlaces(ctx, done)
	}
	if err != nil {
		return errors.Join(err, m.writer.EndTransaction(ctx, kgo.TryAbort))
	}
	return m.writer.EndTransaction(ctx, kgo.TryCommit)
}

// commitPlaces adds to the transaction up to where the tiers are done.
func (m *mover) commitPlaces(ctx context.Context, done map[int]int) error {
	id, epoch, err := m.writer.ProducerID(ctx)
	if err != nil {
		return err
	}
	if err := m.addPlaces(ctx, id, epoch); err != nil {
		return err
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.Group, commit.ProducerID, commit.ProducerEpoch = m.group, m.group, id, epoch
	for i, n := range done {
		topic := kmsg.NewTxnOffsetCommitRequestTopic()
		topic.Topic = m.topics[i].name
		p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		last := m.tiers[i].records[n-1]
		p.Partition, p.Offset, p.LeaderEpoch = last.Partition, last.Offset+1, last.LeaderEpoch
		topic.Partitions = append(topic.Partitions, p)
		commit.Topics = append(commit.Topics, topic)
	}
	answer, err := commit.RequestWith(ctx, m.writer)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPlaces makes the places part of the transaction.
func (m *mover) addPlaces(ctx context.Context, id int64, epoch int16) error {
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = m.group, id, epoch, m.group
	return m.b.patiently(ctx, func() error {
		answer, err := add.RequestWith(ctx, m.writer)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(answer.ErrorCode)
	})
}
