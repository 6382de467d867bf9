package rabbitmq_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// cut has the server close all connections: to it their processes have died.
func cut(t *testing.T, server *brokerd.Server) {
	t.Helper()
	_, err := server.Eval(t.Context(), `rabbit_networking:close_all_user_connections(<<"guest">>, <<"cut">>)`)
	require.NoError(t, err)
}

// take fetches up to max jobs, over broken connections.
func take(t *testing.T, b linda.Broker, max int) (jobs []*linda.Job) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := b.(linda.Fetcher).Fetch(t.Context(), "q", max, time.Minute)
		jobs = got
		return err == nil && len(got) > 0
	}, 20*time.Second, time.Millisecond)
	return jobs
}

// The server counts whatever it had sent to a process that died. What crashed once
// would be dead after two further deaths of processes that hold it in advance.
func TestADeathCountsAgainstNoJobThatCrashedAndWaits(t *testing.T) {
	const n = 200
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) {
			server := brokerd.Run(t, brokerd.RabbitMQ)
			b := opened(t, server.URL+"?queue_type="+kind)
			jobs := make([]*linda.Job, n)
			for i := range jobs {
				jobs[i] = job("job")
			}
			require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
			held := 0
			for held < n {
				held += len(take(t, b, n-held))
			}
			cut(t, server)
			const inWork, inMotion = 5, 16 // where who dies
			for range 3 {
				for range inWork {
					assert.Len(t, take(t, b, n), 1, "what crashed goes alone")
				}
				cut(t, server)
			}
			more := 0
			for range n {
				got := take(t, b, n)
				require.Len(t, got, 1)
				assert.GreaterOrEqual(t, got[0].Crashes(), 1)
				if got[0].Crashes() > 1 {
					more++
				}
				require.NoError(t, b.Delete("q", got[0]))
			}
			assert.LessOrEqual(t, more, 3*(inWork+1+inMotion), "those in work, the next one, and those that were being moved")
			t.Logf("%d of %d have crashed more than once", more, n)
			stats, err := b.(linda.Inspector).Stats(t.Context(), "q")
			require.NoError(t, err)
			assert.LessOrEqual(t, stats.Ready, int64(3*inMotion), "those that were being moved are there twice")
		})
	}
}

// Who was only sent a job has not run it.
func TestDeathsOfThoseWhoWereSentAJobThatCrashedDoNotCountAgainstIt(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	for range 5 {
		conn, err := amqp.Dial(server.URL)
		require.NoError(t, err)
		ch, err := conn.Channel()
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, ok, err := ch.Get("q", false)
			return err == nil && ok
		}, 20*time.Second, time.Millisecond)
		require.NoError(t, conn.Close())
	}
	got := one(t, b, "q")
	assert.Equal(t, 1, got.Crashes())
	assert.Equal(t, 2, got.Attempt())
	for crashes := range 2 { // but what it does alone counts
		cut(t, server)
		got = take(t, b, 10)[0]
		assert.Equal(t, crashes+2, got.Crashes())
	}
	require.NoError(t, b.Delete("q", got))
}

func TestAJobThatCrashedGoesBackToWhereItIsFetchedAlone(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("crashed"), "q"))
	one(t, b, "q")
	cut(t, server)
	back := take(t, b, 10)[0]
	require.Equal(t, 1, back.Crashes())
	for range 5 {
		require.NoError(t, b.Push(job("other"), "q"))
	}
	unstarted := linda.Settlement{Job: back, Op: linda.OpRelease, Unstarted: true}
	require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{unstarted}))
	for left := 6; left > 0; {
		for _, got := range take(t, b, 10) {
			if got.Payload.Class == "crashed" {
				assert.Equal(t, 1, got.Crashes())
				assert.Equal(t, back.Attempt(), got.Attempt(), "it had not started")
			}
			require.NoError(t, b.Delete("q", got))
			left--
		}
	}
}

// Jobs that crashed are fetched one by one, but do not wait for each other's end.
func TestJobsThatCrashedRunBesideEachOther(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	const n = 10
	for range n {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	for held := 0; held < n; {
		held += len(take(t, b, n-held))
	}
	cut(t, server)
	began := time.Now()
	held := []*linda.Job{}
	for len(held) < n {
		held = append(held, take(t, b, n)...)
	}
	t.Logf("all are held again after %v", time.Since(began))
	assert.Less(t, time.Since(began), 2*time.Second+slack)
	for _, got := range held {
		assert.Equal(t, 1, got.Crashes())
		require.NoError(t, b.Delete("q", got))
	}
}

// Whoever comes to a server that was just started has its channel broken while
// leaders are chosen, again and again; that must not count against the same jobs.
func TestTheDeathOfTheServerCountsAboutOnce(t *testing.T) {
	const n, workers = 400, 4
	server := brokerd.Run(t, brokerd.RabbitMQ)
	brokers := make([]linda.Broker, workers)
	for i := range brokers {
		brokers[i] = opened(t, server.URL)
	}
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = job("job")
	}
	require.NoError(t, brokers[0].(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	for _, b := range brokers {
		for held := 0; held < n/workers; {
			held += len(take(t, b, n/workers-held))
		}
	}
	require.NoError(t, server.Kill())
	require.NoError(t, server.Restart(t.Context()))
	var mu sync.Mutex
	crashes := map[int]int{}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	left := atomic.Int64{}
	left.Store(n)
	var all sync.WaitGroup
	for _, b := range brokers {
		all.Go(func() {
			for ctx.Err() == nil {
				got, err := b.(linda.Fetcher).Fetch(ctx, "q", 50, time.Minute)
				if err != nil && ctx.Err() == nil {
					t.Log(err)
				}
				for _, j := range got {
					if b.Delete("q", j) != nil {
						continue
					}
					mu.Lock()
					crashes[j.Crashes()]++
					mu.Unlock()
					if left.Add(-1) == 0 {
						stop()
					}
				}
			}
		})
	}
	all.Wait()
	t.Logf("crashes: %v", crashes)
	assert.GreaterOrEqual(t, crashes[1], n*9/10)
}
