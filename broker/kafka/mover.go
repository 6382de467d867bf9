package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// mover moves delayed jobs from tier to tier and at last to their queues. Of
// the movers of all processes one leads, and only that moves. A record is moved
// in a transaction together with the place up to which the tier is done: both
// happen or neither does. All movers use one transactional id, so that the
// server refuses one that another has followed, and ends what it left undone.
type mover struct {
	b     *broker // of its own
	users int     // guarded by movers
	id    string  // of this process
	group string  // for which the places are committed; the id of the transactions as well
	wake  chan struct{}

	topics []*topic    // the tiers
	reader *kgo.Client // of the tiers
	writer *kgo.Client // of the transactions

	mu    sync.Mutex // held for a whole transaction
	tiers []waiting  // guarded by mu: of the tiers, what is read and not moved
}

const (
	readAhead = 16 << 20 // bytes of a tier
	moveBatch = 500      // records of a transaction

	// The server confirms a transaction before it has written its end to all
	// partitions. One that begins meanwhile it lets wait for 20 ms, so that to
	// begin a little later is to be done sooner.
	moveGap = 3 * time.Millisecond
)

// movers holds those of this process, one for each service, however many
// connections to it are open.
var movers = struct {
	sync.Mutex
	byURL map[string]*mover // guarded by Mutex
}{byURL: make(map[string]*mover)}

// startMover sees to it that this process has a mover. One that only pushes
// needs none: delays are of use where jobs are worked on.
func (b *broker) startMover() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mover == nil && b.ctx.Err() == nil {
		b.mover = hire(b.config)
	}
}

// hire returns the mover of a service, which is to be let go in the end.
func hire(c *config) *mover {
	movers.Lock()
	defer movers.Unlock()
	m := movers.byURL[c.url]
	if m == nil {
		m = &mover{b: open(), group: c.moverGroup(), id: linda.NewID(), wake: make(chan struct{}, 1)}
		m.b.config = c
		movers.byURL[c.url] = m
		m.b.run(m.run)
	}
	m.users++
	return m
}

// letGo ends a mover that nobody needs any more.
func (m *mover) letGo() {
	movers.Lock()
	m.users--
	last := m.users == 0
	if last {
		delete(movers.byURL, m.b.config.url)
	}
	movers.Unlock()
	if last {
		_ = m.b.Close()
	}
}

// run moves until Close. After an error it begins anew, from what was
// committed.
func (m *mover) run() {
	for try := 1; m.b.ctx.Err() == nil; try++ {
		begun := time.Now()
		_ = m.serve()
		if time.Since(begun) > 10*time.Second {
			try = 1
		}
		_ = sleep(m.b.ctx, backoff(try))
	}
}

// serve waits until this process leads, and then moves until something is wrong.
func (m *mover) serve() error {
	if m.b.client == nil {
		client, err := m.b.config.newClient()
		if err != nil {
			return err
		}
		m.b.client = client
	}
	if err := m.findTiers(m.b.ctx); err != nil {
		return err
	}
	l := &leader{client: m.b.client, topic: m.topics[0], group: m.b.config.leaderGroup(), id: m.id}
	if err := l.await(m.b.ctx); err != nil {
		return err
	}
	defer l.resign()
	ctx, end := context.WithCancelCause(m.b.ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end(nil)
	tasks.Go(func() { end(l.keep(ctx)) })
	if err := m.open(ctx); err != nil {
		return err
	}
	defer m.writer.Close()
	defer m.reader.Close()
	tasks.Go(func() { m.read(ctx) })
	tasks.Go(func() { m.trimTiers(ctx) })
	return m.move(ctx)
}

func (m *mover) findTiers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	if err := m.b.ensureTiers(ctx); err != nil {
		return err
	}
	m.topics = nil
	for _, name := range m.b.tierTopics() {
		t, err := lookUp(ctx, m.b.client, name)
		if err != nil {
			return err
		}
		if t == nil {
			m.b.forget(name)
			return fmt.Errorf("%w: %s", errNoTopic, name)
		}
		m.topics = append(m.topics, t)
	}
	return nil
}

// open ends what the mover before this one left undone, and begins to read
// where it has ended.
func (m *mover) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	m.tiers = make([]waiting, tiers)
	m.writer, err = kgo.NewClient(append(m.b.config.clientOptions(),
		kgo.TransactionalID(m.group), kgo.TransactionTimeout(10*time.Second),
		kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(bodyMax+1<<16))...)
	if err != nil {
		return err
	}
	from, err := m.places(ctx)
	if err == nil {
		m.reader, err = kgo.NewClient(append(m.b.config.clientOptions(),
			kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))...)
	}
	if err != nil {
		m.writer.Close()
	}
	return err
}

// places returns up to where the tiers are done, once nobody else can move them.
func (m *mover) places(ctx context.Context) (map[string]map[int32]kgo.Offset, error) {
	if _, _, err := m.writer.ProducerID(ctx); err != nil {
		return nil, err
	}
	done, err := offsetsOf(ctx, m.b.client, m.group, m.topics...)
	if err != nil {
		return nil, err
	}
	from := make(map[string]map[int32]kgo.Offset)
	for i, t := range m.topics {
		at := kgo.NewOffset().AtStart()
		if done[i].offset >= 0 {
			at = kgo.NewOffset().At(done[i].offset)
		}
		from[t.name] = map[int32]kgo.Offset{0: at}
	}
	return from, nil
}

// read puts what the server has in tiers, and pauses those of which enough is
// read.
func (m *mover) read(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := m.reader.PollFetches(ctx)
		m.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) { m.tiers[tierOf(r.Topic, m.b.config.prefix)].add(r) })
		for i, t := range m.topics {
			if m.tiers[i].bytes > readAhead {
				m.reader.PauseFetchTopics(t.name)
			}
		}
		m.mu.Unlock()
		tell(m.wake)
	}
}

// move moves each record when its time comes, until ctx ends.
func (m *mover) move(ctx context.Context) error {
	for {
		next, err := m.moveDue(ctx)
		if err != nil {
			return err
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = time.Until(next)
		}
		timer := time.NewTimer(wait)
		select {
		case <-m.wake:
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// moveDue moves all whose time has come, and returns when the next one's does;
// zero where nothing waits.
func (m *mover) moveDue(ctx context.Context) (next time.Time, err error) {
	for {
		m.mu.Lock()
		moved, err := m.moveSome(ctx)
		next = m.next()
		m.mu.Unlock()
		if err != nil || !moved {
			return next, err
		}
		if err := sleep(ctx, moveGap); err != nil {
			return next, err
		}
	}
}

// next needs mu.
func (m *mover) next() (next time.Time) {
	for i := range m.tiers {
		if records := m.tiers[i].records; len(records) > 0 {
			_, leave, _ := detention(records[0])
			if at := time.UnixMilli(leave); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	return next
}

// moveSome moves a batch in one transaction. It needs mu.
func (m *mover) moveSome(ctx context.Context) (moved bool, err error) {
	now := time.Now()
	leaving, done := m.leaving(now)
	if len(leaving) == 0 {
		return false, nil
	}
	out := make([]*kgo.Record, len(leaving))
	for i, r := range leaving {
		if out[i], err = m.onward(ctx, r, now); err != nil {
			return false, err
		}
	}
	if err := m.transfer(ctx, out, done); err != nil {
		return false, err
	}
	for i, n := range done {
		m.tiers[i].remove(n)
		if m.tiers[i].bytes < readAhead/2 {
			m.reader.ResumeFetchTopics(m.topics[i].name)
		}
	}
	return true, nil
}

// leaving returns the records of the next transaction, the first that is due
// first, and how many of each tier they are. It needs mu.
func (m *mover) leaving(now time.Time) (records []*kgo.Record, done map[int]int) {
	done = make(map[int]int)
	for i := range m.tiers {
		w := &m.tiers[i]
		if n := min(w.due(now), moveBatch-len(records)); n > 0 {
			done[i] = n
			records = append(records, w.records[:n]...)
		}
	}
	slices.SortStableFunc(records, func(a, b *kgo.Record) int {
		dueA, _, _ := detention(a)
		dueB, _, _ := detention(b)
		return cmp.Compare(dueA, dueB)
	})
	return records, done
}

// onward is the record that a record becomes when it leaves its tier. One that
// has nowhere to go, since its topic is gone for good or it is of another
// program, is dead, and does not hold up the others.
func (m *mover) onward(ctx context.Context, r *kgo.Record, now time.Time) (*kgo.Record, error) {
	due, _, topic := detention(r)
	to := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}
	if due > now.UnixMilli() && topic != "" {
		m.b.detain(to, due, now)
		return to, nil
	}
	if topic == "" {
		to.Topic = m.b.deadTopicOf("linda.delay")
	}
	if m.b.known(to.Topic) {
		return to, nil
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err := m.b.ensure(limited, m.b.config.partitions, to.Topic)
	if errors.Is(err, linda.ErrBadName) || errors.Is(err, errNoTopic) {
		to.Topic = m.b.deadTopicOf("linda.delay")
		err = m.b.ensure(limited, 1, to.Topic)
	}
	return to, err
}
