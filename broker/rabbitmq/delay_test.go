package rabbitmq_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// What a push has begun to make on the server goes on when the push has no time
// left: the next one neither begins anew, nor takes for ripe what was just made.
func TestWhoPushesAgainWaitsForTheRestOnly(t *testing.T) {
	t.Parallel()
	const ripe = 2 * time.Second
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL+"?new_queue_wait="+ripe.String())
	late := job("late")
	late.Delay = time.Hour
	began := time.Now()
	for tries := 1; ; tries++ {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := b.(linda.BatchPusher).PushBatch(ctx, "q", []*linda.Job{late})
		cancel()
		if err == nil {
			t.Logf("%d tries, %v", tries, time.Since(began))
			break
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(began), 2*ripe, "the queue and the delays ripen together")
	}
	assert.GreaterOrEqual(t, time.Since(began), ripe, "all is new")
}

// The server takes its time for each queue, so a delay must not wait for those that it
// does not need.
func TestADelayNeedsAQueueForEachOfItsDigits(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	limit := func(queues string) {
		_, err := server.Eval(t.Context(), `rabbit_vhost_limit:parse_set(<<"/">>, <<"{\"max-queues\": `+queues+`}">>, <<"guest">>)`)
		require.NoError(t, err)
	}
	b := opened(t, server.URL+"?new_queue_wait=0s")
	push := func(units time.Duration) error {
		j := job("later")
		j.Delay = units*8*time.Millisecond - 3*time.Millisecond
		return b.Push(j, "q")
	}
	limit("6")                     // three of q, one for jobs whose queue is gone, and
	require.NoError(t, push(0x09)) // 2 1 to the base of four: two
	require.Error(t, push(0x3f), "3 3 3")
	limit("-1")
	require.NoError(t, push(0x3f))
	for range 2 {
		require.NoError(t, b.Delete("q", one(t, b, "q")))
	}
}
