package rabbitmq

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// got is what a basic.get has brought.
type got struct {
	delivery *delivery // nil: the queue is empty
	err      error
}

// getOne asks the server for one job, of those that crashed or of the others.
// What comes after ctx has ended waits here for a Fetch, or is given to others.
func (t *tap) getOne(ctx context.Context, lone bool) (*delivery, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.gone:
		return nil, amqp.ErrClosed
	}
	from := t.from
	if lone {
		from = t.alone
	}
	answer := make(chan got)
	go func() { // ends with the answer, or with the link
		defer func() { <-t.turn }()
		m, ok, err := t.ch.Get(from, false)
		g := got{err: err}
		if ok && err == nil {
			g.delivery = newDelivery(t, nil, &m)
			g.delivery.lone = lone
		}
		select {
		case answer <- g:
		case <-ctx.Done():
			if g.delivery != nil {
				t.add(g.delivery)
			}
		}
	}()
	select {
	case g := <-answer:
		return g.delivery, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// getSome asks for up to max jobs, and no more once it has one that crashed: that
// one goes alone.
func (t *tap) getSome(ctx context.Context, max int, lone bool) ([]*delivery, error) {
	var jobs []*delivery
	if !lone {
		jobs, _ = t.take(max)
	}
	for len(jobs) < max {
		d, err := t.getOne(ctx, lone)
		if err != nil && len(jobs) == 0 {
			return nil, err
		}
		if err != nil || d == nil {
			break
		}
		if d.past > 0 && !lone && len(jobs) > 0 {
			t.move(d)
			break
		}
		jobs = append(jobs, d)
		if d.past > 0 {
			break
		}
	}
	if lone && len(jobs) == 0 {
		t.mu.Lock()
		t.looked = time.Now()
		t.mu.Unlock()
	}
	return jobs, nil
}

// lookEvery is how often to look for further jobs that crashed, where there were
// none.
const lookEvery = 100 * time.Millisecond

// another returns a further job that crashed, while the one that the bell has sent
// is in work; nil where there is none.
func (t *tap) another(ctx context.Context) *delivery {
	if !t.busy() || !t.lookDue() {
		return nil
	}
	if jobs, _ := t.getSome(ctx, 1, true); len(jobs) > 0 {
		return jobs[0]
	}
	return nil
}

// lookDue reports whether there may be jobs that crashed by now.
func (t *tap) lookDue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.looked) >= lookEvery
}

// busy reports whether the bell cannot tell of further jobs that crashed.
func (t *tap) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.single) == 0 && t.bell != nil && t.bell.open > 0
}
