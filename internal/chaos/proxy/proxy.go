// Package proxy stands between clients and a server and spoils their
// connections: to the byte, and as the caller plans it.
package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Kind is what a fault does to a connection.
type Kind int

// The kinds of faults.
const (
	Reset Kind = iota // both ends get an RST, as when the machine between them fails
	Close             // both ends get a FIN
	Hole              // nothing passes for a while; both ends stay open
	Delay             // each piece passes later, for a while
	Slice             // what passes does so in pieces of 1 to 8 bytes, for a while
)

// Direction is that of the bytes a fault waits for and holds up.
type Direction int

// The directions.
const (
	Up   Direction = iota // from the client to the server
	Down                  // from the server to the client
)

// Fault is one fault of a connection.
type Fault struct {
	Kind  Kind
	Dir   Direction
	After int64         // so many further bytes pass in this direction before it
	For   time.Duration // of Hole, Delay and Slice: how long it lasts; 0: as long as the connection
	Late  time.Duration // of Delay: by how much
	// Within is how long the fault waits for those bytes at most: then a Reset
	// or Close happens, and others are taken back. 0: as long as it takes.
	Within time.Duration
}

// Proxy forwards connections to one server. Its methods are safe for
// concurrent use.
type Proxy struct {
	Addr   string // host:port for clients
	plan   func(conn int) []Fault
	listen net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	target string // guarded by mu, as all below
	links  map[int]*link
	opened int
	resets int
	closed bool
}

// Start listens on a free loopback port and forwards to target. plan, if not
// nil, returns the faults of each connection, numbered from 0 in the order in
// which they come. The caller closes the proxy.
func Start(target string, plan func(conn int) []Fault) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, plan: plan, listen: l, links: make(map[int]*link)}
	p.wg.Go(p.accept)
	return p, nil
}

// Forward makes target the server of connections that come from now on: for a
// server that has to know the address of the proxy before it starts.
func (p *Proxy) Forward(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Close cuts all connections and returns when nothing of the proxy is left.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, l := range p.links {
		l.cut(false)
	}
	p.mu.Unlock()
	err := p.listen.Close()
	p.wg.Wait()
	return err
}

// Conns returns the numbers of the connections that are open, in their order.
func (p *Proxy) Conns() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := make([]int, 0, len(p.links))
	for n := range p.links {
		open = append(open, n)
	}
	slices.Sort(open)
	return open
}

// Resets returns how many connections Reset has ended so far.
func (p *Proxy) Resets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resets
}

// Inject adds a fault to an open connection, and reports whether it is open.
func (p *Proxy) Inject(conn int, f Fault) bool {
	p.mu.Lock()
	l := p.links[conn]
	p.mu.Unlock()
	if l == nil {
		return false
	}
	l.add(f)
	return true
}

// Heal takes back all faults that have not happened yet, and ends those that
// last.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		l.heal()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client gave up
		}
		p.wg.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// serve forwards one connection until it ends.
func (p *Proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	number := p.opened
	p.opened++
	target := p.target
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil { // as if the server had refused
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	l := newLink(client, server.(*net.TCPConn))
	if p.plan != nil {
		for _, f := range p.plan(number) {
			l.add(f)
		}
	}
	p.mu.Lock()
	p.links[number] = l
	if p.closed {
		l.cut(false)
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pump(Up) })
	both.Go(func() { l.pump(Down) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, number)
	if l.wasReset() {
		p.resets++
	}
	p.mu.Unlock()
}

// link is one connection, of two halves.
type link struct {
	ends [2]*net.TCPConn // by the direction that they send: the client, the server
	done chan struct{}   // closed when it is cut

	mu     sync.Mutex
	passed [2]int64      // guarded by mu, as all below: bytes by direction
	faults [2][]planned  // to come, in the order of at
	spells [2][]spell    // that last
	healed chan struct{} // closed, and replaced, by heal
	timers []*time.Timer // of cuts that happen at the latest then
	seq    int           // of the last id
	isCut  bool
	reset  bool
}

// planned is a fault and the byte at which it happens.
type planned struct {
	Fault
	at      int64
	expires time.Time // zero: never
	id      int       // of one that happens at the latest after Within; 0 for others
}

// spell is a fault that lasts.
type spell struct {
	Fault
	until time.Time // zero: for ever
}

func newLink(client, server *net.TCPConn) *link {
	return &link{ends: [2]*net.TCPConn{Up: client, Down: server}, done: make(chan struct{}), healed: make(chan struct{})}
}

// add plans a fault. What needs no byte to pass first happens at once.
func (l *link) add(f Fault) {
	l.mu.Lock()
	at := l.passed[f.Dir] + f.After
	if f.After <= 0 && f.Kind <= Close {
		l.mu.Unlock()
		l.cut(f.Kind == Reset)
		return
	}
	defer l.mu.Unlock()
	next := planned{Fault: f, at: at}
	switch {
	case f.Within > 0 && f.Kind <= Close:
		l.seq++
		next.id = l.seq
		l.timers = append(l.timers, time.AfterFunc(f.Within, func() { l.cutLate(f, next.id) }))
	case f.Within > 0:
		next.expires = time.Now().Add(f.Within)
	}
	fs := append(l.faults[f.Dir], next)
	slices.SortStableFunc(fs, func(a, b planned) int { return cmp.Compare(a.at, b.at) })
	l.faults[f.Dir] = fs
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults, l.spells = [2][]planned{}, [2][]spell{}
	close(l.healed)
	l.healed = make(chan struct{})
}

// cutLate cuts for a fault that has waited for long enough, unless it was taken
// back.
func (l *link) cutLate(f Fault, id int) {
	l.mu.Lock()
	waits := slices.ContainsFunc(l.faults[f.Dir], func(p planned) bool { return p.id == id })
	l.mu.Unlock()
	if waits {
		l.cut(f.Kind == Reset)
	}
}

func (l *link) wasReset() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reset
}

// cut ends the connection, by an RST to both ends or by a FIN.
func (l *link) cut(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isCut {
		return
	}
	l.isCut, l.reset = true, reset
	close(l.done)
	for _, t := range l.timers {
		t.Stop()
	}
	for _, c := range l.ends {
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

// pump forwards what comes in a direction until either end is closed.
func (l *link) pump(dir Direction) {
	from, to := l.ends[dir], l.ends[1-dir]
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			allowed, ok := l.next(dir, len(rest))
			if !ok {
				return
			}
			if _, err := to.Write(rest[:allowed]); err != nil {
				l.cut(false)
				return
			}
			l.pass(dir, allowed)
			rest = rest[allowed:]
		}
		if err != nil {
			l.cut(false)
			return
		}
	}
}

// pass counts bytes that have passed, and cuts where the plan says so, without
// waiting for the next one.
func (l *link) pass(dir Direction, n int) {
	l.mu.Lock()
	l.passed[dir] += int64(n)
	l.expire(dir)
	due := len(l.faults[dir]) > 0 && l.faults[dir][0].at <= l.passed[dir] && l.faults[dir][0].Kind <= Close
	reset := due && l.faults[dir][0].Kind == Reset
	l.mu.Unlock()
	if due {
		l.cut(reset)
	}
}

// next waits as the faults of a direction want, and returns how many of the
// bytes may pass then; it is not ok once the connection is cut.
func (l *link) next(dir Direction, n int) (allowed int, ok bool) {
	for {
		wait, healed, n := l.rule(dir, n)
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-healed:
			case <-l.done:
			}
			timer.Stop()
		}
		select {
		case <-l.done:
			return 0, false
		default:
		}
		if n > 0 {
			return n, true
		}
	}
}

// expire takes back the faults that have waited for too long. The caller holds
// mu.
func (l *link) expire(dir Direction) {
	if len(l.faults[dir]) == 0 {
		return
	}
	now := time.Now()
	l.faults[dir] = slices.DeleteFunc(l.faults[dir], func(f planned) bool { return !f.expires.IsZero() && now.After(f.expires) })
}

// holeLook is how often a hole without end is looked at.
const holeLook = time.Minute

// rule returns how long to wait before how many bytes pass; 0 bytes: ask again
// then.
func (l *link) rule(dir Direction, n int) (wait time.Duration, healed chan struct{}, allowed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.expire(dir)
	for len(l.faults[dir]) > 0 {
		f := l.faults[dir][0]
		if f.at > l.passed[dir] {
			n = int(min(int64(n), f.at-l.passed[dir]))
			break
		}
		l.faults[dir] = l.faults[dir][1:]
		s := spell{Fault: f.Fault}
		if f.For > 0 {
			s.until = now.Add(f.For)
		}
		l.spells[dir] = append(l.spells[dir], s)
	}
	l.spells[dir] = slices.DeleteFunc(l.spells[dir], func(s spell) bool { return !s.until.IsZero() && !now.Before(s.until) })
	for _, s := range l.spells[dir] {
		switch {
		case s.Kind == Hole && s.until.IsZero():
			return holeLook, l.healed, 0
		case s.Kind == Hole:
			return s.until.Sub(now), l.healed, 0
		case s.Kind == Delay:
			wait = max(wait, s.Late)
		case s.Kind == Slice:
			n = min(n, 1+int(l.passed[dir]%8))
		}
	}
	return wait, l.healed, n
}
