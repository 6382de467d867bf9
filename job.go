package linda

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Job is a unit of deferred work: the name of a class and its arguments. A
// program fills in Payload, and whatever else it cares for, and pushes the
// job; a handler receives one that carries its attempt, its context and the
// receipt by which it can be settled.
//
// A job that was popped may be copied; the copies share its receipt.
type Job struct {
	// Queue is the queue the job is in.
	Queue string
	// Payload is the class and its arguments.
	Payload Payload

	// ID identifies the job for its whole life. Push makes one where it is
	// empty or where the job was popped; set it, with NewID, to know it.
	ID string
	// Delay is how long after the push the job becomes ready; 0 or less is
	// at once.
	Delay time.Duration
	// MaxAttempts is after how many failures the job is dead; 0 means
	// Settings.MaxAttempts.
	MaxAttempts int
	// TimeLimit is how long one attempt may run before its context ends; 0
	// means Settings.TimeLimit.
	TimeLimit time.Duration
	// UniqueKey, if not empty, lets only one job with this key be in the
	// queue: see Uniquer.
	UniqueKey string
	// UniqueTTL is how long UniqueKey is held at most; 0 means until the job
	// is done or dead.
	UniqueTTL time.Duration
	// Key, on a broker with partitions, puts jobs with the same key in the same
	// one, and so in order where its Guarantees promise that. Other brokers
	// leave it out.
	Key string
	// Headers travel with the job, for traces and the like.
	Headers map[string]string

	head    header
	body    string // as popped, bookkeeping included
	headEnd int    // where in body the bookkeeping ends; 0: it has none
	err     error  // why the body is not a job
	receipt *Receipt
	ctx     context.Context
}

// Payload names the class of a job and carries its arguments.
type Payload struct {
	Class string        `json:"class"`
	Args  []interface{} `json:"args"`

	raw string // the arguments as popped, exact
}

// Context returns the context of the running handler: it ends when the
// dispatcher's grace period ends, when the reservation is lost or when the
// job's time limit passes, and context.Cause says which. Outside a handler it
// is context.Background.
func (j *Job) Context() context.Context {
	if j.ctx == nil {
		return context.Background()
	}
	return j.ctx
}

// FromContext returns the job whose handler runs with ctx, so that a typed
// handler can read its id, attempt and headers. It is nil outside a handler.
func FromContext(ctx context.Context) *Job {
	job, _ := ctx.Value(jobKey{}).(*Job)
	return job
}

type jobKey struct{}

// Attempt returns which attempt this delivery is, from 1. Snoozed runs and
// deliveries that were handed back before they started do not count. It is 0
// for a job that was not popped.
func (j *Job) Attempt() int { return max(0, int(j.head.Deliveries-j.head.Uncounted)) }

// PushedAt returns when the job was pushed, to the millisecond and by the clock
// of the process that did so, as its id tells: see [NewID]. It is zero where
// the program has chosen an id of another kind, and for jobs of other programs.
// The oldest ready job is the first that [Inspector] peeks.
func (j *Job) PushedAt() time.Time {
	id, err := uuid.Parse(j.ID)
	if err != nil || id.Version() != 7 {
		return time.Time{}
	}
	ms := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, id[:6]...)))
	return time.UnixMilli(ms)
}

// Failures returns how many earlier attempts ended with an error.
func (j *Job) Failures() int { return int(j.head.Failures) }

// Crashes returns how many of the last deliveries ended without any word from
// their worker: it crashed, or lost its reservation.
func (j *Job) Crashes() int { return max(0, int(j.head.Deliveries-1-j.head.Settled)) }

// Due returns the time before which the job must not run, where its broker
// keeps that in the body: see [DueBody]. Otherwise it is zero.
func (j *Job) Due() time.Time {
	if j.head.Due == 0 {
		return time.Time{}
	}
	return time.UnixMilli(j.head.Due)
}

// LastError returns the text of the last failure, or why the job is dead.
func (j *Job) LastError() string { return j.head.Err }

// Err returns nil for a job that can be run, and for a body that is not a job
// the reason, which wraps ErrBadJob or ErrTooLarge.
func (j *Job) Err() error { return j.err }

// String tells queue, class, id and attempt. It leaves the arguments out, so
// that it may be logged.
func (j *Job) String() string {
	return fmt.Sprintf("job %s: queue %s, class %q, attempt %d", j.ID, j.Queue, j.Payload.Class, j.Attempt())
}

// MarshalJSON returns the envelope: of a job that was popped, with the
// bookkeeping renewed, so that a broker which stores jobs by encoding/json
// keeps their attempts.
func (j *Job) MarshalJSON() ([]byte, error) {
	if j.body != "" {
		return []byte((&Settlement{Job: j}).Body()), nil
	}
	return Encode(j, j.Queue)
}

// UnmarshalJSON reads an envelope, as one more delivery of its job.
func (j *Job) UnmarshalJSON(body []byte) error {
	job, err := Decode("", string(body))
	if err != nil {
		return err
	}
	job.head.Deliveries++
	job.fillArgs()
	*j = *job
	return nil
}

// Decode stores the arguments, in their order, in the values that dst point
// to, as json.Unmarshal would: exactly, whatever the size of a number. They are
// those that were popped, whatever has become of Args since. Further arguments
// are left out; too few are an error. The text of an error shows no argument.
// It is safe for concurrent use.
func (p Payload) Decode(dst ...any) error {
	args := p.raw
	if args == "" { // it was not popped
		b, err := appendArgs(nil, p.Args)
		if err != nil {
			return err
		}
		args = string(b)
	}
	dec := json.NewDecoder(strings.NewReader(args))
	dec.UseNumber()
	_, _ = dec.Token() // the bracket
	for i, d := range dst {
		if !dec.More() {
			return fmt.Errorf("%w: class %q: argument %d is missing", ErrBadJob, p.Class, i)
		}
		if err := dec.Decode(d); err != nil {
			return &argumentError{class: p.Class, index: i, cause: err}
		}
	}
	return nil
}

// argumentError reports an argument that does not fit. Its text leaves that of
// the cause out, which may quote the argument.
type argumentError struct {
	class string
	index int
	cause error
}

func (e *argumentError) Error() string {
	what := fmt.Sprintf("%T", e.cause)
	var t *json.UnmarshalTypeError
	if errors.As(e.cause, &t) {
		kind, _, _ := strings.Cut(t.Value, " ") // "number 300"
		what = fmt.Sprintf("%s does not fit %v", kind, t.Type)
		if t.Field != "" {
			what += " in " + t.Field
		}
	}
	return fmt.Sprintf("linda: class %q: argument %d: %s", e.class, e.index, what)
}

func (e *argumentError) Unwrap() error { return e.cause }

// appendArgs appends the arguments as JSON: the bytes that were popped unless
// Args has been changed since.
func (p Payload) appendArgs(b []byte) ([]byte, error) {
	if p.raw != "" && (p.Args == nil || reflect.DeepEqual(p.Args, decodeArgs(p.raw))) {
		return append(b, p.raw...), nil
	}
	return appendArgs(b, p.Args)
}

// fillArgs decodes the arguments for code that reads Payload.Args.
func (j *Job) fillArgs() {
	if j.Payload.Args == nil && j.err == nil {
		j.Payload.Args = decodeArgs(j.Payload.raw)
	}
}

// decodeArgs decodes valid JSON as encoding/json does by default, but keeps
// numbers as json.Number where one of them does not fit a float64.
func decodeArgs(raw string) []any {
	if args, plain := decodePlain(raw); plain {
		return args
	}
	var args, exact []any
	if json.Unmarshal([]byte(raw), &args) == nil {
		return args
	}
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.UseNumber()
	_ = dec.Decode(&exact) // raw has been checked to be an array
	return exact
}
