package linda

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"
)

// BenchmarkEngineMemory is what the engine itself costs: jobs that do nothing,
// from the first pop to the last settlement, without a server.
func BenchmarkEngineMemory(b *testing.B) {
	for _, workers := range []int{10, 50} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) { benchEngine(b, workers, nil) })
	}
}

// BenchmarkEngineQuick is the same with handlers of some microseconds.
func BenchmarkEngineQuick(b *testing.B) {
	benchEngine(b, 10, func() {
		for start := time.Now(); time.Since(start) < 5*time.Microsecond; {
		}
	})
}

func benchEngine(b *testing.B, workers int, work func()) {
	var left sync.WaitGroup
	left.Add(b.N)
	d, err := New(Settings{Connection: "memory://", Queue: "q", Concurrency: workers,
		Logger: slog.New(slog.DiscardHandler), OnEvent: func(Event) { left.Done() }})
	if err != nil {
		b.Fatal(err)
	}
	d.Handle("a", HandlerFunc(func(context.Context, *Job) error {
		if work != nil {
			work()
		}
		return nil
	}))
	jobs := make([]*Job, b.N)
	for i := range jobs {
		jobs[i] = &Job{Payload: Payload{Class: "a", Args: []any{i, "some text"}}}
	}
	if err := d.PushBatch(b.Context(), jobs); err != nil {
		b.Fatal(err)
	}
	jobs = nil
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- d.Run(ctx) }()
	left.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.StopTimer()
	cancel()
	if err := <-stopped; err != nil {
		b.Fatal(err)
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
