package beanstalkd

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
)

// load is how many jobs one round of a benchmark of the whole engine has: enough
// that one takes about a second.
const load = 30_000

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
