// Schedule runs jobs by the clock. Start it several times on one Redis: each
// tick runs once, in one of the processes. Stop all of them for a while: the
// first to come back makes up for what was missed. Ctrl-C stops it.
//
//	go run ./examples/schedule
//	go run ./examples/schedule -connection redis://localhost:6379/
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/amlun/linda"
)

// Report is a class of jobs whose argument is the name of a report.
var Report = linda.Define[string]("report")

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
	d, err := linda.New(linda.Settings{Queue: "schedule", Connection: connection})
	if err != nil {
		return err
	}
	defer d.Close()

	d.HandleFunc("beat", func(_ context.Context, job *linda.Job) error {
		fmt.Println("beat of", job.Tick().Format(time.TimeOnly), job.Payload.Args)
		return nil
	})
	Report.Handle(d, func(ctx context.Context, name string) error {
		fmt.Println(name, "report of", linda.FromContext(ctx).Tick().Format(time.RFC3339))
		return nil
	})
	if err := schedule(d); err != nil {
		return err
	}
	fmt.Println("working; Ctrl-C stops")
	return d.Run(ctx)
}

func schedule(d *linda.Dispatcher) error {
	// Every other second. Of those that are missed, none is made up for.
	beat := &linda.Job{Payload: linda.Payload{Class: "beat", Args: []any{"tick, tock"}}}
	if err := d.Schedule("beat", "@every 2s", beat, linda.Missed(linda.MissedSkip)); err != nil {
		return err
	}

	// Six fields: seconds come first. If this was missed, it runs once.
	if err := Report.Schedule(d, "quick-report", "*/5 * * * * *", "quick"); err != nil {
		return err
	}

	// At half past two in Berlin, whatever its clocks do in spring and autumn.
	return Report.Schedule(d, "nightly-report", "CRON_TZ=Europe/Berlin 30 2 * * *", "nightly")
}
