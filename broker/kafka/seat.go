package kafka

import (
	"context"
	"maps"
	"sync"
	"time"
)

// seat is what one broker has of the [membership] of a queue.
type seat struct {
	b *broker
	m *membership
}

// memberships holds those of this process. All brokers that it opened by the
// same URL share one for each queue: as members of their own, all but one of
// them would wait in vain at a queue of one partition.
var memberships = struct {
	sync.Mutex
	byName map[string]*membership // guarded by Mutex
}{byName: make(map[string]*membership)}

// newSeat takes part in the consumer group of a topic.
func (b *broker) newSeat(topic string) *seat {
	memberships.Lock()
	defer memberships.Unlock()
	name := b.config.url + " " + topic
	m := memberships.byName[name]
	if m == nil {
		m = &membership{b: open(), name: name, topic: topic, group: b.config.classicGroup(topic),
			wake: make(chan struct{}, 1), idle: 30 * time.Second, changed: make(chan struct{}), users: make(map[*broker]bool)}
		m.b.config = b.config
		memberships.byName[name] = m
		m.b.run(m.run)
	}
	m.mu.Lock()
	m.users[b] = true
	m.mu.Unlock()
	return &seat{b: b, m: m}
}

// leave gives what the broker holds to the others, and ends the membership
// after the last of them.
func (s *seat) leave() {
	m := s.m
	memberships.Lock()
	m.mu.Lock()
	delete(m.users, s.b)
	m.giveBack(s.b)
	last := len(m.users) == 0
	m.mu.Unlock()
	if last {
		delete(memberships.byName, m.name)
	}
	memberships.Unlock()
	if last {
		_ = m.b.Close()
	}
}

// take is that of a [source].
func (s *seat) take(ctx context.Context, max int, now bool) ([]*delivery, error) {
	m := s.m
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.b.ctx, cancel)()
	if !now {
		return m.await(ctx, s.b, max, nil)
	}
	got, err := m.await(ctx, s.b, max, m.isReady)
	if err != nil || len(got) > 0 {
		return got, err
	}
	ends, err := m.ends(ctx)
	if err != nil {
		return nil, s.b.fault("fetch", err)
	}
	limited, cancelLimit := context.WithTimeout(ctx, waitAsked)
	defer cancelLimit()
	got, err = m.await(limited, s.b, max, func() bool { return m.hasReached(ends) })
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = nil
	}
	return got, err
}

// waitAsked is how long to wait for what the server was seen to have.
const waitAsked = 500 * time.Millisecond

// await waits for up to max deliveries, until there is one, ctx ends, or the
// condition holds, which is called with mu held.
func (m *membership) await(ctx context.Context, b *broker, max int, enough func() bool) ([]*delivery, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting++
	defer func() { m.waiting--; m.asked = time.Now() }()
	for failures := m.failures; ; {
		if err := b.refused(ctx); err != nil {
			return nil, err
		}
		if m.failures != failures {
			return nil, m.failed
		}
		c := m.pick(b, max)
		changed := m.changed
		if c == nil && enough != nil && enough() {
			return nil, nil
		}
		m.mu.Unlock()
		tell(m.wake)
		if c != nil {
			m.confirm(ctx, c)
		} else {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		m.mu.Lock()
		if c != nil {
			if got := c.confirmed(); len(got) > 0 {
				return got, nil
			}
		}
	}
}

// claim is a take on its way: before a worker gets records, the group must know
// that they were handed out. By that a process that has lost its partitions
// without noticing hands out nothing, and one that dies has been counted.
type claim struct {
	deliveries []*delivery
	answers    chan error // one for each partition
	partitions int
}

// pick hands out up to max records that are there, nil where there is none. It
// needs mu.
func (m *membership) pick(b *broker, max int) *claim {
	t := m.tenure
	if t == nil || !m.users[b] {
		return nil
	}
	c := &claim{answers: make(chan error, len(t.order))}
	for i := range t.order {
		p := t.parts[t.order[(t.turn+i)%len(t.order)]]
		got := p.handOut(b, max-len(c.deliveries))
		if len(got) == 0 {
			continue
		}
		c.deliveries = append(c.deliveries, got...)
		c.partitions++
		p.promise(nil, func(err error) { c.answers <- err })
		if len(c.deliveries) == max {
			break
		}
	}
	t.turn++
	if c.partitions == 0 {
		return nil
	}
	return c
}

// confirm waits until the group knows of a claim. If ctx ends before, the
// records wait for the next one.
func (m *membership) confirm(ctx context.Context, c *claim) {
	for range c.partitions {
		select {
		case <-c.answers: // an error is that the partition is lost, which shows at its deliveries
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, d := range c.deliveries {
				d.origin.(*partition).putBack(d, d.count)
			}
			m.notify()
			return
		}
	}
}

// confirmed returns the deliveries of a claim that are to be had. It needs mu.
func (c *claim) confirmed() (got []*delivery) {
	for _, d := range c.deliveries {
		if !d.over {
			d.given = true
			got = append(got, d)
		}
	}
	return got
}

// giveBack makes others get what a broker holds. It needs mu.
func (m *membership) giveBack(b *broker) {
	if m.tenure == nil {
		return
	}
	for _, p := range m.tenure.parts {
		for d := range maps.Values(maps.Clone(p.out)) {
			if d.taker == b {
				p.putBack(d, d.count+1)
			}
		}
	}
	m.notify()
}

// isReady reports whether the group has said which partitions are this
// process's. It needs mu.
func (m *membership) isReady() bool {
	if m.tenure == nil || !m.tenure.joined {
		return false
	}
	for _, p := range m.tenure.parts {
		if !p.begun {
			return false
		}
	}
	return true
}

// hasReached reports whether what was at these ends has been read, as far as
// its partitions are this process's still and have room. It needs mu.
func (m *membership) hasReached(ends map[int32]int64) bool {
	if m.tenure == nil {
		return true
	}
	for number, end := range ends {
		if p := m.tenure.parts[number]; p != nil && p.position < end && !p.isFull() && p.hasRoom() {
			return false
		}
	}
	return true
}
