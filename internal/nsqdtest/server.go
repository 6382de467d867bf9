// Package nsqdtest is a server in the process that speaks enough of the protocol
// of nsqd to hold the broker to its contract where there is no nsqd. It keeps
// nothing on disk, and is no measure of speed. As nsqd does, it promises no
// order, looks for what is due or timed out ten times a second, refuses what
// nsqd refuses with the same words, and closes the connection then.
package nsqdtest

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Limits are the settings of a server, as nsqd's flags of these names.
type Limits struct {
	MaxReqTimeout time.Duration // defaults to an hour
	MaxMsgTimeout time.Duration // defaults to 15 minutes
	MaxMsgSize    int           // defaults to 1 MiB
}

// Server is one that runs.
type Server struct {
	Addr string // of TCP
	Web  string // host:port of HTTP

	limits Limits
	tcp    net.Listener
	http   *http.Server
	going  sync.WaitGroup
	ended  chan struct{}
	ids    atomic.Uint64

	mu     sync.Mutex
	conns  map[*client]struct{} // guarded by mu, as all below
	topics map[string]*topic
	closed bool
}

type topic struct {
	backlog  []*message // published while there was no channel
	channels map[string]*channel
}

type channel struct {
	ready    []*message
	deferred map[*message]time.Time
	inFlight map[[16]byte]*message
	clients  []*client
}

type message struct {
	id       [16]byte
	stored   int64
	attempts uint16
	body     []byte
	wait     time.Duration // of a DPUB

	owner     *client // while it is in flight, as the rest
	delivered time.Time
	until     time.Time
}

// Start starts a server on loopback, which ends with the test.
func Start(tb testing.TB, limits Limits) *Server {
	tb.Helper()
	if limits.MaxReqTimeout == 0 {
		limits.MaxReqTimeout = time.Hour
	}
	if limits.MaxMsgTimeout == 0 {
		limits.MaxMsgTimeout = 15 * time.Minute
	}
	if limits.MaxMsgSize == 0 {
		limits.MaxMsgSize = 1 << 20
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{
		Addr: tcp.Addr().String(), Web: web.Addr().String(), limits: limits, tcp: tcp, ended: make(chan struct{}),
		conns: make(map[*client]struct{}), topics: make(map[string]*topic),
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serveHTTP)}
	s.going.Go(func() { _ = s.http.Serve(web) })
	s.going.Go(s.accept)
	s.going.Go(s.scan)
	tb.Cleanup(s.close)
	return s
}

// URL is what linda.NewBroker takes.
func (s *Server) URL() string { return "nsq://" + s.Addr + "?http=" + s.Web }

func (s *Server) close() {
	_ = s.http.Close()
	_ = s.tcp.Close()
	close(s.ended)
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.net.Close()
	}
	s.mu.Unlock()
	s.going.Wait()
}

func (s *Server) accept() {
	for {
		nc, err := s.tcp.Accept()
		if err != nil {
			return
		}
		c := newClient(s, nc)
		s.mu.Lock()
		if s.closed {
			_ = nc.Close()
		} else {
			s.conns[c] = struct{}{}
		}
		s.mu.Unlock()
		s.going.Go(c.read)
		s.going.Go(c.write)
	}
}

// scan makes ready what is due, and what was in flight for too long.
func (s *Server) scan() {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.ended:
			return
		case now := <-ticker.C:
			s.mu.Lock()
			for _, t := range s.topics {
				for _, ch := range t.channels {
					ch.look(now)
				}
			}
			s.mu.Unlock()
		}
	}
}

func (ch *channel) look(now time.Time) {
	for m, due := range ch.deferred {
		if !due.After(now) {
			delete(ch.deferred, m)
			ch.ready = append(ch.ready, m)
		}
	}
	for id, m := range ch.inFlight {
		if !m.until.After(now) {
			delete(ch.inFlight, id)
			m.owner.inFlight--
			ch.ready = append(ch.ready, m)
		}
	}
	ch.pump()
}

// pump sends what is ready to clients that are. It needs the mutex of the server.
func (ch *channel) pump() {
	for len(ch.ready) > 0 {
		i := slices.IndexFunc(ch.clients, func(c *client) bool { return c.inFlight < c.rdy })
		if i < 0 {
			return
		}
		c := ch.clients[i]
		ch.clients = append(slices.Delete(ch.clients, i, i+1), c) // the others first, the next time
		m := ch.ready[0]
		ch.ready = ch.ready[1:]
		now := time.Now()
		m.attempts++
		m.owner, m.delivered, m.until = c, now, now.Add(c.msgTimeout)
		ch.inFlight[m.id] = m
		c.inFlight++
		frame := binary.BigEndian.AppendUint64(nil, uint64(m.stored))
		frame = binary.BigEndian.AppendUint16(frame, m.attempts)
		c.send(2, append(append(frame, m.id[:]...), m.body...))
	}
}

// topic returns a topic, and makes it. It needs mu.
func (s *Server) topic(name string) *topic {
	t := s.topics[name]
	if t == nil {
		t = &topic{channels: make(map[string]*channel)}
		s.topics[name] = t
	}
	return t
}

func (t *topic) channel(name string) *channel {
	ch := t.channels[name]
	if ch == nil {
		ch = &channel{deferred: make(map[*message]time.Time), inFlight: make(map[[16]byte]*message)}
		t.channels[name] = ch
		for _, m := range t.backlog {
			ch.put(m)
		}
		t.backlog = nil
	}
	return ch
}

func (ch *channel) put(m *message) {
	if m.wait > 0 { // its clock begins with the channel
		ch.deferred[m] = time.Now().Add(m.wait)
		return
	}
	ch.ready = append(ch.ready, m)
	ch.pump()
}

// publish stores bodies.
func (s *Server) publish(name string, wait time.Duration, bodies ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topic(name)
	for _, body := range bodies {
		stored := message{stored: time.Now().UnixNano(), body: body, wait: wait}
		binary.BigEndian.PutUint64(stored.id[:], 0x3030303030303030)
		for i, n := len(stored.id)-1, s.ids.Add(1); i >= 8; i, n = i-1, n/10 {
			stored.id[i] = '0' + byte(n%10)
		}
		if len(t.channels) == 0 {
			t.backlog = append(t.backlog, &stored)
		}
		for _, ch := range t.channels { // each has its own
			m := stored
			ch.put(&m)
		}
	}
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	var answer any
	switch name, isOption := strings.CutPrefix(r.URL.Path, "/config/"); {
	case isOption && name == "max_req_timeout":
		answer = s.limits.MaxReqTimeout
	case isOption && name == "max_msg_size":
		answer = s.limits.MaxMsgSize
	case isOption && name == "mem_queue_size":
		answer = 10000
	case r.URL.Path == "/stats":
		answer = s.stats(r.URL.Query().Get("topic"))
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) stats(only string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	topics := []any{}
	for name, t := range s.topics {
		if only != "" && name != only {
			continue
		}
		channels := []any{}
		for chName, ch := range t.channels {
			clients := []any{}
			for _, c := range ch.clients {
				clients = append(clients, map[string]any{
					"client_id": c.id, "ready_count": c.rdy, "in_flight_count": c.inFlight,
					"finish_count": c.finished, "requeue_count": c.requeued,
				})
			}
			channels = append(channels, map[string]any{
				"channel_name": chName, "depth": len(ch.ready), "in_flight_count": len(ch.inFlight),
				"deferred_count": len(ch.deferred), "clients": clients,
			})
		}
		topics = append(topics, map[string]any{"topic_name": name, "depth": len(t.backlog), "channels": channels})
	}
	return map[string]any{"topics": topics}
}
