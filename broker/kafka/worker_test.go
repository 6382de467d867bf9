package kafka_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// workerEnv, if set to a URL, makes this test binary a worker process: one that
// runs jobs, or, with holdEnv set too, one that reserves jobs and settles them
// when it is told to.
const (
	workerEnv = "LINDA_KAFKA_WORKER"
	holdEnv   = "LINDA_KAFKA_HOLD"
)

// runJobs tells on its standard output what happens to each job.
func runJobs(url string) error {
	d, err := linda.New(linda.Settings{
		Connection: url, Queue: "q", Concurrency: 8, Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(e linda.Event) { fmt.Println(e.Kind, e.ID) },
	})
	if err != nil {
		return err
	}
	d.HandleFunc("nap", func(_ context.Context, job *linda.Job) error {
		fmt.Println("started", job.ID)
		time.Sleep(time.Duration(job.Payload.Args[0].(float64)) * time.Millisecond)
		fmt.Println("ended", job.ID)
		return nil
	})
	d.HandleFunc("kill", func(context.Context, *linda.Job) error {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	return d.Run(context.Background())
}

// holdJobs reserves ten jobs, waits for a line, and then releases, buries, delays
// and deletes them by turns.
func holdJobs(url string) error {
	b, err := linda.NewBroker(url)
	if err != nil {
		return err
	}
	var jobs []*linda.Job
	for len(jobs) < 10 {
		got, err := b.(linda.Fetcher).Fetch(context.Background(), "q", 10-len(jobs), time.Hour)
		if err != nil {
			return err
		}
		jobs = append(jobs, got...)
	}
	fmt.Println("holds")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for i, job := range jobs {
		s := linda.Settlement{Job: job}
		switch i % 4 {
		case 0:
			s.Op = linda.OpRelease
		case 1:
			s.Op, s.Reason = linda.OpBury, "stopped"
		case 2:
			s.Op, s.Delay = linda.OpRelease, time.Second
		}
		fmt.Println("settled", linda.EachError(b.(linda.Settler).Settle(context.Background(), "q", []linda.Settlement{s}), 1)[0])
	}
	fmt.Println("end")
	return b.Close()
}

// worker is a process of runJobs or holdJobs.
type worker struct {
	*exec.Cmd
	in    io.WriteCloser
	lines chan string // of its standard output, until it ends
}

func startWorker(t *testing.T, url string, env ...string) *worker {
	t.Helper()
	w := &worker{Cmd: exec.Command(os.Args[0]), lines: make(chan string, 100_000)}
	w.Env = append(append(os.Environ(), workerEnv+"="+url), env...)
	w.Stderr = os.Stderr
	out, err := w.StdoutPipe()
	require.NoError(t, err)
	w.in, err = w.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, w.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(w.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			w.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = w.Process.Kill()
		<-ended
		_ = w.Wait()
	})
	return w
}

// until reads lines up to one that satisfies, and returns them all.
func (w *worker) until(t *testing.T, what string, limit time.Duration, enough func(line string) bool) (lines []string) {
	t.Helper()
	timeout := time.After(limit)
	for {
		select {
		case line, ok := <-w.lines:
			if !ok {
				require.Fail(t, "the worker has ended", "before %s; the last of %d lines: %q", what, len(lines), lines[max(0, len(lines)-5):])
			}
			if lines = append(lines, line); enough(line) {
				return lines
			}
		case <-timeout:
			require.Fail(t, "nothing more", "%v for %s; the last of %d lines: %q", limit, what, len(lines), lines[max(0, len(lines)-5):])
		}
	}
}

// kill ends a worker and returns what it has said.
func (w *worker) kill(t *testing.T) (lines []string) {
	t.Helper()
	require.NoError(t, w.Process.Kill())
	for line := range w.lines {
		lines = append(lines, line)
	}
	return lines
}

func nap(id string, d time.Duration) *linda.Job {
	return &linda.Job{ID: id, Payload: linda.Payload{Class: "nap", Args: []any{d.Milliseconds()}}}
}

// F17: what is settled behind a job that runs is neither lost with it nor done
// again.
func TestAJobThatRanWhenItsProcessWasKilledRunsAgainAndOnlyThat(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := server.URL + classic + "&lock=2s"
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	const n = 1000
	jobs := []*linda.Job{nap("job-0", 3*time.Second)}
	for i := 1; i < n; i++ {
		jobs = append(jobs, nap(fmt.Sprint("job-", i), 0))
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	w := startWorker(t, url)
	done := make(map[string]int)
	w.until(t, "999 jobs to be done", 30*time.Second, func(line string) bool {
		if id, ok := strings.CutPrefix(line, "done "); ok {
			done[id]++
		}
		return len(done) == n-1
	})
	require.Zero(t, done["job-0"], "the machine is too slow for this test")
	for _, line := range w.kill(t) {
		require.NotEqual(t, "done job-0", line, "the machine is too slow for this test")
	}
	killed := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	again, err := b.(linda.Fetcher).Fetch(ctx, "q", n, time.Minute)
	require.NoError(t, err)
	require.Len(t, again, 1)
	assert.Equal(t, "job-0", again[0].ID)
	assert.Equal(t, 2, again[0].Attempt())
	assert.Equal(t, 1, again[0].Crashes())
	assert.Less(t, time.Since(killed), 10*time.Second)
	require.NoError(t, b.Delete("q", again[0]))
	none, err := b.Pop("q", 60)
	require.NoError(t, err)
	assert.Nil(t, none)
}

// F17: the group gives the partitions of a process that is stopped to another.
func TestWhoWasStoppedForLongerThanItsSessionSettlesNothing(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := server.URL + classic + "&lock=2s"
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	want := make(map[string]bool)
	for i := range 10 {
		class := fmt.Sprint("job-", i)
		want[class] = true
		require.NoError(t, b.Push(newJob(class), "q"))
	}
	w := startWorker(t, url, holdEnv+"=1")
	w.until(t, "it to hold the jobs", 20*time.Second, func(line string) bool { return line == "holds" })
	require.NoError(t, w.Process.Signal(syscall.SIGSTOP))
	for class, times := range drain(t, b, "q", want, 30*time.Second) {
		assert.Equal(t, 1, times, class)
	}
	_, err := io.WriteString(w.in, "go\n") // so that it settles before it hears anything of the group
	require.NoError(t, err)
	require.NoError(t, w.Process.Signal(syscall.SIGCONT))
	settled := 0
	for _, line := range w.until(t, "it to settle", 30*time.Second, func(line string) bool { return line == "end" }) {
		if answer, ok := strings.CutPrefix(line, "settled "); ok {
			settled++
			assert.Equal(t, linda.ErrLeaseLost.Error(), answer)
		}
	}
	assert.Equal(t, 10, settled)
	none, err := b.Pop("q", 60)
	require.NoError(t, err)
	assert.Nil(t, none, "a job was written that is done")
	stats, err := b.(linda.Inspector).Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Zero(t, stats.Dead)
}

// A job that kills its process must not do so for ever, nor take others with it.
func TestAJobThatKillsItsProcessEndsDeadAndItsNeighboursDoNot(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := server.URL + classic + "&lock=1s"
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	missing := make(map[string]bool)
	for i := range 40 {
		job := nap(fmt.Sprint("job-", i), 50*time.Millisecond)
		missing[job.ID] = true
		require.NoError(t, b.Push(job, "q"))
		if i == 20 {
			require.NoError(t, b.Push(&linda.Job{ID: "killer", Payload: linda.Payload{Class: "kill"}}, "q"))
		}
	}
	started := make(map[string]int)
	dead := 0
	for process := 1; len(missing) > 0 || dead == 0; process++ {
		require.LessOrEqual(t, process, 6, "missing: %v", missing)
		w := startWorker(t, url)
		limit := time.After(30 * time.Second)
		for alive := true; alive && (len(missing) > 0 || dead == 0); {
			select {
			case line, ok := <-w.lines:
				alive = ok
				kind, id, _ := strings.Cut(line, " ")
				switch kind {
				case "started":
					started[id]++
				case "ended": // a process that dies may not tell that it is done
					delete(missing, id)
				case "dead":
					dead++
					assert.Equal(t, "killer", id)
				}
			case <-limit:
				require.Fail(t, "nothing happens", "missing: %v, dead: %d", missing, dead)
			}
		}
		w.kill(t)
	}
	for id, times := range started {
		assert.LessOrEqual(t, times, 4, id)
	}
}

// Delayed jobs are moved by one of the processes. What is due while that is dead
// is late by as long as it takes another to follow it: about 2 s.
func TestWhenWhoMovesTheDelaysIsKilledAnotherDoesAndNoJobIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	b := open(t, server.URL)
	defer b.Close()
	w := startWorker(t, server.URL, holdEnv+"=1")
	for range 10 {
		require.NoError(t, b.Later(1, newJob("held"), "q"))
	}
	w.until(t, "it to have moved jobs and to hold them", 60*time.Second, func(line string) bool { return line == "holds" })
	// It has nothing to do with the jobs of this queue but to move them.
	want, due := make(map[string]bool), make(map[string]time.Time)
	for i := range 400 {
		job := newJob(fmt.Sprint("job-", i))
		job.Delay = time.Second + time.Duration(10*i)*time.Millisecond
		want[job.Payload.Class], due[job.Payload.Class] = true, time.Now().Add(job.Delay)
		require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "other", []*linda.Job{job}))
	}
	came := make(map[string]int)
	var late time.Duration
	killed := false
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := 0; len(came) < len(want); {
		jobs, err := b.(linda.Fetcher).Fetch(ctx, "other", 50, time.Minute)
		require.NoError(t, err, "%d of %d jobs have come", len(came), len(want))
		for _, job := range jobs {
			class := job.Payload.Class
			came[class]++
			assert.False(t, time.Now().Before(due[class].Add(-time.Millisecond)), "%s is early", class)
			late = max(late, time.Since(due[class]))
			require.NoError(t, b.Delete("other", job))
		}
		if n += len(jobs); n >= 100 && !killed {
			w.kill(t)
			killed = true
		}
	}
	for class, times := range came {
		assert.Equal(t, 1, times, class)
	}
	none, err := b.Pop("other", 60)
	require.NoError(t, err)
	assert.Nil(t, none)
	t.Logf("late by up to %v", late)
	assert.Less(t, late, 10*time.Second, "2 s, and more on a busy machine")
	assert.Greater(t, late, time.Second, "another process has moved the jobs all the time")
}
