package linda

import (
	"context"
	"errors"
	"time"

	"github.com/amlun/linda/internal/chance"
)

const (
	// settleMost bounds one exchange with the broker.
	settleMost = 500
	// settleLimit is how long one try may take.
	settleLimit = 2 * time.Second
	// settleOpen bounds the results that the broker has not taken and the
	// settler keeps. Beyond it workers wait, and so nothing is popped either.
	settleOpen = 2 * settleMost
	// settleTries bounds the exchanges of one look at what is open.
	settleTries = 50
	// goneFor is how long a job that has no reservation, and so is nowhere but
	// here, is worth a try.
	goneFor = time.Minute
)

// settler is the only one who ends deliveries of a queue. It takes whatever results have
// come while the last exchange with the broker was under way, and settles them
// in the next one.
type settler struct {
	*run
	*lane
	batch []result
	open  []result // what the broker has not taken yet
	down  bool     // it did not take the last batch: new results wait with the open ones
	pause pause
	tries int // exchanges left in this look at what is open
}

func newSettler(r *run, l *lane) *settler { return &settler{run: r, lane: l, pause: retryPause} }

// loop settles until flush is closed and nothing is left to do, or until gone
// is closed.
func (s *settler) loop(ctx context.Context, flush <-chan struct{}) {
	again := time.NewTimer(0)
	defer again.Stop()
	<-again.C
	waits := false // again is set
	for {
		results := s.results
		if len(s.open) >= settleOpen {
			results = nil
		}
		select {
		case res := <-results:
			s.take(ctx, res)
		case <-again.C:
			waits = false
			s.retry(ctx)
		case <-flush:
			flush = nil
		case <-s.gone:
			return
		}
		switch {
		case len(s.open) > 0 && !waits:
			waits = true
			again.Reset(s.pause.next())
		case len(s.open) == 0:
			s.open, s.down, s.pause = nil, false, retryPause
			s.outage.ends(settlingJobs)
			if flush == nil && len(s.results) == 0 {
				return
			}
		}
	}
}

// take settles new results, up to a batch of them.
func (s *settler) take(ctx context.Context, res result) {
	s.batch = s.batch[:0]
	chance.Last(3)
	for now := time.Now(); ; res = <-s.results {
		res.made = now
		if res.skip {
			s.close(&res, nil)
		} else {
			s.batch = append(s.batch, res)
		}
		if len(s.batch) == settleMost || len(s.results) == 0 { // nobody else receives
			break
		}
	}
	switch {
	case len(s.batch) == 0:
	case s.down:
		s.open = append(s.open, s.batch...)
	default:
		rest, answered := s.exchange(ctx, s.batch)
		s.down = !answered
		s.open = append(s.open, rest...)
	}
	clear(s.batch) // it must not keep jobs alive
}

// retry settles what is open. The first two results test, one by one, whether
// the broker answers: two, since one may be a settlement that it cannot bear.
// If so it gets the others.
func (s *settler) retry(ctx context.Context) {
	s.tries = settleTries
	open := s.open
	s.open = nil
	var failed []result
	for range min(2, len(open)) {
		rest, answered := s.exchange(ctx, open[:1])
		failed, open = append(failed, rest...), open[1:]
		if answered {
			s.down = false
			open = s.search(ctx, open)
			break
		}
	}
	s.open = append(open, failed...) // in turn, so that none is tried before the others for ever
}

// search settles results in as few exchanges as it can. A batch that fails is
// halved, until those which the broker cannot bear are alone. It returns what
// is still open.
func (s *settler) search(ctx context.Context, batch []result) (open []result) {
	if len(batch) == 0 || s.tries == 0 || ctx.Err() != nil {
		return batch
	}
	if len(batch) > settleMost {
		open = s.search(ctx, batch[:settleMost])
		return append(s.search(ctx, batch[settleMost:]), open...)
	}
	s.tries--
	rest, answered := s.exchange(ctx, batch)
	if answered || len(batch) == 1 {
		return rest
	}
	half := len(rest) / 2
	open = s.search(ctx, rest[:half])
	return append(s.search(ctx, rest[half:]), open...)
}

// exchange settles up to settleMost results at once. It returns those that are
// still open, and whether the broker answered: had its say about any of them.
func (s *settler) exchange(ctx context.Context, batch []result) (open []result, answered bool) {
	tried := make([]*result, 0, len(batch))
	for i := range batch {
		if res := &batch[i]; res.underWay() {
			open = append(open, *res)
		} else {
			tried = append(tried, res)
		}
	}
	if len(tried) == 0 {
		return open, true
	}
	sent := time.Now()
	err := s.call(ctx, tried)
	if err == nil {
		for _, res := range tried {
			s.close(res, nil)
		}
		return open, true
	}
	for i, err := range EachError(err, len(tried)) {
		if res := tried[len(tried)-1-i]; s.final(res, err) {
			answered = true
		} else {
			open = append(open, *res)
		}
	}
	if !answered || len(open) > 0 {
		s.outage.begins(settlingJobs, sent, err)
	}
	return open, answered
}

// call settles results in the reverse of their order: see handBack.
func (s *settler) call(ctx context.Context, tried []*result) error {
	last := len(tried) - 1
	settlements := make([]Settlement, len(tried))
	for i, res := range tried {
		settlements[last-i] = res.settle
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	return s.backend.settler.Settle(ctx, s.queue, settlements)
}

// final closes a result whose settlement is over, for good or ill.
func (s *settler) final(res *result, err error) bool {
	receipt := res.dl.job.receipt
	until := receipt.Until()
	if receipt.Gone() {
		until = res.made.Add(goneFor)
	}
	switch {
	case err == nil:
		s.close(res, nil)
	case errors.Is(err, ErrNotReserved) && !errors.Is(err, ErrLeaseLost) && res.unsure:
		s.close(res, nil) // an earlier try did it
	case errors.Is(err, ErrNotReserved), errors.Is(err, ErrClosed), time.Now().After(until):
		s.close(res, err)
	default:
		res.unsure = res.unsure || errors.Is(err, ErrUnknown) || errors.Is(err, context.DeadlineExceeded)
		return false
	}
	return true
}

// underWay reports whether somebody else settles the job just now: a goroutine
// that its handler left behind.
func (res *result) underWay() bool {
	if !res.asked {
		return false
	}
	receipt := res.dl.job.receipt
	_, state := receipt.request()
	return state == settling && time.Now().Before(receipt.Until())
}

// close ends a delivery and tells about it.
func (s *settler) close(res *result, err error) {
	res.dl.done.Store(true)
	s.lobby.done(res)
	if s.pending.Add(-1) == 0 && s.calming.Load() {
		s.load.wake()
	}
	if err != nil {
		res.event = lostEvent(res.event, err)
	}
	res.event.log(s.settings.Logger)
	if s.settings.OnEvent != nil {
		s.telling.Lock()
		defer s.telling.Unlock()
		s.settings.OnEvent(res.event)
	}
}

func lostEvent(e Event, err error) Event {
	e.Kind, e.Err = EventLost, errors.Join(e.Err, err)
	return e
}
