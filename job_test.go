package linda

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestArgumentsDecodeInOrderAndExactly(t *testing.T) {
	job := decoded(t, plain(`["a", 9007199254740993, {"W":640}, 1e400]`))
	var (
		name  string
		big   int64
		size  struct{ W int }
		huge  json.Number
		loose any
	)
	require.NoError(t, job.Payload.Decode())
	require.NoError(t, job.Payload.Decode(&name, &big), "further arguments are left out")
	require.NoError(t, job.Payload.Decode(&name, &loose, &size, &huge))
	assert.Equal(t, "a", name)
	assert.EqualValues(t, 9007199254740993, big)
	assert.Equal(t, 640, size.W)
	assert.Equal(t, json.Number("1e400"), huge)
	assert.Equal(t, json.Number("9007199254740993"), loose)
}

func TestTooFewArgumentsAreAnError(t *testing.T) {
	var a, b string
	err := decoded(t, plain(`["a"]`)).Payload.Decode(&a, &b)
	require.ErrorIs(t, err, ErrBadJob)
	assert.ErrorContains(t, err, "argument 1 is missing")
	assert.ErrorIs(t, Payload{Class: "C"}.Decode(&a), ErrBadJob)
}

func TestErrorOfAnArgumentDoesNotShowIt(t *testing.T) {
	var small struct{ N struct{ M int8 } }
	var when time.Time
	for _, dst := range []any{&small, &when} {
		err := decoded(t, plain(`[{"n":{"m":123456}}]`)).Payload.Decode(dst)
		if dst == &when {
			err = decoded(t, plain(`["123456"]`)).Payload.Decode(dst)
		}
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "123456")
		assert.Contains(t, err.Error(), `linda: class "C": argument 0: `)
	}
	err := decoded(t, plain(`[{"n":{"m":123456}}]`)).Payload.Decode(&small)
	assert.ErrorContains(t, err, "number does not fit int8 in N.M")
	var cause *json.UnmarshalTypeError
	assert.ErrorAs(t, err, &cause, "the cause is there for those who ask")
}

func TestPayloadMadeByAProgramDecodesToo(t *testing.T) {
	var n int
	require.NoError(t, Payload{Class: "C", Args: []any{42}}.Decode(&n))
	assert.Equal(t, 42, n)
	assert.ErrorIs(t, Payload{Class: "C", Args: []any{make(chan int)}}.Decode(&n), ErrBadJob)

	job := decoded(t, plain(`[1]`))
	job.fillArgs()
	job.Payload.Args[0] = 2
	require.NoError(t, job.Payload.Decode(&n))
	assert.Equal(t, 1, n, "what was popped counts")
}

func TestArgsHoldWhatEncodingJSONWould(t *testing.T) {
	for args, want := range map[string][]any{
		`[]`:           {},
		`[1,"a",null]`: {1.0, "a", nil},
		`[1,1e400]`:    {json.Number("1"), json.Number("1e400")},
	} {
		job := decoded(t, plain(args))
		job.fillArgs()
		assert.Equal(t, want, job.Payload.Args)
	}
}

func TestStringShowsNoArgument(t *testing.T) {
	job := delivered(t, `{"linda":{"id":"x","n":1},"Payload":{"class":"C\n","args":["hunter2"]}}`)
	job.fillArgs()
	assert.Equal(t, `job x: queue q, class "C\n", attempt 2`, job.String())
}

func TestContextOutsideAHandlerIsBackground(t *testing.T) {
	assert.Equal(t, context.Background(), new(Job).Context())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	assert.Equal(t, ctx, (&Job{ctx: ctx}).Context())
}

func TestJobOutsideABrokerHasNoPast(t *testing.T) {
	job := &Job{Payload: Payload{Class: "C"}}
	assert.Empty(t, job.Body())
	assert.NoError(t, job.Err())
	assert.Zero(t, job.Attempt())
	assert.Zero(t, job.Failures())
	assert.Empty(t, job.LastError())
}

func TestIDsAreValidAndInOrder(t *testing.T) {
	last := ""
	for range 1000 {
		id := NewID()
		require.True(t, validID(id))
		require.Greater(t, id, last)
		last = id
	}
}

func TestJobIsItsEnvelopeAsJSON(t *testing.T) {
	b, err := json.Marshal(&Job{ID: "x", Queue: "q", Payload: Payload{Class: "C", Args: []any{1}}})
	require.NoError(t, err)
	assert.JSONEq(t, `{"linda":{"id":"x","n":0},"queue":"q","Payload":{"class":"C","args":[1]}}`, string(b))

	var job Job
	for attempt := range 3 {
		require.NoError(t, json.Unmarshal(b, &job))
		assert.Equal(t, "x", job.ID)
		assert.Equal(t, attempt+1, job.Attempt(), "reading it is one more delivery")
		assert.Equal(t, []any{1.0}, job.Payload.Args)
		b, err = json.Marshal(&job)
		require.NoError(t, err)
	}

	b, err = json.Marshal(&Job{Payload: Payload{Class: "C"}})
	require.NoError(t, err, "a job needs no queue")
	assert.True(t, json.Valid(b))
	for _, bad := range []string{`null`, `[]`, `{}`, `{"Payload":{}}`} {
		assert.ErrorIs(t, json.Unmarshal([]byte(bad), &job), ErrBadJob)
	}
	_, err = json.Marshal(&Job{})
	assert.ErrorIs(t, err, ErrBadJob)
}

func TestLimitOfAHostileHeaderDoesNotOverflow(t *testing.T) {
	job := decoded(t, `{"linda":{"id":"x","lim":999999999999999},"Payload":{"class":"C"}}`)
	assert.Positive(t, job.TimeLimit)
	assert.LessOrEqual(t, job.TimeLimit, time.Duration(math.MaxInt64))
}

func TestLongClassIsNotLogged(t *testing.T) {
	_, err := Encode(&Job{Payload: Payload{Class: strings.Repeat("c", 1000)}}, "q")
	assert.Less(t, len(err.Error()), 200)
}

func TestPushedAtIsWhenTheIDWasMade(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	job := &Job{ID: NewID()}
	assert.WithinRange(t, job.PushedAt(), before, time.Now())
	for _, id := range []string{"", "mine", "f47ac10b-58cc-4372-a567-0e02b2c3d479"} {
		assert.Zero(t, (&Job{ID: id}).PushedAt())
	}
}
