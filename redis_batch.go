package linda

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// redisBatch pushes jobs that are encoded while their command is written, so that
// the server reads the first of them while the last are made. If one turns out to be
// bad, the connection is closed: the server carries out only what it has whole, so it
// has none of the command.
type redisBatch struct {
	broker *redisBroker
	queue  string
	jobs   []*Job
	stamp  int64  // of the first id
	class  string // that the frame is for
	frame  []byte // what is between the id and the arguments
	body   []byte // of the job encoded last
	room   int    // bytes that the command may still have
	err    error  // why a job could not be encoded

	args []any          // RPUSH, the queue, and what encodes each job
	each []redisBatched // what they point to
}

// redisBatched is a job of a batch, by its index. As an argument of a command, a
// pointer to it is not allocated.
type redisBatched struct {
	batch *redisBatch
	index int
}

// MarshalBinary gives go-redis the body, which it copies.
func (e *redisBatched) MarshalBinary() ([]byte, error) { return e.batch.encode(e.index) }

// redisBatches keeps batches for the next ones: what they consist of is as much work
// to make as some of their jobs.
var redisBatches = sync.Pool{New: func() any {
	b := &redisBatch{args: make([]any, 2, 2+redisPushMost), each: make([]redisBatched, redisPushMost)}
	for i := range b.each {
		b.each[i] = redisBatched{b, i}
		b.args = append(b.args, &b.each[i])
	}
	return b
}}

const (
	// redisBatchLeast is the least number of jobs for which that is worth while.
	redisBatchLeast = 16
	// redisBatchLook is that one in so many jobs is looked at beforehand.
	redisBatchLook = 32
	// redisBatchRoom is how many bytes a command may have: jobs that were not looked
	// at may be much larger than the others.
	redisBatchRoom = 64 << 20
)

// errBatchRoom says that a batch is to be sent in several commands.
var errBatchRoom = errors.New("linda: redis: a batch is larger than it seemed")

// encodesLate returns how many jobs each command may have if they are encoded when
// they are written, or 0 where that cannot be: they have to have nothing special, as
// far as it looks. It looks at one in a few, or, if they need several commands, at all
// of them, so that none is sent where one is bad.
func (b *redisBroker) encodesLate(jobs []*Job) (each int) {
	if len(jobs) < redisBatchLeast || b.repeat { // which would make other ids
		return 0
	}
	special := func(job *Job) bool { return job.Delay > 0 || job.UniqueKey != "" }
	if slices.ContainsFunc(jobs, special) {
		return 0
	}
	each = plainJobs(jobs, redisBatchLook)
	if len(jobs) > each {
		each = plainJobs(jobs, 1)
	}
	return each
}

// plainJobs looks at one in so many jobs, and returns how many of their size a command
// may have; 0 where one of those is not for encodePlain.
func plainJobs(jobs []*Job, look int) int {
	largest := 1
	for i := 0; i < len(jobs); i += look {
		size, plain := jobs[i].plainSize()
		if !plain {
			return 0
		}
		largest = max(largest, size)
	}
	return min(max(1, redisPushBytes/largest), redisPushMost)
}

// plainSize returns how many bytes the body of a job has at most, and whether it is
// one for encodePlain.
func (j *Job) plainSize() (size int, ok bool) {
	size, ok = plainSize(j.Payload.Args)
	size += bodySize + len(j.Payload.Class)
	return size, ok && size <= MaxBody && j.simple() && validClass(j.Payload.Class)
}

// pushLate adds jobs, so many by each command.
func (b *redisBroker) pushLate(ctx context.Context, queue string, jobs []*Job, each int) error {
	if len(jobs) <= each {
		return b.pushBatch(ctx, queue, jobs)
	}
	errs := make([]error, 0, len(jobs))
	for part := range slices.Chunk(jobs, each) {
		errs = append(errs, EachError(b.pushBatch(ctx, queue, part), len(part))...)
	}
	return Batch(errs)
}

// pushBatch adds jobs by one command, all or none.
func (b *redisBroker) pushBatch(ctx context.Context, queue string, jobs []*Job) error {
	batch := redisBatches.Get().(*redisBatch)
	batch.broker, batch.queue, batch.jobs = b, queue, jobs
	batch.frame, batch.stamp = batch.frame[:0], newStamps(len(jobs))
	batch.args[0], batch.args[1] = "RPUSH", queue
	err := redisError(b.adder(queue)(ctx, batch.args[:2+len(jobs)]...).Err())
	if batch.err != nil {
		err = batch.err
	}
	batch.broker, batch.jobs, batch.err = nil, nil, nil
	redisBatches.Put(batch)
	return err
}

// encode returns the body of a job; the next call overwrites it.
func (b *redisBatch) encode(i int) (body []byte, err error) {
	if i == 0 {
		b.room = redisBatchRoom
	}
	job, plain := b.jobs[i], false
	if job.simple() {
		body, plain = b.encodePlain(job, b.stamp+int64(i))
	}
	if !plain {
		token := ""
		if job.ID != "" {
			token = b.broker.token()
		}
		body, err = appendBody(b.body[:0], job, b.queue, token)
	}
	if b.room -= len(body); b.room < 0 && err == nil {
		err = errBatchRoom
	}
	if err != nil {
		b.err = err
		return nil, err
	}
	b.body = body
	return body, nil
}

// encodePlain is encode for simple jobs with plain arguments.
func (b *redisBatch) encodePlain(job *Job, stamp int64) (body []byte, ok bool) {
	if len(b.frame) == 0 || job.Payload.Class != b.class {
		if !validClass(job.Payload.Class) {
			return nil, false
		}
		b.class = job.Payload.Class
		b.frame = appendFrame(append(b.frame[:0], `","n":0}`...), b.queue, b.class)
	}
	body = append(b.body[:0], headerOpen...)
	body = appendUUID(body, stampedUUID(stamp))
	body = append(body, b.frame...)
	if body, ok = appendPlain(body, job.Payload.Args); !ok || len(body) > MaxBody {
		return nil, false
	}
	return append(body, "}}"...), true
}
