package linda

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// touchMost bounds one exchange with the broker.
const touchMost = 500

// keeper prolongs the reservation of every job this process holds, from when
// it was popped until it is settled, and ends the handlers' contexts of those
// it cannot keep, a tenth of the lease before the server may give the job to
// somebody else.
type keeper struct {
	toucher Toucher // nil: reservations cannot be prolonged
	queue   string
	lease   time.Duration // 0: there are no reservations
	outage  *outage
	stopped chan struct{}

	mu      sync.Mutex
	batches map[*keptBatch]struct{} // guarded by mu
}

// keptBatch is what one fetch brought. Its jobs share the end of their
// reservations until they are touched.
type keptBatch struct {
	keeper     *keeper
	deliveries []*delivery
	left       atomic.Int64 // deliveries that are not done
	touchAt    time.Time    // the keeper's own
}

func newKeeper(t Toucher, queue string, lease time.Duration, o *outage) *keeper {
	return &keeper{
		toucher: t, queue: queue, lease: lease, outage: o,
		stopped: make(chan struct{}), batches: make(map[*keptBatch]struct{}),
	}
}

// hold begins to keep what a fetch that was sent at that time has brought.
func (k *keeper) hold(batch []*delivery, sent time.Time) {
	b := &keptBatch{keeper: k, deliveries: batch, touchAt: sent.Add(k.lease / 3)}
	b.left.Store(int64(len(batch)))
	for _, dl := range batch {
		dl.kept = b
	}
	if k.lease == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.batches[b] = struct{}{}
}

// release tells that one delivery of the batch is done.
func (b *keptBatch) release() {
	if b.left.Add(-1) > 0 {
		return
	}
	b.keeper.mu.Lock()
	defer b.keeper.mu.Unlock()
	delete(b.keeper.batches, b)
}

func (k *keeper) stop() { close(k.stopped) }

// run looks at what is held ten times in a lease, until stop. Touching happens
// beside it, so that a server which does not answer cannot delay the end of a
// handler's context.
func (k *keeper) run() {
	if k.lease == 0 {
		return
	}
	tick := time.NewTicker(k.lease / 10)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	var touching sync.WaitGroup
	defer touching.Wait()
	defer cancel()
	idle := make(chan struct{}, 1)
	idle <- struct{}{}
	for {
		select {
		case <-k.stopped:
			return
		case <-tick.C:
		}
		k.expire(time.Now())
		if k.toucher == nil {
			continue
		}
		select {
		case <-idle:
			touching.Go(func() {
				k.touchDue(ctx)
				idle <- struct{}{}
			})
		default: // the last touch is still under way
		}
	}
}

func (k *keeper) list() []*keptBatch {
	k.mu.Lock()
	defer k.mu.Unlock()
	batches := make([]*keptBatch, 0, len(k.batches))
	for b := range k.batches {
		batches = append(batches, b)
	}
	return batches
}

// expire ends the contexts of handlers whose reservation is about to end.
func (k *keeper) expire(now time.Time) {
	for _, b := range k.list() {
		for _, dl := range b.deliveries {
			if !dl.done.Load() && now.After(dl.job.receipt.Until().Add(-k.lease/10)) {
				dl.lose()
			}
		}
	}
}

// touchDue prolongs what was popped or prolonged a third of a lease ago.
func (k *keeper) touchDue(ctx context.Context) {
	var due []*delivery
	for _, b := range k.list() {
		if time.Now().Before(b.touchAt) {
			continue
		}
		b.touchAt = time.Now().Add(k.lease / 3)
		for _, dl := range b.deliveries {
			if !dl.done.Load() {
				due = append(due, dl)
			}
		}
	}
	for len(due) > 0 {
		n := min(len(due), touchMost)
		k.touch(ctx, due[:n])
		due = due[n:]
	}
}

// touch prolongs some reservations, and tries again until they end.
func (k *keeper) touch(ctx context.Context, held []*delivery) {
	jobs := make([]*Job, len(held))
	for i, dl := range held {
		jobs[i] = dl.job
	}
	pause := retryPause
	for try := time.Now(); time.Since(try) < k.lease/3; {
		once, cancel := context.WithTimeout(ctx, min(k.lease/5, callLimit))
		err := k.toucher.Touch(once, k.queue, k.lease, jobs)
		cancel()
		failed := false
		for i, err := range EachError(err, len(jobs)) {
			if errors.Is(err, ErrNotReserved) && jobs[i].receipt.Lose() {
				held[i].lose()
			}
			failed = failed || err != nil && !errors.Is(err, ErrNotReserved)
		}
		if !failed {
			return
		}
		k.outage.begins(err)
		if sleep(ctx, pause.next()) != nil {
			return
		}
	}
}
