package linda

import (
	"context"
	"time"
)

// MaxInspect is how many jobs one call of [Inspector.Peek] or [Inspector.Kick]
// handles at most.
const MaxInspect = 1000

// EncodeBatch is [Encode] for every job of a batch. It refuses a bad name and a
// job that cannot be encoded, for the whole batch and before any I/O, and
// returns the error of a ctx that has ended. For authors of brokers.
func EncodeBatch(ctx context.Context, queue string, jobs []*Job) ([][]byte, error) {
	if err := CheckName(queue); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(jobs))
	for i, job := range jobs {
		body, err := Encode(job, queue)
		if err != nil {
			return nil, err
		}
		bodies[i] = body
	}
	return bodies, nil
}

// DecodePeeked reads a stored body that is to be looked at, not run: the job
// has no receipt, and its Payload.Args are there. For authors of brokers.
func DecodePeeked(queue, body string) *Job {
	job, _ := Decode(queue, body)
	job.fillArgs()
	return job
}

// KickedBody returns the body of a dead job that becomes ready again: its
// attempts begin anew, and a body that is not a job is as its producer wrote
// it. For authors of brokers.
func KickedBody(queue, body string) string {
	job, _ := Decode(queue, body)
	if job.err != nil && job.head.Raw == 1 {
		return string(job.Body())
	}
	return job.renewed(job.head.fresh())
}

// LapsedBody returns what to store for a popped job whose reservation ended
// without a settlement: its delivery is counted, and so is a crash. For authors
// of brokers whose server does not count so itself.
func LapsedBody(job *Job) string {
	h := job.head
	h.Token, h.Due = "", 0
	return job.renewed(h)
}

// BodyID returns the job id in a stored body, empty where the body bears none.
// For authors of brokers.
func BodyID(body string) string {
	var h header
	_, _ = h.read(body)
	return h.ID
}

// DueBody returns a stored body with the time before which its job must not
// run, rounded up to a millisecond, in linda's bookkeeping: [Job.Due] reads it.
// The zero time takes it out. For authors of brokers whose server may hand a
// delayed job out early; they put such a job back.
func DueBody(body string, due time.Time) string {
	j := &Job{body: body}
	j.headEnd, j.err = j.head.read(body)
	if j.err != nil {
		return body // it is no job, and buried when it is handed out
	}
	if j.head.ID == "" {
		j.head.ID = NewID()
	}
	j.head.Due = 0
	if !due.IsZero() {
		j.head.Due = due.Add(time.Millisecond - time.Nanosecond).UnixMilli()
	}
	return j.renewed(j.head)
}

// bounded is how many jobs one call of an Inspector handles where n are asked for.
func bounded(n int) int { return min(max(n, 0), MaxInspect) }
