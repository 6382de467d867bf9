package main

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// The options of the two modes.
const (
	kafkaPartitions = 4
	kafkaShare      = "?partitions=4&replication=1&lock=5s"
	kafkaClassic    = kafkaShare + "&mode=classic"
)

// kafkaQueue makes the topics and the server's own ones, which takes it seconds.
func kafkaQueue(ctx context.Context, url string) error {
	b, err := linda.NewBroker(url)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if err := b.Later(1, &linda.Job{Payload: linda.Payload{Class: "warm"}}, queue); err != nil {
		return err
	}
	f, _ := linda.As[linda.Fetcher](b)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = f.Fetch(ctx, queue, 1, 0)
	return err
}

func kafkaAt(url string) (*kgo.Client, error) {
	u, err := neturl.Parse(url)
	if err != nil {
		return nil, err
	}
	return kgo.NewClient(kgo.SeedBrokers(u.Host), kgo.RequestTimeoutOverhead(time.Second), kgo.DisableClientMetrics())
}

// kafkaWaiting counts what the group of the queue has not done: the ready and
// the reserved jobs.
func kafkaWaiting(url string) (waiting count, done func()) {
	c, err := kafkaAt(url)
	if err != nil {
		return func(context.Context) (int64, error) { return 0, err }, func() {}
	}
	lag := kafkaLag
	if isClassic(url) {
		lag = kafkaClassicLag
	}
	return func(ctx context.Context) (int64, error) { return lag(ctx, c) }, c.Close
}

func isClassic(url string) bool { return strings.HasSuffix(url, kafkaClassic) }

func kafkaLag(ctx context.Context, c *kgo.Client) (int64, error) {
	request := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	group := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
	group.GroupID = "linda." + queue
	request.Groups = append(request.Groups, group)
	answer, err := request.RequestWith(ctx, c)
	if err != nil {
		return 0, err
	}
	var lag int64
	for _, g := range answer.Groups {
		err = errors.Join(err, kerr.ErrorForCode(g.ErrorCode))
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
				lag += max(p.Lag, 0)
			}
		}
	}
	return lag, err
}

// kafkaClassicLag counts the offsets from up to where all is done to the end,
// those of jobs that are done in between and of transactions too.
func kafkaClassicLag(ctx context.Context, c *kgo.Client) (int64, error) {
	ask := kmsg.NewPtrOffsetFetchRequest()
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = "linda.classic:" + queue
	ask.Groups = append(ask.Groups, group)
	stored, err := ask.RequestWith(ctx, c)
	if err != nil {
		return 0, err
	}
	ends := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = queue
	for i := range int32(kafkaPartitions) {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = i, -1
		t.Partitions = append(t.Partitions, p)
	}
	ends.Topics = append(ends.Topics, t)
	answer, err := ends.RequestWith(ctx, c)
	if err != nil {
		return 0, err
	}
	var lag int64
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
			lag += max(p.Offset, 0)
		}
	}
	for _, g := range stored.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				lag -= max(p.Offset, 0)
			}
		}
	}
	return lag, err
}

// kafkaResidue names what is left: jobs that come when they are asked for, what
// the share group has not done, and delayed jobs.
func kafkaResidue(ctx context.Context, _ *brokerd.Server, url string) (string, error) {
	left, err := kafkaReady(ctx, url)
	if left != "" || err != nil {
		return left, err
	}
	c, err := kafkaAt(url)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if !isClassic(url) {
		lag, err := kafkaLag(ctx, c)
		if err != nil || lag > 0 {
			return fmt.Sprintf("%d records of %s", lag, queue), err
		}
	}
	return kafkaDelayed(ctx, c)
}

// kafkaReady looks for a job. In classic mode the answer comes once all
// partitions are read.
func kafkaReady(ctx context.Context, url string) (string, error) {
	b, err := linda.NewBroker(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = b.Close() }()
	if isClassic(url) {
		job, err := b.Pop(queue, 60)
		if job != nil {
			return fmt.Sprintf("%s in %s", job.ID, queue), nil
		}
		return "", err
	}
	f, _ := linda.As[linda.Fetcher](b)
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	jobs, _ := f.Fetch(limited, queue, 100, time.Minute)
	if len(jobs) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d jobs in %s, such as %s", len(jobs), queue, jobs[0].ID), nil
}

// kafkaDelayed looks for records of the tiers that have not been moved. The
// client is a new one, of which no other requests go than these.
func kafkaDelayed(ctx context.Context, c *kgo.Client) (string, error) {
	ask := kmsg.NewPtrOffsetFetchRequest()
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = "linda.delay"
	ask.Groups = append(ask.Groups, group)
	ids, from, err := kafkaTiers(ctx, c)
	if err != nil {
		return "", err
	}
	answer, err := ask.RequestWith(ctx, c)
	if err != nil {
		return "", err
	}
	for _, t := range answer.Groups[0].Topics {
		for _, p := range t.Partitions {
			from[ids[t.TopicID]] = map[int32]kgo.Offset{p.Partition: kgo.NewOffset().At(p.Offset)}
		}
	}
	reader, err := kgo.NewClient(append(c.Opts(), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return "", err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	left := reader.PollFetches(ctx).Records()
	if len(left) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d delayed jobs, one in %s at %d", len(left), left[0].Topic, left[0].Offset), nil
}

// kafkaTiers returns the topics of the delayed jobs.
func kafkaTiers(ctx context.Context, c *kgo.Client) (ids map[[16]byte]string, from map[string]map[int32]kgo.Offset, err error) {
	all, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	ids, from = make(map[[16]byte]string), make(map[string]map[int32]kgo.Offset)
	for _, t := range all.Topics {
		if strings.HasPrefix(*t.Topic, "_linda.delay.") {
			ids[t.TopicID] = *t.Topic
			from[*t.Topic] = map[int32]kgo.Offset{0: kgo.NewOffset().AtStart()}
		}
	}
	return ids, from, nil
}
