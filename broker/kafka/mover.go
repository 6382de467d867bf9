package kafka

import (
	"context"
	"errors"
	"slices"
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
	b      *broker
	group  string
	id     string // of the transactions
	client *kgo.Client
	wake   chan struct{} // told when there is more in tiers

	mu    sync.Mutex            // held for a whole transaction, so that tiers are not given away in it
	tiers map[int][]*kgo.Record // guarded by mu: what is read and not moved, the first to leave first
}

const (
	readAhead = 2000 // records of a tier
	moveBatch = 500  // records of a transaction
)

// startMoverSoon starts the mover of a process that stays.
func (b *broker) startMoverSoon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mover != nil || b.soon || b.ctx.Err() != nil {
		return
	}
	b.soon = true
	b.run(func() {
		if sleep(b.ctx, 2*time.Second) == nil {
			b.startMover()
		}
	})
}

func (b *broker) startMover() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mover != nil || b.ctx.Err() != nil {
		return
	}
	b.mover = &mover{b: b, group: b.config.prefix + b.config.group + ".delay", id: "linda.delay." + linda.NewID(), wake: make(chan struct{}, 1)}
	b.run(b.mover.run)
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
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := m.b.ensureTiers(limited); err != nil {
		return err
	}
	m.tiers = make(map[int][]*kgo.Record)
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
	defer client.CloseAllowingRebalance()
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
			t.EachRecord(func(r *kgo.Record) { m.tiers[i] = append(m.tiers[i], r) })
			if len(m.tiers[i]) > readAhead {
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
	}
}

// next needs mu.
func (m *mover) next() (next time.Time) {
	for _, records := range m.tiers {
		if len(records) > 0 {
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
	done := make(map[int]int)
	var out []*kgo.Record
	for i, records := range m.tiers {
		n := slices.IndexFunc(records, func(r *kgo.Record) bool {
			_, leave, _ := detention(r)
			return leave > now.UnixMilli()
		})
		if n < 0 {
			n = len(records)
		}
		if n = min(n, moveBatch-len(out)); n <= 0 {
			continue
		}
		done[i] = n
		for _, r := range records[:n] {
			out = append(out, m.b.onward(r, now))
		}
	}
	if len(out) == 0 {
		return false, nil
	}
	if err := m.transfer(ctx, out, done); err != nil {
		return false, err
	}
	for i, n := range done {
		m.tiers[i] = m.tiers[i][n:]
		if len(m.tiers[i]) < readAhead/2 {
			m.client.ResumeFetchTopics(tierTopic(m.b.config.prefix, i))
		}
	}
	return true, nil
}

// onward is the record that a record becomes when it leaves its tier. A record
// that linda has not put there is moved to the queue of its name's dead jobs.
func (b *broker) onward(r *kgo.Record, now time.Time) *kgo.Record {
	due, _, topic := detention(r)
	if topic == "" {
		return &kgo.Record{Topic: b.config.prefix + "linda.delay.dead", Key: r.Key, Value: r.Value}
	}
	to := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}
	if due > now.UnixMilli() {
		b.detain(to, due, now)
	}
	return to
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
	if err == nil {
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
		last := m.tiers[i][n-1]
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
