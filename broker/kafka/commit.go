package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
)

// commit stores what changes, one request at a time. What changes while one is
// on its way goes with the next, so that many settlements share one.
func (t *tenure) commit(ctx context.Context) error {
	for try := 0; ; {
		select {
		case <-t.commits:
		case <-ctx.Done():
			return nil
		}
		r, err := t.gather()
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		again, err := r.carryOut(ctx)
		if err != nil {
			return err
		}
		if try++; !again {
			try = 0
			continue
		}
		tell(t.commits)
		if sleep(ctx, min(backoff(try), 500*time.Millisecond)) != nil {
			return nil
		}
	}
}

// report is one commit.
type report struct {
	t       *tenure
	request *kmsg.OffsetCommitRequest
	parts   map[int32]*partition
	promise map[int32][]promise // that it keeps
	sent    time.Time
}

var errNewMember = errors.New("this process has become another member of the group")

// gather makes a report of what has changed, nil if nothing has.
func (t *tenure) gather() (*report, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	r := &report{t: t, parts: make(map[int32]*partition), promise: make(map[int32][]promise), sent: time.Now()}
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = t.topic.name, t.topic.id
	for _, number := range t.order {
		p := t.parts[number]
		if !p.dirty {
			continue
		}
		r.parts[number], r.promise[number] = p, p.promised
		p.dirty, p.promised = false, nil
		stored := kmsg.NewOffsetCommitRequestTopicPartition()
		metadata := p.water.metadata()
		stored.Partition, stored.Offset, stored.Metadata = number, p.water.low, &metadata
		topic.Partitions = append(topic.Partitions, stored)
	}
	if len(r.parts) == 0 {
		return nil, nil
	}
	// Read while mu is held, so that what is sent for these partitions is signed
	// by the member that has them.
	member, generation := t.sameMember()
	if generation < 0 {
		r.takeBack(r.parts)
		return nil, errNewMember
	}
	r.request = kmsg.NewPtrOffsetCommitRequest()
	r.request.Group, r.request.MemberID, r.request.Generation = t.m.group, member, generation
	r.request.Topics = append(r.request.Topics, topic)
	return r, nil
}

// takeBack leaves a report's partitions to another one. It needs mu.
func (r *report) takeBack(parts map[int32]*partition) (broken []promise) {
	for number, p := range parts {
		if p.over {
			broken = append(broken, r.promise[number]...)
			continue
		}
		p.dirty = true
		p.promised = append(r.promise[number], p.promised...)
	}
	return broken
}

// carryOut sends a report and tells how it went. It returns whether some of it
// has to go again, and an error if the tenure is over.
func (r *report) carryOut(ctx context.Context) (again bool, err error) {
	failed := make(map[int32]*partition)
	results, sending := r.send(ctx)
	for number, p := range r.parts {
		result := cmp.Or(sending, results[number])
		if result == nil {
			continue
		}
		failed[number] = p
		if !mayGoAgain(result) {
			err = fmt.Errorf("commit: %w", result)
		}
	}
	r.keep(failed)
	return len(failed) > 0, err
}

// send returns what became of each partition.
func (r *report) send(ctx context.Context) (map[int32]error, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := r.request.RequestWith(ctx, r.t.client)
	if err != nil {
		return nil, err
	}
	results := make(map[int32]error)
	for _, topic := range answer.Topics {
		for _, p := range topic.Partitions {
			results[p.Partition] = kerr.ErrorForCode(p.ErrorCode)
		}
	}
	return results, nil
}

// keep keeps the promises of what was stored, and puts off those of what was
// not.
func (r *report) keep(failed map[int32]*partition) {
	m := r.t.m
	var kept []promise
	m.mu.Lock()
	broken := r.takeBack(failed)
	settled := false
	for number, p := range r.parts {
		if failed[number] != nil {
			continue
		}
		p.proof = r.sent
		for _, w := range r.promise[number] {
			if d := w.accepted; d != nil {
				d.over, d.done = true, true
				delete(p.out, d.place.offset)
				settled = settled || p.closing
			}
			kept = append(kept, w)
		}
	}
	if settled {
		m.notify() // somebody waits for the last one
	}
	m.mu.Unlock()
	for _, w := range kept {
		w.done(nil)
	}
	for _, w := range broken {
		w.done(linda.ErrNotReserved)
	}
}

// mayGoAgain reports whether a commit that failed should be sent once more,
// while the partition is this process's. The group changes its generation when
// members come or go, which may be at just that moment.
func mayGoAgain(err error) bool {
	var refusal *kerr.Error
	switch {
	case !errors.As(err, &refusal):
		return true // the way to the server
	case errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress):
		return true
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return false // by metadata it would be worth another look
	}
	return refusal.Retriable
}
