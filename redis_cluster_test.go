package linda_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// TestRedisCluster is one test, for one cluster: starting it takes a while.
func TestRedisCluster(t *testing.T) {
	t.Parallel()
	g := brokerd.RunGroup(t, brokerd.StartRedisCluster)
	c := openRedis(t, g.URL).(*redis.ClusterClient)
	t.Run("together", func(t *testing.T) {
		t.Run("conforms", func(t *testing.T) {
			t.Parallel()
			redisConforms(t, c, func() (linda.Broker, error) { return linda.NewBroker(g.URL) })
		})
		t.Run("conforms by a client of the program", func(t *testing.T) {
			t.Parallel()
			redisConforms(t, c, func() (linda.Broker, error) { return linda.NewRedisBroker(c) })
		})
		t.Run("keeps the queue's own name", func(t *testing.T) {
			t.Parallel()
			keepsTheLayoutOfACluster(t, g.URL, c)
		})
		t.Run("lists the queues of every master", func(t *testing.T) {
			t.Parallel()
			listsTheQueuesOfEveryMaster(t, g.URL)
		})
		t.Run("serves several queues and limits across them", func(t *testing.T) {
			t.Parallel()
			servesQueuesOfEveryMaster(t, g.URL)
		})
	})
	t.Run("outlives a move of its slot", func(t *testing.T) { outlivesAMoveOfItsSlot(t, g.URL, c) })
	t.Run("outlives the death of a master", func(t *testing.T) {
		// The slot of a queue named failover is at the first.
		outlivesAFailover(t, g.URL+"?wait_replicas=1&wait_timeout=500ms", g.Servers[0], g.Servers[3:4])
	})
}

func TestRedisHashtagAlwaysIsTheLayoutOfACluster(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		keepsTheLayoutOfACluster(t, url+"?hashtag=always", c)
	})
}

func TestRedisConformsWithHashtags(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	redisConforms(t, openRedis(t, url), func() (linda.Broker, error) { return linda.NewBroker(url + "?hashtag=always") })
}

// keepsTheLayoutOfACluster leaves a job in each state.
func keepsTheLayoutOfACluster(t *testing.T, url string, c redis.UniversalClient) {
	const queue = "layout"
	b := openBroker(t, url)
	job := &linda.Job{Payload: linda.Payload{Class: "C"}}
	require.NoError(t, b.Later(60, job, queue))
	for range 3 {
		require.NoError(t, b.Push(job, queue))
	}
	u, _ := linda.As[linda.Uniquer](b)
	require.NoError(t, u.PushUnique(t.Context(), queue, &linda.Job{Payload: linda.Payload{Class: "C"}, UniqueKey: "k"}))
	_, err := b.Pop(queue, 60)
	require.NoError(t, err)
	popped, err := b.Pop(queue, 60)
	require.NoError(t, err)
	s, _ := linda.As[linda.Settler](b)
	require.NoError(t, s.Settle(t.Context(), queue, []linda.Settlement{{Job: popped, Op: linda.OpBury}}))
	keys := redisKeys(t, c, queue)
	slices.Sort(keys)
	assert.Equal(t, []string{queue, "{layout}:dead", "{layout}:delayed", "{layout}:reserved", "{layout}:unique"}, keys)
	in, _ := linda.As[linda.Inspector](b)
	stats, err := in.Stats(t.Context(), queue)
	require.NoError(t, err)
	assert.Equal(t, linda.Stats{Ready: 2, Delayed: 1, Reserved: 1, Dead: 1}, stats)
}

func listsTheQueuesOfEveryMaster(t *testing.T, url string) {
	b := openBroker(t, url)
	var want []string
	for i := range 20 { // so many are not all on one
		queue := fmt.Sprintf("every-%02d", i)
		want = append(want, queue)
		job := &linda.Job{Payload: linda.Payload{Class: "C"}, Delay: time.Duration(i%2) * time.Hour}
		p, _ := linda.As[linda.BatchPusher](b)
		require.NoError(t, p.PushBatch(t.Context(), queue, []*linda.Job{job}))
	}
	in, _ := linda.As[linda.Inspector](b)
	queues, err := in.Queues(t.Context())
	require.NoError(t, err)
	assert.Subset(t, queues, want)
}

// servesQueuesOfEveryMaster runs jobs of many queues in one Dispatcher, no more
// than three at once of a class and one of a queue.
func servesQueuesOfEveryMaster(t *testing.T, url string) {
	const queues, each, ofClass = 6, 20, 3
	s := linda.Settings{Connection: url, Concurrency: 8}
	for i := range queues { // so many are not all on one
		s.Queues = append(s.Queues, linda.Share{Queue: fmt.Sprint("served-", i)})
	}
	var d *linda.Dispatcher
	require.Eventually(t, func() bool { // a busy machine is slow to greet so many nodes by TLS
		var err error
		d, err = linda.New(s)
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
	defer d.Close()
	first := s.Queues[0].Queue
	require.NoError(t, d.Limit(linda.Limit{Class: "limited", Running: ofClass}))
	require.NoError(t, d.Limit(linda.Limit{Queue: first, Running: 1}))
	var mu sync.Mutex
	ran, live, most := make(map[string]int), make(map[string]int), make(map[string]int)
	handle := func(_ context.Context, job *linda.Job) error {
		what := []string{job.Queue, job.Payload.Class}
		mu.Lock()
		ran[job.ID]++
		for _, w := range what {
			live[w]++
			most[w] = max(most[w], live[w])
		}
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		for _, w := range what {
			live[w]--
		}
		return nil
	}
	d.HandleFunc("limited", handle)
	d.HandleFunc("free", handle)
	var jobs []*linda.Job
	for i := range queues * each {
		class := []string{"limited", "free"}[i/queues%2]
		jobs = append(jobs, &linda.Job{ID: linda.NewID(), Queue: s.Queues[i%queues].Queue, Payload: linda.Payload{Class: class}})
	}
	require.NoError(t, d.PushBatch(t.Context(), jobs[:len(jobs)/2]))
	over := make(chan error, 1)
	go func() { over <- d.Run(t.Context()) }()
	require.NoError(t, d.PushBatch(t.Context(), jobs[len(jobs)/2:]))
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(ran) == len(jobs)
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, d.Close())
	require.NoError(t, <-over)
	for id, n := range ran {
		assert.Equal(t, 1, n, "runs of %s", id)
	}
	assert.LessOrEqual(t, most["limited"], ofClass)
	assert.Equal(t, 1, most[first])
	assert.Greater(t, most["free"], 1)
}

// outlivesAMoveOfItsSlot moves a queue from master to master, while jobs are
// pushed and run.
func outlivesAMoveOfItsSlot(t *testing.T, url string, c *redis.ClusterClient) {
	const queue = "moving"
	var mu sync.Mutex
	ran := make(map[string]int)
	d := start(t, linda.Settings{Queue: queue, Connection: url, Concurrency: 4, Timeout: 10}, map[string]linda.HandlerFunc{
		"C": func(_ context.Context, job *linda.Job) error {
			mu.Lock()
			defer mu.Unlock()
			ran[job.ID]++
			return nil
		},
	})
	stop, pushed := make(chan struct{}), make(chan []string)
	go func() {
		var ids []string
		for {
			select {
			case <-stop:
				pushed <- ids
				return
			case <-time.After(2 * time.Millisecond):
			}
			job := &linda.Job{ID: linda.NewID(), Payload: linda.Payload{Class: "C"}}
			if assert.NoError(t, d.Push(t.Context(), job)) {
				ids = append(ids, job.ID)
			}
		}
	}()
	for range 4 {
		moveSlot(t, c, queue)
		time.Sleep(200 * time.Millisecond)
	}
	close(stop)
	ids := <-pushed
	assert.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(ran) >= len(ids)
	}, 15*time.Second, 20*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	twice := 0
	for _, id := range ids {
		assert.Positive(t, ran[id], "job %s is lost", id)
		twice += max(ran[id]-1, 0)
	}
	t.Logf("%d jobs while the slot moved, %d runs too many", len(ids), twice)
	assert.Zero(t, twice)
}

// moveSlot moves the slot of a queue to the next master, as redis-cli does.
func moveSlot(t *testing.T, c *redis.ClusterClient, queue string) {
	t.Helper()
	ctx := t.Context()
	slot := int(c.ClusterKeySlot(ctx, queue).Val())
	var mu sync.Mutex
	masters := map[string]*redis.Client{}
	require.NoError(t, c.ForEachMaster(ctx, func(ctx context.Context, m *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters[m.ClusterMyID(ctx).Val()] = m
		return nil
	}))
	from, err := c.MasterForKey(ctx, queue)
	require.NoError(t, err)
	fromID := from.ClusterMyID(ctx).Val()
	ids := make([]string, 0, len(masters))
	for id := range masters {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	toID := ids[(slices.Index(ids, fromID)+1)%len(ids)]
	to := masters[toID]
	require.NoError(t, to.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID).Err())
	require.NoError(t, from.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID).Err())
	time.Sleep(50 * time.Millisecond) // meanwhile the queue is in two places
	for {
		keys, err := from.ClusterGetKeysInSlot(ctx, slot, 100).Result()
		require.NoError(t, err)
		if len(keys) == 0 {
			break
		}
		addr := to.Options().Addr
		args := []any{"MIGRATE", addr[:len("127.0.0.1")], addr[len("127.0.0.1:"):], "", 0, 5000, "KEYS"}
		for _, key := range keys {
			args = append(args, key)
		}
		require.NoError(t, from.Do(ctx, args...).Err())
	}
	for _, id := range append([]string{toID, fromID}, ids...) {
		require.NoError(t, masters[id].Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", toID).Err())
	}
	c.ReloadState(ctx)
	require.Eventually(t, func() bool {
		now, err := c.MasterForKey(ctx, queue)
		return err == nil && now.Options().Addr == to.Options().Addr
	}, 5*time.Second, 10*time.Millisecond)
}
