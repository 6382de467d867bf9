package linda_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// recorder is a handler that keeps the ticks of its jobs.
type recorder struct {
	mu    sync.Mutex
	ticks map[time.Time]int // guarded by mu: how often each ran
}

func (r *recorder) handle(_ context.Context, job *linda.Job) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ticks == nil {
		r.ticks = make(map[time.Time]int)
	}
	r.ticks[job.Tick()]++
	return nil
}

func (r *recorder) ran() map[time.Time]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	ran := make(map[time.Time]int)
	for tick, n := range r.ticks {
		ran[tick] = n
	}
	return ran
}

// startScheduled runs a dispatcher with a schedule until the test ends.
func startScheduled(t *testing.T, s linda.Settings, spec string, job *linda.Job, h linda.HandlerFunc) {
	t.Helper()
	job.Payload.Class = "c"
	d, err := linda.New(s)
	require.NoError(t, err)
	if h != nil {
		d.Handle("c", h)
	}
	require.NoError(t, d.Schedule("s", spec, job, linda.Missed(linda.MissedAll)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		assert.NoError(t, d.Close())
	})
}

func TestRedisRemembersASchedulesLastTickAndItsSpec(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		var r recorder
		startScheduled(t, linda.Settings{Queue: "q", Connection: url}, "CRON_TZ=Asia/Tokyo * * * * * *", &linda.Job{}, r.handle)
		require.Eventually(t, func() bool { return len(r.ran()) == 2 }, 10*time.Second, 5*time.Millisecond)
		var last int64
		var spec string
		_, err := fmt.Sscanf(c.HGet(t.Context(), "q:schedule", "s").Val(), "%d CRON_TZ=Asia/Tokyo %s", &last, &spec)
		require.NoError(t, err)
		assert.Contains(t, r.ran(), time.UnixMilli(last).UTC())
	})
}

func TestRedisTicksGoByTheClockOfTheServer(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	m.SetTime(time.Now().Add(-time.Hour)) // it stands still
	b := openBroker(t, "redis://"+m.Addr())
	ticker, ok := linda.As[linda.Ticker](b)
	require.True(t, ok)
	push := func(at time.Time) bool {
		job := &linda.Job{Payload: linda.Payload{Class: "c"}}
		done, _, err := ticker.Tick(t.Context(), "q", []linda.Tick{{Schedule: "s", Spec: "x", At: at, Job: job}})
		require.NoError(t, err)
		return done[0].Pushed
	}
	assert.False(t, push(time.Now()), "the client is an hour ahead")
	assert.True(t, push(time.Now().Add(-61*time.Minute)))
}

func TestRedisScheduleWithAnotherSpecNeverGoesBack(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	b := openBroker(t, "redis://"+m.Addr())
	ticker, ok := linda.As[linda.Ticker](b)
	require.True(t, ok)
	now := time.UnixMilli(1_800_000_000_000)
	begin := func(spec string) time.Time {
		done, _, err := ticker.Tick(t.Context(), "q", []linda.Tick{{Schedule: "s", Spec: spec}})
		require.NoError(t, err)
		return done[0].Last
	}
	m.SetTime(now)
	require.Equal(t, now, begin("x"))
	m.SetTime(now.Add(-time.Hour)) // the server's clock is set
	assert.Equal(t, now, begin("y"), "what was pushed before is not pushed again")
	m.SetTime(now.Add(time.Hour))
	assert.Equal(t, now, begin("y"))
	assert.Equal(t, now.Add(time.Hour), begin("x"))
}

func TestRedisTicksOfAnOutageOfTheServerArePushedOnce(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	c := redisClient(t, server.URL)
	for range 3 {
		startScheduled(t, linda.Settings{Queue: "q", Connection: server.URL}, "@every 1s", &linda.Job{Queue: "kept"}, nil)
	}
	pushed := func() int { return int(c.LLen(t.Context(), "kept").Val()) }
	require.Eventually(t, func() bool { return pushed() >= 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, server.Pause())
	time.Sleep(6500 * time.Millisecond) // longer than a call may take, so that outcomes are unknown
	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool { return pushed() >= 10 }, 20*time.Second, 5*time.Millisecond)
	var last time.Time
	for _, body := range c.LRange(t.Context(), "kept", 0, -1).Val() {
		job, err := linda.Decode("kept", body)
		require.NoError(t, err)
		if !last.IsZero() {
			require.Equal(t, last.Add(time.Second), job.Tick(), "none is left out, none comes twice")
		}
		last = job.Tick()
	}
}
