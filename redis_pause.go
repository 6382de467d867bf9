package linda

import "context"

func (b *redisBroker) Pause(ctx context.Context, queue string) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	return redisError(b.do(ctx, "SET", b.key(queue, redisPausedKey), 1).Err())
}

func (b *redisBroker) Resume(ctx context.Context, queue string) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	err := b.do(ctx, "UNLINK", b.key(queue, redisPausedKey)).Err()
	b.news(queue)
	return redisError(err)
}

func (b *redisBroker) Paused(ctx context.Context, queue string) (bool, error) {
	if err := b.check(ctx, queue); err != nil {
		return false, err
	}
	n, err := b.do(ctx, "EXISTS", b.key(queue, redisPausedKey)).Int()
	return n > 0, redisError(err)
}
