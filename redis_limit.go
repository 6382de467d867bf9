package linda

import (
	"cmp"
	"context"
	_ "embed"
	"slices"
	"time"
)

var (
	//go:embed lua/slots.lua
	slotsLua    string
	slotsScript = newRedisScript(slotsLua)
	//go:embed lua/renew.lua
	renewLua    string
	renewScript = newRedisScript(renewLua)
)

// redisLimit is the key of a limit. A name of a queue has no colon, and what
// belongs to one has one, so no key of a queue is like it. On a cluster a limit
// has a slot of its own, since queues on all nodes may share it.
func redisLimit(limit string) string { return "linda:limit:" + limit }

func (b *redisBroker) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	if err := b.checkLimit(ctx, limit); err != nil || len(holders) == 0 {
		return 0, 0, err
	}
	reply, err := b.run(ctx, slotsScript, []string{redisLimit(limit)}, slotArgs(holders, most, milliseconds(hold))...).Int64Slice()
	if err != nil {
		return 0, 0, redisError(err)
	}
	taken, free := int(reply[0]), time.Duration(reply[1])*time.Millisecond
	if taken == len(holders) {
		free = 0
	}
	return taken, free, nil
}

func (b *redisBroker) RenewSlots(ctx context.Context, limit string, hold time.Duration, holders []string) error {
	if err := b.checkLimit(ctx, limit); err != nil || len(holders) == 0 {
		return err
	}
	missed, err := b.run(ctx, renewScript, []string{redisLimit(limit)}, slotArgs(holders, milliseconds(hold))...).Int64Slice()
	if err != nil {
		return redisError(err)
	}
	errs := make([]error, len(holders))
	for i := range errs {
		if slices.Contains(missed, int64(i+1)) {
			errs[i] = ErrNotReserved
		}
	}
	return Batch(errs)
}

func (b *redisBroker) FreeSlots(ctx context.Context, limit string, holders []string) error {
	if err := b.checkLimit(ctx, limit); err != nil || len(holders) == 0 {
		return err
	}
	return redisError(b.do(ctx, slotArgs(holders, "ZREM", redisLimit(limit))...).Err())
}

// slotArgs are some arguments and the holders.
func slotArgs(holders []string, first ...any) []any {
	for _, holder := range holders {
		first = append(first, holder)
	}
	return first
}

func (b *redisBroker) checkLimit(ctx context.Context, limit string) error {
	return cmp.Or(checkLimit(limit), b.check(ctx, "any"))
}
