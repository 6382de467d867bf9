package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A queue may go from one mode to the other, as when its cluster is upgraded.
// Each mode has a group of its own, which knows nothing of the other, so that
// every job would come twice. So a process does not join the one while the other
// has members, and begins where the other has ended.

// shareGroup gives way where the queue has the name for which the movers have
// their groups, as delay. Those have been there for long, and so have the groups
// of all other queues: this is the one that can change.
func (c *config) shareGroup(topic string) string {
	name := c.group + "." + topic
	if name == c.moverGroup() || name == c.leaderGroup() {
		return c.group + ".share:" + topic
	}
	return name
}

// classicGroup has a name that is not the share group of any topic: no topic has
// a colon.
func (c *config) classicGroup(topic string) string { return c.group + ".classic:" + topic }

// moverGroup is the group for which the movers commit up to where the tiers are
// done, and the id of their transactions.
func (c *config) moverGroup() string { return c.prefix + c.group + ".delay" }

// leaderGroup is the group by which they settle who moves.
func (c *config) leaderGroup() string { return c.moverGroup() + ".leader" }

// inTheOtherMode is the error of who is not to join.
func inTheOtherMode(mode, group string) error {
	return fmt.Errorf("other processes have this queue in %s mode: the group %s has members", mode, group)
}

// leftByClassic returns up to where jobs are done by the consumer group of a
// topic, -1 where it is new to it. It is an error if the group has members.
func (b *broker) leftByClassic(ctx context.Context, t *topic) (map[int32]int64, error) {
	group := b.config.classicGroup(t.name)
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = append(describe.Groups, group)
	described, err := describe.RequestWith(ctx, b.client)
	if err != nil {
		return nil, err
	}
	for _, g := range described.Groups {
		err := kerr.ErrorForCode(g.ErrorCode)
		switch {
		case errors.Is(err, kerr.GroupIDNotFound):
		case err != nil:
			return nil, fmt.Errorf("describe the group %s: %w", group, err)
		case len(g.Members) > 0:
			return nil, inTheOtherMode(modeClassic, group)
		}
	}
	request := kmsg.NewPtrOffsetFetchRequest()
	request.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	topic := kmsg.NewOffsetFetchRequestGroupTopic()
	topic.Topic, topic.TopicID = t.name, t.id
	topic.Partitions = t.partitions()
	g.Topics = append(g.Topics, topic)
	request.Groups = append(request.Groups, g)
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return nil, err
	}
	done := make(map[int32]int64)
	for _, g := range answer.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return nil, fmt.Errorf("offsets of the group %s: %w", group, err)
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("offsets of the group %s: %w", group, err)
				}
				done[p.Partition] = p.Offset
			}
		}
	}
	return done, nil
}

// leftByShare returns that of the share group of a topic. Where the cluster has
// no share groups there is nothing to ask.
func (b *broker) leftByShare(ctx context.Context, t *topic) (map[int32]int64, error) {
	if !b.config.shares {
		return nil, nil
	}
	group := b.config.shareGroup(t.name)
	known := false
	describe := kmsg.NewPtrShareGroupDescribeRequest()
	describe.GroupIDs = append(describe.GroupIDs, group)
	err := b.patiently(ctx, func() error {
		described, err := describe.RequestWith(ctx, b.client)
		if err != nil {
			return err
		}
		for _, g := range described.Groups {
			err := kerr.ErrorForCode(g.ErrorCode)
			switch {
			case errors.Is(err, kerr.GroupIDNotFound):
			case err != nil:
				return fmt.Errorf("describe the share group %s: %w", group, err)
			case len(g.Members) > 0:
				return inTheOtherMode(modeShare, group)
			default:
				known = true
			}
		}
		return nil
	})
	if err != nil || !known { // then the server would look for long
		return nil, err
	}
	return b.shareStarts(ctx, group, t)
}

// partitions are the numbers of those of a topic.
func (t *topic) partitions() []int32 {
	numbers := make([]int32, len(t.leaders))
	for i := range numbers {
		numbers[i] = int32(i)
	}
	return numbers
}
