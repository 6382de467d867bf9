package linda

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

func init() { RegisterBroker("redis", func() Broker { return new(redisBroker) }) }

// redisBroker keeps a queue in the list <queue>, its delayed and reserved jobs
// in the sorted sets <queue>:delayed and <queue>:reserved by the unix time they
// are due, its dead ones in <queue>:dead by the time they died, and its unique
// keys in the hash <queue>:unique. Every change is one script, on the clock of
// the server.
type redisBroker struct {
	client  *redis.Client
	blocker *redis.Client // for what blocks in the server, so that Close can end it
	nonce   string        // starts every token, differs between brokers
	calls   atomic.Uint64 // numbers the tokens
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
	fetchScript = redis.NewScript(fetchLua)
	//go:embed lua/settle.lua
	settleLua    string
	settleScript = redis.NewScript(settleLua)
	//go:embed lua/touch.lua
	touchLua    string
	touchScript = redis.NewScript(touchLua)
	//go:embed lua/push.lua
	pushLua    string
	pushScript = redis.NewScript(pushLua)
	//go:embed lua/unique.lua
	uniqueLua    string
	uniqueScript = redis.NewScript(uniqueLua)
	//go:embed lua/kick.lua
	kickLua    string
	kickScript = redis.NewScript(kickLua)
	//go:embed lua/purge.lua
	purgeLua    string
	purgeScript = redis.NewScript(purgeLua)
)

// redisFetchMost is how many jobs one fetch reserves, or moves, at most.
const redisFetchMost = 1000

func readyKey(queue string) string    { return queue }
func delayedKey(queue string) string  { return queue + ":delayed" }
func reservedKey(queue string) string { return queue + ":reserved" }
func deadKey(queue string) string     { return queue + ":dead" }
func uniqueKey(queue string) string   { return queue + ":unique" }

func (b *redisBroker) Connect(url *neturl.URL) error {
	options, err := redisOptions(url)
	if err != nil {
		return err
	}
	b.closed = make(chan struct{})
	b.waiters = make(map[string]*redisWaiter)
	b.lines.lines = make(map[redisLine][]*waitingPush)
	b.nonce = strings.ToLower(rand.Text()[:12])
	b.client = redis.NewClient(options)
	blocking := *options
	blocking.ReadTimeout = redisBlock + callLimit
	blocking.MinIdleConns = 0
	b.blocker = redis.NewClient(&blocking)

	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if err := b.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("linda: redis %s: %w", options.Addr, err)
	}
	b.notes = redisNotes(ctx, b.client)
	return nil
}

// redisOptions reads a URL redis://[user:password@]host[:port][/db][?options],
// with the options of go-redis.
func redisOptions(url *neturl.URL) (*redis.Options, error) {
	options, err := redis.ParseURL(url.String())
	if err != nil {
		// The text may quote the URL; go-redis marks what it refuses.
		reason := "host, database or an option is wrong"
		if _, unknown, found := strings.Cut(err.Error(), "unexpected option: "); found {
			reason = "unknown option " + strconv.Quote(clip(unknown))
		}
		return nil, fmt.Errorf("%w: redis: %s", ErrBadURL, reason)
	}
	options.ContextTimeoutEnabled = true
	options.DialerRetries = 1 // linda tries again itself, with its own backoff
	if !url.Query().Has("max_retries") {
		// A command that is sent again may be carried out twice. What can be
		// repeated is repeated by linda.
		options.MaxRetries = -1
	}
	return options, nil
}

// redisNotes tells what an operator should know about the server's settings.
func redisNotes(ctx context.Context, c *redis.Client) []string {
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
		_ = b.blocker.Close()
		_ = b.client.Close()
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
		_, due, err := b.take(ctx, queue, 0, 0)
		if err != nil || due != 0 {
			return
		}
	}
}

func (b *redisBroker) Pop(queue string, timeout int64) (*Job, error) {
	return popOne(b, queue, timeout)
}

func (b *redisBroker) Delete(queue string, job *Job) error {
	return settleOne(b, queue, Settlement{Job: job, Op: OpDelete})
}

func (b *redisBroker) Release(queue string, job *Job) error {
	return settleOne(b, queue, Settlement{Job: job, Op: OpRelease})
}

func (b *redisBroker) ReleaseWithDelay(queue string, job *Job, delay int64) error {
	return releaseLater(b, queue, job, delay)
}

func (b *redisBroker) Push(job *Job, queue string) error { return pushOne(b, queue, job) }

func (b *redisBroker) Later(delay int64, job *Job, queue string) error {
	return pushLater(b, queue, job, delay)
}

func (b *redisBroker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, err
	}
	w := b.waiter(queue)
	for {
		news := w.news()
		jobs, due, err := b.take(ctx, queue, max, lease)
		if err != nil || len(jobs) > 0 {
			return jobs, err
		}
		if due == 0 {
			continue
		}
		if err := w.wait(ctx, news, due); err != nil {
			return nil, err
		}
	}
}

func (b *redisBroker) fetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	for {
		jobs, due, err := b.take(ctx, queue, max, lease)
		if err != nil || len(jobs) > 0 || due != 0 {
			return jobs, err
		}
	}
}

// take moves what is due and reserves what is ready. Where nothing is, it
// returns the time until the next job is due: 0 where more is to be moved
// first, less than 0 where none will be.
//
// The end of ctx does not interrupt the exchange: jobs that the server reserves
// meanwhile would have to wait for the end of their leases.
func (b *redisBroker) take(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, time.Duration, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	sent := time.Now()
	reply, err := fetchScript.Run(ctx, b.client, []string{readyKey(queue), reservedKey(queue), delayedKey(queue)},
		min(max, redisFetchMost), milliseconds(lease), b.token(), redisFetchMost).Slice()
	if err != nil {
		select {
		case <-b.closed: // which cut the exchange off
			return nil, 0, ErrClosed
		default:
			return nil, 0, redisError(err)
		}
	}
	due, _ := reply[0].(int64)
	jobs := make([]*Job, len(reply)-1)
	for i := range jobs {
		member, _ := reply[i+1].(string)
		jobs[i], _ = Decode(queue, member) // a bad body is for the caller to bury
		until := time.Time{}
		if lease > 0 {
			until = sent.Add(lease)
		}
		jobs[i].Reserve(b, queue, member, until)
	}
	if lease == 0 {
		b.free(ctx, queue, jobs)
	}
	return jobs, time.Duration(due) * time.Millisecond, nil
}

// free frees the unique keys of jobs that are gone from the queue.
func (b *redisBroker) free(ctx context.Context, queue string, jobs []*Job) {
	var args []any
	for _, job := range jobs {
		if job.UniqueKey != "" {
			args = append(args, "d", "", "u", job.ID, job.UniqueKey)
		}
	}
	if len(args) > 0 { // a key that stays held is bounded by its TTL, and visible
		_ = settleScript.Run(ctx, b.client, b.keys(queue), args...).Err()
	}
}

// keys are those of settle.lua.
func (b *redisBroker) keys(queue string) []string {
	return []string{readyKey(queue), reservedKey(queue), delayedKey(queue), deadKey(queue), uniqueKey(queue)}
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

// redisError tells what an error of go-redis means for the caller.
func redisError(err error) error {
	var reply redis.Error
	var dial *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.ErrClosed):
		return ErrClosed
	case errors.As(err, &reply), errors.Is(err, redis.ErrPoolTimeout), errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("linda: redis: %w", err) // it was not carried out
	default:
		return fmt.Errorf("linda: redis: %w: %w", ErrUnknown, err)
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
