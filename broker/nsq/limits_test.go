package nsq

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestADelayBeyondTheServersLimitHops(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]string{"limit known": "", "limit learned": "&http=off"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-max-req-timeout=2s"))
			url := server.URL
			if option != "" {
				url = "nsq://" + server.Addr + "?http=off"
			}
			b := opened(t, url)
			require.NoError(t, b.Push(job("first"), "q"))
			first := fetch(t, b, 1, time.Minute)[0]
			time.Sleep(youth)
			const delay = 7 * time.Second
			pushed := time.Now()
			require.NoError(t, b.Push(delayed("pushed", delay), "q"))
			require.NoError(t, b.ReleaseWithDelay("q", first, int64(delay/time.Second)))
			for _, j := range fetch(t, b, 2, time.Minute) {
				assert.GreaterOrEqual(t, time.Since(pushed), delay)
				assert.Zero(t, j.Crashes(), "a hop counts for nothing")
				want := 1
				if j.Payload.Class == "first" {
					want = 2
				}
				assert.Equal(t, want, j.Attempt())
				require.NoError(t, b.Delete("q", j))
			}
			assert.Less(t, time.Since(pushed), delay+slack)
			assert.Equal(t, 2*time.Second, b.servers[0].known().maxReq)
		})
	}
}

func TestAReservationBeyondTheServersLimitIsRefused(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-max-msg-timeout=10s", "-msg-timeout=5s"))
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	assert.Equal(t, 9*time.Second, b.Guarantees().LeaseMax)
	_, err := b.Fetch(t.Context(), "q", 1, 10*time.Second)
	assert.ErrorContains(t, err, "-max-msg-timeout")
	_, err = b.Pop("q", 60)
	assert.ErrorContains(t, err, "-max-msg-timeout")
	j := fetch(t, b, 1, 9*time.Second)[0]
	came := time.Now()
	for time.Since(came) < 5*time.Second {
		time.Sleep(time.Second)
		require.NoError(t, b.Touch(t.Context(), "q", time.Second+500*time.Millisecond, []*linda.Job{j}))
	}
	err = linda.EachError(b.Touch(t.Context(), "q", 5*time.Second, []*linda.Job{j}), 1)[0]
	assert.ErrorContains(t, err, "-max-msg-timeout")
	require.NoError(t, b.Delete("q", j))
	none, err := b.Pop("q", 1)
	require.NoError(t, err)
	assert.Nil(t, none)
}

func TestFailuresAndLapsesDropNoJob(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	for range 8 {
		j := fetch(t, b, 1, time.Minute)[0]
		require.NoError(t, b.Settle(t.Context(), "q", []linda.Settlement{{Job: j, Op: linda.OpRelease, Reason: "failed"}}))
	}
	for range 8 {
		fetch(t, b, 1, 50*time.Millisecond)
	}
	j := fetch(t, b, 1, time.Minute)[0]
	assert.Equal(t, 17, j.Attempt())
	assert.Equal(t, 8, j.Failures())
	assert.Equal(t, 8, j.Crashes())
	require.NoError(t, b.Delete("q", j))
}

func TestABodyOfTheServersLimitIsReleasedAndBuriedAsItIs(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-max-msg-size=16384"))
	b := opened(t, server.URL)
	assert.Equal(t, 16384-bookkeeping, b.Guarantees().BodyMax)
	body := make([]byte, 16384)
	for i := range body {
		body[i] = '['
	}
	require.NoError(t, rawPush(t, server.Addr, "q", body))
	j := fetch(t, b, 1, time.Minute)[0]
	require.NoError(t, b.Settle(t.Context(), "q", []linda.Settlement{{Job: j, Op: linda.OpRelease, Reason: "failed"}}))
	j = fetch(t, b, 1, time.Minute)[0]
	require.NoError(t, b.Settle(t.Context(), "q", []linda.Settlement{{Job: j, Op: linda.OpBury, Reason: "failed"}}))
	dead, err := b.Peek(t.Context(), "q", linda.Dead, 1)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	assert.Equal(t, string(body), string(dead[0].Body()))
}

func TestQueuesListsWhatHoldsJobs(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	names, err := b.Queues(t.Context())
	require.NoError(t, err)
	assert.Empty(t, names)
	require.NoError(t, b.Push(job("job"), "z"))
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Push(job("job"), "q.dead"))
	j := fetch(t, b, 1, time.Minute)[0]
	require.NoError(t, b.Settle(t.Context(), "q", []linda.Settlement{{Job: j, Op: linda.OpBury}}))
	names, err = b.Queues(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"q", "q.dead", "z"}, names)
	job, state, err := b.Find(t.Context(), "q", j.ID)
	require.NoError(t, err)
	assert.Equal(t, linda.Dead, state)
	assert.Equal(t, j.ID, job.ID)
	removed, err := b.Remove(t.Context(), "q", j.ID)
	require.NoError(t, err)
	assert.True(t, removed)
	_, err = b.Remove(t.Context(), "q", j.ID)
	assert.ErrorIs(t, err, errDeadOnly)
}

func TestOfABatchOnlyTheJobThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-max-msg-size=16384"))
	b := opened(t, "nsq://"+server.Addr+"?http=off&max_msg_size=65536") // which is not true
	long := job("long")
	long.Payload.Args = []any{strings.Repeat("x", 20000)}
	err := b.PushBatch(t.Context(), "q", []*linda.Job{job("short"), long, job("short")})
	errs := linda.EachError(err, 3)
	assert.NoError(t, errs[0])
	assert.ErrorIs(t, errs[1], linda.ErrTooLarge)
	assert.NoError(t, errs[2])
	assert.Equal(t, map[string]int{"short": 2}, rest(t, b, 500*time.Millisecond))
}

func TestWhatNobodyTakesGoesBackAndIsNotCounted(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b, other := opened(t, server.URL), opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	fetch(t, b, 1, 50*time.Millisecond) // a crash, which the server counts
	tap, err := b.tap("q", time.Minute)
	require.NoError(t, err)
	tap.want(1)
	require.Eventually(t, func() bool {
		tap.mu.Lock()
		defer tap.mu.Unlock()
		return len(tap.waiting) == 1
	}, slack, time.Millisecond)
	tap.want(-1)
	came := time.Now()
	j := fetch(t, other, 1, time.Minute)[0]
	assert.Less(t, time.Since(came), linger+slack)
	assert.Equal(t, 2, j.Attempt())
	assert.Equal(t, 1, j.Crashes())
	require.NoError(t, other.Delete("q", j))
	assert.Empty(t, rest(t, b, 500*time.Millisecond))
}
