package beanstalkd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// putAll puts jobs as another program does, with a priority and a time to run.
func putAll(t *testing.T, addr string, n, pri, ttr int) {
	t.Helper()
	const body = `{"Payload":{"class":"C","args":[1]}}`
	put := fmt.Sprintf("put %d 0 %d %d\r\n%s\r\n", pri, ttr, len(body), body)
	for _, answer := range ask(t, addr, "use q\r\n"+strings.Repeat(put, n), n+1)[1:] {
		require.Contains(t, answer, "INSERTED")
	}
}

// crashed reserves jobs and lets the connection break.
func crashed(t *testing.T, addr string, n int) {
	t.Helper()
	answers := ask(t, addr, "watch q\r\nignore default\r\n"+strings.Repeat("reserve-with-timeout 0\r\n", n), n+2)
	for _, answer := range answers[2:] {
		require.Contains(t, answer, "RESERVED")
	}
}

// crashes fetches n jobs and returns how many crashes each has behind it. One
// that has any comes alone.
func crashes(t *testing.T, b linda.Broker, n int) (counts []int) {
	t.Helper()
	for len(counts) < n {
		jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", n-len(counts), time.Minute)
		require.NoError(t, err)
		for _, job := range jobs {
			assert.True(t, job.Crashes() == 0 || len(jobs) == 1, "a job that crashed is not alone")
			counts = append(counts, job.Crashes())
			require.NoError(t, b.Delete("q", job))
		}
	}
	return counts
}

// statsJobs tells how often the server was asked about one job.
func statsJobs(t *testing.T, addr string) int64 {
	return field(ask(t, addr, "stats\r\n", 1)[0], "cmd-stats-job")
}

func TestARowOfNewJobsIsCountedByOneQuestion(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	putAll(t, server.Addr, 120, 7, 60)
	assert.Equal(t, make([]int, 20), crashes(t, b, 20), "nothing is known of the server yet")
	before := statsJobs(t, server.Addr)
	crashes(t, b, 40) // the connection that asked has closed
	assert.EqualValues(t, 20+1, statsJobs(t, server.Addr)-before, "a connection has closed before the first of two rows")
	n := statsJobs(t, server.Addr)
	b.(*broker).tube("q").told(now(t, b))
	assert.Equal(t, make([]int, 60), crashes(t, b, 60))
	assert.EqualValues(t, 2, statsJobs(t, server.Addr)-n, "of two rows, the first")
}

// now is the peace of this moment: the last connection of the test has closed.
func now(t *testing.T, b linda.Broker) peace {
	t.Helper()
	cmd := &commands{}
	cmd.add("stats")
	answers, err := b.(*broker).looks.do(t.Context(), cmd)
	require.NoError(t, err)
	return readPeace(answers[0].data)
}

func TestACrashOfAnotherWorkerIsCountedInTheMiddleOfARow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		put  func(addr string)
		want func() []int
	}{
		"since the last row, at the head": {
			put: func(addr string) {
				putAll(t, addr, 40, 7, 60)
				crashed(t, addr, 3)
			},
			want: func() []int { return append([]int{1, 1, 1}, make([]int, 37)...) },
		},
		"before the last row, behind more urgent jobs": {
			put: func(addr string) {
				putAll(t, addr, 20, 9, 60)
				crashed(t, addr, 3)
				putAll(t, addr, 20, 7, 60)
			},
			want: func() []int { return append(make([]int, 20), append([]int{1, 1, 1}, make([]int, 17)...)...) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Beanstalkd)
			b := open(t, server.URL)
			defer b.Close()
			putAll(t, server.Addr, 8, 1, 60)
			crashes(t, b, 8)
			if strings.HasPrefix(name, "before") {
				test.put(server.Addr)
				b.(*broker).tube("q").told(now(t, b))
			} else {
				b.(*broker).tube("q").told(now(t, b))
				test.put(server.Addr)
			}
			b.(*broker).tube("q").drained(40, false) // all in one row
			assert.Equal(t, test.want(), crashes(t, b, 40))
		})
	}
}

func TestAJobOfARowIsKeptThoughItsTimeToRunIsOneSecond(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	putAll(t, server.Addr, 30, 7, 1)
	b.(*broker).tube("q").told(now(t, b))
	b.(*broker).tube("q").drained(30, false)
	before := statsJobs(t, server.Addr)
	b.(*broker).tube("q").told(now(t, b))
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 30, time.Minute)
	require.NoError(t, err)
	require.Len(t, jobs, 30)
	assert.EqualValues(t, 1, statsJobs(t, server.Addr)-before)
	time.Sleep(2500 * time.Millisecond)
	for _, job := range jobs[:29] {
		require.NoError(t, b.Delete("q", job))
	}
	assert.Zero(t, field(ask(t, server.Addr, "stats\r\n", 1)[0], "job-timeouts"))
	failed := linda.Settlement{Job: jobs[29], Op: linda.OpRelease, Reason: "x"}
	require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{failed}))
	answer := ask(t, server.Addr, "use q\r\npeek-ready\r\n", 2)[1]
	var id uint64
	_, err = fmt.Sscanf(answer, "FOUND %d", &id)
	require.NoError(t, err)
	stats := ask(t, server.Addr, fmt.Sprintf("stats-job %d\r\n", id), 1)[0]
	assert.EqualValues(t, 1, field(stats, "ttr"), "the copy has the job's own")
	assert.EqualValues(t, 7, field(stats, "pri"))
}

func TestAJobOfARowThatGoesBackKeepsItsPriority(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	putAll(t, server.Addr, 30, 7, 60)
	b.(*broker).tube("q").told(now(t, b))
	b.(*broker).tube("q").drained(30, false)
	b.(*broker).tube("q").told(now(t, b))
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 30, time.Minute)
	require.NoError(t, err)
	require.Len(t, jobs, 30)
	back := linda.Settlement{Job: jobs[20], Op: linda.OpRelease, Unstarted: true}
	require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{back}))
	receipt, err := jobs[21].Receipt(b, "q")
	require.NoError(t, err)
	r := receipt.Token().(*reservation)
	b.(*broker).giveBack(r.conn, []*reservation{r})
	assert.Eventually(t, func() bool {
		return field(ask(t, server.Addr, "stats-tube q\r\n", 1)[0], "current-jobs-ready") == 2
	}, 5*time.Second, time.Millisecond)
	for range 2 {
		answers := ask(t, server.Addr, "watch q\r\nignore default\r\nreserve-with-timeout 0\r\n", 3)
		var id uint64
		_, err = fmt.Sscanf(answers[2], "RESERVED %d", &id)
		require.NoError(t, err)
		stats := ask(t, server.Addr, fmt.Sprintf("stats-job %d\r\n", id), 1)[0]
		assert.EqualValues(t, 7, field(stats, "pri"))
		assert.EqualValues(t, 1, field(stats, "releases"))
	}
}

func TestOnlyWhatComesBehindAJobOfALowerIDIsVouchedFor(t *testing.T) {
	t.Parallel()
	var jobs []*reservation
	for _, id := range []uint64{10, 11, 30, 4, 7, 5, 2} {
		jobs = append(jobs, &reservation{id: id})
	}
	ids := func(rs []*reservation) (ids []uint64) {
		for _, r := range rs {
			ids = append(ids, r.id)
		}
		return ids
	}
	ask, rest := row{jobs: jobs, quiet: true}.split()
	assert.Equal(t, []uint64{10, 4, 2}, ids(ask))
	heads := map[uint64]uint64{}
	for _, v := range rest {
		heads[v.job.id] = v.head.id
	}
	assert.Equal(t, map[uint64]uint64{11: 10, 30: 10, 7: 4, 5: 4}, heads)

	ask, rest = row{jobs: jobs}.split()
	assert.Len(t, ask, len(jobs), "something came back")
	assert.Empty(t, rest)

	g := gathering{}
	g.add(row{jobs: jobs, quiet: true, sent: time.Now()})
	const plain = "pri: 1\nttr: 60\nreserves: 1\ntime-left: 59\n"
	assert.Empty(t, g.read([]reply{{word: "OK", data: plain}, {word: "OK", data: "pri: 1\nttr: 60\nreserves: 2\n"}, {word: "NOT_FOUND"}}, time.Now()))
	assert.Equal(t, []uint64{7, 5}, ids(g.asking), "those of a head that was out before")
	assert.Equal(t, []uint64{10, 11, 30, 4}, ids(g.counted()))
}
