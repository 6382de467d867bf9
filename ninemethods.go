package linda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// callLimit is how long a call without a context may take.
const callLimit = 5 * time.Second

// maxDelay is the longest delay that linda can express.
const maxDelay = time.Duration(math.MaxInt64)

// NineMethods is six of the nine methods of a [Broker], each one call of the
// larger interfaces that the broker has, within five seconds. Authors of
// brokers embed it and set Of to the broker; Connect, Close and
// MigrateExpiredJobs are left to them.
type NineMethods struct {
	Of interface {
		BatchPusher
		Settler
		// FetchNow is Fetch of a [Fetcher], but does not wait for jobs.
		FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error)
	}
}

// Pop is that of a [Broker]. A body that is not a job it buries, and goes on.
func (n NineMethods) Pop(queue string, timeout int64) (*Job, error) {
	lease, err := seconds(timeout)
	if err != nil || timeout < 0 {
		return nil, fmt.Errorf("linda: pop: a reservation of %d seconds is out of range", timeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	for {
		jobs, err := n.Of.FetchNow(ctx, queue, 1, lease)
		if err != nil || len(jobs) == 0 {
			return nil, err
		}
		job := jobs[0]
		if job.Err() == nil {
			job.fillArgs()
			return job, nil
		}
		bad := Settlement{Job: job, Op: OpBury, Reason: reasonOf(job.Err())}
		if err := n.Of.Settle(ctx, queue, []Settlement{bad}); err != nil {
			return nil, err
		}
	}
}

// Delete is that of a [Broker].
func (n NineMethods) Delete(queue string, job *Job) error {
	return n.settle(queue, Settlement{Job: job, Op: OpDelete})
}

// Release is that of a [Broker].
func (n NineMethods) Release(queue string, job *Job) error {
	return n.settle(queue, Settlement{Job: job, Op: OpRelease})
}

// ReleaseWithDelay is that of a [Broker].
func (n NineMethods) ReleaseWithDelay(queue string, job *Job, delay int64) error {
	d, err := seconds(delay)
	if err != nil {
		return err
	}
	return n.settle(queue, Settlement{Job: job, Op: OpRelease, Delay: d})
}

func (n NineMethods) settle(queue string, s Settlement) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return unbatch(n.Of.Settle(ctx, queue, []Settlement{s}))
}

// Push is that of a [Broker].
func (n NineMethods) Push(job *Job, queue string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return unbatch(n.Of.PushBatch(ctx, queue, []*Job{job}))
}

// Later is that of a [Broker].
func (n NineMethods) Later(delay int64, job *Job, queue string) error {
	d, err := seconds(delay)
	if err != nil {
		return err
	}
	later := *job
	later.Delay = d
	return n.Push(&later, queue)
}

// seconds converts the int64 of the nine methods; a negative one is none.
func seconds(n int64) (time.Duration, error) {
	if n > int64(maxDelay/time.Second) {
		return 0, fmt.Errorf("%w: %d seconds, at most %d", ErrDelayTooLong, n, int64(maxDelay/time.Second))
	}
	return time.Duration(max(n, 0)) * time.Second, nil
}

// unbatch is the error of a batch of one.
func unbatch(err error) error {
	var batch *BatchError
	if errors.As(err, &batch) && len(batch.Errs) == 1 {
		return batch.Errs[0]
	}
	return err
}
