package e2e

import (
	"bufio"
	"cmp"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// span is for how long a handler ran with a live lease.
type span struct {
	from, to time.Time
	killed   bool
}

// spans reads the runs of handlers from the history. The kills are by process.
// A handler that was killed counts as running for half a lease more: for so
// long, at least, its reservation lives on. One that is not over yet runs.
func (w *workers) spans(t *testing.T, kills map[string]time.Time) []span {
	t.Helper()
	f, err := os.Open(w.history)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	type run struct{ id, pid string }
	open := make(map[run]time.Time)
	var all []span
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.Fields(s.Text())
		require.Len(t, line, 4, s.Text())
		ns, err := strconv.ParseInt(line[3], 10, 64)
		require.NoError(t, err)
		key := run{line[1], line[2]}
		if line[0] == "start" {
			open[key] = time.Unix(0, ns)
			continue
		}
		all = append(all, span{from: open[key], to: time.Unix(0, ns)})
		delete(open, key)
	}
	lease := time.Duration(w.lease) * time.Second
	for key, from := range open {
		at, dead := kills[key.pid]
		if !dead {
			at = time.Now()
		}
		all = append(all, span{from: from, to: at.Add(lease / 2), killed: dead})
	}
	return all
}

// running returns how many run, from each moment when that changes.
func running(spans []span, dead bool) (at []time.Time, n []int) {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	for _, s := range spans {
		if !s.killed || dead {
			changes = append(changes, change{s.from, 1}, change{s.to, -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(a.at.Compare(b.at), a.by-b.by) })
	sum := 0
	for _, c := range changes {
		sum += c.by
		at, n = append(at, c.at), append(n, sum)
	}
	return at, n
}

// A limit of 5 over 4 processes that are killed again and again: never 6 run
// with live leases, and a lease after a kill all 5 slots are in use again.
func TestALimitHoldsWhenProcessesAreKilled(t *testing.T) {
	t.Parallel()
	const limit, processes, pause = 5, 4, 300 * time.Millisecond
	long := 10 * time.Second
	if os.Getenv("LINDA_LONG") != "" {
		long = time.Minute
	}
	server := brokerd.Run(t, brokerd.Redis)
	r := newRig(t, server.URL)
	batch := make([]*linda.Job, 2000)
	for i := range batch {
		batch[i] = job(20 + rand.IntN(300))
		if i%50 == 0 {
			batch[i] = job(3000) // outlasts a lease
		}
	}
	require.NoError(t, r.PushBatch(t.Context(), batch))
	w := newWorkers(t, server.URL, 8)
	w.lease, w.limit = 2, limit
	w.crashes = 1000 // else what was killed twice is a suspect, and runs alone
	lease := time.Duration(w.lease) * time.Second
	alive := make([]*exec.Cmd, processes)
	for i := range alive {
		alive[i] = w.start(t)
	}
	kills := make(map[string]time.Time) // by process
	kill := func(i int) {
		require.NoError(t, alive[i].Process.Kill())
		_ = alive[i].Wait()
		kills[strconv.Itoa(alive[i].Process.Pid)] = time.Now()
	}
	for until := time.Now().Add(long); time.Now().Before(until); time.Sleep(pause) {
		i := rand.IntN(processes)
		kill(i)
		alive[i] = w.start(t)
	}
	// All but one die, and nobody takes their places.
	for i := range processes - 1 {
		kill(i)
	}
	last := time.Now()
	require.Eventually(t, func() bool {
		n := 0
		for _, s := range w.spans(t, kills) {
			if !s.killed && s.to.After(time.Now()) {
				n++
			}
		}
		return n == limit
	}, lease+2*time.Second, 5*time.Millisecond, "all slots are in use again")
	full := time.Since(last)
	assert.LessOrEqual(t, full, lease+500*time.Millisecond, "within a lease")
	time.Sleep(time.Second)

	at, n := running(w.spans(t, kills), true)
	most := 0
	for i := range n {
		most = max(most, n[i])
		if !assert.LessOrEqual(t, n[i], limit, "running at %v", at[i]) {
			break
		}
	}
	assert.Equal(t, limit, most, "it is used")
	t.Logf("%d kills, %d runs, most at once %d, in full use %v after the last kill", len(kills), len(n)/2, most, full)
}
