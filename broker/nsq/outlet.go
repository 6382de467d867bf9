package nsq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda"
)

const (
	// rounds is how many exchanges may be under way at once. What is pushed
	// meanwhile waits, and goes together with the next one.
	rounds    = 2
	mostBytes = 1 << 20 // of the bodies of one MPUB, unless a single one is longer
	mostCount = 1000    // of its bodies
	// stalled is how long the server may owe an answer before another server is
	// used where there is one.
	stalled = 3 * time.Second
)

// errUnsent means that a post was not carried out and may be tried elsewhere.
var errUnsent = errors.New("not sent")

// unsent is an error that is an errUnsent, too.
type unsent struct{ error }

func (e unsent) Unwrap() error        { return e.error }
func (e unsent) Is(target error) bool { return target == errUnsent }

// post is a body that is to be in a topic.
type post struct {
	topic string
	body  string
	due   time.Time // zero: now
	alone bool      // not together with others, of which one was refused
	again bool      // it has come too early once
}

// outlet is the connection on which jobs are published. Posts of concurrent
// callers travel together: there are never more than a few exchanges under
// way, and the next one carries all that waits.
//
// The server carries out the commands of a connection one after the other, and
// closes the connection after an error. So what was sent behind a command that
// failed was not carried out.
type outlet struct {
	server *server
	conn   *conn

	mu      sync.Mutex
	waiting []entry   // guarded by mu, as all below: not sent yet
	sent    []parcel  // answers to which are awaited, in their order
	open    int       // rounds under way
	since   time.Time // when the oldest of sent began to wait
	err     error     // why nothing can be sent any more
}

// entry is a post of a call.
type entry struct {
	*post
	call *call
	at   int // its place in the call
}

// call is posts of one caller.
type call struct {
	done chan struct{} // closed when none is left
	left int           // guarded by the mutex of the outlet, as below
	errs []error
}

// parcel is what is sent by one command.
type parcel struct {
	entries []entry
	last    bool // of its round
}

func newOutlet(s *server, c *conn) *outlet { return &outlet{server: s, conn: c} }

// publish sends posts and awaits the answers. It returns an error for each.
func (o *outlet) publish(ctx context.Context, posts []*post) []error {
	c := &call{done: make(chan struct{}), left: len(posts), errs: make([]error, len(posts))}
	if len(posts) == 0 {
		return nil
	}
	o.mu.Lock()
	for i, p := range posts {
		o.waiting = append(o.waiting, entry{post: p, call: c, at: i})
	}
	o.next()
	o.mu.Unlock()
	select {
	case <-c.done:
		return c.errs
	case <-ctx.Done():
		return o.leave(ctx, c)
	}
}

// leave gives up waiting: what was not sent never is, the rest is unknown.
func (o *outlet) leave(ctx context.Context, c *call) []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	errs := slices.Clone(c.errs)
	if c.left == 0 {
		return errs
	}
	o.waiting = slices.DeleteFunc(o.waiting, func(e entry) bool {
		if e.call == c {
			errs[e.at] = ctx.Err()
		}
		return e.call == c
	})
	for _, p := range o.sent {
		for _, e := range p.entries {
			if e.call == c {
				errs[e.at] = fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
			}
		}
	}
	return errs
}

// end records how a post went. It needs mu.
func (e entry) end(err error) {
	e.call.errs[e.at] = err
	if e.call.left--; e.call.left == 0 {
		close(e.call.done)
	}
}

// next sends what waits, unless enough is under way. It needs mu.
func (o *outlet) next() {
	if o.err != nil {
		o.drop()
		return
	}
	if len(o.waiting) == 0 || o.open >= rounds {
		return
	}
	n, size := 0, 0
	for n < len(o.waiting) && (n == 0 || size < 2*mostBytes) {
		size += len(o.waiting[n].body)
		n++
	}
	parcels := pack(o.waiting[:n])
	o.waiting = slices.Clone(o.waiting[n:])
	parcels[len(parcels)-1].last = true
	err := o.conn.send(func(out []byte) []byte {
		for _, p := range parcels {
			out = o.appendParcel(out, p)
		}
		return out
	})
	if err != nil {
		for _, p := range parcels {
			for _, e := range p.entries {
				e.end(unsent{o.server.explain("publish", err)})
			}
		}
		return
	}
	if len(o.sent) == 0 {
		o.since = time.Now()
	}
	o.sent = append(o.sent, parcels...)
	o.open++
}

// pack puts the posts of each topic together that are not delayed.
func pack(entries []entry) []parcel {
	parcels := make([]parcel, 0, 1)
	open := make(map[string]int) // topic to the parcel that others can join
	sizes := make(map[string]int)
	for _, e := range entries {
		if !e.due.IsZero() || e.alone {
			parcels = append(parcels, parcel{entries: []entry{e}})
			continue
		}
		i, found := open[e.topic]
		if !found || len(parcels[i].entries) >= mostCount || sizes[e.topic]+len(e.body) > mostBytes {
			i = len(parcels)
			parcels = append(parcels, parcel{})
			open[e.topic], sizes[e.topic] = i, 0
		}
		parcels[i].entries = append(parcels[i].entries, e)
		sizes[e.topic] += len(e.body)
	}
	return parcels
}

// appendParcel appends the command for a parcel.
func (o *outlet) appendParcel(out []byte, p parcel) []byte {
	first := p.entries[0]
	delay := time.Until(first.due) - ahead
	if 0 < delay && delay < youth && !first.again && o.server.young(first.topic) {
		delay = 0
	}
	switch {
	case len(p.entries) > 1:
		bodies := make([]string, len(p.entries))
		for i, e := range p.entries {
			bodies[i] = e.body
		}
		return appendMPUB(out, first.topic, bodies)
	case first.due.IsZero() || delay <= 0:
		return appendPUB(out, first.topic, first.body)
	default:
		return appendDPUB(out, first.topic, min(delay, o.server.known().maxReq), first.body)
	}
}

// response is the answer to a command that was carried out.
func (o *outlet) response(string) { o.answer(nil) }

func (o *outlet) answer(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.sent) == 0 {
		return
	}
	p := o.sent[0]
	o.sent = o.sent[1:]
	o.since = time.Now()
	for _, e := range p.entries {
		e.end(err)
	}
	if p.last {
		o.open--
	}
	if err == nil {
		o.next()
	}
}

// refused is the answer to a command that failed, and the last one.
func (o *outlet) refused(err *serverError) {
	limit, isLimit := err.maxDefer()
	o.mu.Lock()
	together := len(o.sent) > 0 && len(o.sent[0].entries) > 1
	if together && errors.Is(err, linda.ErrTooLarge) {
		for _, e := range o.sent[0].entries {
			e.alone = true
		}
	}
	o.err = unsent{o.server.explain("publish", err)}
	o.mu.Unlock()
	o.conn.fail(err) // before anybody tries again, who is to do so on another one
	switch {
	case isLimit:
		o.server.learnMaxReq(limit)
		o.answer(errUnsent)
	case together && errors.Is(err, linda.ErrTooLarge):
		o.answer(errUnsent)
	default:
		o.answer(o.server.explain("publish", err))
	}
	o.mu.Lock()
	for _, p := range o.sent {
		o.waiting = append(o.waiting, p.entries...)
	}
	o.sent = nil
	o.drop()
	o.mu.Unlock()
}

func (o *outlet) message(message) {}

func (o *outlet) paused() {}

// ended is told when the connection is gone.
func (o *outlet) ended(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = unsent{o.server.explain("publish", err)}
	}
	for _, p := range o.sent {
		for _, e := range p.entries {
			e.end(o.server.explain("publish", fmt.Errorf("%w: %w", linda.ErrUnknown, err)))
		}
	}
	o.sent = nil
	o.drop()
}

// drop ends what waits. It needs mu.
func (o *outlet) drop() {
	for _, e := range o.waiting {
		e.end(o.err)
	}
	o.waiting = nil
}

// stalled reports whether the server owes an answer for long.
func (o *outlet) stalled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.sent) > 0 && time.Since(o.since) > stalled
}
