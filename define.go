package linda

import (
	"context"
	"time"
)

// Class is a class of jobs whose only argument is a T. It is made by [Define]
// and safe for concurrent use.
type Class[T any] struct {
	name    string
	options []Option
}

// Define names a class of jobs with one argument of type T, encoded as JSON, so
// that programs in other languages can push it too: its args are [T]. The
// options hold for each job of the class.
func Define[T any](name string, options ...Option) Class[T] {
	return Class[T]{name: name, options: options}
}

// Name returns the class name.
func (c Class[T]) Name() string { return c.name }

// Handle registers the function that runs the jobs of this class.
func (c Class[T]) Handle(d *Dispatcher, run func(ctx context.Context, arg T) error) {
	d.Handle(c.name, HandlerFunc(func(ctx context.Context, job *Job) error {
		var arg T
		if err := job.Payload.Decode(&arg); err != nil {
			return err
		}
		return run(ctx, arg)
	}))
}

// Push adds a job with this argument and returns its id. Options given here
// win over those of the class. The error is that of [Dispatcher.Push].
func (c Class[T]) Push(ctx context.Context, d *Dispatcher, arg T, options ...Option) (id string, err error) {
	job := c.Job(arg, options...)
	return job.ID, d.Push(ctx, job)
}

// Job returns a job to be pushed with others in a batch.
func (c Class[T]) Job(arg T, options ...Option) *Job {
	job := &Job{ID: NewID(), Payload: Payload{Class: c.name, Args: []any{arg}}}
	for _, set := range c.options {
		set(job)
	}
	for _, set := range options {
		set(job)
	}
	return job
}

// Option sets a field of a job that is pushed.
type Option func(*Job)

// OnQueue sets Job.Queue.
func OnQueue(queue string) Option { return func(j *Job) { j.Queue = queue } }

// In sets Job.Delay.
func In(delay time.Duration) Option { return func(j *Job) { j.Delay = delay } }

// At sets Job.Delay so that the job is ready at t, by the clock of this
// process.
func At(t time.Time) Option { return func(j *Job) { j.Delay = time.Until(t) } }

// MaxAttempts sets Job.MaxAttempts.
func MaxAttempts(n int) Option { return func(j *Job) { j.MaxAttempts = n } }

// TimeLimit sets Job.TimeLimit.
func TimeLimit(d time.Duration) Option { return func(j *Job) { j.TimeLimit = d } }

// Unique sets Job.UniqueKey and Job.UniqueTTL: no other job of the queue can
// be pushed with this key until this one is done or dead, or ttl has passed; a
// ttl of 0 sets no limit.
func Unique(key string, ttl time.Duration) Option {
	return func(j *Job) { j.UniqueKey, j.UniqueTTL = key, ttl }
}

// WithID sets Job.ID.
func WithID(id string) Option { return func(j *Job) { j.ID = id } }

// WithHeader adds to Job.Headers.
func WithHeader(key, value string) Option {
	return func(j *Job) {
		if j.Headers == nil {
			j.Headers = make(map[string]string, 1)
		}
		j.Headers[key] = value
	}
}
