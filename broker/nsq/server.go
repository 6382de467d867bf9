package nsq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/amlun/linda"
)

const (
	firstPause = 10 * time.Millisecond
	mostPause  = time.Second
)

// server is one nsqd: what is known of it, and the connection on which jobs are
// published.
type server struct {
	broker *broker
	addr   string
	web    string // URL of its HTTP; empty: none
	turn   chan struct{}

	mu       sync.Mutex
	limits   limits                  // guarded by mu, as all below
	outlet   *outlet                 // nil: none was opened
	declared map[string]*declaration // topics whose channel was made, since the outlet was opened
	dialAt   time.Time               // when to dial again after that has failed
	pause    time.Duration           // how long to wait after the next failure
	down     error                   // why dialing failed
}

// limits are the server's, zero where they are not known.
type limits struct {
	maxReq, maxMsgTimeout time.Duration
	maxRdy, maxSize       int
	memory                int64 // messages kept in memory only
	asked                 bool  // its HTTP has told
}

// declaration is a channel, or the attempt to make it.
type declaration struct {
	done chan struct{} // closed when the rest is there
	err  error
	made time.Time
}

// youth is how old a channel may be without the server having noticed that
// there may be delayed messages in it: it looks every five seconds. Until then
// messages with a shorter delay are published as if they had none. They wait
// where they are fetched.
const youth = 6 * time.Second

func newServer(b *broker, addr, web string) *server {
	return &server{broker: b, addr: addr, web: web, turn: make(chan struct{}, 1), declared: make(map[string]*declaration)}
}

// dial opens a connection. While the server cannot be reached it tries rarely,
// and tells callers in between at once.
func (s *server) dial(ctx context.Context, msgTimeout time.Duration) (*conn, error) {
	s.mu.Lock()
	down, wait := s.down, time.Until(s.dialAt) > 0
	s.mu.Unlock()
	if down != nil && wait {
		return nil, down
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.broker.wires, cancel)()
	c, err := dial(limited, s.addr, s.broker.config, msgTimeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broker.wires.Err() != nil:
		if c != nil {
			_ = c.net.Close()
		}
		return nil, linda.ErrClosed
	case err == nil:
		s.down, s.pause = nil, 0
		s.limits.maxRdy = c.hello.MaxRdy
		s.limits.maxMsgTimeout = time.Duration(c.hello.MaxMsgTimeout) * time.Millisecond
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	s.pause = min(max(2*s.pause, firstPause), mostPause)
	s.dialAt = time.Now().Add(s.pause/2 + rand.N(s.pause/2))
	s.down = fmt.Errorf("linda/nsq: %s: %w", s.addr, err)
	return nil, s.down
}

// wait returns how long to wait before the server is dialed again.
func (s *server) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.dialAt)
}

// publisher returns the connection on which jobs are published.
func (s *server) publisher(ctx context.Context) (*outlet, error) {
	if o := s.current(); o != nil {
		return o, nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.turn }()
	if o := s.current(); o != nil {
		return o, nil
	}
	c, err := s.dial(ctx, 0)
	if err != nil {
		return nil, err
	}
	o := newOutlet(s, c)
	if !s.broker.beginConn(c, o) {
		_ = c.net.Close()
		return nil, linda.ErrClosed
	}
	s.mu.Lock()
	s.outlet = o
	clear(s.declared) // a server that was killed may have forgotten
	s.mu.Unlock()
	if s.broker.connected.Load() { // its settings may be others now
		s.broker.begin(func() { s.askLimits(s.broker.wires) })
	}
	return o, nil
}

func (s *server) current() *outlet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outlet == nil || s.outlet.conn.lost() {
		return nil
	}
	return s.outlet
}

// stuck reports whether the server cannot be dialed now, or owes an answer for
// long, so that another one is better.
func (s *server) stuck() bool {
	s.mu.Lock()
	o, down := s.outlet, s.down != nil && time.Until(s.dialAt) > 0
	s.mu.Unlock()
	if o != nil && !o.conn.lost() {
		return o.stalled()
	}
	return down
}

// declare makes the topic and its channel: a delayed message would not know the
// time before there is a channel, and other messages would be for the first
// channel that anybody makes.
func (s *server) declare(ctx context.Context, topic string) error {
	s.mu.Lock()
	d := s.declared[topic]
	if d == nil {
		d = &declaration{done: make(chan struct{})}
		s.declared[topic] = d
		if !s.broker.begin(func() { s.makeChannel(topic, d) }) {
			d.err = linda.ErrClosed
			close(d.done)
		}
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *server) makeChannel(topic string, d *declaration) {
	ctx, cancel := context.WithTimeout(s.broker.wires, callLimit)
	defer cancel()
	c, err := s.dial(ctx, 0)
	if err == nil {
		if err = c.subscribe(ctx, topic, s.broker.config.channel); err != nil {
			err = fmt.Errorf("linda/nsq: %s: make channel of topic %s: %w", s.addr, topic, err)
		}
		_ = c.net.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.made = time.Now()
	if d.err = err; err != nil && s.declared[topic] == d {
		delete(s.declared, topic)
	}
	close(d.done)
}

// isDeclared records that a topic has its channel.
func (s *server) isDeclared(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.declared[topic] == nil {
		d := &declaration{done: make(chan struct{}), made: time.Now()}
		close(d.done)
		s.declared[topic] = d
	}
}

// young reports whether the channel of a topic may be new to the server.
func (s *server) young(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.declared[topic]
	return d == nil || time.Since(d.made) < youth
}

// known are the limits that apply: the server's, bounded by those of the URL.
func (s *server) known() limits {
	s.mu.Lock()
	l := s.limits
	s.mu.Unlock()
	c := s.broker.config
	l.maxReq = least(l.maxReq, c.maxReqTimeout, defaultMaxReq)
	l.maxMsgTimeout = least(l.maxMsgTimeout, c.maxMsgTimeout, 15*time.Minute)
	l.maxSize = least(l.maxSize, c.maxMsgSize, defaultMaxSize)
	if l.maxRdy == 0 {
		l.maxRdy = 2500
	}
	return l
}

// least returns the smaller of two that are known, else the one that is, else
// the usual.
func least[T int | time.Duration](a, b, usual T) T {
	switch {
	case a == 0 && b == 0:
		return usual
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}

// learnMaxReq takes the limit for delays from the server's refusal.
func (s *server) learnMaxReq(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.maxReq = limit
}

// explain adds what a caller cannot know to an error of a connection.
func (s *server) explain(what string, err error) error {
	if err == nil || errors.Is(err, linda.ErrClosed) {
		return err
	}
	return fmt.Errorf("linda/nsq: %s: %s: %w", s.addr, what, err)
}
