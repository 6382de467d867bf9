package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka keeps the records of jobs that are done. linda deletes them up to where
// the share groups of a queue have finished, so that no job is touched that
// somebody may still have to run, and up to where the tiers are moved.

// What to trim, as the option says.
const (
	trimOff     = "off"
	trimCreated = "created" // the topics that linda has made, by their settings
	trimAll     = "all"     // those that were made by others too
)

// trimmer deletes the records of one queue that are done.
type trimmer struct {
	b       *broker
	topic   *topic
	mayTrim bool
	before  map[int32]int64 // up to where it has deleted
}

// trim does so from time to time until ctx ends. What fails is tried again the
// next time: nothing depends on it but the disk of the server.
func (l *line) trim(ctx context.Context, t *topic) {
	if l.b.config.trim == trimOff {
		return
	}
	tr := &trimmer{b: l.b, topic: t, mayTrim: l.b.config.trim == trimAll, before: make(map[int32]int64)}
	every := l.b.config.trimEvery
	for sleep(ctx, every/2+rand.N(every)) == nil { // many processes do not come at once
		limited, cancel := context.WithTimeout(ctx, callLimit)
		_ = tr.once(limited)
		cancel()
	}
}

func (tr *trimmer) once(ctx context.Context) error {
	if !tr.mayTrim {
		made, err := tr.b.hasMade(ctx, tr.topic.name)
		if err != nil || !made {
			return err
		}
		tr.mayTrim = true
	}
	done, err := tr.done(ctx)
	if err != nil {
		return err
	}
	for partition, offset := range done {
		if offset <= tr.before[partition] {
			delete(done, partition)
		}
	}
	if err := tr.b.cutAll(ctx, tr.topic.name, done); err != nil {
		return err
	}
	for partition, offset := range done {
		tr.before[partition] = offset
	}
	return nil
}

// done returns up to where all groups of linda's that are on the topic have
// finished each partition, as the server has stored it: that is with the next
// settlement. It is an error where a consumer group reads the topic, of which
// that is not known.
func (tr *trimmer) done(ctx context.Context) (map[int32]int64, error) {
	groups, err := tr.groups(ctx)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	answer, err := describeShares(ctx, tr.b, tr.topic, groups)
	if err != nil {
		return nil, err
	}
	var done map[int32]int64
	for _, g := range answer.Groups {
		at := make(map[int32]int64)
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 && p.StartOffset >= 0 {
					at[p.Partition] = p.StartOffset
				}
			}
		}
		done = lowest(done, at)
	}
	return done, nil
}

// lowest returns the lower offset of each partition that both have. A nil map
// has every partition, at no offset.
func lowest(a, b map[int32]int64) map[int32]int64 {
	if a == nil {
		return b
	}
	low := make(map[int32]int64)
	for partition, offset := range a {
		if other, both := b[partition]; both {
			low[partition] = min(offset, other)
		}
	}
	return low
}

var errConsumers = errors.New("a consumer group reads the topic")

// groups returns the share groups of the topic: those that are named like this
// one, also where the option group is another.
func (tr *trimmer) groups(ctx context.Context) (shares []string, err error) {
	answer, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, tr.b.client)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, err
	}
	for _, g := range answer.Groups {
		before, ours := strings.CutSuffix(g.Group, tr.topic.name)
		switch {
		case !ours || !strings.HasSuffix(before, ".") && !strings.HasSuffix(before, ":"):
		case strings.EqualFold(g.GroupType, "share"):
			shares = append(shares, g.Group)
		case g.GroupState != "Empty" && g.GroupState != "Dead":
			return nil, errConsumers
		}
	}
	return shares, nil
}

func describeShares(ctx context.Context, b *broker, t *topic, groups []string) (*kmsg.DescribeShareGroupOffsetsResponse, error) {
	request := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	for _, name := range groups {
		g := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
		g.GroupID = name
		on := kmsg.NewDescribeShareGroupOffsetsRequestGroupTopic()
		on.Topic = t.name
		for partition := range t.leaders {
			on.Partitions = append(on.Partitions, int32(partition))
		}
		g.Topics = append(g.Topics, on)
		request.Groups = append(request.Groups, g)
	}
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return nil, err
	}
	if len(answer.Groups) != len(groups) {
		return nil, errors.New("the answer is about other groups")
	}
	for _, g := range answer.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// hasMade reports whether a topic has the settings that linda gives to those
// that it makes. No other program has a reason to choose just these.
func (b *broker) hasMade(ctx context.Context, name string) (bool, error) {
	request := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, name
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return false, err
	}
	ours := topicSettings()
	for _, r := range answer.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return false, err
		}
		for _, c := range r.Configs {
			if c.Value != nil && c.Source == kmsg.ConfigSourceDynamicTopicConfig && ours[c.Name] == *c.Value {
				delete(ours, c.Name)
			}
		}
	}
	return len(ours) == 0, nil
}

// topicSettings are those of the topics that linda makes.
func topicSettings() map[string]string {
	return map[string]string{
		"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete",
		"max.message.bytes": strconv.Itoa(bodyMax + 1<<16),
	}
}

// trimTiers deletes from time to time what is moved.
func (m *mover) trimTiers(ctx context.Context) {
	if m.b.config.trim == trimOff {
		return
	}
	for sleep(ctx, m.b.config.trimEvery) == nil {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		moved, err := offsetsOf(limited, m.b.client, m.group, m.topics...)
		for i, at := range moved {
			if err == nil && at.offset > 0 {
				_ = m.b.cutAll(limited, m.topics[i].name, map[int32]int64{0: at.offset})
			}
		}
		cancel()
	}
}

// cutAll deletes the records of a topic before an offset of each partition.
func (b *broker) cutAll(ctx context.Context, topic string, before map[int32]int64) error {
	if len(before) == 0 {
		return nil
	}
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = int32(callLimit / time.Millisecond)
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic = topic
	for partition, offset := range before {
		p := kmsg.NewDeleteRecordsRequestTopicPartition()
		p.Partition, p.Offset = partition, offset
		t.Partitions = append(t.Partitions, p)
	}
	request.Topics = append(request.Topics, t)
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
		}
	}
	return err
}
