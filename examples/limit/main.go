// Limit runs no more than two jobs of a class at the same time, and starts no
// more than five calls in any two seconds, however many processes there are.
// Start it several times on one Redis. Ctrl-C stops it.
//
//	go run ./examples/limit
//	go run ./examples/limit -connection redis://localhost:6379/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/amlun/linda"
)

// Resize is a class of jobs that need much memory, Call one of jobs that use a
// service which counts.
var (
	Resize = linda.Define[string]("resize")
	Call   = linda.Define[int]("call")
)

func main() {
	connection := flag.String("connection", "memory://", "URL of the broker")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *connection); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, connection string) error {
	d, err := linda.New(linda.Settings{Queue: "limit", Connection: connection})
	if err != nil {
		return err
	}
	defer d.Close()

	if err := errors.Join(
		d.Limit(linda.Limit{Class: "resize", Running: 2}),
		d.Limit(linda.Limit{Class: "call", Rate: 5, Per: 2 * time.Second}),
	); err != nil {
		return err
	}
	Resize.Handle(d, func(ctx context.Context, file string) error {
		fmt.Println("resizing", file)
		select {
		case <-time.After(time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	Call.Handle(d, func(_ context.Context, n int) error {
		fmt.Println(time.Now().Format(time.TimeOnly), "call", n)
		return nil
	})
	for n := range 20 {
		if _, err := Call.Push(ctx, d, n); err != nil {
			return err
		}
		if _, err := Resize.Push(ctx, d, fmt.Sprint("photo-", n)); err != nil {
			return err
		}
	}
	fmt.Println("working; Ctrl-C stops")
	return d.Run(ctx)
}
