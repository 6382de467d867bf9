package rabbitmq

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// socket is a connection whose Write never waits for the server: it leaves the
// bytes to a goroutine, which sends what has come together meanwhile in one
// go. The client library writes every frame on its own, and cannot be
// interrupted while it does.
//
// What waits is bounded by those who write: jobs by the window of the outlet,
// all else is short.
//
// It is no [net.Conn], for the client would set a deadline at every frame that it
// reads, and wake a goroutine to do so. Here it is set when the server is asked for
// more bytes.
type socket struct {
	conn    net.Conn
	in      *bufio.Reader
	silence time.Duration // how long the server may send nothing, not even a heartbeat
	wake    chan struct{}
	done    chan struct{} // closed when the goroutine has ended
	once    sync.Once     // closes conn

	mu     sync.Mutex
	buffer []byte // guarded by mu: to be sent
	err    error  // guarded by mu: why nothing can be sent any more
}

// readAhead is how many bytes are read at once; the client asks for 4 KiB.
const readAhead = 32 << 10

func newSocket(conn net.Conn, silence time.Duration) *socket {
	s := &socket{
		conn: conn, in: bufio.NewReaderSize(conn, readAhead), silence: silence,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go s.send()
	return s
}

// Read is for one goroutine at a time.
func (s *socket) Read(p []byte) (int, error) {
	if s.in.Buffered() == 0 {
		if err := s.conn.SetReadDeadline(time.Now().Add(s.silence)); err != nil {
			return 0, err
		}
	}
	return s.in.Read(p)
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
		if _, err := s.conn.Write(sending); err != nil {
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
	s.once.Do(func() { _ = s.conn.Close() })
}

// Close ends the connection at once; what waits to be sent is lost. It does not
// wait for the goroutine, which ends with it.
func (s *socket) Close() error {
	s.fail(net.ErrClosed)
	s.wakeUp()
	return nil
}
