package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// bench runs every measurement on every contestant.
type bench struct {
	tiny        bool   // a few jobs of each kind
	rounds      int    // to take the medians of
	only        string // part of the name of what to measure; empty: everything
	profile     string // file to write a CPU profile of linda to
	admin       *redis.Client
	contestants []contestant
	table       *table
}

// measurement is one thing to measure: it adds to the table what it found.
type measurement struct {
	name string
	once bool // not in every round, since it takes long
	slow bool // left out of a tiny run
	run  func(ctx context.Context, b *bench, c contestant) error
}

var measurements = []measurement{
	{name: "push by 1", run: pushing(1, 10_000)},
	{name: "push by 16", run: pushing(16, 20_000)},
	{name: "push in batches", run: batches("push in batches of 1,000", 50_000, contestant.batch)},
	{name: "push in batches, all encode", run: batches("push in batches of 1,000, bare encodes meanwhile", 50_000, encodingBatch)},
	{name: "drain by 10", run: draining(10, 0, 50_000)},
	{name: "drain by 50", slow: true, run: draining(50, 0, 50_000)},
	{name: "drain by 200", slow: true, run: draining(200, 0, 50_000)},
	{name: "drain of 1 ms by 50", slow: true, run: draining(50, time.Millisecond, 30_000)},
	{name: "pick-up", run: picking},
	{name: "lateness", once: true, slow: true, run: lateness},
	{name: "idle", once: true, slow: true, run: idling},
	{name: "memory", once: true, run: storing},
}

// measure runs the measurements, the contestants in turn, in rounds: whatever
// else the machine does meanwhile then meets all of them.
func (b *bench) measure(ctx context.Context) error {
	for round := range b.rounds {
		for _, m := range measurements {
			if m.once && round > 0 || b.tiny && m.slow || !strings.Contains(m.name, b.only) {
				continue
			}
			for i := range b.contestants {
				c := b.contestants[(i+round)%len(b.contestants)]
				if err := b.one(ctx, m, c); err != nil {
					return fmt.Errorf("%s, %s: %w", c.name(), m.name, err)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, b.rounds)
	}
	return nil
}

func (b *bench) one(ctx context.Context, m measurement, c contestant) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	// The scripts of one contestant, and what asynq knows of queues, are not
	// jobs; they may stay.
	if err := b.admin.Del(ctx, holders...).Err(); err != nil {
		return err
	}
	if c, ok := c.(*bareContestant); ok {
		if err := c.prepare(50_000); err != nil {
			return err
		}
	}
	runtime.GC()
	if err := m.run(ctx, b, c); err != nil && !errors.Is(err, errNone) {
		return err
	}
	return nil
}

// count scales a number of jobs to what a contestant does in about a second.
func (b *bench) count(c contestant, n int) int {
	if c.name() == "asynq" {
		n /= 10
	}
	if b.tiny {
		n = min(n, 1000)
	}
	return n
}

// spread calls push for count numbers, from so many goroutines.
func spread(goroutines, count int, push func(n int) error) error {
	var all sync.WaitGroup
	var faults faults
	var next atomic.Int64
	for range goroutines {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < count; n = int(next.Add(1)) - 1 {
				if err := push(n); err != nil {
					faults.add(err)
					return
				}
			}
		})
	}
	all.Wait()
	return faults.err()
}

func pushing(goroutines, most int) func(context.Context, *bench, contestant) error {
	return func(ctx context.Context, b *bench, c contestant) error {
		count := most
		if b.tiny {
			count = 1000
		}
		if err := c.push(ctx, 0); err != nil { // connects
			return err
		}
		if err := b.admin.Del(ctx, holders...).Err(); err != nil {
			return err
		}
		allocs, began := mallocs(), time.Now()
		if err := spread(goroutines, count, func(n int) error { return c.push(ctx, n) }); err != nil {
			return err
		}
		took := time.Since(began)
		b.table.rate(fmt.Sprintf("push, %d goroutines", goroutines), c, count, took)
		if goroutines == 1 {
			b.table.add("allocations per push", "", lower, c, float64(mallocs()-allocs)/float64(count))
		}
		return b.holds(ctx, count)
	}
}

// encodingBatch is batch of contestants that all encode when they push.
func encodingBatch(c contestant, first, count int) (func(context.Context) error, error) {
	if bare, ok := c.(*bareContestant); ok {
		return bare.encodingBatch(first, count)
	}
	return c.batch(first, count)
}

func batches(row string, count int, batch func(c contestant, first, count int) (func(context.Context) error, error)) func(context.Context, *bench, contestant) error {
	return func(ctx context.Context, b *bench, c contestant) error {
		var pushes []func(context.Context) error
		for first := 0; first < count; first += 1000 {
			push, err := batch(c, first, 1000)
			if err != nil {
				return err
			}
			pushes = append(pushes, push)
		}
		began := time.Now()
		for _, push := range pushes {
			if err := push(ctx); err != nil {
				return err
			}
		}
		b.table.rate(row, c, count, time.Since(began))
		return b.holds(ctx, count)
	}
}

// holds checks that so many jobs are ready.
func (b *bench) holds(ctx context.Context, count int) error {
	var ready int64
	for _, list := range []string{queue, "asynq:{default}:pending"} {
		n, err := b.admin.LLen(ctx, list).Result()
		if err != nil {
			return err
		}
		ready += n
	}
	if ready != int64(count) {
		return fmt.Errorf("%d jobs in the queue, not %d", ready, count)
	}
	return nil
}

// fill pushes jobs as fast as the contestant can.
func fill(ctx context.Context, c contestant, count int) error {
	for first := 0; first < count; first += 1000 {
		size := min(1000, count-first)
		push, err := c.batch(first, size)
		switch {
		case err == nil:
			err = push(ctx)
		case errors.Is(err, errNone):
			err = spread(16, size, func(n int) error { return c.push(ctx, first+n) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runs has the contestant work while during goes on, and checks that every job
// ran exactly once and that nothing is left.
func (b *bench) runs(ctx context.Context, c contestant, concurrency, count int, handle func(n int), during func(done <-chan struct{}) error) error {
	ran := make([]atomic.Int32, count)
	var settled atomic.Int64
	done := make(chan struct{})
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- c.run(stop, concurrency, func(n int) {
			handle(n)
			ran[n].Add(1)
		}, func(n int) {
			if settled.Add(int64(n)) == int64(count) {
				close(done)
			}
		})
	}()
	err := during(done)
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	cancel()
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	for n := range ran {
		if times := ran[n].Load(); times != 1 {
			return fmt.Errorf("job %d of %d ran %d times", n, count, times)
		}
	}
	if left, err := b.admin.Exists(ctx, holders...).Result(); err != nil || left > 0 {
		return fmt.Errorf("%d keys left: %w", left, errors.Join(errors.New("jobs are left"), err))
	}
	return nil
}

func draining(concurrency int, work time.Duration, most int) func(context.Context, *bench, contestant) error {
	return func(ctx context.Context, b *bench, c contestant) error {
		count := b.count(c, most)
		if err := fill(ctx, c, count); err != nil {
			return err
		}
		runtime.GC()
		handle := func(int) {
			if work > 0 {
				time.Sleep(work)
			}
		}
		before, err := b.spent(ctx)
		if err != nil {
			return err
		}
		allocs, began := mallocs(), time.Now()
		return b.runs(ctx, c, concurrency, count, handle, func(done <-chan struct{}) error {
			<-done
			took := time.Since(began)
			name := fmt.Sprintf("drain, no-op jobs, concurrency %d", concurrency)
			if work > 0 {
				name = fmt.Sprintf("drain, jobs of %v, concurrency %d", work, concurrency)
			}
			b.table.rate(name, c, count, took)
			if concurrency == 10 {
				b.table.add("allocations per job run", "", lower, c, float64(mallocs()-allocs)/float64(count))
			}
			if concurrency != 50 || work > 0 {
				return nil
			}
			after, err := b.spent(ctx)
			b.table.add("CPU time of the client per job run", "µs", lower, c, (after.client-before.client).Seconds()*1e6/float64(count))
			b.table.add("CPU time of Redis per job run", "µs", lower, c, (after.server-before.server).Seconds()*1e6/float64(count))
			return err
		})
	}
}

// cpu is the CPU time that the two ends have spent so far.
type cpu struct{ client, server time.Duration }

func (b *bench) spent(ctx context.Context) (cpu, error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return cpu{}, err
	}
	text, err := b.admin.Info(ctx, "cpu").Result()
	if err != nil {
		return cpu{}, err
	}
	var server float64
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(field(text, name), 64)
		if err != nil {
			return cpu{}, err
		}
		server += seconds
	}
	return cpu{
		client: time.Duration(own.Utime.Nano() + own.Stime.Nano()),
		server: time.Duration(server * float64(time.Second)),
	}, nil
}

// storing measures the memory of jobs that wait, in the server, and of the
// process while it runs them.
func storing(ctx context.Context, b *bench, c contestant) error {
	count := 20_000
	if b.tiny {
		count = 1000
	}
	before, err := b.info(ctx, "memory", "used_memory")
	if err != nil {
		return err
	}
	if err := fill(ctx, c, count); err != nil {
		return err
	}
	after, err := b.info(ctx, "memory", "used_memory")
	if err != nil {
		return err
	}
	b.table.add("memory of a ready job in Redis", "bytes", lower, c, float64(after-before)/float64(count))

	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	base, peak := mem.HeapAlloc, mem.HeapAlloc
	return b.runs(ctx, c, 50, count, func(int) {}, func(done <-chan struct{}) error {
		for tick := time.Tick(5 * time.Millisecond); ; {
			select {
			case <-done:
				b.table.add(fmt.Sprintf("peak heap while running %d jobs", count), "MB", lower, c, float64(peak-base)/1e6)
				return nil
			case <-tick:
				runtime.ReadMemStats(&mem)
				peak = max(peak, mem.HeapAlloc)
			}
		}
	})
}

func mallocs() uint64 {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return mem.Mallocs
}

// info reads a number from INFO.
func (b *bench) info(ctx context.Context, section, name string) (int64, error) {
	text, err := b.admin.Info(ctx, section).Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(field(text, name), 10, 64)
}

func (b *bench) redisVersion(ctx context.Context) string {
	return field(b.admin.Info(ctx, "server").Val(), "redis_version")
}

func field(info, name string) string {
	_, rest, _ := strings.Cut(info, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}
