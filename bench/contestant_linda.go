package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/amlun/linda"
)

type lindaContestant struct {
	url      string
	producer *linda.Dispatcher
}

func openLinda(addr string) (contestant, error) {
	c := &lindaContestant{url: "redis://" + addr}
	var err error
	c.producer, err = linda.New(linda.Settings{Queue: queue, Connection: c.url})
	return c, err
}

func (*lindaContestant) name() string { return "linda" }

func lindaJob(n int) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: "C", Args: arguments(n)}}
}

func (c *lindaContestant) push(ctx context.Context, n int) error {
	return c.producer.Push(ctx, lindaJob(n))
}

func (c *lindaContestant) batch(first, count int) (func(context.Context) error, error) {
	jobs := make([]*linda.Job, count)
	for i := range jobs {
		jobs[i] = lindaJob(first + i)
	}
	return func(ctx context.Context) error { return c.producer.PushBatch(ctx, jobs) }, nil
}

func (c *lindaContestant) later(ctx context.Context, n int, delay time.Duration) error {
	return c.producer.Later(ctx, delay, lindaJob(n))
}

func (c *lindaContestant) run(ctx context.Context, concurrency int, handle, settled func(int)) error {
	d, err := linda.New(linda.Settings{
		Queue: queue, Connection: c.url, Concurrency: concurrency, Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(e linda.Event) {
			if e.Kind == linda.EventDone {
				settled(1)
			}
		},
	})
	if err != nil {
		return err
	}
	d.HandleFunc("C", func(_ context.Context, job *linda.Job) error {
		handle(number(job.Payload.Args))
		return nil
	})
	err = d.Run(ctx)
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}

func (c *lindaContestant) close() error { return c.producer.Close() }
