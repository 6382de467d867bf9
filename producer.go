package linda

import (
	"context"
	"log/slog"
	"time"
)

// askAfter is how long the producer trusts what it knows of the broker's clock.
const askAfter = time.Minute

// producer pushes the jobs of schedules when their ticks come. Every process
// has one, and all of them try: the broker takes each tick once.
//
// It goes by the broker's clock, whatever that of this machine shows: each
// answer tells it, and between two the monotonic clock goes on.
type producer struct {
	*run
	entries []*entry
	server  time.Time // the broker's clock
	asked   time.Time // when that was, here; zero: not yet
}

// entry is a schedule of a Run.
type entry struct {
	*schedule
	queue string
	begun bool
	last  time.Time // the last tick that is dealt with, as far as is known here
	next  time.Time // the one after it; zero: there is none
}

func newProducer(r *run, schedules []*schedule) *producer {
	p := &producer{run: r}
	for _, s := range schedules {
		e := &entry{schedule: s, queue: s.job.Queue}
		setDefault(&e.queue, r.settings.Queue)
		p.entries = append(p.entries, e)
	}
	return p
}

// produce works until polling ends; no error ends it. A tick that the broker
// did not take is tried again until a later one comes; see MissedPolicy.
func (p *producer) produce() {
	pause := retryPause
	for len(p.entries) > 0 && p.polling.Err() == nil {
		sent := time.Now()
		err := p.round()
		wait := p.wait()
		if err != nil {
			if p.polling.Err() != nil {
				return
			}
			p.lanes[0].outage.begins(ticking, sent, err)
			wait = pause.next()
		} else {
			p.lanes[0].outage.ends(ticking)
			pause = retryPause
		}
		_ = sleep(p.polling, wait)
	}
}

// now is the broker's clock.
func (p *producer) now() time.Time { return p.server.Add(time.Since(p.asked)) }

// wait returns how long there is nothing to do.
func (p *producer) wait() time.Duration {
	wait := askAfter - time.Since(p.asked)
	now := p.now()
	for _, e := range p.entries {
		if !e.next.IsZero() {
			wait = min(wait, e.next.Sub(now))
		}
	}
	return max(wait, time.Millisecond) // should a broker never take a tick that is due
}

// round pushes what is due, with one call for each queue.
func (p *producer) round() error {
	now := p.now()
	for _, c := range p.collect(now) {
		if err := p.call(c); err != nil {
			return err
		}
	}
	if time.Since(p.asked) >= askAfter {
		return p.call(&tickCall{queue: p.entries[0].queue})
	}
	return nil
}

// tickCall is what to ask the broker about one queue.
type tickCall struct {
	queue   string
	ticks   []Tick
	entries []*entry // of each tick
}

// collect returns the calls to make now.
func (p *producer) collect(now time.Time) []*tickCall {
	var calls []*tickCall
	byQueue := make(map[string]*tickCall)
	add := func(e *entry, tick Tick) {
		c := byQueue[e.queue]
		if c == nil {
			c = &tickCall{queue: e.queue}
			byQueue[e.queue] = c
			calls = append(calls, c)
		}
		c.ticks, c.entries = append(c.ticks, tick), append(c.entries, e)
	}
	for _, e := range p.entries {
		if !e.begun {
			add(e, Tick{Schedule: e.name, Spec: e.table.text})
			continue
		}
		if e.next.IsZero() || e.next.After(now) {
			continue
		}
		ticks, upTo := e.due(e.last, now)
		for _, at := range ticks {
			add(e, e.at(at))
		}
		if len(ticks) == 0 {
			p.tellMissed(e, upTo)
			e.pass(upTo)
		}
	}
	return calls
}

// call asks the broker and notes what it says.
func (p *producer) call(c *tickCall) error {
	ctx, cancel := context.WithTimeout(p.polling, callLimit)
	defer cancel()
	done, now, err := p.backend.ticker.Tick(ctx, c.queue, c.ticks)
	if err != nil {
		return err
	}
	p.server, p.asked = now, time.Now()
	for i, d := range done {
		e := c.entries[i]
		if at := c.ticks[i].At; d.Pushed && at.Sub(e.next) > missedAfter {
			p.tellMissed(e, at)
		}
		e.begun = true
		if !d.Last.IsZero() {
			e.pass(d.Last)
		}
	}
	return nil
}

// pass notes the last tick that is dealt with.
func (e *entry) pass(last time.Time) { e.last, e.next = last, e.table.next(last) }

// tellMissed logs that ticks are left out. Of a few seconds it says nothing:
// perhaps another process pushed them.
func (p *producer) tellMissed(e *entry, upTo time.Time) {
	p.settings.Logger.LogAttrs(p.polling, slog.LevelWarn, "linda: ticks were missed",
		slog.String("queue", e.queue), slog.String("schedule", e.name), slog.Time("from", e.next), slog.Time("to", upTo))
}
