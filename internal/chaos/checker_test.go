package chaos

import (
	"bytes"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const lease = 3 * time.Second

// tale is a history that is written by hand. Its clock goes on by a
// millisecond with each event.
type tale struct {
	now    int64
	events []Event
}

// tell begins a history with workers 1 and 2.
func tell() *tale {
	return (&tale{now: int64(time.Hour)}).add(Event{Kind: Began, Proc: 1, Code: Worker}, Event{Kind: Began, Proc: 2, Code: Worker})
}

func (t *tale) add(events ...Event) *tale {
	for _, e := range events {
		t.now += int64(time.Millisecond)
		e.At = t.now
		if e.Kind == Fetched || e.Kind == Touched || e.Kind == Settled || e.Kind == SettleLost || e.Kind == SettleUnsure {
			e.Value = t.now - int64(100*time.Microsecond) // when it was sent
		}
		t.events = append(t.events, e)
	}
	return t
}

func (t *tale) wait(d time.Duration) *tale { t.now += int64(d); return t }

func (t *tale) push(job uint32, delay time.Duration) *tale {
	return t.class(job, Quick, delay)
}

func (t *tale) class(job uint32, c Class, delay time.Duration) *tale {
	return t.add(Event{Kind: PushCalled, Job: job, Value: int64(delay), Code: uint8(c)}, Event{Kind: Pushed, Job: job})
}

func (t *tale) fetch(proc, job uint32, attempt uint16) *tale {
	return t.add(Event{Kind: Fetched, Proc: proc, Job: job, Attempt: attempt})
}

func (t *tale) start(proc, job uint32, attempt uint16) *tale {
	return t.add(Event{Kind: Started, Proc: proc, Job: job, Attempt: attempt})
}

func (t *tale) finish(proc, job uint32, attempt uint16, a Answer) *tale {
	return t.add(Event{Kind: Finished, Proc: proc, Job: job, Attempt: attempt, Code: a})
}

func (t *tale) settle(proc, job uint32, attempt uint16, end End) *tale {
	return t.add(Event{Kind: Settled, Proc: proc, Job: job, Attempt: attempt, Code: end})
}

// run is a whole delivery that goes well.
func (t *tale) run(proc, job uint32, attempt uint16) *tale {
	return t.fetch(proc, job, attempt).start(proc, job, attempt).
		finish(proc, job, attempt, Success).settle(proc, job, attempt, EndDelete)
}

// fail is a delivery whose handler fails, up to its settlement.
func (t *tale) fail(proc, job uint32, attempt uint16) *tale {
	return t.fetch(proc, job, attempt).start(proc, job, attempt).finish(proc, job, attempt, Failure)
}

func (t *tale) kill(proc uint32) *tale {
	return t.add(Event{Kind: FaultBegins, Proc: proc, Code: uint8(KillWorker)}, Event{Kind: Killing, Proc: proc}, Event{Kind: Ended, Proc: proc})
}

func (t *tale) fault(f Fault, victim uint32, d time.Duration) *tale {
	return t.add(Event{Kind: FaultBegins, Code: uint8(f), Proc: victim}).wait(d).add(Event{Kind: FaultEnds, Code: uint8(f), Proc: victim})
}

func (t *tale) all() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for _, e := range t.events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// check returns what the checker says of the history and its end. The tale stays as
// it is: other tests read it.
func (t *tale) check(tb testing.TB, rules Rules) *Report {
	tb.Helper()
	rules.Lease = lease
	ended := &tale{now: t.now, events: slices.Clone(t.events)}
	r, err := Check(rules, ended.add(Event{Kind: Drained}).all())
	require.NoError(tb, err)
	return r
}

// present adds what the broker holds at the end, which comes last.
func (t *tale) present(job uint32, place Place) *tale {
	return t.add(Event{Kind: Present, Job: job, Code: place})
}

var stories = map[string]struct {
	tale   *tale
	rules  Rules
	breaks []Rule // none: it is a good one
}{
	"all is well": {tale: tell().push(1, 0).push(2, 0).run(1, 1, 1).run(2, 2, 1)},

	"I1 an acknowledged job never runs":        {tale: tell().push(1, 0), breaks: []Rule{I1}},
	"I1 it only fails":                         {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndDelete), breaks: []Rule{I1}},
	"I1 dead is not lost":                      {tale: tell().class(1, Hopeless, 0).fail(1, 1, 1).settle(1, 1, 1, EndBury).present(1, InDead)},
	"I1 a push of unknown outcome may be lost": {tale: tell().add(Event{Kind: PushCalled, Job: 1}, Event{Kind: PushUnknown, Job: 1})},
	"I1 so may one whose process died":         {tale: tell().add(Event{Kind: PushCalled, Job: 1})},
	"I1 it succeeded, and its worker died":     {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).kill(1)},

	"I3 hops: no failure, no excuse": {tale: tell().push(1, time.Second).wait(time.Second).run(1, 1, 1).fetch(2, 1, 1), rules: Rules{Hops: true}, breaks: []Rule{I3}},
	"I3 hops: a worker died while the job was delayed": {tale: tell().push(1, time.Second).fault(KillWorker, 3, 0).wait(time.Second).run(1, 1, 1).run(2, 1, 1),
		rules: Rules{Hops: true}},
	"I3 hops: a job without a delay has none": {tale: tell().push(1, 0).fault(KillWorker, 3, 0).wait(time.Second).run(1, 1, 1).fetch(2, 1, 1),
		rules: Rules{Hops: true}, breaks: []Rule{I3}},
	"I3 loose: no failure, no excuse": {tale: tell().push(1, 0).run(1, 1, 1).wait(lease).fetch(2, 1, 2), rules: Rules{Loose: true}, breaks: []Rule{I3}},
	"I3 loose: another worker was killed": {tale: tell().push(1, 0).run(1, 1, 1).wait(lease).kill(2).fetch(3, 1, 2), rules: Rules{Loose: true},
		breaks: []Rule{I3}},
	"I3 loose: its worker was killed after it deleted": {tale: tell().push(1, 0).run(1, 1, 1).kill(1).run(2, 1, 2), rules: Rules{Loose: true}},
	"I3 loose: the server was killed":                  {tale: tell().push(1, 0).run(1, 1, 1).fault(KillServer, 0, time.Second).run(2, 1, 2), rules: Rules{Loose: true}},
	"I3 confirmed: the server was killed": {tale: tell().push(1, 0).run(1, 1, 1).fault(KillServer, 0, time.Second).fetch(2, 1, 2),
		breaks: []Rule{I3}},
	"I3 anew: its worker was killed, and both are there": {tale: tell().push(1, 0).fail(1, 1, 1).kill(1).run(2, 1, 2).run(2, 1, 2), rules: Rules{Anew: true}},
	"I3 anew: its connection was cut, and both are there": {tale: tell().push(1, 0).fail(1, 1, 1).fault(Reset, 0, time.Second).
		run(2, 1, 2).run(2, 1, 2), rules: Rules{Anew: true, Bound: true}},
	"I2 anew: one process has both copies, and runs one after the other": {tale: tell().push(1, 0).fail(2, 1, 1).kill(2).
		add(Event{Kind: Began, Proc: 3, Code: Worker}).run(3, 1, 2).
		fetch(1, 1, 2).fetch(1, 1, 2).start(1, 1, 2).finish(1, 1, 2, Success).settle(1, 1, 2, EndDelete).
		start(1, 1, 2).finish(1, 1, 2, Success).settle(1, 1, 2, EndDelete), rules: Rules{Anew: true}},
	"I3 anew: a release of unknown outcome was tried again": {tale: tell().push(1, 0).fail(1, 1, 1).
		add(Event{Kind: SettleUnsure, Proc: 1, Job: 1, Attempt: 1, Code: EndRelease}).settle(1, 1, 1, EndRelease).
		run(2, 1, 2).run(2, 1, 2), rules: Rules{Anew: true}},
	"I2 torn: the server was killed in a push": {tale: tell().fault(KillServer, 0, time.Second).fetch(1, 0, 1).settle(1, 0, 1, EndBury).present(0, InDead),
		rules: Rules{Torn: true}},
	"I2 torn: only one for each kill": {tale: tell().fault(KillServer, 0, time.Second).present(0, InDead).present(0, InDead),
		rules: Rules{Torn: true}, breaks: []Rule{I2}},
	"I2 torn: nobody killed the server": {tale: tell().fetch(1, 0, 1).settle(1, 0, 1, EndBury).present(0, InDead), rules: Rules{Torn: true}, breaks: []Rule{I2}},
	"I3 anew: another worker was killed": {tale: tell().push(1, 0).fail(1, 1, 1).kill(2).settle(1, 1, 1, EndRelease).run(1, 1, 2).run(1, 1, 2),
		rules: Rules{Anew: true}, breaks: []Rule{I3, I5}},
	"I3 anew: what was deleted stays so": {tale: tell().push(1, 0).run(1, 1, 1).kill(1).fetch(2, 1, 2), rules: Rules{Anew: true}, breaks: []Rule{I3}},
	"I11 inexact: dead by deliveries that nobody saw": {tale: tell().push(1, 0).fetch(1, 1, 1).fault(Reset, 0, time.Second).fetch(1, 1, 4).
		settle(1, 1, 4, EndBury).present(1, InDead), rules: Rules{Inexact: true, Bound: true}},
	"I1 loose: lost is lost": {tale: tell().push(1, 0).fault(KillServer, 0, time.Second), rules: Rules{Loose: true}, breaks: []Rule{I1}},

	"I3 anew: its worker died before it could tell, and both copies ran": {
		tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).kill(1).run(2, 1, 2).run(2, 1, 2), rules: Rules{Anew: true}},
	"I3 anew: the server was killed after it was deleted": {
		tale:  tell().push(1, 0).run(1, 1, 1).fault(KillServer, 0, time.Second).fetch(2, 1, 2),
		rules: Rules{Anew: true}, breaks: []Rule{I3}},
	"I3 anew: its worker was killed after it was deleted": {
		tale: tell().push(1, 0).run(1, 1, 1).kill(1).fetch(2, 1, 2), rules: Rules{Anew: true}, breaks: []Rule{I3}},

	"I2 what nobody pushed runs":     {tale: tell().run(1, 1, 1), breaks: []Rule{I2}},
	"I2 a refused push runs":         {tale: tell().add(Event{Kind: PushCalled, Job: 1}, Event{Kind: PushRefused, Job: 1}).run(1, 1, 1), breaks: []Rule{I2}},
	"I2 it was refused after it ran": {tale: tell().add(Event{Kind: PushCalled, Job: 1}).run(1, 1, 1).add(Event{Kind: PushRefused, Job: 1}), breaks: []Rule{I2}},
	"I2 an unknown push runs":        {tale: tell().add(Event{Kind: PushCalled, Job: 1}, Event{Kind: PushUnknown, Job: 1}).run(1, 1, 1)},
	"I2 other arguments": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).add(Event{Kind: Corrupt, Proc: 1, Job: 1, Attempt: 1}).
		finish(1, 1, 1, Success).settle(1, 1, 1, EndDelete), breaks: []Rule{I2}},
	"I2 a run without a reservation": {tale: tell().push(1, 0).start(1, 1, 1).run(1, 1, 1), breaks: []Rule{I2}},
	"I2 the broker holds what was refused": {tale: tell().add(Event{Kind: PushCalled, Job: 1}, Event{Kind: PushRefused, Job: 1}).present(1, InDead),
		breaks: []Rule{I2, I11}},

	"I3 a deleted job is delivered": {tale: tell().push(1, 0).run(1, 1, 1).fetch(2, 1, 2), breaks: []Rule{I3}},
	"I3 a deleted job is dead":      {tale: tell().push(1, 0).run(1, 1, 1).present(1, InDead), breaks: []Rule{I3}},
	"I3 an older delivery, forgotten by a server that was killed, is told of late": {tale: func() *tale {
		t := tell().push(1, 0).fault(KillServer, 0, time.Second).run(2, 1, 1).fetch(1, 1, 1)
		t.events[len(t.events)-1].Value = t.events[3].At + 1 // just after the push
		return t
	}(), rules: Rules{Inexact: true, Bound: true}},
	"I3 an older delivery of the same attempt, and nobody killed the server": {tale: func() *tale {
		t := tell().push(1, 0).wait(time.Second).run(2, 1, 1).fetch(1, 1, 1)
		t.events[len(t.events)-1].Value = t.events[3].At + 1
		return t
	}(), rules: Rules{Inexact: true, Bound: true}, breaks: []Rule{I3}},
	"I3 an older delivery is told of late": {tale: func() *tale {
		t := tell().push(1, 0).add(Event{Kind: FaultBegins, Code: uint8(StopWorker), Proc: 1})
		sent := t.now
		t.wait(2*lease).run(2, 1, 2).add(Event{Kind: FaultEnds, Code: uint8(StopWorker), Proc: 1})
		t.fetch(1, 1, 1)
		t.events[len(t.events)-1].Value = sent
		return t.add(Event{Kind: SettleLost, Proc: 1, Job: 1, Attempt: 1, Code: EndUncount})
	}()},

	"I4 delivered twice for no reason": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).run(2, 1, 2), breaks: []Rule{I4}},
	"I4 not even when the lease is over": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).wait(lease).run(2, 1, 2),
		breaks: []Rule{I4}},
	"I4 its worker was killed":  {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).kill(1).wait(lease).run(2, 1, 2)},
	"I4 its worker was stopped": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).run(2, 1, 2)},
	"I4 another worker was stopped": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).fault(StopWorker, 2, lease).run(2, 1, 2),
		breaks: []Rule{I4}},
	"I4 the server was stopped": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).fault(StopServer, 0, lease).run(2, 1, 2)},
	"I4 the lease was not over": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).fault(Reset, 0, time.Second).run(2, 1, 2),
		breaks: []Rule{I4}},
	"I4 the broker gives back the jobs of a connection": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).
		fault(Reset, 0, time.Second).run(2, 1, 2), rules: Rules{Bound: true}},
	"I4 it was prolonged": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopServer, 0, 2*time.Second).
		add(Event{Kind: Touched, Proc: 1, Job: 1, Attempt: 1}).finish(1, 1, 1, Success).wait(2*time.Second).run(2, 1, 2), breaks: []Rule{I4}},
	"I4 it was released":              {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndRelease).run(2, 1, 2)},
	"I4 its release is told of later": {tale: tell().push(1, 0).fail(1, 1, 1).run(2, 1, 2).settle(1, 1, 1, EndRelease), breaks: []Rule{I8}},
	"I4 its release was sent before, and is told of later": {tale: func() *tale {
		t := tell().push(1, 0).fail(1, 1, 1)
		sent := t.now
		t.run(2, 1, 2).settle(1, 1, 1, EndRelease)
		t.events[len(t.events)-1].Value = sent
		return t
	}()},
	"I4 its release has an unknown outcome": {tale: tell().push(1, 0).fail(1, 1, 1).
		add(Event{Kind: SettleUnsure, Proc: 1, Job: 1, Attempt: 1, Code: EndRelease}).run(2, 1, 2)},
	"I4 its worker was killed before it told of the release": {tale: tell().push(1, 0).fail(1, 1, 1).run(2, 1, 2).kill(1)},

	"I4 delivered to nobody for no reason":                 {tale: tell().push(1, 0).run(1, 1, 2), breaks: []Rule{I4}},
	"I4 taken back, and delivered to nobody for no reason": {tale: tell().push(1, 0).fetch(1, 1, 1).settle(1, 1, 1, EndUncount).run(1, 1, 2), breaks: []Rule{I4}},
	"I4 taken back":                    {tale: tell().push(1, 0).fetch(1, 1, 1).settle(1, 1, 1, EndUncount).run(1, 1, 1)},
	"I4 the answer of a fetch is lost": {tale: tell().push(1, 0).fault(Reset, 0, time.Second).run(1, 1, 2)},
	"I4 a third has it before the first tells of the release": {tale: func() *tale {
		t := tell().push(1, 0).fail(1, 1, 1)
		sent := t.now
		t.fetch(2, 1, 2).start(2, 1, 2).kill(2).wait(lease).add(Event{Kind: Began, Proc: 3, Code: Worker}).run(3, 1, 3).settle(1, 1, 1, EndRelease)
		t.events[len(t.events)-1].Value = sent
		return t
	}()},

	"I5 two run it": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopServer, 0, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).finish(2, 1, 2, Success).settle(2, 1, 2, EndDelete), breaks: []Rule{I5}},
	"I5 its context had ended in time": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).
		add(Event{Kind: ContextEnded, Proc: 1, Job: 1, Attempt: 1}).fault(StopServer, 0, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).finish(2, 1, 2, Success).settle(2, 1, 2, EndDelete)},
	"I5 its context had ended too late": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopServer, 0, lease).
		add(Event{Kind: ContextEnded, Proc: 1, Job: 1, Attempt: 1}).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).finish(2, 1, 2, Success).settle(2, 1, 2, EndDelete), breaks: []Rule{I5}},
	"I5 its worker was stopped": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).finish(2, 1, 2, Success).settle(2, 1, 2, EndDelete)},
	"I5 one reservation, two runs": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).start(1, 1, 1).
		finish(1, 1, 1, Success).settle(1, 1, 1, EndDelete), breaks: []Rule{I5}},

	"I6 too early": {tale: tell().push(1, time.Second).wait(990*time.Millisecond).run(1, 1, 1), breaks: []Rule{I6}},
	"I6 in time":   {tale: tell().push(1, time.Second).wait(time.Second).run(1, 1, 1)},
	"I6 a retry too early": {tale: func() *tale {
		t := tell().push(1, 0).fail(1, 1, 1)
		return t.add(Event{Kind: NotBefore, Proc: 1, Job: 1, Attempt: 1, Value: t.now + int64(time.Second)}).settle(1, 1, 1, EndRelease).run(1, 1, 2)
	}(), breaks: []Rule{I6}},
	"I6 a retry in time": {tale: func() *tale {
		t := tell().push(1, 0).fail(1, 1, 1)
		return t.add(Event{Kind: NotBefore, Proc: 1, Job: 1, Attempt: 1, Value: t.now + int64(time.Second)}).settle(1, 1, 1, EndRelease).
			wait(time.Second).run(1, 1, 2)
	}()},

	"I6 a retry whose first try had an unknown outcome": {tale: func() *tale {
		t := tell().push(1, 0).fail(1, 1, 1).add(Event{Kind: SettleUnsure, Proc: 1, Job: 1, Attempt: 1, Code: EndRelease}).wait(time.Second)
		return t.add(Event{Kind: NotBefore, Proc: 1, Job: 1, Attempt: 1, Value: t.now + int64(time.Second)}).settle(1, 1, 1, EndRelease).run(1, 1, 2)
	}()},

	"I7 late, and overtaken": {tale: tell().push(1, time.Second).wait(1100*time.Millisecond).push(2, 0).run(1, 2, 1).wait(1200*time.Millisecond).run(1, 1, 1),
		breaks: []Rule{I7}},
	"I7 its push took long": {tale: tell().add(Event{Kind: PushCalled, Job: 1, Value: int64(time.Second)}).wait(1200*time.Millisecond).
		add(Event{Kind: Pushed, Job: 1}).push(2, 0).run(1, 2, 1).wait(1100*time.Millisecond).push(3, 0).run(1, 3, 1).run(1, 1, 1)},
	"I7 late, as all are": {tale: tell().push(1, time.Second).wait(3*time.Second).run(1, 1, 1)},
	"I7 late by a fault":  {tale: tell().push(1, time.Second).wait(1100*time.Millisecond).push(2, 0).run(1, 2, 1).fault(KillServer, 0, 1200*time.Millisecond).run(1, 1, 1)},

	"I8 deleted by one who had lost it": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).settle(1, 1, 1, EndDelete).finish(2, 1, 2, Success), breaks: []Rule{I8}},
	"I8 buried by one who had lost it": {tale: tell().class(1, Hopeless, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Failure).settle(1, 1, 1, EndBury).present(1, InDead), breaks: []Rule{I8}},
	"I8 released by one who had lost it": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Failure).settle(1, 1, 1, EndRelease).finish(2, 1, 2, Success), breaks: []Rule{I8}},
	"I8 who has lost it is told so": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).fault(StopWorker, 1, lease).fetch(2, 1, 2).start(2, 1, 2).
		finish(1, 1, 1, Success).add(Event{Kind: SettleLost, Proc: 1, Job: 1, Attempt: 1, Code: EndDelete}).
		finish(2, 1, 2, Success).settle(2, 1, 2, EndDelete)},

	"I9 it is still ready":    {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).present(1, InReady), breaks: []Rule{I9}},
	"I9 a buried job is gone": {tale: tell().class(1, Hopeless, 0).fail(1, 1, 1).settle(1, 1, 1, EndBury), breaks: []Rule{I9}},

	"I10 nothing happens":                 {tale: tell().push(1, 0).push(2, 0).run(1, 2, 1).wait(10*time.Second).run(1, 1, 1), breaks: []Rule{I10}},
	"I10 nothing happens in an outage":    {tale: tell().push(1, 0).push(2, 0).run(1, 2, 1).fault(KillServer, 0, 10*time.Second).run(1, 1, 1)},
	"I10 nothing happens, nothing is due": {tale: tell().push(1, 10*time.Second).wait(11*time.Second).run(1, 1, 1)},
	"I10 nothing happens, and then it is": {tale: tell().push(1, time.Second).wait(11*time.Second).run(1, 1, 1), breaks: []Rule{I10}},
	"I10 nothing happens, nothing is left": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).finish(1, 1, 1, Success).kill(1).
		push(2, 0).wait(time.Second).run(2, 2, 1).wait(lease + 6*time.Second)},
	"I10 killed, and not run again soon": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).kill(1).wait(2*lease).run(2, 1, 2),
		rules: Rules{Rerun: lease + time.Second}, breaks: []Rule{I10}},
	"I10 killed, and run again soon": {tale: tell().push(1, 0).fetch(1, 1, 1).start(1, 1, 1).kill(1).wait(lease).run(2, 1, 2),
		rules: Rules{Rerun: lease + time.Second}},

	"I11 an attempt twice":               {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndRelease).run(2, 1, 1), breaks: []Rule{I11}},
	"I11 an attempt that does not count": {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndUncount).run(2, 1, 1)},
	"I11 fewer attempts than before":     {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndRelease).fail(1, 1, 2).settle(1, 1, 2, EndUncount).run(2, 1, 1), breaks: []Rule{I11}},
	"I11 a broker that does not count":   {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndRelease).run(2, 1, 1), rules: Rules{Inexact: true}},
	"I11 dead for no reason":             {tale: tell().push(1, 0).fail(1, 1, 1).settle(1, 1, 1, EndBury).present(1, InDead), breaks: []Rule{I11}},
	"I11 dead after three crashes": {tale: tell().push(1, 0).
		fetch(1, 1, 1).start(1, 1, 1).kill(1).wait(lease).fetch(2, 1, 2).start(2, 1, 2).kill(2).wait(lease).
		add(Event{Kind: Began, Proc: 3, Code: Worker}).fetch(3, 1, 3).start(3, 1, 3).kill(3).wait(lease).
		add(Event{Kind: Began, Proc: 4, Code: Worker}).fetch(4, 1, 4).settle(4, 1, 4, EndBury).present(1, InDead)},
}

func TestCheckerFindsWhatAHistoryBreaks(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			r := story.tale.check(t, story.rules)
			var broken []Rule
			for rule, n := range r.Broken {
				if n > 0 {
					broken = append(broken, Rule(rule))
				}
			}
			var text bytes.Buffer
			r.Print(&text)
			assert.Equal(t, story.breaks, broken, text.String())
			assert.Equal(t, len(story.breaks) == 0, r.OK())
			if r.OK() {
				assert.Contains(t, text.String(), "PASS\n")
			} else {
				assert.Contains(t, text.String(), "FAIL "+story.breaks[0].String())
			}
		})
	}
}

func TestCheckerWantsADrain(t *testing.T) {
	t.Parallel()
	r, err := Check(Rules{Lease: lease}, tell().push(1, 0).run(1, 1, 1).all())
	require.NoError(t, err)
	assert.Equal(t, 1, r.Broken[I10])
}

func TestReportTellsProcessesAndSecrets(t *testing.T) {
	t.Parallel()
	r := tell().push(1, 0).run(1, 1, 1).check(t, Rules{})
	require.True(t, r.OK())
	r.Fail(I12, "a process leaks")
	r.Fail(I13, "a log tells the password")
	assert.False(t, r.OK())
	assert.Equal(t, 1, r.Broken[I12])
	assert.Equal(t, 1, r.Broken[I13])
}

func TestRepeatedRunsAreCountedByCause(t *testing.T) {
	t.Parallel()
	again := func(name string) [causes]int {
		r, err := Check(Rules{Lease: lease}, stories[name].tale.all())
		require.NoError(t, err)
		return r.Again
	}
	assert.Equal(t, [causes]int{}, again("I4 it was released"))
	assert.Equal(t, [causes]int{}, again("I4 its release was sent before, and is told of later"))
	assert.Equal(t, [causes]int{ByKill: 1}, again("I4 a third has it before the first tells of the release"))
	assert.Equal(t, [causes]int{ByKill: 1}, again("I4 its worker was killed"))
	assert.Equal(t, [causes]int{ByKill: 1}, again("I4 its worker was killed before it told of the release"))
	assert.Equal(t, [causes]int{ByStop: 1}, again("I4 its worker was stopped"))
	assert.Equal(t, [causes]int{ByOutage: 1}, again("I4 the server was stopped"))
	assert.Equal(t, [causes]int{ByUnknown: 1}, again("I4 its release has an unknown outcome"))
	assert.Equal(t, [causes]int{Unexplained: 1}, again("I4 delivered twice for no reason"))
}

func TestRecoveryIsMeasuredFromTheEndOfTheFault(t *testing.T) {
	t.Parallel()
	story := tell()
	job := uint32(0)
	work := func(n int, every time.Duration) {
		for range n {
			job++
			story.push(job, 0).run(1, job, 1).wait(every)
		}
	}
	work(100, 20*time.Millisecond)
	story.fault(KillServer, 0, time.Second).wait(2 * time.Second)
	work(100, 20*time.Millisecond)
	r := story.check(t, Rules{Recovery: 5 * time.Second})
	assert.True(t, r.OK(), r.Violations)
	assert.InDelta(t, 2*time.Second, r.FirstMax, float64(250*time.Millisecond))
	assert.InDelta(t, 2500*time.Millisecond, r.RecoveryMax, float64(300*time.Millisecond))
	r, err := Check(Rules{Lease: lease, Recovery: time.Second}, story.all())
	require.NoError(t, err)
	assert.Equal(t, 1, r.Broken[I10])
}
