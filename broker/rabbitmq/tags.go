package rabbitmq

import "time"

// tags knows which deliveries of a channel are settled, so that many can be
// acknowledged at once. The server numbers the deliveries of a channel from 1.
// The zero value is ready to use.
type tags struct {
	all    uint64              // every delivery up to this one is settled
	above  map[uint64]struct{} // those above it that are
	unsent []uint64            // those of them that are still to be acknowledged
	late   []uint64            // likewise, but next has passed them over once
}

// acknowledge records that deliveries are settled, and are to be acknowledged.
func (t *tags) acknowledge(settled []uint64) {
	t.note(settled...)
	t.unsent = append(t.unsent, settled...)
}

// waiting is how many are still to be acknowledged.
func (t *tags) waiting() int { return len(t.unsent) + len(t.late) }

// next returns how to acknowledge what is to be: one acknowledgement for all up to
// a number, which is 0 where there is none, and one for each of the others. They
// have to be sent before anything else is settled. If patient, those above an open
// one are passed over once, since it may be settled by the next time.
func (t *tags) next(patient bool) (upTo uint64, single []uint64) {
	late := t.late
	if !patient {
		late = append(late, t.unsent...)
		t.unsent = t.unsent[:0]
	}
	upTo, single = t.split(late, nil)
	last, passed := t.split(t.unsent, t.late[:0])
	t.late, t.unsent = passed, t.unsent[:0]
	return max(upTo, last), single
}

// split returns the last of some tags below which none is open, and appends the
// others to above.
func (t *tags) split(some, above []uint64) (last uint64, _ []uint64) {
	for _, tag := range some {
		if tag > t.all {
			above = append(above, tag)
		} else {
			last = max(last, tag)
		}
	}
	return last, above
}

// note records that deliveries are settled, and nothing is to be acknowledged.
func (t *tags) note(settled ...uint64) {
	if t.above == nil {
		t.above = make(map[uint64]struct{})
	}
	for _, tag := range settled {
		if tag != t.all+1 {
			t.above[tag] = struct{}{}
			continue
		}
		t.all = tag
		for len(t.above) > 0 {
			if _, next := t.above[t.all+1]; !next {
				break
			}
			t.all++
			delete(t.above, t.all)
		}
	}
}

// Acknowledgements are collected for a moment, since one for a hundred jobs is as
// much work for the server as one for a single job. Those of jobs above one that is
// open wait for another moment: most often it ends meanwhile, and one will do.
const (
	ackPause = time.Millisecond
	// ackShare is which part of what the server may send may be settled without its
	// knowing, so that it does not stop sending for want of an acknowledgement.
	ackShare = 4
)

// acknowledge removes deliveries from the queue, and returns those that it
// could not: all of them when the channel is gone, and with it the
// reservations. It does so at once where none came for a moment.
func (t *tap) acknowledge(deliveries []*delivery) (lost []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return deliveries
	}
	ours, lost := t.finish(deliveries)
	t.settled.acknowledge(ours)
	_, total := t.room()
	sent := true
	switch {
	case t.settled.waiting()*ackShare >= total:
		sent = t.sendAcks(false)
	case time.Since(t.acked) >= ackPause:
		sent = t.sendAcks(true)
	}
	if !sent {
		return deliveries
	}
	t.ackLater()
	return lost
}

// ackLater sees to it that what waits to be acknowledged is. It needs mu.
func (t *tap) ackLater() {
	if !t.acking && t.settled.waiting() > 0 {
		t.acking = true
		time.AfterFunc(ackPause, t.flush)
	}
}

// flush acknowledges what was collected.
func (t *tap) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acking = false
	if !t.closed {
		t.sendAcks(true)
		t.ackLater()
	}
}

// sendAcks needs mu, though sending only fills a buffer, see socket: an
// acknowledgement of many that overtakes one of them would have the server close
// the channel.
func (t *tap) sendAcks(patient bool) (ok bool) {
	t.acked = time.Now()
	upTo, single := t.settled.next(patient)
	ok = upTo == 0 || t.ch.Ack(upTo, true) == nil
	for _, tag := range single {
		ok = ok && t.ch.Ack(tag, false) == nil
	}
	return ok
}

// reject gives deliveries back to the server, which counts them.
func (t *tap) reject(deliveries []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ours, _ := t.finish(deliveries)
	t.settled.note(ours...)
	for _, tag := range ours {
		if !t.closed {
			_ = t.ch.Reject(tag, true)
		}
	}
}

// finish ends deliveries, and returns the tags of those that were not ended
// before: the server closes the channel where one is settled twice. It needs
// mu.
func (t *tap) finish(deliveries []*delivery) (ours []uint64, before []*delivery) {
	for _, d := range deliveries {
		if d.over {
			before = append(before, d)
			continue
		}
		d.over = true
		if d.flow != nil {
			d.flow.open--
		}
		ours = append(ours, d.tag)
	}
	return ours, before
}
