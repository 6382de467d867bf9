package chaos

import (
	"iter"
	"time"
)

// Rules are what the checker holds a history to.
type Rules struct {
	Lease time.Duration // of every reservation
	// MaxCrashes is after how many reservations that ended without a word a
	// job may be dead without having failed.
	MaxCrashes int
	// Bound says that the broker takes back the jobs of a connection that
	// breaks, at once; others only when the reservation ends.
	Bound bool
	// Copies says that a push of unknown outcome may have made more than one
	// job of an id.
	Copies bool
	// Loose says that the server does not confirm that a settlement has
	// reached it. One that was told as done may be undone where the process,
	// the network or the server fails: a deleted job is delivered again, and
	// one that was released, or hops from delay to delay, is there twice.
	Loose bool
	// Hops says that a worker which is handed a delayed job too early stores it
	// anew, and only then removes it, of which nobody is told: where anything
	// fails meanwhile, both are there.
	Hops bool
	// Anew says that a job which is released or buried is stored anew, and only
	// then removed: where its process, the network or the server fails between
	// the two, both are there. So are the copies of a settlement of unknown
	// outcome that is tried again.
	Anew bool
	// Torn says that a server which is killed while it stores a push may hold a
	// job that nobody can read: one for each kill.
	Torn bool
	// Inexact says that the broker does not count every delivery.
	Inexact bool
	// Stall is for how long nothing may happen while there is work and no
	// fault. 0: 5 s and a lease.
	Stall time.Duration
	// Late is how long after others that were due later a delayed job may
	// start, without a fault. 0: 1 s.
	Late time.Duration
	// Rerun is how long after its worker was killed a job may wait to run
	// again, in 99 of 100 cases, without another fault. 0: not judged.
	Rerun time.Duration
	// Recovery is how long after the end of the server's fault the rate may
	// take to come back, in the worst case. 0: not judged.
	Recovery time.Duration
}

// slack bounds the difference between the clock of the server, in ms, and ours.
const slack = int64(2 * time.Millisecond)

// A Checker reads a history, in the order of time, and tells what it breaks.
type Checker struct {
	rules   Rules
	report  *Report
	jobs    []job // by number
	procs   map[uint32]*proc
	old     map[holder]*reservation // those that another one has followed, before they ended
	owed    map[uint32][]*debt      // by the proc that may still give the reason
	faults  faults
	life    life
	flow    flow
	reruns  []rerun
	present int
}

// holder tells one delivery from the others.
type holder struct {
	job, proc uint32
	attempt   uint16
}

// debt is a reservation that waits for a reason: the one before it has not
// ended, as far as is known.
type debt struct {
	next Event // its fetch
	ran  bool
}

// job is what is known of one.
type job struct {
	called, due int64
	took        int64 // how long the push took; 0: it is not known
	notBefore   int64 // of its next start, after a release with delay
	doneAt      int64 // when it was deleted or buried
	res         reservation
	settledAt   int64  // when the last settlement that was told as done was sent
	settledBy   uint32 // who sent it
	push        Kind   // 0: nobody pushed it
	class       Class
	starts      uint16
	troubles    uint16 // reservations that ended without a word
	lastAttempt uint16 // of those that started
	uncounted   bool   // a release since then may not have counted
	taken       bool   // the latest delivery was taken back, and does not count
	succeeded   bool
	done, dead  bool  // acknowledged
	place       Place // where it is at the end, if present
	present     bool
	twice       bool  // it may be there more than once, or again
	again       Cause // why its next start is a repetition; 0: it is none
	debt        *debt // of again, where that waits for a reason
	againFrom   int64 // when the worker of the run before it was killed, if it was
}

// reservation is one delivery.
type reservation struct {
	proc        uint32
	attempt     uint16
	from, until int64 // the server gives it away no earlier than until, unless it is settled
	toldAt      int64 // when its process knew of it
	startedAt   int64 // 0: it did not
	endedAt     int64 // of its context; 0: it did not
	finished    bool
	unseen      bool // somebody was given the job after it, and nobody knows
	open        bool // no settlement was acknowledged
	unsure      bool // one may have been carried out that makes the job ready
}

type proc struct {
	endsAt int64 // when it was killed or ended; 0: it lives
	role   Role
}

// NewChecker returns a checker that has read nothing.
func NewChecker(rules Rules) *Checker {
	if rules.Stall == 0 {
		rules.Stall = rules.Lease + 5*time.Second
	}
	if rules.Late == 0 {
		rules.Late = time.Second
	}
	if rules.MaxCrashes == 0 {
		rules.MaxCrashes = 3
	}
	return &Checker{
		rules: rules, report: newReport(), jobs: make([]job, 1),
		procs: make(map[uint32]*proc), old: make(map[holder]*reservation), owed: make(map[uint32][]*debt),
	}
}

// Check reads a whole history and reports what it found. The error is that of
// reading.
func Check(rules Rules, events iter.Seq2[Event, error]) (*Report, error) {
	c := NewChecker(rules)
	for e, err := range events {
		if err != nil {
			return nil, err
		}
		c.Add(e)
	}
	return c.End(), nil
}

// Add reads the next event.
func (c *Checker) Add(e Event) {
	c.report.add(e)
	c.pace(e)
	if e.Job == 0 && c.torn(e) {
		return
	}
	switch e.Kind {
	case Began, Killing, Dying, Ended:
		c.process(e)
	case FaultBegins:
		c.faults.begin(e)
	case FaultEnds:
		c.faults.end(e)
		c.flow.fault(e)
	case PushCalled, Pushed, PushRefused, PushUnknown:
		c.pushed(e)
	case Fetched:
		c.fetched(e)
	case Touched:
		c.touched(e)
	case Started:
		c.started(e)
	case Corrupt:
		c.fail(I2, e, "its arguments are not those that were pushed")
	case ContextEnded, Finished:
		c.ended(e)
	case NotBefore:
		if r, _ := c.at(e); r != nil && !r.unsure { // else an earlier try may have been the one
			c.job(e).notBefore = e.Value
		}
	case Settled, SettleLost, SettleUnsure:
		c.settled(e)
	case Present:
		c.found(e)
	}
}

// torn reports whether an event is about a job that nobody can read, and may be.
func (c *Checker) torn(e Event) bool {
	if e.Kind == Present {
		c.report.Torn++
	}
	kills := c.report.Faults[KillServer]
	return c.rules.Torn && (e.Kind == Fetched || e.Kind == Settled || e.Kind == SettleLost || e.Kind == SettleUnsure || e.Kind == Present) &&
		kills > 0 && c.report.Torn <= kills
}

func (c *Checker) fail(rule Rule, e Event, text string) { c.report.fail(rule, e, text) }

// job returns the record of an event's job.
func (c *Checker) job(e Event) *job {
	for int(e.Job) >= len(c.jobs) {
		c.jobs = append(c.jobs, job{})
	}
	return &c.jobs[e.Job]
}

func (c *Checker) process(e Event) {
	if e.Kind == Began {
		c.procs[e.Proc] = &proc{role: e.Code}
		return
	}
	p := c.procs[e.Proc]
	if p == nil {
		p = &proc{role: Worker}
		c.procs[e.Proc] = p
	}
	if p.endsAt == 0 {
		p.endsAt = e.At
	}
	switch e.Kind {
	case Dying:
		c.faults.begin(Event{At: e.At, Proc: e.Proc, Code: uint8(KillWorker)})
	case Ended:
		c.faults.ended(e)
	}
	for _, d := range c.owed[e.Proc] { // it ended before it could tell that it had released them
		c.explain(d, ByKill)
	}
	delete(c.owed, e.Proc)
}

func (c *Checker) dead(number uint32) (at int64, dead bool) {
	p := c.procs[number]
	if p == nil || p.endsAt == 0 {
		return 0, false
	}
	return p.endsAt, true
}

func (c *Checker) pushed(e Event) {
	j := c.job(e)
	switch {
	case e.Kind == PushCalled && j.push != 0:
		c.fail(I2, e, "pushed twice: the harness is at fault")
	case e.Kind == PushCalled:
		j.called, j.due, j.class = e.At, e.At+e.Value, Class(e.Code)
	case e.Kind == PushRefused && j.res.proc != 0:
		c.fail(I2, e, "the push was refused, and yet it was delivered")
	}
	if e.Kind == Pushed {
		j.took = e.At - j.called
	}
	j.push = e.Kind
}

// at returns the reservation that an event is about, and whether it is the
// latest one. Without any it returns nil.
func (c *Checker) at(e Event) (r *reservation, latest bool) {
	j := c.job(e)
	if j.res.proc == e.Proc && j.res.attempt == e.Attempt {
		return &j.res, true
	}
	return c.old[holder{job: e.Job, proc: e.Proc, attempt: e.Attempt}], false
}

func (c *Checker) touched(e Event) {
	if r, _ := c.at(e); r != nil {
		r.until = max(r.until, e.Value+int64(c.rules.Lease))
	}
}

func (c *Checker) found(e Event) {
	j := c.job(e)
	if j.push == 0 || j.push == PushRefused {
		c.fail(I2, e, "the broker holds a job that it does not have")
	}
	j.place, j.present = e.Code, true
	c.present++
}
