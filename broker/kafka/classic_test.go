package kafka_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

const classic = "&mode=classic"

func TestConformanceInClassicMode(t *testing.T) {
	server := brokerd.Run(t, brokerd.Kafka)
	raw, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(4<<20))
	require.NoError(t, err)
	defer raw.Close()
	warmUp(t, server.URL+classic)
	brokertest.Run(t, brokertest.Harness{
		Open: func(t testing.TB) linda.Broker { return open(t, server.URL+classic) },
		RawPush: func(t testing.TB, queue string, body []byte) error {
			if err := createTopic(t, raw, queue); err != nil {
				return err
			}
			return raw.ProduceSync(t.Context(), &kgo.Record{Topic: queue, Value: body}).FirstErr()
		},
	})
}
