package main

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/amlun/linda/internal/chaos"
	"github.com/amlun/linda/internal/chaos/proxy"
)

// within is how long a fault waits for the bytes that are to pass before it.
const within = 500 * time.Millisecond

// inject brings about one fault after the other until ctx ends, or there is
// none left. Those that last go on beside it.
func (h *harness) inject(ctx context.Context) {
	for _, f := range h.target.spared {
		h.mix[f] = 0
	}
	if h.target.special == nil {
		h.mix[chaos.Special] = 0
	}
	plan := chaos.Plan(h.seed, h.mix, h.gap, h.lease/2)
	if h.faults != nil {
		plan = slices.Values(h.faults)
	}
	began := time.Now()
	for p := range plan {
		if !rest(ctx, time.Until(began.Add(p.At))) {
			return
		}
		if slices.Contains(h.target.spared, p.Fault) {
			continue
		}
		if h.bring(ctx, p) {
			h.mu.Lock()
			h.done = append(h.done, p)
			h.mu.Unlock()
		}
	}
}

// bring brings about a fault. It is not ok where its victim has one already.
func (h *harness) bring(ctx context.Context, p chaos.Planned) (ok bool) {
	switch p.Fault {
	case chaos.KillWorker, chaos.StopWorker, chaos.TermWorker:
		return h.hit(ctx, h.workers[int(p.Victim)%len(h.workers)], p)
	case chaos.KillProducer:
		return h.hit(ctx, h.producer, p)
	case chaos.KillServer, chaos.StopServer, chaos.Special:
		return h.hitServer(ctx, p)
	default:
		return h.hitConns(ctx, p)
	}
}

// hit does something to a process.
func (h *harness) hit(ctx context.Context, s *slot, p chaos.Planned) (ok bool) {
	if !s.busy.TryLock() {
		return false
	}
	victim, number := s.current()
	if victim == nil {
		s.busy.Unlock()
		return false
	}
	switch p.Fault {
	case chaos.KillWorker, chaos.KillProducer:
		defer s.busy.Unlock()
		h.history.Write(chaos.Event{Kind: chaos.FaultBegins, Code: uint8(p.Fault), Proc: number},
			chaos.Event{Kind: chaos.Killing, Proc: number})
		_ = victim.signal(syscall.SIGKILL) // the fault ends when the process does
	case chaos.TermWorker:
		defer s.busy.Unlock()
		h.history.Write(chaos.Event{Kind: chaos.FaultBegins, Code: uint8(p.Fault), Proc: number})
		_ = victim.signal(syscall.SIGTERM)
	case chaos.StopWorker:
		h.history.Write(chaos.Event{Kind: chaos.FaultBegins, Code: uint8(p.Fault), Proc: number})
		_ = victim.signal(sigStop)
		h.faultsOn.Go(func() {
			defer s.busy.Unlock()
			rest(ctx, 3*p.For) // up to one and a half leases
			_ = victim.signal(sigCont)
			h.history.Write(chaos.Event{Kind: chaos.FaultEnds, Code: uint8(p.Fault), Proc: number})
		})
	}
	return true
}

// hitServer does something to the server, one thing at a time.
func (h *harness) hitServer(ctx context.Context, p chaos.Planned) (ok bool) {
	if p.Fault == chaos.Special && h.target.special == nil || !h.serverOp.TryLock() {
		return false
	}
	h.history.Write(chaos.Event{Kind: chaos.FaultBegins, Code: uint8(p.Fault)})
	h.faultsOn.Go(func() {
		defer h.serverOp.Unlock()
		var err error
		switch p.Fault {
		case chaos.KillServer:
			err = h.server.Kill()
			rest(ctx, p.For/4)
			if err == nil {
				err = h.server.Restart(context.WithoutCancel(ctx))
			}
		case chaos.StopServer:
			err = h.server.Pause()
			rest(ctx, p.For)
			if err == nil {
				err = h.server.Resume()
			}
		case chaos.Special:
			once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			err = h.target.special(once, h.url)
			cancel()
		}
		h.history.Write(chaos.Event{Kind: chaos.FaultEnds, Code: uint8(p.Fault)})
		if err != nil {
			h.complain(chaos.I12, "the harness: "+p.Fault.String()+": "+err.Error())
		}
	})
	return true
}

// hitConns spoils connections: one to three of them, or all where the whole
// network is meant.
func (h *harness) hitConns(ctx context.Context, p chaos.Planned) (ok bool) {
	conns := h.proxy.Conns()
	if len(conns) == 0 {
		return false
	}
	f := proxy.Fault{After: p.Bytes, For: p.For, Within: within}
	if p.Down {
		f.Dir = proxy.Down
	}
	most := 1 + int(p.Victim>>8%3)
	switch p.Fault {
	case chaos.Reset:
		f.Kind = proxy.Reset
	case chaos.Close:
		f.Kind = proxy.Close
	case chaos.BlackHole:
		f.Kind = proxy.Hole
	case chaos.Slow:
		f.Kind, f.Late, f.After, most = proxy.Delay, time.Duration(1+p.Victim%20)*time.Millisecond, 0, len(conns)
	case chaos.Slices:
		f.Kind, f.After = proxy.Slice, 0
	}
	h.history.Write(chaos.Event{Kind: chaos.FaultBegins, Code: uint8(p.Fault)})
	for i := range min(most, len(conns)) {
		h.proxy.Inject(conns[(int(p.Victim%(1<<30))+i)%len(conns)], f)
	}
	lasts := within
	if f.Kind > proxy.Close {
		lasts += f.For
	}
	h.faultsOn.Go(func() {
		rest(ctx, lasts)
		h.history.Write(chaos.Event{Kind: chaos.FaultEnds, Code: uint8(p.Fault)})
	})
	return true
}
