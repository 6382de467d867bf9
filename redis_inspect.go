package linda

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

func isNil(err error) bool { return errors.Is(err, redis.Nil) }

func (b *redisBroker) Stats(ctx context.Context, queue string) (Stats, error) {
	if err := b.check(ctx, queue); err != nil {
		return Stats{}, err
	}
	p := b.client.Pipeline()
	ready, delayed := p.LLen(ctx, queue), p.ZCard(ctx, b.key(queue, Delayed))
	reserved, dead := p.ZCard(ctx, b.key(queue, Reserved)), p.ZCard(ctx, b.key(queue, Dead))
	if _, err := p.Exec(ctx); err != nil {
		b.lookAgain(err)
		return Stats{}, redisError(err)
	}
	return Stats{Ready: ready.Val(), Delayed: delayed.Val(), Reserved: reserved.Val(), Dead: dead.Val()}, nil
}

func (b *redisBroker) Peek(ctx context.Context, queue string, state State, max int) ([]*Job, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, err
	}
	key, err := b.stateKey(queue, state)
	n := int64(bounded(max))
	if err != nil || n == 0 {
		return nil, err
	}
	var bodies []string
	if state == Ready {
		bodies, err = b.do(ctx, "LRANGE", key, 0, n-1).StringSlice()
	} else {
		bodies, err = b.do(ctx, "ZRANGE", key, 0, n-1).StringSlice()
	}
	if err != nil {
		return nil, redisError(err)
	}
	jobs := make([]*Job, len(bodies))
	for i, body := range bodies {
		jobs[i] = redisPeeked(queue, body, state)
	}
	return jobs, nil
}

// redisPeeked reads a stored body. The delivery under way of a reserved job is
// not written in it.
func redisPeeked(queue, body string, state State) *Job {
	job := DecodePeeked(queue, body)
	if state == Reserved {
		job.head.Deliveries++
	}
	return job
}

func (b *redisBroker) stateKey(queue string, state State) (string, error) {
	switch state {
	case Ready, Delayed, Reserved, Dead:
		return b.key(queue, state), nil
	}
	return "", fmt.Errorf("linda: unknown state %q", state)
}

func (b *redisBroker) Kick(ctx context.Context, queue string, max int) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	dead, err := b.do(ctx, "ZRANGE", b.key(queue, Dead), 0, bounded(max)-1).StringSlice()
	if err != nil || len(dead) == 0 || max <= 0 {
		return 0, redisError(err)
	}
	args := make([]any, 0, 2*len(dead))
	for _, body := range dead {
		args = append(args, body, KickedBody(queue, body))
	}
	moved, err := b.run(ctx, kickScript, []string{queue, b.key(queue, Dead)}, args...).Int()
	return moved, redisError(err)
}

func (b *redisBroker) Purge(ctx context.Context, queue string, state State) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	key, err := b.stateKey(queue, state)
	if err != nil {
		return 0, err
	}
	if state == Reserved {
		return 0, ErrReserved
	}
	for total := 0; ; {
		reply, err := b.run(ctx, purgeScript, []string{key, b.key(queue, redisUnique)}, redisPushMost).Slice()
		if err != nil {
			return total, redisError(err)
		}
		n, _ := reply[0].(int64)
		total += int(n)
		var gone []*Job
		for _, body := range reply[1:] {
			text, _ := body.(string)
			job, _ := Decode(queue, text)
			gone = append(gone, job)
		}
		b.free(ctx, queue, gone)
		if len(gone) < redisPushMost {
			return total, nil
		}
	}
}

// Queues scans the keys of the database, a thousand at a time and on every
// master, for lists and sorted sets whose names are those of a queue. A list of
// another program that is named like a queue is taken for one.
func (b *redisBroker) Queues(ctx context.Context) ([]string, error) {
	select {
	case <-b.closed:
		return nil, ErrClosed
	default:
	}
	var mu sync.Mutex // guards names
	names := make(map[string]bool)
	look := func(ctx context.Context, c redis.UniversalClient) error {
		for _, kind := range []string{"list", "zset"} {
			err := scanRedis(ctx, c, kind, func(key string) {
				mu.Lock()
				defer mu.Unlock()
				if queue, ok := b.queueOf(key, kind); ok {
					names[queue] = true
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := onMasters(ctx, b.client, look)
	if err != nil {
		b.lookAgain(err)
		return nil, redisError(err)
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// queueOf returns the queue whose jobs are in the key of a type, if it is one.
func (b *redisBroker) queueOf(key, kind string) (queue string, ok bool) {
	if kind == "list" {
		return key, CheckName(key) == nil
	}
	queue, state, _ := strings.Cut(key, ":")
	queue = strings.Trim(queue, "{}")
	own, err := b.stateKey(queue, State(state))
	return queue, err == nil && own == key && CheckName(queue) == nil
}

// onMasters calls look on the server, or on every master of a cluster, side by side.
func onMasters(ctx context.Context, c redis.UniversalClient, look func(context.Context, redis.UniversalClient) error) error {
	if cluster, ok := c.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return look(ctx, c) })
	}
	return look(ctx, c)
}

func scanRedis(ctx context.Context, c redis.UniversalClient, kind string, see func(key string)) error {
	for cursor := uint64(0); ; {
		keys, next, err := c.ScanType(ctx, cursor, "*", 1000, kind).Result()
		if err != nil {
			return err
		}
		for _, key := range keys {
			see(key)
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
