// Cron runs two jobs again and again, without a scheduler: a job that is put
// back with a delay is its own timetable, kept by the broker. Ctrl-C stops it.
// For times of the day, and runs that do not depend on each other, see
// examples/schedule.
//
//	go run ./examples/cron
//	go run ./examples/cron -connection redis://localhost:6379/
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
	d, err := linda.New(linda.Settings{Queue: "cron", Connection: connection})
	if err != nil {
		return err
	}
	defer d.Close()

	// One way: the handler releases its job through the broker. It has then
	// settled the job, and its answer no longer counts.
	d.HandleFunc("every-2s", func(_ context.Context, job *linda.Job) error {
		tell(job)
		return d.Broker().ReleaseWithDelay(job.Queue, job, 2)
	})

	// The other way: it answers with Snooze. The run does not count as an
	// attempt, and the delay is as fine as the broker's clock: here it ends
	// with the next multiple of three seconds, however long the run took.
	d.HandleFunc("at-0-3-6", func(_ context.Context, job *linda.Job) error {
		tell(job)
		const period = 3 * time.Second
		return linda.Snooze(time.Until(time.Now().Truncate(period).Add(period)))
	})

	for _, class := range []string{"every-2s", "at-0-3-6"} {
		if err := start(ctx, d, class); err != nil {
			return err
		}
	}
	return d.Run(ctx)
}

// start pushes the first job of a class, unless an earlier start of this
// program, or another process, has done so: the job of a class is in the queue
// once, because its key is held until it is done or dead.
func start(ctx context.Context, d *linda.Dispatcher, class string) error {
	err := d.Push(ctx, &linda.Job{
		Payload:   linda.Payload{Class: class},
		UniqueKey: class,
	})
	var there *linda.DuplicateError
	if errors.As(err, &there) {
		return nil
	}
	return err
}

func tell(job *linda.Job) {
	fmt.Printf("%s  %s, attempt %d\n", time.Now().Format("15:04:05.000"), job.Payload.Class, job.Attempt())
}
