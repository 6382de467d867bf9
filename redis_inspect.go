package linda

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

func isNil(err error) bool { return errors.Is(err, redis.Nil) }

func (b *redisBroker) Stats(ctx context.Context, queue string) (Stats, error) {
	if err := b.check(ctx, queue); err != nil {
		return Stats{}, err
	}
	p := b.client.Pipeline()
	ready, delayed := p.LLen(ctx, readyKey(queue)), p.ZCard(ctx, delayedKey(queue))
	reserved, dead := p.ZCard(ctx, reservedKey(queue)), p.ZCard(ctx, deadKey(queue))
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
	key, err := stateKey(queue, state)
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
		jobs[i], _ = Decode(queue, body)
		jobs[i].fillArgs()
	}
	return jobs, nil
}

func stateKey(queue string, state State) (string, error) {
	switch state {
	case Ready:
		return readyKey(queue), nil
	case Delayed:
		return delayedKey(queue), nil
	case Reserved:
		return reservedKey(queue), nil
	case Dead:
		return deadKey(queue), nil
	}
	return "", fmt.Errorf("linda: unknown state %q", state)
}

func (b *redisBroker) Kick(ctx context.Context, queue string, max int) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	dead, err := b.do(ctx, "ZRANGE", deadKey(queue), 0, bounded(max)-1).StringSlice()
	if err != nil || len(dead) == 0 || max <= 0 {
		return 0, redisError(err)
	}
	args := make([]any, 0, 2*len(dead))
	for _, body := range dead {
		args = append(args, body, kicked(queue, body))
	}
	moved, err := b.run(ctx, kickScript, []string{readyKey(queue), deadKey(queue)}, args...).Int()
	return moved, redisError(err)
}

func (b *redisBroker) Purge(ctx context.Context, queue string, state State) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	key, err := stateKey(queue, state)
	if err != nil {
		return 0, err
	}
	if state == Reserved {
		return 0, errPurgeReserved
	}
	for total := 0; ; {
		reply, err := b.run(ctx, purgeScript, []string{key, uniqueKey(queue)}, redisPushMost).Slice()
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

// Queues scans the keys of the database, a thousand at a time, for lists and
// sorted sets whose names are those of a queue. A list of another program that
// is named like a queue is taken for one.
func (b *redisBroker) Queues(ctx context.Context) ([]string, error) {
	names := make(map[string]bool)
	err := b.scan(ctx, "list", func(key string) {
		if CheckName(key) == nil {
			names[key] = true
		}
	})
	if err != nil {
		return nil, err
	}
	err = b.scan(ctx, "zset", func(key string) {
		queue, state, _ := strings.Cut(key, ":")
		if of, err := stateKey(queue, State(state)); err == nil && of == key && CheckName(queue) == nil {
			names[queue] = true
		}
	})
	return slices.Sorted(maps.Keys(names)), err
}

func (b *redisBroker) scan(ctx context.Context, kind string, see func(key string)) error {
	select {
	case <-b.closed:
		return ErrClosed
	default:
	}
	for cursor := uint64(0); ; {
		keys, next, err := b.client.ScanType(ctx, cursor, "*", 1000, kind).Result()
		if err != nil {
			return redisError(err)
		}
		for _, key := range keys {
			see(key)
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
