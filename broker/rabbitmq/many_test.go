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
