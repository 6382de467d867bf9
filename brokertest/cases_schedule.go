package brokertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

var scheduleCases = []testCase{
	{name: "tick", needs: needs(ticker), check: tick,
		rule: "Tick adds the job of a tick once, whoever asks and how often, and refuses earlier ticks of the schedule."},
	{name: "tick-early", needs: needs(ticker), check: tickEarly,
		rule: "A tick whose time has not come is not pushed and not remembered."},
	{name: "tick-begin", needs: needs(ticker), check: tickBegin,
		rule: "A tick without a job begins an unknown schedule now, changes nothing of a known one, and begins it anew when the spec is another."},
	{name: "tick-unknown", needs: needs(ticker), check: tickUnknown,
		rule: "A tick of a schedule that was never begun is pushed."},
	{name: "ticks-apart", needs: needs(ticker), check: ticksApart,
		rule: "Schedules of other names, and those of other queues, have ticks of their own."},
	{name: "ticks-batch", needs: needs(ticker), check: ticksBatch,
		rule: "Many ticks of many schedules are pushed in their order, and each has its own result."},
	{name: "tick-race", needs: needs(ticker), check: tickRace,
		rule: "Of many who push the same ticks at the same time, from several connections, exactly one pushes each."},
	{name: "tick-unique", needs: needs(ticker, uniquer), check: tickUnique,
		rule: "A tick whose job's key is held is remembered and adds nothing; one that is pushed takes the key."},
	{name: "tick-refused", needs: needs(ticker), check: tickRefused,
		rule: "Tick refuses bad names, bad jobs and an ended context, and then pushes and remembers nothing."},
}

func ticker(p promises) string { return unless(p.ticks, "the broker is no linda.Ticker") }

// ticks asks a broker to push ticks. What it remembers of schedules stays.
func (c *trial) ticks(b linda.Broker, queue string, ticks ...linda.Tick) ([]linda.Ticked, time.Time) {
	c.Helper()
	c.dirty = true
	done, now, err := as[linda.Ticker](c, b).Tick(c.Context(), queue, ticks)
	c.must(err, "Tick")
	if len(done) != len(ticks) {
		c.Fatalf("Tick: %d results for %d ticks", len(done), len(ticks))
	}
	return done, now
}

// tickIs asks for one tick and checks what becomes of it.
func (c *trial) tickIs(b linda.Broker, t linda.Tick, pushed bool, last time.Time, when string) {
	c.Helper()
	done, _ := c.ticks(b, c.queue, t)
	equal(c, done[0].Pushed, pushed, "Pushed "+when)
	equal(c, done[0].Last.UnixMilli(), last.UnixMilli(), "Last, in ms, "+when)
}

// serverNow is the broker's clock, to the second.
func (c *trial) serverNow(b linda.Broker) time.Time {
	c.Helper()
	_, now := c.ticks(b, c.queue)
	return now.Truncate(time.Second)
}

func tickAt(schedule string, at time.Time) linda.Tick {
	job := newJob("tick", schedule)
	job.ID = linda.NewID()
	return linda.Tick{Schedule: schedule, Spec: "@every 1s", At: at, Job: job}
}

// left deletes the jobs that are READY and returns how many there were.
func (c *trial) left(b linda.Broker, queue string) int {
	c.Helper()
	for n := 0; ; n++ {
		job, err := b.Pop(queue, int64(c.long/time.Second))
		c.must(err, "Pop")
		if job == nil {
			return n
		}
		c.delete(b, job)
	}
}

func tick(c *trial) {
	b, other := c.open(), c.open()
	at := c.serverNow(b).Add(-time.Minute)
	first := tickAt("report", at)
	first.Job.Headers = map[string]string{"h": "x"}
	c.tickIs(b, first, true, at, "of a tick whose time has come")
	c.tickIs(b, first, false, at, "of the same tick")
	c.tickIs(other, tickAt("report", at), false, at, "of the same tick on another connection")
	c.tickIs(other, tickAt("report", at.Add(-time.Millisecond)), false, at, "of an earlier tick")
	job := c.one(b)
	equal(c, job.ID, first.Job.ID, "ID")
	equal(c, job.Payload.Class, "tick", "Class")
	equal(c, job.Headers["h"], "x", "the header")
	c.counts(job, 1, 0)
	c.delete(b, job)
	c.tickIs(b, first, false, at, "of the same tick after its job is done")
	equal(c, c.left(b, c.queue), 0, "jobs")
	c.tickIs(other, tickAt("report", at.Add(time.Millisecond)), true, at.Add(time.Millisecond), "of the next tick")
	equal(c, c.left(b, c.queue), 1, "jobs")
}

func tickEarly(c *trial) {
	b := c.open()
	begun, now := c.ticks(b, c.queue, linda.Tick{Schedule: "s", Spec: "@every 1s"})
	at := now.Add(time.Second).Truncate(time.Millisecond)
	soon := tickAt("s", at)
	c.tickIs(b, tickAt("s", at.Add(time.Hour)), false, begun[0].Last, "an hour early")
	c.tickIs(b, soon, false, begun[0].Last, "early")
	equal(c, c.left(b, c.queue), 0, "jobs")
	c.until("the tick is pushed", func() bool {
		done, now := c.ticks(b, c.queue, soon)
		if done[0].Pushed && now.Before(at) {
			c.Errorf("pushed at %v by the broker's clock, which is before %v", now, at)
		}
		return done[0].Pushed
	})
	equal(c, c.left(b, c.queue), 1, "jobs")
}

func tickBegin(c *trial) {
	b, other := c.open(), c.open()
	begin := linda.Tick{Schedule: "s", Spec: "CRON_TZ=UTC 30 2 * * *"}
	done, now := c.ticks(b, c.queue, begin)
	first := done[0].Last
	equal(c, done[0].Pushed, false, "Pushed")
	equal(c, first.UnixMilli(), now.UnixMilli(), "Last of a schedule that begins, in ms")
	time.Sleep(20 * time.Millisecond)
	c.tickIs(other, begin, false, first, "of a schedule that is known")
	c.tickIs(b, tickAt("s", first.Add(-time.Second)), false, first, "of a tick from before it began")
	changed := begin
	changed.Spec = "CRON_TZ=UTC 30 3 * * *"
	done, _ = c.ticks(b, c.queue, changed)
	if !done[0].Last.After(first) {
		c.Errorf("Last after the spec has changed: got %v, want later than %v", done[0].Last, first)
	}
	c.tickIs(other, changed, false, done[0].Last, "of the changed schedule")
	equal(c, c.left(b, c.queue), 0, "jobs")
}

func tickUnknown(c *trial) {
	b := c.open()
	at := c.serverNow(b)
	done, _ := c.ticks(b, c.queue, tickAt("early", at.Add(time.Hour)), tickAt("due", at))
	equal(c, done[0], linda.Ticked{}, "the early tick of an unknown schedule")
	equal(c, done[1].Pushed, true, "Pushed")
	equal(c, c.left(b, c.queue), 1, "jobs")
}

func ticksApart(c *trial) {
	b := c.open()
	elsewhere := c.newQueue("elsewhere")
	at := c.serverNow(b)
	for _, name := range []string{"s", "S", "s.1", strings.Repeat("s", 60)} {
		c.tickIs(b, tickAt(name, at), true, at, "of "+name)
	}
	done, _ := c.ticks(b, elsewhere, tickAt("s", at))
	equal(c, done[0].Pushed, true, "Pushed in another queue")
	equal(c, c.left(b, c.queue)+c.left(b, elsewhere), 5, "jobs")
}

func ticksBatch(c *trial) {
	b := c.open()
	from := c.serverNow(b).Add(-time.Hour)
	const n = 700
	c.tickIs(b, tickAt("a", from.Add(3*time.Second)), true, from.Add(3*time.Second), "of one that is asked for again")
	equal(c, c.left(b, c.queue), 1, "jobs")
	var batch []linda.Tick
	var want []string
	for i := range n {
		at := from.Add(time.Duration(i) * time.Second)
		t := tickAt("a", at)
		batch = append(batch, t)
		if i > 3 {
			want = append(want, t.Job.ID)
		}
		if i%100 == 0 {
			t = tickAt("b", at)
			batch, want = append(batch, t), append(want, t.Job.ID)
		}
	}
	done, _ := c.ticks(b, c.queue, batch...)
	pushed := 0
	for i, d := range done {
		if d.Pushed {
			pushed++
			equal(c, d.Last.UnixMilli(), batch[i].At.UnixMilli(), "Last of a tick that was pushed")
		}
	}
	equal(c, pushed, len(want), "ticks that were pushed")
	var got []string
	for _, job := range c.reserve(b, c.queue, len(want), c.long) {
		got = append(got, job.ID)
		c.delete(b, job)
	}
	if !c.Ordered {
		slices.Sort(got)
		slices.Sort(want)
	}
	equal(c, slices.Equal(got, want), true, "the jobs are those of the ticks, in their order")
}

func tickRace(c *trial) {
	brokers := []linda.Broker{c.open(), c.open(), c.open()}
	from := c.serverNow(brokers[0]).Add(-time.Hour)
	const ticks, each = 50, 4
	var (
		all sync.WaitGroup
		won atomic.Int64
	)
	for i := range each * len(brokers) {
		all.Go(func() {
			t, _ := linda.As[linda.Ticker](brokers[i%len(brokers)])
			for n := range ticks {
				done, _, err := t.Tick(c.Context(), c.queue, []linda.Tick{tickAt("s", from.Add(time.Duration(n)*time.Second))})
				if err != nil {
					c.Errorf("Tick: %v", err)
					return
				}
				if done[0].Pushed {
					won.Add(1)
				}
			}
		})
	}
	all.Wait()
	equal(c, won.Load(), ticks, "ticks that were pushed")
	equal(c, c.left(brokers[0], c.queue), ticks, "jobs")
}

func tickUnique(c *trial) {
	b := c.open()
	from := c.serverNow(b).Add(-time.Hour)
	at := func(n int) linda.Tick {
		t := tickAt("s", from.Add(time.Duration(n)*time.Second))
		t.Job.UniqueKey = "k"
		return t
	}
	first := at(1)
	c.tickIs(b, first, true, first.At, "with a free key")
	c.taken(b, "k", first.Job, "while the job of the tick waits")
	c.tickIs(b, at(2), false, at(2).At, "with a key that is held")
	c.delete(b, c.one(b))
	c.tickIs(b, at(2), false, at(2).At, "of the tick that was left out, once the key is free")
	c.tickIs(b, at(3), true, at(3).At, "of the next one")
	c.delete(b, c.one(b))
	short := at(4)
	short.Job.UniqueTTL = 200 * time.Millisecond
	c.tickIs(b, short, true, short.At, "with a key that is held for a time")
	time.Sleep(300 * time.Millisecond)
	c.tickIs(b, at(5), true, at(5).At, "after that time")
	equal(c, c.left(b, c.queue), 2, "jobs")
}

func tickRefused(c *trial) {
	b := c.open()
	t := as[linda.Ticker](c, b)
	at := c.serverNow(b)
	good, bad := tickAt("s", at), tickAt("s", at)
	bad.Job.Payload.Class = ""
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	for _, refused := range []struct {
		ctx   context.Context
		queue string
		ticks []linda.Tick
		want  error
		what  string
	}{
		{c.Context(), "a:b", []linda.Tick{good}, linda.ErrBadName, "a bad name of a queue"},
		{c.Context(), c.queue, []linda.Tick{good, tickAt("a b", at)}, linda.ErrBadName, "a bad name of a schedule"},
		{c.Context(), c.queue, []linda.Tick{good, {Schedule: ""}}, linda.ErrBadName, "no name of a schedule"},
		{c.Context(), c.queue, []linda.Tick{good, bad}, linda.ErrBadJob, "a bad job"},
		{ended, c.queue, []linda.Tick{good}, context.Canceled, "an ended context"},
	} {
		_, _, err := t.Tick(refused.ctx, refused.queue, refused.ticks)
		c.is(err, refused.want, "Tick with "+refused.what)
	}
	equal(c, c.left(b, c.queue), 0, "jobs")
	c.tickIs(b, good, true, at, "after those that were refused")
	equal(c, c.left(b, c.queue), 1, "jobs")
	c.must(b.Close(), "Close")
	_, _, err := t.Tick(c.Context(), c.queue, nil)
	c.is(err, linda.ErrClosed, "Tick on a closed broker")
}
