package linda_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// BenchmarkRedisIdlePickup measures how long after Push has returned the
// handler of an idle worker starts.
func BenchmarkRedisIdlePickup(b *testing.B) {
	d, err := linda.New(linda.Settings{Queue: "q", Connection: brokerd.Run(b, brokerd.Redis).URL})
	require.NoError(b, err)
	started := make(chan time.Time)
	d.HandleFunc("C", func(context.Context, *linda.Job) error {
		started <- time.Now()
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var waits []time.Duration
	for b.Loop() {
		time.Sleep(2 * time.Millisecond) // idle again
		require.NoError(b, d.Push(ctx, &linda.Job{Payload: linda.Payload{Class: "C"}}))
		pushed := time.Now()
		waits = append(waits, max(0, (<-started).Sub(pushed)))
	}
	cancel()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(waits[len(waits)-1].Microseconds()), "max-µs")
}

// BenchmarkRedisDrain measures jobs from a full queue to settled, each reserved
// before it runs and deleted after it.
func BenchmarkRedisDrain(b *testing.B) {
	d, err := linda.New(linda.Settings{Queue: "q", Connection: brokerd.Run(b, brokerd.Redis).URL, Concurrency: 10})
	require.NoError(b, err)
	jobs := make([]*linda.Job, 1000)
	for i := range jobs {
		jobs[i] = &linda.Job{Payload: linda.Payload{Class: "C", Args: []any{"an argument", i}}}
	}
	for left := b.N; left > 0; left -= len(jobs) {
		require.NoError(b, d.PushBatch(b.Context(), jobs[:min(left, len(jobs))]))
	}
	ran := make(chan struct{}, b.N)
	d.HandleFunc("C", func(context.Context, *linda.Job) error {
		ran <- struct{}{}
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { done <- d.Run(ctx) }()
	for range b.N {
		<-ran
	}
	cancel()
	require.NoError(b, <-done) // settled
	b.StopTimer()
	require.NoError(b, d.Close())
}
