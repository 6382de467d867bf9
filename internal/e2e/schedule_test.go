package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// schedule registers n schedules of every second, whose jobs go to a queue and
// tell their names and ticks, and how late they are, in a line of the history.
func schedule(d *linda.Dispatcher, n int, queue string, history *os.File) error {
	d.HandleFunc("tick", func(_ context.Context, job *linda.Job) error {
		var name string
		if err := job.Payload.Decode(&name); err != nil {
			return err
		}
		late := time.Since(job.Tick()).Milliseconds()
		_, err := fmt.Fprintf(history, "tick %s %d %d %d\n", name, job.Tick().Unix(), late, os.Getpid())
		return err
	})
	for i := range n {
		name := fmt.Sprint("s", i)
		job := &linda.Job{Queue: queue, Payload: linda.Payload{Class: "tick", Args: []any{name}}}
		if err := d.Schedule(name, "* * * * * *", job, linda.Missed(linda.MissedAll)); err != nil {
			return err
		}
	}
	return nil
}

// scheduleSeconds is for how long the schedules run; LINDA_E2E_SECONDS sets
// another time.
func scheduleSeconds(t *testing.T) int {
	seconds := 10
	if text := os.Getenv("LINDA_E2E_SECONDS"); text != "" {
		var err error
		seconds, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	return seconds
}

// ticks returns how often each tick of each schedule ran, by "name unix", the
// first and the last second, the greatest delay, and in how many processes.
func (w *workers) ticks(t *testing.T) (ran map[string]int, first, last, late int64, processes int) {
	t.Helper()
	f, err := os.Open(w.history)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	ran = make(map[string]int)
	pids := make(map[string]bool)
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.Fields(s.Text())
		require.Len(t, line, 5, s.Text())
		at, err := strconv.ParseInt(line[2], 10, 64)
		require.NoError(t, err)
		ms, err := strconv.ParseInt(line[3], 10, 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, ms, int64(0), "none is early")
		ran[line[1]+" "+line[2]]++
		if first == 0 || at < first {
			first = at
		}
		last, late = max(last, at), max(late, ms)
		pids[line[4]] = true
	}
	return ran, first, last, late, len(pids)
}

func TestEachTickOfManySchedulesRunsOnceInThreeProcesses(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	const schedules = 100
	w := newWorkers(t, server.URL, 8)
	w.schedules, w.lease = schedules, 30
	seconds := scheduleSeconds(t)
	started := []*exec.Cmd{w.start(t), w.start(t), w.start(t)}
	time.Sleep(time.Duration(seconds) * time.Second)
	for _, worker := range started {
		require.NoError(t, worker.Process.Signal(syscall.SIGTERM))
	}
	for _, worker := range started {
		require.NoError(t, worker.Wait())
	}
	w.schedules = 0
	w.start(t) // for what was pushed at the last moment
	require.Eventually(t, func() bool { return r.stats(t) == linda.Stats{} }, 10*time.Second, 5*time.Millisecond)
	ran, first, last, late, processes := w.ticks(t)
	for tick, n := range ran {
		require.Equal(t, 1, n, "runs of %s", tick)
	}
	assert.Len(t, ran, schedules*int(last-first+1), "no tick of no schedule is left out")
	assert.GreaterOrEqual(t, int(last-first+1), seconds-2)
	t.Logf("%d schedules, %d seconds, %d ticks in %d processes, the latest %d ms late", schedules, last-first+1, len(ran), processes, late)
}

// Ticks are pushed to a queue on which nobody works, so that what a killed
// worker held does not blur the picture.
func TestNoTickIsLostOrDoubledWhenProcessesAreKilled(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	w := newWorkers(t, server.URL, 1)
	w.schedules, w.kept = 10, "kept"
	for range 8 {
		var victims []*exec.Cmd
		for range 2 {
			victims = append(victims, w.start(t))
		}
		time.Sleep(1300 * time.Millisecond)
		for _, victim := range victims {
			require.NoError(t, victim.Process.Signal(syscall.SIGKILL))
			_ = victim.Wait()
		}
	}
	kept, err := r.Peek(t.Context(), "kept", linda.Ready, 1000)
	require.NoError(t, err)
	last := make(map[string]time.Time)
	for _, job := range kept {
		name, _, _ := strings.Cut(job.ID, "@")
		if before := last[name]; !before.IsZero() {
			require.Equal(t, before.Add(time.Second), job.Tick(), "of %s", name)
		}
		last[name] = job.Tick()
	}
	assert.Len(t, last, w.schedules)
	assert.GreaterOrEqual(t, len(kept), 8*w.schedules)
	t.Logf("%d ticks of %d schedules", len(kept), len(last))
}
