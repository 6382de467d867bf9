package nsq

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/amlun/linda"
)

const (
	bufferSize = 64 << 10
	// maxUnsent bounds what waits to be written to a server that reads nothing.
	maxUnsent = 32 << 20
	// mostSpare bounds the memory that is kept for the next bytes.
	mostSpare = 1 << 20
)

var (
	errSilent = errors.New("nsqd is silent")
	errBusy   = errors.New("nsqd reads nothing, and much waits to be sent")
)

// conn is one connection. Whoever has commands adds them to what is to be
// written, and does not wait for the server.
type conn struct {
	id     string // by which the server's statistics name it
	net    net.Conn
	reader *bufio.Reader
	hello  hello
	limit  time.Duration // how long the server may be silent
	unsent chan struct{}
	gone   chan struct{} // closed with the connection

	mu      sync.Mutex
	out     []byte        // guarded by mu, as all below: to be written
	queued  uint64        // bytes that were ever added to it
	written uint64        // of these, those that the system has taken
	wrote   chan struct{} // not nil: closed when there are more of them
	err     error         // why the connection is gone
}

// hello is what the server tells when it is greeted.
type hello struct {
	Version       string `json:"version"`
	MaxRdy        int    `json:"max_rdy_count"`
	MaxMsgTimeout int64  `json:"max_msg_timeout"` // ms
	MsgTimeout    int64  `json:"msg_timeout"`     // ms
	TLS           bool   `json:"tls_v1"`
	AuthRequired  bool   `json:"auth_required"`
}

// receiver has what a connection brings. Its methods are called one at a time.
type receiver interface {
	response(text string)
	refused(err *serverError)
	message(m message)
	paused()         // nothing more has come for now
	ended(err error) // the connection is gone
}

// dial opens a connection and greets the server; its messages time out after
// msgTimeout, or as the server has it where that is 0.
func dial(ctx context.Context, addr string, config *config, msgTimeout time.Duration) (*conn, error) {
	c, err := dialWith(ctx, addr, config, msgTimeout, flushAfter)
	var refused *serverError
	if errors.As(err, &refused) && strings.Contains(refused.text, "output buffer timeout") { // its own minimum is longer
		c, err = dialWith(ctx, addr, config, msgTimeout, 0)
	}
	return c, err
}

// flushAfter is how long the server may keep messages in its buffer: the least
// that it takes by its defaults. See feed for why it seldom comes to that.
const flushAfter = 25 * time.Millisecond

func dialWith(ctx context.Context, addr string, config *config, msgTimeout, flush time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, config.connectLimit)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{
		id: "linda-" + rand.Text()[:16], net: nc, limit: config.heartbeat * 5 / 2,
		unsent: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	c.reader = bufio.NewReaderSize(nc, bufferSize)
	defer context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })()
	if err := c.greet(ctx, addr, config, msgTimeout, flush); err != nil {
		_ = c.net.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errSilent, ctx.Err())
		}
		return nil, err
	}
	return c, nil
}

// greet says who this is, and what it wants.
func (c *conn) greet(ctx context.Context, addr string, config *config, msgTimeout, flush time.Duration) error {
	who, err := json.Marshal(map[string]any{
		"client_id": c.id, "hostname": hostname(), "user_agent": "linda", "feature_negotiation": true,
		"heartbeat_interval": config.heartbeat.Milliseconds(), "msg_timeout": milliseconds(msgTimeout),
		"output_buffer_timeout": milliseconds(flush), "tls_v1": config.tls != nil,
	})
	if err != nil {
		return err
	}
	answer, err := c.ask(appendSized([]byte(magic+"IDENTIFY\n"), string(who)))
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(answer), &c.hello); err != nil {
		return errors.New("it does not answer like nsqd")
	}
	if config.tls != nil {
		if err := c.encrypt(ctx, addr, config.tls); err != nil {
			return err
		}
	}
	if config.secret == "" && c.hello.AuthRequired {
		return fmt.Errorf("%w: nsqd asks for an auth_secret", linda.ErrDenied)
	}
	if config.secret != "" && c.hello.AuthRequired {
		_, err = c.ask(appendSized([]byte("AUTH\n"), config.secret))
	}
	return err
}

func (c *conn) encrypt(ctx context.Context, addr string, config *tls.Config) error {
	if !c.hello.TLS {
		return errors.New("nsqd offers no TLS")
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(c.net, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	c.net = secure
	c.reader.Reset(secure)
	_, err := c.answer() // OK
	return err
}

// ask sends a command and returns the answer, before the connection is begun.
func (c *conn) ask(command []byte) (string, error) {
	if _, err := c.net.Write(command); err != nil {
		return "", err
	}
	return c.answer()
}

func (c *conn) answer() (string, error) {
	for {
		f, err := readFrame(c.reader)
		switch {
		case err != nil:
			return "", err
		case f.kind == frameError:
			return "", readError(f.text)
		case f.text != heartbeat && f.kind == frameResponse:
			return f.text, nil
		}
	}
}

// subscribe asks for the messages of a topic, and makes its channel.
func (c *conn) subscribe(ctx context.Context, topic, channel string) error {
	defer context.AfterFunc(ctx, func() { _ = c.net.SetDeadline(time.Unix(1, 0)) })()
	_, err := c.ask(appendSUB(nil, topic, channel))
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", errSilent, ctx.Err())
	}
	return err
}

// begin starts to read and to write.
func (c *conn) begin(running *sync.WaitGroup, to receiver) {
	_ = c.net.SetDeadline(time.Time{})
	running.Go(func() { c.read(to) })
	running.Go(c.write)
}

func (c *conn) read(to receiver) {
	defer func() { to.ended(c.why()) }()
	for {
		if !nextIsHere(c.reader) {
			to.paused()
			_ = c.net.SetReadDeadline(time.Now().Add(c.limit))
		}
		f, err := readFrame(c.reader)
		switch {
		case err != nil:
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				err = errSilent
			}
			c.fail(err)
			return
		case f.kind == frameMessage:
			to.message(f.message)
		case f.kind == frameError:
			to.refused(readError(f.text))
		case f.text == heartbeat:
			_ = c.send(func(out []byte) []byte { return append(out, "NOP\n"...) })
		default:
			to.response(f.text)
		}
	}
}

// send adds commands to what is to be written.
func (c *conn) send(add func(out []byte) []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if len(c.out) > maxUnsent {
		return errBusy
	}
	before := len(c.out)
	c.out = add(c.out)
	c.queued += uint64(len(c.out) - before)
	select {
	case c.unsent <- struct{}{}:
	default: // it is being told already
	}
	return nil
}

func (c *conn) write() {
	var sending []byte
	for {
		select {
		case <-c.unsent:
		case <-c.gone:
			return
		}
		c.mu.Lock()
		sending, c.out = c.out, sending[:0]
		c.mu.Unlock()
		n, err := c.net.Write(sending)
		c.mu.Lock()
		c.written += uint64(n)
		if c.wrote != nil {
			close(c.wrote)
			c.wrote = nil
		}
		c.mu.Unlock()
		if err != nil {
			c.fail(err)
			return
		}
		if cap(sending) > mostSpare {
			sending = nil
		}
	}
}

// flushed waits until the system has taken all that was sent so far.
func (c *conn) flushed(ctx context.Context) error {
	c.mu.Lock()
	mark := c.queued
	for c.written < mark && c.err == nil {
		if c.wrote == nil {
			c.wrote = make(chan struct{})
		}
		wrote := c.wrote
		c.mu.Unlock()
		select {
		case <-wrote:
		case <-c.gone:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if c.written < mark {
		return c.err
	}
	return nil
}

// fail ends the connection.
func (c *conn) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err, c.out = err, nil
	}
	c.mu.Unlock()
	if first {
		close(c.gone)
		_ = c.net.Close()
	}
}

func (c *conn) lost() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// why tells why the connection is gone.
func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
