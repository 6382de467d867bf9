package rabbitmq

import "slices"

// tags knows which deliveries of a channel are settled, so that many can be
// acknowledged at once. The server numbers the deliveries of a channel from 1.
// The zero value is ready to use.
type tags struct {
	all    uint64              // every delivery up to this one is settled
	above  map[uint64]struct{} // those above it that are
	unsent []uint64            // those of them that are still to be acknowledged
	late   []uint64            // likewise, but single has passed them over once
}

// acknowledge records that deliveries are settled, and are to be acknowledged.
func (t *tags) acknowledge(settled ...uint64) {
	t.note(settled...)
	t.unsent = append(t.unsent, settled...)
}

// waiting is how many are still to be acknowledged.
func (t *tags) waiting() int { return len(t.unsent) + len(t.late) }

// together returns the last tag up to which all can be acknowledged at once, as far as
// they wait for that; 0 where none does.
func (t *tags) together() (upTo uint64) {
	below := func(tag uint64) bool {
		if tag > t.all {
			return false
		}
		upTo = max(upTo, tag)
		return true
	}
	t.late = slices.DeleteFunc(t.late, below)
	t.unsent = slices.DeleteFunc(t.unsent, below)
	return upTo
}

// single returns those that are to be acknowledged one by one, since together has left
// them. If patient, it passes each over once, since what is open below it may be settled
// by the next time.
func (t *tags) single(patient bool) (tags []uint64) {
	tags = t.late
	t.late = t.unsent
	if !patient {
		tags, t.late = append(tags, t.unsent...), nil
	}
	t.unsent = nil
	return tags
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
