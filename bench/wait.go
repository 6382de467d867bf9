package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// picking measures how long an idle worker takes to start a job, from the
// return of the push.
func picking(ctx context.Context, b *bench, c contestant) error {
	samples := 500
	switch c.name() {
	case "asynq":
		samples = 3 // it looks once a second
	case "bare":
		return errNone
	}
	if b.tiny {
		samples = min(samples, 50)
	}
	started := make(chan time.Time, 1)
	handle := func(int) { started <- time.Now() }
	return b.runs(ctx, c, 10, samples, handle, func(<-chan struct{}) error {
		time.Sleep(200 * time.Millisecond) // it is up, and idle
		waits := make([]time.Duration, samples)
		for n := range waits {
			time.Sleep(2 * time.Millisecond) // idle again
			if err := c.push(ctx, n); err != nil {
				return err
			}
			pushed := time.Now()
			select {
			case begun := <-started:
				waits[n] = max(0, begun.Sub(pushed))
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b.table.quantiles("idle pick-up", c, waits)
		return nil
	})
}

// lateness measures how long after they are due delayed jobs start: many, due
// evenly over some seconds.
func lateness(ctx context.Context, b *bench, c contestant) error {
	count, over := 10_000, 3*time.Second
	if b.tiny {
		count, over = 200, 500*time.Millisecond
	}
	if _, none := c.(*bareContestant); none {
		return errNone
	}
	due, late := make([]time.Time, count), make([]time.Duration, count)
	var mu sync.Mutex // guards late and due: a job may start as soon as it is pushed
	lead := 2 * time.Second
	if b.tiny {
		lead = 500 * time.Millisecond
	}
	from := time.Now().Add(lead)
	handle := func(n int) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		late[n] = now.Sub(due[n])
	}
	return b.runs(ctx, c, 50, count, handle, func(done <-chan struct{}) error {
		err := spread(16, count, func(n int) error {
			delay := time.Until(from.Add(over * time.Duration(n) / time.Duration(count)))
			mu.Lock()
			due[n] = time.Now().Add(delay)
			mu.Unlock()
			return c.later(ctx, n, delay)
		})
		if err != nil {
			return err
		}
		stalled := stall(done)
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.table.add("longest stall of a sleeping goroutine meanwhile", "ms", lower, c, stalled().Seconds()*1000)
		mu.Lock()
		defer mu.Unlock()
		if early := slices.Min(late); early < 0 && c.name() == "linda" {
			return fmt.Errorf("a job ran %v too early", -early)
		}
		b.table.quantiles("lateness of delayed jobs", c, late)
		return nil
	})
}

// stall watches until done for how long the machine, or the process, holds up a
// goroutine that sleeps for a millisecond again and again. What it returns
// waits for the end and tells the longest.
func stall(done <-chan struct{}) func() time.Duration {
	longest := make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		last := time.Now()
		for tick := time.Tick(time.Millisecond); ; {
			select {
			case <-done:
				longest <- most
				return
			case <-tick:
				most = max(most, time.Since(last)-time.Millisecond)
				last = time.Now()
			}
		}
	}()
	return func() time.Duration { return <-longest }
}

// idling counts the commands of a worker that has nothing to do.
func idling(ctx context.Context, b *bench, c contestant) error {
	if _, none := c.(*bareContestant); none {
		return errNone
	}
	watch := 10 * time.Second
	if b.tiny {
		watch = time.Second
	}
	return b.runs(ctx, c, 10, 1, func(int) {}, func(<-chan struct{}) error {
		time.Sleep(200 * time.Millisecond)
		before, err := b.info(ctx, "stats", "total_commands_processed")
		if err != nil {
			return err
		}
		time.Sleep(watch)
		after, err := b.info(ctx, "stats", "total_commands_processed")
		if err != nil {
			return err
		}
		b.table.add("commands per second when idle", "", lower, c, float64(after-before-1)/watch.Seconds())
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		b.table.add("goroutines of an idle worker, concurrency 10", "", lower, c, float64(runtime.NumGoroutine()))
		return c.push(ctx, 0) // runs waits for it
	})
}
