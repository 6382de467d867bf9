package kafka_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

const (
	benchWorkers = 50
	benchBody    = `{"queue":"bare","Payload":{"class":"C","args":["cat.png",640]}}`
)

// BenchmarkPush pushes one job at a time from 50 goroutines.
func BenchmarkPush(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	b.Run("bare", func(b *testing.B) {
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(0))
		require.NoError(b, err)
		defer client.Close()
		require.NoError(b, createTopic(b, client, "bare"))
		each(b, func() error {
			return client.ProduceSync(b.Context(), &kgo.Record{Topic: "bare", Value: []byte(benchBody)}).FirstErr()
		})
	})
	b.Run("linda", func(b *testing.B) {
		broker := open(b, server.URL)
		defer broker.Close()
		each(b, func() error {
			return broker.Push(&linda.Job{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}, "linda")
		})
	})
}

// each carries out b.N calls from 50 goroutines.
func each(b *testing.B, call func() error) {
	b.Helper()
	if err := call(); err != nil {
		b.Fatal(err)
	}
	todo := make(chan struct{}, b.N)
	for range b.N {
		todo <- struct{}{}
	}
	close(todo)
	b.ResetTimer()
	var all sync.WaitGroup
	for range benchWorkers {
		all.Go(func() {
			for range todo {
				if err := call(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkDrain fetches and deletes what is there, 50 at a time.
func BenchmarkDrain(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	producer := open(b, server.URL)
	defer producer.Close()
	fill := func(b *testing.B, queue string) {
		jobs := slices.Repeat([]*linda.Job{{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}}, 1000)
		for left := b.N; left > 0; left -= 1000 {
			require.NoError(b, producer.(linda.BatchPusher).PushBatch(b.Context(), queue, jobs[:min(left, 1000)]))
		}
	}
	b.Run("bare", func(b *testing.B) {
		topic := "bare" + time.Now().Format("150405.000000")
		fill(b, topic)
		broker := open(b, server.URL) // sets up the group, and takes nothing
		ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
		first, err := broker.(linda.Fetcher).Fetch(ctx, topic, 1, time.Minute)
		cancel()
		require.NoError(b, err)
		require.NoError(b, broker.Delete(topic, first[0]))
		require.NoError(b, broker.Close())
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ConsumeTopics(topic), kgo.ShareGroup("linda."+topic),
			kgo.ShareMaxRecords(benchWorkers), kgo.ShareMaxRecordsStrict())
		require.NoError(b, err)
		defer client.Close()
		b.ResetTimer()
		for got := 1; got < b.N; {
			fetches := client.PollRecords(b.Context(), benchWorkers)
			require.NoError(b, fetches.Err())
			for _, r := range fetches.Records() {
				r.Ack(kgo.AckAccept)
				got++
			}
			require.NoError(b, client.FlushAcks(b.Context()))
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	})
	b.Run("linda", func(b *testing.B) {
		queue := "linda" + time.Now().Format("150405.000000")
		fill(b, queue)
		broker := open(b, server.URL)
		defer broker.Close()
		b.ResetTimer()
		for got := 0; got < b.N; {
			jobs, err := broker.(linda.Fetcher).Fetch(b.Context(), queue, benchWorkers, time.Minute)
			require.NoError(b, err)
			batch := make([]linda.Settlement, len(jobs))
			for i, job := range jobs {
				batch[i] = linda.Settlement{Job: job, Op: linda.OpDelete}
			}
			require.NoError(b, broker.(linda.Settler).Settle(b.Context(), queue, batch))
			got += len(jobs)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	})
}

// BenchmarkPickUp pushes to a queue on which somebody waits.
func BenchmarkPickUp(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	broker := open(b, server.URL)
	defer broker.Close()
	var took []time.Duration
	for range b.N {
		came := make(chan *linda.Job, 1)
		go func() {
			jobs, err := broker.(linda.Fetcher).Fetch(b.Context(), "q", 1, time.Minute)
			if err == nil {
				came <- jobs[0]
			}
		}()
		time.Sleep(30 * time.Millisecond)
		pushed := time.Now()
		require.NoError(b, broker.Push(newJob("C"), "q"))
		job := <-came
		took = append(took, time.Since(pushed))
		require.NoError(b, broker.Delete("q", job))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// BenchmarkDelay tells how late delayed jobs come, and that none is early.
func BenchmarkDelay(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	broker := open(b, server.URL)
	defer broker.Close()
	_, _ = broker.Pop("q", 60)
	due := make(map[string]time.Time)
	for pushed := 0; pushed < b.N; pushed += benchWorkers {
		jobs := make([]*linda.Job, min(benchWorkers, b.N-pushed))
		for i := range jobs {
			jobs[i] = newJob("C")
			jobs[i].ID, jobs[i].Delay = linda.NewID(), time.Second+time.Duration((pushed+i)*7919%4000)*time.Millisecond
			due[jobs[i].ID] = time.Now().Add(jobs[i].Delay)
		}
		require.NoError(b, broker.(linda.BatchPusher).PushBatch(b.Context(), "q", jobs))
	}
	var late []time.Duration
	for len(late) < b.N {
		jobs, err := broker.(linda.Fetcher).Fetch(b.Context(), "q", 50, time.Minute)
		require.NoError(b, err)
		now := time.Now()
		for _, job := range jobs {
			by := now.Sub(due[job.ID])
			if by < 0 {
				b.Errorf("%v is early by %v", job, -by)
			}
			late = append(late, by)
		}
		require.NoError(b, deleteAll(b.Context(), broker, "q", jobs))
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(late[len(late)*99/100])/1e6, "p99-ms")
}

// deleteAll deletes jobs in one call.
func deleteAll(ctx context.Context, broker linda.Broker, queue string, jobs []*linda.Job) error {
	batch := make([]linda.Settlement, len(jobs))
	for i, job := range jobs {
		batch[i] = linda.Settlement{Job: job, Op: linda.OpDelete}
	}
	return broker.(linda.Settler).Settle(ctx, queue, batch)
}
