package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// The pause after a connection could not be made.
const (
	firstPause = 20 * time.Millisecond
	mostPause  = 500 * time.Millisecond
)

// missedHeartbeats is after how many heartbeats that did not come a connection is
// taken for broken.
const missedHeartbeats = 3

// line is a connection that is made anew when it has broken. Each connection
// is a link, and what belongs to one is never used with another: so a receipt
// of an old link cannot settle a delivery of the next, whose tags begin anew.
type line struct {
	config  *config
	name    string            // what operators see on the server
	equip   func(*link) error // makes what a new link needs
	life    context.Context   // ends when the broker is closed
	running sync.WaitGroup    // dials
	mu      sync.Mutex        // guards what follows
	current *link             // the last one that was made
	dialing chan struct{}     // closed when the attempt under way is over; nil: there is none
	failed  error             // of the last attempt
	pause   time.Duration     // after the next failure
	again   time.Time         // not to be tried before
	host    int               // which address is the next to try
}

// link is one connection to the server.
type link struct {
	conn     *amqp.Connection
	socket   *socket
	life     context.Context // ends when it has broken
	outlet   *outlet         // of the line for publishing
	seats    atomic.Int64    // how many channels taps have or may open
	declared declared        // what is known to be on the server, of the other line
}

// get returns the link, and makes it where there is none.
func (l *line) get(ctx context.Context) (*link, error) {
	waited := false
	for {
		l.mu.Lock()
		if l.life.Err() != nil {
			l.mu.Unlock()
			return nil, linda.ErrClosed
		}
		if l.current != nil && !l.current.broken() {
			defer l.mu.Unlock()
			return l.current, nil
		}
		if l.failed != nil && (waited || time.Now().Before(l.again)) && l.dialing == nil {
			defer l.mu.Unlock()
			return nil, l.failed
		}
		if l.dialing == nil {
			l.dialing = make(chan struct{})
			l.running.Go(l.dial)
		}
		dialing := l.dialing
		l.mu.Unlock()
		select {
		case <-dialing:
			waited = true
		case <-ctx.Done():
			return nil, fmt.Errorf("linda/rabbitmq: connect: %w", ctx.Err())
		}
	}
}

// dial makes one attempt, at the next address.
func (l *line) dial() {
	l.mu.Lock()
	addr := l.config.addrs[l.host%len(l.config.addrs)]
	l.host++
	l.mu.Unlock()
	link, err := l.connect(addr)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.life.Err() != nil { // close does not know of it
		_ = link.socket.Close()
		err = linda.ErrClosed
	}
	if err == nil {
		l.current, l.failed, l.pause = link, nil, 0
		l.host-- // it is a good one
	} else {
		l.failed = explain("connect", err)
		l.pause = min(max(2*l.pause, firstPause), mostPause)
		l.again = time.Now().Add(l.pause/2 + rand.N(l.pause/2))
	}
	close(l.dialing)
	l.dialing = nil
}

func (l *line) connect(addr string) (*link, error) {
	ctx, cancel := context.WithTimeout(l.life, l.config.connectTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// The handshake cannot be interrupted but by closing the connection.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	wire := conn
	if l.config.tls != nil {
		secured := l.config.tls.Clone()
		if secured.ServerName == "" {
			secured.ServerName, _, _ = net.SplitHostPort(addr)
		}
		client := tls.Client(conn, secured)
		if err := client.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		wire = client
	}
	k := &link{socket: newSocket(wire, missedHeartbeats*l.config.heartbeat)}
	k.conn, err = amqp.Open(k.socket, l.config.client(l.name))
	if err != nil {
		_ = k.socket.Close()
		return nil, err
	}
	life, broken := context.WithCancel(l.life)
	k.life, k.declared.life = life, life
	closed := k.conn.NotifyClose(make(chan *amqp.Error, 1))
	l.running.Go(func() {
		for range closed {
		}
		_ = k.socket.Close()
		broken()
	})
	if err := l.equip(k); err != nil {
		_ = k.socket.Close()
		return nil, err
	}
	if !stop() {
		return nil, fmt.Errorf("the server takes too long to answer: %w", context.Cause(ctx))
	}
	return k, nil
}

// client is the configuration of the client library. Its own recovery is off:
// it goes on using old delivery tags on a new connection.
func (c *config) client(name string) amqp.Config {
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(name)
	return amqp.Config{
		SASL:       []amqp.Authentication{&amqp.PlainAuth{Username: c.user, Password: c.password}},
		Vhost:      c.vhost,
		Heartbeat:  c.heartbeat,
		FrameSize:  131072,
		Properties: properties,
		Locale:     "en_US",
	}
}

// close ends the link in good order, as far as the server answers in time.
func (l *line) close(limit time.Duration) {
	l.mu.Lock()
	link := l.current
	l.mu.Unlock()
	if link != nil {
		cut := time.AfterFunc(limit, func() { _ = link.socket.Close() })
		_ = link.conn.Close()
		cut.Stop()
		_ = link.socket.Close()
	}
	l.running.Wait()
}

// seat takes the places of n channels of a tap. A quarter of the channels are for
// questions that each need one for a moment.
func (k *link) seat(n int64) bool {
	if k.seats.Add(n) <= max(tapSeats, int64(k.conn.Config.ChannelMax)*3/4) {
		return true
	}
	k.seats.Add(-n)
	return false
}

func (k *link) unseat(n int64) { k.seats.Add(-n) }

func (k *link) broken() bool {
	return k.life.Err() != nil || k.conn.IsClosed()
}

// on calls f with a channel of its own, and returns by ctx. The server answers
// an error by closing the channel.
func (k *link) on(ctx context.Context, what string, f func(*amqp.Channel) error) error {
	done := make(chan error, 1)
	go func() { // ends with the answer, or with the link
		ch, err := k.conn.Channel()
		if err == nil {
			err = f(ch)
			if err == nil && ctx.Err() == nil {
				done <- nil
			}
			_ = ch.Close()
		}
		select {
		case done <- err:
		default:
		}
	}()
	select {
	case err := <-done:
		return explain(what, err)
	case <-ctx.Done():
		return fmt.Errorf("linda/rabbitmq: %s: %w", what, ctx.Err())
	}
}

// errNotFound means that something is not on the server, or not yet: while it writes
// down a new queue, or finds its queues again after a start, it says so of queues that
// are about to be there.
var errNotFound = errors.New("the server does not find it")

// explain makes an error of the client one of linda.
func explain(what string, err error) error {
	var refused *amqp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBroken), errors.Is(err, errNotFound), errors.Is(err, linda.ErrClosed), errors.Is(err, linda.ErrUnknown), errors.Is(err, linda.ErrFull):
		return err
	case errors.Is(err, amqp.ErrCredentials), errors.Is(err, amqp.ErrSASL), errors.Is(err, amqp.ErrVhost):
		return fmt.Errorf("%w: rabbitmq: %s: %v", linda.ErrDenied, what, err)
	case errors.As(err, &refused) && (refused.Code == amqp.AccessRefused || refused.Code == amqp.NotAllowed):
		return fmt.Errorf("%w: rabbitmq: %s: %s", linda.ErrDenied, what, refused.Reason)
	case errors.As(err, &refused) && refused.Code == amqp.NotFound:
		return fmt.Errorf("linda/rabbitmq: %s: %w: %s", what, errNotFound, refused.Reason)
	case errors.As(err, &refused):
		return fmt.Errorf("linda/rabbitmq: %s: the server says %d %s", what, refused.Code, refused.Reason)
	}
	return fmt.Errorf("linda/rabbitmq: %s: %w", what, err)
}
