package linda

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// keep renews the slots that are held, as the keeper does with reservations,
// and ends the contexts of handlers whose slots it cannot keep, until ctx ends.
func (b *lobby) keep(ctx context.Context) {
	if !slices.ContainsFunc(b.limits, func(l *limited) bool { return l.Running > 0 }) {
		return
	}
	every := time.Second
	for _, l := range b.limits {
		if l.Running > 0 {
			every = min(every, l.hold/keeperTicks)
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var underWay sync.WaitGroup
	defer underWay.Wait()
	idle := make(chan struct{}, 1)
	idle <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := b.look(time.Now().Add(every)) // the next look would be too late
		if len(due) == 0 {
			continue
		}
		select {
		case <-idle:
			underWay.Go(func() {
				for l, slots := range due {
					for chunk := range slices.Chunk(slots, touchMost) {
						b.renew(ctx, l, chunk)
					}
				}
				idle <- struct{}{}
			})
		default: // the last renewal is still under way
		}
	}
}

// look ends what is about to end by itself, and returns the slots that have
// lasted a third of their time.
func (b *lobby) look(now time.Time) map[*limited][]*slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	var due map[*limited][]*slot
	for s := range b.held {
		if now.After(s.ends()) {
			b.lose(s)
			continue
		}
		if !s.until.After(now.Add(s.of.hold - s.of.hold/3)) {
			if due == nil {
				due = make(map[*limited][]*slot)
			}
			due[s.of] = append(due[s.of], s)
		}
	}
	return due
}

// lose ends the use of a slot that this process does not have any more, or not
// for long. The caller holds mu.
func (b *lobby) lose(s *slot) {
	delete(b.held, s)
	if s.dl != nil {
		s.dl.lose()
		return
	}
	s.of.spare = slices.DeleteFunc(s.of.spare, func(other *slot) bool { return other == s })
}

// renew prolongs slots. What fails is due again at the next look.
func (b *lobby) renew(ctx context.Context, l *limited, slots []*slot) {
	holders := make([]string, len(slots))
	for i, s := range slots {
		holders[i] = s.holder
	}
	once, cancel := context.WithTimeout(ctx, min(l.hold/5, callLimit))
	defer cancel()
	sent := time.Now()
	err := b.backend.limiter.RenewSlots(once, l.key, l.hold, holders)
	b.mu.Lock()
	defer b.mu.Unlock()
	failed := false
	for i, err := range EachError(err, len(slots)) {
		switch s := slots[i]; {
		case !b.held[s]: // it was given back meanwhile
		case err == nil:
			s.until = sent.Add(l.hold)
		case errors.Is(err, ErrNotReserved):
			b.lose(s)
		default:
			failed = true
		}
	}
	if failed && ctx.Err() == nil {
		b.outage.begins(limiting, sent, err)
	}
}

// free gives slots back as they come, until over is closed and none is left, or
// ctx ends.
func (b *lobby) free(ctx context.Context, over <-chan struct{}) {
	if len(b.limits) == 0 {
		return
	}
	fails := retryPause
	again := time.NewTimer(0)
	defer again.Stop()
	for last := false; ; {
		select {
		case <-b.wake:
		case <-again.C:
		case <-over:
			over, last = nil, true
		case <-ctx.Done():
			return
		}
		ok := true
		for _, l := range b.limits {
			ok = b.freeAll(ctx, l) && ok
		}
		switch {
		case !ok:
			again.Reset(fails.next())
		case last:
			return
		default:
			fails = retryPause
		}
	}
}

// freeAll gives back the slots of a limit, and reports whether the broker did
// so. One that has ended by itself need not be given back.
func (b *lobby) freeAll(ctx context.Context, l *limited) bool {
	b.mu.Lock()
	slots := l.freeing
	l.freeing = nil
	b.mu.Unlock()
	now := time.Now()
	slots = slices.DeleteFunc(slots, func(s *slot) bool { return s.until.Before(now) })
	for len(slots) > 0 {
		n := min(len(slots), touchMost)
		holders := make([]string, n)
		for i, s := range slots[:n] {
			holders[i] = s.holder
		}
		once, cancel := context.WithTimeout(ctx, settleLimit)
		sent := time.Now()
		err := b.backend.limiter.FreeSlots(once, l.key, holders)
		cancel()
		b.mu.Lock()
		if err != nil {
			l.freeing = append(l.freeing, slots...)
			b.mu.Unlock()
			if ctx.Err() == nil {
				b.outage.begins(limiting, sent, err)
			}
			return false
		}
		soon := time.Now()
		if l.waiting > 0 { // a moment later, so that other processes have a chance
			soon = soon.Add(slotTurn / 100)
		}
		if slices.ContainsFunc(slots[:n], func(s *slot) bool { return s.sure }) && l.again.After(soon) {
			l.again = soon
			b.tell()
		}
		b.mu.Unlock()
		slots = slots[n:]
	}
	return true
}
