package rabbitmq_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// The server bounds the channels of a connection, and each queue needs one.
func TestOneBrokerWorksOnMoreQueuesThanAConnectionHasChannels(t *testing.T) {
	t.Parallel()
	const channels = 16
	server := brokerd.Run(t, brokerd.RabbitMQ, brokerd.Args(fmt.Sprint("channel_max = ", channels)))
	b := opened(t, server.URL+"?new_queue_wait=0s&queue_type=classic")
	held := map[string]*linda.Job{}
	for i := range 2*channels + 1 {
		queue := fmt.Sprint("q", i)
		require.NoError(t, b.Push(job("job"), queue))
		got, err := b.Pop(queue, 60)
		require.NoError(t, err)
		require.NotNil(t, got)
		held[queue] = got
	}
	for queue, done := range held {
		assert.NoError(t, b.Delete(queue, done))
	}
}

// Each job that is popped has a channel of its own; see TestARestartForgetsNoJob...
func TestWhoPopsMoreJobsThanThereAreChannelsIsTold(t *testing.T) {
	t.Parallel()
	const channels = 16
	server := brokerd.Run(t, brokerd.RabbitMQ, brokerd.Args(fmt.Sprint("channel_max = ", channels)))
	b := opened(t, server.URL)
	jobs := make([]*linda.Job, channels)
	for i := range jobs {
		jobs[i] = job("job")
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	var held []*linda.Job
	for {
		got, err := b.Pop("q", 60)
		if err != nil {
			assert.ErrorContains(t, err, "settle some")
			break
		}
		require.NotNil(t, got)
		held = append(held, got)
	}
	assert.Len(t, held, channels*3/4, "the others are for questions")
	require.NoError(t, b.Push(job("job"), "other"), "which go on")
	require.NoError(t, b.Delete("q", held[0]))
	for range channels - len(held) {
		got, err := b.Pop("q", 60)
		require.NoError(t, err)
		require.NotNil(t, got)
		require.NoError(t, b.Delete("q", got))
	}
	for _, done := range held[1:] {
		require.NoError(t, b.Delete("q", done))
	}
	none, err := b.Pop("q", 60)
	require.NoError(t, err)
	assert.Nil(t, none)
}
