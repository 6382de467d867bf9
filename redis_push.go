package linda

import (
	"bytes"
	"context"
	"fmt"
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
	bodies, err := encodeAll(ctx, queue, jobs)
	if err != nil {
		return err
	}
	b.tellApart(jobs, bodies)
	keyed := func(job *Job) bool { return job.UniqueKey != "" }
	if slices.ContainsFunc(jobs, keyed) {
		errs := make([]error, len(jobs))
		for i, job := range jobs {
			if keyed(job) {
				errs[i] = b.pushUnique(ctx, queue, job, bodies[i])
			} else {
				errs[i] = b.push(ctx, queue, jobs[i:i+1], bodies[i:i+1])
			}
		}
		return Batch(errs)
	}
	errs := make([]error, 0, len(jobs))
	for len(jobs) > 0 {
		n := redisChunk(bodies)
		err := b.push(ctx, queue, jobs[:n], bodies[:n])
		errs = append(errs, EachError(err, n)...)
		jobs, bodies = jobs[n:], bodies[n:]
	}
	return Batch(errs)
}

// tellApart makes the bodies of delayed jobs whose ids the program has chosen
// differ: a sorted set holds each body once, and the same job may be pushed
// twice. The token goes where the one of a reservation would.
func (b *redisBroker) tellApart(jobs []*Job, bodies [][]byte) {
	for i, job := range jobs {
		if job.ID == "" || job.Delay <= 0 {
			continue
		}
		head, rest, _ := bytes.Cut(bodies[i], []byte(`","n":0`))
		bodies[i] = fmt.Appendf(nil, `%s","n":0,"r":"%s"%s`, head, b.token(), rest)
	}
}

// token returns a text that no other call has returned, in any process.
func (b *redisBroker) token() string {
	return b.nonce + "." + strconv.FormatUint(b.calls.Add(1), 36)
}

// redisChunk returns how many bodies to send in one command.
func redisChunk(bodies [][]byte) int {
	bytes := 0
	for i, body := range bodies {
		bytes += len(body)
		if i > 0 && (bytes > redisPushBytes || i >= redisPushMost) {
			return i
		}
	}
	return len(bodies)
}

// push adds jobs by one command, all or none.
func (b *redisBroker) push(ctx context.Context, queue string, jobs []*Job, bodies [][]byte) error {
	soonest := maxDelay
	var delayed []any
	values := []any{"RPUSH", queue}
	for i, body := range bodies {
		values = append(values, body)
		delayed = append(delayed, milliseconds(jobs[i].Delay), body)
		if jobs[i].Delay > 0 {
			soonest = min(soonest, jobs[i].Delay)
		}
	}
	if soonest == maxDelay {
		return redisError(b.adder(queue)(ctx, values...).Err())
	}
	err := runRedis(ctx, b.adder(queue), pushScript, []string{queue, b.key(queue, Delayed)}, delayed...).Err()
	b.dueIn(queue, soonest)
	return redisError(err)
}

func (b *redisBroker) PushUnique(ctx context.Context, queue string, job *Job) error {
	return unbatch(b.PushBatch(ctx, queue, []*Job{job}))
}

func (b *redisBroker) pushUnique(ctx context.Context, queue string, job *Job, body []byte) error {
	keys := []string{queue, b.key(queue, Delayed), b.key(queue, redisUnique)}
	holder, err := runRedis(ctx, b.adder(queue), uniqueScript, keys, job.UniqueKey, bodyID(body),
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
