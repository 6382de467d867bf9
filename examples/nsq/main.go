// Nsq pushes a few jobs to NSQ, one of them for later, and runs them.
//
//	docker compose up -d nsqd
//	go run ./examples/nsq
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/nsq" // nsq:// and nsq+tls://
)

func main() {
	connection := flag.String("connection", "nsq://localhost", "URL of the broker")
	flag.Parse()
	if err := run(*connection); err != nil {
		log.Fatal(err)
	}
}

func run(connection string) error {
	slog.SetLogLoggerLevel(slog.LevelWarn)
	d, err := linda.New(linda.Settings{Queue: "letters", Connection: connection, Concurrency: 4})
	if err != nil {
		return err
	}
	defer d.Close()

	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	const letters = 3
	sent := make(chan struct{}, letters)
	d.HandleFunc("send", func(_ context.Context, job *linda.Job) error {
		var to string
		if err := job.Payload.Decode(&to); err != nil {
			return err
		}
		fmt.Println("sent a letter to", to)
		sent <- struct{}{}
		return nil
	})
	for i, to := range []string{"ada@example.com", "grace@example.com", "later@example.com"} {
		job := &linda.Job{Payload: linda.Payload{Class: "send", Args: []any{to}}}
		if i == letters-1 {
			job.Delay = 500 * time.Millisecond // the server keeps it
		}
		if err := d.Push(ctx, job); err != nil {
			return err
		}
	}
	go func() {
		for range letters {
			<-sent
		}
		stop()
	}()
	return d.Run(ctx)
}
