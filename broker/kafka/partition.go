package kafka

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// partition is one of which the consumer group has put this process in charge.
// All of it is guarded by the mu of the membership.
type partition struct {
	t      *tenure
	number int32

	begun    bool // where to begin is known
	water    lowWater
	before   int64               // a record before it that is not done was handed out by a process before this one
	position int64               // of the next record to come
	records  []*kgo.Record       // that came, the next to hand out first
	bytes    int                 // of them
	again    []*delivery         // to hand out once more, before all others
	out      map[int64]*delivery // handed out and not settled, by offset
	closing  bool                // it hands out no more
	over     bool                // it is somebody else's
	paused   bool                // nothing more is fetched
	dirty    bool                // there is something to commit
	promised []promise           // to be kept by the next commit
	proof    time.Time           // when it was surely this process's for the last time
}

// promise is what waits for a commit.
type promise struct {
	accepted *delivery   // what the commit makes done, nil where it is for something else
	done     func(error) // called once, without mu
}

// How much to read ahead of what is handed out. A partition that goes on for
// long without being emptied is paused.
const (
	fetchAhead      = 500
	fetchAheadBytes = 4 << 20
	pauseAt         = 4 // times as much
)

func (p *partition) isFull() bool {
	return len(p.records) >= fetchAhead || p.bytes >= fetchAheadBytes
}

// hasRoom reports whether the window allows one more record.
func (p *partition) hasRoom() bool {
	return len(p.records) == 0 || p.records[0].Offset < p.water.low+int64(p.t.m.b.config.window)
}

// begin starts with what was committed.
func (p *partition) begin(water lowWater) {
	p.begun, p.water, p.position, p.before = true, water, water.low, water.high
	p.proof = time.Now()
}

// arrive takes in what was fetched. Where there is no record, or only the mark
// of a transaction, nothing is to be done.
func (p *partition) arrive(records []*kgo.Record) {
	for _, r := range records {
		if r.Offset < p.position {
			continue // it is here already
		}
		p.water.settleAll(p.position, r.Offset)
		p.position = r.Offset + 1
		switch {
		case r.Attrs.IsControl():
			p.water.settle(r.Offset)
		case !p.water.isDone(r.Offset):
			p.records = append(p.records, r)
			p.bytes += len(r.Value)
		}
	}
}

// handOut takes up to max records for a broker, within the window.
func (p *partition) handOut(to *broker, max int) []*delivery {
	if p.closing || !p.begun {
		return nil
	}
	n := min(max, len(p.again))
	got := slices.Clone(p.again[:n])
	p.again = slices.Delete(p.again, 0, n)
	wasFull := p.isFull()
	for len(got) < max && len(p.records) > 0 && p.hasRoom() {
		r := p.records[0]
		p.records = p.records[1:]
		p.bytes -= len(r.Value)
		p.water.handOut(r.Offset)
		d := &delivery{origin: p, place: place{p.number, r.Offset}, count: 1, key: r.Key, value: string(r.Value)}
		if r.Offset < p.before {
			d.count = 2
		}
		got = append(got, d)
	}
	for _, d := range got {
		d.taker = to
		p.out[d.place.offset] = d
	}
	if wasFull && !p.isFull() {
		p.t.readOn(p)
	}
	return got
}

// putBack makes a delivery that was not settled the next to be handed out, and
// ends what there is of it.
func (p *partition) putBack(d *delivery, count int16) {
	if d.over || p.water.isDone(d.place.offset) {
		return
	}
	d.over = true
	delete(p.out, d.place.offset)
	p.again = append(p.again, &delivery{origin: p, place: d.place, count: count, key: d.key, value: d.value})
}

// promise has done called after the next commit.
func (p *partition) promise(accepted *delivery, done func(error)) {
	p.dirty = true
	p.promised = append(p.promised, promise{accepted, done})
	tell(p.t.commits)
}

// send is that of an [origin].
func (p *partition) send(v *verdict) {
	m, d := p.t.m, v.delivery
	m.mu.Lock()
	over := d.over
	switch {
	case over:
	case v.kind == accept:
		p.water.settle(d.place.offset)
		p.promise(d, v.done)
	case v.kind == renewed:
		p.promise(nil, v.done)
	default: // an unconfirmed accept stands
		p.putBack(d, d.count+1)
		m.notify()
	}
	m.mu.Unlock()
	switch {
	case over:
		v.done(linda.ErrNotReserved)
	case v.kind == release:
		v.done(nil)
	}
}

// left is that of an [origin]. A partition is lost when the group says so, not
// after a time, but it may have said so to a process that was stopped.
func (p *partition) left(d *delivery) (left time.Duration, late bool) {
	m := p.t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.over {
		return 0, true
	}
	return m.b.config.lock, time.Since(p.proof) > m.b.config.lock/3
}

// lost is that of an [origin].
func (p *partition) lost(d *delivery) bool {
	p.t.m.mu.Lock()
	defer p.t.m.mu.Unlock()
	return d.over && !d.done
}
