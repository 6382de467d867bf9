package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hibiken/asynq"
)

// asynqContestant is github.com/hibiken/asynq with its default settings.
type asynqContestant struct {
	redis  asynq.RedisClientOpt
	client *asynq.Client
}

func openAsynq(addr string) (contestant, error) {
	o := asynq.RedisClientOpt{Addr: addr}
	return &asynqContestant{redis: o, client: asynq.NewClient(o)}, nil
}

func (*asynqContestant) name() string { return "asynq" }

func (c *asynqContestant) enqueue(ctx context.Context, n int, opts ...asynq.Option) error {
	args, err := json.Marshal(arguments(n))
	if err != nil {
		return err
	}
	_, err = c.client.EnqueueContext(ctx, asynq.NewTask("C", args), opts...)
	return err
}

func (c *asynqContestant) push(ctx context.Context, n int) error { return c.enqueue(ctx, n) }

func (*asynqContestant) batch(int, int) (func(context.Context) error, error) { return nil, errNone }

func (c *asynqContestant) later(ctx context.Context, n int, delay time.Duration) error {
	return c.enqueue(ctx, n, asynq.ProcessIn(delay))
}

func (c *asynqContestant) run(ctx context.Context, concurrency int, handle, settled func(int)) error {
	server := asynq.NewServer(c.redis, asynq.Config{Concurrency: concurrency, LogLevel: asynq.FatalLevel})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		var args []any
		if err := json.Unmarshal(task.Payload(), &args); err != nil {
			return err
		}
		handle(number(args))
		settled(1) // not quite: asynq does not tell
		return nil
	}))
	if err != nil {
		return err
	}
	<-ctx.Done()
	server.Shutdown()
	return nil
}

func (c *asynqContestant) close() error { return c.client.Close() }
