package linda

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"time"
)

// memoryLimit is when the slots of a limit end, by their holders.
type memoryLimit map[string]time.Time

// useLimit locks a limit, without the slots that have ended, and returns it
// with its unlock.
func (b *memoryBroker) useLimit(ctx context.Context, limit string) (memoryLimit, func(), error) {
	if err := cmp.Or(checkLimit(limit), b.usable(ctx)); err != nil {
		return nil, nil, err
	}
	b.store.mu.Lock()
	l := b.store.limits[limit]
	if l == nil {
		l = make(memoryLimit)
		b.store.limits[limit] = l
	}
	now := time.Now()
	maps.DeleteFunc(l, func(_ string, until time.Time) bool { return !until.After(now) })
	return l, func() {
		if len(l) == 0 {
			delete(b.store.limits, limit)
		}
		b.store.mu.Unlock()
	}, nil
}

func (b *memoryBroker) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	l, unlock, err := b.useLimit(ctx, limit)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	now := time.Now()
	for taken, holder := range holders {
		if _, has := l[holder]; !has && len(l) >= most {
			return taken, l.first(now), nil
		}
		l[holder] = now.Add(hold)
	}
	return len(holders), 0, nil
}

// first returns in how long the first slot ends.
func (l memoryLimit) first(now time.Time) time.Duration {
	free := maxDelay
	for _, until := range l {
		free = min(free, until.Sub(now))
	}
	return free
}

func (b *memoryBroker) RenewSlots(ctx context.Context, limit string, hold time.Duration, holders []string) error {
	l, unlock, err := b.useLimit(ctx, limit)
	if err != nil {
		return err
	}
	defer unlock()
	errs := make([]error, len(holders))
	for i, holder := range holders {
		if _, has := l[holder]; has {
			l[holder] = time.Now().Add(hold)
		} else {
			errs[i] = ErrNotReserved
		}
	}
	return Batch(errs)
}

func (b *memoryBroker) FreeSlots(ctx context.Context, limit string, holders []string) error {
	l, unlock, err := b.useLimit(ctx, limit)
	if err != nil {
		return err
	}
	defer unlock()
	for _, holder := range holders {
		delete(l, holder)
	}
	return nil
}

// checkLimit refuses what is no name of a limit.
func checkLimit(limit string) error {
	if limit == "" || len(limit) > 300 {
		return fmt.Errorf("%w: a limit's has 1 to 300 bytes: %.64q", ErrBadName, limit)
	}
	return nil
}
