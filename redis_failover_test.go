package linda_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// failoverLog is what happened to the jobs of one test.
type failoverLog struct {
	mu             sync.Mutex
	acked          []string
	unknown, other int
	ran            map[string]int
	lastAck        time.Time
	lastRun        time.Time // of a job that was pushed successfully just before
}

func (l *failoverLog) after(since time.Time, last *time.Time) func() bool {
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return last.After(since)
	}
}

// outlivesAFailover kills the master of the queue "failover" while jobs are
// pushed and run, and later starts it again as a replica.
func outlivesAFailover(t *testing.T, url string, master *brokerd.Server, replicas []*brokerd.Server) {
	l := &failoverLog{ran: make(map[string]int)}
	d := start(t, linda.Settings{Queue: "failover", Connection: url, Concurrency: 4, Timeout: 5}, map[string]linda.HandlerFunc{
		"C": func(_ context.Context, job *linda.Job) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ran[job.ID]++
			l.lastRun = time.Now()
			return nil
		},
	})
	require.Equal(t, master.Addr, holder(t, slices.Concat(replicas, []*brokerd.Server{master}), "failover"), "the test kills the right one")
	stop := make(chan struct{})
	var pushing sync.WaitGroup
	for range 2 {
		pushing.Go(func() { l.push(t, d, stop) })
	}
	require.Eventually(t, l.after(time.Now(), &l.lastRun), 5*time.Second, time.Millisecond)
	time.Sleep(300 * time.Millisecond)

	require.NoError(t, master.Kill())
	killed := time.Now()
	require.Eventually(t, func() bool { return promoted(t.Context(), replicas) }, 20*time.Second, 5*time.Millisecond)
	elected := time.Now()
	require.Eventually(t, l.after(elected, &l.lastRun), 5*time.Second, time.Millisecond, "workers are back")
	back := time.Now()
	require.NoError(t, master.Restart(t.Context()))
	require.Eventually(t, l.after(time.Now(), &l.lastAck), 20*time.Second, 5*time.Millisecond, "pushes are confirmed again")
	close(stop)
	pushing.Wait()
	lost := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, id := range l.acked {
			if l.ran[id] == 0 {
				n++
			}
		}
		return n
	}
	assert.Eventually(t, func() bool { return lost() == 0 }, 15*time.Second, 20*time.Millisecond, "no confirmed job is lost")
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("new master after %v, workers %v later; %d confirmed, %d unknown, %d refused; %d ran",
		elected.Sub(killed).Round(time.Millisecond), back.Sub(elected).Round(time.Millisecond),
		len(l.acked), l.unknown, l.other, len(l.ran))
}

// push pushes until stop.
func (l *failoverLog) push(t *testing.T, d *linda.Dispatcher, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(3 * time.Millisecond):
		}
		job := &linda.Job{ID: linda.NewID(), Payload: linda.Payload{Class: "C"}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := d.Push(ctx, job)
		cancel()
		l.mu.Lock()
		switch {
		case err == nil:
			l.acked = append(l.acked, job.ID)
			l.lastAck = time.Now()
		case errors.Is(err, linda.ErrUnknown):
			l.unknown++
		default:
			l.other++
		}
		l.mu.Unlock()
	}
}

// promoted reports whether one of the servers is a master now.
func promoted(ctx context.Context, servers []*brokerd.Server) bool {
	for _, s := range servers {
		c, err := linda.OpenRedis(s.URL)
		if err != nil {
			return false
		}
		role := c.Info(ctx, "replication").Val()
		_ = c.Close()
		if strings.Contains(role, "role:master") {
			return true
		}
	}
	return false
}

// holder returns which of the servers takes writes to a key.
func holder(t *testing.T, servers []*brokerd.Server, key string) string {
	for _, s := range servers {
		c, err := linda.OpenRedis(s.URL)
		require.NoError(t, err)
		err = c.LPushX(t.Context(), key, "x").Err()
		_ = c.Close()
		if err == nil {
			return s.Addr
		}
	}
	return ""
}

func TestRedisPushThatTooFewReplicasHaveIsUnknown(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL + "?wait_replicas=1&wait_timeout=50ms"
	b := openBroker(t, url)
	job := &linda.Job{Payload: linda.Payload{Class: "C"}, UniqueKey: "k"}
	err := b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q")
	require.ErrorIs(t, err, linda.ErrUnknown)
	assert.ErrorContains(t, err, "0 replicas have it after 50ms, not 1")
	u, _ := linda.As[linda.Uniquer](b)
	assert.ErrorIs(t, u.PushUnique(t.Context(), "q", job), linda.ErrUnknown)
	assert.ErrorIs(t, b.Later(60, &linda.Job{Payload: linda.Payload{Class: "C"}}, "q"), linda.ErrUnknown)
	in, _ := linda.As[linda.Inspector](b)
	stats, err := in.Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, linda.Stats{Ready: 2, Delayed: 1}, stats, "they are there")
}
