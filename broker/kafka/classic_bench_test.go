package kafka_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// BenchmarkClassicDrain takes and deletes what is there: by the bare client, 50
// records to a commit; by Fetch and Settle of 50; and by 50 workers.
func BenchmarkClassicDrain(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	url := strings.Replace(server.URL, "partitions=1", "partitions=4", 1) + classic
	warmUp(b, url)
	producer := open(b, url)
	defer producer.Close()
	fill := func(b *testing.B, queue string) string {
		queue += time.Now().Format("150405.000000")
		jobs := slices.Repeat([]*linda.Job{{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}}, 1000)
		for left := b.N; left > 0; left -= 1000 {
			require.NoError(b, producer.(linda.BatchPusher).PushBatch(b.Context(), queue, jobs[:min(left, 1000)]))
		}
		return queue
	}
	rate := func(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s") }

	b.Run("bare", func(b *testing.B) {
		topic := fill(b, "bare")
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ConsumerGroup("bare."+topic), kgo.ConsumeTopics(topic),
			kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		require.NoError(b, err)
		defer client.Close()
		got := take(b, client, 1) // it has joined
		b.ResetTimer()
		for got < b.N {
			got += take(b, client, benchWorkers)
		}
		rate(b)
	})
	b.Run("linda", func(b *testing.B) {
		queue := fill(b, "linda")
		broker := open(b, url)
		defer broker.Close()
		got := settle(b, broker, queue, 1)
		b.ResetTimer()
		for got < b.N {
			got += settle(b, broker, queue, benchWorkers)
		}
		rate(b)
	})
	b.Run("workers", func(b *testing.B) {
		queue := fill(b, "workers")
		var ran atomic.Int64
		begun, ended := make(chan struct{}), make(chan struct{})
		d, err := linda.New(linda.Settings{Connection: url, Queue: queue, Concurrency: benchWorkers, Logger: slog.New(slog.DiscardHandler),
			OnEvent: func(linda.Event) {
				switch ran.Add(1) {
				case int64(b.N):
					close(ended)
				case 1:
					close(begun)
				}
			}})
		require.NoError(b, err)
		defer d.Close()
		d.HandleFunc("C", func(context.Context, *linda.Job) error { return nil })
		ctx, stop := context.WithCancel(b.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- d.Run(ctx) }()
		if b.N > 1 {
			<-begun
		}
		b.ResetTimer()
		<-ended
		rate(b)
		b.StopTimer()
		stop()
		require.NoError(b, <-stopped)
	})
}

// take polls and commits.
func take(b *testing.B, client *kgo.Client, max int) int {
	fetches := client.PollRecords(b.Context(), max)
	require.NoError(b, fetches.Err())
	require.NoError(b, client.CommitUncommittedOffsets(b.Context()))
	return fetches.NumRecords()
}

func settle(b *testing.B, broker linda.Broker, queue string, max int) int {
	jobs, err := broker.(linda.Fetcher).Fetch(b.Context(), queue, max, time.Minute)
	require.NoError(b, err)
	batch := make([]linda.Settlement, len(jobs))
	for i, job := range jobs {
		batch[i] = linda.Settlement{Job: job, Op: linda.OpDelete}
	}
	require.NoError(b, broker.(linda.Settler).Settle(b.Context(), queue, batch))
	return len(jobs)
}

// BenchmarkClassicPush pushes one job at a time from 50 goroutines, to four
// partitions.
func BenchmarkClassicPush(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	url := strings.Replace(server.URL, "partitions=1", "partitions=4", 1) + classic
	warmUp(b, url)
	broker := open(b, url)
	defer broker.Close()
	for _, topic := range []string{"bare", "linda"} {
		require.NoError(b, broker.Push(newJob("C"), topic)) // makes the topic
	}
	run := func(b *testing.B, push func() error) {
		var left atomic.Int64
		left.Store(int64(b.N))
		var all sync.WaitGroup
		b.ResetTimer()
		for range benchWorkers {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					if err := push(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		all.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	}
	b.Run("bare", func(b *testing.B) {
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(0))
		require.NoError(b, err)
		defer client.Close()
		run(b, func() error {
			return client.ProduceSync(b.Context(), &kgo.Record{Topic: "bare", Value: []byte(benchBody)}).FirstErr()
		})
	})
	b.Run("linda", func(b *testing.B) {
		run(b, func() error {
			return broker.Push(&linda.Job{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}, "linda")
		})
	})
}
