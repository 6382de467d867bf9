package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/amlun/linda/internal/chaos"
)

// goal is what a run is to reach before it ends. The zero value is reached at
// once, and asks for nothing.
type goal struct {
	jobs         int64 // acknowledged
	kills        int64 // of worker processes
	serverFaults int64 // kills and stops of the server
	resets       int64 // of connections
}

func (g goal) none() bool { return g == goal{} }

// missing names what is not reached yet.
func (g goal) missing(so goal) string {
	var parts []string
	for _, part := range []struct {
		name       string
		want, have int64
	}{
		{"acknowledged jobs", g.jobs, so.jobs}, {"killed workers", g.kills, so.kills},
		{"faults of the server", g.serverFaults, so.serverFaults}, {"connections reset", g.resets, so.resets},
	} {
		if part.have < part.want {
			parts = append(parts, fmt.Sprintf("%d of %d %s", part.have, part.want, part.name))
		}
	}
	return strings.Join(parts, ", ")
}

// possible reports whether the faults of a mix can reach the goal, as far as the
// target is not spared them.
func (g goal) possible(mix chaos.Mix, t target) error {
	for _, part := range []struct {
		want   int64
		option string
		of     []chaos.Fault
	}{
		{g.kills, "-kills", []chaos.Fault{chaos.KillWorker}},
		{g.serverFaults, "-server-faults", []chaos.Fault{chaos.KillServer, chaos.StopServer}},
		{g.resets, "-resets", []chaos.Fault{chaos.Reset}},
	} {
		able := slices.ContainsFunc(part.of, func(f chaos.Fault) bool { return mix[f] > 0 && !slices.Contains(t.spared, f) })
		if part.want > 0 && !able {
			return fmt.Errorf("%s: no such fault is brought about", part.option)
		}
	}
	return nil
}

// reached returns what the run has come to so far.
func (h *harness) reached() goal {
	so := goal{jobs: h.acked.Load()}
	h.mu.Lock()
	for _, p := range h.done {
		switch p.Fault {
		case chaos.KillWorker:
			so.kills++
		case chaos.KillServer, chaos.StopServer:
			so.serverFaults++
		}
	}
	h.mu.Unlock()
	if h.proxy != nil {
		so.resets = int64(h.proxy.Resets())
	}
	return so
}
