package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func job(ms int) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: "job", Args: []any{ms}}}
}

// rig is a server with a dispatcher to push and look with.
type rig struct {
	*linda.Dispatcher
	linda.Inspector
	keys func() []string
}

func newRig(t *testing.T, url string) rig {
	t.Helper()
	d, err := linda.New(linda.Settings{Queue: "jobs", Connection: url})
	require.NoError(t, err)
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	c := redis.NewClient(options)
	t.Cleanup(func() {
		assert.NoError(t, d.Close())
		assert.NoError(t, c.Close())
	})
	in, ok := linda.As[linda.Inspector](d.Broker())
	require.True(t, ok)
	return rig{d, in, func() []string { return c.Keys(t.Context(), "*").Val() }}
}

func (r rig) stats(t *testing.T) linda.Stats {
	t.Helper()
	s, err := r.Stats(t.Context(), "jobs")
	require.NoError(t, err)
	return s
}

func TestNoJobIsLostWhenWorkersAreKilled(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	const each, kills = 1000, 6
	for range each {
		require.NoError(t, r.Push(t.Context(), job(10)))
		require.NoError(t, r.Dispatcher.Broker().Later(1, job(10), "jobs"))
	}
	w := newWorkers(t, server.URL, 8)
	w.start(t)
	for range kills {
		victim := w.start(t)
		time.Sleep(300 * time.Millisecond)
		require.NoError(t, victim.Process.Signal(syscall.SIGKILL))
		_ = victim.Wait()
	}
	require.Eventually(t, func() bool { return r.stats(t) == linda.Stats{} }, 30*time.Second, 20*time.Millisecond)

	starts, finishes := w.count(t)
	assert.Len(t, finishes, 2*each, "every job has run, equal or not")
	again := 0
	for _, n := range starts {
		again += n - 1
	}
	assert.LessOrEqual(t, again, 2*kills*w.concurrency, "only what a killed worker held ran again")
	t.Logf("%d jobs, %d kills, %d started again", len(finishes), kills, again)
	assert.Empty(t, r.keys(), "nothing is left behind")
}

// TestNoJobIsLostInARowOfKills is the long form, run where LINDA_LONG is set.
func TestNoJobIsLostInARowOfKills(t *testing.T) {
	if os.Getenv("LINDA_LONG") == "" {
		t.Skip("LINDA_LONG is not set")
	}
	const jobs, processes, pause = 20_000, 4, 250 * time.Millisecond
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	for range jobs / 100 {
		batch := make([]*linda.Job, 100)
		for i := range batch {
			batch[i] = job(rand.IntN(20))
		}
		require.NoError(t, r.PushBatch(t.Context(), batch))
	}
	w := newWorkers(t, server.URL, 8)
	alive := make([]*exec.Cmd, processes)
	for i := range alive {
		alive[i] = w.start(t)
	}
	kills := 0
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until) && r.stats(t).Ready > 0; kills++ {
		time.Sleep(pause)
		victim := rand.IntN(processes)
		require.NoError(t, alive[victim].Process.Kill())
		_ = alive[victim].Wait()
		alive[victim] = w.start(t)
	}
	assert.Eventually(t, func() bool {
		s := r.stats(t)
		return s.Ready+s.Reserved+s.Delayed == 0
	}, time.Minute, 20*time.Millisecond)

	starts, finishes := w.count(t)
	assert.Len(t, finishes, jobs)
	assert.Zero(t, r.stats(t).Dead, "no innocent is dead")
	again := 0
	for _, n := range starts {
		again += n - 1
	}
	assert.LessOrEqual(t, again, 2*kills*w.concurrency)
	t.Logf("%d jobs, %d kills, %d started again", jobs, kills, again)
}

func TestStopFinishesWhatRunsAndHandsBackTheRest(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	const running, waiting = 100, 200
	for range running + waiting {
		require.NoError(t, r.Push(t.Context(), job(700)))
	}
	w := newWorkers(t, server.URL, running)
	worker := w.start(t)
	require.Eventually(t, func() bool { starts, _ := w.count(t); return len(starts) == running }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, worker.Process.Signal(syscall.SIGTERM))
	require.NoError(t, worker.Wait(), "it ends well, with no goroutine left")

	_, finishes := w.count(t)
	assert.Len(t, finishes, running, "what ran has finished")
	assert.Equal(t, linda.Stats{Ready: waiting}, r.stats(t), "what had not started is ready at once")
	next, err := r.Peek(t.Context(), "jobs", linda.Ready, waiting)
	require.NoError(t, err)
	for _, job := range next {
		require.LessOrEqual(t, job.Attempt(), 0, "and has lost no attempt")
	}
}

func TestStopEndsTheContextsOfHandlersThatOutlastTheGrace(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	const running = 100
	for range running {
		require.NoError(t, r.Push(t.Context(), job(60_000)))
	}
	w := newWorkers(t, server.URL, running)
	w.graceMS = 500
	worker := w.start(t)
	require.Eventually(t, func() bool { starts, _ := w.count(t); return len(starts) == running }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, worker.Process.Signal(syscall.SIGTERM))
	require.NoError(t, worker.Wait())
	assert.Equal(t, linda.Stats{Ready: running}, r.stats(t), "nothing is lost, nothing waits for a lease")
}

func TestHandlerOfFiveLeasesRunsOnce(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	require.NoError(t, r.Push(t.Context(), job(5000)))
	w := newWorkers(t, server.URL, 2)
	w.lease = 1
	w.start(t)
	w.start(t)
	require.Eventually(t, func() bool { _, f := w.count(t); return len(f) == 1 && r.stats(t) == linda.Stats{} }, 15*time.Second, 20*time.Millisecond)
	starts, _ := w.count(t)
	for _, n := range starts {
		assert.Equal(t, 1, n)
	}
}

func TestJobThatKillsItsProcessIsDeadAndItsNeighboursAreNot(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	const innocent = 28
	for i := range innocent {
		require.NoError(t, r.Push(t.Context(), job(300)))
		if i%7 == 3 {
			require.NoError(t, r.Push(t.Context(), job(killer)))
		}
	}
	w := newWorkers(t, server.URL, 8)
	w.lease = 1
	stop := make(chan struct{})
	supervised := make(chan struct{})
	go func() { // starts a new worker whenever one dies
		defer close(supervised)
		for {
			worker := w.start(t)
			died := make(chan struct{})
			go func() { defer close(died); _ = worker.Wait() }()
			select {
			case <-died:
			case <-stop:
				_ = worker.Process.Kill()
				<-died
				return
			}
		}
	}()
	assert.Eventually(t, func() bool {
		s := r.stats(t)
		return s.Ready+s.Reserved+s.Delayed == 0
	}, 90*time.Second, 50*time.Millisecond)
	close(stop)
	<-supervised
	_, finishes := w.count(t)
	assert.Len(t, finishes, innocent)
	assert.Equal(t, linda.Stats{Dead: 4}, r.stats(t))
	dead, err := r.Peek(t.Context(), "jobs", linda.Dead, 100)
	require.NoError(t, err)
	for _, job := range dead {
		var ms int
		require.NoError(t, job.Payload.Decode(&ms))
		assert.Equal(t, killer, ms, job.LastError())
	}
}
