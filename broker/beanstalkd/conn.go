package beanstalkd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/amlun/linda"
)

const (
	// patience is how long a connection may owe an answer before it is given
	// up. A server that is merely slow keeps its reservations.
	patience = 30 * time.Second
	// stalled is how long a connection may owe an answer before another takes
	// its place. What it has reserved, and was sent to it, stays with it.
	stalled = 3 * time.Second
	// maxUnsent bounds what waits to be written to a server that reads nothing.
	maxUnsent = 16 << 20
)

// conn is one connection. Whoever has commands adds them to what is to be
// written; the answers come in the same order. So any number of goroutines share
// it without waiting for one another, and one that no longer wants its answers
// leaves the others theirs.
type conn struct {
	net    net.Conn
	ended  func(*conn) // called once, when the connection is gone
	unsent chan struct{}
	gone   chan struct{} // closed with the connection

	mu      sync.Mutex
	out     []byte                  // guarded by mu, as all below: to be written
	pending []*exchange             // which wait for answers
	tube    string                  // in use after all that was sent
	held    map[uint64]*reservation // what this connection has reserved
	asked   time.Time               // when the oldest of pending began to wait
	retired bool                    // to be closed when nothing is pending
	err     error                   // why it is gone

	waiting  bool // guarded by the mutex of its tube: it waits in the server for a job
	draining int  // guarded by the mutex of its tube: how many fetches take jobs on it
}

// commands is a row of commands, sent together.
type commands struct {
	text []byte
	n    int
	tube string        // to use before them; empty where that does not matter
	wait time.Duration // how long the server may wait with its answer, as asked
}

func (c *commands) add(name string, args ...uint64) {
	c.text = append(c.text, name...)
	for _, arg := range args {
		c.text = append(c.text, ' ')
		c.text = strconv.AppendUint(c.text, arg, 10)
	}
	c.text = append(c.text, '\r', '\n')
	c.n++
}

// about adds a command about a tube.
func (c *commands) about(name, tube string) { c.add(name + " " + tube) }

func (c *commands) put(body string, pri uint64, delay uint64, ttr uint64) {
	c.add("put", pri, delay, ttr, uint64(len(body)))
	c.text = append(append(c.text, body...), '\r', '\n')
}

func (c *commands) reserve(n int) {
	for range n {
		c.add("reserve-with-timeout", 0)
	}
}

// exchange is a row of commands that was sent, and the answers.
type exchange struct {
	want    int // answers, that to the use included
	used    int // 1: the first is the answer to a use
	wait    time.Duration
	replies []reply
	err     error         // why they are not all there
	done    chan struct{} // closed when all are there, or err is set

	mu    sync.Mutex
	ended bool            // guarded by mu
	late  func(*exchange) // guarded by mu: has the answers, which nobody waits for
}

func newConn(nc net.Conn, ended func(*conn), running *sync.WaitGroup) *conn {
	c := &conn{
		net: nc, ended: ended, unsent: make(chan struct{}, 1), gone: make(chan struct{}),
		tube: "default", held: make(map[uint64]*reservation),
	}
	running.Go(c.read)
	running.Go(c.write)
	return c
}

// send sends commands without waiting.
func (c *conn) send(cmd *commands) (*exchange, error) {
	x := &exchange{want: cmd.n, wait: cmd.wait, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if len(c.out) > maxUnsent {
		return nil, errBusy
	}
	if cmd.tube != "" && cmd.tube != c.tube {
		c.out = append(append(append(c.out, "use "...), cmd.tube...), "\r\n"...)
		c.tube = cmd.tube
		x.used, x.want = 1, x.want+1
	}
	if x.want == 0 {
		close(x.done)
		return x, nil
	}
	x.replies = make([]reply, 0, x.want)
	c.out = append(c.out, cmd.text...)
	c.pending = append(c.pending, x)
	if len(c.pending) == 1 {
		c.expect()
	}
	select {
	case c.unsent <- struct{}{}:
	default:
	}
	return x, nil
}

// expect limits how long the next answer may take. It needs mu.
func (c *conn) expect() {
	var limit time.Time
	if len(c.pending) > 0 {
		c.asked = time.Now()
		limit = c.asked.Add(c.pending[0].wait + patience)
	}
	_ = c.net.SetReadDeadline(limit)
}

// do sends commands and waits for the answers. If ctx ends first, late has them
// when they come.
func (c *conn) do(ctx context.Context, cmd *commands, late func([]reply)) ([]reply, error) {
	x, err := c.send(cmd)
	if err != nil {
		return nil, err
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		if x.leave(late) {
			return nil, fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
		}
	}
	return x.answers()
}

// tell sends commands and does not wait: then has the answers when they come. It
// reports whether they could be sent.
func (c *conn) tell(cmd *commands, then func([]reply)) bool {
	x, err := c.send(cmd)
	if err != nil {
		return false
	}
	if !x.leave(then) {
		if answers, err := x.answers(); err == nil {
			then(answers)
		}
	}
	return true
}

// answers are those to the commands of an exchange that has ended.
func (x *exchange) answers() ([]reply, error) {
	if x.err != nil {
		return nil, x.err
	}
	return x.replies[x.used:], nil
}

// leave gives up waiting, and reports whether the exchange was still under way.
func (x *exchange) leave(late func([]reply)) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return false
	}
	x.late = func(x *exchange) {
		if replies, err := x.answers(); err == nil && late != nil {
			late(replies)
		}
	}
	return true
}

func (x *exchange) end(err error) {
	x.mu.Lock()
	x.ended, x.err = true, err
	late := x.late
	x.mu.Unlock()
	close(x.done)
	if late != nil {
		late(x)
	}
}

func (c *conn) write() {
	var text []byte
	for {
		select {
		case <-c.gone:
			return
		case <-c.unsent:
		}
		c.mu.Lock()
		text, c.out = c.out, text[:0]
		c.mu.Unlock()
		if _, err := c.net.Write(text); err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *conn) read() {
	r := bufio.NewReaderSize(c.net, 32<<10)
	for {
		answer, err := readReply(r)
		if err == nil {
			err = c.take(answer)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// take hands an answer to the exchange whose turn it is.
func (c *conn) take(answer reply) error {
	c.mu.Lock()
	if len(c.pending) == 0 {
		c.mu.Unlock()
		return errors.New("an answer to nothing")
	}
	x := c.pending[0]
	x.replies = append(x.replies, answer)
	if answer.word == "RESERVED" {
		c.held[answer.id] = &reservation{conn: c, id: answer.id}
	}
	complete := len(x.replies) == x.want
	if complete {
		c.pending[0] = nil
		c.pending = c.pending[1:]
		c.expect()
	}
	over := c.retired && len(c.pending) == 0
	c.mu.Unlock()
	if complete {
		x.end(nil)
	}
	if over {
		return errRetired
	}
	return nil
}

// silent reports whether the connection owes an answer for longer than a limit.
func (c *conn) silent(limit time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending) > 0 && time.Since(c.asked) > c.pending[0].wait+limit
}

// retire has the connection closed as soon as it owes no answer.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	over := len(c.pending) == 0
	c.mu.Unlock()
	if over {
		c.fail(errRetired)
	}
}

// fail closes the connection and ends what waits for answers: whether the server
// has done it is unknown.
func (c *conn) fail(cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = fmt.Errorf("linda/beanstalkd: connection lost: %w", cause)
	pending := c.pending
	c.pending, c.out = nil, nil
	unknown := fmt.Errorf("%w: %w", linda.ErrUnknown, c.err)
	c.mu.Unlock()
	close(c.gone)
	_ = c.net.Close()
	c.ended(c)
	for _, x := range pending {
		x.end(unknown)
	}
}

// lost reports whether the connection is gone.
func (c *conn) lost() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// reserved returns the reservation of a job by this connection.
func (c *conn) reserved(id uint64) *reservation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[id]
}

// holds reports whether it is this reservation by which the connection has the
// job, and not a later one: the server would not know the difference. One that
// is gone has none.
func (c *conn) holds(r *reservation) bool { return !c.lost() && c.reserved(r.id) == r }

func (c *conn) forget(r *reservation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[r.id] == r {
		delete(c.held, r.id)
	}
}

func (c *conn) forgetID(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, id)
}

// idle reports whether the connection has no job and nothing under way. Only
// such a one may wait in the server: what is sent behind waits as well.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held) == 0 && len(c.pending) == 0 && c.err == nil
}

// share is what one of several connections is asked, all at once.
type share struct {
	commands
	x   *exchange
	err error
}

func (s *share) send(c *conn) { s.x, s.err = c.send(&s.commands) }

func (s *share) wait(ctx context.Context) ([]reply, error) {
	if s.err != nil {
		return nil, s.err
	}
	select {
	case <-s.x.done:
		return s.x.answers()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
	}
}
