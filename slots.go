package linda

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// slotHold is how long a slot is taken for where there are no leases.
	slotHold = time.Minute
	// slotTurn is for how long a slot is passed on within the process. Then it
	// is given back, so that other processes have a chance to take it.
	slotTurn = time.Second
	// askSlots is how often a limit that is full is asked for, at most.
	askSlots = 250 * time.Millisecond
)

// slot is a place within a limit.
type slot struct {
	of     *limited
	holder string
	taken  time.Time // when the broker gave it
	sure   bool      // it did
	since  time.Time // guarded by lobby.mu, as all below: when dl got it
	until  time.Time // when it ends at the earliest
	dl     *delivery // nil: it is spare
}

// acquire takes slots for jobs, of all their limits. A job that does not get
// them all has none, and knows by full which limit it was.
func (b *lobby) acquire(batch []*delivery) {
	for _, dl := range batch {
		dl.full = nil
	}
	for _, l := range b.limits {
		var want []*delivery
		for _, dl := range batch {
			if dl.full == nil && l.covers(dl.lane.queue, dl.class) {
				want = append(want, dl)
			}
		}
		for _, dl := range b.ask(l, b.reuse(l, want)) {
			dl.full = l
			b.mu.Lock()
			b.giveBack(dl.slots...)
			b.mu.Unlock()
			dl.slots = nil
		}
	}
}

// reuse gives spare slots to jobs, and returns those that got none.
func (b *lobby) reuse(l *limited, want []*delivery) []*delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for len(want) > 0 && len(l.spare) > 0 {
		s := l.spare[0]
		l.spare = l.spare[1:]
		s.dl, s.since = want[0], now
		s.dl.slots = append(s.dl.slots, s)
		want = want[1:]
	}
	return want
}

// ask asks the broker for slots, unless the limit is known to be full, and
// returns the jobs that got none.
func (b *lobby) ask(l *limited, want []*delivery) []*delivery {
	if len(want) == 0 || !b.open(l) {
		return want
	}
	sent := time.Now()
	holders, slots := make([]string, len(want)), make([]*slot, len(want))
	for i, dl := range want {
		b.taken++
		holders[i] = b.nonce + "." + strconv.FormatUint(b.taken, 36)
		slots[i] = &slot{of: l, holder: holders[i], taken: sent, since: sent, until: sent.Add(l.hold), dl: dl}
	}
	ctx, cancel := context.WithTimeout(b.polling, settleLimit)
	defer cancel()
	n, free, err := b.backend.limiter.TakeSlots(ctx, l.key, l.most(), l.hold, holders)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		l.again = time.Now().Add(l.fails.next())
		b.giveBack(slots...) // some may have been taken
		if b.polling.Err() == nil {
			b.outage.begins(limiting, sent, err)
		}
		return want
	}
	l.fails = retryPause
	b.outage.ends(limiting)
	if n < len(want) {
		l.again = time.Now().Add(l.wait(free))
	}
	for i, s := range slots[:n] {
		l.begins(sent)
		s.sure = true
		want[i].slots = append(want[i].slots, s)
		if l.Running > 0 {
			b.held[s] = true
		}
	}
	return want[n:]
}

// wait returns when to ask a full limit again. Slots of running jobs may be
// given back by other processes at any time; those of a rate end by themselves.
func (l *limited) wait(free time.Duration) time.Duration {
	if l.Running > 0 {
		return min(free, askSlots/2+mathrand.N(askSlots/2))
	}
	return min(free, time.Second) + mathrand.N(2*time.Millisecond)
}

// done ends what a delivery holds, once it is settled.
func (b *lobby) done(res *result) {
	if len(res.dl.slots) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, s := range res.dl.slots {
		l, started := s.of, !res.settle.Unstarted
		if l.Rate > 0 {
			if !started {
				b.giveBack(s)
			}
			continue
		}
		if started {
			l.ended(now.Sub(s.since))
		}
		if started && l.waiting > len(l.spare) && now.Sub(s.taken) < slotTurn && now.Before(s.ends()) {
			s.dl = nil
			l.spare = append(l.spare, s)
			b.tell()
		} else {
			b.giveBack(s)
		}
	}
}

// ends is when nobody may use the slot any more. The caller holds mu.
func (s *slot) ends() time.Time { return s.until.Add(-s.of.hold / 10) }

// giveBack has slots given back. The caller holds mu.
func (b *lobby) giveBack(slots ...*slot) {
	for _, s := range slots {
		delete(b.held, s)
		s.of.freeing = append(s.of.freeing, s)
	}
	if len(slots) > 0 {
		select {
		case b.wake <- struct{}{}:
		default: // it is being told already
		}
	}
}

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
