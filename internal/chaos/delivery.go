package chaos

import (
	"slices"
	"time"
)

// fetched judges a new reservation.
func (c *Checker) fetched(e Event) {
	j := c.job(e)
	next := reservation{proc: e.Proc, attempt: e.Attempt, from: e.Value, until: e.Value + int64(c.rules.Lease), toldAt: e.At, open: true}
	c.doubt(j, e)
	switch {
	case j.push == 0:
		c.fail(I2, e, "nobody pushed it")
	case j.push == PushRefused:
		c.fail(I2, e, "its push was refused")
	case (j.done || j.dead) && !c.before(j, e):
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
	j.taken = false
	if j.res.open {
		j.troubles++
		c.follow(j, c.cause(j, j.res, e), e)
	}
	j.res = next
}

// before reports whether a reservation that is told of late began before its job was
// over. Its attempt is smaller than that of the one that ended the job, unless the
// server was killed in between and does not remember what was reserved then.
func (c *Checker) before(j *job, e Event) bool {
	forgot := c.rules.Inexact && e.Attempt == j.res.attempt && c.faults.server(e.Value, j.doneAt)
	return e.Value < j.doneAt && (e.Attempt < j.res.attempt || forgot)
}

// unseen judges deliveries that the broker has counted and of which no process
// has told: their answers were lost, or their processes died.
func (c *Checker) unseen(j *job, e Event) {
	gap := int(e.Attempt) - 1 - int(j.res.attempt)
	if j.taken {
		gap++
	}
	if gap <= 0 {
		return
	}
	j.troubles += uint16(gap)
	j.res.unseen = true
	if c.rules.Inexact {
		return
	}
	// Whoever was sent it may have moved it to where it is fetched alone, and
	// have died before it could remove what it had been sent.
	j.twice = j.twice || c.rules.Loose
	since := max(j.called, j.res.from)
	if c.rules.Bound { // it hands out to a dead connection until it notices
		since -= int64(notice)
	}
	if !c.copied(j) && !c.faults.any(since, e.At) {
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
func (c *Checker) copied(j *job) bool { return j.twice || c.rules.Copies && j.push == PushUnknown }

// notice is how long a server may take to see that a connection is gone, or to
// store what it has been sent.
const notice = time.Second

// doubt notes that a settlement may have been lost or done by half, or a hop of a
// delay done twice, by a failure since then.
func (c *Checker) doubt(j *job, e Event) {
	settled := c.rules.Loose && j.settledAt != 0 && c.faults.during(j.settledAt-int64(notice), e.At, func(s faultSpan) bool {
		return !s.kind.ofWorker() || s.victim == j.settledBy
	})
	delayed := max(j.due, j.notBefore) > j.called
	hopped := delayed && (c.rules.Loose && c.faults.server(j.called, e.At) || c.rules.Hops && c.faults.any(j.called, e.At))
	// Its process may have stored it anew, and have died, or lost its
	// connection, before it could remove what it had been given.
	_, dead := c.dead(j.res.proc)
	halfway := c.rules.Anew && j.res.proc != 0 && j.res.open && (dead || c.faults.outage(j.res.from, e.At))
	j.twice = j.twice || settled || hopped || halfway
	if settled {
		j.troubles++ // the broker knows of no settlement
		j.settledAt = 0
	}
}

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
