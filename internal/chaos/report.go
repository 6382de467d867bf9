package chaos

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Rule names an invariant.
type Rule int

// The invariants.
const (
	_   Rule = iota
	I1       // no loss: an acknowledged job succeeds, or is dead with a reason
	I2       // no phantom: what runs was pushed, with these arguments
	I3       // no resurrection: what is deleted stays so
	I4       // duplicates have a cause
	I5       // one runs it at a time, unless it had a cause to lose it
	I6       // nothing is early
	I7       // nothing that is due is overtaken for long
	I8       // who has lost a reservation cannot settle it
	I9       // nothing is left at the end
	I10      // while there is work, something happens; a dead worker's jobs run again soon
	I11      // attempts grow, and only who has used them up is dead
	I12      // processes end clean
	I13      // no secret is told
	rules
)

var ruleNames = [rules]string{
	I1: "no loss", I2: "no phantom", I3: "no resurrection", I4: "duplicates explained", I5: "exclusivity",
	I6: "not early", I7: "lateness", I8: "fencing", I9: "conservation", I10: "liveness", I11: "attempts",
	I12: "hygiene", I13: "secrecy",
}

func (r Rule) String() string { return fmt.Sprintf("I%d %s", int(r), ruleNames[r]) }

// Cause is why a job that was started is started again, beside its own wish.
type Cause uint8

// The causes.
const (
	_           Cause = iota
	Unexplained       // none is known: a fault of linda
	ByUnknown         // it was released, or pushed, with an unknown outcome
	ByKill            // its process died
	ByStop            // its process was stopped for longer than the lease
	ByOutage          // the server or the network failed for longer than the lease
	causes
)

var causeNames = [causes]string{
	Unexplained: "unexplained", ByUnknown: "outcome unknown", ByKill: "worker killed",
	ByStop: "worker stopped", ByOutage: "server or network",
}

func (c Cause) String() string { return causeNames[c] }

// violationsKept bounds how many violations of a rule are kept with their text.
const violationsKept = 20

// Violation is one breach of a rule.
type Violation struct {
	Rule  Rule
	Event Event
	Text  string
}

func (v Violation) String() string {
	if v.Event.Kind == 0 {
		return fmt.Sprintf("%v: %s", v.Rule, v.Text)
	}
	return fmt.Sprintf("%v: %v: %s", v.Rule, v.Event, v.Text)
}

// Report is what a history tells.
type Report struct {
	Events                               [kinds]int
	Faults                               [faultKinds]int
	Jobs, Acknowledged, Unknown, Refused int
	Succeeded, Dead, DeadByFaults, Lost  int
	UnknownThatRan                       int
	Again                                [causes]int // repeated runs
	Overlaps                             int         // with a cause
	Early                                int
	Torn                                 int           // bodies that nobody can read
	Resets                               int           // connections that the proxy has reset; the harness tells
	Killed, Restarts                     int           // worker processes that ended without a stop; those that began after the first
	Reruns, RerunsQuiet                  int           // of what killed workers ran; those without a fault meanwhile that makes them wait
	Rerun99, Rerun99All, RerunMax        time.Duration // from the kill to the run: of the quiet ones, and of all
	Late99, LateMax                      time.Duration // of delayed jobs
	FirstMedian, FirstMax                time.Duration // from the end of a server's fault to the first success
	RecoveryMedian, RecoveryMax          time.Duration // to 80 % of the rate before it
	Took                                 time.Duration // from the first push to the end of the drain
	Violations                           []Violation
	Broken                               [rules]int

	firstAt, drainedAt int64
}

func newReport() *Report { return new(Report) }

// Fail adds a violation that is no event's.
func (r *Report) Fail(rule Rule, text string) { r.fail(rule, Event{}, text) }

func (r *Report) fail(rule Rule, e Event, text string) {
	r.Broken[rule]++
	if r.Broken[rule] <= violationsKept {
		r.Violations = append(r.Violations, Violation{rule, e, text})
	}
}

// OK reports whether no rule is broken.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

func (r *Report) add(e Event) {
	if e.Kind < kinds {
		r.Events[e.Kind]++
	}
	switch e.Kind {
	case FaultBegins:
		if int(e.Code) < len(r.Faults) {
			r.Faults[e.Code]++
		}
	case PushCalled:
		if r.firstAt == 0 {
			r.firstAt = e.At
		}
	case Drained:
		r.drainedAt = e.At
		r.Took = time.Duration(e.At - r.firstAt)
	case Killing, Dying:
		r.Killed++
	case Began:
		if e.Code == Worker {
			r.Restarts++
		}
	}
}

// Print writes the table, the violations and the verdict.
func (r *Report) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, values ...any) {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", name, strings.TrimSuffix(fmt.Sprintln(values...), "\n"))
	}
	rate := 0.0
	if r.Took > 0 {
		rate = float64(r.Succeeded) / r.Took.Seconds()
	}
	row("jobs pushed", r.Jobs)
	row("  acknowledged", r.Acknowledged)
	row("  outcome unknown", r.Unknown, fmt.Sprintf("(%d of them ran)", r.UnknownThatRan))
	row("  refused", r.Refused)
	row("runs", r.Events[Started])
	row("succeeded", r.Succeeded, fmt.Sprintf("(%.0f a second)", rate))
	row("dead", r.Dead, fmt.Sprintf("(%d by faults)", r.DeadByFaults))
	row("processes killed", r.Killed)
	row("workers begun", r.Restarts)
	for f := range Fault(faultKinds) {
		if n := r.Faults[f]; n > 0 {
			row("fault: "+f.String(), n)
		}
	}
	row("lost", r.Lost)
	if r.Torn > 0 {
		row("unreadable", r.Torn)
	}
	row("early", r.Early)
	for c := Unexplained; c < causes; c++ {
		row("repeated: "+c.String(), r.Again[c])
	}
	row("overlaps with a cause", r.Overlaps)
	row("rerun after a kill", "p99", round(r.Rerun99), fmt.Sprintf("of %d that no other fault delayed;", r.RerunsQuiet),
		"p99 of all", r.Reruns, round(r.Rerun99All), "max", round(r.RerunMax))
	row("late, delayed jobs", "p99", round(r.Late99), "max", round(r.LateMax))
	row("server back to first success", "median", round(r.FirstMedian), "max", round(r.FirstMax))
	row("server back to 80 % of the rate", "median", round(r.RecoveryMedian), "max", round(r.RecoveryMax))
	row("took", round(r.Took))
	_ = t.Flush()
	for _, v := range r.Violations {
		_, _ = fmt.Fprintln(w, v)
	}
	if r.OK() {
		_, _ = fmt.Fprintln(w, "PASS")
		return
	}
	for rule, n := range r.Broken {
		if n > 0 {
			_, _ = fmt.Fprintf(w, "FAIL %v: %d\n", Rule(rule), n)
		}
	}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// quantile returns the q-quantile of values, which it sorts; 0 for none.
func quantile(values []int64, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return time.Duration(values[min(int(q*float64(len(values))), len(values)-1)])
}
