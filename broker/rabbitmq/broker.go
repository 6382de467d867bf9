package rabbitmq

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/lease"
)

func init() {
	for _, scheme := range []string{"amqp", "amqps"} {
		linda.RegisterBroker(scheme, func() linda.Broker { return newBroker() })
	}
}

const (
	callLimit  = 5 * time.Second
	closeLimit = 400 * time.Millisecond
	leaseMin   = 10 * time.Millisecond
)

// broker keeps two connections: the server stops reading the one on which jobs
// are published when it is short of memory, and the other must go on.
type broker struct {
	linda.NineMethods

	config  *config
	publish *line
	work    *line // all but publishing; the first of those for taps
	keeper  *lease.Keeper[*delivery]
	life    context.Context // of calls; ends when Close begins
	die     context.CancelFunc
	wires   context.Context // of the connections; ends when Close has given back what it can
	cut     context.CancelFunc
	once    sync.Once // closes
	ended   chan struct{}
	running sync.WaitGroup // what looks after the taps

	mu    sync.Mutex
	taps  map[string]*opening // guarded by mu, by linda's name of the queue
	lines []*line             // guarded by mu: for taps, a further one where one is full
}

// opening is a tap, or the attempt to open it.
type opening struct {
	done chan struct{} // closed when the rest is known
	tap  *tap
	err  error
}

func newBroker() *broker {
	b := &broker{taps: make(map[string]*opening), ended: newSignal()}
	b.Of = b
	b.life, b.die = context.WithCancel(context.Background())
	b.wires, b.cut = context.WithCancel(context.Background())
	return b
}

func newName() string { return "linda-" + rand.Text() }

// Connect is that of a [linda.Broker].
func (b *broker) Connect(url *neturl.URL) error {
	config, err := readURL(url)
	if err != nil {
		return err
	}
	b.config = config
	b.publish = &line{config: config, name: clientName() + " pushes", equip: newOutlet, life: b.wires}
	b.work = b.tapLine(0)
	b.keeper = lease.New(lease.Options[*delivery]{Return: b.expire})
	ctx, cancel := context.WithTimeout(b.life, callLimit)
	defer cancel()
	for range config.addrs { // one of them may be down
		if _, err = b.work.get(ctx); err == nil {
			_, err = b.publish.get(ctx)
		}
		if err == nil {
			return nil
		}
		time.Sleep(firstPause)
	}
	return err
}

// Close is that of a [linda.Broker]. The jobs that were popped and not settled
// become READY at once.
func (b *broker) Close() error {
	b.once.Do(func() {
		defer close(b.ended)
		b.die()
		if b.keeper == nil {
			b.cut()
			return
		}
		b.keeper.Close()
		b.giveAllAway()
		b.cut()
		var lines sync.WaitGroup
		b.mu.Lock()
		works := b.lines
		b.mu.Unlock()
		for _, l := range works {
			lines.Go(func() { l.close(closeLimit) })
		}
		lines.Go(func() { b.publish.close(closeLimit) })
		lines.Wait()
		b.running.Wait()
	})
	<-b.ended
	return nil
}

// giveAllAway hands back the jobs that the server has sent and nobody has
// asked for, so that they do not count as crashed, and acknowledges what is done.
func (b *broker) giveAllAway() {
	b.mu.Lock()
	taps := slices.Collect(maps.Values(b.taps))
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(b.wires, closeLimit/2)
	defer cancel()
	var all sync.WaitGroup
	for _, o := range taps {
		select {
		case <-o.done:
			if o.tap != nil {
				all.Go(func() { o.tap.empty(ctx) })
			}
		default:
		}
	}
	all.Wait()
}

// MigrateExpiredJobs has nothing to do: the server moves what is due, and the
// keeper what is not settled in time.
func (b *broker) MigrateExpiredJobs(string) {}

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

// closedOr returns ErrClosed in place of an error that came of Close.
func (b *broker) closedOr(err error) error {
	if err != nil && b.life.Err() != nil {
		return linda.ErrClosed
	}
	return err
}

// tap returns the tap of a queue, and opens it where there is none.
func (b *broker) tap(ctx context.Context, queue string) (*tap, error) {
	for {
		b.mu.Lock()
		o := b.taps[queue]
		if o == nil && b.life.Err() != nil {
			b.mu.Unlock()
			return nil, linda.ErrClosed
		}
		if o == nil {
			o = &opening{done: newSignal()}
			b.taps[queue] = o
			b.running.Go(func() { b.open(o, queue) })
		}
		b.mu.Unlock()
		select {
		case <-o.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.life.Done():
			return nil, linda.ErrClosed
		}
		if o.err != nil {
			return nil, b.closedOr(o.err)
		}
		if !o.tap.broken() {
			return o.tap, nil
		}
		b.drop(queue, o)
	}
}

func (b *broker) drop(queue string, o *opening) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taps[queue] == o {
		delete(b.taps, queue)
	}
}

// open opens a tap and looks after it until it breaks.
func (b *broker) open(o *opening, queue string) {
	ctx, cancel := context.WithTimeout(b.life, callLimit)
	defer cancel()
	k, err := b.work.get(ctx)
	if err == nil {
		err = b.declareQueue(ctx, k, queue)
	}
	if err == nil {
		o.tap, err = b.newTap(ctx, queue)
	}
	o.err = explain("open queue "+queue, err)
	close(o.done)
	if err != nil {
		b.drop(queue, o)
		return
	}
	o.tap.tend(b.life)
	if b.life.Err() != nil {
		return
	}
	b.drop(queue, o)
	k.declared.forget("queue " + queue) // it may have been deleted
	b.keeper.Lose(func(d *delivery) bool { return d.tap == o.tap })
}

// newTap makes a tap on the first connection that has room for one. The server
// bounds the channels of each.
func (b *broker) newTap(ctx context.Context, queue string) (*tap, error) {
	for i := 0; ; i++ {
		k, err := b.tapLine(i).get(ctx)
		if err != nil {
			return nil, err
		}
		if k.seat(tapSeats) {
			return newTap(k, queue, b.config, b.shed), nil
		}
	}
}

// tapLine returns a line for taps, by its number.
func (b *broker) tapLine(i int) *line {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i == len(b.lines) {
		name := clientName() + " works"
		b.lines = append(b.lines, &line{config: b.config, name: name, equip: func(*link) error { return nil }, life: b.wires})
	}
	return b.lines[i]
}

// clientName is what operators see on the server, before what a connection is for.
func clientName() string { return "linda " + filepath.Base(os.Args[0]) }

// expire gives back the jobs whose reservations have ended.
func (b *broker) expire(deliveries []*delivery) {
	byTap := make(map[*tap][]*delivery)
	for _, d := range deliveries {
		byTap[d.tap] = append(byTap[d.tap], d)
	}
	for t, ds := range byTap {
		t.reject(ds)
	}
}

// Guarantees is that of a [linda.Guarantor].
func (b *broker) Guarantees() linda.Guarantees {
	quorum := b.config.queueType != "classic"
	if b.config.queueType == "" {
		if k, err := b.work.get(context.Background()); err == nil {
			quorum = b.quorum(k)
		}
	}
	return linda.Guarantees{
		LeaseMin:        leaseMin,
		LeaseMax:        b.config.leaseMax(),
		DelayMax:        delayMost,
		DelayResolution: delayUnit,
		DelayDurable:    quorum,
		Durable:         true,
		AttemptsExact:   quorum,
		ConfirmedPush:   true,
		BodyMax:         linda.MaxBody,
		Stats:           []linda.State{linda.Ready, linda.Dead},
		Notes: []string{
			"the server has no reservations: linda keeps them, and the jobs of a process that dies are ready at once",
			fmt.Sprintf("reservations last at most %v, so that the server's consumer_timeout of %v does not end them; where the server's is another, say so by the option consumer_timeout",
				b.config.leaseMax(), b.config.consumerTimeout),
			"a job that is released, delayed or buried is published anew before the old copy is removed: a crash between the two leaves both",
			"what is delayed or reserved cannot be counted, seen or purged",
		},
	}
}
