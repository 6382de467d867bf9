package rabbitmq_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func job(class string) *linda.Job { return &linda.Job{Payload: linda.Payload{Class: class}} }

func opened(t *testing.T, url string) linda.Broker {
	t.Helper()
	b := open(t, url)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

// one waits for a job.
func one(t *testing.T, b linda.Broker, queue string) *linda.Job {
	t.Helper()
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), queue, 1, time.Minute)
	require.NoError(t, err)
	return jobs[0]
}

func TestTheLongestDelayIsTaken(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	for _, kind := range []string{"quorum", "classic"} {
		b := opened(t, fmt.Sprintf("%s?queue_type=%s&delay_prefix=%s", server.URL, kind, kind))
		began := time.Now()
		far := job("far")
		far.Delay = b.(linda.Guarantor).Guarantees().DelayMax
		require.NoError(t, b.Push(far, kind))
		t.Logf("%s: the first took %v", kind, time.Since(began))
		far.Delay++
		require.ErrorIs(t, b.Push(far, kind), linda.ErrDelayTooLong)
		got, err := b.Pop(kind, 1)
		require.NoError(t, err)
		assert.Nil(t, got)
	}
}

func TestDelaysAreNeverEarlyAndHardlyLate(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	var jobs []*linda.Job
	for i := range 300 {
		j := job("later")
		j.Delay = time.Duration(i*17+1) * time.Millisecond
		j.Headers = map[string]string{"ms": fmt.Sprint(i*17 + 1)}
		jobs = append(jobs, j)
	}
	for _, units := range []time.Duration{0x155, 0x2aa, 0x3ff} { // makes what delays need: all digits are 1, 2 or 3
		warm := job("warm")
		warm.Delay = units*8*time.Millisecond - 6*time.Millisecond
		require.NoError(t, b.Push(warm, "q"))
		jobs = append(jobs, warm)
	}
	start := time.Now()
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs[:300]))
	var late []time.Duration
	t.Logf("pushing took %v", time.Since(start))
	for range jobs {
		got := one(t, b, "q")
		if got.Payload.Class == "warm" {
			require.NoError(t, b.Delete("q", got))
			continue
		}
		var ms int
		_, _ = fmt.Sscan(got.Headers["ms"], &ms)
		off := time.Since(start) - time.Duration(ms)*time.Millisecond
		assert.GreaterOrEqual(t, off, time.Duration(0), "early")
		late = append(late, off)
		require.NoError(t, b.Delete("q", got))
	}
	var sum, most time.Duration
	for _, d := range late {
		sum += d
		most = max(most, d)
	}
	t.Logf("mean lateness %v, most %v", sum/time.Duration(len(late)), most)
}

// Looking for jobs while the server is told to send some, or to stop, must not mix
// up their answers: the channel would be closed, and every reservation lost. There
// are many queues, since it is a matter of who is put off for a moment.
func TestPopsBesideFetchesLoseNoReservation(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL+"?new_queue_wait=0s")
	var all sync.WaitGroup
	defer all.Wait()
	for i := range 24 {
		queue := fmt.Sprintf("q%d", i)
		require.NoError(t, b.Push(job("C"), queue))
		held, err := b.Pop(queue, 60)
		require.NoError(t, err)
		require.NotNil(t, held)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		t.Cleanup(cancel) // not before all have ended: a Fetch that is cancelled says so
		all.Go(func() {
			for ctx.Err() == nil {
				job, err := b.Pop(queue, 60)
				assert.NoError(t, err)
				assert.Nil(t, job, "it is reserved")
			}
		})
		all.Go(func() {
			for ctx.Err() == nil { // the server is told to stop after a quarter of a second
				limited, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
				jobs, err := b.(linda.Fetcher).Fetch(limited, queue, 1, time.Minute)
				cancel()
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Empty(t, jobs, "it is reserved")
				time.Sleep(300 * time.Millisecond)
			}
			assert.NoError(t, b.Delete(queue, held))
		})
	}
}
