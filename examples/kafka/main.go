// Kafka pushes a few orders to Kafka 4.2 or newer, one of them for later, and
// runs them.
//
//	docker compose up -d kafka
//	go run ./examples/kafka
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/kafka" // kafka:// and kafka+tls://
)

func main() {
	connection := flag.String("connection", "kafka://localhost:9092?replication=1", "URL of the broker")
	flag.Parse()
	if err := run(*connection); err != nil {
		log.Fatal(err)
	}
}

func run(connection string) error {
	slog.SetLogLoggerLevel(slog.LevelWarn)
	d, err := linda.New(linda.Settings{Queue: "orders", Connection: connection, Concurrency: 4})
	if err != nil {
		return err
	}
	defer d.Close()

	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	const orders = 3
	shipped := make(chan struct{}, orders)
	d.HandleFunc("ship", func(_ context.Context, job *linda.Job) error {
		var order int
		if err := job.Payload.Decode(&order); err != nil {
			return err
		}
		fmt.Printf("shipped order %d of %s\n", order, job.Key)
		shipped <- struct{}{}
		return nil
	})
	for i, customer := range []string{"ada", "grace", "ada"} {
		job := &linda.Job{
			Key:     customer, // the orders of a customer share a partition
			Payload: linda.Payload{Class: "ship", Args: []any{i + 1}},
		}
		if i == orders-1 {
			job.Delay = 500 * time.Millisecond
		}
		if err := d.Push(ctx, job); err != nil {
			return err
		}
	}
	go func() {
		for range orders {
			<-shipped
		}
		stop()
	}()
	return d.Run(ctx)
}
