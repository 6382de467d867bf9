package rabbitmq_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda/internal/brokerd"
)

// RabbitMQ 3 keeps its list of queues in memory for two seconds before it is
// written, and forgets a new queue, with what was confirmed in it, when it is killed.
func TestAConfirmedPushToANewQueueOutlivesTheServersDeath(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	for round := range 2 {
		for _, kind := range []string{"quorum", "classic"} {
			queue := fmt.Sprint(kind, round)
			b := opened(t, server.URL+"?queue_type="+kind+"&delay_prefix="+queue)
			require.NoError(t, b.Push(job("ready"), queue))
			require.NoError(t, b.Later(1, job("delayed"), queue))
			require.NoError(t, server.Kill())
			require.NoError(t, server.Restart(t.Context()))
			seen := map[string]bool{}
			require.Eventually(t, func() bool {
				got, err := b.Pop(queue, 60)
				if err == nil && got != nil {
					seen[got.Payload.Class] = true
					assert.NoError(t, b.Delete(queue, got))
				}
				return len(seen) == 2
			}, 30*time.Second, 10*time.Millisecond, "%s: seen %v", queue, seen)
		}
	}
}
