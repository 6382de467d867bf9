package beanstalkd

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// load is how many jobs one round of a benchmark of the whole engine has: enough
// that one takes about a second.
const load = 30_000

// BenchmarkEngine drains a queue by a dispatcher with 50 workers, from the first
// fetch to the last settlement: jobs that wait for more than a second, and new
// ones, each of which is asked about. Bare is its measure: connections that do
// nothing but reserve and delete rows of the same jobs, without a wait.
func BenchmarkEngine(b *testing.B) {
	b.Run("linda-aged", func(b *testing.B) { engine(b, 1200*time.Millisecond) })
	b.Run("linda-new", func(b *testing.B) { engine(b, 0) })
	for _, conns := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("bare/conns=%d", conns), func(b *testing.B) {
			server := loaded(b, b.N*load)
			b.ResetTimer()
			var running sync.WaitGroup
			for range conns {
				running.Go(func() { bareDrain(b, server.Addr) })
			}
			running.Wait()
			perSecond(b, b.N*load)
		})
	}
}

func engine(b *testing.B, age time.Duration) {
	server := loaded(b, b.N*load)
	time.Sleep(age)
	var left sync.WaitGroup
	left.Add(b.N * load)
	d, err := linda.New(linda.Settings{Connection: server.URL, Queue: "q", Concurrency: 50,
		Logger: slog.New(slog.DiscardHandler), OnEvent: func(linda.Event) { left.Done() }})
	require.NoError(b, err)
	defer d.Close()
	d.HandleFunc("C", func(context.Context, *linda.Job) error { return nil })
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	b.ResetTimer()
	go func() { stopped <- d.Run(ctx) }()
	left.Wait()
	perSecond(b, b.N*load)
	b.StopTimer()
	cancel()
	require.NoError(b, <-stopped)
}

func loaded(b *testing.B, jobs int) *brokerd.Server {
	b.Helper()
	server := brokerd.Run(b, brokerd.Beanstalkd)
	broker := open(b, server.URL).(*broker)
	defer broker.Close()
	batch := make([]*linda.Job, 1000)
	for i := range batch {
		batch[i] = job(i)
	}
	for range jobs / len(batch) {
		require.NoError(b, broker.PushBatch(b.Context(), "q", batch))
	}
	return server
}

// bareDrain deletes a row of jobs while it reserves the next.
func bareDrain(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 32<<10)
	text, answers := []byte("watch q\r\nignore default\r\n"), 2
	for got := true; got; {
		for range 50 {
			text = append(text, "reserve-with-timeout 0\r\n"...)
		}
		if _, err := c.Write(text); err != nil {
			b.Error(err)
			return
		}
		text = text[:0]
		n := answers + 50
		answers, got = 0, false
		for range n {
			answer, err := readReply(r)
			if err != nil {
				b.Error(err)
				return
			}
			if answer.word == "RESERVED" {
				text = append(strconv.AppendUint(append(text, "delete "...), answer.id, 10), '\r', '\n')
				answers++
				got = true
			}
		}
	}
}

// BenchmarkPushers pushes one job at a time from 16 goroutines.
func BenchmarkPushers(b *testing.B) {
	const pushers = 16
	run := func(b *testing.B, push func() error) {
		b.ResetTimer()
		var running sync.WaitGroup
		for range pushers {
			running.Go(func() {
				for range b.N {
					if err := push(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		perSecond(b, b.N*pushers)
	}
	b.Run("linda", func(b *testing.B) {
		broker, _ := opened(b)
		run(b, func() error { return broker.Push(job(1), "q") })
	})
	b.Run("bare", func(b *testing.B) { // a connection for each
		broker, server := opened(b)
		body, _ := linda.Encode(job(1), "q")
		broker.Close()
		conns := make(chan *bufio.ReadWriter, pushers)
		for range pushers {
			c, err := net.Dial("tcp", server.Addr)
			require.NoError(b, err)
			defer c.Close()
			conns <- bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
		}
		run(b, func() error {
			c := <-conns
			defer func() { conns <- c }()
			_, _ = fmt.Fprintf(c, "put 1024 0 60 %d\r\n%s\r\n", len(body), body)
			if err := c.Flush(); err != nil {
				return err
			}
			answer, err := readReply(c.Reader)
			if err == nil {
				err = answer.err("INSERTED")
			}
			return err
		})
	})
}
