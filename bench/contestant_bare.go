package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amlun/linda"
)

// bareContestant is what a program could do itself with go-redis and the same
// bytes, and still run each job at least once: reserve up to 500 jobs by a
// script, run them, remove them by one ZREM. It has no retries, no fencing, no
// touching, no orderly stop.
type bareContestant struct {
	client *redis.Client

	mu     sync.Mutex
	bodies map[int][]byte // guarded by mu: encoded in advance, by number
}

const bareBatch = 500

var bareReserve = redis.NewScript(`
local bodies = redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
if #bodies == 0 then return bodies end
redis.call('LTRIM', KEYS[1], #bodies, -1)
local till = redis.call('TIME')[1] + 60
local scored = {}
for _, body in ipairs(bodies) do
  scored[#scored + 1] = till
  scored[#scored + 1] = body
end
redis.call('ZADD', KEYS[2], unpack(scored))
return bodies`)

func openBare(addr string) (contestant, error) {
	return &bareContestant{client: redis.NewClient(&redis.Options{Addr: addr}), bodies: make(map[int][]byte)}, nil
}

func (*bareContestant) name() string { return "bare" }

// prepare encodes jobs before the clock starts.
func (c *bareContestant) prepare(count int) error {
	for n := range count {
		if _, err := c.body(n); err != nil {
			return err
		}
	}
	return nil
}

func (c *bareContestant) body(n int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if body := c.bodies[n]; body != nil {
		return body, nil
	}
	body, err := linda.Encode(lindaJob(n), queue)
	c.bodies[n] = body
	return body, err
}

func (c *bareContestant) push(ctx context.Context, n int) error {
	body, err := c.body(n)
	if err != nil {
		return err
	}
	return c.client.RPush(ctx, queue, body).Err()
}

func (c *bareContestant) batch(first, count int) (func(context.Context) error, error) {
	values := make([]any, count)
	for i := range values {
		body, err := c.body(first + i)
		if err != nil {
			return nil, err
		}
		values[i] = body
	}
	return func(ctx context.Context) error { return c.client.RPush(ctx, queue, values...).Err() }, nil
}

// encodingBatch is batch of jobs that encoding/json encodes when they are
// pushed, with an id as a program would make it.
func (c *bareContestant) encodingBatch(first, count int) (func(context.Context) error, error) {
	type payload struct {
		Class string `json:"class"`
		Args  []any  `json:"args"`
	}
	type head struct {
		ID string `json:"id"`
		N  int    `json:"n"`
	}
	return func(ctx context.Context) error {
		values := make([]any, count)
		for i := range values {
			body, err := json.Marshal(struct {
				Linda   head   `json:"linda"`
				Queue   string `json:"queue"`
				Payload payload
			}{head{ID: linda.NewID()}, queue, payload{"C", arguments(first + i)}})
			if err != nil {
				return err
			}
			values[i] = body
		}
		return c.client.RPush(ctx, queue, values...).Err()
	}, nil
}

func (*bareContestant) later(context.Context, int, time.Duration) error { return errNone }

func (c *bareContestant) run(ctx context.Context, concurrency int, handle, settled func(int)) error {
	jobs, done := make(chan string, bareBatch), make(chan string, bareBatch)
	var faults faults
	var workers, deleter sync.WaitGroup
	for range concurrency {
		workers.Go(func() {
			for body := range jobs {
				var job struct{ Payload linda.Payload }
				if err := json.Unmarshal([]byte(body), &job); err != nil {
					faults.add(err)
					continue
				}
				handle(number(job.Payload.Args))
				done <- body
			}
		})
	}
	deleter.Go(func() {
		for body := range done {
			batch := []any{body}
			for len(batch) < bareBatch && len(done) > 0 {
				batch = append(batch, <-done)
			}
			n, err := c.client.ZRem(context.WithoutCancel(ctx), queue+":reserved", batch...).Result()
			faults.add(err)
			settled(int(n))
		}
	})
	for ctx.Err() == nil {
		bodies, err := bareReserve.Run(context.WithoutCancel(ctx), c.client, []string{queue, queue + ":reserved"}, bareBatch).StringSlice()
		if err != nil {
			faults.add(err)
			break
		}
		for _, body := range bodies {
			jobs <- body
		}
		if len(bodies) == 0 {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	close(jobs)
	workers.Wait()
	close(done)
	deleter.Wait()
	return faults.err()
}

func (c *bareContestant) close() error { return c.client.Close() }

// faults collects errors of several goroutines.
type faults struct {
	mu   sync.Mutex
	errs []error // guarded by mu
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}
