package cuts

import (
	"cmp"
	"context"
	"fmt"
	neturl "net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos/proxy"
)

const (
	// lanes is how many clients of a server are cut side by side where every byte
	// is. Most of a cut is waiting: for a connection, for a time-out, for an empty
	// queue.
	lanes = 8
	few   = 2 // lanes for a sample
	// round is after how many cuts the jobs are counted, and a lane begins again
	// with new clients: some brokers have a limit of queues that a client may look
	// into, others a connection for each.
	round = 40
	// misses is how many cuts in a row must come too late for an operation to be
	// over, where every byte is cut: no two runs send quite the same.
	misses = 3
	// retries is how often an operation may fail though nothing was cut, as after
	// the cut before it.
	retries = 20
	// mostDoubts is how many cuts of an operation are made again since their jobs
	// could not be counted.
	mostDoubts = 100
)

// countedSweep is a server, and the lanes of clients that are cut.
type countedSweep struct {
	countedTarget
	server *brokerd.Server
	lanes  []*lane

	mu       sync.Mutex
	at       int   // guarded by mu, as all below: the next byte
	last     int   // at which something was cut
	missed   []int // bytes after that, at which nothing was
	redo     []int // bytes of cuts that are to be made once more
	doubts   int   // how many of those there were
	outcomes outcomes
}

// outcomes are how many cuts there were, and what became of the operations.
type outcomes struct{ cuts, done, undone, unknown int }

func (o *outcomes) add(more *outcomes) {
	o.cuts += more.cuts
	o.done += more.done
	o.undone += more.undone
	o.unknown += more.unknown
}

// lane is a client whose connections pass a proxy, and one who looks.
type lane struct {
	s              *countedSweep
	url            string // by the proxy
	canaryQueue    string
	proxy          *proxy.Proxy
	direct, client whole
	canaries       map[string]bool // that were pushed

	mu    sync.Mutex
	fault *proxy.Fault // guarded by mu: that befalls new connections
}

func newCountedSweep(t *testing.T, target countedTarget, lanes int) *countedSweep {
	s := &countedSweep{countedTarget: target}
	s.stride = stride(t, target.stride)
	s.limit = cmp.Or(s.limit, limit)
	var addrs []string
	for i := range lanes {
		l := &lane{s: s, canaryQueue: fmt.Sprint("cut.canary.", i), canaries: make(map[string]bool)}
		var err error
		l.proxy, err = proxy.Start("", l.befall)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.proxy.Close()) })
		s.lanes, addrs = append(s.lanes, l), append(addrs, l.proxy.Addr)
	}
	options := []brokerd.Option{brokerd.Args(s.args...)}
	if s.tells {
		options = append(options, brokerd.Advertise(addrs...))
	}
	s.server = brokerd.Run(t, target.kind, options...)
	for i, l := range s.lanes {
		to := s.server.Addr
		if s.tells {
			to = fmt.Sprint("127.0.0.1:", s.server.Ports[len(s.server.Ports)-lanes+i])
		}
		l.proxy.Forward(to)
		url, err := neturl.Parse(s.server.URL + s.options)
		require.NoError(t, err)
		url.Host = l.proxy.Addr
		l.url = url.String()
	}
	return s
}

// both cuts an operation in both directions, and adds to the outcomes.
func (s *countedSweep) both(t *testing.T, op countedOp, from int, all *outcomes) {
	s.outcomes = outcomes{}
	for _, dir := range []proxy.Direction{proxy.Up, proxy.Down} {
		s.sweep(t, op, dir, from%s.stride)
	}
	t.Logf("%d cuts", s.outcomes.cuts)
	all.add(&s.outcomes)
}

// sweep cuts an operation at one byte after another, until it is over before
// the cut.
func (s *countedSweep) sweep(t *testing.T, op countedOp, dir proxy.Direction, from int) {
	s.at, s.last, s.missed, s.redo, s.doubts = from, from-1, nil, nil, 0
	var all sync.WaitGroup
	for _, l := range s.lanes {
		all.Go(func() {
			for l.round(t, op, dir) {
			}
		})
	}
	all.Wait()
}

// next returns the byte of the next cut, unless the operation is over before it.
func (s *countedSweep) next(t *testing.T, op countedOp) (at int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.redo); n > 0 {
		at, s.redo = s.redo[n-1], s.redo[:n-1]
		return at, true
	}
	enough := misses
	if s.stride > 1 {
		enough = 1
	}
	if len(s.missed) >= enough {
		return 0, false
	}
	at = s.at
	s.at += s.stride
	if at >= longest {
		t.Errorf("%s: no end after %d bytes", op.name, longest)
		return 0, false
	}
	return at, true
}

// doAgain has a cut made once more whose jobs could not be counted for sure: an
// overloaded server fails those who count, too. It reports whether that is not
// too often.
func (s *countedSweep) doAgain(at int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubts++
	if s.doubts > mostDoubts {
		return false
	}
	s.redo = append(s.redo, at)
	return true
}

// saw notes whether something was cut at a byte.
func (s *countedSweep) saw(at int, happened bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if happened {
		s.outcomes.cuts++
		s.last = max(s.last, at)
		s.missed = slices.DeleteFunc(s.missed, func(n int) bool { return n < s.last })
	} else if at > s.last {
		s.missed = append(s.missed, at)
	}
}

// round makes some cuts with new clients, counts, and reports whether there may
// be more to cut.
func (l *lane) round(t *testing.T, op countedOp, dir proxy.Direction) (more bool) {
	at, more := l.s.next(t, op)
	if !more {
		return false
	}
	if err := l.open(); err != nil {
		t.Errorf("%s: %v", op.name, err)
		return false
	}
	defer closes(t, l.direct)
	var made []*countedCut
	for more {
		cuts := l.cut(op, dir, at)
		made = append(made, cuts...)
		if len(made) >= round {
			break
		}
		at, more = l.s.next(t, op)
	}
	closes(t, l.client) // which may have kept jobs from others
	l.count(t.Context(), made)
	for _, c := range made {
		if len(c.faults) > 0 && c.disturbed != nil && l.s.doAgain(c.at) {
			continue
		}
		for _, fault := range c.faults {
			t.Errorf("%s (errors %v): %s (to count: %v)", c.name, c.errs, fault, c.disturbed)
		}
	}
	return !t.Failed()
}

// cut cuts an operation at a byte. Where it fails without a cut the client still
// suffers from the one before, and it is tried again.
func (l *lane) cut(op countedOp, dir proxy.Direction, at int) (made []*countedCut) {
	for range retries {
		c := &countedCut{
			l: l, op: op, at: at, queue: fmt.Sprintf("cut.%d", queues.Add(1)),
			name: fmt.Sprintf("%s, byte %d of direction %d", op.name, at, dir),
		}
		made = append(made, c)
		happened := c.make(dir, at)
		if happened || c.errs[0] == nil || len(c.faults) > 0 {
			l.s.saw(at, happened)
			return made
		}
	}
	made[0].wrong("it fails, and nothing was cut")
	return made
}

// count counts the jobs of several cuts at once: that is mostly waiting, too.
func (l *lane) count(ctx context.Context, made []*countedCut) {
	var all sync.WaitGroup
	room := make(chan struct{}, lanes)
	for _, c := range made {
		room <- struct{}{}
		all.Go(func() {
			c.count(ctx)
			<-room
		})
	}
	all.Wait()
}

func (l *lane) open() error {
	direct, err := linda.NewBroker(l.s.server.URL + l.s.options)
	if err != nil {
		return err
	}
	client, err := linda.NewBroker(l.url)
	if err != nil {
		_ = direct.Close()
		return err
	}
	l.direct, l.client = direct.(whole), client.(whole)
	return nil
}

func closes(t *testing.T, b linda.Broker) {
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// befall plans the faults of a new connection.
func (l *lane) befall(int) []proxy.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		return nil
	}
	return []proxy.Fault{*l.fault}
}

// arm makes a fault befall all connections, those that are open and those to
// come, until the function that it returns is called. That reports whether it
// happened to any.
func (l *lane) arm(f proxy.Fault) (disarm func() (happened bool)) {
	before := l.proxy.Cuts()
	l.mu.Lock()
	l.fault = &f
	l.mu.Unlock()
	for _, conn := range l.proxy.Conns() {
		l.proxy.Inject(conn, f)
	}
	return func() bool {
		if l.s.loose { // what it does not wait for is on its way
			for end := time.Now().Add(20 * time.Millisecond); l.proxy.Cuts() == before && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		l.mu.Lock()
		l.fault = nil
		l.mu.Unlock()
		l.proxy.Heal()
		return l.proxy.Cuts() > before
	}
}
