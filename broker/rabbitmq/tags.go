package rabbitmq

import "slices"

// tags knows which deliveries of a channel are settled, so that many can be
// acknowledged at once. The server numbers the deliveries of a channel from 1.
// The zero value is ready to use.
type tags struct {
	all   uint64              // every delivery up to this one is settled
	above map[uint64]struct{} // those above it that are
}

// settle records that deliveries are settled, and returns how to acknowledge
// those of them that are to be: one acknowledgement for all up to a number,
// which is 0 where there is none, and one for each of the others. Nothing else
// may be settled before they are sent.
func (t *tags) settle(acknowledge []uint64) (upTo uint64, single []uint64) {
	t.note(acknowledge...)
	slices.Sort(acknowledge)
	n, _ := slices.BinarySearch(acknowledge, t.all+1)
	if n < 2 {
		return 0, acknowledge
	}
	return acknowledge[n-1], acknowledge[n:]
}

// note records that deliveries are settled otherwise.
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

// acknowledge removes deliveries from the queue, and returns those that it
// could not: all of them when the channel is gone, and with it the
// reservations.
//
// Sending under the mutex only fills a buffer, see socket. It has to be there:
// an acknowledgement of many that overtakes one of them would have the server
// close the channel.
func (t *tap) acknowledge(deliveries []*delivery) (lost []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return deliveries
	}
	ours, lost := t.finish(deliveries)
	upTo, single := t.settled.settle(ours)
	ok := upTo == 0 || t.ch.Ack(upTo, true) == nil
	for _, tag := range single {
		ok = ok && t.ch.Ack(tag, false) == nil
	}
	if !ok {
		return deliveries
	}
	return lost
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
