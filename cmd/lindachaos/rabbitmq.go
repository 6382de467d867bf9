package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// rabbitQueue makes the queue, and those for delays: RabbitMQ 3.10 breaks the channel
// of whoever consumes from a queue that another one declares just then, and counts
// what it has sent there as delivered; and the first delay of its length takes long.
func rabbitQueue(ctx context.Context, url string) error {
	b, err := linda.NewBroker(url)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if err := b.Later(4, &linda.Job{Payload: linda.Payload{Class: "first"}}, queue); err != nil {
		return err
	}
	fetcher, _ := linda.As[linda.Fetcher](b)
	jobs, err := fetcher.Fetch(ctx, queue, 1, time.Minute)
	if err != nil {
		return err
	}
	return b.Delete(queue, jobs[0])
}

// rabbitResidue names queues that still hold something: the ready jobs, those
// that are delayed, and those whose queue was not there when their delay ended.
func rabbitResidue(_ context.Context, url string) (string, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	names := []string{queue, queue + ":alone", "linda:delay:unrouted"}
	for digit := range 18 {
		for value := 1; value <= 3; value++ {
			names = append(names, fmt.Sprintf("linda:delay:v1:%d:%d", digit, value))
		}
	}
	left := ""
	for _, name := range names {
		ch, err := conn.Channel() // which an unknown queue closes
		if err != nil {
			return "", err
		}
		q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		var refused *amqp.Error
		switch {
		case errors.As(err, &refused) && refused.Code == amqp.NotFound:
			continue
		case err != nil:
			return "", err
		case q.Messages > 0:
			left += fmt.Sprintf("%d in queue %s ", q.Messages, name)
		}
		_ = ch.Close()
	}
	return left, nil
}
