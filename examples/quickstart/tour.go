package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

// tour shows one thing after the other, each by jobs of a class of its own.
type tour struct {
	*linda.Dispatcher
	jobs   int // in the batch
	queue  string
	events chan linda.Event // how each run of a job ended
	count  map[string]int   // of those ends, and of the delayed jobs

	sum         atomic.Int64 // of the arguments of the batch
	cardRenewed atomic.Bool
}

type email struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
}

var welcome = linda.Define[email]("welcome", linda.MaxAttempts(5))

var (
	errBusy    = errors.New("the line is busy")
	errExpired = errors.New("the card has expired")
)

// register says how the jobs of each class are run. The answer of a handler
// decides what becomes of its job.
func (t *tour) register() {
	handle := func(class string, run linda.HandlerFunc) { t.Handle(class, run) }

	handle("add", func(_ context.Context, job *linda.Job) error {
		var n int64
		if err := job.Payload.Decode(&n); err != nil {
			return err
		}
		t.sum.Add(n)
		return nil
	})
	handle("call", func(_ context.Context, job *linda.Job) error {
		if job.Attempt() <= 2 {
			return errBusy
		}
		return nil
	})
	handle("remind", func(context.Context, *linda.Job) error { return nil })
	handle("visit", func(_ context.Context, job *linda.Job) error {
		var opens time.Time
		if err := job.Payload.Decode(&opens); err != nil {
			return err
		}
		if wait := time.Until(opens); wait > 0 {
			return linda.Snooze(wait)
		}
		return nil
	})
	handle("pay", func(context.Context, *linda.Job) error {
		if !t.cardRenewed.Load() {
			return linda.Discard(errExpired)
		}
		return nil
	})
	welcome.Handle(t.Dispatcher, func(_ context.Context, e email) error {
		fmt.Printf("   to %s: %s\n", e.To, e.Subject)
		return nil
	})
}

// take goes through the tour.
func (t *tour) take(ctx context.Context) error {
	for i, stop := range []struct {
		title string
		show  func(context.Context) error
	}{
		{fmt.Sprintf("A batch of %d jobs", t.jobs), t.batch},
		{"A job that fails twice, and is retried with a growing delay", t.retried},
		{"A job for later", t.delayed},
		{"A job that comes too soon, and snoozes", t.snoozed},
		{"A job that cannot succeed, and is dead until somebody mends its cause", t.dead},
		{"A typed job", t.typed},
	} {
		fmt.Printf("%d. %s\n", i+1, stop.title)
		if err := stop.show(ctx); err != nil {
			return err
		}
		fmt.Println()
	}
	t.summary()
	return nil
}

func (t *tour) batch(ctx context.Context) error {
	batch := make([]*linda.Job, t.jobs)
	for i := range batch {
		batch[i] = job("add", i+1)
	}
	start := time.Now()
	if err := t.PushBatch(ctx, batch); err != nil {
		return err
	}
	for t.count["done"] < len(batch) {
		if _, err := t.next(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("   all done after %v; the sum of their arguments is %d\n", since(start), t.sum.Load())
	return nil
}

func (t *tour) retried(ctx context.Context) error {
	if err := t.Push(ctx, job("call", "+44 20 7946 0018")); err != nil {
		return err
	}
	return t.follow(ctx, linda.EventDone)
}

func (t *tour) delayed(ctx context.Context) error {
	const delay = time.Second
	start := time.Now()
	if err := t.Later(ctx, delay, job("remind", "tea is ready")); err != nil {
		return err
	}
	if err := t.follow(ctx, linda.EventDone); err != nil {
		return err
	}
	t.count["delayed"]++
	fmt.Printf("   asked to wait %v, it waited %v\n", delay, since(start))
	return nil
}

func (t *tour) snoozed(ctx context.Context) error {
	opens := time.Now().Add(300 * time.Millisecond)
	if err := t.Push(ctx, job("visit", opens)); err != nil {
		return err
	}
	return t.follow(ctx, linda.EventDone)
}

func (t *tour) dead(ctx context.Context) error {
	if err := t.Push(ctx, job("pay", "order 1815")); err != nil {
		return err
	}
	if err := t.follow(ctx, linda.EventDead); err != nil {
		return err
	}
	inspector, ok := linda.As[linda.Inspector](t.Broker())
	if !ok {
		fmt.Println("   this broker cannot list its dead jobs")
		return nil
	}
	dead, err := inspector.Peek(ctx, t.queue, linda.Dead, 10)
	if err != nil {
		return err
	}
	for _, job := range dead {
		fmt.Printf("   listed   %s %v, dead because %s\n", job.Payload.Class, job.Payload.Args, job.LastError())
	}
	t.cardRenewed.Store(true)
	n, err := inspector.Kick(ctx, t.queue, 10)
	if err != nil {
		return err
	}
	fmt.Printf("   kicked   %d\n", n)
	return t.follow(ctx, linda.EventDone)
}

func (t *tour) typed(ctx context.Context) error {
	if _, err := welcome.Push(ctx, t.Dispatcher, email{To: "ada@example.com", Subject: "Welcome!"}); err != nil {
		return err
	}
	return t.follow(ctx, linda.EventDone)
}

func (t *tour) summary() {
	for _, kind := range []string{"done", "retried", "delayed", "snoozed", "dead"} {
		fmt.Printf("%-8s %6d\n", kind, t.count[kind])
	}
}

// cleanUp removes what an interrupted tour has left in the queue.
func (t *tour) cleanUp() error {
	inspector, ok := linda.As[linda.Inspector](t.Broker())
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	for _, state := range []linda.State{linda.Ready, linda.Delayed, linda.Dead} {
		_, err := inspector.Purge(ctx, t.queue, state)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// follow tells what happens until an event of this kind.
func (t *tour) follow(ctx context.Context, last linda.EventKind) error {
	for {
		e, err := t.next(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("   %-8s attempt %d", e.Kind, e.Attempt)
		if e.Err != nil && e.Kind != linda.EventSnoozed {
			fmt.Printf(": %v", e.Err)
		}
		if e.Delay > 0 {
			fmt.Printf("; again in %v", e.Delay.Round(time.Millisecond))
		}
		fmt.Println()
		if e.Kind == last {
			return nil
		}
	}
}

// next waits for the end of a run.
func (t *tour) next(ctx context.Context) (linda.Event, error) {
	select {
	case e := <-t.events:
		t.count[string(e.Kind)]++
		return e, nil
	case <-ctx.Done():
		return linda.Event{}, context.Cause(ctx)
	}
}

func job(class string, args ...any) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: class, Args: args}}
}

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Millisecond) }
