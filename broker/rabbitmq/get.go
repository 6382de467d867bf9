package rabbitmq

import (
	"context"
	"time"
)

// got is what a basic.get has brought.
type got struct {
	delivery *delivery // nil: the queue is empty
	err      error
}

// getOne asks the server for one job, of those that crashed or of the others.
// What comes after ctx has ended waits here for a Fetch, or is given to others.
func (t *tap) getOne(ctx context.Context, lone bool) (*delivery, error) {
	answer := make(chan got)
	go func() { // ends with the answer, or with the link
		d, err := t.get(lone)
		select {
		case answer <- got{d, err}:
		case <-ctx.Done():
			if d != nil {
				t.add(d)
			}
		}
	}()
	select {
	case g := <-answer:
		if g.delivery != nil {
			t.hold(g.delivery)
		}
		return g.delivery, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// get waits for the answer of the server, which needs a pipe that holds nothing.
func (t *tap) get(lone bool) (*delivery, error) {
	p, err := t.takePipe()
	if err != nil {
		return nil, err
	}
	from := t.from
	if lone {
		from = t.alone
	}
	m, ok, err := p.ch.Get(from, false)
	if err != nil {
		return nil, err
	}
	if !ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		p.leave()
		return nil, nil
	}
	return newDelivery(p, &m, lone), nil
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

// loneMost is how many jobs a tap gets one by one of those that crashed: each needs a
// channel, which costs the server some memory.
const loneMost = 64

// another returns a further job that crashed, while the one that the bell has sent
// is in work; nil where there is none.
func (t *tap) another(ctx context.Context) *delivery {
	if !t.busy() || !t.lookDue() || t.got() >= loneMost {
		return nil
	}
	if jobs, _ := t.getSome(ctx, 1, true); len(jobs) > 0 {
		return jobs[0]
	}
	return nil
}

// got returns how many jobs are held that were got.
func (t *tap) got() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.pipes {
		if p.flow == nil {
			n += p.open
		}
	}
	return n
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
	return len(t.single) == 0 && t.bell != nil && t.bell.pipe.open > 0
}
