package rabbitmq

import (
	"net"
	"sync"
)

// socket is a connection whose Write never waits for the server: it leaves the
// bytes to a goroutine, which sends what has come together meanwhile in one
// go. The client library writes every frame on its own, and cannot be
// interrupted while it does.
//
// What waits is bounded by those who write: jobs by the window of the outlet,
// all else is short.
type socket struct {
	net.Conn
	wake chan struct{}
	done chan struct{} // closed when the goroutine has ended
	once sync.Once     // closes Conn

	mu     sync.Mutex
	buffer []byte // guarded by mu: to be sent
	err    error  // guarded by mu: why nothing can be sent any more
}

func newSocket(conn net.Conn) *socket {
	s := &socket{Conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.send()
	return s
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.buffer = append(s.buffer, p...)
	if len(s.buffer) == len(p) {
		s.wakeUp()
	}
	return len(p), nil
}

func (s *socket) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it is being told already
	}
}

// mostSpare bounds the memory that is kept for the next bytes.
const mostSpare = 1 << 20

func (s *socket) send() {
	defer close(s.done)
	var sending []byte
	for range s.wake {
		s.mu.Lock()
		if s.err != nil {
			s.mu.Unlock()
			return
		}
		sending, s.buffer = s.buffer, sending[:0]
		s.mu.Unlock()
		if _, err := s.Conn.Write(sending); err != nil {
			s.fail(err)
			return
		}
		if cap(sending) > mostSpare {
			sending = nil
		}
	}
}

// fail ends the connection, so that whoever reads it learns of it.
func (s *socket) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.buffer = nil
	s.mu.Unlock()
	s.once.Do(func() { _ = s.Conn.Close() })
}

// Close ends the connection at once; what waits to be sent is lost. It does not
// wait for the goroutine, which ends with it.
func (s *socket) Close() error {
	s.fail(net.ErrClosed)
	s.wakeUp()
	return nil
}
