// Package sim runs linda's own engine, processes of it, against a server and a
// network that exist only in memory, in virtual time: an hour of jobs, faults
// and crashes in some milliseconds, drawn from one number, the seed. What happens is
// written down as lindachaos does, and judged by the same checker.
package sim

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chance"
	"github.com/amlun/linda/internal/chaos"
)

const (
	queue    = "sim"
	urgent   = "sim.urgent"
	pushFor  = 50 * time.Minute // jobs are pushed, and faults happen
	lasts    = time.Hour
	drainFor = time.Hour // in which everything must be done after that
)

// Result is what a seed came to.
type Result struct {
	*chaos.Report
	Hash  uint64 // of the history
	Ticks int    // that were pushed
}

// world is one simulation.
type world struct {
	seed   uint64
	lease  time.Duration
	epoch  time.Time
	server *server
	log    io.Writer // nil: nobody reads the history

	trouble atomic.Int64 // how many of 10,000 operations go wrong
	down    atomic.Bool  // the server is
	ghosts  sync.WaitGroup

	mu      sync.Mutex
	checker *chaos.Checker    // guarded by mu, as all below
	found   []string          // what breaks a rule and is not for the checker to see
	instant []chaos.Event     // what has happened at this one
	hash    uint64            // of the instants before it
	numbers map[string]uint32 // of the jobs of ticks
	last    uint32            // number of a job
	procs   uint32
	snoozed map[string]int
	ticks   map[string][]time.Time // that were pushed, by schedule
}

// Run simulates an hour in a bubble of testing/synctest, in which the caller
// is. The history goes to log, unless that is nil.
func Run(seed uint64, log io.Writer) (*Result, error) {
	// Time decides what is drawn in linda, and begins at another nanosecond
	// for each seed.
	time.Sleep(time.Duration(mix(seed) % uint64(time.Second)))
	d := newDraws(seed, number("world"))
	w := &world{
		seed: seed, log: log, epoch: time.Now().Add(-time.Second),
		lease:   []time.Duration{5, 10, 20, 30}[d.below(4)] * time.Second,
		numbers: make(map[string]uint32), ticks: make(map[string][]time.Time), snoozed: make(map[string]int),
	}
	w.checker = chaos.NewChecker(chaos.Rules{
		Lease: w.lease, MaxCrashes: maxCrashes,
		Stall: 3 * time.Minute, // jobs are few, and some run long
		Late:  2 * time.Minute, // the urgent overtake the others
	})
	var err error
	if w.server, err = newServer(seed); err != nil {
		return nil, err
	}
	defer w.server.close()
	return w.run(d), nil
}

// Chances makes linda draw by the time alone until the function that it
// returns is called.
func Chances() (usual func()) {
	chance.Set(func() uint64 { return mix(uint64(time.Now().UnixNano())) })
	chance.SetLast(func(turn int) { time.Sleep(time.Duration(turn)) })
	return func() {
		chance.Set(nil)
		chance.SetLast(nil)
	}
}

func (w *world) run(d *draws) *Result {
	base := []int{0, 30, 100, 300}[d.below(4)]
	faults := newDraws(w.seed, number("faults"))
	calm := faults.chance(500) // now and then nothing fails, so that nothing excuses anything
	if calm {
		base = 0
	}
	w.trouble.Store(int64(base)) // before anything runs that asks for it
	workers := w.start(2 + d.below(3))
	var producer sync.WaitGroup
	producer.Go(w.produce)
	if !calm {
		w.spoil(faults, workers, base)
	}
	producer.Wait()
	w.trouble.Store(0)
	w.tell(chaos.Event{Kind: chaos.Healed})
	time.Sleep(time.Until(w.epoch.Add(lasts)))
	w.drain()
	workers.stop()
	w.ghosts.Wait()
	w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass()
	r := &Result{Report: w.checker.End(), Hash: w.hash}
	for _, text := range w.found {
		r.Fail(chaos.I11, text)
	}
	for _, ticks := range w.ticks {
		r.Ticks += len(ticks)
	}
	return r
}

// drain waits until nothing but dead jobs is left. It ends in the middle of a
// minute, when no schedule ticks.
func (w *world) drain() {
	for end := time.Now().Add(drainFor); time.Now().Before(end); time.Sleep(time.Second) {
		if s := time.Now().Second(); s < 15 || s > 45 {
			continue
		}
		if left := w.left(); left.Ready+left.Delayed+left.Reserved == 0 {
			w.tell(chaos.Event{Kind: chaos.Drained})
			return
		}
	}
}

func (w *world) left() (sum linda.Stats) {
	for _, name := range []string{queue, urgent} {
		s, err := w.server.store.Stats(context.Background(), name)
		must(err)
		sum.Ready += s.Ready
		sum.Delayed += s.Delayed
		sum.Reserved += s.Reserved
		sum.Dead += s.Dead
	}
	return sum
}

// look writes down what the server holds at the end, and counts the ticks.
func (w *world) look() {
	places := map[linda.State]chaos.Place{
		linda.Ready: chaos.InReady, linda.Delayed: chaos.InDelayed, linda.Reserved: chaos.InReserved, linda.Dead: chaos.InDead,
	}
	for _, name := range []string{queue, urgent} {
		for _, state := range []linda.State{linda.Ready, linda.Delayed, linda.Reserved, linda.Dead} {
			jobs, err := w.server.store.Peek(context.Background(), name, state, 1000)
			must(err)
			for _, job := range jobs {
				e := w.about(job, chaos.Present)
				e.Code = places[state]
				w.tell(e)
				if state == linda.Dead && job.LastError() == "" {
					w.find("job %s is dead without a reason", job.ID)
				}
			}
		}
	}
	w.checkTicks()
}

// tell adds events to the history, at the present time.
func (w *world) tell(events ...chaos.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.at(time.Now())
	if len(w.instant) > 0 && w.instant[0].At != now {
		w.pass()
	}
	for _, e := range events {
		e.At = now
		w.checker.Add(e)
		w.instant = append(w.instant, e)
	}
}

// pass ends an instant. What happened in it happened in any order, since only
// the scheduler of Go knows which goroutine came first; so it is sorted before
// it is part of the history. The caller holds mu.
func (w *world) pass() {
	slices.SortFunc(w.instant, func(a, b chaos.Event) int {
		return cmp.Or(cmp.Compare(a.Proc, b.Proc), cmp.Compare(a.Job, b.Job), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Code, b.Code))
	})
	for _, e := range w.instant {
		w.hash = mix(w.hash, uint64(e.At), uint64(e.Value), uint64(e.Job)<<32|uint64(e.Proc),
			uint64(e.Attempt)<<16|uint64(e.Kind)<<8|uint64(e.Code))
		if w.log != nil {
			_, _ = fmt.Fprintln(w.log, e)
		}
	}
	w.instant = w.instant[:0]
}

// find notes a breach that the checker cannot see.
func (w *world) find(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, fmt.Sprintf(format, args...))
}

// at is a time as it is in the history.
func (w *world) at(t time.Time) int64 { return int64(t.Sub(w.epoch)) }

// about returns an event of a delivery.
func (w *world) about(job *linda.Job, kind chaos.Kind) chaos.Event {
	return chaos.Event{Kind: kind, Job: w.number(job.ID), Attempt: uint16(job.Attempt())}
}

func idOf(n uint32) string { return fmt.Sprintf("job-%d", n) }

func (w *world) number(id string) uint32 {
	if digits, ok := strings.CutPrefix(id, "job-"); ok {
		n, err := strconv.ParseUint(digits, 10, 32)
		must(err)
		return uint32(n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.numbers[id]
}

// newNumber numbers a job. The caller holds mu.
func (w *world) newNumber() uint32 {
	w.last++
	return w.last
}

// settled returns the events of a settlement that was answered.
func (w *world) settled(s *linda.Settlement, sent time.Time, err error) []chaos.Event {
	if err == errRefused {
		return nil
	}
	e := w.about(s.Job, chaos.Settled)
	e.Value, e.Code = w.at(sent), endOf(s)
	switch {
	case isLost(err):
		e.Kind = chaos.SettleLost
	case err != nil:
		e.Kind = chaos.SettleUnsure
	}
	if s.Op != linda.OpRelease || s.Delay <= 0 || e.Kind != chaos.Settled {
		return []chaos.Event{e}
	}
	before := e
	before.Kind, before.Value = chaos.NotBefore, e.Value+int64(s.Delay)
	return []chaos.Event{before, e}
}

// fault writes down that something of a process goes wrong, until the function
// that it returns is called.
func (w *world) fault(proc uint32) (over func()) {
	e := chaos.Event{Kind: chaos.FaultBegins, Code: uint8(chaos.Reset), Proc: proc}
	w.tell(e)
	e.Kind = chaos.FaultEnds
	return func() { w.tell(e) }
}

// later carries out a request after a while, whatever has become of the client.
func (w *world) later(proc uint32, wait time.Duration, request func()) {
	w.ghosts.Go(func() {
		defer w.fault(proc)()
		time.Sleep(wait)
		w.server.do(request)
	})
}
