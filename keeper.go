package linda

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda/internal/chance"
)

const (
	// touchMost bounds one exchange with the broker.
	touchMost = 500
	// keeperTicks is how often in a lease the keeper looks at what is held.
	keeperTicks = 20
)

// keeper prolongs the reservation of every job this process holds, from when
// it was popped until it is settled, and ends the handlers' contexts of those
// it cannot keep, a tenth of the lease before the server may give the job to
// somebody else.
type keeper struct {
	toucher Toucher // nil: reservations cannot be prolonged
	queue   string
	lease   time.Duration // 0: there are no reservations
	outage  *outage

	mu   sync.Mutex
	held []*delivery // guarded by mu; some of them are done
	tidy int         // guarded by mu: at this length those are dropped
}

func newKeeper(t Toucher, queue string, lease time.Duration, o *outage) *keeper {
	return &keeper{toucher: t, queue: queue, lease: lease, outage: o}
}

// hold begins to keep jobs, until they are done.
func (k *keeper) hold(batch []*delivery) {
	if k.lease == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.held) >= k.tidy {
		k.drop()
	}
	k.held = append(k.held, batch...)
}

// drop forgets what is done. The caller holds mu.
func (k *keeper) drop() {
	k.held = slices.DeleteFunc(k.held, func(dl *delivery) bool { return dl.done.Load() })
	k.tidy = 2*len(k.held) + 1024
}

func (k *keeper) list() []*delivery {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	return slices.Clone(k.held)
}

// run looks at what is held again and again, until ctx ends. Touching happens
// beside it, so that a server which does not answer cannot delay the end of a
// handler's context.
func (k *keeper) run(ctx context.Context) {
	if k.lease == 0 {
		return
	}
	every := min(k.lease/keeperTicks, time.Second)
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
		held := k.list()
		k.expire(held, time.Now().Add(every)) // the next look would be too late
		if k.toucher == nil || len(held) == 0 && !k.outage.has(touching) {
			continue
		}
		select {
		case <-idle:
			underWay.Go(func() {
				k.touchDue(ctx, held)
				idle <- struct{}{}
			})
		default: // the last touch is still under way
		}
	}
}

// expire ends the contexts of handlers whose reservation is about to end.
func (k *keeper) expire(held []*delivery, now time.Time) {
	for _, dl := range held {
		if !dl.done.Load() && now.After(dl.job.receipt.Until().Add(-k.lease/10)) {
			dl.lose()
		}
	}
}

// touchDue prolongs the reservations that have lasted a third of a lease.
// What fails is due again at the next look.
func (k *keeper) touchDue(ctx context.Context, held []*delivery) {
	soon := time.Now().Add(k.lease - k.lease/3)
	due := slices.DeleteFunc(held, func(dl *delivery) bool {
		return dl.done.Load() || dl.job.receipt.Until().After(soon)
	})
	// Two calls that fail in a row mean that the broker is down; which two
	// they are is left to chance, so that the others have theirs.
	chance.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	failures, failed := 0, false
	for chunk := range slices.Chunk(due, touchMost) {
		if k.touch(ctx, chunk) {
			failures = 0
		} else if failures, failed = failures+1, true; failures == 2 {
			break
		}
	}
	if !failed {
		k.outage.ends(touching)
	}
}

// touch prolongs some reservations, and reports whether the broker did so or
// knows better.
func (k *keeper) touch(ctx context.Context, held []*delivery) bool {
	jobs := make([]*Job, len(held))
	for i, dl := range held {
		jobs[i] = dl.job
	}
	once, cancel := context.WithTimeout(ctx, min(k.lease/5, callLimit))
	defer cancel()
	sent := time.Now()
	err := k.toucher.Touch(once, k.queue, k.lease, jobs)
	if err == nil {
		return true
	}
	ok := true
	for i, err := range EachError(err, len(jobs)) {
		switch {
		case err == nil:
		case !errors.Is(err, ErrNotReserved):
			ok = false
		case jobs[i].receipt.Lose(): // it is not being settled
			held[i].lose()
		}
	}
	if !ok && ctx.Err() == nil {
		k.outage.begins(touching, sent, err)
	}
	return ok
}
