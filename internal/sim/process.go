package sim

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/chaos"
)

// process is one worker process: a Dispatcher on a connection of its own.
type process struct {
	world  *world
	proc   uint32
	conn   *Conn
	d      *linda.Dispatcher
	cancel context.CancelFunc
	ended  chan error
}

// processes are those that live.
type processes struct {
	world *world
	all   []*process
	gone  []*process // crashed; what is left of them must end too
}

func (w *world) start(n int) *processes {
	ps := &processes{world: w}
	for range n {
		ps.begin()
	}
	return ps
}

func (w *world) newProc() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs++
	return w.procs
}

// begin starts one more process.
func (ps *processes) begin() {
	w := ps.world
	p := &process{world: w, proc: w.newProc(), ended: make(chan error, 1)}
	d := newDraws(w.seed, number("process"), uint64(p.proc))
	time.Sleep(d.between(time.Millisecond, time.Second))
	p.conn = newConn(w, p.proc)
	p.d = w.dispatcher(p.conn, 1+d.below(6))
	p.handlers()
	p.schedules()
	w.tell(chaos.Event{Kind: chaos.Began, Proc: p.proc, Code: chaos.Worker})
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	go func() { p.ended <- p.d.Run(ctx) }()
	ps.all = append(ps.all, p)
}

func (w *world) dispatcher(c *Conn, concurrency int) *linda.Dispatcher {
	d, err := linda.New(linda.Settings{
		Queues: []linda.Share{{Queue: urgent}, {Queue: queue}}, Queue: queue, Strict: true,
		Broker: c, Timeout: int64(w.lease / time.Second), Concurrency: concurrency, MaxCrashes: maxCrashes, Grace: w.lease,
		Backoff: func(failures int) time.Duration { return time.Duration(failures) * 3 * time.Second },
		Logger:  slog.New(slog.DiscardHandler),
	})
	must(err)
	return d
}

// crash ends a process as SIGKILL does: nothing of it reaches the server any
// more, and nobody hears of it. Another one begins.
func (ps *processes) crash(i int) {
	p := ps.all[i]
	w := ps.world
	w.tell(chaos.Event{Kind: chaos.Killing, Proc: p.proc}, chaos.Event{Kind: chaos.FaultBegins, Code: uint8(chaos.KillWorker), Proc: p.proc})
	p.conn.die()
	w.server.leave(errGone, func(w *wait) bool { return w.conn == p.conn })
	p.cancel()
	time.Sleep(10 * time.Millisecond) // what had left it is there
	w.tell(chaos.Event{Kind: chaos.Ended, Proc: p.proc})
	ps.all = slices.Delete(ps.all, i, i+1)
	ps.gone = append(ps.gone, p)
	ps.begin()
}

// restart ends a process as SIGTERM does, and begins another one.
func (ps *processes) restart(i int) {
	p := ps.all[i]
	w := ps.world
	fault := chaos.Event{Kind: chaos.FaultBegins, Code: uint8(chaos.TermWorker), Proc: p.proc}
	w.tell(fault)
	_ = p.stop() // a StopError, if the broker fails
	w.tell(chaos.Event{Kind: chaos.Ended, Proc: p.proc})
	ps.all = slices.Delete(ps.all, i, i+1)
	ps.begin()
}

// stop tells a process to end, and waits until it has.
func (p *process) stop() error {
	p.cancel()
	begin := time.Now()
	err := <-p.ended
	if took := time.Since(begin); took > p.world.lease+250*time.Millisecond {
		p.world.find("process %d took %v to stop", p.proc, took)
	}
	must(p.d.Close())
	return err
}

// stop ends all processes, with nothing left undone.
func (ps *processes) stop() {
	for _, p := range ps.all {
		if err := p.stop(); err != nil {
			ps.world.find("process %d: %v", p.proc, err)
		}
		ps.world.tell(chaos.Event{Kind: chaos.Ended, Proc: p.proc})
	}
	for _, p := range ps.gone {
		<-p.ended
		must(p.d.Close())
	}
}

// spoil brings about faults until no more jobs are pushed.
func (w *world) spoil(d *draws, ps *processes, base int) {
	end := w.epoch.Add(pushFor)
	mean := []time.Duration{30 * time.Second, 2 * time.Minute, 6 * time.Minute}[d.below(3)]
	for {
		time.Sleep(d.between(time.Second, 2*mean))
		if !time.Now().Before(end) {
			return
		}
		i := d.below(len(ps.all))
		switch n := d.below(100); {
		case n < 35:
			ps.crash(i)
		case n < 50:
			ps.restart(i)
		case n < 70:
			over := w.fault(ps.all[i].proc)
			last := d.between(time.Second, 2*w.lease)
			ps.all[i].conn.hold(time.Now().Add(last))
			time.Sleep(last)
			over()
		case n < 85:
			over := w.fault(0)
			w.down.Store(true)
			w.server.leave(errBroken, func(*wait) bool { return true })
			time.Sleep(d.between(100*time.Millisecond, 3*w.lease/2))
			w.down.Store(false)
			over()
		default:
			w.trouble.Store(int64(500 + d.below(3000)))
			time.Sleep(d.between(5*time.Second, time.Minute))
			w.trouble.Store(int64(base))
		}
	}
}

// produce pushes jobs, in bursts.
func (w *world) produce() {
	d := newDraws(w.seed, number("producer"))
	c := newConn(w, w.newProc())
	p := w.dispatcher(c, 1)
	defer func() { must(p.Close()) }()
	c.tell(chaos.Event{Kind: chaos.Began, Code: chaos.Producer})
	mean := []time.Duration{10 * time.Second, 20 * time.Second, 60 * time.Second}[d.below(3)]
	for end := w.epoch.Add(pushFor); ; {
		time.Sleep(d.between(time.Millisecond, 2*mean))
		if !time.Now().Before(end) {
			return
		}
		n := 1 + d.below(4)
		if d.chance(500) {
			n += d.below(60)
		}
		w.push(p, c, n)
	}
}

// push pushes the next n jobs and writes down what becomes of them.
func (w *world) push(p *linda.Dispatcher, c *Conn, n int) {
	jobs, events := make([]*linda.Job, n), make([]chaos.Event, n)
	for i := range jobs {
		w.mu.Lock()
		number := w.newNumber()
		w.mu.Unlock()
		jobs[i] = w.job(number)
		events[i] = chaos.Event{Kind: chaos.PushCalled, Job: number, Value: int64(jobs[i].Delay), Code: codeOf(w.workOf(number).class)}
	}
	c.tell(events...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for i, err := range linda.EachError(p.PushBatch(ctx, jobs), n) {
		events[i].Value = 0
		switch {
		case err == nil:
			events[i].Kind = chaos.Pushed
		case errors.Is(err, linda.ErrUnknown):
			events[i].Kind = chaos.PushUnknown
		default:
			events[i].Kind = chaos.PushRefused
		}
	}
	c.tell(events...)
}

const tickClass = "tick"

// cronSpecs are the schedules that all processes have, each with what becomes
// of missed ticks.
var cronSpecs = map[string]struct {
	spec   string
	every  time.Duration
	missed linda.MissedPolicy
}{
	"often": {"@every 90s", 90 * time.Second, linda.MissedAll},
	"cron":  {"*/7 * * * *", 0, linda.MissedOnce},
}

func (p *process) schedules() {
	for _, name := range []string{"cron", "often"} {
		s := cronSpecs[name]
		must(p.d.Schedule(name, s.spec, &linda.Job{Payload: linda.Payload{Class: tickClass}}, linda.Missed(s.missed)))
	}
}

// ticked is told that the server has added the job of a tick.
func (w *world) ticked(t linda.Tick) {
	w.mu.Lock()
	n := w.newNumber()
	w.numbers[t.Job.ID] = n
	row := w.ticks[t.Schedule]
	w.ticks[t.Schedule] = append(row, t.At)
	w.mu.Unlock()
	now := time.Now()
	switch {
	case len(row) > 0 && !t.At.After(row[len(row)-1]):
		w.find("schedule %s: tick %v was pushed after %v", t.Schedule, t.At, row[len(row)-1])
	case t.At.After(now):
		w.find("schedule %s: tick %v was pushed early", t.Schedule, t.At)
	}
	w.tell(chaos.Event{Kind: chaos.PushCalled, Job: n, Value: int64(t.At.Sub(now))}, chaos.Event{Kind: chaos.Pushed, Job: n})
}

// checkTicks judges whether a schedule that leaves none out has left none out.
func (w *world) checkTicks() {
	row := w.ticks["often"]
	every := cronSpecs["often"].every
	for i := 1; i < len(row); i++ {
		if row[i].Sub(row[i-1]) != every {
			w.find("schedule often: nothing between %v and %v", row[i-1], row[i])
		}
	}
	if want := int((lasts - 2*time.Minute) / every); len(row) < want {
		w.find("schedule often: %d ticks, want at least %d", len(row), want)
	}
}
