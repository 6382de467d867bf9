package rabbitmq_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// RabbitMQ before 4.1.1 takes the jobs of a channel back in an order that is another one
// when it has been restarted, if more than 32 consumers of the queue held them, and a job
// that was got is a consumer to it. Then it forgets others than those that are done.
func TestARestartForgetsNoJobOfWorkersThatDied(t *testing.T) {
	t.Parallel()
	const held = 60
	for name, reserve := range map[string]func(*testing.T, *brokerd.Server, linda.Broker){
		"popped": func(t *testing.T, _ *brokerd.Server, b linda.Broker) {
			for range held {
				got, err := b.Pop("q", 60)
				require.NoError(t, err)
				require.NotNil(t, got)
			}
		},
		"crashed and fetched again": func(t *testing.T, server *brokerd.Server, b linda.Broker) {
			for n := 0; n < held; {
				n += len(take(t, b, held-n))
			}
			cut(t, server)
			for range held {
				require.Len(t, take(t, b, held), 1, "what crashed goes alone")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.RabbitMQ)
			b := opened(t, server.URL)
			jobs := make([]*linda.Job, held)
			for i := range jobs {
				jobs[i] = job("job")
			}
			require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
			reserve(t, server, b)
			cut(t, server)

			other := opened(t, server.URL)
			done := map[string]bool{}
			for len(done) < held/2 {
				got, err := other.Pop("q", 60)
				require.NoError(t, err)
				if got != nil {
					require.NoError(t, other.Delete("q", got))
					done[got.ID] = true
				}
			}
			require.NoError(t, other.Close())
			require.NoError(t, server.Kill())
			require.NoError(t, server.Restart(context.Background()))

			third := opened(t, server.URL)
			left := map[string]bool{}
			for since := time.Now(); len(left) < held-len(done) && time.Since(since) < 10*time.Second; {
				got, err := third.Pop("q", 60)
				require.NoError(t, err)
				if got != nil {
					assert.False(t, done[got.ID], "%s is done", got.ID)
					left[got.ID] = true
					require.NoError(t, third.Delete("q", got))
					since = time.Now()
				}
			}
			assert.Len(t, left, held-len(done), "the others are there")
		})
	}
}

// A tap without a pipe has nobody who tells it that its connection broke.
func TestATapEndsWithItsConnectionThoughItHasNoPipe(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	for range 3 {
		require.Eventually(t, func() bool { return b.Push(job("job"), "q") == nil }, 20*time.Second, 10*time.Millisecond)
		require.NoError(t, b.Delete("q", take(t, b, 1)[0]))
		time.Sleep(2 * time.Second) // its pipes are closed
		cut(t, server)
	}
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return strings.Count(string(stacks), "(*tap).tend(") <= 1
	}, 5*time.Second, 10*time.Millisecond)
}
