package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

// What becomes of a record that is held.
const (
	gap     int8 = 0 // there is no record at this place
	accept  int8 = 1
	release int8 = 2
	renewed int8 = 4
)

// verdict is what is to become of a delivery.
type verdict struct {
	delivery *delivery
	kind     int8
	alone    bool        // it goes in a request of its own, to see whether it is the one that is refused
	done     func(error) // called once, from the goroutine of the session
}

// send queues a verdict. ErrNotReserved means that the session is over.
func (s *session) send(v *verdict) {
	l := s.life.line
	l.mu.Lock()
	over := s.life.over || v.delivery.over
	if !over {
		s.verdicts = append(s.verdicts, v)
	}
	l.mu.Unlock()
	if over {
		v.done(linda.ErrNotReserved)
		return
	}
	tell(s.wake)
}

// choose returns the verdicts that can go in one request, and the others. One
// that goes alone takes no other of its partition with it.
func choose(all []*verdict) (chosen, rest []*verdict) {
	if len(all) == 0 {
		return nil, nil
	}
	taken := make(map[int32]bool) // partitions; true: for one alone
	for _, v := range all {
		partition := v.delivery.place.partition
		alone, some := taken[partition]
		if some && (alone || v.alone) {
			rest = append(rest, v)
			continue
		}
		taken[partition] = v.alone
		chosen = append(chosen, v)
	}
	return chosen, rest
}

// settle sends verdicts alone.
func (s *session) settle(ctx context.Context, x *exchange) error {
	f := s.life
	request := kmsg.NewPtrShareAcknowledgeRequest()
	request.GroupID, request.MemberID = &f.line.group, &f.member
	request.ShareSessionEpoch = s.number
	request.IsRenewAck = x.renews
	topic := kmsg.NewShareAcknowledgeRequestTopic()
	topic.TopicID = f.topic.id
	for partition, runs := range inRuns(x.verdicts) {
		p := kmsg.NewShareAcknowledgeRequestTopicPartition()
		p.Partition = partition
		for _, r := range runs {
			batch := kmsg.NewShareAcknowledgeRequestTopicPartitionAcknowledgementBatch()
			batch.FirstOffset, batch.LastOffset, batch.AcknowledgeTypes = r.first, r.last, []int8{r.kind}
			p.AcknowledgementBatches = append(p.AcknowledgementBatches, batch)
		}
		topic.Partitions = append(topic.Partitions, p)
	}
	request.Topics = append(request.Topics, topic)
	got, err := f.client.Broker(int(s.server)).Request(ctx, request)
	if err != nil {
		return err
	}
	answer := got.(*kmsg.ShareAcknowledgeResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return err
	}
	s.number++
	results := make(map[int32]error)
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			results[p.Partition] = kerr.ErrorForCode(p.ErrorCode)
		}
	}
	lock := s.life.line.b.config.lock
	if answer.AcquisitionLockTimeoutMillis > 0 {
		lock = time.Duration(answer.AcquisitionLockTimeoutMillis) * time.Millisecond
	}
	s.settled(x, results, lock)
	return nil
}

// settled tells how verdicts went. Where the server refused those of a
// partition it has refused all of them for the sake of one: then each goes
// again, alone.
func (s *session) settled(x *exchange, results map[int32]error, lock time.Duration) {
	l := s.life.line
	size := make(map[int32]int)
	for _, v := range x.verdicts {
		size[v.delivery.place.partition]++
	}
	for _, v := range x.verdicts {
		d := v.delivery
		err, answered := results[d.place.partition]
		if err != nil && size[d.place.partition] > 1 {
			v.alone = true
			s.send(v)
			continue
		}
		l.mu.Lock()
		switch {
		case err == nil && v.kind == renewed:
			d.until = x.sent.Add(lock)
		default:
			d.over, d.done = true, d.done || answered && err == nil && v.kind == accept
			if s.life.held[d.place] == d {
				delete(s.life.held, d.place)
			}
		}
		l.mu.Unlock()
		switch {
		case err != nil || !answered:
			v.done(fmt.Errorf("%w: %v", linda.ErrNotReserved, err))
		default:
			v.done(nil)
		}
	}
}

// offsets is a run of places with the same verdict.
type offsets struct {
	first, last int64
	kind        int8
}

// inRuns puts verdicts in the order of their places, as the server wants them.
func inRuns(verdicts []*verdict) map[int32][]offsets {
	runs := make(map[int32][]offsets)
	verdicts = slices.Clone(verdicts)
	slices.SortFunc(verdicts, func(a, b *verdict) int {
		return cmp.Compare(a.delivery.place.offset, b.delivery.place.offset)
	})
	for _, v := range verdicts {
		at := v.delivery.place
		list := runs[at.partition]
		if n := len(list); n > 0 && list[n-1].kind == v.kind && list[n-1].last+1 == at.offset {
			list[n-1].last++
			continue
		}
		runs[at.partition] = append(list, offsets{at.offset, at.offset, v.kind})
	}
	return runs
}
