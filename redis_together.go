package linda

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// redisLines lets single pushes of concurrent callers travel together. Who
// finds nobody under way sends alone, at once. Who comes while an exchange is
// under way waits in line, and the next exchange carries all who do. So nobody
// waits for a timer, and each still returns with the server's answer.
type redisLines struct {
	senders sync.WaitGroup // goroutines that send for those in line; begun under mu
	sending atomic.Int64   // how many they are

	mu     sync.Mutex
	closed bool                         // guarded by mu: begin no more senders
	lines  map[redisLine][]*waitingPush // guarded by mu: who waits; there is an entry while an exchange is under way
}

// redisLine is what pushes have in common that travel together: where one
// fails, for the type of its key or for want of memory, all do.
type redisLine struct {
	queue   string
	delayed bool
}

// redisPush is a job on its way to the server.
type redisPush struct {
	delay time.Duration
	body  []byte
}

// MarshalBinary gives go-redis the body, which it copies; as an argument of a
// command, a pointer is not allocated, as a slice is.
func (p *redisPush) MarshalBinary() ([]byte, error) { return p.body, nil }

type waitingPush struct {
	redisPush
	answer chan error // has room for the one there will be
}

// pushTogether adds one job, in the company of others if there are any.
func (b *redisBroker) pushTogether(ctx context.Context, queue string, p redisPush) error {
	line := redisLine{queue: queue, delayed: p.delay > 0}
	if w := b.lines.join(line, p); w != nil {
		return b.lines.await(ctx, line, w)
	}
	defer b.passOn(line)
	return b.push(ctx, queue, []redisPush{p})
}

// join puts a push in line, or returns nil where the caller is to send it and
// then to call passOn.
func (l *redisLines) join(line redisLine, p redisPush) *waitingPush {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting, underWay := l.lines[line]
	if !underWay {
		l.lines[line] = nil
		return nil
	}
	w := &waitingPush{redisPush: p, answer: make(chan error, 1)}
	l.lines[line] = append(waiting, w)
	return w
}

// await returns the answer to a push that is in line. If ctx ends first it
// leaves the line; what has been sent by then has an unknown outcome.
func (l *redisLines) await(ctx context.Context, line redisLine, w *waitingPush) error {
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.lines[line], w); i >= 0 {
		l.lines[line] = slices.Delete(l.lines[line], i, i+1)
		return ctx.Err()
	}
	select {
	case err := <-w.answer: // it came at the same time
		return err
	default:
		return fmt.Errorf("linda: redis: %w: %w", ErrUnknown, ctx.Err())
	}
}

// passOn ends the exchange of one who sent alone. Those who wait get a sender:
// neither the caller's time nor its context is theirs.
func (b *redisBroker) passOn(line redisLine) {
	l := &b.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	switch waiting := l.lines[line]; {
	case len(waiting) == 0:
		delete(l.lines, line)
	case l.closed:
		delete(l.lines, line)
		for _, w := range waiting {
			w.answer <- ErrClosed
		}
	default:
		l.senders.Go(func() { b.sendFor(line) })
	}
}

// sendFor sends what waits in line until nothing does.
func (b *redisBroker) sendFor(line redisLine) {
	b.lines.sending.Add(1)
	defer b.lines.sending.Add(-1)
	for {
		waiting := b.lines.next(line)
		if len(waiting) == 0 {
			return
		}
		pushes := make([]redisPush, len(waiting))
		for i, w := range waiting {
			pushes[i] = w.redisPush
		}
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		err := b.push(ctx, line.queue, pushes)
		cancel()
		for _, w := range waiting {
			w.answer <- err
		}
		b.lines.gather(line, len(waiting))
	}
}

// redisYields is how often a sender lets others run, to see whether they join.
const redisYields = 4

// gather gives those who got their answers a chance to join with another push,
// until as many have: otherwise the first of them would find the line gone and
// send alone, or the next exchange would go with a few of them and leave the
// rest to wait for its end.
func (l *redisLines) gather(line redisLine, answered int) {
	for range redisYields {
		runtime.Gosched()
		l.mu.Lock()
		joined := len(l.lines[line])
		l.mu.Unlock()
		if joined >= answered {
			return
		}
	}
}

// next takes those who go with the next exchange out of the line, and ends the
// line where there are none.
func (l *redisLines) next(line redisLine) []*waitingPush {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.lines[line]
	if len(waiting) == 0 {
		delete(l.lines, line)
		return nil
	}
	n := redisChunk(waiting, func(w *waitingPush) int { return len(w.body) })
	l.lines[line] = slices.Clone(waiting[n:])
	return waiting[:n:n]
}

// close waits for the senders, whose exchanges have been cut off, and lets no
// other begin.
func (l *redisLines) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.senders.Wait()
}
