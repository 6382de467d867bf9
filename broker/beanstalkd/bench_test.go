package beanstalkd

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

const benchBatch = 100

func opened(b *testing.B) (*broker, *brokerd.Server) {
	server := brokerd.Run(b, brokerd.Beanstalkd)
	broker := open(b, server.URL).(*broker)
	b.Cleanup(func() { _ = broker.Close() })
	return broker, server
}

func perSecond(b *testing.B, jobs int) {
	b.ReportMetric(float64(jobs)/b.Elapsed().Seconds(), "jobs/s")
}

func filled(b *testing.B, broker *broker) {
	b.Helper()
	batch := make([]*linda.Job, benchBatch)
	for i := range batch {
		batch[i] = job(i)
	}
	for range b.N {
		if err := broker.PushBatch(context.Background(), "q", batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPush puts batches: linda, and its bare connection driven by hand.
func BenchmarkPush(b *testing.B) {
	b.Run("linda", func(b *testing.B) {
		broker, _ := opened(b)
		b.ResetTimer()
		filled(b, broker)
		perSecond(b, b.N*benchBatch)
	})
	b.Run("bare", func(b *testing.B) {
		broker, _ := opened(b)
		body, _ := linda.Encode(job(1), "q")
		b.ResetTimer()
		for range b.N {
			puts := &commands{tube: "q"}
			for range benchBatch {
				puts.put(string(body), 1024, 0, 60)
			}
			if _, err := broker.puts.do(context.Background(), puts); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, b.N*benchBatch)
	})
}

// BenchmarkDrain fetches and deletes batches; counted asks for the deliveries
// of each job, as linda does, and bare does not.
func BenchmarkDrain(b *testing.B) {
	b.Run("linda", func(b *testing.B) {
		broker, _ := opened(b)
		filled(b, broker)
		b.ResetTimer()
		for left := b.N * benchBatch; left > 0; {
			jobs, err := broker.Fetch(context.Background(), "q", benchBatch, time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			batch := make([]linda.Settlement, len(jobs))
			for i, job := range jobs {
				batch[i].Job = job
			}
			if err := broker.Settle(context.Background(), "q", batch); err != nil {
				b.Fatal(err)
			}
			left -= len(jobs)
		}
		perSecond(b, b.N*benchBatch)
	})
	for _, counted := range []bool{true, false} {
		b.Run(fmt.Sprintf("bare/counted=%v", counted), func(b *testing.B) {
			broker, _ := opened(b)
			filled(b, broker)
			t := broker.tube("q")
			c, err := t.take(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				ask, ends := &commands{}, &commands{}
				ask.reserve(benchBatch)
				answers, err := c.do(context.Background(), ask, nil)
				if err != nil {
					b.Fatal(err)
				}
				stats := &commands{}
				for _, answer := range answers {
					stats.add("stats-job", answer.id)
					ends.add("delete", answer.id)
				}
				if counted {
					_, err = c.do(context.Background(), stats, nil)
				}
				if err == nil {
					_, err = c.do(context.Background(), ends, nil)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, b.N*benchBatch)
		})
	}
}

// BenchmarkPickUp is how long it takes from the push until a worker that waits has
// the job.
func BenchmarkPickUp(b *testing.B) {
	broker, _ := opened(b)
	got := make(chan *linda.Job)
	go func() {
		for range b.N {
			jobs, err := broker.Fetch(context.Background(), "q", 1, time.Minute)
			if err != nil || len(jobs) != 1 {
				close(got)
				return
			}
			got <- jobs[0]
		}
	}()
	var took []float64 // in ms
	for range b.N {
		time.Sleep(2 * time.Millisecond) // it waits
		begun := time.Now()
		if err := broker.Push(job(1), "q"); err != nil {
			b.Fatal(err)
		}
		job := <-got
		took = append(took, float64(time.Since(begun).Microseconds())/1000)
		if err := broker.Delete("q", job); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(took), "p50-ms")
	b.ReportMetric(took[len(took)*99/100], "p99-ms")
}
