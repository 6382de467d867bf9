package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

// The modes of the option of that name.
const (
	modeAuto    = "auto"    // share where the cluster can, otherwise classic
	modeShare   = "share"   // share groups: the server hands out records one by one
	modeClassic = "classic" // consumer groups: the server hands out partitions
)

// choose chooses the mode from what the cluster can and the URL asks for.
func (c *config) choose(ctx context.Context, client *kgo.Client) error {
	versions, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, client)
	if err != nil {
		return err
	}
	c.shares = hasShareGroups(versions)
	c.classic = c.mode == modeClassic || !c.shares
	if c.mode == modeShare && !c.shares {
		return fmt.Errorf("the cluster has no share groups, as Kafka 4.2 and newer have them by default: %w", errors.ErrUnsupported)
	}
	return nil
}

// hasShareGroups reports whether the server is Kafka 4.2 or newer, whose share
// groups renew reservations and hand out no more records than are asked for.
func hasShareGroups(versions *kmsg.ApiVersionsResponse) bool {
	fetches, settles, enabled := false, false, false
	for _, key := range versions.ApiKeys {
		fetches = fetches || key.ApiKey == int16(kmsg.ShareFetch) && key.MaxVersion >= 2
		settles = settles || key.ApiKey == int16(kmsg.ShareAcknowledge) && key.MaxVersion >= 2
	}
	for _, feature := range versions.FinalizedFeatures {
		enabled = enabled || feature.Name == "share.version" && feature.MaxVersionLevel >= 1
	}
	return fetches && settles && enabled
}

// renewEvery is how often the server is told that a delivery is still held. A
// consumer group tells that itself, of whole partitions.
func (b *broker) renewEvery() time.Duration {
	if b.config.classic {
		return 0
	}
	return b.config.lock / 3
}

// classicGuarantees are those of classic mode.
var classicGuarantees = linda.Guarantees{
	LeaseMin: leaseMin, LeaseMax: 0,
	DelayMax: delayMax, DelayResolution: time.Millisecond, DelayDurable: true,
	Durable: true, AttemptsExact: true, ConfirmedPush: true, ConfirmedDelete: true,
	BodyMax: linda.MaxBody,
	Stats:   []linda.State{linda.Dead},
	Notes: []string{
		"classic mode, with consumer groups: the server hands out partitions, so that no more processes than partitions work on a queue, and a process that is busy keeps the jobs of its partitions from the others",
		"reservations are kept by the process whose partition it is: the jobs of one that dies come back when its session ends, all those that it held as crashed; those that it had settled do not",
		"when a partition goes to another process, its jobs that do not end within five seconds are lost to their workers and run again",
		"a job that is held keeps its partition from handing out jobs from the option window on behind it, 2,000 by default",
		"a job that is released, delayed or buried is written again before its old record is done: if the process dies in between, it is there twice",
		"the server forgets a group without members after offsets.retention.minutes, a week by default: then all records run again that are still there",
		"ready and reserved jobs are one number, the lag of the consumer group; delayed jobs of all queues are in the topics _linda.delay.*",
		"topics that linda creates keep their records, those of done jobs too, until an operator deletes them or sets a retention; a job that waits longer than its topic's retention is lost",
	},
}

// spread chooses the partitions of records. In classic mode it goes from one to
// the next with those that have no key, so that all processes get some: the
// client alone would fill one partition for long.
type spread struct{ config *config }

// ForTopic is that of a [kgo.Partitioner].
func (s spread) ForTopic(topic string) kgo.TopicPartitioner {
	if !s.config.classic {
		return kgo.UniformBytesPartitioner(64<<10, true, true, nil).ForTopic(topic) // the client's default
	}
	return &byTurns{TopicPartitioner: kgo.StickyKeyPartitioner(nil).ForTopic(topic)}
}

// byTurns is spread for one topic, in classic mode. A partition gets a few
// records in a row: what goes to the server at once should be of few of them.
type byTurns struct {
	kgo.TopicPartitioner // for those with keys
	turn, row            int
}

const inARow = 20

// Partition is that of a [kgo.TopicPartitioner].
func (p *byTurns) Partition(r *kgo.Record, n int) int {
	if r.Key != nil {
		return p.TopicPartitioner.Partition(r, n)
	}
	if p.row == inARow {
		p.turn, p.row = p.turn+1, 0
	}
	p.row++
	return p.turn % n
}

// OnNewBatch is that of a [kgo.TopicPartitionerOnNewBatch]. Partition is called
// again after it. The first of a row always begins a batch.
func (p *byTurns) OnNewBatch() {
	if p.row > 1 {
		p.turn++
	}
	p.row = 0
}
