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

// crashes fetches n jobs and returns how many crashes each has behind it.
func crashes(t *testing.T, b linda.Broker, n int) []int {
	t.Helper()
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", n, time.Minute)
	require.NoError(t, err)
	require.Len(t, jobs, n)
	counts := make([]int, n)
	for i, job := range jobs {
		counts[i] = job.Crashes()
		require.NoError(t, b.Delete("q", job))
	}
	return counts
}

// aged waits until the server counts the age of what was put in seconds.
func aged() { time.Sleep(1200 * time.Millisecond) }

// statsJobs tells how often the server was asked about one job.
func statsJobs(t *testing.T, addr string) int64 {
	return field(ask(t, addr, "stats\r\n", 1)[0], "cmd-stats-job")
}

func TestARowOfNewJobsIsCountedByTwoQuestions(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	putAll(t, server.Addr, 120, 7, 60)
	aged()
	assert.Equal(t, make([]int, 20), crashes(t, b, 20), "nothing is known of the server yet")
	before := statsJobs(t, server.Addr)
	crashes(t, b, 40) // the connection that asked has closed
	assert.EqualValues(t, 20+2, statsJobs(t, server.Addr)-before, "a connection has closed before the first of two rows")
	n := statsJobs(t, server.Addr)
	b.(*broker).tube("q").told(now(t, b))
	assert.Equal(t, make([]int, 60), crashes(t, b, 60))
	assert.EqualValues(t, 2*2, statsJobs(t, server.Addr)-n, "of two rows, the first and the last")
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
				aged()
				crashed(t, addr, 3)
			},
			want: func() []int { return append([]int{1, 1, 1}, make([]int, 37)...) },
		},
		"before the last row, behind more urgent jobs": {
			put: func(addr string) {
				putAll(t, addr, 20, 9, 60)
				crashed(t, addr, 3)
				putAll(t, addr, 20, 7, 60)
				aged()
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
			b.(*broker).tube("q").drained(40) // all in one row
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
	aged()
	b.(*broker).tube("q").told(now(t, b))
	b.(*broker).tube("q").drained(30)
	before := statsJobs(t, server.Addr)
	b.(*broker).tube("q").told(now(t, b))
	jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 30, time.Minute)
	require.NoError(t, err)
	require.Len(t, jobs, 30)
	assert.EqualValues(t, 2, statsJobs(t, server.Addr)-before)
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

func TestRowsAreProvenOnlyByJobsThatWereAlwaysThere(t *testing.T) {
	t.Parallel()
	began := time.Now()
	plain := func(id, pri uint64) *reservation {
		return &reservation{id: id, pri: pri, plain: true, age: 5 * time.Second}
	}
	rest := []*reservation{plain(3, 1), plain(2, 1), plain(9, 1), plain(5, 1)}
	proven := func(first, last *reservation) bool {
		w := row{jobs: append(append([]*reservation{first}, rest...), last), sent: began, quiet: true}
		return w.proven(began.Add(50 * time.Millisecond))
	}
	assert.True(t, proven(plain(1, 1), plain(7, 1)))
	assert.False(t, proven(plain(1, 1), plain(7, 2)), "another priority")
	old, young := plain(1, 1), plain(7, 1)
	old.plain = false
	assert.False(t, proven(old, plain(7, 1)), "the first was out before")
	assert.False(t, proven(plain(1, 1), old), "the last was out before")
	young.age = 0
	assert.False(t, proven(plain(1, 1), young), "the last may have come later than the others")

	w := row{jobs: append(append([]*reservation{plain(1, 1)}, rest...), plain(7, 1)), quiet: true}
	ask, between := w.split()
	assert.Len(t, ask, 3, "the one whose id is beyond, too")
	assert.Len(t, between, 3)
	w.quiet = false
	ask, between = w.split()
	assert.Len(t, ask, 6)
	assert.Empty(t, between)
}
