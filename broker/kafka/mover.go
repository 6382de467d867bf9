package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

// mover moves delayed jobs from tier to tier and at last to their queues. The
// movers of all processes are one consumer group, so that each tier has one
// that looks after it. A record is moved in a transaction together with the
// place up to which the tier is done: both happen or neither does, and a mover
// whose tier was given to another meanwhile is refused.
type mover struct {
	b      *broker // of its own
	users  int     // guarded by movers
	group  string
	id     string // of the transactions
	client *kgo.Client
	wake   chan struct{} // told when there is more in tiers

	mu    sync.Mutex       // held for a whole transaction, so that tiers are not given away in it
	tiers map[int]*waiting // guarded by mu
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
		m = &mover{b: open(), group: c.prefix + c.group + ".delay", id: "linda.delay." + linda.NewID(), wake: make(chan struct{}, 1)}
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
		_ = m.move()
		if time.Since(begun) > 10*time.Second {
			try = 1
		}
		_ = sleep(m.b.ctx, backoff(try))
	}
}

func (m *mover) move() error {
	ctx, end := context.WithCancel(m.b.ctx)
	defer end()
	if m.b.client == nil {
		client, err := m.b.config.newClient()
		if err != nil {
			return err
		}
		m.b.client = client
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := m.b.ensureTiers(limited); err != nil {
		return err
	}
	m.tiers = make(map[int]*waiting)
	client, err := kgo.NewClient(append(m.b.config.clientOptions(),
		kgo.ConsumerGroup(m.group), kgo.ConsumeTopics(m.b.tierTopics()...), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.HeartbeatInterval(300*time.Millisecond), kgo.SessionTimeout(10*time.Second), kgo.RebalanceTimeout(10*time.Second),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.TransactionalID(m.id), kgo.TransactionTimeout(10*time.Second),
		kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(bodyMax+1<<16),
		kgo.OnPartitionsRevoked(m.givenAway), kgo.OnPartitionsLost(m.givenAway))...)
	if err != nil {
		return err
	}
	m.client = client
	defer func() {
		// A mover that does not say that it leaves keeps its tiers until its
		// membership times out.
		limited, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = client.LeaveGroupContext(limited)
		client.CloseAllowingRebalance()
	}()
	var reader sync.WaitGroup
	defer reader.Wait()
	defer end()
	reader.Go(func() { m.read(ctx) })
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
			return ctx.Err()
		}
		timer.Stop()
	}
}

// givenAway forgets tiers that are another mover's now. It waits for a
// transaction that is under way, which is what keeps a tier from being given
// away in one.
func (m *mover) givenAway(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic := range topics {
		delete(m.tiers, tierOf(topic, m.b.config.prefix))
	}
}

// read puts what the server has in tiers, and pauses those of which enough is
// read.
func (m *mover) read(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := m.client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil && errors.Is(err, kgo.ErrClientClosed) {
			return
		}
		m.mu.Lock()
		fetches.EachTopic(func(t kgo.FetchTopic) {
			i := tierOf(t.Topic, m.b.config.prefix)
			if m.tiers[i] == nil {
				m.tiers[i] = new(waiting)
			}
			t.EachRecord(m.tiers[i].add)
			if m.tiers[i].bytes > readAhead {
				m.client.PauseFetchTopics(t.Topic)
			}
		})
		m.mu.Unlock()
		tell(m.wake)
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
	for _, w := range m.tiers {
		if len(w.records) > 0 {
			_, leave, _ := detention(w.records[0])
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
	done := make(map[int]int)
	var out []*kgo.Record
	for i, w := range m.tiers {
		n := min(w.due(now), moveBatch-len(out))
		if n <= 0 {
			continue
		}
		done[i] = n
		for _, r := range w.records[:n] {
			to, err := m.onward(ctx, r, now)
			if err != nil {
				return false, err
			}
			out = append(out, to)
		}
	}
	if len(out) == 0 {
		return false, nil
	}
	if err := m.transfer(ctx, out, done); err != nil {
		return false, err
	}
	for i, n := range done {
		m.tiers[i].remove(n)
		if m.tiers[i].bytes < readAhead/2 {
			m.client.ResumeFetchTopics(tierTopic(m.b.config.prefix, i))
		}
	}
	return true, nil
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
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err := m.b.ensure(limited, m.b.config.partitions, to.Topic)
	if errors.Is(err, linda.ErrBadName) || errors.Is(err, errNoTopic) {
		to.Topic = m.b.deadTopicOf("linda.delay")
		err = m.b.ensure(limited, 1, to.Topic)
	}
	return to, err
}

// transfer writes records and, in the same transaction, how many of each tier
// are done.
func (m *mover) transfer(ctx context.Context, out []*kgo.Record, done map[int]int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	if err := m.client.BeginTransaction(); err != nil {
		return err
	}
	err := m.client.ProduceSync(ctx, out...).FirstErr()
	if err != nil { // a topic may be gone: look again
		for _, r := range out {
			m.b.forget(r.Topic)
		}
	} else {
		err = m.commitPlaces(ctx, done)
	}
	if err != nil {
		return errors.Join(err, m.client.EndTransaction(ctx, kgo.TryAbort))
	}
	return m.client.EndTransaction(ctx, kgo.TryCommit)
}

// commitPlaces adds to the transaction up to where the tiers are done.
func (m *mover) commitPlaces(ctx context.Context, done map[int]int) error {
	id, epoch, err := m.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = m.id, id, epoch, m.group
	for try := 1; ; try++ {
		answer, err := add.RequestWith(ctx, m.client)
		if err == nil {
			err = kerr.ErrorForCode(answer.ErrorCode)
		}
		if err == nil {
			break
		}
		if !retriable(err) || sleep(ctx, backoff(try)) != nil {
			return err
		}
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.Group, commit.ProducerID, commit.ProducerEpoch = m.id, m.group, id, epoch
	commit.MemberID, commit.Generation = m.client.GroupMetadata()
	for i, n := range done {
		topic := kmsg.NewTxnOffsetCommitRequestTopic()
		topic.Topic = tierTopic(m.b.config.prefix, i)
		p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		last := m.tiers[i].records[n-1]
		p.Partition, p.Offset, p.LeaderEpoch = last.Partition, last.Offset+1, last.LeaderEpoch
		topic.Partitions = append(topic.Partitions, p)
		commit.Topics = append(commit.Topics, topic)
	}
	answer, err := commit.RequestWith(ctx, m.client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}
