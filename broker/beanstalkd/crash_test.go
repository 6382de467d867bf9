package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
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

// workerEnv, if set, makes this test binary a worker that holds what it fetches.
const workerEnv = "LINDA_BEANSTALKD_WORKER"

func holdJobs(url string) error {
	d, err := linda.New(linda.Settings{Connection: url, Queue: "q", Concurrency: 5, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	d.HandleFunc("C", func(ctx context.Context, job *linda.Job) error {
		fmt.Println("started", job.ID)
		<-ctx.Done()
		return ctx.Err()
	})
	return d.Run(context.Background())
}

func TestTheJobsOfAKilledWorkerRunAgainAtOnce(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	const n = 5
	for i := range n {
		require.NoError(t, b.Push(job(i), "q"))
	}
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), workerEnv+"="+server.URL)
	out, err := worker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, worker.Start())
	defer func() {
		_ = worker.Process.Kill()
		_ = worker.Wait()
	}()
	seen := make([]byte, 0, 1000)
	for strings.Count(string(seen), "started") < n || !strings.HasSuffix(string(seen), "\n") {
		part := make([]byte, 100)
		read, err := out.Read(part)
		require.NoError(t, err)
		seen = append(seen, part[:read]...)
	}
	none, err := b.(*broker).FetchNow(t.Context(), "q", n, time.Minute)
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, worker.Process.Kill())
	killed := time.Now()
	for range n {
		again := fetched(t, b)
		assert.Equal(t, 1, again.Crashes())
		assert.Equal(t, 2, again.Attempt())
		assert.Contains(t, string(seen), again.ID)
		require.NoError(t, b.Delete("q", again))
	}
	assert.Less(t, time.Since(killed), 5*time.Second, "the lease was a minute")
}

func TestNothingIsLostWhenTheServerIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd, brokerd.Args("-f", "0"))
	var mu sync.Mutex
	ran := make(map[string]bool)
	var last time.Time
	d, err := linda.New(linda.Settings{Connection: server.URL, Queue: "q", Concurrency: 10, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer d.Close()
	d.HandleFunc("C", func(_ context.Context, job *linda.Job) error {
		mu.Lock()
		defer mu.Unlock()
		ran[job.ID] = true
		last = time.Now()
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()

	pushing, enough := context.WithCancel(t.Context())
	var pushers sync.WaitGroup
	acked := make([][]string, 4)
	for p := range acked {
		pushers.Go(func() {
			for i := 0; pushing.Err() == nil; i++ {
				j := job(i)
				j.ID = linda.NewID()
				if d.Push(t.Context(), j) == nil {
					acked[p] = append(acked[p], j.ID)
				} else {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	for range 3 {
		time.Sleep(300 * time.Millisecond)
		require.NoError(t, server.Kill())
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, server.Restart(t.Context()))
		back := time.Now()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return last.After(back)
		}, 2*time.Second, 5*time.Millisecond, "the workers are back")
	}
	enough()
	pushers.Wait()
	count := 0
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		count = 0
		missing := 0
		for _, ids := range acked {
			for _, id := range ids {
				count++
				if !ran[id] {
					missing++
				}
			}
		}
		return missing == 0
	}, 20*time.Second, 20*time.Millisecond, "every job that was acknowledged runs")
	assert.Greater(t, count, 100)
	t.Logf("%d jobs acknowledged over three kills", count)
	stop()
	require.NoError(t, <-ended)
}

// Without a binlog ids begin anew, so that the id of a reservation from before a
// restart is that of somebody else's new job.
func TestASettlementFromBeforeARestartSparesTheNewJobOfTheSameID(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.BeanstalkdUnlogged)
	b := open(t, server.URL)
	defer b.Close()
	assert.NotEmpty(t, b.(linda.Guarantor).Guarantees().Notes)
	assert.False(t, b.(linda.Guarantor).Guarantees().DelayDurable)
	for range 3 {
		require.NoError(t, b.Push(job(1), "q"))
	}
	held := []*linda.Job{fetched(t, b), fetched(t, b), fetched(t, b)}
	require.NoError(t, server.Kill())
	require.NoError(t, server.Restart(t.Context()))
	putAll(t, server.Addr, 3, 7, 60)
	require.Eventually(t, func() bool { return b.Push(job(1), "other") == nil }, 5*time.Second, time.Millisecond, "it is connected again")
	require.ErrorIs(t, b.Delete("q", held[0]), linda.ErrLeaseLost)
	require.ErrorIs(t, b.Release("q", held[1]), linda.ErrLeaseLost)
	dead := linda.Settlement{Job: held[2], Op: linda.OpBury, Reason: "x"}
	require.ErrorIs(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{dead}), linda.ErrLeaseLost)
	require.Eventually(t, func() bool {
		stats, err := b.(linda.Inspector).Stats(t.Context(), "q")
		return err == nil && stats == linda.Stats{Ready: 3}
	}, 5*time.Second, 20*time.Millisecond)
}

// cut closes the connections of a broker under it.
func cut(b linda.Broker) {
	broker := b.(*broker)
	broker.mu.Lock()
	defer broker.mu.Unlock()
	for c := range broker.conns {
		_ = c.net.Close()
	}
}

func TestAJobWhoseConnectionIsCutIsSomebodyElsesAtOnce(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b, other := open(t, server.URL), open(t, server.URL)
	defer b.Close()
	defer other.Close()
	require.NoError(t, b.Push(job(1), "q"))
	held := fetched(t, b)
	cut(b)
	again := fetched(t, other)
	assert.Equal(t, held.ID, again.ID)
	assert.Equal(t, 1, again.Crashes())
	require.Eventually(t, func() bool { return errors.Is(b.Delete("q", held), linda.ErrLeaseLost) }, 5*time.Second, time.Millisecond)
	require.ErrorIs(t, b.(linda.Toucher).Touch(t.Context(), "q", time.Minute, []*linda.Job{held}), linda.ErrLeaseLost)
	require.NoError(t, other.Delete("q", again))
}

// The same connection may reserve the job again whose reservation has run out on
// the server; to that the two are one.
func TestAnEarlierReservationOfTheSameConnectionCannotSettleTheLater(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	require.NoError(t, b.Push(job(1), "q"))
	first := fetched(t, b)
	token := func(j *linda.Job) *reservation {
		receipt, err := j.Receipt(b, "q")
		require.NoError(t, err)
		return receipt.Token().(*reservation)
	}
	held := token(first)
	release := &commands{} // as if it had run out
	release.add("release", held.id, 0, 0)
	_, err := held.conn.do(t.Context(), release, nil)
	require.NoError(t, err)
	second := fetched(t, b)
	require.Same(t, held.conn, token(second).conn)
	require.ErrorIs(t, b.Delete("q", first), linda.ErrLeaseLost)
	require.NoError(t, b.(linda.Toucher).Touch(t.Context(), "q", time.Minute, []*linda.Job{second}))
	require.NoError(t, b.Delete("q", second))
}

func TestANameCannotSmuggleInACommand(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	for _, name := range []string{"a\r\nput 0 0 60 4\r\nevil", "a b", "", "-x", "é", "a\x00b", strings.Repeat("x", 201)} {
		require.ErrorIs(t, b.Push(job(1), name), linda.ErrBadName)
		_, err := b.Pop(name, 1)
		require.ErrorIs(t, err, linda.ErrBadName)
		_, err = b.(linda.Fetcher).Fetch(t.Context(), name, 1, time.Second)
		require.ErrorIs(t, err, linda.ErrBadName)
		require.ErrorIs(t, b.Delete(name, job(1)), linda.ErrBadName)
		in := b.(linda.Inspector)
		_, err = in.Stats(t.Context(), name)
		require.ErrorIs(t, err, linda.ErrBadName)
		_, err = in.Kick(t.Context(), name, 1)
		require.ErrorIs(t, err, linda.ErrBadName)
		_, err = in.Peek(t.Context(), name, linda.Ready, 1)
		require.ErrorIs(t, err, linda.ErrBadName)
		_, err = in.Purge(t.Context(), name, linda.Ready)
		require.ErrorIs(t, err, linda.ErrBadName)
	}
	assert.Zero(t, field(ask(t, server.Addr, "stats\r\n", 1)[0], "total-jobs"))
}

// With all its connections in use a broker looks for jobs instead of waiting.
func TestJobsAreFoundWhereNoFurtherConnectionMayBeOpened(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL+"?conns=2")
	defer b.Close()
	var held []*linda.Job
	for i := range 4 { // each is waited for while the others are held
		got := make(chan *linda.Job, 1)
		go func() { got <- fetched(t, b) }()
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, b.Push(job(i), "q"))
		pushed := time.Now()
		held = append(held, <-got)
		assert.Less(t, time.Since(pushed), 2*time.Second)
	}
	assert.LessOrEqual(t, b.(*broker).count(), 3, "one for what is stored, and those of the queue")
	for _, job := range held {
		require.NoError(t, b.Delete("q", job))
	}
}

// A server that says that a job will soon have to be given back says so at every
// attempt to wait. A foreign job with a time to run of a second must not be
// lost by that, nor the server be asked without a pause.
func TestAJobWithATimeToRunOfASecondIsKeptWhileOthersAreWaitedFor(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL+"?conns=2")
	defer b.Close()
	putAll(t, server.Addr, 1, 7, 1)
	held := fetched(t, b)
	before := field(ask(t, server.Addr, "stats\r\n", 1)[0], "cmd-reserve-with-timeout")
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	none, err := b.(linda.Fetcher).Fetch(ctx, "q", 1, time.Minute)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, none)
	stats := ask(t, server.Addr, "stats\r\n", 1)[0]
	assert.Zero(t, field(stats, "job-timeouts"))
	assert.Less(t, field(stats, "cmd-reserve-with-timeout")-before, int64(150))
	require.NoError(t, b.Delete("q", held))
}

// busy is what a machine that does much else may need beside.
const busy = 500 * time.Millisecond

func TestDelaysAreNeverEarlyAndAtMostASecondLate(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	const n = 200
	due := make(map[string]time.Time)
	for i := range n {
		j := job(i)
		j.ID = linda.NewID()
		j.Delay = time.Duration(i*10+1) * time.Millisecond
		due[j.ID] = time.Now().Add(j.Delay)
		require.NoError(t, b.Push(j, "q"))
	}
	var late []time.Duration
	for len(late) < n {
		jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", n, time.Minute)
		require.NoError(t, err)
		now := time.Now()
		done := make([]linda.Settlement, len(jobs))
		for i, job := range jobs {
			late = append(late, now.Sub(due[job.ID]))
			done[i].Job = job
		}
		require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", done))
	}
	slices.Sort(late)
	assert.GreaterOrEqual(t, late[0], -5*time.Millisecond, "the server goes by a clock that may be set")
	assert.Less(t, late[n*99/100], 1100*time.Millisecond+busy)
	t.Logf("late by %v (median), %v (p99)", late[n/2], late[n*99/100])
}

func TestEveryCallReturnsWhileTheServerHangsForLong(t *testing.T) {
	if os.Getenv("LINDA_LONG") == "" {
		t.Skip("LINDA_LONG is not set")
	}
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	require.NoError(t, b.Push(job(1), "q"))
	held := fetched(t, b)
	require.NoError(t, server.Pause())
	for began := time.Now(); time.Since(began) < 15*time.Second; {
		asked := time.Now()
		require.Error(t, b.Push(job(2), "q"))
		_, err := b.Pop("q", 60)
		require.Error(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err = b.(linda.Fetcher).Fetch(ctx, "q", 1, time.Minute)
		cancel()
		require.Error(t, err)
		require.Less(t, time.Since(asked), 12*time.Second, "two calls of at most five seconds")
	}
	require.NoError(t, server.Resume())
	resumed := time.Now()
	require.NoError(t, b.Push(job(3), "q"))
	assert.Less(t, time.Since(resumed), 2*time.Second)
	require.NoError(t, b.Delete("q", held), "its connection has kept it")
}
