package main

import (
	"context"
	"time"
)

// queue is the one queue of every contestant.
const queue = "bench"

// contestant is a way to run background jobs on Redis. A job is known by its
// number, which is its second argument.
type contestant interface {
	name() string
	// push adds one job and returns once the server has it.
	push(ctx context.Context, n int) error
	// batch makes the jobs from number first on and returns what pushes them,
	// in one exchange with the server or in few. It is errNone where there is no
	// such call.
	batch(first, count int) (push func(ctx context.Context) error, err error)
	// later is push of a job that is due after delay.
	later(ctx context.Context, n int, delay time.Duration) error
	// run works until ctx ends and everything is settled. It calls handle for
	// each job, and settled for each that is surely gone from the server.
	run(ctx context.Context, concurrency int, handle, settled func(n int)) error
	close() error
}

// opener makes a contestant that uses the server at addr.
type opener func(addr string) (contestant, error)

// arguments are those of every job: 28 bytes of JSON and the number.
func arguments(n int) []any { return []any{"an argument of a small job", n} }

// number reads the number back out of decoded arguments.
func number(args []any) int {
	n, _ := args[1].(float64)
	return int(n)
}

// holders are the keys in which jobs of any contestant are, whatever their
// state.
var holders = []string{
	queue, queue + ":reserved", queue + ":delayed", queue + ":dead", // linda, and the bare loop
	"asynq:{default}:pending", "asynq:{default}:active", "asynq:{default}:lease", "asynq:{default}:scheduled",
	"asynq:{default}:retry", "asynq:{default}:archived",
}
