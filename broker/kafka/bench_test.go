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

// contender is one side of a comparison: it does n jobs and tells how long they took.
type contender struct {
	name string
	do   func(n int) time.Duration
}

const rounds = 7

// compare lets all do b.N jobs by turns, after a round that does not count, and
// reports the median rate of each and how the last compares with the best other.
func compare(b *testing.B, all ...contender) {
	b.Helper()
	rates := make(map[string][]float64)
	for round := range rounds + 1 {
		for _, c := range all {
			if took := c.do(b.N); round > 0 {
				rates[c.name] = append(rates[c.name], float64(b.N)/took.Seconds())
			}
		}
	}
	best, last := 0.0, 0.0
	for i, c := range all {
		slices.Sort(rates[c.name])
		median := rates[c.name][rounds/2]
		b.ReportMetric(median, c.name+"-jobs/s")
		if i < len(all)-1 {
			best = max(best, median)
		}
		last = median
	}
	b.ReportMetric(last/best, "ratio")
}

// BenchmarkPush pushes one job at a time from 50 goroutines.
func BenchmarkPush(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	bare := func(name string, linger time.Duration) contender {
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ProducerLinger(linger))
		require.NoError(b, err)
		b.Cleanup(client.Close)
		require.NoError(b, createTopic(b, client, "bare"))
		return contender{name, func(n int) time.Duration {
			return each(b, n, func() error {
				return client.ProduceSync(b.Context(), &kgo.Record{Topic: "bare", Value: []byte(benchBody)}).FirstErr()
			})
		}}
	}
	broker := open(b, server.URL)
	defer broker.Close()
	compare(b, bare("bare", 0), bare("lingering", time.Millisecond), contender{"linda", func(n int) time.Duration {
		return each(b, n, func() error {
			return broker.Push(&linda.Job{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}, "linda")
		})
	}})
}

// each carries out n calls from 50 goroutines.
func each(b *testing.B, n int, call func() error) time.Duration {
	b.Helper()
	begun := time.Now()
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
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
	return time.Since(begun)
}

// BenchmarkDrain fetches and deletes what is there, 50 at a time.
func BenchmarkDrain(b *testing.B) {
	server := brokerd.Run(b, brokerd.Kafka)
	warmUp(b, server.URL)
	broker := open(b, server.URL)
	defer broker.Close()
	fill := func(queue string, n int) {
		jobs := slices.Repeat([]*linda.Job{{Payload: linda.Payload{Class: "C", Args: []any{"cat.png", 640}}}}, 1000)
		for left := n; left > 0; left -= 1000 {
			require.NoError(b, broker.(linda.BatchPusher).PushBatch(b.Context(), queue, jobs[:min(left, 1000)]))
		}
	}
	bare := func(name string, flush bool) contender {
		fill(name, 1)
		oneMore(b, broker, name) // makes the group; the broker asks for no more of it
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr), kgo.ConsumeTopics(name), kgo.ShareGroup("linda."+name),
			kgo.ShareMaxRecords(benchWorkers), kgo.ShareMaxRecordsStrict())
		require.NoError(b, err)
		b.Cleanup(client.Close)
		return contender{name, func(n int) time.Duration {
			fill(name, n)
			begun := time.Now()
			for got := 0; got < n; {
				fetches := client.PollRecords(b.Context(), benchWorkers)
				require.NoError(b, fetches.Err())
				for _, r := range fetches.Records() {
					r.Ack(kgo.AckAccept)
					got++
				}
				if flush || got >= n {
					require.NoError(b, client.FlushAcks(b.Context()))
				}
			}
			return time.Since(begun)
		}}
	}
	compare(b, bare("bare", true), bare("riding", false), contender{"linda", func(n int) time.Duration {
		fill("linda", n)
		begun := time.Now()
		for got := 0; got < n; {
			jobs, err := broker.(linda.Fetcher).Fetch(b.Context(), "linda", benchWorkers, time.Minute)
			require.NoError(b, err)
			require.NoError(b, deleteAll(b.Context(), broker, "linda", jobs))
			got += len(jobs)
		}
		return time.Since(begun)
	}})
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
