package linda

import (
	"context"
	"errors"
	"sync"
	"time"
)

// queueWatcher is a MultiFetcher over a broker that has none.
type queueWatcher struct {
	backend *backend
	// look reserves what is ready and does not wait.
	look func(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error)
}

func newQueueWatcher(b *backend) *queueWatcher {
	type nower interface {
		FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error)
	}
	w := &queueWatcher{backend: b}
	if n, ok := As[nower](b.Broker); ok {
		w.look = n.FetchNow
	} else {
		poller := &ninePoller{Broker: b.Broker}
		w.look = func(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
			b.MigrateExpiredJobs(queue)
			return poller.popSome(ctx, queue, max, lease)
		}
	}
	return w
}

// FetchAny looks at the queues in turn, and waits where there is nothing.
func (w *queueWatcher) FetchAny(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error) {
	for ctx.Err() == nil {
		jobs, err := w.lookAll(ctx, queues, max, lease)
		if err != nil || len(jobs) > 0 {
			return jobs, err
		}
		if nine, ok := w.backend.fetcher.(*ninePoller); ok { // which cannot wait
			if err := sleep(ctx, nine.interval); err != nil {
				return nil, err
			}
			continue
		}
		return w.watch(ctx, queues, max, lease)
	}
	return nil, ctx.Err()
}

// lookAll takes what is ready, queue by queue.
func (w *queueWatcher) lookAll(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error) {
	var jobs []*Job
	errs := make([]error, len(queues))
	for i, queue := range queues {
		if len(jobs) == max {
			break
		}
		sent := time.Now()
		more, err := w.look(ctx, queue, max-len(jobs), lease)
		jobs, errs[i] = append(jobs, w.name(more, queue, sent, lease)...), err
	}
	return jobs, Batch(errs)
}

// watch waits for a job of each queue, and stops waiting for the others once
// there is one. Some may have brought theirs by then; what is too many goes
// back, those of the last queues.
func (w *queueWatcher) watch(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error) {
	first, cancel := context.WithCancel(ctx) // ends once one queue has answered
	defer cancel()
	got, errs := make([][]*Job, len(queues)), make([]error, len(queues))
	var waits sync.WaitGroup
	for i, queue := range queues {
		waits.Go(func() {
			defer cancel()
			sent := time.Now()
			more, err := w.backend.fetcher.Fetch(first, queue, 1, lease)
			got[i], errs[i] = w.name(more, queue, sent, lease), err
		})
	}
	waits.Wait()
	var jobs []*Job
	for i, more := range got {
		if len(jobs)+len(more) > max {
			w.giveBack(queues[i], more)
			more = nil
		}
		jobs = append(jobs, more...)
	}
	for i, err := range errs {
		if errors.Is(err, first.Err()) && !errors.Is(err, ErrUnknown) {
			errs[i] = nil // another queue was first, or ctx has ended
		}
	}
	if err := Batch(errs); err != nil || len(jobs) > 0 {
		return jobs, err
	}
	return nil, ctx.Err()
}

// name gives jobs receipts, which tell their queue, unless the broker has done so.
func (w *queueWatcher) name(jobs []*Job, queue string, sent time.Time, lease time.Duration) []*Job {
	for _, job := range jobs {
		if job.receipt == nil {
			giveReceipt(job, w.backend.Broker, queue, sent, lease)
		}
	}
	return jobs
}

// giveBack releases jobs unstarted. If the broker fails they come back with the
// end of their reservations.
func (w *queueWatcher) giveBack(queue string, jobs []*Job) {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	batch := make([]Settlement, len(jobs))
	for i, job := range jobs {
		batch[i] = Settlement{Job: job, Op: OpRelease, Unstarted: true}
	}
	_ = w.backend.settler.Settle(ctx, queue, batch)
}
