package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// declared is what a link knows to be on the server. It is made again after
// every reconnect, since the server may have been replaced by an empty one.
type declared struct {
	life  context.Context // ends with the link
	mu    sync.Mutex
	parts map[string]*part // guarded by mu
	ripe  time.Time        // guarded by mu: from when on all parts may be relied on that were made
}

// part is something that is on the server, or is being made there.
type part struct {
	name string
	done chan struct{} // closed when err is known
	err  error
	new  bool // guarded by the mutex of declared: it may not be relied on yet
}

// maker makes a part, and tells from when on it may be relied on.
type maker func(context.Context) (ripe time.Time, err error)

// declareFor is how long the server may take for one part, before whoever needs
// it asks anew.
const declareFor = time.Minute

// once returns when a part can be relied on, and has it made where it is not there.
func (d *declared) once(ctx context.Context, name string, make maker) error {
	return d.await(ctx, d.begin(name, make))
}

// begin has a part made, unless it is there or somebody else has begun. It goes
// on when those who wait for it have no time left: whoever comes next finds it
// as far as it is, and not at its beginning. One that could not be made is
// begun anew by the next.
func (d *declared) begin(name string, make maker) *part {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, known := d.parts[name]; known {
		return p
	}
	p := &part{name: name, done: newSignal()}
	if d.parts == nil {
		d.parts = map[string]*part{}
	}
	d.parts[name] = p
	go d.make(p, make) // ends with the link, or before
	return p
}

func (d *declared) make(p *part, make maker) {
	defer close(p.done)
	ctx, cancel := context.WithTimeout(d.life, declareFor)
	defer cancel()
	ripe, err := make(ctx)
	if err != nil && d.life.Err() != nil {
		err = fmt.Errorf("linda/rabbitmq: declare %s: %w", p.name, errBroken)
	}
	p.err = err
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.parts, p.name)
	}
	if ripe.After(d.ripe) {
		d.ripe = ripe
	}
	p.new = !ripe.IsZero()
}

// forget has a part made anew by whoever needs it next, unless it is being made.
func (d *declared) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.parts[name]; p != nil && p.known() {
		delete(d.parts, name)
	}
}

func (p *part) known() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// made returns when the part is on the server, or by ctx.
func (p *part) made(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("linda/rabbitmq: declare %s: %w", p.name, ctx.Err())
	}
}

// await returns when a part can be relied on, or by ctx.
func (d *declared) await(ctx context.Context, p *part) error {
	if err := p.made(ctx); err != nil {
		return err
	}
	for left := d.unripe(p); left > 0; left = d.unripe(p) {
		if !wait(ctx, left) {
			return fmt.Errorf("linda/rabbitmq: declare %s: %w", p.name, ctx.Err())
		}
	}
	return nil
}

// unripe returns how long not to rely on a part. The server puts off to write it down
// when others are made after it.
func (d *declared) unripe(p *part) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := time.Until(d.ripe)
	p.new = p.new && left > 0
	if !p.new {
		return 0
	}
	return left
}

func newSignal() chan struct{} { return make(chan struct{}) }
