package kafka

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

// How long the server may wait for records before it answers. While jobs are
// held it is short, since a session takes no settlement meanwhile.
const (
	waitFirst   = 250 * time.Millisecond // it loads the state of its partitions
	waitNow     = 10 * time.Millisecond
	waitHolding = 20 * time.Millisecond
	waitIdle    = 500 * time.Millisecond
)

// session is the share session of a life with one server. Its goroutine
// carries out one exchange at a time, as the numbers in them demand.
type session struct {
	life       *life
	server     int32
	partitions []int32
	wake       chan struct{}
	number     int32 // of the next exchange

	verdicts []*verdict // guarded by line.mu: to be sent
}

// delivery is a record that was handed to this process.
type delivery struct {
	origin  origin
	session *session // where that is the origin
	place   place
	count   int16 // how often the record was handed out, this time included
	key     []byte
	value   string
	receipt *linda.Receipt // set before the keeper has it

	until time.Time // guarded by line.mu: the server's lock has not ended before
	over  bool      // guarded by line.mu, or membership.mu: it is settled or lost
	done  bool      // guarded likewise: it is over, since the server has taken that it is accepted
	taker *broker   // guarded by membership.mu: who got it, of a membership
	given bool      // guarded by membership.mu: a worker got it, after the group was told
}

// exchange is one request and its answer.
type exchange struct {
	verdicts []*verdict
	renews   bool
	fetch    int // how many records to ask for; 0: none
	wait     time.Duration
	sent     time.Time
}

// run carries out what is to be done until ctx ends.
func (s *session) run(ctx context.Context) error {
	for {
		x := s.next()
		if x == nil {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		err := s.carryOut(ctx, x)
		if err != nil {
			for _, v := range x.verdicts {
				if v.done != nil {
					v.done(fmt.Errorf("%w: %w", linda.ErrUnknown, err))
				}
			}
			return err
		}
	}
}

// next returns the next exchange, nil where there is nothing to do.
func (s *session) next() *exchange {
	l := s.life.line
	l.mu.Lock()
	defer l.mu.Unlock()
	x := &exchange{}
	x.verdicts, s.verdicts = choose(s.verdicts)
	x.renews = slices.ContainsFunc(x.verdicts, func(v *verdict) bool { return v.kind == renewed })
	total, now := 0, false
	for _, w := range l.waiters {
		total += w.max
		now = now || w.now
	}
	servers := len(s.life.sessions)
	if !x.renews && (total > 0 || s.number == 0) {
		x.fetch = min(max((total-len(l.spare)+servers-1)/servers, 1), 500)
	}
	switch {
	case x.fetch == 0 && len(x.verdicts) == 0:
		return nil
	case s.number == 0:
		x.wait = waitFirst
	case len(x.verdicts) > 0 && !now:
		x.wait = 0
	case now:
		x.wait = waitNow
	case len(s.life.held) > 0:
		x.wait = waitHolding
	default:
		x.wait = waitIdle
	}
	if s.number == 0 && len(x.verdicts) > 0 { // cannot be: nothing was handed out
		x.fetch = 0
	}
	return x
}

func (s *session) carryOut(ctx context.Context, x *exchange) error {
	ctx, cancel := context.WithTimeout(ctx, x.wait+callLimit)
	defer cancel()
	x.sent = time.Now()
	if x.fetch == 0 {
		return s.settle(ctx, x)
	}
	return s.fetch(ctx, x)
}

// fetch asks for records, with verdicts on the way.
func (s *session) fetch(ctx context.Context, x *exchange) error {
	f := s.life
	request := kmsg.NewPtrShareFetchRequest()
	request.GroupID, request.MemberID = &f.line.group, &f.member
	request.ShareSessionEpoch = s.number
	request.MaxWaitMillis = int32(x.wait / time.Millisecond)
	request.MinBytes, request.MaxBytes = 1, 32<<20
	request.MaxRecords, request.BatchSize = int32(x.fetch), int32(x.fetch)
	request.ShareAcquireMode = 1 // no more than MaxRecords
	if topic := s.named(x); len(topic.Partitions) > 0 {
		request.Topics = append(request.Topics, topic)
	}
	got, err := f.client.Broker(int(s.server)).Request(ctx, request)
	if err != nil {
		return err
	}
	answer := got.(*kmsg.ShareFetchResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return err
	}
	s.number++
	lock := time.Duration(answer.AcquisitionLockTimeoutMillis) * time.Millisecond
	var deliveries []*delivery
	results := make(map[int32]error)
	for _, t := range answer.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			results[p.Partition] = kerr.ErrorForCode(p.AcknowledgeErrorCode)
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
			deliveries = append(deliveries, s.read(p, x.sent.Add(lock))...)
		}
	}
	for _, v := range x.verdicts { // a partition without records and without an error may be left out
		if _, answered := results[v.delivery.place.partition]; !answered {
			results[v.delivery.place.partition] = nil
		}
	}
	s.settled(x, results, lock)
	s.arrived(deliveries)
	return nil
}

// named is what a fetch says about partitions: all of them, the first time,
// then only the verdicts.
func (s *session) named(x *exchange) kmsg.ShareFetchRequestTopic {
	topic := kmsg.NewShareFetchRequestTopic()
	topic.TopicID = s.life.topic.id
	runs := inRuns(x.verdicts)
	for _, partition := range s.partitions {
		if s.number > 0 && len(runs[partition]) == 0 {
			continue
		}
		p := kmsg.NewShareFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes = partition, 32<<20
		for _, r := range runs[partition] {
			batch := kmsg.NewShareFetchRequestTopicPartitionAcknowledgementBatch()
			batch.FirstOffset, batch.LastOffset, batch.AcknowledgeTypes = r.first, r.last, []int8{r.kind}
			p.AcknowledgementBatches = append(p.AcknowledgementBatches, batch)
		}
		topic.Partitions = append(topic.Partitions, p)
	}
	return topic
}

var decompressor = kgo.DefaultDecompressor()

// read returns the deliveries of a partition. The records come in whole
// batches, of which only some are for this session.
func (s *session) read(p *kmsg.ShareFetchResponseTopicPartition, until time.Time) []*delivery {
	if len(p.AcquiredRecords) == 0 {
		return nil
	}
	raw := kmsg.NewFetchResponseTopicPartition()
	raw.Partition, raw.RecordBatches = p.Partition, p.Records
	parsed, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Topic: s.life.topic.name, Partition: p.Partition, Offset: p.AcquiredRecords[0].FirstOffset,
	}, &raw, decompressor, nil)
	records := make(map[int64]*kgo.Record, len(parsed.Records))
	for _, r := range parsed.Records {
		records[r.Offset] = r
	}
	var deliveries []*delivery
	for _, run := range p.AcquiredRecords {
		for offset := run.FirstOffset; offset <= run.LastOffset; offset++ {
			d := &delivery{origin: s, session: s, place: place{p.Partition, offset}, count: run.DeliveryCount, until: until}
			r := records[offset]
			if r == nil { // the mark of a transaction, or a record that was compacted
				s.send(&verdict{delivery: d, kind: gap, done: func(error) {}})
				continue
			}
			d.key, d.value = r.Key, string(r.Value)
			deliveries = append(deliveries, d)
		}
	}
	return deliveries
}

// arrived hands over what an exchange brought, and tells the waiters for now
// that this server has been asked.
func (s *session) arrived(deliveries []*delivery) {
	l := s.life.line
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range deliveries {
		if old := s.life.held[d.place]; old != nil {
			old.over = true // its lock has ended
		}
		s.life.held[d.place] = d
	}
	l.spare = append(l.spare, deliveries...)
	l.serve()
	for _, w := range slices.Clone(l.waiters) {
		if !w.now {
			continue
		}
		if w.toAsk == nil {
			w.toAsk = make(map[int32]int)
			for server := range s.life.sessions {
				w.toAsk[server] = 2
			}
		}
		// The first answer may be to a request from before.
		if w.toAsk[s.server]--; w.toAsk[s.server] <= 0 {
			delete(w.toAsk, s.server)
		}
		if len(w.toAsk) == 0 {
			l.dismiss(w, nil)
		}
	}
	if len(l.spare) > 0 {
		l.b.run(l.putBack)
	}
}

// putBack gives back what nobody has come for. The job gets to the end of the
// queue, as one that was handed back unstarted.
func (l *line) putBack() {
	if sleep(l.b.ctx, 200*time.Millisecond) != nil {
		return
	}
	l.mu.Lock()
	spare := l.spare
	l.spare = nil
	l.mu.Unlock()
	if len(spare) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(l.b.ctx, callLimit)
	defer cancel()
	l.b.reseat(ctx, l.topic, spare)
}
