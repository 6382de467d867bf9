//go:build unix

package linda

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// redisLookFor is for how long an answer is looked for before the runtime waits for
// it: as long as an exchange of a dozen pushes takes.
const redisLookFor = 60 * time.Microsecond

// lookingConn looks for answers itself, for a moment, while pushes of several
// goroutines travel together. All of them wait for the same answer, so no CPU
// would have anything to do and all would fall asleep; to wake one takes as long
// as the server needs for the exchange. Other goroutines run between two looks.
type lookingConn struct {
	net.Conn
	raw   syscall.RawConn
	while *atomic.Int64
}

// looking returns a connection that looks for answers while a number is above 0,
// or the same one where that cannot be, as with TLS.
func looking(conn net.Conn, while *atomic.Int64) net.Conn {
	if sys, ok := conn.(syscall.Conn); ok {
		if raw, err := sys.SyscallConn(); err == nil {
			return &lookingConn{conn, raw, while}
		}
	}
	return conn
}

// SyscallConn is for go-redis, which looks whether an idle connection is alive.
func (c *lookingConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

func (c *lookingConn) Read(p []byte) (int, error) {
	if c.while.Load() > 0 {
		for until := time.Now().Add(redisLookFor); time.Now().Before(until); runtime.Gosched() {
			n, again := c.look(p)
			if n > 0 {
				return n, nil
			}
			if !again {
				break
			}
		}
	}
	return c.Conn.Read(p)
}

// look reads what is there, and reports whether it is worth while to look again.
// Where it is not, Read tells why.
func (c *lookingConn) look(p []byte) (n int, again bool) {
	err := c.raw.Read(func(fd uintptr) bool {
		var err error
		n, err = syscall.Read(int(fd), p)
		again = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
		return true
	})
	return n, again && err == nil
}
