package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func job(n int) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: "C", Args: []any{n}}}
}

// fetched waits for a job, over the times the server is not there.
func fetched(t *testing.T, b linda.Broker) *linda.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		jobs, err := b.(linda.Fetcher).Fetch(ctx, "q", 1, time.Minute)
		require.NoError(t, ctx.Err(), "%v", err)
		if len(jobs) == 1 {
			return jobs[0]
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestNothingThatWasPushedIsLostWhenTheServerCrashes(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	const n = 200
	for i := range n {
		require.NoError(t, b.Push(job(i), "q"))
	}
	held := fetched(t, b)
	require.NoError(t, server.Kill())
	require.NoError(t, server.Restart(t.Context()))
	seen := make(map[string]bool)
	for len(seen) < n {
		job := fetched(t, b)
		require.False(t, seen[job.ID], "it came out before")
		seen[job.ID] = true
		require.ErrorIs(t, b.Delete("q", held), linda.ErrLeaseLost, "a reservation from before the crash")
		require.NoError(t, b.Delete("q", job))
	}
	assert.True(t, seen[held.ID])
}

func TestEveryCallReturnsWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	require.NoError(t, b.Push(job(1), "q"))
	held := fetched(t, b)
	require.NoError(t, server.Pause())
	within := func(limit time.Duration, call string, do func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		begun := time.Now()
		assert.Error(t, do(ctx), call)
		assert.Less(t, time.Since(begun), limit+2*time.Second, call)
	}
	within(200*time.Millisecond, "Fetch", func(ctx context.Context) error {
		_, err := b.(linda.Fetcher).Fetch(ctx, "q", 1, time.Minute)
		return err
	})
	within(200*time.Millisecond, "PushBatch", func(ctx context.Context) error {
		err := b.(linda.BatchPusher).PushBatch(ctx, "q", []*linda.Job{job(2)})
		assert.ErrorIs(t, err, linda.ErrUnknown)
		return err
	})
	within(200*time.Millisecond, "Settle", func(ctx context.Context) error {
		return b.(linda.Settler).Settle(ctx, "q", []linda.Settlement{{Job: held, Op: linda.OpRelease, Reason: "x"}})
	})
	within(5*time.Second, "Push", func(context.Context) error { return b.Push(job(3), "q") })
	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool {
		return !errors.Is(b.Delete("q", held), linda.ErrUnknown)
	}, 10*time.Second, 10*time.Millisecond)
	ids := make(map[string]bool)
	for range 3 { // the retry of the first, and the pushes that were sent meanwhile
		job := fetched(t, b)
		ids[job.ID] = true
		require.NoError(t, b.Delete("q", job))
	}
	assert.Len(t, ids, 3)
	assert.True(t, ids[held.ID], "the settlement went on")
}

func TestAJobAtTheServersLimitIsRefusedWithItsFigure(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd, brokerd.Args("-z", "10000"))
	b := open(t, server.URL)
	defer b.Close()
	most := b.(linda.Guarantor).Guarantees().BodyMax
	assert.Equal(t, 10000-bookkeeping, most)
	large := job(0)
	large.Payload.Args = []any{strings.Repeat("x", most)}
	err := b.Push(large, "q")
	require.ErrorIs(t, err, linda.ErrTooLarge)
	assert.Contains(t, err.Error(), fmt.Sprint(10000))
	require.NoError(t, b.Push(job(1), "q"))
}

func TestURLsAreReadStrictly(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"beanstalkd://", "beanstalkd://h/x", "beanstalkd://u:secret@h", "beanstalkd://h?no=1", "beanstalkd://h?ttr=1s",
		"beanstalkd://h?ttr=3500ms", "beanstalkd://h?pri=-1", "beanstalkd://h?conns=1", "beanstalkd://h?ttr=9s&ttr=9s",
	} {
		_, err := linda.NewBroker(url)
		require.ErrorIs(t, err, linda.ErrBadURL, url)
		assert.NotContains(t, err.Error(), "secret")
	}
}
