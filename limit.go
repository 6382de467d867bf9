package linda

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Limit bounds the jobs of a class, or of a queue, over all processes: either
// how many run at the same time, or how many start in a period.
//
// Every process that runs such jobs has to set the same limit; each goes by its
// own numbers. What the limit counts is in the broker.
type Limit struct {
	// Class or Queue is what is limited: a class in all queues, or all classes
	// of a queue. One of them is set.
	Class, Queue string
	// Running is how many jobs run at the same time, 1 to 100000.
	Running int
	// Rate is how many jobs start in any period of length Per: 1 to 100000 in 1
	// ms to 31 days. Running or Rate is set; two Limits make both.
	Rate int
	Per  time.Duration
}

const (
	limitMost    = 100_000
	limitLongest = 31 * 24 * time.Hour
)

// Limit sets a limit for the jobs that this Dispatcher runs: see [Limit]. A
// Run that is under way keeps the limits it started with; those of queues on
// which the Dispatcher does not work do nothing.
//
// A job that finds its limit full does not start, which counts as no attempt.
// A few of them wait in the process; the others of a class go back for a while,
// so that they do not keep other classes from running. They lose their order.
//
// A slot is held as long as the reservation of its job: it is prolonged while
// the handler runs, given back when the job is settled, and free again when the
// process has been dead for a lease. A handler whose slot cannot be prolonged
// is told by its context, with the cause ErrLeaseLost, before the slot ends.
// With AtMostOnce a lease is a minute here. A job that has started counts
// for its Rate, whatever becomes of it.
//
// The error tells what is wrong with the limit, or wraps errors.ErrUnsupported
// where the broker is no [Limiter]; Run returns that where the broker is opened
// later.
func (d *Dispatcher) Limit(l Limit) error {
	if err := l.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, other := range d.limits {
		if other.name() == l.name() {
			return fmt.Errorf("linda: limit %.64q is set already", l.name())
		}
	}
	if d.backend != nil && d.backend.limiter == nil {
		return errNoLimiter
	}
	d.limits = append(d.limits, l)
	return nil
}

var errNoLimiter = fmt.Errorf("linda: this broker has no limits: %w", errors.ErrUnsupported)

// validate reports every fault at once.
func (l Limit) validate() error {
	var faults []error
	check := func(ok bool, rule string) {
		if !ok {
			faults = append(faults, errors.New("linda: Limit: "+rule))
		}
	}
	check((l.Class == "") != (l.Queue == ""), "either Class or Queue is to be set")
	check(len(l.Class) <= 256, "Class is longer than 256 bytes")
	if l.Queue != "" {
		if err := CheckName(l.Queue); err != nil {
			faults = append(faults, fmt.Errorf("linda: Limit.Queue: %w", err))
		}
	}
	check((l.Running == 0) != (l.Rate == 0), "either Running or Rate is to be set")
	check(0 <= l.Running && l.Running <= limitMost, "Running is 1 to 100000")
	check(0 <= l.Rate && l.Rate <= limitMost, "Rate is 1 to 100000")
	check((l.Rate == 0) == (l.Per == 0), "Rate and Per belong together")
	check(l.Per == 0 || time.Millisecond <= l.Per && l.Per <= limitLongest, "Per is 1 ms to 31 days")
	return errors.Join(faults...)
}

// name is what the broker knows the limit by.
func (l Limit) name() string {
	kind := "running"
	if l.Rate != 0 {
		kind = "rate"
	}
	if l.Class != "" {
		return kind + ":class:" + l.Class
	}
	return kind + ":queue:" + l.Queue
}

// most is how many slots there are.
func (l Limit) most() int { return max(l.Running, l.Rate) }

// covers reports whether the limit is one of such jobs.
func (l Limit) covers(queue, class string) bool {
	return l.Queue != "" && l.Queue == queue || l.Class != "" && l.Class == class
}

const (
	// stockFor is how much work of a limit waits here: what all processes
	// together start in this time, and at least what this one can run at once.
	stockFor  = 250 * time.Millisecond
	stockMost = 500
	// backLeast and backMost bound for how long a job is put back.
	backLeast = stockFor
	backMost  = 30 * time.Second
)

// pace tells how many jobs of a limit to keep here and for how long to put the
// others back, so that there is always one at hand when a slot is free, and
// each comes back about when it is its turn.
type pace struct {
	Limit
	workers int
	first   time.Time // when a job had a slot for the first time
	took    float64   // ns that a job holds its slot, on average; 0: not known
	back    time.Time // when the last jobs that were put back return
	room    int       // how many more may return then
}

// begins notes that a job has a slot.
func (p *pace) begins(now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
}

// ended notes that a job held a slot for so long.
func (p *pace) ended(took time.Duration) {
	if p.took == 0 {
		p.took = float64(took)
	}
	p.took += (float64(took) - p.took) / 8
}

// throughput is how many jobs a second the limit lets start, in all processes.
// Before the first one is done, it is what it may be at most.
func (p *pace) throughput(now time.Time) float64 {
	if p.Rate > 0 {
		return float64(p.Rate) / p.Per.Seconds()
	}
	took := p.took
	if took == 0 && !p.first.IsZero() {
		took = float64(now.Sub(p.first))
	}
	return float64(p.Running) * float64(time.Second) / max(took, float64(time.Millisecond))
}

// stock is how many jobs may wait here: of a queue at least as many as the limit
// has slots, since nothing else of it is fetched while they wait.
func (p *pace) stock(now time.Time) int {
	least := p.most()
	if p.Class != "" {
		least = min(least, p.workers)
	}
	if p.Running > 0 && p.took == 0 {
		return least
	}
	return max(least, min(stockMost, int(p.throughput(now)*stockFor.Seconds())))
}

// putBack returns for how long to put a job back. They return twice as fast as
// they are done, since too late would leave slots free, and too early costs an
// exchange or two; and some together, for one exchange.
func (p *pace) putBack(now time.Time) time.Duration {
	perSecond := 2 * max(p.throughput(now), 0.5)
	if soonest := now.Add(backLeast); p.back.Before(soonest) {
		p.back, p.room = soonest, 0
	}
	if p.room == 0 {
		p.room = max(1, int(perSecond*stockFor.Seconds()))
		p.back = p.back.Add(time.Duration(float64(p.room) / perSecond * float64(time.Second)))
		p.back = p.back.Add(rand.N(stockFor / 8)) // processes should not meet again
	}
	p.room--
	if latest := now.Add(backMost); p.back.After(latest) {
		p.back = latest
	}
	return p.back.Sub(now)
}
