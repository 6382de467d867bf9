package linda

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda/internal/brokerd"
)

// simpleJobs are jobs of several classes with all kinds of plain arguments.
func simpleJobs() []*Job {
	args := [][]any{
		nil, {}, {nil}, {true, false}, {""}, {"an argument"}, {0, -1, math.MaxInt, math.MinInt},
		{int64(math.MaxInt64), int64(math.MinInt64)}, {0.0, -0.5, 1e20, 123456789.123456789, -1.2345678901234567e-6},
		{strings.Repeat("long", 1000), 1},
	}
	var jobs []*Job
	for range 3 {
		for i, a := range args {
			class := []string{"a", "b", "class \"ü\""}[i%3]
			jobs = append(jobs, &Job{Payload: Payload{Class: class, Args: a}})
		}
	}
	return jobs
}

func TestABatchThatIsEncodedLateIsAsIfItHadBeenEncodedBefore(t *testing.T) {
	t.Parallel()
	jobs := simpleJobs()
	require.Positive(t, new(redisBroker).encodesLate(jobs))
	batch := &redisBatch{queue: "q", jobs: jobs, stamp: newStamps(len(jobs))}
	last := ""
	for i, job := range jobs {
		late, err := batch.encode(i)
		require.NoError(t, err)
		id := BodyID(string(late))
		assert.Less(t, last, id)
		last = id
		before := *job
		before.ID = id
		body, err := Encode(&before, "q")
		require.NoError(t, err)
		assert.Equal(t, string(body), string(late))
	}
}

// oddJobs change a simple job so that it is not one.
var oddJobs = map[string]func(job *Job){
	"id":             func(j *Job) { j.ID = "1" },
	"bad id":         func(j *Job) { j.ID = "\n" },
	"popped":         func(j *Job) { j.body = "{}" },
	"arguments text": func(j *Job) { j.Payload.raw = "[]" },
	"attempts":       func(j *Job) { j.MaxAttempts = 7 },
	"bad attempts":   func(j *Job) { j.MaxAttempts = -1 },
	"time limit":     func(j *Job) { j.TimeLimit = time.Second },
	"headers":        func(j *Job) { j.Headers = map[string]string{"k": "v"} },
	"reason":         func(j *Job) { j.head.Err = "reason" },
	"no class":       func(j *Job) { j.Payload.Class = "" },
	"long class":     func(j *Job) { j.Payload.Class = strings.Repeat("c", maxName+1) },
	"odd class":      func(j *Job) { j.Payload.Class = "\xff" },
	"escapes":        func(j *Job) { j.Payload.Args = []any{`"`} },
	"exponent":       func(j *Job) { j.Payload.Args = []any{1e21} },
	"no number":      func(j *Job) { j.Payload.Args = []any{math.NaN()} },
	"nested":         func(j *Job) { j.Payload.Args = []any{[]int{1}} },
	"many":           func(j *Job) { j.Payload.Args = make([]any, maxValues) },
	"too large":      func(j *Job) { j.Payload.Args = []any{strings.Repeat("x", MaxBody)} },
	"nearly too large": func(j *Job) {
		j.Payload.Args = []any{strings.Repeat("x", MaxBody-len(`{"queue":"q","Payload":{"class":"b","args":[""]}}`)-1)}
	},
}

// A job that was not looked at is encoded like any other, or refused like any other, and
// then the server has none of its batch.
func TestAnOddJobInABatchIsNoWorseThanAlone(t *testing.T) {
	t.Parallel()
	for name, change := range oddJobs {
		for _, n := range []int{redisBatchLeast, redisPushMost + redisBatchLook} {
			for _, at := range []int{0, 1, n - 1} {
				server := miniredis.RunT(t)
				b, err := NewBroker("redis://" + server.Addr())
				require.NoError(t, err)
				jobs := make([]*Job, n)
				for i := range jobs {
					jobs[i] = &Job{Payload: Payload{Class: "b", Args: []any{i}}}
				}
				change(jobs[at])
				alone, refused := Encode(jobs[at], "q")
				err = b.(BatchPusher).PushBatch(t.Context(), "q", jobs)
				if refused != nil {
					require.Error(t, err, name)
					assert.Equal(t, refused.Error(), err.Error(), name)
					assert.NotErrorIs(t, err, ErrUnknown, name)
					assert.Empty(t, server.Keys(), name)
					*jobs[at] = Job{Payload: Payload{Class: "b"}}
					err = b.(BatchPusher).PushBatch(t.Context(), "q", jobs)
				}
				require.NoError(t, err, name)
				bodies, err := server.List("q")
				require.NoError(t, err)
				require.Len(t, bodies, n, name)
				if refused == nil {
					want, err := Decode("q", string(alone))
					require.NoError(t, err)
					got, err := Decode("q", bodies[at])
					require.NoError(t, err)
					assert.Equal(t, string(want.Body()), string(got.Body()), name)
					assert.Equal(t, want.MaxAttempts, got.MaxAttempts, name)
					assert.Equal(t, want.TimeLimit, got.TimeLimit, name)
					assert.Equal(t, want.Headers, got.Headers, name)
					assert.Equal(t, want.LastError(), got.LastError(), name)
				}
				require.NoError(t, b.Close())
				server.Close()
			}
		}
	}
}

func TestABatchThatIsLargerThanItSeemedIsSentInParts(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	b, err := NewBroker("redis://" + server.Addr())
	require.NoError(t, err)
	defer b.Close()
	jobs := make([]*Job, redisBatchRoom/MaxBody+redisBatchLook)
	for i := range jobs {
		jobs[i] = &Job{Payload: Payload{Class: "b", Args: []any{""}}}
		if i%redisBatchLook > 0 {
			jobs[i].Payload.Args[0] = strings.Repeat("x", MaxBody*99/100)
		}
	}
	require.NoError(t, b.(BatchPusher).PushBatch(t.Context(), "q", jobs))
	bodies, err := server.List("q")
	require.NoError(t, err)
	assert.Len(t, bodies, len(jobs))
	assert.Greater(t, server.CommandCount(), 50)
}

func TestWhatCannotBeEncodedLateIsNot(t *testing.T) {
	t.Parallel()
	refused := func(name string, b *redisBroker, jobs []*Job) {
		assert.Zero(t, b.encodesLate(jobs), name)
	}
	for name, change := range oddJobs {
		jobs := simpleJobs()
		change(jobs[0])
		if name != "nearly too large" && name != "popped" {
			refused(name, new(redisBroker), jobs)
		}
	}
	keyed := simpleJobs()
	keyed[1].UniqueKey = "k"
	refused("its script needs each key", new(redisBroker), keyed)
	delayed := simpleJobs()
	delayed[1].Delay = 1
	refused("its script needs each delay", new(redisBroker), delayed)
	refused("it would repeat a job by another id", &redisBroker{repeat: true}, simpleJobs())
	refused("not worth while", new(redisBroker), simpleJobs()[1:redisBatchLeast])
}

func TestABatchThatIsEncodedLateArrives(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	b, err := NewBroker("redis://" + server.Addr())
	require.NoError(t, err)
	defer b.Close()
	pusher := b.(BatchPusher)
	jobs := simpleJobs()
	require.NoError(t, pusher.PushBatch(t.Context(), "q", jobs))
	bodies, err := server.List("q")
	require.NoError(t, err)
	require.Len(t, bodies, len(jobs))
	for i, body := range bodies {
		job, err := Decode("q", body)
		require.NoError(t, err)
		assert.Equal(t, jobs[i].Payload.Class, job.Payload.Class)
		want, err := appendArgs(nil, jobs[i].Payload.Args)
		require.NoError(t, err)
		assert.Equal(t, string(want), job.Payload.raw)
	}

	for i, job := range jobs {
		job.Delay = time.Duration(i%2) * time.Hour
	}
	require.NoError(t, pusher.PushBatch(t.Context(), "delays", jobs))
	delayed, err := server.ZMembers("delays:delayed")
	require.NoError(t, err)
	assert.Len(t, delayed, len(jobs)/2)
	bodies, err = server.List("delays")
	require.NoError(t, err)
	assert.Len(t, bodies, len(jobs)-len(jobs)/2)
}

func TestTheSizeOfABodyIsNotUnderestimated(t *testing.T) {
	t.Parallel()
	for _, job := range simpleJobs() {
		size, ok := job.plainSize()
		require.True(t, ok)
		body, err := Encode(job, "q")
		require.NoError(t, err)
		assert.LessOrEqual(t, len(body), size, "or a command may be too long")
	}
}

// A batch that needs several commands is looked at as a whole, so that they are not
// larger than usual, and none is sent where a job is bad.
func TestALargeBatchIsLookedAtAsAWhole(t *testing.T) {
	t.Parallel()
	jobs := simpleJobs()
	for _, job := range jobs {
		job.Payload.Args = []any{strings.Repeat("x", redisPushBytes/10)}
	}
	assert.Equal(t, 9, new(redisBroker).encodesLate(jobs))
	jobs[7].Payload.Args[0] = strings.Repeat("x", redisPushBytes)
	assert.Equal(t, 1, new(redisBroker).encodesLate(jobs))
	jobs[7].Payload.Args[0] = math.NaN()
	assert.Zero(t, new(redisBroker).encodesLate(jobs))
}

// A connection whose command was broken off is not used again.
func TestABatchThatIsBrokenOffSpoilsNothing(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	opened, err := NewBroker(server.URL)
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*redisBroker)
	jobs := make([]*Job, redisPushMost)
	for i := range jobs {
		jobs[i] = &Job{Payload: Payload{Class: "b", Args: []any{strings.Repeat("x", 300)}}}
	}
	jobs[len(jobs)-1] = &Job{Payload: Payload{Class: "b", Args: []any{math.NaN()}}}
	for range 3 {
		err := b.PushBatch(t.Context(), "q", jobs)
		require.ErrorIs(t, err, ErrBadJob)
		require.NotErrorIs(t, err, ErrUnknown)
		require.NoError(t, b.Push(&Job{Payload: Payload{Class: "other"}}, "q"))
	}
	stats, err := b.Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, int64(3), stats.Ready)
	jobs[len(jobs)-1].Payload.Args[0] = "good"
	require.NoError(t, b.PushBatch(t.Context(), "q", jobs))
	stats, err = b.Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, int64(3+len(jobs)), stats.Ready)
}
