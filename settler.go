package linda

import (
	"context"
	"errors"
	"time"
)

const (
	// settleMost bounds one exchange with the broker.
	settleMost = 500
	// settleLimit is how long one try may take.
	settleLimit = 2 * time.Second
)

// settle is the only place that ends a delivery. It takes whatever results have
// come while the last exchange with the broker was under way, and settles them
// in the next one. It returns once flush is closed and nothing is left to do,
// or when gone is closed.
func (r *run) settle(flush <-chan struct{}) {
	batch := make([]result, 0, settleMost)
	for {
		batch = batch[:0]
		select {
		case res := <-r.results:
			batch = append(batch, res)
		case <-flush:
			select { // results that came before flush was closed
			case res := <-r.results:
				batch = append(batch, res)
			default:
				return
			}
		case <-r.gone:
			return
		}
		for len(batch) < settleMost && len(r.results) > 0 {
			batch = append(batch, <-r.results) // nobody else receives
		}
		if !r.settleBatch(batch) {
			return
		}
		clear(batch)
	}
}

// settleBatch settles the results, and tries again until each is settled or
// its reservation has ended. It returns false if Run ended before.
func (r *run) settleBatch(batch []result) bool {
	open := make([]int, 0, len(batch)) // indexes of what is to be settled
	for i := range batch {
		if batch[i].skip {
			r.close(&batch[i], nil)
		} else {
			open = append(open, i)
		}
	}
	pause := retryPause
	for size := settleMost; len(open) > 0; size = max(1, size/2) {
		open = r.settleChunks(batch, open, size)
		if len(open) == 0 {
			return true
		}
		select {
		case <-r.gone:
			return false
		case <-time.After(pause.next()):
		}
	}
	return true
}

// settleChunks settles some results of a batch, so many at a time, and returns
// those that are still open. One settlement that the broker cannot bear holds
// up only its chunk, and these shrink with every try; two that fail in a row
// mean that the broker is down.
func (r *run) settleChunks(batch []result, open []int, size int) []int {
	var rest []int
	failures := 0
	for len(open) > 0 && failures < 2 {
		n := min(size, len(open))
		failed := r.settleOnce(batch, open[:n])
		rest = append(rest, failed...)
		open = open[n:]
		failures++
		if len(failed) == 0 {
			failures = 0
		}
	}
	return append(rest, open...)
}

// settleOnce settles some results of a batch in one exchange and returns those
// that are still open.
func (r *run) settleOnce(batch []result, open []int) []int {
	settlements := make([]Settlement, len(open))
	for i, at := range open {
		settlements[i] = batch[at].settle
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	err := r.backend.settler.Settle(ctx, r.settings.Queue, settlements)
	errs := EachError(err, len(open))
	var rest []int
	for i, at := range open {
		if final(errs[i], batch[at].dl) {
			r.close(&batch[at], errs[i])
		} else {
			rest = append(rest, at)
		}
	}
	if len(rest) > 0 {
		r.outage.begins(err)
	} else {
		r.outage.ends()
	}
	return rest
}

// final reports whether a settlement is over, for good or ill.
func final(err error, dl *delivery) bool {
	until := dl.job.receipt.Until()
	if until.IsZero() { // nothing is reserved; the dead or released copy is worth a minute
		until = dl.handed.Add(time.Minute)
	}
	return err == nil || errors.Is(err, ErrNotReserved) || errors.Is(err, ErrClosed) || time.Now().After(until)
}

// close ends a delivery and tells about it.
func (r *run) close(res *result, err error) {
	res.dl.done.Store(true)
	res.dl.kept.release()
	if err != nil {
		res.event.Kind = EventLost
		res.event.Err = errors.Join(res.event.Err, err)
	}
	r.pending.Add(-1)
	res.event.log(r.settings.Logger)
	if r.settings.OnEvent != nil {
		r.settings.OnEvent(res.event)
	}
}
