package linda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// What the nine methods of a broker share when it has the larger interfaces:
// each is one call of those, within callLimit.

// callLimit is how long a call without a context may take.
const callLimit = 5 * time.Second

// maxDelay is the longest delay that linda can express.
const maxDelay = time.Duration(math.MaxInt64)

var (
	errPurgeReserved  = errors.New("linda: reserved jobs cannot be purged: a worker holds them")
	errRemoveReserved = errors.New("linda: a reserved job cannot be removed: a worker holds it")
)

// fetchNower is a broker whose Fetch can be asked not to wait.
type fetchNower interface {
	Settler
	fetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error)
}

func popOne(b fetchNower, queue string, timeout int64) (*Job, error) {
	lease, err := seconds(timeout)
	if err != nil || timeout < 0 {
		return nil, fmt.Errorf("linda: pop: a reservation of %d seconds is out of range", timeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	for {
		jobs, err := b.fetchNow(ctx, queue, 1, lease)
		if err != nil || len(jobs) == 0 {
			return nil, err
		}
		job := jobs[0]
		if job.Err() == nil {
			job.fillArgs()
			return job, nil
		}
		bad := Settlement{Job: job, Op: OpBury, Reason: reasonOf(job.Err())}
		if err := b.Settle(ctx, queue, []Settlement{bad}); err != nil {
			return nil, err
		}
	}
}

func settleOne(b Settler, queue string, s Settlement) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return unbatch(b.Settle(ctx, queue, []Settlement{s}))
}

func releaseLater(b Settler, queue string, job *Job, delay int64) error {
	d, err := seconds(delay)
	if err != nil {
		return err
	}
	return settleOne(b, queue, Settlement{Job: job, Op: OpRelease, Delay: d})
}

func pushOne(b BatchPusher, queue string, job *Job) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return unbatch(b.PushBatch(ctx, queue, []*Job{job}))
}

func pushLater(b BatchPusher, queue string, job *Job, delay int64) error {
	d, err := seconds(delay)
	if err != nil {
		return err
	}
	later := *job
	later.Delay = d
	return pushOne(b, queue, &later)
}

// seconds converts the int64 of the nine methods; a negative one is none.
func seconds(n int64) (time.Duration, error) {
	if n > int64(maxDelay/time.Second) {
		return 0, fmt.Errorf("%w: %d seconds, at most %d", ErrDelayTooLong, n, int64(maxDelay/time.Second))
	}
	return time.Duration(max(n, 0)) * time.Second, nil
}

// encodeAll encodes the jobs of a batch; one that cannot be is a fault of the
// whole batch, before any I/O.
func encodeAll(ctx context.Context, queue string, jobs []*Job) ([][]byte, error) {
	if err := CheckName(queue); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(jobs))
	for i, job := range jobs {
		body, err := Encode(job, queue)
		if err != nil {
			return nil, err
		}
		bodies[i] = body
	}
	return bodies, nil
}

// unbatch is the error of a batch of one.
func unbatch(err error) error {
	var batch *BatchError
	if errors.As(err, &batch) && len(batch.Errs) == 1 {
		return batch.Errs[0]
	}
	return err
}

// bodyID returns the id in a body, or nothing where it has no header.
func bodyID(body []byte) string {
	var h header
	_, _ = h.read(string(body))
	return h.ID
}

// kicked is the body of a dead job that becomes ready.
func kicked(queue, body string) string {
	job, _ := Decode(queue, body)
	if job.err != nil && job.head.Raw == 1 {
		return string(job.Body())
	}
	return job.renewed(job.head.fresh())
}

// bounded is how many jobs one call of an Inspector handles where n are asked for.
func bounded(n int) int { return min(max(n, 0), 1000) }
