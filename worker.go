package linda

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// work runs jobs until the channel is closed. A job that it has received is
// run, even after the stop has begun: what is to be handed back is still in
// the channel.
func (r *run) work(slot int) {
	for dl := range r.jobs {
		r.do(slot, dl)
	}
}

// do takes one delivery to its result.
func (r *run) do(slot int, dl *delivery) {
	taken := time.Now()
	r.load.take(taken, dl.handed)
	if dl.lost() {
		r.release(dl, 0) // the broker knows whether it is
		return
	}
	if d, stop := decideBefore(dl.job, r.policy); stop {
		r.finish(dl, d, Event{Attempt: dl.job.Attempt(), Err: orReason(dl.job.Err(), d.reason)})
		return
	}
	r.runHandler(slot, dl, taken)
}

// runHandler calls the handler and passes on what it answered. It does so even
// if the handler ends the goroutine, and then starts another worker.
func (r *run) runHandler(slot int, dl *delivery, started time.Time) {
	ctx := r.handlerContext(dl)
	defer ctx.end(nil)
	event := Event{Attempt: dl.job.Attempt(), Err: ErrGoexit}
	returned := false
	r.running[slot].Store(dl)
	defer func() {
		event.Took = time.Since(started)
		r.running[slot].Store(nil)
		r.load.ran(event.Took)
		r.answer(dl, ctx.why(), event)
		if !returned {
			r.workers.Go(func() { r.work(slot) })
		}
	}()
	event.Err = r.call(ctx, dl)
	returned = true
}

// handlerContext returns the context of a handler.
func (r *run) handlerContext(dl *delivery) *jobContext {
	limit := dl.job.TimeLimit
	if limit <= 0 {
		limit = r.settings.TimeLimit
	}
	dl.ctx.begin(r.working, dl.job, limit)
	dl.job.ctx = &dl.ctx
	return &dl.ctx
}

// call calls the handler and turns a panic into an error.
func (r *run) call(ctx context.Context, dl *delivery) (err error) {
	h, known := r.handlers[dl.class]
	if !known {
		return fmt.Errorf("%w %.64q", ErrUnknownClass, dl.class)
	}
	panicked := true
	defer func() {
		if !panicked {
			return
		}
		if v := recover(); v != nil { // nil: runtime.Goexit, which nobody can stop
			err = r.recovered(ctx, dl, v)
		}
	}()
	dl.job.fillArgs()
	err = h.Handle(ctx, dl.job)
	if err != nil {
		_ = err.Error() // one that panics, as those of nil pointers do, should do so here
	}
	panicked = false
	return err
}

// recovered logs a panic and returns it as an error.
func (r *run) recovered(ctx context.Context, dl *delivery, value any) error {
	err := &PanicError{Value: value, Stack: debug.Stack()}
	r.settings.Logger.LogAttrs(ctx, slog.LevelError, "linda: handler panicked",
		slog.String("queue", dl.lane.queue), slog.String("class", clip(dl.class)), slog.String("job", dl.id),
		slog.String("err", clip(err.Error())), slog.String("stack", string(err.Stack)))
	return err
}

// answer decides what becomes of a job whose handler has answered.
func (r *run) answer(dl *delivery, cause error, event Event) {
	receipt := dl.job.receipt
	if asked, state := receipt.request(); asked.Job != nil {
		event.Kind = EventSettled
		switch state {
		case settled:
			r.pass(dl, result{skip: true, event: event})
		case lost:
			r.pass(dl, result{skip: true, event: lostEvent(event, ErrLeaseLost)})
		default: // the broker failed, or a goroutine that the handler left is still at it
			r.pass(dl, result{settle: asked, asked: true, unsure: true, event: event})
		}
		return
	}
	p := r.policy
	if receipt.Gone() {
		p.maxAttempts, dl.job.MaxAttempts = 1, 0
	}
	r.finish(dl, decide(dl.job, event.Err, cause, p), event)
}

// release hands back a job that was not started.
func (r *run) release(dl *delivery, delay time.Duration) {
	r.pass(dl, result{
		settle: Settlement{Job: dl.job, Op: OpRelease, Delay: delay, Unstarted: true},
		event:  Event{Kind: EventReleased, Attempt: dl.job.Attempt(), Delay: delay},
	})
}

// finish passes a decision on to the settler.
func (r *run) finish(dl *delivery, d decision, event Event) {
	if r.backend.delayMax > 0 {
		d.delay = min(d.delay, r.backend.delayMax) // better early than never
	}
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
	res.event.Queue, res.event.Class, res.event.ID = dl.lane.queue, dl.class, dl.id
	r.send(res)
	r.load.free()
}

func orReason(err error, reason string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("linda: %s", reason)
}
