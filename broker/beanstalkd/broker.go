package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	neturl "net/url"
	"sync"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/lease"
)

func init() {
	for _, scheme := range []string{"beanstalkd", "beanstalk"} {
		linda.RegisterBroker(scheme, func() linda.Broker { return newBroker() })
	}
}

const (
	// callLimit is how long a call takes at most whose caller has set no limit.
	callLimit = 5 * time.Second
	// bookkeeping is how many bytes of the server's job size a push leaves free,
	// for what a settlement adds to the body.
	bookkeeping = 2 << 10
	// maxDelay is what the protocol can express.
	maxDelay = math.MaxUint32 * time.Second
	// renewEvery is how often held jobs are looked at: at least three times in
	// the shortest time to run that the server knows, one second.
	renewEvery = 300 * time.Millisecond
)

// broker keeps a queue in the tube of its name.
type broker struct {
	linda.NineMethods

	config config
	maxJob int
	binlog bool // the server keeps its jobs on disk
	notes  []string
	keeper *lease.Keeper[*reservation]
	puts   *line // for what is stored
	looks  *line // for Inspector, so that a long look delays no push

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup // every goroutine; begun under mu

	mu     sync.Mutex
	closed bool               // guarded by mu, as all below
	conns  map[*conn]struct{} // that are open
	tubes  map[string]*tube   // that jobs were fetched from
	dialAt time.Time          // when to dial again after dialing has failed
	pause  time.Duration      // how long to wait after the next failure
	down   error              // why dialing failed
}

func newBroker() *broker {
	b := &broker{conns: make(map[*conn]struct{}), tubes: make(map[string]*tube)}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.puts, b.looks = newLine(b), newLine(b)
	b.Of = b
	return b
}

func (b *broker) Connect(url *neturl.URL) error {
	config, err := readURL(url)
	if err != nil {
		return err
	}
	b.config = config
	b.keeper = lease.New(lease.Options[*reservation]{Every: renewEvery, Renew: b.renew, Return: b.lapse})
	ctx, cancel := context.WithTimeout(b.ctx, callLimit)
	defer cancel()
	ask := &commands{}
	ask.add("stats")
	ask.add("reserve-job", 0)
	answers, err := b.puts.do(ctx, ask)
	if err != nil {
		return fmt.Errorf("linda/beanstalkd: connect to %s: %w", config.addr, err)
	}
	stats := answers[0].data
	b.maxJob = int(field(stats, "max-job-size"))
	switch {
	case answers[0].word != "OK" || b.maxJob <= bookkeeping:
		return fmt.Errorf("linda/beanstalkd: connect to %s: it does not answer like beanstalkd, or takes no job longer than %d bytes",
			config.addr, bookkeeping)
	case answers[1].word != "NOT_FOUND":
		return fmt.Errorf("linda/beanstalkd: connect to %s: version %s has no reserve-job: linda needs 1.12 or newer",
			config.addr, textField(stats, "version"))
	}
	b.binlog = field(stats, "binlog-current-index") > 0
	if !b.binlog {
		b.notes = append(b.notes, "beanstalkd: it runs without -b: a restart of the server loses every job")
	}
	if textField(stats, "draining") == "true" {
		b.notes = append(b.notes, "beanstalkd: it is draining and takes no new jobs")
	}
	return nil
}

func (b *broker) Close() error {
	b.mu.Lock()
	b.closed = true
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	b.stop()
	for _, c := range conns {
		c.fail(errors.New("closed here")) // not ErrClosed: what was sent may be done
	}
	b.running.Wait()
	if b.keeper != nil {
		b.keeper.Close()
	}
	return nil
}

// MigrateExpiredJobs has nothing to do: the server does it.
func (b *broker) MigrateExpiredJobs(string) {}

// Guarantees is what this server promises, as its answers at Connect tell.
func (b *broker) Guarantees() linda.Guarantees {
	return linda.Guarantees{
		LeaseMin:        time.Millisecond,
		DelayMax:        maxDelay,
		DelayResolution: time.Second,
		DelayDurable:    b.binlog,
		Durable:         true,
		AttemptsExact:   true,
		ConfirmedPush:   true,
		ConfirmedDelete: true,
		Ordered:         true,
		BodyMax:         min(linda.MaxBody, b.maxJob-bookkeeping),
		Stats:           []linda.State{linda.Ready, linda.Delayed, linda.Reserved, linda.Dead},
		Notes:           b.notes,
	}
}

// check is what every call looks at before anything else.
func (b *broker) check(ctx context.Context, queue string) error {
	if err := linda.CheckName(queue); err != nil {
		return err
	}
	if b.ctx.Err() != nil {
		return linda.ErrClosed
	}
	return ctx.Err()
}

// begin runs f in a goroutine that Close waits for, and reports whether it does.
func (b *broker) begin(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.running.Go(f)
	return true
}

// dial opens a connection. While the server cannot be reached it tries rarely,
// and tells callers in between at once.
func (b *broker) dial(ctx context.Context) (*conn, error) {
	b.mu.Lock()
	err := b.down
	wait := time.Until(b.dialAt) > 0
	b.mu.Unlock()
	if err != nil && wait {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	nc, err := new(net.Dialer).DialContext(limited, "tcp", b.config.addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		if nc != nil {
			_ = nc.Close()
		}
		return nil, linda.ErrClosed
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		b.pause = min(max(2*b.pause, 10*time.Millisecond), 250*time.Millisecond)
		b.dialAt = time.Now().Add(b.pause/2 + rand.N(b.pause))
		b.down = fmt.Errorf("linda/beanstalkd: %w", err)
		return nil, b.down
	}
	b.down, b.pause = nil, 0
	c := newConn(nc, b.disconnected, &b.running)
	b.conns[c] = struct{}{}
	return c, nil
}

// disconnected ends the reservations of a connection that is gone: the server
// has them back.
func (b *broker) disconnected(c *conn) {
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	now := time.Now()
	b.keeper.Lose(func(r *reservation) bool {
		if r.conn == c {
			r.receipt.Extend(now) // see end
		}
		return r.conn == c
	})
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// reason prefers to say that the broker is closed, where nothing can be unknown.
func (b *broker) reason(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case b.ctx.Err() != nil:
		return linda.ErrClosed
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return ctx.Err()
	}
	return err
}
