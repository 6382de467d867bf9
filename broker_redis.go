package linda

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

func init() {
	for scheme := range redisSchemes {
		RegisterBroker(scheme, func() Broker { return newRedisBroker() })
	}
}

// redisBroker keeps a queue in the list <queue>, its delayed and reserved jobs
// in the sorted sets <queue>:delayed and <queue>:reserved by the unix time they
// are due, its dead ones in <queue>:dead by the time they died, and its unique
// keys in the hash <queue>:unique; on a cluster these are {<queue>}:delayed and
// so on. Every change is one script, on the clock of the server.
type redisBroker struct {
	NineMethods

	client  redis.UniversalClient
	blocker redis.UniversalClient // for what blocks in the server, so that Close can end it; nil where there is none
	tagged  bool                  // keys are named as on a cluster
	foreign bool                  // the client is the program's, who closes it
	repeat  bool                  // the program wants commands of unknown outcome sent again
	nonce   string                // starts every token, differs between brokers
	calls   atomic.Uint64         // numbers the tokens
	wait    replicaWait
	notes   []string
	closed  chan struct{}
	once    sync.Once // closes closed
	lines   redisLines

	mu      sync.Mutex
	waiters map[string]*redisWaiter // by queue; guarded by mu
}

var (
	//go:embed lua/fetch.lua
	fetchLua    string
	fetchScript = newRedisScript(fetchLua)
	//go:embed lua/settle.lua
	settleLua    string
	settleScript = newRedisScript(settleLua)
	//go:embed lua/touch.lua
	touchLua    string
	touchScript = newRedisScript(touchLua)
	//go:embed lua/push.lua
	pushLua    string
	pushScript = newRedisScript(pushLua)
	//go:embed lua/unique.lua
	uniqueLua    string
	uniqueScript = newRedisScript(uniqueLua)
	//go:embed lua/kick.lua
	kickLua    string
	kickScript = newRedisScript(kickLua)
	//go:embed lua/purge.lua
	purgeLua    string
	purgeScript = newRedisScript(purgeLua)
)

// redisFetchMost is how many jobs one fetch reserves, or moves, at most.
const redisFetchMost = 1000

// redisUnique is where the unique keys of a queue are, beside its states.
const redisUnique State = "unique"

// redisPausedKey is what exists while a queue is paused.
const redisPausedKey State = "paused"

// key names what belongs to a queue. The jobs that are READY have its own
// name; all else has that name in braces on a cluster, which so keeps it on the
// same node: a name of a queue has no braces.
func (b *redisBroker) key(queue string, state State) string {
	switch {
	case state == Ready:
		return queue
	case b.tagged:
		return "{" + queue + "}:" + string(state)
	default:
		return queue + ":" + string(state)
	}
}

func newRedisBroker() *redisBroker {
	b := new(redisBroker)
	b.Of = b
	return b
}

func (b *redisBroker) Connect(url *neturl.URL) error {
	config, err := readRedisURL(url)
	if err != nil {
		return err
	}
	b.repeat, b.tagged = config.repeat, config.cluster || config.hashtag == "always"
	b.wait = config.wait
	b.client, b.blocker = config.open(), config.openBlocking()
	b.hookDials()
	if err := b.begin(); err != nil {
		return fmt.Errorf("linda: redis %s: %w", strings.Join(config.Addrs, ","), denied(err))
	}
	return nil
}

// NewRedisBroker returns a broker on a client that the program has already: a
// *redis.Client, of a single server or by sentinels, or a
// *redis.ClusterClient. What wraps a *redis.Client works too, but looks for
// jobs every 1.1 s instead of waiting for them; a *redis.Ring gives an error
// that wraps errors.ErrUnsupported.
//
// The client stays the program's: closing the broker leaves it open, and does
// not end a call that is under way, which its own timeouts do. For commands
// that wait, the broker opens one connection more for each queue, by the same
// options. linda asks for no repetition of commands whose outcome is unknown,
// whatever MaxRetries is.
func NewRedisBroker(client redis.UniversalClient) (Broker, error) {
	if _, ring := client.(*redis.Ring); ring {
		return nil, fmt.Errorf("linda: redis: a ring has no place for a whole queue: %w", errors.ErrUnsupported)
	}
	if client == nil {
		return nil, errors.New("linda: NewRedisBroker needs a client")
	}
	_, cluster := client.(*redis.ClusterClient)
	b := newRedisBroker()
	b.client, b.blocker, b.foreign, b.tagged = client, blockingLike(client), true, cluster
	if err := b.begin(); err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("linda: redis: %w", denied(err))
	}
	return b, nil
}

// blockingLike returns a client with the options of another, for commands that
// wait in the server; nil for a client of unknown type.
func blockingLike(client redis.UniversalClient) redis.UniversalClient {
	switch c := client.(type) {
	case *redis.Client:
		options := *c.Options()
		options.ReadTimeout, options.MinIdleConns, options.PipelinePoolSize = redisBlock+callLimit, 0, -1
		return redis.NewClient(&options)
	case *redis.ClusterClient:
		options := *c.Options()
		options.ReadTimeout, options.MinIdleConns, options.PipelinePoolSize = redisBlock+callLimit, 0, -1
		return redis.NewClusterClient(&options)
	}
	return nil
}

// begin checks that the server answers.
func (b *redisBroker) begin() error {
	b.closed = make(chan struct{})
	b.waiters = make(map[string]*redisWaiter)
	b.lines.lines = make(map[redisLine][]*waitingPush)
	b.nonce = strings.ToLower(rand.Text()[:12])
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if err := b.do(ctx, "PING").Err(); err != nil {
		return err
	}
	if b.wait.replicas > 0 { // so that a right which is missing is told now
		node, _, err := b.node(ctx, "any", nil)
		if err != nil {
			return err
		}
		if err := node.Do(ctx, "WAIT", 0, 1).Err(); err != nil {
			return err
		}
	}
	b.notes = redisNotes(ctx, b.client)
	return nil
}

// redisNotes tells what an operator should know about the server's settings.
func redisNotes(ctx context.Context, c redis.UniversalClient) []string {
	var notes []string
	get := func(name string) string {
		values, err := c.ConfigGet(ctx, name).Result()
		if err != nil || len(values) == 0 {
			notes = append(notes, "redis: "+name+" is not known: CONFIG GET did not answer")
		}
		return values[name]
	}
	if policy := get("maxmemory-policy"); policy != "" && policy != "noeviction" {
		notes = append(notes, "redis: maxmemory-policy is "+policy+": the server may drop jobs; set noeviction")
	}
	if get("appendonly") == "no" {
		notes = append(notes, "redis: appendonly is no: a crash of the server loses the jobs since its last snapshot")
	}
	return notes
}

func (b *redisBroker) Close() error {
	if b.closed == nil {
		return nil
	}
	b.once.Do(func() {
		close(b.closed)
		if b.blocker != nil {
			_ = b.blocker.Close()
		}
		if !b.foreign {
			_ = b.client.Close()
		}
		b.lines.close()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, w := range b.waiters {
			w.close()
		}
	})
	return nil
}

func (b *redisBroker) MigrateExpiredJobs(queue string) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	for {
		if _, due, err := b.take(ctx, queue, 0, 0); err != nil || due != 0 {
			return
		}
	}
}

func (b *redisBroker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	for {
		jobs, due, err := b.take(ctx, queue, max, lease)
		if err != nil || len(jobs) > 0 || due != 0 {
			return jobs, err
		}
	}
}

// take is takeAll of one queue.
func (b *redisBroker) take(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, time.Duration, error) {
	taken, err := b.takeAll(ctx, []string{queue}, max, lease)
	if err != nil {
		return nil, 0, err
	}
	return taken[0].jobs, taken[0].due, taken[0].err
}

// redisTaken is what there was in one queue. Where that is nothing, due is the
// time until the next job is due: 0 where more is to be moved first, less than
// 0 where none will be, redisPaused where the queue is paused.
type redisTaken struct {
	jobs []*Job
	due  time.Duration
	err  error
}

const redisPaused = -2 * time.Millisecond

// takeAll moves what is due and reserves what is ready, up to max jobs of all
// queues, of the first queue first.
//
// The end of ctx does not interrupt the exchange: jobs that the server reserves
// meanwhile would have to wait for the end of their leases.
func (b *redisBroker) takeAll(ctx context.Context, queues []string, max int, lease time.Duration) ([]redisTaken, error) {
	for _, queue := range queues {
		if err := b.check(ctx, queue); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	max = min(max, redisFetchMost)
	if !b.tagged || len(queues) == 1 {
		return b.exchange(ctx, queues, max, lease)
	}
	// On a cluster each queue is on a node of its own. They are asked one by
	// one, since only then it is known how many to take of the next.
	taken := make([]redisTaken, 0, len(queues))
	left := max
	for i := range queues {
		if i > 0 && left <= 0 {
			taken = append(taken, redisTaken{})
			continue
		}
		one, err := b.exchange(ctx, queues[i:i+1], left, lease)
		if err != nil {
			one = []redisTaken{{err: err}}
		}
		taken = append(taken, one...)
		left -= len(one[0].jobs)
	}
	return taken, nil
}

// exchange runs the script for queues on one node.
func (b *redisBroker) exchange(ctx context.Context, queues []string, max int, lease time.Duration) ([]redisTaken, error) {
	keys := make([]string, 0, 4*len(queues))
	for _, queue := range queues {
		keys = append(keys, queue, b.key(queue, Reserved), b.key(queue, Delayed), b.key(queue, redisPausedKey))
	}
	sent := time.Now()
	reply, err := b.run(ctx, fetchScript, keys, max, milliseconds(lease), b.token(), redisFetchMost).Slice()
	if err != nil {
		select {
		case <-b.closed: // which cut the exchange off
			return nil, ErrClosed
		default:
			return nil, redisError(err)
		}
	}
	until := time.Time{}
	if lease > 0 {
		until = sent.Add(lease)
	}
	taken := make([]redisTaken, len(queues))
	for i, queue := range queues {
		taken[i] = b.read(queue, reply[i], until)
		if lease == 0 {
			b.free(ctx, queue, taken[i].jobs)
		}
	}
	return taken, nil
}

// read reads what the script says of a queue.
func (b *redisBroker) read(queue string, reply any, until time.Time) redisTaken {
	if err, failed := reply.(error); failed {
		return redisTaken{err: redisError(err)}
	}
	entries, _ := reply.([]any)
	due, _ := entries[0].(int64)
	jobs := make([]*Job, len(entries)-1)
	for i := range jobs {
		member, _ := entries[i+1].(string)
		jobs[i], _ = Decode(queue, member) // a bad body is for the caller to bury
		jobs[i].head.Deliveries++          // which is written when it ends
		jobs[i].Reserve(b, queue, entries[i+1], until)
	}
	return redisTaken{jobs: jobs, due: time.Duration(due) * time.Millisecond}
}

// free frees the unique keys of jobs that are gone from the queue.
func (b *redisBroker) free(ctx context.Context, queue string, jobs []*Job) {
	var args []any
	for _, job := range jobs {
		if job.UniqueKey != "" {
			args = append(args, "d", 1, "", "u", job.ID, job.UniqueKey)
		}
	}
	if len(args) > 0 { // a key that stays held is bounded by its TTL, and visible
		_ = b.run(ctx, settleScript, b.keys(queue), args...).Err()
	}
}

// keys are those of settle.lua.
func (b *redisBroker) keys(queue string) []string {
	return []string{queue, b.key(queue, Reserved), b.key(queue, Delayed), b.key(queue, Dead), b.key(queue, redisUnique)}
}

// check refuses a call before any I/O.
func (b *redisBroker) check(ctx context.Context, queue string) error {
	if err := CheckName(queue); err != nil {
		return err
	}
	select {
	case <-b.closed:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

func (b *redisBroker) Guarantees() Guarantees {
	return Guarantees{
		LeaseMin: time.Millisecond, DelayMax: maxDelay, DelayResolution: time.Millisecond,
		DelayDurable: true, Durable: true, AttemptsExact: true,
		ConfirmedPush: true, ConfirmedDelete: true, Ordered: true,
		BodyMax: MaxBody, Stats: []State{Ready, Delayed, Reserved, Dead},
		Notes: b.notes,
	}
}
