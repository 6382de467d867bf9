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
}

// part is something that is on the server, or is being made there.
type part struct {
	name string
	done chan struct{} // closed when the rest is known
	ripe time.Time     // from when on it may be relied on
	err  error
}

// maker makes a part, and tells from when on it may be relied on.
type maker func(context.Context) (ripe time.Time, err error)

// declareFor is how long the server may take for one part, before whoever needs
// it asks anew.
const declareFor = time.Minute

// once returns when a part can be relied on, and has it made where it is not there.
func (d *declared) once(ctx context.Context, name string, make maker) error {
	return d.begin(name, make).await(ctx)
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
	if p.ripe, p.err = make(ctx); p.err == nil {
		return
	}
	if d.life.Err() != nil {
		p.err = fmt.Errorf("linda/rabbitmq: declare %s: %w", p.name, errBroken)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.parts, p.name)
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

// await returns when the part can be relied on, or by ctx.
func (p *part) await(ctx context.Context) error {
	if err := p.made(ctx); err != nil || p.ripe.IsZero() {
		return err
	}
	if left := time.Until(p.ripe); left > 0 && !wait(ctx, left) {
		return fmt.Errorf("linda/rabbitmq: declare %s: %w", p.name, ctx.Err())
	}
	return nil
}

func newSignal() chan struct{} { return make(chan struct{}) }
