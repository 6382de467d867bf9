package linda

import (
	"cmp"
	"context"
	"fmt"
	"math"
	neturl "net/url"
	"sync"
	"time"
)

func init() { RegisterBroker("memory", func() Broker { return newMemoryBroker() }) }

// memoryBroker keeps its jobs in this process, for first steps and for tests,
// and is the model that the other brokers are held to. A URL with a name,
// memory://name, shares the jobs between all brokers of the process that have
// that URL open; memory:// alone is private.
//
// All waiting is on channels and timers, so it runs under testing/synctest.
type memoryBroker struct {
	NineMethods

	store  *memoryStore
	closed chan struct{}
	once   sync.Once // closes closed
}

func newMemoryBroker() *memoryBroker {
	b := new(memoryBroker)
	b.Of = b
	return b
}

var memoryStores = struct {
	sync.Mutex
	byName map[string]*memoryStore // guarded by Mutex
}{byName: make(map[string]*memoryStore)}

func (b *memoryBroker) Connect(url *neturl.URL) error {
	plain := neturl.URL{Scheme: url.Scheme, Host: url.Hostname(), Path: url.Path}
	if *url != plain || len(url.Path) > 1 {
		return fmt.Errorf("%w: memory:// takes a name and nothing else", ErrBadURL)
	}
	b.closed = make(chan struct{})
	name := url.Hostname()
	if name == "" {
		b.store = newMemoryStore("")
		return nil
	}
	memoryStores.Lock()
	defer memoryStores.Unlock()
	if memoryStores.byName[name] == nil {
		memoryStores.byName[name] = newMemoryStore(name)
	}
	b.store = memoryStores.byName[name]
	b.store.brokers++
	return nil
}

// Close detaches the broker; the jobs go with the last one that is attached.
func (b *memoryBroker) Close() error {
	if b.store == nil {
		return nil
	}
	b.once.Do(func() {
		close(b.closed)
		memoryStores.Lock()
		defer memoryStores.Unlock()
		if b.store.brokers--; b.store.brokers == 0 {
			delete(memoryStores.byName, b.store.name)
		}
	})
	return nil
}

func (b *memoryBroker) usable(ctx context.Context) error {
	select {
	case <-b.closed:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// use locks a queue, with everything that is due moved to READY, and returns
// it with its unlock.
func (b *memoryBroker) use(ctx context.Context, queue string) (*memoryQueue, func(), error) {
	if err := cmp.Or(CheckName(queue), b.usable(ctx)); err != nil {
		return nil, nil, err
	}
	b.store.mu.Lock()
	return b.store.queue(queue), func() { b.store.unlock(queue) }, nil
}

func (b *memoryBroker) MigrateExpiredJobs(queue string) {
	if _, unlock, err := b.use(context.Background(), queue); err == nil {
		unlock()
	}
}

func (b *memoryBroker) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	return b.FetchAny(ctx, []string{queue}, max, lease)
}

func (b *memoryBroker) FetchAny(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error) {
	for _, queue := range queues {
		if err := CheckName(queue); err != nil {
			return nil, err
		}
	}
	for {
		if err := b.usable(ctx); err != nil {
			return nil, err
		}
		jobs, bell, due := b.takeAny(queues, max, lease)
		if len(jobs) > 0 {
			return jobs, nil
		}
		err := b.wait(ctx, bell, due)
		b.store.leave(queues, bell)
		if err != nil {
			return nil, err
		}
	}
}

// takeAny reserves what is ready in some queues. Where nothing is, it hangs up
// a bell in each, to be taken away by leave, and returns the time until a job
// is due.
func (b *memoryBroker) takeAny(queues []string, most int, lease time.Duration) (jobs []*Job, bell memoryBell, due time.Duration) {
	b.store.mu.Lock()
	defer b.store.unlock(queues...)
	for _, queue := range queues {
		if more := b.take(b.store.queue(queue), queue, most-len(jobs), lease); jobs == nil {
			jobs = more
		} else {
			jobs = append(jobs, more...)
		}
		if len(jobs) >= most && len(jobs) > 0 {
			return jobs, nil, 0
		}
	}
	if len(jobs) > 0 {
		return jobs, nil, 0
	}
	bell, due = make(memoryBell, 1), math.MaxInt64
	for _, queue := range queues {
		q := b.store.queues[queue]
		q.bells[bell] = true
		due = min(due, q.nextDue())
	}
	return nil, bell, due
}

// wait returns when the bell rings or d is over.
func (b *memoryBroker) wait(ctx context.Context, wake <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return ErrClosed
	}
}

func (b *memoryBroker) FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.take(q, queue, max, lease), nil
}

// take reserves what is ready.
func (b *memoryBroker) take(q *memoryQueue, queue string, most int, lease time.Duration) []*Job {
	if q.paused {
		return nil
	}
	now := time.Now()
	jobs := make([]*Job, min(max(most, 0), q.ready.len()))
	for i := range jobs {
		m := q.ready.popFront()
		m.deliveries++
		jobs[i], _ = Decode(queue, m.body)
		jobs[i].Delivered(m.deliveries)
		if lease == 0 {
			q.unlockKey(jobs[i])
			jobs[i].Reserve(b, queue, nil, time.Time{})
			continue
		}
		q.reserve(m, now.Add(lease))
		jobs[i].Reserve(b, queue, memoryToken{m, m.deliveries}, now.Add(lease))
	}
	return jobs
}

func (b *memoryBroker) Pause(ctx context.Context, queue string) error {
	return b.setPaused(ctx, queue, true)
}

func (b *memoryBroker) Resume(ctx context.Context, queue string) error {
	return b.setPaused(ctx, queue, false)
}

func (b *memoryBroker) setPaused(ctx context.Context, queue string, paused bool) error {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return err
	}
	defer unlock()
	q.paused = paused
	q.notify()
	return nil
}

func (b *memoryBroker) Paused(ctx context.Context, queue string) (bool, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return false, err
	}
	defer unlock()
	return q.paused, nil
}

func (b *memoryBroker) PushBatch(ctx context.Context, queue string, jobs []*Job) error {
	bodies, err := EncodeBatch(ctx, queue, jobs)
	if err != nil {
		return err
	}
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return err
	}
	defer unlock()
	errs := make([]error, len(jobs))
	for i, body := range bodies {
		if key := jobs[i].UniqueKey; key != "" {
			errs[i] = q.lockKey(queue, body, jobs[i])
		}
		if errs[i] == nil {
			q.add(&memoryJob{body: string(body)}, jobs[i].Delay)
		}
	}
	return Batch(errs)
}

func (b *memoryBroker) PushUnique(ctx context.Context, queue string, job *Job) error {
	return unbatch(b.PushBatch(ctx, queue, []*Job{job}))
}

func (b *memoryBroker) Settle(ctx context.Context, queue string, batch []Settlement) error {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return err
	}
	defer unlock()
	errs := make([]error, len(batch))
	var heads []*memoryJob // to be ready before all others, in this order
	for i := range batch {
		r, err := batch[i].Begin(b, queue)
		if err != nil {
			errs[i] = err
			continue
		}
		head, err := q.settle(&batch[i], r)
		if head != nil {
			heads = append(heads, head)
		}
		errs[i] = r.End(err)
	}
	q.putBack(heads)
	return Batch(errs)
}

func (b *memoryBroker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*Job) error {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return err
	}
	defer unlock()
	until := time.Now().Add(lease)
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		r, err := job.Receipt(b, queue)
		if err != nil {
			errs[i] = err
			continue
		}
		if m := q.heldBy(r); m != nil {
			q.reserve(m, until)
			q.notify() // it may end sooner than it did
			r.Extend(until)
		} else if !r.Gone() {
			r.Lose()
			errs[i] = ErrLeaseLost
		}
	}
	return Batch(errs)
}

func (b *memoryBroker) Guarantees() Guarantees {
	return Guarantees{
		LeaseMin: time.Millisecond, DelayMax: maxDelay, DelayResolution: 1,
		AttemptsExact: true, ConfirmedPush: true, ConfirmedDelete: true, Ordered: true,
		BodyMax: MaxBody, Stats: []State{Ready, Delayed, Reserved, Dead},
		Notes: []string{"jobs live in this process and end with it"},
	}
}
