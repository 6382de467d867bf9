package linda

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"
)

const (
	redisPushMost  = 1000 // jobs in one command
	redisPushBytes = 512 << 10
)

func (b *redisBroker) PushBatch(ctx context.Context, queue string, jobs []*Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	if each := b.encodesLate(jobs); each > 0 {
		if err := b.pushLate(ctx, queue, jobs, each); !errors.Is(err, errBatchRoom) {
			return err
		}
	}
	pushes, err := b.encodeAll(jobs, queue)
	if err != nil {
		return err
	}
	keyed := func(job *Job) bool { return job.UniqueKey != "" }
	if slices.ContainsFunc(jobs, keyed) {
		errs := make([]error, len(jobs))
		for i, job := range jobs {
			if keyed(job) {
				errs[i] = b.pushUnique(ctx, queue, job, pushes[i].body)
			} else {
				errs[i] = b.pushTogether(ctx, queue, pushes[i])
			}
		}
		return Batch(errs)
	}
	if len(pushes) == 1 {
		return b.pushTogether(ctx, queue, pushes[0])
	}
	var errs []error
	for sent, n := 0, 0; sent < len(pushes); sent += n {
		n = redisChunk(pushes[sent:], func(p redisPush) int { return len(p.body) })
		err := b.push(ctx, queue, pushes[sent:sent+n])
		if err != nil && errs == nil {
			errs = make([]error, len(pushes))
		}
		if err != nil {
			copy(errs[sent:], EachError(err, n))
		}
	}
	return Batch(errs)
}

// redisSpace is how many bytes bodies of a batch share an array.
const redisSpace = 64 << 10

// encodeAll returns the bodies of jobs. Each is like no other: a job whose id
// the program has chosen, and may push twice, gets a token besides. A set holds
// a body once, and a reservation is fenced by it.
func (b *redisBroker) encodeAll(jobs []*Job, queue string) ([]redisPush, error) {
	pushes := make([]redisPush, len(jobs))
	var space []byte // what is left of the array
	for i, job := range jobs {
		if cap(space) < bodySize {
			space = make([]byte, 0, min(redisSpace, bodySize*(len(jobs)-i)))
		}
		token := ""
		if job.ID != "" {
			token = b.token()
		}
		body, err := appendBody(space, job, queue, token)
		if err != nil {
			return nil, err
		}
		pushes[i] = redisPush{delay: job.Delay, body: body[:len(body):len(body)]}
		space = body[len(body):]
	}
	return pushes, nil
}

// token returns a text that no other call has returned, in any process.
func (b *redisBroker) token() string {
	return b.nonce + "." + strconv.FormatUint(b.calls.Add(1), 36)
}

// redisChunk returns how many of the pushes to send in one command.
func redisChunk[T any](pushes []T, size func(T) int) int {
	bytes := 0
	for i, p := range pushes {
		bytes += size(p)
		if i > 0 && (bytes > redisPushBytes || i >= redisPushMost) {
			return i
		}
	}
	return len(pushes)
}

// push adds jobs by one command, all or none.
func (b *redisBroker) push(ctx context.Context, queue string, pushes []redisPush) error {
	soonest := maxDelay
	for _, p := range pushes {
		if p.delay > 0 {
			soonest = min(soonest, p.delay)
		}
	}
	if soonest == maxDelay {
		args := append(make([]any, 0, 2+len(pushes)), "RPUSH", queue)
		for i := range pushes {
			args = append(args, &pushes[i])
		}
		return redisError(b.adder(queue)(ctx, args...).Err())
	}
	args := make([]any, 0, 2*len(pushes))
	for i := range pushes {
		args = append(args, milliseconds(pushes[i].delay), &pushes[i])
	}
	err := runRedis(ctx, b.adder(queue), pushScript, []string{queue, b.key(queue, Delayed)}, args...).Err()
	b.dueIn(queue, soonest)
	return redisError(err)
}

func (b *redisBroker) PushUnique(ctx context.Context, queue string, job *Job) error {
	return unbatch(b.PushBatch(ctx, queue, []*Job{job}))
}

func (b *redisBroker) pushUnique(ctx context.Context, queue string, job *Job, body []byte) error {
	keys := []string{queue, b.key(queue, Delayed), b.key(queue, redisUnique)}
	holder, err := runRedis(ctx, b.adder(queue), uniqueScript, keys, job.UniqueKey, BodyID(string(body)),
		milliseconds(job.UniqueTTL), milliseconds(job.Delay), body).Text()
	if err != nil {
		return redisError(err)
	}
	if holder != "" {
		return &DuplicateError{Queue: queue, Key: job.UniqueKey, ID: holder}
	}
	b.dueIn(queue, job.Delay)
	return nil
}

// milliseconds rounds up, so that nothing is early.
func milliseconds(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}
