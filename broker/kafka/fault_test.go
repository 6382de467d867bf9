package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func newJob(class string) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: class}}
}

// drain deletes what comes out of a queue until all of want did, and returns
// how often each class came. Errors are those of a server that is away.
func drain(t *testing.T, b linda.Broker, queue string, want map[string]bool, limit time.Duration) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	came := make(map[string]int)
	for missing := len(want); missing > 0; {
		jobs, err := b.(linda.Fetcher).Fetch(ctx, queue, 50, time.Minute)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d jobs are missing: %v", missing, len(want), err)
		}
		for _, job := range jobs {
			if came[job.Payload.Class]++; came[job.Payload.Class] == 1 && want[job.Payload.Class] {
				missing--
			}
			_ = b.Delete(queue, job)
		}
	}
	return came
}

func TestAServerThatIsKilledLosesNoJob(t *testing.T) { losesNoJob(t, "") }

func TestAServerThatIsKilledLosesNoJobInClassicMode(t *testing.T) { losesNoJob(t, classic) }

func losesNoJob(t *testing.T, option string) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL+option)
	b := open(t, server.URL+option)
	defer b.Close()
	want := make(map[string]bool)
	push := func(class string, delay int64) {
		if b.Later(delay, newJob(class), "q") == nil {
			want[class] = true
		}
	}
	for i := range 50 {
		push(fmt.Sprint("ready-", i), 0)
		push(fmt.Sprint("delayed-", i), 1+int64(i%5))
	}
	held, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 10, time.Minute)
	require.NoError(t, err)
	require.NoError(t, server.Kill())
	for _, job := range held {
		assert.Error(t, b.Delete("q", job), "there is no server")
	}
	require.NoError(t, server.Restart(t.Context()))
	came := drain(t, b, "q", want, 60*time.Second)
	for class, times := range came {
		if times > 1 {
			t.Logf("%s came %d times", class, times)
		}
	}
}

func TestACallEndsThoughTheServerIsFrozen(t *testing.T) { callsEnd(t, "") }

func TestACallEndsThoughTheServerIsFrozenInClassicMode(t *testing.T) { callsEnd(t, classic) }

func callsEnd(t *testing.T, option string) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL+option)
	b := open(t, server.URL+option)
	defer b.Close()
	require.NoError(t, b.Push(newJob("held"), "q"))
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 1, time.Minute)
	require.NoError(t, err)
	require.NoError(t, server.Pause())
	for what, call := range map[string]func() error{
		"Push":    func() error { return b.Push(newJob("unknown"), "q") },
		"Pop":     func() error { _, err := b.Pop("q", 60); return err },
		"Release": func() error { return b.Release("q", jobs[0]) },
		"Stats":   func() error { _, err := b.(linda.Inspector).Stats(t.Context(), "q"); return err },
	} {
		begun := time.Now()
		err := call()
		require.Error(t, err, what)
		assert.Less(t, time.Since(begun), 7*time.Second, what)
	}
	require.NoError(t, server.Resume())
	drain(t, b, "q", map[string]bool{"held": true}, 60*time.Second)
}

func TestAWorkerThatGoesAwayLosesNoDelayedJobAndDoublesNone(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	// Two URLs that differ make two movers in this process, as two processes have.
	first, second := open(t, server.URL), open(t, server.URL+"&create=true")
	defer second.Close()
	_, _ = first.Pop("q", 60)
	want := make(map[string]bool)
	for i := range 300 {
		class := fmt.Sprint("job-", i)
		want[class] = true
		job := newJob(class)
		job.Delay = time.Duration(500+10*i) * time.Millisecond
		require.NoError(t, first.(linda.BatchPusher).PushBatch(t.Context(), "q", []*linda.Job{job}))
	}
	go func() {
		_, _ = second.Pop("q", 60) // joins
		time.Sleep(time.Second)
		_ = first.Close()
	}()
	for class, times := range drain(t, second, "q", want, 60*time.Second) {
		assert.Equal(t, 1, times, class)
	}
	job, err := second.Pop("q", 60)
	assert.True(t, job == nil && err == nil, "%v %v", job, err)
}

func TestURLErrorsNameTheOptionAndNoSecret(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"colour=red", "partitions=0", "partitions=x", "lock=1ms", "mode=fast", "window=0", "window=16001", "group=-", "lock=30s&lock=40s", "trim=some", "trim_every=1ms"} {
		_, err := linda.NewBroker("kafka://user:secret@127.0.0.1:1/?" + query)
		require.ErrorIs(t, err, linda.ErrBadURL, query)
		assert.NotContains(t, err.Error(), "secret")
	}
	_, err := linda.NewBroker("kafka://127.0.0.1:1")
	assert.True(t, err != nil && !errors.Is(err, linda.ErrBadURL), "%v", err)
}

// The server has not carried out the first try, and the connection on which the
// job was held is gone: a second one must not take it for done.
func TestASettlementOfUnknownOutcomeIsNotDoneBecauseTheServerDied(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	b := open(t, server.URL)
	defer b.Close()
	require.NoError(t, b.Push(newJob("held"), "q"))
	job := fetchAll(t, b, "q", 1)[0]
	require.NoError(t, server.Pause())
	try := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return b.(linda.Settler).Settle(ctx, "q", []linda.Settlement{{Job: job, Op: linda.OpDelete}})
	}
	require.ErrorIs(t, try(), linda.ErrUnknown)
	require.NoError(t, server.Kill())
	err := try()
	for errors.Is(err, linda.ErrUnknown) { // until the connection is known to be gone
		err = try()
	}
	require.ErrorIs(t, err, linda.ErrLeaseLost)
	require.NoError(t, server.Restart(t.Context()))
	drain(t, b, "q", map[string]bool{"held": true}, 60*time.Second)
}

// The movers have groups of their own, which queues of these names must not take
// from them, nor they from the queues.
func TestQueuesThatAreNamedLikeTheGroupsOfTheMoversWork(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	for _, option := range []string{"", classic + "&prefix=classic."} {
		b := open(t, server.URL+option)
		defer b.Close()
		for _, queue := range []string{"delay", "delay.leader"} {
			require.NoError(t, b.Push(newJob("now"), queue))
			require.NoError(t, b.Later(1, newJob("later"), queue))
			for class, times := range drain(t, b, queue, map[string]bool{"now": true, "later": true}, time.Minute) {
				assert.Equal(t, 1, times, "%s %s%s", class, queue, option)
			}
		}
	}
}

// In share mode the server stores that a record was handed out when that has
// ended; in classic mode linda does so before.
func TestWhatIsHeldWhenTheServerIsKilledIsCountedInClassicModeOnly(t *testing.T) {
	t.Parallel()
	for option, attempt := range map[string]int{"": 1, classic: 2} {
		t.Run("mode"+option, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Kafka)
			url := server.URL + option + "&lock=2s"
			warmUp(t, url)
			b := open(t, url)
			defer b.Close()
			assert.Equal(t, option == classic, b.(linda.Guarantor).Guarantees().AttemptsExact)
			for range 10 {
				require.NoError(t, b.Push(newJob("held"), "q"))
			}
			w := startWorker(t, url, holdEnv+"=1")
			w.until(t, "it to hold the jobs", 20*time.Second, func(line string) bool { return line == "holds" })
			require.NoError(t, server.Kill())
			w.kill(t)
			require.NoError(t, server.Restart(t.Context()))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for n := 0; n < 10; {
				jobs, err := b.(linda.Fetcher).Fetch(ctx, "q", 10, time.Minute)
				require.NoError(t, ctx.Err(), "%d of 10 jobs have come, %v", n, err) // other errors are those of a server that is away
				for _, job := range jobs {
					assert.Equal(t, attempt, job.Attempt())
				}
				n += len(jobs)
			}
		})
	}
}
