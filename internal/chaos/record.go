package chaos

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/amlun/linda"
)

// Record returns b with its reservations, and how they are prolonged and
// settled, written to a history.
func Record(b linda.Broker, h *History) linda.Broker {
	if f, ok := linda.As[linda.Fetcher](b); ok {
		b = &recordFetch{b, f, h}
	}
	if t, ok := linda.As[linda.Toucher](b); ok {
		b = &recordTouch{b, t, h}
	}
	if s, ok := linda.As[linda.Settler](b); ok {
		b = &recordSettle{b, s, h}
	}
	return b
}

type recordFetch struct {
	linda.Broker
	next    linda.Fetcher
	history *History
}

func (r *recordFetch) Unwrap() linda.Broker { return r.Broker }

func (r *recordFetch) Fetch(ctx context.Context, queue string, most int, lease time.Duration) ([]*linda.Job, error) {
	sent := Now()
	jobs, err := r.next.Fetch(ctx, queue, most, lease)
	if len(jobs) > 0 {
		events := make([]Event, len(jobs))
		for i, job := range jobs {
			events[i] = about(job, Fetched)
			events[i].Value = sent
		}
		r.history.Write(events...)
	}
	return jobs, err
}

type recordTouch struct {
	linda.Broker
	next    linda.Toucher
	history *History
}

func (r *recordTouch) Unwrap() linda.Broker { return r.Broker }

func (r *recordTouch) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	sent := Now()
	err := r.next.Touch(ctx, queue, lease, jobs)
	var events []Event
	for i, err := range linda.EachError(err, len(jobs)) {
		if err == nil {
			e := about(jobs[i], Touched)
			e.Value = sent
			events = append(events, e)
		}
	}
	if len(events) > 0 {
		r.history.Write(events...)
	}
	return err
}

type recordSettle struct {
	linda.Broker
	next    linda.Settler
	history *History
}

func (r *recordSettle) Unwrap() linda.Broker { return r.Broker }

func (r *recordSettle) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	sent := Now()
	err := r.next.Settle(ctx, queue, batch)
	events := make([]Event, 0, len(batch))
	for i, err := range linda.EachError(err, len(batch)) {
		s := &batch[i]
		e := about(s.Job, Settled)
		e.Value, e.Code = sent, endOf(s)
		switch {
		case errors.Is(err, linda.ErrNotReserved):
			e.Kind = SettleLost
		case err != nil:
			e.Kind = SettleUnsure
		}
		if s.Op == linda.OpRelease && s.Delay > 0 && e.Kind == Settled {
			later := e
			later.Kind, later.Value = NotBefore, sent+s.Delay.Nanoseconds()
			events = append(events, later)
		}
		events = append(events, e)
	}
	r.history.Write(events...)
	return err
}

func endOf(s *linda.Settlement) End {
	switch {
	case s.Op == linda.OpDelete:
		return EndDelete
	case s.Op == linda.OpBury:
		return EndBury
	case s.Unstarted || s.Snoozed:
		return EndUncount
	default:
		return EndRelease
	}
}

// about returns an event of a delivery.
func about(job *linda.Job, kind Kind) Event {
	_, number, _ := parseID(job.ID)
	return Event{Kind: kind, Job: number, Attempt: uint16(job.Attempt())}
}

// idOf names a job of a run after its number.
func idOf(seed uint64, number uint32) string { return fmt.Sprintf("%016x-%d", seed, number) }

// parseID reads what idOf has written.
func parseID(id string) (seed uint64, number uint32, ok bool) {
	left, right, ok := strings.Cut(id, "-")
	seed, err := strconv.ParseUint(left, 16, 64)
	n, err2 := strconv.ParseUint(right, 10, 32)
	return seed, uint32(n), ok && err == nil && err2 == nil
}

// JobOf returns the job of a number in the workload of a seed.
func JobOf(seed uint64, number uint32) *linda.Job {
	w := WorkOf(seed, number)
	const filler = `<&>"` // which an encoder may write in many ways
	return &linda.Job{
		ID: idOf(seed, number), Delay: w.Delay,
		Payload: linda.Payload{
			Class: w.Class.String(),
			Args:  []any{strconv.FormatUint(seed, 16), number, filler, sum(seed, number, filler)},
		},
	}
}

// Handlers are those of the classes, for the workload of a seed.
type Handlers struct {
	Seed    uint64
	History *History
	Lease   time.Duration
	Die     func() // ends the process at once; nil: a Deadly job fails instead
}

// Register adds the handlers to a dispatcher.
func (hs *Handlers) Register(d *linda.Dispatcher) {
	for class := range classes {
		d.HandleFunc(class.String(), func(ctx context.Context, job *linda.Job) error { return hs.run(ctx, class, job) })
	}
}

var errAsPlanned = errors.New("fails as planned")

// run writes down what happens around a handler.
func (hs *Handlers) run(ctx context.Context, class Class, job *linda.Job) error {
	e := about(job, Started)
	e.Code, e.Value = uint8(class), int64(job.Crashes())<<32|int64(job.Failures())
	hs.History.Write(e)
	if !hs.whole(job) {
		hs.History.Write(about(job, Corrupt))
	}
	unwatched := context.AfterFunc(ctx, func() { hs.History.Write(about(job, ContextEnded)) })
	end := about(job, Finished)
	end.Code = Failure
	defer func() {
		unwatched()
		hs.History.Write(end)
	}()
	err := hs.do(ctx, class, job)
	if err == nil {
		end.Code = Success
	}
	return err
}

// do is what the jobs of a class do.
func (hs *Handlers) do(ctx context.Context, class Class, job *linda.Job) error {
	_, number, _ := parseID(job.ID)
	w := WorkOf(hs.Seed, number)
	switch class {
	case Busy:
		return pass(ctx, time.Duration(w.Amount)*time.Millisecond)
	case Long:
		return pass(ctx, hs.Lease+hs.Lease/2)
	case Flaky:
		if job.Failures() < w.Amount {
			return linda.RetryIn(time.Duration(100*w.Amount)*time.Millisecond, errAsPlanned)
		}
	case Panics:
		if job.Failures() == 0 {
			panic(errAsPlanned)
		}
	case Deadly:
		if job.Crashes()+job.Failures() > 0 {
			return nil
		}
		if hs.Die != nil {
			hs.History.Write(Event{Kind: Dying})
			hs.Die()
		}
		return errAsPlanned
	case Hopeless:
		return linda.Discard(errAsPlanned)
	}
	return nil
}

// whole reports whether the arguments are those of JobOf.
func (hs *Handlers) whole(job *linda.Job) bool {
	var seed, filler string
	var number, check uint32
	err := job.Payload.Decode(&seed, &number, &filler, &check)
	_, id, ok := parseID(job.ID)
	return err == nil && ok && id == number && seed == strconv.FormatUint(hs.Seed, 16) && check == sum(hs.Seed, number, filler)
}

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

// PresentEvent tells that the broker holds a job.
func PresentEvent(job *linda.Job, place Place) Event {
	e := about(job, Present)
	e.Code = place
	return e
}
