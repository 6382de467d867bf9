package rabbitmq_test

import (
	"context"
	"log/slog"
	"slices"
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

// beside measures the bare client and linda in turn, so that what else the machine
// does is shared by both: the ratio tells more than either rate.
func beside(b *testing.B, jobs int, bare, ours func() time.Duration) {
	var theirs, own, ratios []float64
	for b.Loop() {
		one, two := float64(jobs)/bare().Seconds(), float64(jobs)/ours().Seconds()
		theirs, own, ratios = append(theirs, one), append(own, two), append(ratios, two/one)
	}
	for name, values := range map[string][]float64{"bare-jobs/s": theirs, "linda-jobs/s": own, "linda/bare": ratios} {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], name)
	}
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// BenchmarkPush pushes jobs in batches, and one by one from 50 goroutines, beside
// publishes of the bare client in batches of the same size, and from as many
// goroutines, one channel for all of them.
func BenchmarkPush(b *testing.B) {
	const jobs = 10_000
	server := brokerd.Run(b, brokerd.RabbitMQ)
	ch := dial(b, server.URL)
	bareQueue(b, ch, "bare")
	broker := open(b, server.URL)
	defer broker.Close()
	push(b, broker, "linda", 1) // makes the queue
	bare := func() time.Duration {
		_, _ = ch.QueuePurge("bare", false)
		return took(func() {
			for range jobs / benchBatch {
				barePush(b, ch, "bare", benchBatch)
			}
		})
	}
	ours := func(push func()) func() time.Duration {
		return func() time.Duration {
			_, _ = broker.(linda.Inspector).Purge(context.Background(), "linda", linda.Ready)
			return took(push)
		}
	}
	b.Run("batches", func(b *testing.B) {
		beside(b, jobs, bare, ours(func() {
			for range jobs / benchBatch {
				push(b, broker, "linda", benchBatch)
			}
		}))
	})
	fifty := func() time.Duration { // with as many in flight as 50 goroutines can have
		_, _ = ch.QueuePurge("bare", false)
		return took(func() {
			var all sync.WaitGroup
			for range benchWorkers {
				all.Go(func() {
					for range jobs / benchWorkers {
						barePush(b, ch, "bare", 1)
					}
				})
			}
			all.Wait()
		})
	}
	b.Run("single", func(b *testing.B) {
		beside(b, jobs, fifty, ours(func() {
			var all sync.WaitGroup
			for range benchWorkers {
				all.Go(func() {
					for range jobs / benchWorkers {
						require.NoError(b, broker.Push(job("bench"), "linda"))
					}
				})
			}
			all.Wait()
		}))
	})
}

// BenchmarkPickUp tells how long after its push a job runs on an idle worker.
func BenchmarkPickUp(b *testing.B) {
	server := brokerd.Run(b, brokerd.RabbitMQ)
	d, err := linda.New(linda.Settings{Queue: "idle", Connection: server.URL, Concurrency: 10, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	ran := make(chan time.Time, 1)
	d.HandleFunc("bench", func(context.Context, *linda.Job) error { ran <- time.Now(); return nil })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var times []time.Duration
	for b.Loop() {
		time.Sleep(5 * time.Millisecond) // the worker is idle again
		began := time.Now()
		require.NoError(b, d.Push(ctx, job("bench")))
		times = append(times, (<-ran).Sub(began))
	}
	report(b, times)
	stop()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
}

// BenchmarkDelay tells how late delayed jobs come, by how long the delay is.
func BenchmarkDelay(b *testing.B) {
	server := brokerd.Run(b, brokerd.RabbitMQ)
	broker := open(b, server.URL)
	defer broker.Close()
	for _, most := range []time.Duration{100 * time.Millisecond, time.Second, 4 * time.Second} {
		b.Run(most.String(), func(b *testing.B) {
			queue := "delay-" + most.String()
			warm := job("warm")
			warm.Delay = 2 * most // makes what the others need
			require.NoError(b, broker.Push(warm, queue))
			first, err := broker.(linda.Fetcher).Fetch(b.Context(), queue, 1, time.Minute)
			require.NoError(b, err)
			require.NoError(b, broker.Delete(queue, first[0]))
			var times []time.Duration
			late := make(chan time.Duration, 1<<16)
			ctx, stop := context.WithCancel(b.Context())
			var fetching sync.WaitGroup
			fetching.Go(func() {
				for ctx.Err() == nil {
					jobs, err := broker.(linda.Fetcher).Fetch(ctx, queue, 10, time.Minute)
					now := time.Now()
					for _, j := range jobs {
						due, _ := time.Parse(time.RFC3339Nano, j.Headers["due"])
						late <- now.Sub(due)
						err = broker.Delete(queue, j)
					}
					if err != nil && ctx.Err() == nil {
						b.Error(err)
						return
					}
				}
			})
			pushed := 0
			for n := 0; b.Loop(); n++ {
				j := job("bench")
				j.Delay = time.Duration(n*7919%1000+1) * most / 1000
				j.Headers = map[string]string{"due": time.Now().Add(j.Delay).Format(time.RFC3339Nano)}
				pushed++
				require.NoError(b, broker.Push(j, queue))
				time.Sleep(3 * time.Millisecond)
			}
			for range pushed {
				times = append(times, <-late)
			}
			stop()
			fetching.Wait()
			report(b, times)
			if times[0] < 0 {
				b.Errorf("early by %v", -times[0])
			}
		})
	}
}

func report(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkDrain works jobs off with a dispatcher of 50 workers, from its first
// fetch to its last job, beside a consumer of the bare client: 50 goroutines that
// acknowledge each delivery, and one that acknowledges many at once.
func BenchmarkDrain(b *testing.B) {
	const jobs = 100_000
	server := brokerd.Run(b, brokerd.RabbitMQ)
	broker := open(b, server.URL)
	defer broker.Close()
	ch := dial(b, server.URL)
	bareQueue(b, ch, "bare")
	push(b, broker, "linda", 1)
	drain(b, server.URL, "linda", 1)
	for name, drainBare := range map[string]func(*testing.B, *amqp.Channel, string, int){"each": bareDrain, "many": bareDrainMany} {
		b.Run(name, func(b *testing.B) {
			beside(b, jobs, func() time.Duration {
				for range jobs / benchBatch {
					barePush(b, ch, "bare", benchBatch)
				}
				own := dial(b, server.URL)
				return took(func() { drainBare(b, own, "bare", jobs) })
			}, func() time.Duration {
				for range jobs / benchBatch {
					push(b, broker, "linda", benchBatch)
				}
				return drain(b, server.URL, "linda", jobs)
			})
		})
	}
}

// bareDrainMany acknowledges a hundred at a time.
func bareDrainMany(b *testing.B, ch *amqp.Channel, queue string, n int) {
	const many = 100
	require.NoError(b, ch.Qos(10*many, 0, false))
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	require.NoError(b, err)
	for i := 1; i <= n; i++ {
		d := <-deliveries
		if i%many == 0 {
			_ = d.Ack(true)
		}
	}
	require.NoError(b, ch.Close())
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
	require.NoError(b, ch.Qos(10*benchWorkers, 0, false))
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

// drain returns how long a dispatcher needs from its first fetch to its last job.
func drain(b *testing.B, url, queue string, n int) time.Duration {
	d, err := linda.New(linda.Settings{Queue: queue, Connection: url, Concurrency: benchWorkers, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	left := make(chan struct{}, n)
	d.HandleFunc("bench", func(context.Context, *linda.Job) error { left <- struct{}{}; return nil })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- d.Run(ctx) }()
	for range n {
		<-left
	}
	took := time.Since(began)
	stop()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
	return took
}
