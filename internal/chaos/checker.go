package chaos

import (
	"iter"
	"slices"
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
	notBefore   int64 // of its next start, after a release with delay
	doneAt      int64 // when it was deleted or buried
	res         reservation
	push        Kind // 0: nobody pushed it
	class       Class
	starts      uint16
	troubles    uint16 // reservations that ended without a word
	lastAttempt uint16 // of those that started
	uncounted   bool   // a release since then may not have counted
	succeeded   bool
	done, dead  bool  // acknowledged
	place       Place // where it is at the end, if present
	present     bool
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
		c.job(e).notBefore = e.Value
	case Settled, SettleLost, SettleUnsure:
		c.settled(e)
	case Present:
		c.found(e)
	}
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
	j.push = e.Kind
}

// fetched judges a new reservation.
func (c *Checker) fetched(e Event) {
	j := c.job(e)
	next := reservation{proc: e.Proc, attempt: e.Attempt, from: e.Value, until: e.Value + int64(c.rules.Lease), toldAt: e.At, open: true}
	switch {
	case j.push == 0:
		c.fail(I2, e, "nobody pushed it")
	case j.push == PushRefused:
		c.fail(I2, e, "its push was refused")
	case (j.done || j.dead) && !(e.Value < j.doneAt && e.Attempt < j.res.attempt):
		if !c.copied(j) {
			c.fail(I3, e, "it was over")
		}
	}
	late := j.res.proc != 0 && e.Attempt < j.res.attempt && e.Value <= j.res.toldAt
	if j.done || j.dead || late { // told of late, by a process that was stopped: others have followed
		j.troubles++
		c.old[next.of(e.Job)] = &next
		return
	}
	c.unseen(j, e)
	if j.res.open {
		j.troubles++
		c.follow(j, c.cause(j, j.res, e), e)
	}
	j.res = next
}

// unseen judges deliveries that the broker has counted and of which no process
// has told: their answers were lost, or their processes died.
func (c *Checker) unseen(j *job, e Event) {
	gap := int(e.Attempt) - 1 - int(j.res.attempt)
	if gap <= 0 || c.rules.Inexact {
		return
	}
	j.troubles += uint16(gap)
	j.res.unseen = true
	if !c.faults.any(max(j.called, j.res.from), e.At) {
		c.fail(I4, e, "it was delivered to nobody before, for no reason")
	}
}

// follow makes the latest reservation of a job one of the past. Without a cause
// the next one waits for it.
func (c *Checker) follow(j *job, cause Cause, e Event) {
	prev := j.res
	if prev.startedAt != 0 {
		j.again, j.debt = max(cause, Unexplained), nil
	}
	if j.again != 0 { // also if this one never started it
		j.againFrom, _ = c.dead(prev.proc)
		if prev.unseen {
			j.againFrom = 0
		}
	}
	if cause == 0 {
		d := &debt{next: e}
		c.owed[prev.proc] = append(c.owed[prev.proc], d)
		if j.again == Unexplained {
			j.debt = d
		}
	}
	if cause == 0 || !c.over(prev) {
		c.old[prev.of(e.Job)] = &prev
	}
}

// over reports whether nothing more will be told of a reservation.
func (c *Checker) over(r reservation) bool {
	_, dead := c.dead(r.proc)
	return dead
}

func (r *reservation) of(job uint32) holder {
	return holder{job: job, proc: r.proc, attempt: r.attempt}
}

// copied reports whether the broker may hold the job twice.
func (c *Checker) copied(j *job) bool { return c.rules.Copies && j.push == PushUnknown }

// cause tells why a job is reserved anew though nobody has told the end of its
// last reservation; 0 if there is no reason yet. One may come: a process tells
// what it has done after it has done it.
func (c *Checker) cause(j *job, prev reservation, e Event) Cause {
	if _, dead := c.dead(prev.proc); dead {
		return ByKill
	}
	ran := prev.until <= e.At+slack
	switch {
	case prev.unsure:
		return ByUnknown
	case ran && c.faults.stopped(prev.proc, prev.from, e.At):
		return ByStop
	case (ran || c.rules.Bound) && c.faults.outage(prev.from, e.At):
		return ByOutage
	case c.copied(j):
		return ByUnknown
	}
	return 0
}

// explain gives the reason that a reservation waited for; 0: the job was
// released, so that its run was no repetition.
func (c *Checker) explain(d *debt, cause Cause) {
	if d.ran && cause != 0 {
		c.report.Again[cause]++
	}
	if j := &c.jobs[d.next.Job]; j.debt == d {
		j.again, j.debt = cause, nil
	}
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

// started judges a run.
func (c *Checker) started(e Event) {
	j := c.job(e)
	r, latest := c.at(e)
	if r == nil {
		c.fail(I2, e, "it runs without a reservation")
		return
	}
	if r.startedAt != 0 {
		c.fail(I5, e, "one reservation, two runs")
		return
	}
	r.startedAt = e.At
	j.starts++
	c.early(j, e)
	c.exclusive(j, r, e)
	if !latest {
		c.report.Again[ByStop]++ // it was told of late, and so is its run
		return
	}
	c.counted(j, e)
	if j.debt != nil {
		j.debt.ran = true
		j.again, j.debt = 0, nil
	}
	if j.again != 0 {
		c.report.Again[j.again]++
		if j.again == ByKill && j.againFrom != 0 {
			c.reruns = append(c.reruns, rerun{from: j.againFrom, to: e.At})
		}
		j.again, j.againFrom = 0, 0
	}
}

func (c *Checker) early(j *job, e Event) {
	const tolerance = int64(time.Millisecond)
	switch {
	case e.At < j.due-tolerance:
		c.report.Early++
		c.fail(I6, e, "early: before its delay was over, by "+time.Duration(j.due-e.At).String())
	case e.At < j.notBefore-tolerance:
		c.report.Early++
		c.fail(I6, e, "early: before the delay of its retry was over, by "+time.Duration(j.notBefore-e.At).String())
	}
	j.notBefore = 0
}

// exclusive judges a run of a job that another process may still be running.
func (c *Checker) exclusive(j *job, r *reservation, e Event) {
	var other *reservation
	for h, o := range c.others(e, r) {
		_, dead := c.dead(h.proc)
		if o.startedAt != 0 && !o.finished && !dead && o.startedAt < e.At {
			other = o
		}
	}
	switch {
	case other == nil:
	case other.endedAt != 0 && other.endedAt <= other.until:
		c.report.Overlaps++
	case c.faults.stopped(other.proc, other.from, e.At), c.faults.stopped(r.proc, r.from, e.At):
		c.report.Overlaps++
	case c.copied(j):
	default:
		c.fail(I5, e, "another process runs it, and its context has not ended in time")
	}
}

// others yields the other reservations of an event's job.
func (c *Checker) others(e Event, than *reservation) iter.Seq2[holder, *reservation] {
	return func(yield func(holder, *reservation) bool) {
		j := c.job(e)
		if &j.res != than && j.res.proc != 0 && !yield(j.res.of(e.Job), &j.res) {
			return
		}
		if j.troubles == 0 {
			return
		}
		for h, o := range c.old {
			if h.job == e.Job && o != than && !yield(h, o) {
				return
			}
		}
	}
}

// counted judges the attempt of a run.
func (c *Checker) counted(j *job, e Event) {
	excused := j.uncounted || j.troubles > 0
	if !c.rules.Inexact && (e.Attempt < j.lastAttempt || e.Attempt == j.lastAttempt && !excused) {
		c.fail(I11, e, "its attempt is not greater than that before")
	}
	j.lastAttempt, j.uncounted = e.Attempt, false
}

func (c *Checker) ended(e Event) {
	r, _ := c.at(e)
	switch {
	case r == nil:
		c.fail(I2, e, "it ends without having been reserved")
	case e.Kind == ContextEnded:
		r.endedAt = e.At
	default:
		r.finished = true
		j := c.job(e)
		j.succeeded = j.succeeded || e.Code == Success
	}
}

// settled judges what a process tells about the end of a reservation.
func (c *Checker) settled(e Event) {
	j := c.job(e)
	r, latest := c.at(e)
	if r == nil {
		c.fail(I2, e, "it is settled without having been reserved")
		return
	}
	releases := e.Code == EndRelease || e.Code == EndUncount
	switch e.Kind {
	case SettleLost:
		j.uncounted = true
		delete(c.old, r.of(e.Job))
		return
	case SettleUnsure:
		r.unsure = r.unsure || releases
		j.uncounted = j.uncounted || e.Code == EndUncount
		if releases {
			c.pay(e, ByUnknown)
		}
		return
	}
	j.uncounted = j.uncounted || e.Code == EndUncount
	if releases && c.pay(e, 0) {
		j.troubles--
	} else {
		r.open = false
	}
	c.fenced(j, r, latest, e)
	if !releases {
		j.done, j.dead, j.doneAt = e.Code == EndDelete, e.Code == EndBury, e.At
		c.life.over(j)
	}
	delete(c.old, r.of(e.Job))
}

// fenced judges a settlement of a reservation that others have followed.
func (c *Checker) fenced(j *job, r *reservation, latest bool, e Event) {
	switch {
	case latest || r.unsure || c.copied(j):
	case r.attempt > j.res.attempt: // the follower only told of it later
	case e.Code == EndDelete || e.Code == EndBury:
		c.fail(I8, e, "settled by one who had lost it, and the broker took it")
	case j.res.toldAt < e.Value:
		c.fail(I8, e, "released by one who had lost it, and the broker took it")
	}
}

// pay is told that a process has released a job, and reports whether this is
// why somebody has it already: who releases a job tells after it has.
func (c *Checker) pay(e Event, cause Cause) bool {
	owed := c.owed[e.Proc]
	i := slices.IndexFunc(owed, func(d *debt) bool { return d.next.Job == e.Job })
	if i < 0 {
		return false
	}
	c.explain(owed[i], cause)
	c.owed[e.Proc] = slices.Delete(owed, i, i+1)
	return true
}

func (c *Checker) found(e Event) {
	j := c.job(e)
	if j.push == 0 || j.push == PushRefused {
		c.fail(I2, e, "the broker holds a job that it does not have")
	}
	j.place, j.present = e.Code, true
	c.present++
}
