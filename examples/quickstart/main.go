// Quickstart shows in a few seconds what linda does with jobs: it pushes some,
// runs them, and tells what became of each. It needs no server:
//
//	go run ./examples/quickstart
//
// and leaves nothing behind on a real one:
//
//	go run ./examples/quickstart -connection redis://localhost:6379/ -jobs 10000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/amlun/linda"
)

func main() {
	connection := flag.String("connection", "memory://", "URL of the broker")
	jobs := flag.Int("jobs", 100, "how many jobs to push in one batch")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := quickstart(ctx, *connection, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// quickstart runs a Dispatcher and takes the tour through it.
func quickstart(ctx context.Context, connection string, jobs int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("no end after a minute"))
	defer cancel()

	if jobs < 1 {
		return errors.New("-jobs must be 1 or more")
	}
	t := &tour{
		jobs:   jobs,
		queue:  "quickstart-" + linda.NewID()[24:], // nobody else's
		events: make(chan linda.Event, jobs+100),
		count:  make(map[string]int),
	}
	d, err := linda.New(linda.Settings{
		Connection:  connection,
		Queue:       t.queue,
		Concurrency: 4,
		Backoff:     func(failures int) time.Duration { return time.Duration(failures) * 200 * time.Millisecond },
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		OnEvent:     func(e linda.Event) { t.events <- e },
	})
	if err != nil {
		return err
	}
	defer d.Close()
	t.Dispatcher = d
	t.register()

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()

	err = t.take(ctx)
	stop()
	return errors.Join(err, <-ended, t.cleanUp())
}
