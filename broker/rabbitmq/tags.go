package rabbitmq

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
