package linda

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Handler runs the jobs of a class. Its answer decides what becomes of the
// job: nil deletes it, [Snooze], [RetryIn] and [Discard] do as they say, and
// any other error or a panic lets it run again after Settings.Backoff, until
// its attempts are used up and it is dead. A handler that has settled the job
// itself, through the broker, has had its say: its answer changes nothing.
//
// Handle is called from many goroutines at once. It should return soon after
// ctx ends. A job may run twice if its reservation was lost, so what Handle
// does should bear that.
type Handler interface {
	Handle(ctx context.Context, job *Job) error
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, job *Job) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, job *Job) error { return f(ctx, job) }

// Middleware wraps a handler, to log, trace, time or guard it. It sees every
// attempt and may change the answer, and so the outcome.
type Middleware func(Handler) Handler

// Snooze is the answer of a handler that wants its job later, after d, as if it
// had not run: the attempt is not counted.
func Snooze(d time.Duration) error { return &outcome{kind: snooze, delay: d} }

// RetryIn is the answer of a handler that failed with err and knows that the
// next attempt should be after d, whatever the backoff is.
func RetryIn(d time.Duration, err error) error {
	return &outcome{kind: retryIn, delay: d, cause: orUnnamed(err)}
}

// Discard is the answer of a handler that failed with err and knows that no
// further attempt can succeed: the job is dead at once.
func Discard(err error) error { return &outcome{kind: discard, cause: orUnnamed(err)} }

func orUnnamed(err error) error {
	if err == nil {
		return errors.New("no reason given")
	}
	return err
}

// outcome is an answer that is more than success or failure. It survives being
// wrapped by a middleware.
type outcome struct {
	kind  outcomeKind
	delay time.Duration
	cause error
}

type outcomeKind int

const (
	snooze outcomeKind = iota
	retryIn
	discard
)

func (o *outcome) Error() string {
	switch o.kind {
	case snooze:
		return fmt.Sprintf("snoozed for %v", o.delay)
	case retryIn:
		return fmt.Sprintf("retry in %v: %v", o.delay, o.cause)
	default:
		return fmt.Sprintf("discarded: %v", o.cause)
	}
}

func (o *outcome) Unwrap() error { return o.cause }

// What ends a handler's context, beside the reservation ([ErrLeaseLost]); and
// why a run failed that returned no error of its own.
var (
	// ErrStopping is the cause when the dispatcher's grace period is over.
	ErrStopping = errors.New("linda: dispatcher is stopping")
	// ErrTimeLimit is the cause when the job's time limit has passed.
	ErrTimeLimit = errors.New("linda: time limit exceeded")
	// ErrUnknownClass is the failure of a job whose class nobody registered.
	ErrUnknownClass = errors.New("linda: unknown class")
	// ErrGoexit is the failure of a handler that ended its goroutine.
	ErrGoexit = errors.New("linda: handler called runtime.Goexit")
)

// PanicError is the failure of a handler that panicked.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // where
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// decision is what becomes of a job after a run.
type decision struct {
	kind    EventKind
	op      Op
	delay   time.Duration
	reason  string
	snoozed bool
}

// policy is what decide goes by.
type policy struct {
	maxAttempts, maxCrashes int
	backoff                 func(failures int) time.Duration
}

// decide tells what becomes of a job whose handler answered err, with its
// context ended by cause (nil if it did not end). It has no clock and does no
// I/O.
func decide(job *Job, err, cause error, p policy) decision {
	if err == nil {
		return decision{kind: EventDone, op: OpDelete}
	}
	var o *outcome
	special := errors.As(err, &o)
	switch {
	case special && o.kind == snooze:
		return decision{kind: EventSnoozed, op: OpRelease, delay: max(o.delay, 0), snoozed: true}
	case special && o.kind == discard:
		return decision{kind: EventDead, op: OpBury, reason: reasonOf(o.cause)}
	case interrupted(err, cause):
		return decision{kind: EventReleased, op: OpRelease, snoozed: true}
	}
	reason := reasonOf(err)
	if special && o.kind == retryIn {
		reason = reasonOf(o.cause)
	}
	failures := job.Failures() + 1
	if limit := job.MaxAttempts; limit > 0 && failures >= limit || limit <= 0 && failures >= p.maxAttempts {
		return decision{kind: EventDead, op: OpBury, reason: reason}
	}
	delay := p.backoff(failures)
	if special && o.kind == retryIn {
		delay = o.delay
	}
	return decision{kind: EventRetried, op: OpRelease, delay: max(delay, 0), reason: reason}
}

// interrupted reports whether a run failed because linda ended its context,
// which is no fault of the job.
func interrupted(err, cause error) bool {
	return (errors.Is(cause, ErrStopping) || errors.Is(cause, ErrLeaseLost)) &&
		(errors.Is(err, context.Canceled) || errors.Is(err, cause))
}

// decideBefore tells whether a job must not run at all, and what becomes of it.
func decideBefore(job *Job, p policy) (d decision, stop bool) {
	switch {
	case job.Err() != nil:
		return decision{kind: EventDead, op: OpBury, reason: reasonOf(job.Err())}, true
	case job.Crashes() >= p.maxCrashes:
		reason := fmt.Sprintf("its worker crashed or lost it %d times in a row", job.Crashes())
		return decision{kind: EventDead, op: OpBury, reason: reason}, true
	}
	return decision{}, false
}

// reasonOf is the text of an error, never empty. It bears an Error method that
// panics, as those of nil pointers do.
func reasonOf(err error) string {
	if text := fmt.Sprint(err); text != "" {
		return text
	}
	return fmt.Sprintf("%T", err)
}
