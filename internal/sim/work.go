package sim

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos"
)

// class is what a job does when it runs.
type class int

const (
	quick    class = iota // some milliseconds
	slow                  // some seconds
	long                  // longer than the lease
	failing               // fails some times
	retried               // fails, and says when to run again
	panicked              // panics once
	exiting               // ends its goroutine once
	snoozing              // runs again later, twice
	limited               // outlasts its time limit once
	settling              // settles itself, by the broker
	discards              // fails for good: dead
	hopeless              // fails as often as it may: dead
	classes
)

var classNames = [classes]string{
	"quick", "slow", "long", "failing", "retried", "panicked", "exiting", "snoozing", "limited", "settling", "discards", "hopeless",
}

// weights of the classes.
var weights = [classes]int{
	quick: 40, slow: 20, long: 2, failing: 8, retried: 6, panicked: 4, exiting: 2, snoozing: 4, limited: 2, settling: 4, discards: 2, hopeless: 2,
}

const (
	maxCrashes  = 3
	maxAttempts = 4 // of the hopeless
)

var (
	errPlanned = errors.New("fails as planned")
	errLimited = errors.New("outlasted its limit")
)

// work is one job of a seed.
type work struct {
	class  class
	delay  time.Duration
	takes  time.Duration
	times  int
	urgent bool
}

func (w *world) workOf(n uint32) work {
	d := newDraws(w.seed, number("job"), uint64(n))
	total := 0
	for _, weight := range weights {
		total += weight
	}
	var job work
	for at := d.below(total); at >= weights[job.class]; job.class++ {
		at -= weights[job.class]
	}
	job.times = 1 + d.below(3)
	job.urgent = d.chance(2000)
	job.takes = d.between(100*time.Microsecond, 5*time.Millisecond)
	switch job.class {
	case slow:
		job.takes = d.between(100*time.Millisecond, 10*time.Second)
	case long:
		job.takes = d.between(w.lease, 5*w.lease/2)
	}
	if d.chance(2000) {
		job.delay = d.between(time.Millisecond, 5*time.Minute)
	}
	return job
}

// job returns the job of a number.
func (w *world) job(n uint32) *linda.Job {
	of := w.workOf(n)
	job := &linda.Job{ID: idOf(n), Delay: of.delay, Payload: linda.Payload{Class: classNames[of.class], Args: []any{n, mix(w.seed, uint64(n))}}}
	if of.urgent {
		job.Queue = urgent
	}
	switch of.class {
	case hopeless:
		job.MaxAttempts = maxAttempts
	case limited:
		job.TimeLimit = 2 * time.Second
	}
	return job
}

// handlers registers those of all classes with a process.
func (p *process) handlers() {
	for c := range classes {
		p.d.HandleFunc(classNames[c], func(ctx context.Context, job *linda.Job) error { return p.handle(ctx, c, job) })
	}
	p.d.HandleFunc(tickClass, func(ctx context.Context, job *linda.Job) error { return p.handle(ctx, quick, job) })
}

// handle writes down what happens around a handler.
func (p *process) handle(ctx context.Context, c class, job *linda.Job) error {
	w := p.world
	e := w.about(job, chaos.Started)
	e.Value, e.Code = int64(job.Crashes())<<32|int64(job.Failures()), codeOf(c)
	p.conn.tell(e)
	n := e.Job
	of := w.workOf(n)
	if job.Tick().IsZero() {
		w.whole(p, job, n)
	} else {
		of = work{takes: of.takes % (5 * time.Millisecond)}
		c = quick
	}
	unwatched := context.AfterFunc(ctx, func() { p.conn.tell(w.about(job, chaos.ContextEnded)) })
	defer unwatched()
	end := w.about(job, chaos.Finished)
	end.Code = chaos.Failure
	defer func() { p.conn.tell(end) }()
	err := p.do(ctx, c, of, job)
	if err == nil {
		end.Code = chaos.Success
	}
	if err == nil && c == settling {
		p.conn.tell(end)                  // it has done its work
		_ = p.conn.Delete(job.Queue, job) // the settler carries it out if this fails
	}
	return err
}

// whole judges what a handler is given.
func (w *world) whole(p *process, job *linda.Job, n uint32) {
	var number uint32
	var sum uint64
	if err := job.Payload.Decode(&number, &sum); err != nil || number != n || sum != mix(w.seed, uint64(n)) {
		p.conn.tell(w.about(job, chaos.Corrupt))
	}
	if most := job.MaxAttempts; most > 0 && job.Failures() >= most {
		w.find("job %s runs after %d failures of %d", job.ID, job.Failures(), most)
	}
	if job.Crashes() >= maxCrashes {
		w.find("job %s runs after %d crashes", job.ID, job.Crashes())
	}
}

// do is what the jobs of a class do.
func (p *process) do(ctx context.Context, c class, of work, job *linda.Job) error {
	if err := pass(ctx, of.takes); err != nil {
		// It takes a moment to notice, so that hardly two do at one instant.
		time.Sleep(of.takes % time.Millisecond)
		return err
	}
	switch c {
	case failing:
		if job.Failures() < of.times {
			return errPlanned
		}
	case retried:
		if job.Failures() < of.times {
			return linda.RetryIn(time.Duration(of.times)*7*time.Second, errPlanned)
		}
	case panicked:
		if job.Failures() == 0 {
			panic(errPlanned)
		}
	case exiting:
		if job.Failures() == 0 {
			runtime.Goexit()
		}
	case snoozing:
		if job.Attempt() <= 1 && p.snoozes(job) {
			return linda.Snooze(time.Duration(of.times) * 11 * time.Second)
		}
	case limited:
		if job.Failures() == 0 {
			_ = pass(ctx, time.Minute)
			time.Sleep(of.takes % time.Millisecond)
			if !errors.Is(context.Cause(ctx), linda.ErrTimeLimit) {
				return ctx.Err()
			}
			return errLimited
		}
	case discards:
		return linda.Discard(errPlanned)
	case hopeless:
		return errPlanned
	}
	return nil
}

// snoozes reports whether a job is to be snoozed once more.
func (p *process) snoozes(job *linda.Job) bool {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.snoozed[job.ID]
	w.snoozed[job.ID] = n + 1
	return n < 2
}

// codeOf is the class as the checker knows it: only the hopeless may be dead.
func codeOf(c class) uint8 {
	if c == discards || c == hopeless {
		return uint8(chaos.Hopeless)
	}
	return uint8(chaos.Quick)
}

func endOf(s *linda.Settlement) chaos.End {
	switch {
	case s.Op == linda.OpDelete:
		return chaos.EndDelete
	case s.Op == linda.OpBury:
		return chaos.EndBury
	case s.Unstarted || s.Snoozed:
		return chaos.EndUncount
	default:
		return chaos.EndRelease
	}
}

func isLost(err error) bool { return errors.Is(err, linda.ErrNotReserved) }

func pass(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
