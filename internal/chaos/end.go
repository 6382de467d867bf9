package chaos

import (
	"fmt"
)

// rerun is the time from the kill of a worker to the next run of a job it ran.
type rerun struct{ from, to int64 }

// End judges what is left when all events are read.
func (c *Checker) End() *Report {
	r := c.report
	for _, debts := range c.owed {
		for _, d := range debts {
			c.explain(d, Unexplained)
			c.fail(I4, d.next, "delivered again, for no reason")
		}
	}
	if r.Events[Drained] == 0 {
		r.Fail(I10, "the queue was never empty at the end")
	}
	for n := range c.jobs {
		c.closeJob(uint32(n))
	}
	c.times()
	return r
}

// closeJob judges what became of a job.
func (c *Checker) closeJob(n uint32) {
	j, r := &c.jobs[n], c.report
	if j.push == 0 {
		return
	}
	r.Jobs++
	e := Event{Kind: j.push, Job: n, Proc: j.res.proc, Attempt: j.res.attempt, At: j.called}
	switch j.push {
	case Pushed:
		r.Acknowledged++
	case PushRefused:
		r.Refused++
	default: // also one whose process died before it could tell
		r.Unknown++
		if j.res.proc != 0 || j.present {
			r.UnknownThatRan++
		}
	}
	buried := j.present && j.place == InDead
	switch {
	case j.succeeded:
		r.Succeeded++
	case j.dead || buried:
		r.Dead++
		c.closeDead(j, e)
	case j.push == Pushed && !j.present:
		r.Lost++
		c.fail(I1, e, "it was acknowledged, and neither succeeded nor is dead")
	}
	switch {
	case j.present && !buried:
		c.fail(I9, e, "the broker still holds it")
	case j.dead && !buried:
		c.fail(I9, e, "it was buried, and the broker does not hold it")
	case buried && j.done && !j.twice:
		c.fail(I3, e, "it was deleted, and yet it is dead")
	}
}

// closeDead judges whether a job may be dead.
func (c *Checker) closeDead(j *job, e Event) {
	switch {
	case j.class == Hopeless:
	case int(j.troubles) >= c.rules.MaxCrashes:
		c.report.DeadByFaults++
	default:
		c.fail(I11, e, fmt.Sprintf("it is dead after %d reservations without a word", j.troubles))
	}
}

// times judges how long things took.
func (c *Checker) times() {
	r := c.report
	var all, quiet []int64
	for _, again := range c.reruns {
		all = append(all, again.to-again.from)
		if !c.faults.delays(again.from, again.to) {
			quiet = append(quiet, again.to-again.from)
		}
	}
	r.Reruns, r.RerunsQuiet = len(all), len(quiet)
	r.Rerun99, r.Rerun99All, r.RerunMax = quantile(quiet, 0.99), quantile(all, 0.99), quantile(all, 1)
	if bound := c.rules.Rerun; bound > 0 && r.Rerun99 > bound {
		r.Fail(I10, fmt.Sprintf("after a kill jobs run again in %v (p99), not %v", round(r.Rerun99), bound))
	}
	r.Late99, r.LateMax = quantile(c.flow.lateness, 0.99), quantile(c.flow.lateness, 1)
	drain := c.report.drainedAt
	if c.faults.healedAt > 0 {
		drain = c.faults.healedAt
	}
	first, full := c.flow.recovery(&c.faults, drain)
	r.FirstMedian, r.FirstMax = quantile(first, 0.5), quantile(first, 1)
	r.RecoveryMedian, r.RecoveryMax = quantile(full, 0.5), quantile(full, 1)
	if bound := c.rules.Recovery; bound > 0 && r.RecoveryMax > bound {
		r.Fail(I10, fmt.Sprintf("after a fault of the server the rate is back in %v, not %v", round(r.RecoveryMax), bound))
	}
}
