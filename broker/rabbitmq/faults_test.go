package rabbitmq_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// holderEnv makes this test binary a worker that reserves jobs and hangs.
const holderEnv = "LINDA_RABBITMQ_HOLDER"

func TestMain(m *testing.M) {
	url := os.Getenv(holderEnv)
	if url == "" {
		goleak.VerifyTestMain(m)
		return
	}
	b, err := linda.NewBroker(url)
	for held := 0; err == nil && held < 5; {
		var jobs []*linda.Job
		jobs, err = b.(linda.Fetcher).Fetch(context.Background(), "q", 5-held, 10*time.Minute)
		held += len(jobs)
	}
	fmt.Println("held:", err)
	select {}
}

func TestJobsOfAKilledWorkerRunAgainAtOnce(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	for range 5 {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), holderEnv+"="+server.URL)
	out, err := worker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, worker.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, worker.Process.Kill())
	_ = worker.Wait()
	killed := time.Now()
	require.Equal(t, "held: <nil>\n", line)
	for range 5 {
		got := one(t, b, "q")
		assert.Equal(t, 2, got.Attempt())
		assert.Equal(t, 1, got.Crashes())
		require.NoError(t, b.Delete("q", got))
	}
	t.Logf("all back after %v", time.Since(killed))
	assert.Less(t, time.Since(killed), 2*time.Second)
}

func TestNoJobIsLostWhenTheServerIsKilled(t *testing.T) {
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) {
			server := brokerd.Run(t, brokerd.RabbitMQ)
			url := server.URL + "?queue_type=" + kind
			var mu sync.Mutex
			ran := map[string]int{}
			var last atomic.Int64 // when a job ran, unix ns
			d, err := linda.New(linda.Settings{Queue: "q", Connection: url, Concurrency: 8})
			require.NoError(t, err)
			d.HandleFunc("job", func(_ context.Context, job *linda.Job) error {
				mu.Lock()
				ran[job.ID]++
				mu.Unlock()
				last.Store(time.Now().UnixNano())
				return nil
			})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- d.Run(ctx) }()

			producer := opened(t, url)
			var acked sync.Map
			var pushed atomic.Int64
			var producing sync.WaitGroup
			producingCtx, stopProducing := context.WithCancel(t.Context())
			for range 4 {
				producing.Go(func() {
					for producingCtx.Err() == nil {
						j := job("job")
						j.ID = linda.NewID()
						if producer.Push(j, "q") == nil {
							acked.Store(j.ID, true)
							pushed.Add(1)
						} else {
							time.Sleep(20 * time.Millisecond)
						}
					}
				})
			}
			// RabbitMQ 3.10 forgets a quorum queue when it is killed within a
			// second of the queue's first declaration. Who made it waits for
			// that, here the worker, but the producer does not.
			time.Sleep(3 * time.Second)
			for range 2 {
				time.Sleep(700 * time.Millisecond)
				require.NoError(t, server.Kill())
				require.NoError(t, server.Restart(t.Context()))
				back := time.Now()
				require.Eventually(t, func() bool { return last.Load() > back.UnixNano() }, 20*time.Second, 5*time.Millisecond)
				t.Logf("working again %v after the server was back", time.Since(back))
				assert.Less(t, time.Since(back), 2*time.Second+slack)
			}
			stopProducing()
			producing.Wait()
			missing := func() (n int) {
				mu.Lock()
				defer mu.Unlock()
				acked.Range(func(id, _ any) bool {
					if ran[id.(string)] == 0 {
						n++
					}
					return true
				})
				return n
			}
			assert.Eventually(t, func() bool { return missing() == 0 }, 30*time.Second, 50*time.Millisecond)
			t.Logf("%d pushed, %d lost", pushed.Load(), missing())
			stop()
			require.NoError(t, <-done)
			require.NoError(t, d.Close())
		})
	}
}

// slack is what a busy machine may need beside.
const slack = 5 * time.Second

func TestEveryCallReturnsWhileTheServerIsStopped(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	for range 3 {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	held := one(t, b, "q")
	second := one(t, b, "q")
	require.NoError(t, server.Pause())
	const limit = time.Second
	calls := map[string]func(context.Context) error{
		"push": func(ctx context.Context) error {
			return b.(linda.BatchPusher).PushBatch(ctx, "q", []*linda.Job{job("late")})
		},
		"fetch": func(ctx context.Context) error {
			_, err := b.(linda.Fetcher).Fetch(ctx, "new", 1, time.Minute)
			return err
		},
		"stats": func(ctx context.Context) error { _, err := b.(linda.Inspector).Stats(ctx, "q"); return err },
		"peek": func(ctx context.Context) error {
			_, err := b.(linda.Inspector).Peek(ctx, "q", linda.Dead, 1)
			return err
		},
		"release": func(ctx context.Context) error {
			return b.(linda.Settler).Settle(ctx, "q", []linda.Settlement{{Job: held, Op: linda.OpRelease}})
		},
		"pop": func(context.Context) error { _, err := b.Pop("q", 60); return err }, // five seconds
	}
	var all sync.WaitGroup
	for name, call := range calls {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			err := call(ctx)
			took := time.Since(began)
			assert.Error(t, err, name)
			if name == "pop" {
				took -= 4 * time.Second
			}
			assert.Less(t, took, limit+slack/5, name)
			if name == "push" || name == "release" {
				assert.ErrorIs(t, linda.EachError(err, 1)[0], linda.ErrUnknown, name)
			}
		})
	}
	all.Wait()
	require.NoError(t, b.Delete("q", second)) // it is on its way
	require.NoError(t, server.Resume())
	resumed := time.Now()
	require.NoError(t, b.Push(job("after"), "q"))
	seen := map[string]bool{}
	for !seen["after"] {
		got := one(t, b, "q")
		seen[got.Payload.Class] = true
		require.NoError(t, b.Delete("q", got))
	}
	t.Logf("recovered in %v", time.Since(resumed))
}

func TestEveryCallReturnsWhileTheServerHangsForLong(t *testing.T) {
	if os.Getenv("LINDA_LONG") == "" {
		t.Skip("LINDA_LONG is not set")
	}
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	held := one(t, b, "q")
	require.NoError(t, server.Pause())
	for began := time.Now(); time.Since(began) < 15*time.Second; {
		asked := time.Now()
		require.Error(t, b.Push(job("late"), "q"))
		_, err := b.Pop("q", 60)
		require.Error(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err = b.(linda.Fetcher).Fetch(ctx, "q", 1, time.Minute)
		cancel()
		require.Error(t, err)
		require.Less(t, time.Since(asked), 12*time.Second, "two calls of at most five seconds")
	}
	require.NoError(t, server.Resume())
	resumed := time.Now()
	require.Eventually(t, func() bool { return b.Push(job("after"), "q") == nil }, 10*time.Second, time.Millisecond)
	seen := map[string]bool{}
	for !seen["after"] {
		got := one(t, b, "q")
		seen[got.Payload.Class] = true
		require.NoError(t, b.Delete("q", got))
	}
	t.Logf("recovered in %v", time.Since(resumed))
	if err := b.Delete("q", held); err != nil { // its connection may have been given up
		require.ErrorIs(t, err, linda.ErrLeaseLost)
	}
}

func TestCloseDoesNotWaitForAServerThatIsStopped(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := open(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, server.Pause())
	began := time.Now()
	require.NoError(t, b.Close())
	assert.Less(t, time.Since(began), 2*time.Second)
	require.NoError(t, server.Resume())
}

func TestAMemoryAlarmStopsPushesAndNothingElse(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	for range 3 {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	held := one(t, b, "q")
	_, err := server.Eval(t.Context(), "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1000000})")
	require.NoError(t, err)
	push := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := b.(linda.BatchPusher).PushBatch(ctx, "q", []*linda.Job{job("blocked")})
		assert.Less(t, time.Since(began), time.Second+slack/5)
		return linda.EachError(err, 1)[0]
	}
	require.Eventually(t, func() bool { return push() != nil }, 30*time.Second, 10*time.Millisecond, "the alarm goes off")
	for range 3 {
		err := push()
		assert.True(t, errors.Is(err, linda.ErrFull) || errors.Is(err, linda.ErrUnknown), "%v", err)
	}
	require.ErrorIs(t, push(), linda.ErrFull, "the server has told by now")
	require.NoError(t, b.Delete("q", held))
	other := opened(t, server.URL)
	got := one(t, other, "q")
	require.NoError(t, other.Delete("q", got))
	_, err = server.Eval(t.Context(), "vm_memory_monitor:set_vm_memory_high_watermark(0.8)")
	require.NoError(t, err)
	cleared := time.Now()
	require.Eventually(t, func() bool { return push() == nil }, 30*time.Second, 10*time.Millisecond)
	t.Logf("pushing again after %v", time.Since(cleared))
}

func TestACutConnectionLosesReservationsAndNoJob(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b, other := opened(t, server.URL), opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Push(job("job"), "q"))
	first, second := one(t, b, "q"), one(t, b, "q")
	_, err := server.Eval(t.Context(), `rabbit_networking:close_all_user_connections(<<"guest">>, <<"cut">>)`)
	require.NoError(t, err)
	got := []*linda.Job{}
	for len(got) < 2 {
		jobs, err := other.(linda.Fetcher).Fetch(t.Context(), "q", 2, time.Minute)
		if err == nil {
			got = append(got, jobs...)
		}
	}
	// The tags of the new channel begin anew: these are those of got.
	assert.ErrorIs(t, b.Delete("q", first), linda.ErrLeaseLost)
	assert.ErrorIs(t, b.Release("q", second), linda.ErrLeaseLost)
	require.NoError(t, other.Delete("q", got[0]))
	require.NoError(t, other.Delete("q", got[1]))
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", one(t, b, "q")))
	stats, err := b.(linda.Inspector).Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, linda.Stats{Delayed: -1, Reserved: -1}, stats)
}

func TestAQueueThatIsDeletedIsMadeAgain(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", one(t, b, "q")))
	_, err := dial(t, server.URL).QueueDelete("q", false, false, false)
	require.NoError(t, err)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", one(t, b, "q")))
}
