package linda

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	neturl "net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// errDown is what a faulty broker answers by default.
var errDown = errors.New("test: broker is down")

// fault is what happens to one call of a faulty broker. The zero value lets it
// pass.
type fault struct {
	err  error         // fail without doing anything
	late error         // do it, and then fail
	wait time.Duration // do it after so long, or fail when ctx ends
	hang bool          // do nothing until ctx ends
	deaf bool          // do nothing until the test ends, whatever ctx does
}

// faulty is a memory broker whose calls go wrong as a test wants. Its ops are
// fetch, push, settle, touch, tick, take, renew and free, and release for the nine
// methods that settle.
type faulty struct {
	*memoryBroker
	over chan struct{} // closed when deaf calls may return

	mu      sync.Mutex
	script  map[string]func(call int) fault
	veto    func(Settlement) error // fails the whole exchange that holds such a settlement
	calls   map[string]int
	settled []Settlement // all that were carried out
	held    int          // jobs fetched whose handlers have not returned
	most    int          // most of them
	batch   int          // most jobs that one fetch brought
}

func newFaulty(t testing.TB) *faulty {
	b := &faulty{
		memoryBroker: newMemoryBroker(), over: make(chan struct{}),
		script: make(map[string]func(int) fault), calls: make(map[string]int),
	}
	if err := b.Connect(&neturl.URL{Scheme: "memory"}); err != nil {
		t.Fatal(err)
	}
	return b
}

// on sets what happens to the calls of an op, given how many came before.
func (b *faulty) on(op string, script func(call int) fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script[op] = script
}

// always sets what happens to each call of some ops from now on.
func (b *faulty) always(f fault, ops ...string) {
	for _, op := range ops {
		b.on(op, func(int) fault { return f })
	}
}

// finished tells that a handler has returned.
func (b *faulty) finished() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held--
}

func (b *faulty) count(op string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[op]
}

// meet counts a call and lets its fault happen. The error is that of the call
// unless it is nil; late is that of a call to be carried out.
func (b *faulty) meet(ctx context.Context, op string) (late, err error) {
	b.mu.Lock()
	var f fault
	if script := b.script[op]; script != nil {
		f = script(b.calls[op])
	}
	b.calls[op]++
	b.mu.Unlock()
	switch {
	case f.deaf:
		<-b.over
		return nil, errDown
	case f.hang:
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	case f.wait > 0:
		if err := sleep(ctx, f.wait); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return f.late, f.err
}

func (b *faulty) Fetch(ctx context.Context, queue string, most int, lease time.Duration) ([]*Job, error) {
	if _, err := b.meet(ctx, "fetch"); err != nil {
		return nil, err
	}
	jobs, err := b.memoryBroker.Fetch(ctx, queue, most, lease)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += len(jobs)
	b.batch = max(b.batch, len(jobs))
	b.most = max(b.most, b.held)
	return jobs, err
}

func (b *faulty) FetchAny(ctx context.Context, queues []string, most int, lease time.Duration) ([]*Job, error) {
	errs := make([]error, len(queues))
	var sound []string
	for i, queue := range queues {
		if _, errs[i] = b.meet(ctx, "fetch "+queue); errs[i] == nil {
			sound = append(sound, queue)
		}
	}
	if err := Batch(errs); err != nil { // it does not wait
		jobs, bell, _ := b.takeAny(sound, most, lease)
		if bell != nil {
			b.store.leave(sound, bell)
		}
		return jobs, err
	}
	return b.memoryBroker.FetchAny(ctx, sound, most, lease)
}

func (b *faulty) PushBatch(ctx context.Context, queue string, jobs []*Job) error {
	late, err := b.meet(ctx, "push")
	if err != nil {
		return err
	}
	return errors.Join(b.memoryBroker.PushBatch(ctx, queue, jobs), late)
}

func (b *faulty) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*Job) error {
	late, err := b.meet(ctx, "touch")
	if err != nil {
		return err
	}
	err = b.memoryBroker.Touch(ctx, queue, lease, jobs)
	if late != nil {
		return late
	}
	return err
}

func (b *faulty) Tick(ctx context.Context, queue string, ticks []Tick) ([]Ticked, time.Time, error) {
	late, err := b.meet(ctx, "tick")
	if err != nil {
		return nil, time.Time{}, err
	}
	done, now, err := b.memoryBroker.Tick(ctx, queue, ticks)
	return done, now, errors.Join(err, late)
}

// Settle is that of the memory broker with the fault between the receipts and
// the store, where a network would be.
func (b *faulty) Settle(ctx context.Context, queue string, batch []Settlement) error {
	return b.settleFaulty(ctx, "settle", queue, batch)
}

func (b *faulty) settleFaulty(ctx context.Context, op, queue string, batch []Settlement) error {
	errs := make([]error, len(batch))
	receipts := make([]*Receipt, len(batch))
	for i := range batch {
		receipts[i], errs[i] = batch[i].Begin(b.memoryBroker, queue)
	}
	late, broken := b.meet(ctx, op)
	b.mu.Lock()
	veto := b.veto
	b.mu.Unlock()
	if broken == nil && veto != nil {
		for _, s := range batch {
			broken = cmp.Or(broken, veto(s))
		}
	}
	q, unlock, err := b.use(context.Background(), queue)
	if err != nil {
		broken = err
	} else {
		defer unlock()
		q.migrate(time.Now())
	}
	for i, r := range slices.Backward(receipts) {
		if r == nil {
			continue
		}
		err := broken
		if err == nil {
			err = cmp.Or(b.apply(q, &batch[i], r), late)
		}
		errs[i] = r.End(err)
	}
	if err := cmp.Or(broken, late); err != nil {
		return err
	}
	return Batch(errs)
}

func (b *faulty) apply(q *memoryQueue, s *Settlement, r *Receipt) error {
	head, err := q.settle(s, r)
	if head != nil {
		q.putBack([]*memoryJob{head})
	}
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.settled = append(b.settled, *s)
	}
	return err
}

func (b *faulty) Delete(queue string, job *Job) error {
	return b.settleByHand(queue, Settlement{Job: job, Op: OpDelete})
}

func (b *faulty) Release(queue string, job *Job) error {
	return b.settleByHand(queue, Settlement{Job: job, Op: OpRelease})
}

func (b *faulty) ReleaseWithDelay(queue string, job *Job, delay int64) error {
	return b.settleByHand(queue, Settlement{Job: job, Op: OpRelease, Delay: time.Duration(delay) * time.Second})
}

func (b *faulty) settleByHand(queue string, s Settlement) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return unbatch(b.settleFaulty(ctx, "release", queue, []Settlement{s}))
}

// steal ends the reservation of a job before its time, as a server does that
// lost it, and returns it as another worker would pop it.
func (b *faulty) steal(t testing.TB, queue, id string) *Job {
	q, unlock, err := b.use(context.Background(), queue)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Clone(q.reserved) {
		if BodyID(m.body) == id {
			q.reserve(m, time.Now())
		}
	}
	unlock()
	job, err := b.Pop(queue, 3600)
	if err != nil || job == nil || job.ID != id {
		t.Fatalf("stole %v, %v, want %s", job, err, id)
	}
	return job
}

// nineBroker is what a third party might write: the nine methods, jobs stored
// by encoding/json in lists of its own, and no idea of receipts.
type nineBroker struct {
	mu       sync.Mutex
	ready    map[string][]nineEntry
	reserved map[string]nineEntry // by queue and id
	hang     map[string]chan struct{}
	fail     map[string]error
	calls    map[string]int
	closed   bool
}

type nineEntry struct {
	body []byte
	due  time.Time // when the delay or the reservation ends
}

func newNine() *nineBroker {
	return &nineBroker{
		ready: make(map[string][]nineEntry), reserved: make(map[string]nineEntry),
		hang: make(map[string]chan struct{}), fail: make(map[string]error), calls: make(map[string]int),
	}
}

// enter counts a call, and hangs or fails as the test wants. Without an error
// the caller holds mu.
func (b *nineBroker) enter(op string) error {
	b.mu.Lock()
	b.calls[op]++
	hang, err := b.hang[op], b.fail[op]
	if hang != nil {
		b.mu.Unlock()
		<-hang
		b.mu.Lock()
	}
	if err != nil {
		b.mu.Unlock()
	}
	return err
}

// set changes the broker's behaviour under its lock.
func (b *nineBroker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *nineBroker) Connect(*neturl.URL) error { return nil }
func (b *nineBroker) Close() error              { b.set(func() { b.closed = true }); return nil }

func (b *nineBroker) MigrateExpiredJobs(queue string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, e := range b.reserved {
		if q, _, _ := cutKey(key); q == queue && !e.due.After(time.Now()) {
			delete(b.reserved, key)
			b.ready[queue] = append(b.ready[queue], nineEntry{body: e.body})
		}
	}
}

func nineKey(queue, id string) string { return queue + "/" + id }

func cutKey(key string) (queue, id string, ok bool) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}

func (b *nineBroker) Pop(queue string, timeout int64) (*Job, error) {
	if err := b.enter("pop"); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.ready[queue], func(e nineEntry) bool { return !e.due.After(time.Now()) })
	if i < 0 {
		return nil, nil
	}
	e := b.ready[queue][i]
	b.ready[queue] = slices.Delete(b.ready[queue], i, i+1)
	job := new(Job)
	if err := json.Unmarshal(e.body, job); err != nil {
		return nil, err
	}
	if timeout > 0 {
		e.due = time.Now().Add(time.Duration(timeout) * time.Second)
		b.reserved[nineKey(queue, job.ID)] = e
	}
	return job, nil
}

func (b *nineBroker) end(op, queue string, job *Job) error {
	if err := b.enter(op); err != nil {
		return err
	}
	defer b.mu.Unlock()
	key := nineKey(queue, job.ID)
	if _, held := b.reserved[key]; !held {
		return ErrNotReserved
	}
	delete(b.reserved, key)
	return nil
}

func (b *nineBroker) Delete(queue string, job *Job) error { return b.end("delete", queue, job) }

func (b *nineBroker) Release(queue string, job *Job) error {
	return b.ReleaseWithDelay(queue, job, 0)
}

func (b *nineBroker) ReleaseWithDelay(queue string, job *Job, delay int64) error {
	if err := b.end("release", queue, job); err != nil {
		return err
	}
	return b.store(queue, job, delay)
}

func (b *nineBroker) Push(job *Job, queue string) error { return b.Later(0, job, queue) }

func (b *nineBroker) Later(delay int64, job *Job, queue string) error {
	if err := b.enter("push"); err != nil {
		return err
	}
	b.mu.Unlock()
	return b.store(queue, job, delay)
}

func (b *nineBroker) store(queue string, job *Job, delay int64) error {
	body, err := json.Marshal(job)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready[queue] = append(b.ready[queue], nineEntry{body, time.Now().Add(time.Duration(delay) * time.Second)})
	return nil
}

func (b *nineBroker) len(queue string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ready[queue])
}

func (b *faulty) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	late, err := b.meet(ctx, "take")
	if err != nil {
		return 0, 0, err
	}
	n, free, err := b.memoryBroker.TakeSlots(ctx, limit, most, hold, holders)
	return n, free, cmp.Or(err, late)
}

func (b *faulty) RenewSlots(ctx context.Context, limit string, hold time.Duration, holders []string) error {
	late, err := b.meet(ctx, "renew")
	if err != nil {
		return err
	}
	return cmp.Or(b.memoryBroker.RenewSlots(ctx, limit, hold, holders), late)
}

func (b *faulty) FreeSlots(ctx context.Context, limit string, holders []string) error {
	late, err := b.meet(ctx, "free")
	if err != nil {
		return err
	}
	return cmp.Or(b.memoryBroker.FreeSlots(ctx, limit, holders), late)
}
