package linda_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func threeQueues() []linda.Share {
	return []linda.Share{{Queue: "a", Weight: 3}, {Queue: "b"}, {Queue: "c"}}
}

func jobOf(queue string) *linda.Job {
	return &linda.Job{Queue: queue, Payload: linda.Payload{Class: "C"}}
}

func TestRedisKeyOfAnotherTypeHoldsUpNoOtherQueue(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		require.NoError(t, c.Set(t.Context(), "a", "not a list", 0).Err())
		var ran atomic.Int64
		d := start(t, linda.Settings{Connection: url, Queues: threeQueues()}, map[string]linda.HandlerFunc{
			"C": func(context.Context, *linda.Job) error { ran.Add(1); return nil },
		})
		for range 50 {
			require.NoError(t, d.PushBatch(t.Context(), []*linda.Job{jobOf("b"), jobOf("c")}))
		}
		require.Eventually(t, func() bool { return ran.Load() == 100 }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, c.Del(t.Context(), "a").Err())
		require.NoError(t, d.Push(t.Context(), jobOf("a")))
		require.Eventually(t, func() bool { return ran.Load() == 101 }, 10*time.Second, 5*time.Millisecond)
	})
}

func TestRedisWaitsForAllQueuesWithFewCommands(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	c := redisClient(t, url)
	ran := make(chan time.Time, 1)
	d := start(t, linda.Settings{Connection: url, Queues: threeQueues()}, map[string]linda.HandlerFunc{
		"C": func(context.Context, *linda.Job) error { ran <- time.Now(); return nil },
	})
	time.Sleep(500 * time.Millisecond)
	before := commandsOf(t, c)
	time.Sleep(6 * time.Second)
	idle := commandsOf(t, c) - before
	assert.LessOrEqual(t, idle, 3*2*6+4, "two a second for each queue")
	t.Logf("%d commands in 6 s, 3 queues", idle)
	for _, queue := range []string{"c", "b", "a", "c"} {
		since := time.Now()
		require.NoError(t, d.Push(t.Context(), jobOf(queue)))
		took := (<-ran).Sub(since)
		assert.Less(t, took, 900*time.Millisecond, "it does not wait, it looks: %s", queue)
		t.Logf("a push to %s ran after %v", queue, took)
		time.Sleep(50 * time.Millisecond)
	}
}

// BLMOVE returns at once from a list with jobs.
func TestRedisDoesNotSpinOnAPausedQueue(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	c := redisClient(t, url)
	ran := make(chan string, 10)
	d := start(t, linda.Settings{Connection: url, Queues: threeQueues()}, map[string]linda.HandlerFunc{
		"C": func(_ context.Context, job *linda.Job) error { ran <- job.Queue; return nil },
	})
	pauser, ok := linda.As[linda.Pauser](d.Broker())
	require.True(t, ok)
	require.NoError(t, pauser.Pause(t.Context(), "b"))
	require.NoError(t, d.Push(t.Context(), jobOf("b")))
	time.Sleep(time.Second)
	before := commandsOf(t, c)
	time.Sleep(3 * time.Second)
	assert.LessOrEqual(t, commandsOf(t, c)-before, 3*2*3+4, "two a second for each queue")
	assert.Empty(t, ran)
	require.NoError(t, pauser.Resume(t.Context(), "b"))
	assert.Equal(t, "b", <-ran)
	require.Eventually(t, func() bool { return len(c.Keys(t.Context(), "*").Val()) == 0 }, 5*time.Second, 5*time.Millisecond)
}

func commandsOf(t *testing.T, c *redis.Client) int {
	t.Helper()
	var n int
	for line := range strings.Lines(c.Info(t.Context(), "stats").Val()) {
		if _, err := fmt.Sscanf(line, "total_commands_processed:%d", &n); err == nil {
			return n
		}
	}
	t.Fatal("INFO tells no number of commands")
	return 0
}
