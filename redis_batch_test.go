package linda

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	pushes, ok := new(redisBroker).encodeLate(jobs, "q")
	require.True(t, ok)
	last := ""
	for i, job := range jobs {
		late, err := pushes[i].MarshalBinary()
		require.NoError(t, err)
		id := BodyID(string(late))
		assert.Less(t, last, id)
		last = id
		before := *job
		before.ID = id
		body, err := Encode(&before, "q")
		require.NoError(t, err)
		assert.Equal(t, string(body), string(late))
		assert.LessOrEqual(t, len(late), pushes[i].size, "or a command may be too long")
	}
}

func TestOnlySimpleJobsAreEncodedLate(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(job *Job){
		"id":             func(j *Job) { j.ID = "1" },
		"popped":         func(j *Job) { j.body = "{}" },
		"arguments text": func(j *Job) { j.Payload.raw = "[]" },
		"attempts":       func(j *Job) { j.MaxAttempts = -1 },
		"time limit":     func(j *Job) { j.TimeLimit = 1 },
		"key":            func(j *Job) { j.UniqueKey = "k" },
		"key's time":     func(j *Job) { j.UniqueTTL = -1 },
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
	} {
		for _, at := range []int{0, 1, redisBatchLeast - 1} {
			jobs := simpleJobs()[:redisBatchLeast]
			change(jobs[at])
			_, ok := new(redisBroker).encodeLate(jobs, "q")
			assert.False(t, ok, name)
		}
	}
	_, ok := (&redisBroker{repeat: true}).encodeLate(simpleJobs(), "q")
	assert.False(t, ok, "it would repeat a job by another id")
	_, ok = new(redisBroker).encodeLate(simpleJobs()[1:redisBatchLeast], "q")
	assert.False(t, ok, "not worth while")
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

// Who changes a job while it is pushed gets an error, and spoils nothing.
func TestAJobThatIsChangedWhileItsBatchIsWrittenSpoilsNothing(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	opened, err := NewBroker("redis://" + server.Addr())
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*redisBroker)
	jobs := simpleJobs()
	pushes, ok := b.encodeLate(jobs, "q")
	require.True(t, ok)
	jobs[20].Payload.Args = []any{math.NaN()}
	require.ErrorIs(t, b.push(t.Context(), "q", pushes), ErrBadJob)
	require.Empty(t, server.Keys())
	jobs[20].Payload.Args = nil
	require.NoError(t, b.PushBatch(t.Context(), "q", jobs))
	bodies, err := server.List("q")
	require.NoError(t, err)
	assert.Len(t, bodies, len(jobs))
}
