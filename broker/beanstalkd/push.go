package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// pushMost is how many bytes of jobs are sent before their answers are awaited.
const pushMost = 1 << 20

func (b *broker) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	bodies, err := linda.EncodeBatch(ctx, queue, jobs)
	if err != nil {
		return err
	}
	delays := make([]uint64, len(jobs))
	for i, job := range jobs {
		if job.UniqueKey != "" {
			return fmt.Errorf("linda/beanstalkd: queue %s: unique keys: %w", queue, errors.ErrUnsupported)
		}
		if size := len(bodies[i]); size > b.maxJob-bookkeeping {
			return fmt.Errorf("linda/beanstalkd: queue %s: %w: %d bytes; the server takes %d, of which %d are for bookkeeping",
				queue, linda.ErrTooLarge, size, b.maxJob, bookkeeping)
		}
		if delays[i], err = wholeSeconds(job.Delay); err != nil {
			return err
		}
	}
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit+time.Duration(len(jobs))*time.Millisecond)
	defer cancel()
	errs := make([]error, 0, len(jobs))
	for from := 0; from < len(jobs); {
		puts := &commands{tube: queue}
		for i := from; i < len(jobs) && len(puts.text) < pushMost; i++ {
			puts.put(string(bodies[i]), b.config.pri, delays[i], b.ttr())
		}
		from += puts.n
		_, err := b.insert(ctx, puts)
		errs = append(errs, linda.EachError(err, puts.n)...)
	}
	return linda.Batch(errs)
}

// insert sends puts and returns the ids of the jobs.
func (b *broker) insert(ctx context.Context, puts *commands) ([]uint64, error) {
	answers, err := b.puts.do(ctx, puts)
	if err != nil {
		if b.ctx.Err() != nil && !errors.Is(err, linda.ErrUnknown) {
			err = linda.ErrClosed
		}
		return make([]uint64, puts.n), err
	}
	ids, errs := make([]uint64, puts.n), make([]error, puts.n)
	for i, answer := range answers {
		ids[i], errs[i] = answer.id, answer.err("INSERTED")
		if answer.word == "BURIED" { // it has the job, but no memory to ever hand it out
			errs[i] = reply{word: "OUT_OF_MEMORY"}.err("")
			b.remove(answer.id)
		}
	}
	return ids, linda.Batch(errs)
}

// remove deletes a job that was just put, without waiting.
func (b *broker) remove(id uint64) {
	if c := b.puts.current(); c != nil {
		cmd := &commands{}
		cmd.add("delete", id)
		_, _ = c.send(cmd)
	}
}

func (b *broker) ttr() uint64 { return uint64(b.config.ttr / time.Second) }

// wholeSeconds rounds a delay up to what the server counts in.
func wholeSeconds(d time.Duration) (uint64, error) {
	if d > maxDelay {
		return 0, fmt.Errorf("linda/beanstalkd: %w: %v, at most %d seconds", linda.ErrDelayTooLong, d, int64(maxDelay/time.Second))
	}
	d = max(d, 0)
	n := d / time.Second
	if d%time.Second > 0 {
		n++
	}
	return uint64(n), nil
}
