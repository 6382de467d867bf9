package rabbitmq

import (
	"context"
	"slices"
	"time"
)

// shedFor is how long to wait until the server has confirmed that it has jobs which
// are given to others. What it has and has not confirmed by then is there twice.
const shedFor = 15 * time.Second

// move has a job that crashed moved to where it is fetched alone.
//
// However often the server has handed it out, it has run once at most: whoever was
// sent it again did not hand it out but moved it, or died before that. So one crash
// is what it may have caused.
func (t *tap) move(d *delivery) {
	if !d.lone {
		d.lone, d.past = true, min(d.past, 1)
	}
	t.mu.Lock()
	t.crashed = append(t.crashed, d)
	t.mu.Unlock()
	t.tell()
}

// moveMost is how many jobs are moved at a time: as many may be there twice, if the
// process or the connection dies then.
const moveMost = 16

// startMove reports whether jobs are to be moved, and nobody does so.
func (t *tap) startMove() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.crashed) == 0 || t.moved != nil {
		return false
	}
	t.moved = newSignal()
	return true
}

// awaitMoves waits until no jobs are being moved, or ctx ends.
func (t *tap) awaitMoves(ctx context.Context) {
	t.mu.Lock()
	moved := t.moved
	t.mu.Unlock()
	if moved == nil {
		return
	}
	select {
	case <-moved:
	case <-ctx.Done():
	}
}

// moveAll moves jobs until there are none.
func (t *tap) moveAll() {
	for {
		t.mu.Lock()
		n := min(len(t.crashed), moveMost)
		jobs := t.crashed[:n:n]
		t.crashed = t.crashed[n:]
		if n == 0 {
			close(t.moved)
			t.moved = nil
		}
		t.mu.Unlock()
		if n == 0 {
			return
		}
		t.shed(t, jobs)
	}
}

// giveAway hands the jobs that nobody has asked for to others.
func (t *tap) giveAway() {
	t.mu.Lock()
	jobs := slices.Concat(t.crashed, t.single, t.waiting)
	t.crashed, t.single, t.waiting = nil, nil, nil
	t.mu.Unlock()
	if len(jobs) > 0 {
		t.shed(t, jobs)
	}
}
