package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	neturl "net/url"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/lease"
)

const (
	schemePlain = "kafka"
	schemeTLS   = "kafka+tls"

	callLimit = 5 * time.Second // of a call whose context has no earlier deadline
	bodyMax   = 2 << 20         // bytes of a record, bookkeeping included
	leaseMin  = 100 * time.Millisecond
)

func init() {
	for _, scheme := range []string{schemePlain, schemeTLS} {
		linda.RegisterBroker(scheme, func() linda.Broker { return open() })
	}
}

// broker is linda's Kafka.
type broker struct {
	linda.NineMethods
	config *config
	client *kgo.Client // for all but the long waits of the lines
	keeper *lease.Keeper[*delivery]
	ctx    context.Context // ends with Close
	stop   context.CancelCauseFunc
	once   sync.Once
	tasks  sync.WaitGroup // all goroutines

	mu      sync.Mutex
	sources map[string]source // guarded by mu: by queue
	topics  map[string]bool   // guarded by mu: those that are known to exist
	mover   *mover            // guarded by mu
	kicking sync.Mutex        // one Kick at a time, lest two of them kick the same job twice
}

func open() *broker {
	b := &broker{sources: make(map[string]source), topics: make(map[string]bool)}
	b.NineMethods.Of = b
	b.ctx, b.stop = context.WithCancelCause(context.Background())
	return b
}

// Connect opens the service and chooses the mode.
func (b *broker) Connect(url *neturl.URL) error {
	config, err := readURL(url)
	if err != nil {
		return err
	}
	client, err := config.newClient()
	if err != nil {
		return badURL("the client refuses it")
	}
	ctx, cancel := context.WithTimeout(b.ctx, callLimit)
	defer cancel()
	if err := config.choose(ctx, client); err != nil {
		client.Close()
		return b.fault("connect", err)
	}
	b.config, b.client = config, client
	b.keeper = lease.New(lease.Options[*delivery]{Every: b.renewEvery(), Renew: b.renew, Return: giveBack})
	return nil
}

// newClient returns a client for pushes and questions.
func (c *config) newClient() (*kgo.Client, error) {
	return kgo.NewClient(append(c.clientOptions(), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(bodyMax+1<<16),
		kgo.AllowIdempotentProduceCancellation(), kgo.UnknownTopicRetries(3))...)
}

// Close is that of a [linda.Broker]. The server gives the jobs that are held
// to others at once.
func (b *broker) Close() error {
	b.once.Do(func() {
		b.mu.Lock()
		b.stop(linda.ErrClosed)
		mover, sources := b.mover, b.sources
		b.mu.Unlock()
		b.tasks.Wait()
		if b.keeper != nil {
			b.keeper.Close()
		}
		for _, s := range sources {
			s.leave()
		}
		if b.client != nil {
			b.client.Close()
		}
		if mover != nil {
			mover.letGo()
		}
	})
	b.tasks.Wait()
	return nil
}

// run starts a goroutine that Close waits for, unless that has begun.
func (b *broker) run(task func()) {
	b.tasks.Add(1)
	go func() {
		defer b.tasks.Done()
		task()
	}()
}

// begin limits a call: it ends with its context, after five seconds where that
// sets no earlier end, and with Close.
func (b *broker) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := b.refused(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel() }, nil
}

// refused is why a call cannot begin.
func (b *broker) refused(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return linda.ErrClosed
	}
	return ctx.Err()
}

// MigrateExpiredJobs is that of a [linda.Broker]: it sees to it that delayed
// jobs are moved by somebody.
func (b *broker) MigrateExpiredJobs(string) { b.startMover() }

// Guarantees is that of a [linda.Guarantor].
func (b *broker) Guarantees() linda.Guarantees {
	if b.config != nil && b.config.classic {
		return classicGuarantees
	}
	return linda.Guarantees{
		LeaseMin: leaseMin, LeaseMax: 0,
		DelayMax: delayMax, DelayResolution: time.Millisecond, DelayDurable: true,
		Durable: true, AttemptsExact: false, ConfirmedPush: true, ConfirmedDelete: true,
		BodyMax: linda.MaxBody,
		Stats:   []linda.State{linda.Dead},
		Notes: []string{
			"a job that is released, delayed or buried is written again before its old record is accepted: if the process dies in between, it is there twice",
			"a job that is held keeps its partition from handing out more than share.partition.max.record.locks records behind it, 2,000 by default",
			"ready and reserved jobs are one number, the lag of the share group; delayed jobs of all queues are in the topics _linda.delay.*",
			"every delivery is counted, also of a process that dies, but for those that are open when the server itself does: it stores none before it has ended",
			"the records of done jobs are deleted from the topics that linda has created, so other programs cannot read those again; from topics of others only with trim=all. A job that waits longer than its topic's retention is lost",
		},
	}
}

// backoff is how long to wait before try n, from 1.
func backoff(n int) time.Duration {
	most := min(50*time.Millisecond<<min(n, 6), 2*time.Second)
	return most/2 + rand.N(most/2)
}

// fault is an error of the server or of the way to it, as linda names it.
func (b *broker) fault(what string, err error) error {
	if err == nil {
		return nil
	}
	if b.ctx.Err() != nil {
		return linda.ErrClosed
	}
	kind := error(nil)
	switch {
	case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, linda.ErrClosed):
		return linda.ErrClosed
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		kind = linda.ErrTooLarge
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.GroupAuthorizationFailed),
		errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed),
		errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		kind = linda.ErrDenied
	}
	if kind != nil {
		return fmt.Errorf("linda/kafka: %s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("linda/kafka: %s: %w", what, err)
}

// delayMax is the longest delay: that of linda.
const delayMax = time.Duration(math.MaxInt64)
