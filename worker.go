package linda

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// suspectPause is how long a suspect job waits for another one to finish.
const suspectPause = time.Second

// work runs jobs until the channel is closed. What comes after the stop has
// begun is handed back.
func (r *run) work() {
	for dl := range r.jobs {
		r.do(dl)
	}
}

// do takes one delivery to its result.
func (r *run) do(dl *delivery) {
	now := time.Now()
	r.load.take(now, dl.handed)
	if r.polling.Err() != nil {
		r.release(dl, 0)
		return
	}
	if dl.lost() {
		r.pass(dl, result{skip: true, event: Event{Kind: EventLost, Err: ErrLeaseLost}})
		return
	}
	if d, stop := decideBefore(dl.job, r.policy); stop {
		r.finish(dl, d, Event{Err: orReason(dl.job.Err(), d.reason)})
		return
	}
	// A job that may have killed its process twice runs while no other such
	// job does, so that the innocent are told from the guilty.
	if suspicious := dl.job.Crashes() > 0 && dl.job.Crashes() >= r.policy.maxCrashes-1; suspicious {
		select {
		case r.suspect <- struct{}{}:
			defer func() { <-r.suspect }()
		default:
			r.release(dl, suspectPause)
			return
		}
	}
	r.runHandler(dl)
}

// runHandler calls the handler and passes on what it answered. It does so even
// if the handler ends the goroutine, and then starts another worker.
func (r *run) runHandler(dl *delivery) {
	ctx, cancel := r.handlerContext(dl)
	defer cancel()
	started := time.Now()
	err := ErrGoexit
	returned := false
	r.running.Store(dl, nil)
	defer func() {
		took := time.Since(started)
		r.running.Delete(dl)
		r.load.ran(took)
		r.answer(dl, err, context.Cause(ctx), took)
		if !returned {
			r.workers.Go(r.work)
		}
	}()
	err = r.call(ctx, dl.job)
	returned = true
}

func (r *run) handlerContext(dl *delivery) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(r.working)
	stop := func() { cancel(nil) }
	if !dl.begin(cancel) {
		cancel(ErrLeaseLost)
	}
	limit := dl.job.TimeLimit
	if limit <= 0 {
		limit = r.settings.TimeLimit
	}
	if limit > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeoutCause(ctx, limit, ErrTimeLimit)
		stop = func() { end(); cancel(nil) }
	}
	dl.job.ctx = ctx
	return ctx, stop
}

// call calls the handler and turns a panic into an error.
func (r *run) call(ctx context.Context, job *Job) (err error) {
	h, known := r.handlers[job.Payload.Class]
	if !known {
		return fmt.Errorf("%w %.64q", ErrUnknownClass, job.Payload.Class)
	}
	panicked := true
	defer func() {
		if !panicked {
			return
		}
		if v := recover(); v != nil { // nil: runtime.Goexit, which nobody can stop
			err = &PanicError{Value: v, Stack: debug.Stack()}
			r.settings.Logger.LogAttrs(ctx, slog.LevelError, "linda: handler panicked",
				slog.String("queue", job.Queue), slog.String("class", clip(job.Payload.Class)),
				slog.String("job", job.ID), slog.String("err", clip(err.Error())),
				slog.String("stack", string(err.(*PanicError).Stack)))
		}
	}()
	job.fillArgs()
	err = h.Handle(ctx, job)
	panicked = false
	return err
}

// answer decides what becomes of a job whose handler has answered.
func (r *run) answer(dl *delivery, err, cause error, took time.Duration) {
	event := Event{Took: took, Err: err}
	receipt := dl.job.receipt
	switch asked, open := receipt.request(); {
	case asked != nil && open: // the handler tried to settle the job, and the broker did not answer
		event.Kind = EventSettled
		r.pass(dl, result{settle: *asked, event: event})
	case asked != nil:
		event.Kind = EventSettled
		r.pass(dl, result{skip: true, event: event})
	default:
		p := r.policy
		if receipt.Gone() {
			p.maxAttempts, dl.job.MaxAttempts = 1, 0
		}
		r.finish(dl, decide(dl.job, err, cause, p), event)
	}
}

// release hands back a job that was not started.
func (r *run) release(dl *delivery, delay time.Duration) {
	r.pass(dl, result{
		settle: Settlement{Job: dl.job, Op: OpRelease, Delay: delay, Unstarted: true},
		event:  Event{Kind: EventReleased, Delay: delay},
	})
}

// finish passes a decision on to the settler.
func (r *run) finish(dl *delivery, d decision, event Event) {
	event.Kind, event.Delay = d.kind, d.delay
	r.pass(dl, result{
		settle: Settlement{Job: dl.job, Op: d.op, Delay: d.delay, Reason: d.reason, Snoozed: d.snoozed},
		skip:   d.op == OpDelete && dl.job.receipt.Gone(),
		event:  event,
	})
}

// pass completes a result, hands it to the settler and frees the worker.
func (r *run) pass(dl *delivery, res result) {
	res.dl = dl
	job, event := dl.job, &res.event
	event.Queue, event.Class, event.ID, event.Attempt = job.Queue, job.Payload.Class, job.ID, job.Attempt()
	r.send(res)
	r.load.free()
}

func orReason(err error, reason string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("linda: %s", reason)
}
