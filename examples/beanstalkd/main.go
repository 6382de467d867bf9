// Beanstalkd works off a tube that programs in other languages fill, each with
// its own client and a body such as {"Payload":{"class":"resize","args":["a.png"]}}.
// What a handler fails at is retried, and buried in the end; -kick brings what is
// buried back.
//
//	go run ./examples/beanstalkd -queue pictures
//	go run ./examples/beanstalkd -queue pictures -kick 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/beanstalkd"
)

func main() {
	connection := flag.String("connection", "beanstalkd://localhost:11300", "URL of the broker")
	queue := flag.String("queue", "pictures", "the tube to work on")
	kick := flag.Int("kick", 0, "make so many buried jobs of the queue ready again, and end")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := work
	if *kick > 0 {
		do = func(ctx context.Context, broker linda.Broker, queue string) error {
			return bringBack(ctx, broker, queue, *kick)
		}
	}
	broker, err := linda.NewBroker(*connection)
	if err == nil {
		err = errors.Join(do(ctx, broker, *queue), broker.Close())
	}
	if err != nil {
		log.Fatal(err)
	}
}

func work(ctx context.Context, broker linda.Broker, queue string) error {
	if g, ok := linda.As[linda.Guarantor](broker); ok {
		for _, note := range g.Guarantees().Notes {
			fmt.Println("note:", note)
		}
	}
	d, err := linda.New(linda.Settings{
		Broker: broker, Queue: queue, Concurrency: 4, MaxAttempts: 2,
		Backoff: func(int) time.Duration { return time.Second }, // the server counts delays in seconds
	})
	if err != nil {
		return err
	}
	d.HandleFunc("resize", resize)
	return errors.Join(d.Run(ctx), d.Close())
}

// resize pretends to; pictures are PNG files.
func resize(_ context.Context, job *linda.Job) error {
	var file string
	if err := job.Payload.Decode(&file); err != nil {
		return err
	}
	if !strings.HasSuffix(file, ".png") {
		fmt.Printf("refused %s, attempt %d\n", file, job.Attempt())
		return errors.New("not a PNG file")
	}
	fmt.Printf("resized %s, attempt %d\n", file, job.Attempt())
	return nil
}

func bringBack(ctx context.Context, broker linda.Broker, queue string, most int) error {
	inspector, ok := linda.As[linda.Inspector](broker)
	if !ok {
		return errors.New("this broker does not show its queues")
	}
	jobs, err := inspector.Peek(ctx, queue, linda.Dead, most)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		fmt.Printf("%s %v died after %d attempts: %s\n", job.Payload.Class, job.Payload.Args, job.Attempt(), job.LastError())
	}
	n, err := inspector.Kick(ctx, queue, most)
	fmt.Println("kicked", n)
	return err
}
