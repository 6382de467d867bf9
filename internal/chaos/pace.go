package chaos

import (
	"container/heap"
	"sort"
	"time"
)

// life watches that something happens while there is work.
type life struct {
	waiting  int     // jobs that are due, and not over
	since    int64   // waiting has not been 0 since then
	progress int64   // when something happened last
	delayed  dueHeap // acknowledged jobs that are not due yet
}

// dueHeap holds the times at which delayed jobs are due, and their numbers.
type dueHeap []dueJob

type dueJob struct {
	at     int64
	number uint32
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, k int) bool { return h[i].at < h[k].at }
func (h dueHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueJob)) }
func (h *dueHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (l *life) work(at int64) {
	if l.waiting == 0 {
		l.since = at
	}
	l.waiting++
}

// over is told that a job is deleted or buried.
func (l *life) over(j *job) {
	if j.push == Pushed && l.waiting > 0 {
		l.waiting--
	}
}

// pace judges the time between events.
func (c *Checker) pace(e Event) {
	l := &c.life
	for len(l.delayed) > 0 && l.delayed[0].at <= e.At {
		due := heap.Pop(&l.delayed).(dueJob)
		if j := &c.jobs[due.number]; !j.done && !j.dead {
			l.work(due.at)
		}
	}
	switch e.Kind {
	case Pushed:
		j := c.job(e)
		switch {
		case j.done || j.dead: // it was quicker than its acknowledgement
		case j.due > e.At:
			heap.Push(&l.delayed, dueJob{j.due, e.Job})
		default:
			l.work(e.At)
		}
	case Started:
		c.late(e)
		c.progress(e)
	case Finished:
		if e.Code == Success {
			c.flow.success(e.At)
		}
		c.progress(e)
	case Settled:
		c.progress(e)
	case Drained:
		// The harness may have waited for longer than Stall, to see that nothing
		// comes any more. A job whose worker died between its success and the
		// record of that counts as work up to now, and is none.
	}
}

func (c *Checker) progress(e Event) {
	l := &c.life
	from := max(l.progress, l.since)
	quiet := time.Duration(e.At - from)
	if l.waiting > 0 && from > 0 && quiet > c.rules.Stall && !c.faults.any(from, e.At) {
		c.fail(I10, e, "nothing happened for "+round(quiet).String()+" though there was work")
	}
	l.progress = e.At
}

// late judges how long after its time a delayed job starts. It is late if jobs
// that were pushed after its time have started well before it, and nothing was
// broken meanwhile: a queue that is long makes nobody late.
func (c *Checker) late(e Event) {
	j := c.job(e)
	if j.starts > 0 {
		return
	}
	f := &c.flow
	if delayed := j.due > j.called; !delayed {
		f.newest(e.At, j.called)
		return
	}
	f.lateness = append(f.lateness, e.At-j.due)
	bound := int64(c.rules.Late)
	due := j.due + j.took // the server may have got it no sooner
	if e.At-due > bound && f.newestAt(e.At-bound) > due && !c.faults.any(j.due, e.At) {
		c.fail(I7, e, "late by "+round(time.Duration(e.At-due)).String()+", and overtaken")
	}
}

// bin is the length of the periods in which successes are counted.
const bin = int64(100 * time.Millisecond)

// flow counts successes.
type flow struct {
	start    int64
	bins     []int32
	restored []faultSpan // of the server
	lateness []int64
	starts   []sample // every 10 ms at most
}

// sample tells when the newest of the jobs was pushed that had started by a time.
type sample struct{ at, newest int64 }

func (f *flow) newest(at, called int64) {
	const every = int64(10 * time.Millisecond)
	n := len(f.starts)
	switch {
	case n > 0 && called <= f.starts[n-1].newest:
	case n > 0 && at-f.starts[n-1].at < every:
		f.starts[n-1].newest = called
	default:
		f.starts = append(f.starts, sample{at, called})
	}
}

func (f *flow) newestAt(at int64) int64 {
	i := sort.Search(len(f.starts), func(i int) bool { return f.starts[i].at > at })
	if i == 0 {
		return 0
	}
	return f.starts[i-1].newest
}

func (f *flow) success(at int64) {
	if f.start == 0 {
		f.start = at
	}
	i := int((at - f.start) / bin)
	for len(f.bins) <= i {
		f.bins = append(f.bins, 0)
	}
	f.bins[i]++
}

func (f *flow) fault(e Event) {
	if Fault(e.Code) == KillServer || Fault(e.Code) == StopServer {
		f.restored = append(f.restored, faultSpan{to: e.At})
	}
}

// recovery returns, for each fault of the server, how long after its end there
// was a first success, and how long until the rate was 80 % of the usual one.
// One that is followed by the next fault, or by the drain, before that counts
// for nothing.
func (f *flow) recovery(fs *faults, drain int64) (first, full []int64) {
	var total int64
	for _, n := range f.bins {
		total += int64(n)
	}
	busy := max(1, (min(drain, f.start+int64(len(f.bins))*bin)-f.start)/bin)
	usual := float64(total) / float64(busy)
	const span = 5
	for _, r := range f.restored {
		from := int((r.to-f.start)/bin) + 1
		var sum float64
		seen := false
		for i := from; i >= 0 && i < len(f.bins); i++ {
			at := f.start + int64(i+1)*bin
			if at > drain || fs.server(r.to+1, at) {
				break
			}
			if !seen && f.bins[i] > 0 {
				seen = true
				first = append(first, at-r.to)
			}
			sum += float64(f.bins[i])
			if i >= from+span {
				sum -= float64(f.bins[i-span])
			}
			if i >= from+span-1 && sum/span >= 0.8*usual {
				full = append(full, at-r.to)
				break
			}
		}
	}
	return first, full
}
