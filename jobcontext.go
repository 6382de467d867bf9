package linda

import (
	"context"
	"sync"
	"time"
)

// jobContext is the context of a handler. Handlers of small jobs never ask
// whether theirs has ended, and what tells them would cost more than all else
// that a worker does for a job, with a lock that all workers share. So it is
// made when one asks.
type jobContext struct {
	job    *Job
	parent context.Context // of all handlers of the Run
	limit  time.Duration   // of the run; 0: it has none

	mu     sync.Mutex
	asked  context.Context         // guarded by mu, as all below; nil: nobody did
	cancel context.CancelCauseFunc // of asked
	ended  bool                    // end was called
	cause  error                   // with this
}

// begin sets what is known when the handler starts. The context may have ended
// by then.
func (c *jobContext) begin(parent context.Context, job *Job, limit time.Duration) {
	c.job, c.parent, c.limit = job, parent, limit
	if limit > 0 {
		c.context() // since the time begins
	}
}

// end ends the context, unless it has ended.
func (c *jobContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.cancel != nil {
		c.cancel(cause)
	}
}

// context returns the context of package context that tells who asks. Its
// values are those of the parent, and what package context itself looks for.
func (c *jobContext) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked != nil {
		return c.asked
	}
	c.asked, c.cancel = context.WithCancelCause(c.parent)
	if c.limit > 0 {
		var end context.CancelFunc
		c.asked, end = context.WithTimeoutCause(c.asked, c.limit, ErrTimeLimit)
		_ = end // cancel ends it too
	}
	if c.ended {
		c.cancel(c.cause)
	}
	return c.asked
}

// why returns what has ended the context, nil while nothing has. Unlike
// context.Cause it does not ask.
func (c *jobContext) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.asked != nil:
		return context.Cause(c.asked)
	case c.ended:
		return c.cause
	default:
		return context.Cause(c.parent)
	}
}

func (c *jobContext) Deadline() (time.Time, bool) { return c.context().Deadline() }
func (c *jobContext) Done() <-chan struct{}       { return c.context().Done() }
func (c *jobContext) Err() error                  { return c.context().Err() }

func (c *jobContext) Value(key any) any {
	if key == (jobKey{}) {
		return c.job
	}
	return c.context().Value(key)
}
