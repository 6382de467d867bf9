// Package linda is a background manager: it polls jobs from a broker and
// dispatches them to many workers. Brokers let an application defer the
// processing of a time-consuming task. One API serves several of them.
//
// A job names a class and carries arguments. A program registers a function per
// class and runs:
//
//	linda.Register("resize", func(job *linda.Job) error { ... })
//	linda.SetSettings(linda.Settings{Queue: "images", Connection: "redis://localhost:6379/"})
//	err := linda.Run()
//
// Any other pushes:
//
//	broker, err := linda.NewBroker("redis://localhost:6379/")
//	err = broker.Push(&linda.Job{Payload: linda.Payload{
//		Class: "resize", Args: []interface{}{"cat.png", 640}}}, "images")
//
// These package-level functions work on one default [Dispatcher], as those of
// net/http work on its DefaultServeMux. A program that wants several, a
// context, or typed jobs makes its own with [New] and [Define].
//
// # Delivery
//
// A job runs at least once. While it runs it is RESERVED in the broker; it is
// deleted when its handler returns nil, runs again after a backoff when the
// handler fails, is DEAD when its attempts are used up, and is READY again a
// lease after the crash of its process. A reservation is prolonged for as long
// as the handler runs, and if it is lost all the same the handler's context
// ends. Whoever has lost a reservation can no longer touch the job: its
// settlements return [ErrNotReserved].
//
// # Schedules
//
// [Dispatcher.Schedule] has a job pushed by a cron spec or a period: each tick
// once, whatever the number of processes that have registered it.
//
// # Brokers
//
// The memory broker, memory://, lives in the process and needs no server. Redis
// is redis://. [Broker] tells how to write another one.
package linda

import (
	"context"
	"errors"
	"os/signal"
	"sync"
	"syscall"
)

var std = struct {
	*Dispatcher
	mu       sync.Mutex
	settings Settings // for the next Init; guarded by mu
}{Dispatcher: &Dispatcher{handlers: make(map[string]Handler)}}

// Default returns the Dispatcher that the package-level functions work on. It
// can push and run once Init has opened it.
func Default() *Dispatcher { return std.Dispatcher }

// Register registers the function that runs the jobs of a class; the last one
// registered counts. The context of the job is [Job.Context]. It panics if the
// class is empty or run is nil.
func Register(class string, run func(job *Job) error) {
	if run == nil {
		panic("linda: Register needs a function")
	}
	std.Handle(class, HandlerFunc(func(_ context.Context, job *Job) error { return run(job) }))
}

// RegisterWorkers is Register.
func RegisterWorkers(class string, worker func(job *Job) error) { Register(class, worker) }

// Schedule has a job pushed again and again while Run works, at the times that
// spec tells: see [Dispatcher.Schedule].
func Schedule(name, spec string, job *Job, options ...ScheduleOption) error {
	return std.Schedule(name, spec, job, options...)
}

// SetLimit bounds how many jobs of a class or queue run, or start in a period,
// over all processes: see [Dispatcher.Limit].
func SetLimit(l Limit) error { return std.Limit(l) }

// SetSettings sets the settings that the next Init, or Run, goes by.
func SetSettings(s Settings) {
	std.mu.Lock()
	defer std.mu.Unlock()
	std.settings = s
}

// Init checks the settings and opens the broker, unless it is open.
func Init() error {
	std.mu.Lock()
	s := std.settings
	std.mu.Unlock()
	return std.open(s)
}

// Run opens the broker and works until the process is told to stop by SIGINT,
// SIGTERM or SIGQUIT, or until Close; see [Dispatcher.Run] for how it stops. A
// second signal ends the process at once. The broker is closed when Run
// returns.
func Run() error {
	if err := Init(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := std.Run(ctx)
	if !errors.Is(err, errRunning) { // else the broker is that of another Run
		Close()
	}
	return err
}

// Close stops Run, if it is under way, and closes the broker.
func Close() { _ = std.Dispatcher.Close() }

// GetBroker returns the broker that Init opened, nil if it is not open. Within
// a handler it is the broker that the job came from.
func GetBroker() Broker { return std.Broker() }
