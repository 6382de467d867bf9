package nsq

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gonsq "github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

const (
	benchBatch   = 500
	benchWorkers = 50
)

// bare is a connection to nsqd that is driven by hand.
type bare struct {
	net.Conn
	r *bufio.Reader
}

func newBare(b *testing.B, addr string) *bare {
	c, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	b.Cleanup(func() { _ = c.Close() })
	k := &bare{c, bufio.NewReaderSize(c, bufferSize)}
	k.say(b, []byte(magic))
	return k
}

func (k *bare) say(b *testing.B, command []byte) {
	_, err := k.Write(command)
	require.NoError(b, err)
}

func (k *bare) hear(b *testing.B) frame {
	f, err := readFrame(k.r)
	require.NoError(b, err)
	return f
}

func bodies(b *testing.B) []string {
	body, err := linda.Encode(job("bench"), "q")
	require.NoError(b, err)
	return slices.Repeat([]string{string(body)}, benchBatch)
}

func benched(n int) []*linda.Job {
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = job("bench")
	}
	return jobs
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkPush pushes jobs in batches, and one by one from many goroutines,
// beside MPUBs of the same size that are written by hand.
func BenchmarkPush(b *testing.B) {
	server := brokerd.Run(b, brokerd.Nsqd)
	b.Run("bare", func(b *testing.B) {
		k, all := newBare(b, server.Addr), bodies(b)
		for b.Loop() {
			k.say(b, appendMPUB(nil, "bare", all))
			require.Equal(b, "OK", k.hear(b).text)
		}
		perSecond(b)
	})
	b.Run("go-nsq", func(b *testing.B) {
		p, err := gonsq.NewProducer(server.Addr, gonsq.NewConfig())
		require.NoError(b, err)
		defer p.Stop()
		p.SetLoggerLevel(gonsq.LogLevelMax)
		all := make([][]byte, 0, benchBatch)
		for _, body := range bodies(b) {
			all = append(all, []byte(body))
		}
		for b.Loop() {
			require.NoError(b, p.MultiPublish("go-nsq", all))
		}
		perSecond(b)
	})
	b.Run("linda", func(b *testing.B) {
		broker := open(b, server.URL).(*broker)
		defer broker.Close()
		jobs := benched(benchBatch)
		for b.Loop() {
			require.NoError(b, broker.PushBatch(b.Context(), "linda", jobs))
		}
		perSecond(b)
	})
	b.Run("linda-single-50", func(b *testing.B) {
		broker := open(b, server.URL)
		defer broker.Close()
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
		perSecond(b)
	})
}

// BenchmarkDrain fetches and deletes jobs: linda's broker, a Run of 50 workers,
// 50 handlers of go-nsq, and a connection that is driven by hand, with a RDY of
// the same number and a FIN for each job.
func BenchmarkDrain(b *testing.B) {
	server := brokerd.Run(b, brokerd.Nsqd)
	fill := func(b *testing.B, topic string) {
		k, all := newBare(b, server.Addr), bodies(b)
		for range b.N {
			k.say(b, appendMPUB(nil, topic, all))
			require.Equal(b, "OK", k.hear(b).text)
		}
		b.ResetTimer()
	}
	for _, ready := range []int{benchWorkers, benchBatch} {
		b.Run("bare-"+strconv.Itoa(ready), func(b *testing.B) { drainBare(b, server.Addr, ready, fill) })
	}
	for _, ready := range []int{benchWorkers, benchBatch} {
		b.Run("go-nsq-"+strconv.Itoa(ready), func(b *testing.B) { drainClient(b, server.Addr, ready, fill) })
	}
	b.Run("linda", func(b *testing.B) {
		broker := open(b, server.URL).(*broker)
		defer broker.Close()
		fill(b, "drain-linda")
		for left := b.N * benchBatch; left > 0; {
			jobs, err := broker.Fetch(b.Context(), "drain-linda", benchBatch, time.Minute)
			require.NoError(b, err)
			batch := make([]linda.Settlement, len(jobs))
			for i, j := range jobs {
				batch[i].Job = j
			}
			require.NoError(b, broker.Settle(b.Context(), "drain-linda", batch))
			left -= len(jobs)
		}
		perSecond(b)
	})
	b.Run("run-50", func(b *testing.B) {
		var left atomic.Int64
		left.Store(int64(b.N * benchBatch))
		ctx, stop := context.WithCancel(b.Context())
		d := dispatcher(b, server.URL, "drain-run", benchWorkers)
		d.HandleFunc("bench", func(context.Context, *linda.Job) error {
			if left.Add(-1) == 0 {
				stop()
			}
			return nil
		})
		fill(b, "drain-run")
		require.NoError(b, d.Run(ctx))
		perSecond(b)
		require.NoError(b, d.Close())
	})
}

func dispatcher(b *testing.B, url, queue string, workers int) *linda.Dispatcher {
	d, err := linda.New(linda.Settings{Queue: queue, Connection: url, Concurrency: workers, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	return d
}

// drainBare answers what has come together with one write.
func drainBare(b *testing.B, addr string, ready int, fill func(*testing.B, string)) {
	topic := "bare-" + strconv.Itoa(ready)
	k := newBare(b, addr)
	k.say(b, appendSUB(nil, topic, "linda"))
	require.Equal(b, "OK", k.hear(b).text)
	fill(b, topic)
	k.say(b, appendRDY(nil, ready))
	var out []byte
	for left := b.N * benchBatch; left > 0; {
		f := k.hear(b)
		if f.kind != frameMessage {
			continue
		}
		left--
		out = appendFIN(out, f.message.id)
		if !nextIsHere(k.r) || len(out) > 1<<14 {
			k.say(b, out)
			out = out[:0]
		}
	}
	if len(out) > 0 {
		k.say(b, out)
	}
	perSecond(b)
}

// drainClient has as many handlers of the usual client as there are workers.
func drainClient(b *testing.B, addr string, ready int, fill func(*testing.B, string)) {
	topic := "go-nsq-" + strconv.Itoa(ready)
	config := gonsq.NewConfig()
	config.MaxInFlight, config.MaxAttempts = ready, 0
	c, err := gonsq.NewConsumer(topic, "linda", config)
	require.NoError(b, err)
	c.SetLoggerLevel(gonsq.LogLevelMax)
	var left atomic.Int64
	left.Store(int64(b.N * benchBatch))
	done := make(chan struct{})
	c.AddConcurrentHandlers(gonsq.HandlerFunc(func(*gonsq.Message) error {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil
	}), benchWorkers)
	fill(b, topic)
	require.NoError(b, c.ConnectToNSQD(addr))
	<-done
	perSecond(b)
	c.Stop()
	<-c.StopChan
}

// BenchmarkPickUp tells how long after its push a job runs on an idle worker.
func BenchmarkPickUp(b *testing.B) {
	server := brokerd.Run(b, brokerd.Nsqd)
	d := dispatcher(b, server.URL, "idle", 10)
	ran := make(chan time.Time, 1)
	d.HandleFunc("bench", func(context.Context, *linda.Job) error { ran <- time.Now(); return nil })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var times []time.Duration
	for b.Loop() {
		time.Sleep(20 * time.Millisecond) // the worker is idle again
		began := time.Now()
		require.NoError(b, d.Push(ctx, job("bench")))
		times = append(times, (<-ran).Sub(began))
	}
	report(b, times)
	stop()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
}

func report(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	at := func(share float64) float64 {
		return float64(times[int(share*float64(len(times)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0), "ms-least")
	b.ReportMetric(at(0.5), "ms-p50")
	b.ReportMetric(at(0.99), "ms-p99")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDelay tells how late delayed jobs run on an idle worker, two hundred at
// a time with delays between 0 and 2 s, on a queue that the server knows.
func BenchmarkDelay(b *testing.B) {
	server := brokerd.Run(b, brokerd.Nsqd)
	d := dispatcher(b, server.URL, "q", 10)
	late := make(chan time.Duration, 1<<16)
	d.HandleFunc("bench", func(_ context.Context, j *linda.Job) error {
		now := time.Now()
		var due int64
		err := j.Payload.Decode(&due)
		late <- now.Sub(time.Unix(0, due))
		return err
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	time.Sleep(youth + time.Second)
	var times []time.Duration
	b.ResetTimer()
	for len(times) < b.N {
		n := min(b.N-len(times), 200)
		jobs := benched(n)
		began := time.Now()
		for i, j := range jobs {
			j.Queue, j.Delay = "q", time.Duration(i)*2*time.Second/time.Duration(n)
			j.Payload.Args = []any{began.Add(j.Delay).UnixNano()}
		}
		require.NoError(b, d.PushBatch(ctx, jobs))
		for range n {
			times = append(times, <-late)
		}
	}
	report(b, times)
	require.GreaterOrEqual(b, times[0], time.Duration(0), "a job is early")
	stop()
	require.NoError(b, <-done)
	require.NoError(b, d.Close())
}
