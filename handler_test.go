package linda

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var testPolicy = policy{
	maxAttempts: 3, maxCrashes: 2,
	backoff: func(failures int) time.Duration { return time.Duration(failures) * time.Minute },
}

// failed is a job with so many failures.
func failed(n int64) *Job { return &Job{head: header{Deliveries: n + 1, Settled: n, Failures: n}} }

func TestAnswerOfAHandlerDecides(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("middleware: %w", fmt.Errorf("another: %w", err)) }
	limited := failed(0)
	limited.MaxAttempts = 1
	patient := failed(7)
	patient.MaxAttempts = 9

	for name, c := range map[string]struct {
		job        *Job
		err, cause error
		want       decision
	}{
		"nil":                      {failed(0), nil, nil, decision{kind: EventDone, op: OpDelete}},
		"nil after its time":       {failed(9), nil, ErrStopping, decision{kind: EventDone, op: OpDelete}},
		"error":                    {failed(0), io.EOF, nil, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "EOF"}},
		"second error":             {failed(1), io.EOF, nil, decision{kind: EventRetried, op: OpRelease, delay: 2 * time.Minute, reason: "EOF"}},
		"last error":               {failed(2), io.EOF, nil, decision{kind: EventDead, op: OpBury, reason: "EOF"}},
		"past the last error":      {failed(9), io.EOF, nil, decision{kind: EventDead, op: OpBury, reason: "EOF"}},
		"limit of the job, less":   {limited, io.EOF, nil, decision{kind: EventDead, op: OpBury, reason: "EOF"}},
		"limit of the job, more":   {patient, io.EOF, nil, decision{kind: EventRetried, op: OpRelease, delay: 8 * time.Minute, reason: "EOF"}},
		"error without text":       {failed(0), errors.New(""), nil, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "*errors.errorString"}},
		"error that panics":        {failed(0), (*nilError)(nil), nil, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "<nil>"}},
		"snooze":                   {failed(0), Snooze(time.Hour), nil, decision{kind: EventSnoozed, op: OpRelease, delay: time.Hour, snoozed: true}},
		"snooze, wrapped":          {failed(0), wrap(Snooze(time.Hour)), nil, decision{kind: EventSnoozed, op: OpRelease, delay: time.Hour, snoozed: true}},
		"snooze is no attempt":     {failed(9), Snooze(0), nil, decision{kind: EventSnoozed, op: OpRelease, snoozed: true}},
		"snooze of less than 0":    {failed(0), Snooze(-1), nil, decision{kind: EventSnoozed, op: OpRelease, snoozed: true}},
		"retry in":                 {failed(0), RetryIn(time.Second, io.EOF), nil, decision{kind: EventRetried, op: OpRelease, delay: time.Second, reason: "EOF"}},
		"retry in, wrapped":        {failed(0), wrap(RetryIn(time.Second, io.EOF)), nil, decision{kind: EventRetried, op: OpRelease, delay: time.Second, reason: "EOF"}},
		"retry in less than 0":     {failed(0), RetryIn(-1, nil), nil, decision{kind: EventRetried, op: OpRelease, reason: "no reason given"}},
		"retry in, but no attempt": {failed(2), RetryIn(0, io.EOF), nil, decision{kind: EventDead, op: OpBury, reason: "EOF"}},
		"discard":                  {failed(0), Discard(io.EOF), nil, decision{kind: EventDead, op: OpBury, reason: "EOF"}},
		"discard, wrapped":         {failed(0), wrap(Discard(nil)), nil, decision{kind: EventDead, op: OpBury, reason: "no reason given"}},
		"discard, joined":          {failed(0), errors.Join(io.EOF, Discard(io.ErrNoProgress)), nil, decision{kind: EventDead, op: OpBury, reason: io.ErrNoProgress.Error()}},
		"panic":                    {failed(0), &PanicError{Value: "oh"}, nil, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "panic: oh"}},
		"stopped":                  {failed(9), wrap(context.Canceled), ErrStopping, decision{kind: EventReleased, op: OpRelease, snoozed: true}},
		"stopped, cause returned":  {failed(9), wrap(ErrStopping), ErrStopping, decision{kind: EventReleased, op: OpRelease, snoozed: true}},
		"lease lost":               {failed(9), context.Canceled, ErrLeaseLost, decision{kind: EventReleased, op: OpRelease, snoozed: true}},
		"stopped, but it failed":   {failed(0), io.EOF, ErrStopping, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "EOF"}},
		"time limit is a failure":  {failed(2), context.DeadlineExceeded, ErrTimeLimit, decision{kind: EventDead, op: OpBury, reason: "context deadline exceeded"}},
		"canceled by itself":       {failed(0), context.Canceled, nil, decision{kind: EventRetried, op: OpRelease, delay: time.Minute, reason: "context canceled"}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.want, decide(c.job, c.err, c.cause, testPolicy))
		})
	}
}

// nilError panics as the Error method of a nil pointer often does.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestBackoffOfLessThanNothingIsNothing(t *testing.T) {
	p := testPolicy
	p.backoff = func(int) time.Duration { return -time.Hour }
	assert.Zero(t, decide(failed(0), io.EOF, nil, p).delay)
}

func TestJobThatMustNotRunIsDead(t *testing.T) {
	_, stop := decideBefore(failed(0), testPolicy)
	assert.False(t, stop)

	bad, err := Decode("q", "garbage")
	d, stop := decideBefore(bad, testPolicy)
	assert.True(t, stop)
	assert.Equal(t, decision{kind: EventDead, op: OpBury, reason: err.Error()}, d)

	crashed := func(n int64) *Job { return &Job{head: header{Deliveries: n + 1}} }
	_, stop = decideBefore(crashed(1), testPolicy)
	assert.False(t, stop)
	d, stop = decideBefore(crashed(2), testPolicy)
	assert.True(t, stop)
	assert.Equal(t, OpBury, d.op)
	assert.Contains(t, d.reason, "2 times in a row")
}

func TestOutcomesAreErrorsThatSayWhatTheyAre(t *testing.T) {
	assert.EqualError(t, Snooze(time.Minute), "snoozed for 1m0s")
	assert.EqualError(t, RetryIn(time.Minute, io.EOF), "retry in 1m0s: EOF")
	assert.EqualError(t, Discard(io.EOF), "discarded: EOF")
	assert.ErrorIs(t, Discard(io.EOF), io.EOF)
	assert.ErrorIs(t, RetryIn(0, io.EOF), io.EOF)
	assert.NoError(t, errors.Unwrap(Snooze(0)))
}

func TestPanicErrorIsItsValue(t *testing.T) {
	assert.ErrorIs(t, &PanicError{Value: io.EOF}, io.EOF)
	assert.NoError(t, errors.Unwrap(&PanicError{Value: "text"}))
	assert.True(t, strings.HasPrefix((&PanicError{Value: (*nilError)(nil)}).Error(), "panic: "))
}
