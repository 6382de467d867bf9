// Package proxy stands between clients and a server and spoils their
// connections: to the byte, and as the caller plans it.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
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
	cuts   atomic.Int64 // connections that a fault has ended

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

// Cuts returns how many connections a Reset or Close has ended so far. It is true
// as soon as such a connection is seen to be gone.
func (p *Proxy) Cuts() int { return int(p.cuts.Load()) }

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
	l := newLink(client, server.(*net.TCPConn), &p.cuts)
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
