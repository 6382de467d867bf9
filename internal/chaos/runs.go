package chaos

import (
	"iter"
	"time"
)

// started judges a run.
func (c *Checker) started(e Event) {
	j := c.job(e)
	r, latest := c.at(e)
	if r == nil && j.twice { // as in settled
		return
	}
	if r == nil {
		c.fail(I2, e, "it runs without a reservation")
		return
	}
	if r.startedAt != 0 && !c.copied(j) {
		c.fail(I5, e, "one reservation, two runs")
		return
	}
	r.startedAt = e.At
	j.starts++
	if j.twice { // which of them waits for its retry is not known
		j.notBefore = 0
	}
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
	case c.rules.Bound && c.faults.outage(other.from, e.At):
		c.report.Overlaps++ // the server does not wait until its process knows
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
	if c.copied(j) {
		return
	}
	excused := j.uncounted || j.troubles > 0
	if !c.rules.Inexact && (e.Attempt < j.lastAttempt || e.Attempt == j.lastAttempt && !excused) {
		c.fail(I11, e, "its attempt is not greater than that before")
	}
	j.lastAttempt, j.uncounted = e.Attempt, false
}

func (c *Checker) ended(e Event) {
	r, _ := c.at(e)
	switch {
	case r == nil && e.Kind == ContextEnded && c.job(e).res.proc != 0: // it was told already that it is lost
	case r == nil && c.job(e).twice: // as in settled
		c.job(e).succeeded = c.job(e).succeeded || e.Kind == Finished && e.Code == Success
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
	if r == nil && j.twice { // one process had both, of the same attempt
		r = &reservation{proc: e.Proc, attempt: e.Attempt}
	}
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
		// It may be stored anew, and will be once more if the process tries again.
		j.twice = j.twice || c.rules.Anew && e.Code != EndDelete
		r.unsure = r.unsure || releases
		j.uncounted = j.uncounted || e.Code == EndUncount
		if releases {
			c.pay(e, ByUnknown)
		}
		return
	}
	j.settledAt, j.settledBy = e.Value, e.Proc
	j.uncounted = j.uncounted || e.Code == EndUncount
	if releases && c.pay(e, 0) {
		j.troubles--
	} else {
		r.open = false
		j.taken = latest && e.Code == EndUncount
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
	case c.rules.Loose && c.faults.outage(min(r.from, e.Value-int64(notice)), e.At): // it went with the connection
		j.twice = true
	case r.attempt > j.res.attempt: // the follower only told of it later
	case e.Code == EndDelete || e.Code == EndBury:
		c.fail(I8, e, "settled by one who had lost it, and the broker took it")
	case j.res.toldAt < e.Value:
		c.fail(I8, e, "released by one who had lost it, and the broker took it")
	}
}
