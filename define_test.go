package linda

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type email struct {
	To   string `json:"to"`
	Size int64  `json:"size"`
}

// opened is a Dispatcher on a memory broker of its own.
func opened(t testing.TB, s Settings) *Dispatcher {
	t.Helper()
	s.Connection = "memory://"
	d, err := New(s)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestArgumentOfAClassIsTheOnlyOne(t *testing.T) {
	d := opened(t, Settings{})
	welcome := Define[email]("welcome", OnQueue("mail"))
	id, err := welcome.Push(t.Context(), d, email{To: "a@b.c", Size: 9007199254740993})
	require.NoError(t, err)

	job, err := d.Broker().Pop("mail", 60)
	require.NoError(t, err)
	assert.Equal(t, id, job.ID)
	assert.Equal(t, "welcome", job.Payload.Class)
	assert.Equal(t, `[{"to":"a@b.c","size":9007199254740993}]`, job.Payload.raw)

	var got email
	welcome.Handle(d, func(_ context.Context, e email) error { got = e; return errors.New("no") })
	assert.EqualError(t, d.handlers["welcome"].Handle(t.Context(), job), "no")
	assert.Equal(t, email{To: "a@b.c", Size: 9007199254740993}, got)
}

func TestArgumentThatDoesNotFitIsAnError(t *testing.T) {
	d := opened(t, Settings{})
	Define[email]("welcome").Handle(d, func(context.Context, email) error { panic("not to be called") })
	for _, args := range []string{`[]`, `["x"]`, `[{"to":5}]`} {
		assert.Error(t, d.handlers["welcome"].Handle(t.Context(), decoded(t, plain(args))))
	}
}

func TestOptionsSetTheFieldsTheyAreNamedAfter(t *testing.T) {
	class := Define[int]("n", OnQueue("a"), MaxAttempts(2), WithHeader("k", "class"))
	job := class.Job(1, OnQueue("b"), In(time.Minute), TimeLimit(time.Hour), Unique("key", time.Second),
		WithID("id"), WithHeader("l", "job"))
	assert.Equal(t, &Job{
		ID: "id", Queue: "b", Payload: Payload{Class: "n", Args: []any{1}}, Delay: time.Minute, MaxAttempts: 2,
		TimeLimit: time.Hour, UniqueKey: "key", UniqueTTL: time.Second, Headers: map[string]string{"k": "class", "l": "job"},
	}, job)
	assert.Equal(t, "n", class.Name())

	other := class.Job(2)
	assert.Equal(t, "a", other.Queue)
	assert.Equal(t, map[string]string{"k": "class"}, other.Headers, "jobs do not share headers")
	assert.NotEmpty(t, other.ID)
	assert.NotEqual(t, other.ID, class.Job(2).ID)
}

func TestAtIsADelayFromNow(t *testing.T) {
	var job Job
	At(time.Now().Add(time.Hour))(&job)
	assert.InDelta(t, time.Hour, job.Delay, float64(time.Minute))
	At(time.Time{})(&job)
	assert.Negative(t, job.Delay)
}

func TestHandlerFindsItsJobInTheContext(t *testing.T) {
	d := opened(t, Settings{})
	ctx, cancel := context.WithCancel(t.Context())
	var got *Job
	c := Define[int]("c", WithHeader("trace", "7"))
	c.Handle(d, func(ctx context.Context, _ int) error {
		got = FromContext(ctx)
		cancel()
		return nil
	})
	id, err := c.Push(ctx, d, 1)
	require.NoError(t, err)
	require.NoError(t, d.Run(ctx))
	require.NotNil(t, got)
	assert.Equal(t, id, got.ID)
	assert.Equal(t, map[string]string{"trace": "7"}, got.Headers)
	assert.Nil(t, FromContext(t.Context()))
}
