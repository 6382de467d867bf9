package nsq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	neturl "net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/lease"
)

func init() {
	for _, name := range []string{scheme, schemeTLS} {
		linda.RegisterBroker(name, func() linda.Broker { return newBroker() })
	}
}

const (
	// callLimit is how long a call takes at most whose caller has set no limit.
	callLimit = 5 * time.Second
	// closeLimit is how long Close may take to give back what is in hand.
	closeLimit = 400 * time.Millisecond
	leaseMin   = 10 * time.Millisecond
	// bookkeeping is how many bytes of the server's message size a push leaves
	// free, for what a settlement adds to the body.
	bookkeeping = 2 << 10
	maxDelay    = time.Duration(math.MaxInt64)
	// renewEvery is how often held jobs are looked at: three times in the
	// shortest time-out that the server knows, one second.
	renewEvery = 300 * time.Millisecond
)

// broker keeps a queue in the topic of its name.
type broker struct {
	linda.NineMethods

	config *config
	keeper *lease.Keeper[*delivery]
	web    *http.Client
	notes  []string
	life   context.Context // of calls; ends when Close begins
	die    context.CancelFunc
	wires  context.Context // of the connections; ends when Close has given back what it can
	cut    context.CancelFunc
	once   sync.Once // closes

	connected atomic.Bool

	closed chan struct{}
	opened chan struct{} // told when there is a new tap

	browsing chan struct{} // holds one: whoever looks at dead jobs

	going sync.WaitGroup // every goroutine; begun under mu

	mu      sync.Mutex
	ended   bool               // guarded by mu, as all below: no goroutine begins any more
	servers []*server          // those of the URL first, then those that were looked up
	taps    map[string]*tap    // by linda's name of the queue
	conns   map[*conn]struct{} // that are open
}

func newBroker() *broker {
	b := &broker{taps: make(map[string]*tap), conns: make(map[*conn]struct{}), closed: make(chan struct{}), opened: make(chan struct{}, 1), browsing: make(chan struct{}, 1)}
	b.Of = b
	b.life, b.die = context.WithCancel(context.Background())
	b.wires, b.cut = context.WithCancel(context.Background())
	return b
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

// Connect is that of a [linda.Broker]. One of several servers has to answer.
func (b *broker) Connect(url *neturl.URL) error {
	config, err := readURL(url)
	if err != nil {
		return err
	}
	b.config = config
	b.web = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, TLSClientConfig: config.tls}}
	b.keeper = lease.New(lease.Options[*delivery]{Every: renewEvery, Renew: b.renew, Return: b.lapse})
	for i, addr := range config.hosts {
		web := ""
		if len(config.http) > 0 {
			web = config.http[i]
		}
		b.servers = append(b.servers, newServer(b, addr, web))
	}
	ctx, cancel := context.WithTimeout(b.life, callLimit)
	defer cancel()
	errs := make([]error, len(b.servers))
	var all sync.WaitGroup
	for i, s := range b.servers {
		all.Go(func() {
			if _, errs[i] = s.publisher(ctx); errs[i] == nil {
				s.askLimits(ctx)
			}
		})
	}
	all.Wait()
	var up []*server
	for i, err := range errs {
		if err == nil {
			up = append(up, b.servers[i])
		}
	}
	if len(up) == 0 {
		return fmt.Errorf("linda/nsq: connect: %w", errors.Join(errs...))
	}
	b.note(up)
	b.connected.Store(true)
	if len(config.lookupd) > 0 {
		b.begin(b.lookUp)
	}
	return nil
}

// note writes down what an operator should know.
func (b *broker) note(up []*server) {
	b.notes = []string{
		"nsq: nsqd is not replicated, and when it is killed, or its machine fails, the jobs that are delayed, reserved or in its memory are lost",
		"nsq: after nsqd stops and starts in order the jobs are there, and none runs before it is due",
		"nsq: the time of a delay is that of the machine that pushed the job: clocks have to agree",
		"nsq: with more than 20 queues delays may be late by more than 100 ms, unless nsqd has a larger -queue-scan-selection-count",
		"nsq: a job that is released, delayed or buried is published anew before the old copy is removed: a crash between the two leaves both",
		"nsq: the jobs of a process that dies are ready again after the msg_timeout of the URL, or after their reservation where that is shorter",
	}
	for _, s := range up {
		l := s.known()
		switch {
		case !l.asked:
			b.notes = append(b.notes, fmt.Sprintf("nsq: %s does not tell its settings over HTTP, so its -max-req-timeout is taken for %v and its -max-msg-size for %d, and its jobs cannot be counted", s.addr, l.maxReq, l.maxSize))
		case l.memory > 0:
			b.notes = append(b.notes, fmt.Sprintf("nsq: %s keeps up to %d ready jobs of a queue in memory alone; -mem-queue-size=0 has them on disk", s.addr, l.memory))
		}
	}
}

// Close is that of a [linda.Broker]. The jobs that were popped and not settled
// become READY at once.
func (b *broker) Close() error {
	b.once.Do(func() {
		defer close(b.closed)
		b.die()
		if b.keeper != nil {
			b.keeper.Close()
			b.giveAllBack()
		}
		b.mu.Lock()
		b.ended = true
		conns := make([]*conn, 0, len(b.conns))
		for c := range b.conns {
			conns = append(conns, c)
		}
		b.mu.Unlock()
		b.cut()
		for _, c := range conns {
			c.fail(errors.New("closed here")) // not ErrClosed: what was sent may be done
		}
		b.going.Wait()
		if b.web != nil {
			b.web.CloseIdleConnections()
		}
	})
	<-b.closed
	return nil
}

// MigrateExpiredJobs has nothing to do: the server moves what is due, and the
// keeper what is not settled in time.
func (b *broker) MigrateExpiredJobs(string) {}

// begin runs f in a goroutine that Close waits for, and reports whether it does.
func (b *broker) begin(f func()) bool {
	return b.run(func(going *sync.WaitGroup) { going.Go(f) })
}

func (b *broker) run(start func(going *sync.WaitGroup)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		start(&b.going)
	}
	return !b.ended
}

// beginConn starts a connection, and remembers it until it is gone.
func (b *broker) beginConn(c *conn, to receiver) bool {
	return b.run(func(going *sync.WaitGroup) {
		b.conns[c] = struct{}{}
		c.begin(going, to)
		going.Go(func() {
			<-c.gone
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	})
}

// check is what every call on a queue begins with.
func (b *broker) check(ctx context.Context, queue string) error {
	return cmp.Or(linda.CheckName(queue), b.usable(ctx))
}

func (b *broker) usable(ctx context.Context) error {
	if b.life.Err() != nil || b.keeper == nil {
		return linda.ErrClosed
	}
	return ctx.Err()
}

// limited returns a ctx that ends after five seconds where it had no end.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ends := ctx.Deadline(); ends {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// sleep waits, and reports whether ctx lasted so long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// closedOr returns ErrClosed in place of an error that came of Close, unless it
// is unknown what was done.
func (b *broker) closedOr(err error) error {
	if err != nil && b.life.Err() != nil && !errors.Is(err, linda.ErrUnknown) {
		return linda.ErrClosed
	}
	return err
}

// all are the servers that are known now.
func (b *broker) all() []*server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.servers[:len(b.servers):len(b.servers)]
}

// ready and dead are the server's names of a queue. No name of a queue begins
// with an underscore, so none is like the name of another's dead.
func ready(queue string) string { return queue }

func dead(queue string) string { return deadPrefix + queue }

const deadPrefix = "_dl." // with a name of 60 characters 64, the server's limit

// leaseMax is the longest reservation. The server counts from a moment before
// the message came here.
func (b *broker) leaseMax() time.Duration {
	most := time.Duration(math.MaxInt64)
	for _, s := range b.all() {
		most = min(most, s.known().maxMsgTimeout)
	}
	return most - min(most/6, time.Second)
}

// maxSize is the longest message that every server takes.
func (b *broker) maxSize() int {
	most := math.MaxInt
	for _, s := range b.ofURL() {
		most = min(most, s.known().maxSize)
	}
	return most
}

// Guarantees is that of a [linda.Guarantor].
func (b *broker) Guarantees() linda.Guarantees {
	g := linda.Guarantees{
		LeaseMin:        leaseMin,
		LeaseMax:        b.leaseMax(),
		DelayMax:        maxDelay,
		DelayResolution: time.Millisecond,
		Durable:         true,
		AttemptsExact:   true,
		ConfirmedPush:   true,
		BodyMax:         min(linda.MaxBody, b.maxSize()-bookkeeping),
		Notes:           b.notes,
	}
	if len(b.config.http) > 0 {
		g.Stats = []linda.State{linda.Ready, linda.Delayed, linda.Reserved, linda.Dead}
	}
	return g
}
