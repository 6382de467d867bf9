package kafka_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/kafka"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

func TestConformance(t *testing.T) {
	server := brokerd.Run(t, brokerd.Kafka)
	raw, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(4<<20))
	require.NoError(t, err)
	defer raw.Close()
	warmUp(t, server.URL)
	brokertest.Run(t, brokertest.Harness{
		Counts: true,
		Open:   func(t testing.TB) linda.Broker { return open(t, server.URL) },
		RawPush: func(t testing.TB, queue string, body []byte) error {
			if err := createTopic(t, raw, queue); err != nil {
				return err
			}
			return raw.ProduceSync(t.Context(), &kgo.Record{Topic: queue, Value: body}).FirstErr()
		},
	})
}

// createTopic makes a topic as another program would.
func createTopic(t testing.TB, client *kgo.Client, name string) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = 5000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
	size := "4194304"
	topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: "max.message.bytes", Value: &size})
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(t.Context(), client)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(answer.Topics[0].ErrorCode); !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	return nil
}

// warmUp makes the server's internal topics, which takes it seconds.
func warmUp(t testing.TB, url string) {
	t.Helper()
	b := open(t, url)
	defer b.Close()
	require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "warm"))
	require.NoError(t, b.Later(1, &linda.Job{Payload: linda.Payload{Class: "C"}}, "warm"))
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		jobs, err := b.(linda.Fetcher).Fetch(ctx, "warm", 1, 0)
		for err != nil && ctx.Err() == nil { // it may be too slow still
			jobs, err = b.(linda.Fetcher).Fetch(ctx, "warm", 1, 0)
		}
		require.NoError(t, err)
		require.Len(t, jobs, 1)
	}
}

func open(t testing.TB, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}
