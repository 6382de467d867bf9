package linda

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// heldRedis is a broker whose pushes wait for the test before they are sent.
type heldRedis struct {
	*redisBroker
	t     *testing.T
	sends atomic.Int64  // commands that have got so far
	let   chan struct{} // one value lets one of them go on
}

func newHeldRedis(t *testing.T) *heldRedis {
	b, err := NewBroker("redis://" + miniredis.RunT(t).Addr())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	h := &heldRedis{redisBroker: b.(*redisBroker), t: t, let: make(chan struct{})}
	h.client.AddHook(h)
	return h
}

func (h *heldRedis) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *heldRedis) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *heldRedis) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "rpush" {
			h.sends.Add(1)
			<-h.let
		}
		return next(ctx, cmd)
	}
}

// push pushes a job of a class on a goroutine of its own.
func (h *heldRedis) push(ctx context.Context, class string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- h.PushBatch(ctx, "q", []*Job{{Payload: Payload{Class: class}}}) }()
	return done
}

// waits returns once so many pushes are in line.
func (h *heldRedis) waits(n int) {
	h.t.Helper()
	line := func() bool {
		h.lines.mu.Lock()
		defer h.lines.mu.Unlock()
		return len(h.lines.lines[redisLine{queue: "q"}]) == n
	}
	require.Eventually(h.t, line, 10*time.Second, time.Millisecond)
}

// sent returns once so many commands are under way, or have been.
func (h *heldRedis) sent(n int64) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.sends.Load() == n }, 10*time.Second, time.Millisecond)
}

// classes returns the classes in the queue, in their order.
func (h *heldRedis) classes() (classes []string) {
	jobs, err := h.Peek(h.t.Context(), "q", Ready, 100)
	require.NoError(h.t, err)
	for _, job := range jobs {
		classes = append(classes, job.Payload.Class)
	}
	return classes
}

func TestRedisPushesOfConcurrentCallersTravelTogether(t *testing.T) {
	t.Parallel()
	h := newHeldRedis(t)
	first := h.push(t.Context(), "C0")
	h.sent(1)
	want := []string{"C0"}
	var others []<-chan error
	for i := range 20 {
		class := fmt.Sprintf("C%d", i+1)
		want = append(want, class)
		others = append(others, h.push(t.Context(), class))
		h.waits(i + 1)
	}
	h.let <- struct{}{}
	require.NoError(t, <-first, "the first waits for nobody")
	h.sent(2)
	for _, done := range others {
		assert.Empty(t, done, "the server has not answered")
	}
	h.let <- struct{}{}
	for _, done := range others {
		require.NoError(t, <-done)
	}
	assert.EqualValues(t, 2, h.sends.Load(), "exchanges")
	assert.Equal(t, want, h.classes())
	require.Eventually(t, func() bool {
		h.lines.mu.Lock()
		defer h.lines.mu.Unlock()
		return len(h.lines.lines) == 0
	}, 10*time.Second, time.Millisecond, "nothing of the line stays")
}

func TestRedisPushThatLeavesTheLineIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	h := newHeldRedis(t)
	first := h.push(t.Context(), "first")
	h.sent(1)
	ctx, cancel := context.WithCancel(t.Context())
	leaves := h.push(ctx, "leaves")
	h.waits(1)
	stays := h.push(t.Context(), "stays")
	h.waits(2)
	cancel()
	err := <-leaves
	require.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, ErrUnknown)
	h.let <- struct{}{}
	require.NoError(t, <-first)
	h.let <- struct{}{}
	require.NoError(t, <-stays)
	assert.Equal(t, []string{"first", "stays"}, h.classes())
}

func TestRedisPushWhoseContextEndsOnTheWayIsUnknownAndDoesNotDisturbTheOthers(t *testing.T) {
	t.Parallel()
	h := newHeldRedis(t)
	first := h.push(t.Context(), "first")
	h.sent(1)
	ctx, cancel := context.WithCancel(t.Context())
	impatient := h.push(ctx, "impatient")
	h.waits(1)
	patient := h.push(t.Context(), "patient")
	h.waits(2)
	h.let <- struct{}{}
	require.NoError(t, <-first)
	h.sent(2)
	cancel()
	err := <-impatient
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorIs(t, err, context.Canceled)
	h.let <- struct{}{}
	require.NoError(t, <-patient)
	assert.Equal(t, []string{"first", "impatient", "patient"}, h.classes())
}

func TestRedisPushThatCannotBeEncodedJoinsNobody(t *testing.T) {
	t.Parallel()
	h := newHeldRedis(t)
	first := h.push(t.Context(), "first")
	h.sent(1)
	good := h.push(t.Context(), "good")
	h.waits(1)
	require.ErrorIs(t, <-h.push(t.Context(), ""), ErrBadJob)
	h.let <- struct{}{}
	h.let <- struct{}{}
	require.NoError(t, <-first)
	require.NoError(t, <-good)
}

func TestRedisCloseEndsPushesInLine(t *testing.T) {
	t.Parallel()
	h := newHeldRedis(t)
	first := h.push(t.Context(), "first")
	h.sent(1)
	waiting := h.push(t.Context(), "waiting")
	h.waits(1)
	require.NoError(t, h.Close())
	h.let <- struct{}{}
	require.ErrorIs(t, <-first, ErrClosed)
	require.ErrorIs(t, <-waiting, ErrClosed)
}

func TestRedisLineIsSentInBoundedParts(t *testing.T) {
	t.Parallel()
	line := redisLine{queue: "q"}
	l := redisLines{lines: map[redisLine][]*waitingPush{line: nil}}
	for range 2*redisPushMost + 1 {
		require.NotNil(t, l.join(line, redisPush{body: []byte("a body")}))
	}
	for _, want := range []int{redisPushMost, redisPushMost, 1, 0} {
		assert.Len(t, l.next(line), want)
	}
	assert.Empty(t, l.lines)
}
