package brokerd

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestKafkaKeepsItsDataWhenItIsKilled(t *testing.T) {
	t.Parallel()
	s := Run(t, Kafka)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Addr))
	require.NoError(t, err)
	defer client.Close()
	create := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "kept", 1, 1
	create.Topics, create.TimeoutMillis = append(create.Topics, topic), 5000
	_, err = create.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "kept", Value: []byte("green")}).FirstErr())

	require.NoError(t, s.Kill())
	require.NoError(t, s.Restart(t.Context()))
	reader, err := kgo.NewClient(kgo.SeedBrokers(s.Addr), kgo.ConsumeTopics("kept"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer reader.Close()
	records := reader.PollRecords(t.Context(), 1).Records()
	require.Len(t, records, 1)
	assert.Equal(t, "green", string(records[0].Value))
}
