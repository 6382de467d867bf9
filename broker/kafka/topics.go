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

// topicOf returns the topic of a queue.
func (b *broker) topicOf(queue string) string { return b.config.prefix + queue }

// deadTopicOf returns the topic of the dead jobs of a queue. It has one
// partition, in the order in which they died. With the underscore it has a
// name that no queue has.
func (b *broker) deadTopicOf(queue string) string {
	return "_" + b.config.prefix + linda.DeadQueue(queue)
}

// topic is what the cluster says about a topic.
type topic struct {
	name    string
	id      [16]byte
	leaders []int32 // by partition
}

// lookUp asks for a topic; nil where there is none.
func lookUp(ctx context.Context, client *kgo.Client, name string) (*topic, error) {
	for try := 1; ; try++ {
		found, err := ask(ctx, client, name)
		if !retriable(err) || try > 20 {
			return found, err
		}
		if err := sleep(ctx, backoff(try)); err != nil {
			return nil, err
		}
	}
}

func ask(ctx context.Context, client *kgo.Client, name string) (*topic, error) {
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = append(request.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	answer, err := request.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	if len(answer.Topics) != 1 {
		return nil, errors.New("the answer is about other topics")
	}
	t := answer.Topics[0]
	switch err := kerr.ErrorForCode(t.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	case err != nil:
		return nil, err
	}
	found := &topic{name: name, id: t.TopicID, leaders: make([]int32, len(t.Partitions))}
	for _, p := range t.Partitions {
		if int(p.Partition) >= len(found.leaders) || p.Leader < 0 {
			return nil, kerr.LeaderNotAvailable
		}
		found.leaders[p.Partition] = p.Leader
	}
	return found, nil
}

func retriable(err error) bool {
	var e *kerr.Error
	return errors.As(err, &e) && e.Retriable
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

var errNoTopic = errors.New("there is no such topic")

// ensure returns once a topic is there. It creates one that is not, with
// records that stay until linda deletes them, unless the URL forbids that.
func (b *broker) ensure(ctx context.Context, partitions int32, names ...string) error {
	var missing []string
	for _, name := range names {
		if b.known(name) {
			continue
		}
		found, err := lookUp(ctx, b.client, name)
		switch {
		case err != nil:
			return err
		case found != nil:
			b.remember(name)
		case !b.config.create:
			return fmt.Errorf("%w: %s, and the option create is false", errNoTopic, name)
		default:
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := b.create(ctx, partitions, missing); err != nil {
		return err
	}
	for _, name := range missing {
		if err := b.awaitTopic(ctx, name); err != nil {
			return err
		}
		b.remember(name)
	}
	return nil
}

func (b *broker) known(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.topics[name]
}

func (b *broker) remember(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[name] = true
}

// forget makes the next call look whether the topic is still there.
func (b *broker) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics, name)
}

func (b *broker) create(ctx context.Context, partitions int32, names []string) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = int32(callLimit / time.Millisecond)
	for _, name := range names {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, b.config.replication
		for key, value := range topicSettings() {
			t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: key, Value: &value})
		}
		request.Topics = append(request.Topics, t)
	}
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		if errors.Is(err, kerr.InvalidTopicException) {
			return fmt.Errorf("%w: topic %s: another differs from it only in dots and underscores, or its name is not one", linda.ErrBadName, t.Topic)
		}
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", t.Topic, err)
		}
	}
	return nil
}

// awaitTopic waits until a topic that was created can be used.
func (b *broker) awaitTopic(ctx context.Context, name string) error {
	for {
		found, err := lookUp(ctx, b.client, name)
		if err != nil || found != nil {
			return err
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
