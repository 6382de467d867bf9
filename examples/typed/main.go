// Typed defines a class of jobs by the type of its argument, pushes some in
// the ways there are, and runs them with a middleware that logs how long each
// took. Ctrl-C stops it: running handlers may finish.
//
//	go run ./examples/typed
//	go run ./examples/typed -connection redis://localhost:6379/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/amlun/linda"
)

// Email is the argument of a job.
type Email struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
}

// Welcome is the class. Its options hold for each of its jobs.
var Welcome = linda.Define[Email]("welcome", linda.OnQueue("mail"), linda.MaxAttempts(5), linda.TimeLimit(time.Minute))

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
	d, err := linda.New(linda.Settings{
		Queue:       "mail",
		Connection:  connection,
		Concurrency: 4,
		Grace:       10 * time.Second,
	})
	if err != nil {
		return err
	}
	defer d.Close()

	d.Use(timed)
	Welcome.Handle(d, send)
	if err := push(ctx, d); err != nil {
		return err
	}
	fmt.Println("working; Ctrl-C stops")
	return d.Run(ctx)
}

// send is the handler. It gets the argument as it was pushed.
func send(ctx context.Context, e Email) error {
	select {
	case <-time.After(20 * time.Millisecond): // the mail server takes its time
		fmt.Printf("sent %q to %s\n", e.Subject, e.To)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// timed is a middleware: it wraps every handler.
func timed(next linda.Handler) linda.Handler {
	return linda.HandlerFunc(func(ctx context.Context, job *linda.Job) error {
		start := time.Now()
		err := next.Handle(ctx, job)
		slog.Info("ran", "class", job.Payload.Class, "job", job.ID, "attempt", job.Attempt(), "took", time.Since(start), "err", err)
		return err
	})
}

func push(ctx context.Context, d *linda.Dispatcher) error {
	// At once; the id names the job wherever it shows up.
	id, err := Welcome.Push(ctx, d, Email{"ada@example.com", "Welcome!"})
	if err != nil {
		return err
	}
	fmt.Println("pushed", id)

	// Later.
	_, err = Welcome.Push(ctx, d, Email{"ada@example.com", "How is it going?"}, linda.In(2*time.Second))
	if err != nil {
		return err
	}

	// Only one job with this key is in the queue, for an hour at most. The
	// second is refused with the id of the first.
	reminder := Email{"bob@example.com", "Your trial ends"}
	for range 2 {
		_, err = Welcome.Push(ctx, d, reminder, linda.In(time.Second), linda.Unique("trial bob", time.Hour))
		var there *linda.DuplicateError
		switch {
		case errors.As(err, &there):
			fmt.Println("refused: it waits already, as", there.ID)
		case err != nil:
			return err
		}
	}

	// Many at once, much faster than one by one.
	var batch []*linda.Job
	for _, to := range []string{"eve@example.com", "fay@example.com", "gil@example.com"} {
		batch = append(batch, Welcome.Job(Email{to, "News"}))
	}
	return d.PushBatch(ctx, batch)
}
