package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/amlun/linda"
)

// workerEnv, if set, makes this test binary a worker.
const workerEnv = "LINDA_E2E_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(3)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(4)
	}
	os.Exit(0)
}

// killer is the argument of a job that kills its process.
const killer = -1

// work runs jobs of class "job", whose argument says for how many milliseconds
// they run, until SIGTERM. It writes each start and finish to a history that
// survives its death.
func work() error {
	history, err := os.OpenFile(os.Getenv("LINDA_E2E_HISTORY"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = history.Close() }()
	number := func(name string) int {
		n, _ := strconv.Atoi(os.Getenv("LINDA_E2E_" + name))
		return n
	}
	d, err := linda.New(linda.Settings{
		Queue: "jobs", Connection: os.Getenv(workerEnv), Timeout: int64(number("LEASE")),
		Concurrency: number("CONCURRENCY"), Grace: time.Duration(number("GRACE")) * time.Millisecond,
		MaxCrashes: number("CRASHES"),
	})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	d.HandleFunc("job", func(ctx context.Context, job *linda.Job) error {
		var ms int
		if err := job.Payload.Decode(&ms); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(history, "start %s %d %d\n", job.ID, os.Getpid(), time.Now().UnixNano()); err != nil {
			return err
		}
		if ms == killer {
			os.Exit(137)
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		_, err := fmt.Fprintf(history, "finish %s %d %d\n", job.ID, os.Getpid(), time.Now().UnixNano())
		return err
	})
	if err := schedule(d, number("SCHEDULES"), os.Getenv("LINDA_E2E_KEPT"), history); err != nil {
		return err
	}
	if n := number("LIMIT"); n > 0 {
		if err := d.Limit(linda.Limit{Class: "job", Running: n}); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return d.Run(ctx)
}

// workers starts worker processes that share a history.
type workers struct {
	url, history                string
	lease, concurrency, graceMS int
	schedules                   int    // how many each has
	crashes                     int    // that make a job dead; 0: as by default
	limit                       int    // how many jobs may run in all of them; 0: any
	kept                        string // the queue of their jobs, if it is another
}

func newWorkers(t *testing.T, url string, concurrency int) *workers {
	return &workers{
		url: url, history: filepath.Join(t.TempDir(), "history"),
		lease: 2, concurrency: concurrency, graceMS: 10_000,
	}
}

// start starts a worker; the test kills it if it does not end it.
func (w *workers) start(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+w.url, "LINDA_E2E_HISTORY="+w.history,
		fmt.Sprint("LINDA_E2E_LEASE=", w.lease), fmt.Sprint("LINDA_E2E_CONCURRENCY=", w.concurrency),
		fmt.Sprint("LINDA_E2E_GRACE=", w.graceMS), fmt.Sprint("LINDA_E2E_SCHEDULES=", w.schedules), "LINDA_E2E_KEPT="+w.kept,
		fmt.Sprint("LINDA_E2E_LIMIT=", w.limit), fmt.Sprint("LINDA_E2E_CRASHES=", w.crashes))
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// count returns how often each job started and finished.
func (w *workers) count(t *testing.T) (starts, finishes map[string]int) {
	t.Helper()
	starts, finishes = map[string]int{}, map[string]int{}
	f, err := os.Open(w.history)
	if os.IsNotExist(err) {
		return starts, finishes
	}
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		switch what := strings.Fields(s.Text()); what[0] {
		case "start":
			starts[what[1]]++
		case "finish":
			finishes[what[1]]++
		}
	}
	return starts, finishes
}
