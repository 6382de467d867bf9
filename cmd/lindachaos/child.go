package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/goleak"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos"
)

// childEnv holds the order of a process that the harness starts.
const childEnv = "LINDA_CHAOS_CHILD"

// order is what a worker or a producer is to do.
type order struct {
	Role        chaos.Role
	Name        string // of its history
	Proc        uint32
	Broker      string // one of targets
	URL, Dir    string
	Seed        uint64
	Lease       time.Duration
	Concurrency int
	Rate        int // pushes in a second; 0: as many as are worked off
	Backlog     int64

	told func(acked int64) // where the producer tells of its progress
	log  io.Writer         // where linda logs
}

const queue = "chaos"

// child does what the environment orders and returns the status to exit with.
// It is not ok where nothing is ordered.
func child() (status int, ok bool) {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		return 0, false
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return exitFailed, true
	}
	go func() { // nobody outlives the harness: it holds the other end
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(exitFailed)
	}()
	o.log = os.Stderr
	o.told = func(acked int64) { fmt.Println(acked) }
	ours := goleak.IgnoreCurrent()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := o.run(ctx, func() { os.Exit(exitDeadly) })
	stop()
	if err == nil {
		err = goleak.Find(ours)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %d: %v\n", o.Name, o.Proc, err)
		return exitFailed, true
	}
	return 0, true
}

// How processes exit, beside 0 after a stop.
const (
	exitFailed = 3
	exitDeadly = 137
)

// run does the work of the role until ctx ends. die ends the process; nil: it
// must not.
func (o *order) run(ctx context.Context, die func()) error {
	h, err := chaos.OpenHistory(o.Dir, o.Name, o.Proc)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	h.Write(chaos.Event{Kind: chaos.Began, Code: o.Role})
	b, err := connect(ctx, o.URL)
	if b == nil || err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	settings := linda.Settings{
		Queue: queue, Broker: b, Timeout: int64(o.Lease / time.Second), Concurrency: o.Concurrency, Grace: 2 * o.Lease,
		Logger: slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: slog.LevelWarn})).With("proc", o.Proc),
	}
	if o.Role == chaos.Worker {
		settings.Broker = chaos.Record(b, h)
	}
	d, err := linda.New(settings)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if o.Role == chaos.Producer {
		return o.produce(ctx, d, h)
	}
	hs := &chaos.Handlers{Seed: o.Seed, History: h, Lease: o.Lease, Die: die}
	hs.Register(d)
	return d.Run(ctx)
}

// connect opens the broker, which may be down just now. It returns nil once ctx
// has ended.
func connect(ctx context.Context, url string) (linda.Broker, error) {
	for ctx.Err() == nil {
		b, err := linda.NewBroker(url)
		if err == nil {
			return b, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(30 * time.Millisecond):
		}
	}
	return nil, nil
}
