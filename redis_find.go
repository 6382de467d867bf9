package linda

import (
	"context"
	_ "embed"
)

var (
	//go:embed lua/find.lua
	findLua    string
	findScript = newRedisScript(findLua)
)

// redisFindMost is how many jobs one exchange looks at: it keeps the server
// for about a millisecond.
const redisFindMost = 1000

// redisRemoveTries bounds how often Remove follows a job that moves.
const redisRemoveTries = 5

func (b *redisBroker) Find(ctx context.Context, queue, id string) (*Job, State, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, "", err
	}
	if !validID(id) {
		return nil, "", nil
	}
	for _, state := range states {
		body, err := b.findIn(ctx, b.key(queue, state), id)
		if err != nil {
			return nil, "", err
		}
		if body != "" {
			return redisPeeked(queue, body, state), state, nil
		}
	}
	return nil, "", nil
}

// findIn returns the body of a job in a list or sorted set, "" if it is not
// there.
func (b *redisBroker) findIn(ctx context.Context, key, id string) (string, error) {
	for from := int64(0); ; from += redisFindMost {
		reply, err := b.run(ctx, findScript, []string{key}, id, from, redisFindMost).Slice()
		if err != nil {
			return "", redisError(err)
		}
		if len(reply) > 1 {
			body, _ := reply[1].(string)
			return body, nil
		}
		if n, _ := reply[0].(int64); n < redisFindMost {
			return "", nil
		}
	}
}

func (b *redisBroker) Remove(ctx context.Context, queue, id string) (bool, error) {
	for range redisRemoveTries {
		job, state, err := b.Find(ctx, queue, id)
		if err != nil || job == nil {
			return false, err
		}
		if state == Reserved {
			return false, ErrReserved
		}
		remove := []any{"ZREM", b.key(queue, state), job.body}
		if state == Ready {
			remove = []any{"LREM", queue, 1, job.body}
		}
		n, err := b.do(ctx, remove...).Int()
		if err != nil {
			return false, redisError(err)
		}
		if n > 0 {
			b.free(ctx, queue, []*Job{job})
			return true, nil
		} // it has moved since it was found
	}
	return false, nil
}
