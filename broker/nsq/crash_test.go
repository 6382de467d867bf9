package nsq

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// slack is what a busy machine may need beside.
const slack = 5 * time.Second

func job(class string) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: class, Args: []any{1}}}
}

func delayed(class string, delay time.Duration) *linda.Job {
	j := job(class)
	j.Delay = delay
	return j
}

// opened opens a broker that is closed at the end.
func opened(t testing.TB, url string) *broker {
	t.Helper()
	b := open(t, url)
	t.Cleanup(func() { _ = b.Close() })
	return b.(*broker)
}

// fetch reserves n jobs.
func fetch(t testing.TB, b *broker, n int, lease time.Duration) []*linda.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var jobs []*linda.Job
	for len(jobs) < n {
		got, err := b.Fetch(ctx, "q", n-len(jobs), lease)
		if err != nil && ctx.Err() == nil { // an outage
			time.Sleep(10 * time.Millisecond)
			continue
		}
		require.NoError(t, err, "%d of %d jobs came", len(jobs), n)
		jobs = append(jobs, got...)
	}
	return jobs
}

// rest fetches and deletes what comes until nothing does for a while, and counts
// the classes.
func rest(t testing.TB, b *broker, quiet time.Duration) map[string]int {
	t.Helper()
	classes := make(map[string]int)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), quiet)
		jobs, err := b.Fetch(ctx, "q", 100, time.Minute)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return classes
		}
		for _, j := range jobs {
			classes[j.Payload.Class]++
			require.NoError(t, b.Delete("q", j))
		}
	}
}

func TestJobsOfAKilledWorkerRunAgainWhenTheServerHasWaited(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	for range 5 {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	const patience = 4 * time.Second
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), fmt.Sprintf("%s=%s&msg_timeout=%v", holderEnv, server.URL, patience))
	out, err := worker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, worker.Start())
	t.Cleanup(func() { _ = worker.Process.Kill() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	time.Sleep(2 * patience) // it holds them for longer than the server waits
	require.Empty(t, rest(t, b, 100*time.Millisecond), "held by a worker that lives")
	require.NoError(t, worker.Process.Kill())
	_ = worker.Wait()
	killed := time.Now()
	require.Equal(t, "held: <nil>\n", line)
	for _, j := range fetch(t, b, 5, time.Minute) {
		assert.Equal(t, 2, j.Attempt())
		assert.Equal(t, 1, j.Crashes())
		require.NoError(t, b.Delete("q", j))
	}
	t.Logf("all back after %v", time.Since(killed))
	assert.Less(t, time.Since(killed), patience+slack)
}

// fill puts jobs into every state.
func fill(t *testing.T, b *broker, ready int, delay time.Duration) (held []*linda.Job, pushed time.Time) {
	t.Helper()
	for range 5 {
		require.NoError(t, b.Push(job("reserved"), "q"))
	}
	held = fetch(t, b, 5, time.Minute)
	time.Sleep(youth + 100*time.Millisecond) // or what is delayed is not deferred
	for range ready {
		require.NoError(t, b.Push(job("ready"), "q"))
	}
	pushed = time.Now()
	for range 5 {
		require.NoError(t, b.Push(delayed("delayed", delay), "q"))
	}
	stats, err := b.Stats(t.Context(), "q")
	require.NoError(t, err)
	require.EqualValues(t, 5, stats.Reserved)
	require.EqualValues(t, ready+5, stats.Ready+stats.Delayed)
	require.GreaterOrEqual(t, stats.Ready, int64(ready), "the server may put what is delayed on disk, as if it were ready")
	return held, pushed
}

func TestAKilledServerLosesWhatItsGuaranteesSay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		args  []string
		ready int
	}{
		{"on disk", []string{"-mem-queue-size=0", "-sync-every=1"}, 20}, // what is ready is kept
		{"in memory", nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args(test.args...))
			b := opened(t, server.URL)
			g := b.Guarantees()
			assert.False(t, g.DelayDurable)
			assert.Contains(t, fmt.Sprint(g.Notes), "when it is killed, or its machine fails, the jobs that are delayed, reserved or in its memory are lost")
			if len(test.args) > 0 {
				assert.NotContains(t, fmt.Sprint(g.Notes), "-mem-queue-size=0")
			} else {
				assert.Contains(t, fmt.Sprint(g.Notes), "-mem-queue-size=0")
			}
			held, _ := fill(t, b, 20, 3*time.Second)
			require.NoError(t, server.Kill())
			require.NoError(t, server.Restart(t.Context()))
			got := rest(t, opened(t, server.URL), 5*time.Second)
			t.Logf("left of 20 ready, 5 delayed, 5 reserved: %v", got)
			assert.Equal(t, test.ready, got["ready"])
			if test.ready == 0 {
				assert.Zero(t, got["delayed"])
			} else { // what its memory had no room for is on disk, and keeps its due time
				assert.Less(t, got["delayed"], 5)
			}
			assert.Zero(t, got["reserved"])
			assert.ErrorIs(t, b.Delete("q", held[0]), linda.ErrLeaseLost)
		})
	}
}

func TestAServerThatRestartsInOrderLosesNothingAndDelaysStay(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	const delay = 5 * time.Second
	held, pushed := fill(t, b, 20, delay)
	require.NoError(t, server.Restart(t.Context()))
	require.Less(t, time.Since(pushed), delay-time.Second, "too slow to tell")
	require.Eventually(t, func() bool { return b.Delete("q", held[0]) != nil }, slack, time.Millisecond)
	require.ErrorIs(t, b.Delete("q", held[1]), linda.ErrLeaseLost)

	count := make(map[string]int)
	for _, j := range fetch(t, b, 30, time.Minute) {
		class := j.Payload.Class
		count[class]++
		switch class {
		case "delayed":
			assert.Equal(t, 1, j.Attempt())
			assert.Zero(t, j.Crashes())
		case "reserved":
			assert.Equal(t, 1, j.Crashes())
		}
		require.NoError(t, b.Delete("q", j))
	}
	assert.GreaterOrEqual(t, time.Since(pushed), delay, "the last were due then")
	assert.Equal(t, map[string]int{"ready": 20, "delayed": 5, "reserved": 5}, count)
	assert.Empty(t, rest(t, b, 500*time.Millisecond))
}

func TestADelayIsNeverCutShortByARestart(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("first"), "q"))
	require.NoError(t, b.Delete("q", fetch(t, b, 1, time.Minute)[0]))
	time.Sleep(youth)
	const delay = 4 * time.Second
	pushed := time.Now()
	require.NoError(t, b.Push(delayed("delayed", delay), "q"))
	require.NoError(t, server.Restart(t.Context()))
	j := fetch(t, b, 1, time.Minute)[0]
	took := time.Since(pushed)
	assert.GreaterOrEqual(t, took, delay)
	assert.Less(t, took, delay+slack)
	assert.Equal(t, 1, j.Attempt())
	require.NoError(t, b.Delete("q", j))
}
