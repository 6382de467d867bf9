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

// tenure is one time in the consumer group, over one set of connections and as
// one member. When it ends, the group gives its partitions to others.
type tenure struct {
	m       *membership
	topic   *topic
	shared  map[int32]int64 // up to where it was done in share mode
	client  *kgo.Client
	end     context.CancelCauseFunc
	commits chan struct{} // told that there is something to commit
	room    chan struct{} // told that there is room for more to be read

	member string               // guarded by membership.mu, as all below
	joined bool                 // the group has said which partitions are this process's
	parts  map[int32]*partition // that are
	order  []int32              // of parts
	turn   int                  // whose turn it is to hand out
}

// How long giving up a partition may take. The handlers have settleFor to end by
// themselves; only this partition waits meanwhile, not the group.
const (
	settleFor = 5 * time.Second
	storeFor  = 2 * time.Second
)

func (t *tenure) options() []kgo.Opt {
	session := t.m.b.config.lock
	return []kgo.Opt{
		kgo.ConsumerGroup(t.m.group), kgo.ConsumeTopics(t.m.topic), kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.SessionTimeout(session), kgo.HeartbeatInterval(min(session/4, 500*time.Millisecond)),
		kgo.RebalanceTimeout(max(session, 30*time.Second)),
		kgo.FetchMaxWait(500 * time.Millisecond), kgo.FetchMaxBytes(16 << 20),
		kgo.OnPartitionsAssigned(t.assigned), kgo.OnOffsetsFetched(t.fetched), kgo.AdjustFetchOffsetsFn(t.adjust),
		kgo.OnPartitionsRevoked(t.revoked), kgo.OnPartitionsLost(t.lost),
	}
}

// run stays in the group until ctx ends.
func (t *tenure) run(ctx context.Context) {
	var reader, committer sync.WaitGroup
	committing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	reader.Go(func() { t.end(t.read(ctx)) })
	reader.Go(func() { t.end(t.awaitIdle(ctx)) })
	committer.Go(func() { t.end(t.commit(committing)) })
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, errIdle) && !errors.Is(cause, linda.ErrClosed) {
		t.lose(t.all()) // nothing more can be committed
	}
	reader.Wait()
	limited, cancel := context.WithTimeout(context.Background(), 2*storeFor)
	defer cancel()
	_ = t.client.LeaveGroupContext(limited) // which has the partitions revoked
	stop()
	committer.Wait()
	t.client.CloseAllowingRebalance()
	t.client.AllowRebalance() // its own last poll may hold up its own leaving for ever
	t.lose(t.all())
	t.m.mu.Lock()
	t.m.tenure = nil
	t.m.mu.Unlock()
}

// awaitIdle returns when nobody has asked for jobs for long.
func (t *tenure) awaitIdle(ctx context.Context) error {
	for sleep(ctx, t.m.idle/10) == nil {
		t.m.mu.Lock()
		idle := t.m.waiting == 0 && time.Since(t.m.asked) > t.m.idle
		for _, p := range t.parts {
			idle = idle && len(p.out) == 0
		}
		t.m.mu.Unlock()
		if idle {
			return errIdle
		}
	}
	return nil
}

// read takes in what the server has, as far as there is room.
func (t *tenure) read(ctx context.Context) error {
	for t.awaitRoom(ctx) == nil {
		fetches := t.client.PollRecords(ctx, fetchAhead)
		err := t.arrived(fetches)
		t.client.AllowRebalance()
		if ctx.Err() == nil && err != nil {
			return err
		}
	}
	return nil
}

// awaitRoom waits until there is a partition of which little is there.
func (t *tenure) awaitRoom(ctx context.Context) error {
	for {
		t.m.mu.Lock()
		room := len(t.parts) == 0
		for _, p := range t.parts {
			room = room || !p.isFull()
		}
		t.m.mu.Unlock()
		if room {
			return ctx.Err()
		}
		select {
		case <-t.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *tenure) arrived(fetches kgo.Fetches) error {
	m := t.m
	for _, f := range fetches.Errors() {
		if !recovers(f.Err) {
			return f.Err
		}
		m.fail(m.b.fault("fetch", f.Err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		p := t.parts[f.Partition]
		if p == nil || !p.begun {
			return
		}
		p.arrive(f.Records)
		if !p.paused && (len(p.records) >= pauseAt*fetchAhead || p.bytes >= pauseAt*fetchAheadBytes) {
			p.paused = true
			t.client.PauseFetchPartitions(map[string][]int32{t.topic.name: {p.number}})
		}
	})
	m.notify()
	return nil
}

// recovers reports whether the client joins the group again by itself. It does
// so as the member that it was, if the group still knows it. Another one would
// have to wait until that member's session ends, and all others with it.
func recovers(err error) bool {
	var session *kgo.ErrGroupSession
	if !errors.As(err, &session) {
		return false
	}
	var refusal *kerr.Error
	switch {
	case !errors.As(err, &refusal):
		return true // the way to the server
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration):
		return true
	}
	return refusal.Retriable
}

// readOn has more of a partition fetched. It needs mu.
func (t *tenure) readOn(p *partition) {
	if p.paused {
		p.paused = false
		t.client.ResumeFetchPartitions(map[string][]int32{t.topic.name: {p.number}})
	}
	tell(t.room)
}

// all returns the partitions that are this process's.
func (t *tenure) all() []*partition {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	parts := make([]*partition, 0, len(t.parts))
	for _, p := range t.parts {
		parts = append(parts, p)
	}
	return parts
}

// assigned is called when the group has said what is this process's, with what
// is new of it.
func (t *tenure) assigned(_ context.Context, _ *kgo.Client, added map[string][]int32) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	for _, number := range added[t.topic.name] {
		if t.parts[number] == nil {
			t.parts[number] = &partition{t: t, number: number, out: make(map[int64]*delivery)}
			t.order = append(t.order, number)
		}
	}
	slices.Sort(t.order)
	t.joined = true
	t.sameMember()
	t.m.notify()
}

// sameMember returns as what this process is in the group. It ends the tenure
// where that is another member than the one to which the partitions were given:
// the group may have given them to others in between. It needs mu.
func (t *tenure) sameMember() (member string, generation int32) {
	member, generation = t.client.GroupMetadata()
	if t.member == "" {
		t.member = member
	}
	if member != t.member || generation < 0 {
		t.end(errNewMember)
		return "", -1
	}
	return member, generation
}

// fetched is called with what the group has stored of partitions that are new.
func (t *tenure) fetched(_ context.Context, _ *kgo.Client, answer *kmsg.OffsetFetchResponse) error {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	for _, g := range answer.Groups {
		for _, topic := range g.Topics {
			for _, stored := range topic.Partitions {
				p := t.parts[stored.Partition]
				if p == nil || stored.ErrorCode != 0 || stored.Offset < 0 {
					continue
				}
				metadata := ""
				if stored.Metadata != nil {
					metadata = *stored.Metadata
				}
				p.begin(beginAt(stored.Offset, metadata))
			}
		}
	}
	return nil
}

// adjust is called then, with where the client would begin. What was deleted
// since is done, what was done in share mode too, and a partition of which nothing is stored begins with its
// first record.
func (t *tenure) adjust(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	var numbers []int32
	for number := range offsets[t.topic.name] {
		numbers = append(numbers, number)
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	first, err := boundsOf(limited, t.client, t.topic.name, numbers, earliest)
	if err != nil {
		return nil, err
	}
	ends, err := boundsOf(limited, t.client, t.topic.name, numbers, latest)
	if err != nil {
		return nil, err
	}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	for number, offset := range first {
		p := t.parts[number]
		if p == nil {
			continue
		}
		if !p.begun || p.water.low > ends[number] { // then what is stored is of an earlier topic of this name
			p.begin(beginAt(offset, ""))
		}
		p.water.settleAll(p.water.low, max(offset, t.shared[number]))
		p.position = p.water.low
		offsets[t.topic.name][number] = kgo.NewOffset().At(p.position)
		t.client.ResumeFetchPartitions(map[string][]int32{t.topic.name: {number}})
	}
	t.m.notify()
	return offsets, nil
}

// lost is called when the group has given partitions to others unasked, or may
// have. Once none is left it does not matter as which member the client joins again.
func (t *tenure) lost(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	t.lose(t.these(topics))
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if len(t.parts) == 0 {
		t.member, t.joined = "", false
	}
}

// these needs no lock to be held.
func (t *tenure) these(topics map[string][]int32) (parts []*partition) {
	for _, p := range t.all() {
		if slices.Contains(topics[t.topic.name], p.number) {
			parts = append(parts, p)
		}
	}
	return parts
}

// lose ends the reservations of partitions that are somebody else's.
func (t *tenure) lose(parts []*partition) {
	m := t.m
	var broken []promise
	m.mu.Lock()
	for _, p := range parts {
		if t.parts[p.number] != p {
			continue
		}
		delete(t.parts, p.number)
		t.order = slices.DeleteFunc(t.order, func(n int32) bool { return n == p.number })
		p.over, p.dirty = true, false
		for _, d := range p.out {
			d.over = true
		}
		broken = append(broken, p.promised...)
		p.promised = nil
	}
	m.notify()
	m.mu.Unlock()
	for _, w := range broken {
		w.done(linda.ErrNotReserved)
	}
	m.loseEnded()
	tell(t.room)
}

// loseEnded tells the receipts of deliveries that are over.
func (m *membership) loseEnded() {
	m.mu.Lock()
	var users []*broker
	for b := range m.users {
		users = append(users, b)
	}
	m.mu.Unlock()
	now := time.Now()
	for _, b := range users {
		b.keeper.Lose(func(d *delivery) bool {
			if d.origin.lost(d) {
				d.receipt.Extend(now) // an earlier try to settle it need not have succeeded
			}
			left, _ := d.origin.left(d)
			return left <= 0
		})
	}
}
