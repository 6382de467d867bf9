package rabbitmq_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

const (
	benchBatch   = 500
	benchWorkers = 50
)

// BenchmarkPush pushes jobs in batches, beside publishes of the bare client
// whose confirms are awaited in batches of the same size.
func BenchmarkPush(b *testing.B) {
	server := brokerd.Run(b, brokerd.RabbitMQ)
	b.Run("bare", func(b *testing.B) {
		ch := dial(b, server.URL)
		bareQueue(b, ch, "bare")
		for b.Loop() {
			barePush(b, ch, "bare", benchBatch)
		}
		b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "jobs/s")
		_, _ = ch.QueuePurge("bare", false)
	})
	b.Run("linda", func(b *testing.B) {
		broker := open(b, server.URL)
		defer broker.Close()
		push(b, broker, "linda", 1) // makes the queue
		for b.Loop() {
			push(b, broker, "linda", benchBatch)
		}
		b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "jobs/s")
		_, _ = broker.(linda.Inspector).Purge(context.Background(), "linda", linda.Ready)
	})
	b.Run("linda-single-50", func(b *testing.B) {
		broker := open(b, server.URL)
		defer broker.Close()
		push(b, broker, "single", 1)
		for b.Loop() {
			var all sync.WaitGroup
			for range benchWorkers {
				all.Go(func() {
					for range benchBatch / benchWorkers {
						require.NoError(b, broker.Push(job("bench"), "single"))
					}
				})
			}
			all.Wait()
		}
		b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "jobs/s")
		_, _ = broker.(linda.Inspector).Purge(context.Background(), "single", linda.Ready)
	})
}

// BenchmarkDrain works jobs off with a dispatcher of 50 workers, beside 50
// goroutines that acknowledge the deliveries of one consumer.
func BenchmarkDrain(b *testing.B) {
	const jobs = 20_000
	server := brokerd.Run(b, brokerd.RabbitMQ)
	broker := open(b, server.URL)
	defer broker.Close()
	b.Run("bare", func(b *testing.B) {
		ch := dial(b, server.URL)
		bareQueue(b, ch, "bare")
		took := time.Duration(0)
		for b.Loop() {
			b.StopTimer()
			for range jobs / benchBatch {
				barePush(b, ch, "bare", benchBatch)
			}
			b.StartTimer()
			began := time.Now()
			bareDrain(b, dial(b, server.URL), "bare", jobs)
			took += time.Since(began)
		}
		b.ReportMetric(float64(b.N*jobs)/took.Seconds(), "jobs/s")
	})
	b.Run("linda", func(b *testing.B) {
		took := time.Duration(0)
		for n := 0; b.Loop(); n++ {
			queue := fmt.Sprint("linda", n)
			b.StopTimer()
			for range jobs / benchBatch {
				push(b, broker, queue, benchBatch)
			}
			b.StartTimer()
			began := time.Now()
			drain(b, server.URL, queue, jobs)
			took += time.Since(began)
		}
		b.ReportMetric(float64(b.N*jobs)/took.Seconds(), "jobs/s")
	})
}

func bareQueue(b *testing.B, ch *amqp.Channel, name string) {
	_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	require.NoError(b, err)
}

var benchBody, _ = linda.Encode(job("bench"), "bare")

func barePush(b *testing.B, ch *amqp.Channel, queue string, n int) {
	confirms := make([]*amqp.DeferredConfirmation, n)
	for i := range confirms {
		var err error
		confirms[i], err = ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{Body: benchBody, DeliveryMode: amqp.Persistent})
		require.NoError(b, err)
	}
	for _, c := range confirms {
		require.True(b, c.Wait())
	}
}

func bareDrain(b *testing.B, ch *amqp.Channel, queue string, n int) {
	require.NoError(b, ch.Qos(2*benchWorkers, 0, false))
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	require.NoError(b, err)
	var all sync.WaitGroup
	tickets := make(chan struct{}, n)
	for range n {
		tickets <- struct{}{}
	}
	close(tickets)
	for range benchWorkers {
		all.Go(func() {
			for range tickets {
				d := <-deliveries
				_ = d.Ack(false)
			}
		})
	}
	all.Wait()
	require.NoError(b, ch.Close())
}

func push(b *testing.B, broker linda.Broker, queue string, n int) {
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = job("bench")
	}
	require.NoError(b, broker.(linda.BatchPusher).PushBatch(context.Background(), queue, jobs))
}

func drain(b *testing.B, url, queue string, n int) {
	d, err := linda.New(linda.Settings{Queue: queue, Connection: url, Concurrency: benchWorkers, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	left := make(chan struct{}, n)
	d.HandleFunc("bench", func(context.Context, *linda.Job) error { left <- struct{}{}; return nil })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	for range n {
		<-left
	}
	stop()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
}
