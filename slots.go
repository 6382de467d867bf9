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
func (g *gate) keep(ctx context.Context) {
	if !slices.ContainsFunc(g.limits, func(l *limited) bool { return l.Running > 0 }) {
		return
	}
	every := time.Second
	for _, l := range g.limits {
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
		due := g.look(time.Now().Add(every)) // the next look would be too late
		if len(due) == 0 {
			continue
		}
		select {
		case <-idle:
			underWay.Go(func() {
				for l, slots := range due {
					for chunk := range slices.Chunk(slots, touchMost) {
						g.renew(ctx, l, chunk)
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
func (g *gate) look(now time.Time) map[*limited][]*slot {
	g.mu.Lock()
	defer g.mu.Unlock()
	var due map[*limited][]*slot
	for s := range g.held {
		if now.After(s.ends()) {
			g.lose(s)
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
func (g *gate) lose(s *slot) {
	delete(g.held, s)
	if s.dl != nil {
		s.dl.lose()
		return
	}
	s.of.spare = slices.DeleteFunc(s.of.spare, func(other *slot) bool { return other == s })
}

// renew prolongs slots. What fails is due again at the next look.
func (g *gate) renew(ctx context.Context, l *limited, slots []*slot) {
	holders := make([]string, len(slots))
	for i, s := range slots {
		holders[i] = s.holder
	}
	once, cancel := context.WithTimeout(ctx, min(l.hold/5, callLimit))
	defer cancel()
	sent := time.Now()
	err := g.backend.limiter.RenewSlots(once, l.key, l.hold, holders)
	g.mu.Lock()
	defer g.mu.Unlock()
	failed := false
	for i, err := range EachError(err, len(slots)) {
		switch s := slots[i]; {
		case !g.held[s]: // it was given back meanwhile
		case err == nil:
			s.until = sent.Add(l.hold)
		case errors.Is(err, ErrNotReserved):
			g.lose(s)
		default:
			failed = true
		}
	}
	if failed && ctx.Err() == nil {
		g.outage.begins(limiting, sent, err)
	}
}

// free gives slots back as they come, until over is closed and none is left, or
// ctx ends.
func (g *gate) free(ctx context.Context, over <-chan struct{}) {
	if len(g.limits) == 0 {
		return
	}
	fails := retryPause
	again := time.NewTimer(0)
	defer again.Stop()
	for last := false; ; {
		select {
		case <-g.wake:
		case <-again.C:
		case <-over:
			over, last = nil, true
		case <-ctx.Done():
			return
		}
		ok := true
		for _, l := range g.limits {
			ok = g.freeAll(ctx, l) && ok
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
func (g *gate) freeAll(ctx context.Context, l *limited) bool {
	g.mu.Lock()
	slots := l.freeing
	l.freeing = nil
	g.mu.Unlock()
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
		err := g.backend.limiter.FreeSlots(once, l.key, holders)
		cancel()
		g.mu.Lock()
		if err != nil {
			l.freeing = append(l.freeing, slots...)
			g.mu.Unlock()
			if ctx.Err() == nil {
				g.outage.begins(limiting, sent, err)
			}
			return false
		}
		soon := time.Now()
		if l.waiting > 0 { // a moment later, so that other processes have a chance
			soon = soon.Add(slotTurn / 100)
		}
		if slices.ContainsFunc(slots[:n], func(s *slot) bool { return s.sure }) && l.again.After(soon) {
			l.again = soon
			g.tell()
		}
		g.mu.Unlock()
		slots = slots[n:]
	}
	return true
}
