package linda_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
)

// number is an argument that encodes itself, as a program's own may.
type number struct {
	n    int
	what func() error
}

func (a number) MarshalJSON() ([]byte, error) {
	if a.what != nil {
		if err := a.what(); err != nil {
			return nil, err
		}
	}
	return strconv.AppendInt(nil, int64(a.n), 10), nil
}

// numbers makes a large batch.
func numbers(what func() error) []*linda.Job {
	jobs := make([]*linda.Job, 1234)
	for i := range jobs {
		jobs[i] = &linda.Job{Payload: linda.Payload{Class: "C", Args: []any{number{n: i}}}}
	}
	jobs[1000].Payload.Args = []any{number{n: 1000, what: what}}
	return jobs
}

func TestALargeBatchIsPushedInItsOrderOrNotAtAll(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	b, err := linda.NewBroker("redis://" + server.Addr())
	require.NoError(t, err)
	defer b.Close()
	pusher := b.(linda.BatchPusher)

	odd := errors.New("odd")
	require.ErrorIs(t, pusher.PushBatch(t.Context(), "q", numbers(func() error { return odd })), linda.ErrBadJob)
	require.PanicsWithValue(t, odd, func() {
		_ = pusher.PushBatch(t.Context(), "q", numbers(func() error { panic(odd) }))
	}, "it is for the caller to recover")
	require.Empty(t, server.Keys())

	require.NoError(t, pusher.PushBatch(t.Context(), "q", numbers(nil)))
	bodies, err := server.List("q")
	require.NoError(t, err)
	require.Len(t, bodies, 1234)
	ids := make(map[string]bool)
	for i, body := range bodies {
		job, err := linda.Decode("q", body)
		require.NoError(t, err)
		var n int
		require.NoError(t, job.Payload.Decode(&n))
		assert.Equal(t, i, n)
		ids[job.ID] = true
	}
	assert.Len(t, ids, 1234)
}
