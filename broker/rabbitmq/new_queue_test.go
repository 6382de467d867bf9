package rabbitmq_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// RabbitMQ 3.10 breaks the channel, or the connection, of who consumes from a
// quorum queue that another one declares just then.
func TestManyMayMeetAtANewQueue(t *testing.T) {
	const rounds, each = 10, 25
	server := brokerd.Run(t, brokerd.RabbitMQ)
	brokers := make([]linda.Broker, 6)
	for i := range brokers {
		brokers[i] = opened(t, server.URL)
	}
	again := 0
	for round := range rounds {
		queue := fmt.Sprint("new-", round)
		var (
			mu   sync.Mutex
			seen = map[string]map[int]int{} // how often, by id and attempt
			left atomic.Int64
			all  sync.WaitGroup
		)
		left.Store(2 * each)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		for i, b := range brokers {
			all.Go(func() {
				for j := 0; i < 2 && j < each; j++ { // two of them push as well
					pushed := job("job")
					pushed.ID = fmt.Sprint(i, "-", j)
					assert.NoError(t, b.Push(pushed, queue))
				}
				for ctx.Err() == nil {
					jobs, err := b.(linda.Fetcher).Fetch(ctx, queue, 5, time.Minute)
					if ctx.Err() == nil {
						assert.NoError(t, err)
					}
					for _, j := range jobs {
						mu.Lock()
						if seen[j.ID] == nil {
							seen[j.ID] = map[int]int{}
						}
						seen[j.ID][j.Attempt()]++
						mu.Unlock()
						if b.Delete(queue, j) == nil && left.Add(-1) == 0 {
							stop()
						}
					}
				}
			})
		}
		all.Wait()
		stop()
		require.Len(t, seen, 2*each, "round %d: jobs that came", round)
		for id, attempts := range seen {
			for attempt, times := range attempts {
				assert.Equal(t, 1, times, "attempt %d of job %s", attempt, id)
				if attempt > 1 {
					again++
				}
			}
		}
		s, err := brokers[0].(linda.Inspector).Stats(t.Context(), queue)
		require.NoError(t, err)
		assert.Equal(t, linda.Stats{Delayed: -1, Reserved: -1}, s)
	}
	t.Logf("%d deliveries counted that nobody saw, or again", again)
}

// While the server writes down a new queue, or finds its queues again after a start, it
// knows the name of a queue that it does not find yet, and says that its node were down.
func TestWhoComesToAQueueThatIsHalfThereWaitsForIt(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	first := opened(t, server.URL)
	require.NoError(t, first.Push(job("first"), "q"))
	_, err := server.Eval(t.Context(), `mnesia:dirty_delete(rabbit_queue, {resource, <<"/">>, queue, <<"q">>})`)
	require.NoError(t, err)
	var all sync.WaitGroup
	for _, call := range []func(linda.Broker) error{
		func(b linda.Broker) error { return b.Push(job("second"), "q") },
		func(b linda.Broker) error { return b.Later(1, job("later"), "q") },
		func(b linda.Broker) error { _, err := b.Pop("q", 60); return err },
		func(b linda.Broker) error {
			_, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 1, time.Minute)
			return err
		},
	} {
		b := opened(t, server.URL)
		all.Go(func() { assert.NoError(t, call(b)) })
	}
	_, err = server.Eval(t.Context(), `rabbit_misc:execute_mnesia_transaction(fun() ->
		[Q] = mnesia:read({rabbit_durable_queue, {resource, <<"/">>, queue, <<"q">>}}), mnesia:write(rabbit_queue, Q, write) end)`)
	require.NoError(t, err)
	all.Wait()
}
