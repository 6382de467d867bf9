package beanstalkd

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// BenchmarkBeside drains the same jobs in turn by the bare protocol, driven at its
// best, and by a dispatcher with 50 workers, from the first fetch to the last
// settlement. What else the machine does is shared by both, so that the ratio tells
// more than either rate. No job is older than the moment that it took to push.
func BenchmarkBeside(b *testing.B) {
	server := brokerd.Run(b, brokerd.Beanstalkd)
	broker := open(b, server.URL).(*broker)
	defer broker.Close()
	var bare, ours, ratios []float64
	for b.Loop() {
		fill(b, broker, load)
		one := rate(func() { drainBare(b, server.Addr) })
		fill(b, broker, load)
		two := rate(func() { drainByEngine(b, server.URL) })
		bare, ours, ratios = append(bare, one), append(ours, two), append(ratios, two/one)
	}
	b.ReportMetric(median(bare), "bare-jobs/s")
	b.ReportMetric(median(ours), "linda-jobs/s")
	b.ReportMetric(median(ratios), "linda/bare")
}

func fill(b *testing.B, broker *broker, jobs int) {
	b.Helper()
	batch := make([]*linda.Job, 1000)
	for i := range batch {
		batch[i] = job(i)
	}
	for range jobs / len(batch) {
		require.NoError(b, broker.PushBatch(b.Context(), "q", batch))
	}
}

func rate(drain func()) float64 {
	began := time.Now()
	drain()
	return load / time.Since(began).Seconds()
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func drainBare(b *testing.B, addr string) {
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() { bareDrain(b, addr) })
	}
	running.Wait()
}

func drainByEngine(b *testing.B, url string) {
	var left sync.WaitGroup
	left.Add(load)
	d, err := linda.New(linda.Settings{Connection: url, Queue: "q", Concurrency: 50,
		Logger: slog.New(slog.DiscardHandler), OnEvent: func(linda.Event) { left.Done() }})
	require.NoError(b, err)
	defer d.Close()
	d.HandleFunc("C", func(context.Context, *linda.Job) error { return nil })
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- d.Run(ctx) }()
	left.Wait()
	cancel()
	require.NoError(b, <-stopped)
}
