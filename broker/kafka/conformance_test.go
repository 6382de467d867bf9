package kafka_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/kafka"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

func TestConformance(t *testing.T) {
	server := brokerd.Run(t, brokerd.Kafka)
	raw, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(0), kgo.AllowAutoTopicCreation())
	require.NoError(t, err)
	defer raw.Close()
	brokertest.Run(t, brokertest.Harness{
		Open: func(t testing.TB) linda.Broker { return open(t, server.URL) },
		RawPush: func(t testing.TB, queue string, body []byte) error {
			// linda makes the topic, another program fills it.
			b := open(t, server.URL)
			defer b.Close()
			if _, err := b.Pop(queue, 60); err != nil {
				return err
			}
			return raw.ProduceSync(t.Context(), &kgo.Record{Topic: queue, Value: body}).FirstErr()
		},
	})
}

func open(t testing.TB, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}
