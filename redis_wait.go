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
	closed  bool               // guarded by mu: block no more
	blocked bool               // guarded by mu, as all below: a goroutine blocks
	rest    time.Time          // do not block before
	bells   map[redisBell]bool // of the fetches under way
}

// redisBell tells one fetch, which may be on several queues, that it should
// look again. There is room for one ring.
type redisBell chan struct{}

func (b *redisBroker) waiter(queue string) *redisWaiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiters[queue]
	if w == nil {
		w = &redisWaiter{broker: b, queue: queue, bells: make(map[redisBell]bool)}
		b.waiters[queue] = w
	}
	return w
}

func (b *redisBroker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	jobs, err := b.FetchAny(ctx, []string{queue}, max, lease)
	return jobs, unbatch(err)
}

func (b *redisBroker) FetchAny(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error) {
	for _, queue := range queues {
		if err := b.check(ctx, queue); err != nil {
			return nil, err
		}
	}
	// The bell hangs before the first look, so that nothing is missed that
	// happens between a look and the wait.
	bell := make(redisBell, 1)
	waiters := make([]*redisWaiter, len(queues))
	for i, queue := range queues {
		waiters[i] = b.waiter(queue)
		waiters[i].hang(bell, true)
		defer waiters[i].hang(bell, false)
	}
	for {
		taken, err := b.takeAll(ctx, queues, max, lease)
		if err != nil {
			return nil, err
		}
		if jobs, err := allOf(taken); len(jobs) > 0 || err != nil {
			return jobs, err
		}
		if err := b.await(ctx, bell, waiters, taken); err != nil {
			return nil, err
		}
	}
}

// allOf joins what was taken of several queues.
func allOf(taken []redisTaken) ([]*Job, error) {
	jobs, errs := taken[0].jobs, make([]error, len(taken))
	for i, t := range taken {
		errs[i] = t.err
		if i > 0 {
			jobs = append(jobs, t.jobs...)
		}
	}
	return jobs, Batch(errs)
}

func (w *redisWaiter) hang(bell redisBell, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if up {
		w.bells[bell] = true
	} else {
		delete(w.bells, bell)
	}
}

// await returns when there may be a job in one of the queues: the bell rang, or
// the time until the next due one has passed. The error is that of ctx, or
// ErrClosed. On a paused queue nothing blocks: jobs that are ready there would
// wake it at once, again and again.
func (b *redisBroker) await(ctx context.Context, bell redisBell, waiters []*redisWaiter, taken []redisTaken) error {
	due := redisLook
	for i, t := range taken {
		if t.due >= 0 {
			due = min(due, t.due)
		}
		if t.due != redisPaused {
			waiters[i].block()
		}
	}
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-bell:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
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
	if delay > 0 && delay < redisLook {
		b.news(queue)
	}
}

// news makes the fetches of this process that wait on a queue look again.
func (b *redisBroker) news(queue string) {
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
	for bell := range w.bells {
		select {
		case bell <- struct{}{}:
		default: // it has been rung
		}
	}
}
