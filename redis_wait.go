package linda

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// redisBlock is how long one blocking command waits in the server.
	redisBlock = 10 * time.Second
	// redisLook is how long a waiting fetch trusts what it knows about the
	// next due job: another process may have added an earlier one. An idle
	// queue costs one script in this time.
	redisLook = 1100 * time.Millisecond
	// redisRest is how long waiting goes without the blocking command after
	// that has failed.
	redisRest = time.Second
)

// redisWaiter waits for jobs on one queue, for every fetch of this broker.
//
// The blocking command is BLMOVE from the list to itself, right to right, which
// changes nothing, loses nothing when the connection breaks, and is woken by
// any RPUSH, whoever sends it. Every blocked client is woken by one push, so
// there is one per process and queue; it is only issued on an empty list.
type redisWaiter struct {
	broker *redisBroker
	queue  string

	blocking sync.WaitGroup // the goroutine that blocks; begun under mu

	mu      sync.Mutex
	closed  bool          // guarded by mu: block no more
	blocked bool          // guarded by mu, as all below: a goroutine blocks
	rest    time.Time     // do not block before
	woken   chan struct{} // closed to wake every waiting fetch
}

func (b *redisBroker) waiter(queue string) *redisWaiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiters[queue]
	if w == nil {
		w = &redisWaiter{broker: b, queue: queue, woken: make(chan struct{})}
		b.waiters[queue] = w
	}
	return w
}

// news returns what is closed when a waiting fetch should look again. A fetch
// asks for it before it looks, so that it misses nothing that happens between.
func (w *redisWaiter) news() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.woken
}

// wait returns when there may be a job: news came, one was pushed, or the time
// until the next due one has passed. The error is that of ctx, or ErrClosed.
func (w *redisWaiter) wait(ctx context.Context, news <-chan struct{}, due time.Duration) error {
	w.block()
	if due < 0 || due > redisLook {
		due = redisLook
	}
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-news:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.broker.closed:
		return ErrClosed
	}
}

// block sees to it that a goroutine blocks on the list. A wake-up that came
// since the caller looked is news already.
func (w *redisWaiter) block() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broker.blocker != nil && !w.closed && !w.blocked && time.Now().After(w.rest) {
		w.blocked = true
		w.blocking.Go(w.blockOnce)
	}
}

// close waits for the goroutine that blocks, which ends with its connection,
// and lets no other begin.
func (w *redisWaiter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.blocking.Wait()
}

func (w *redisWaiter) blockOnce() {
	key := w.queue
	ctx := context.Background()
	err := w.broker.send(ctx, w.broker.blocker, redis.NewCmd(ctx, "BLMOVE", key, key, "RIGHT", "RIGHT", int(redisBlock/time.Second)))
	failed := err != nil && !isNil(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocked = false
	if failed {
		w.rest = time.Now().Add(redisRest)
	}
	if err == nil {
		w.wake()
	}
}

// dueIn tells that this process has added a job that becomes due, so that
// fetches which wait for later ones look again.
func (b *redisBroker) dueIn(queue string, delay time.Duration) {
	if delay <= 0 || delay >= redisLook {
		return
	}
	b.mu.Lock()
	w := b.waiters[queue]
	b.mu.Unlock()
	if w == nil { // nobody waits
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake()
}

// wake wakes every waiting fetch. The caller holds mu.
func (w *redisWaiter) wake() {
	close(w.woken)
	w.woken = make(chan struct{})
}
