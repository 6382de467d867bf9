package chaos

// Fault is a kind of failure that the harness brings about.
type Fault uint8

// The kinds of faults.
const (
	KillWorker   Fault = iota // SIGKILL; another one begins
	StopWorker                // SIGSTOP, and SIGCONT after a while
	TermWorker                // SIGTERM, as at a deployment; another one begins
	KillProducer              // SIGKILL; another one goes on
	KillServer                // SIGKILL, and a new start after a while
	StopServer                // SIGSTOP, and SIGCONT after a while
	Reset                     // connections are reset, each after some more bytes
	Close                     // connections are closed, each after some more bytes
	BlackHole                 // connections stay open, and let nothing through for a while
	Slow                      // everything is late
	Slices                    // everything comes in small pieces
	Special                   // what only this broker knows: a Redis forgets its scripts
	faultKinds
)

var faultNames = [faultKinds]string{
	KillWorker: "worker killed", StopWorker: "worker stopped", TermWorker: "worker ended", KillProducer: "producer killed",
	KillServer: "server killed", StopServer: "server stopped", Reset: "connection reset", Close: "connection closed",
	BlackHole: "black hole", Slow: "slow network", Slices: "network in slices", Special: "special",
}

func (f Fault) String() string { return faultNames[f] }

// ofWorker reports whether the fault is about one process.
func (f Fault) ofWorker() bool { return f <= KillProducer }

// faultSpan is one fault from its beginning to its end.
type faultSpan struct {
	kind     Fault
	victim   uint32
	from, to int64 // to: 0 while it lasts
}

// faults are those that have been so far, in the order of their beginning.
type faults struct {
	spans    []faultSpan
	longest  int64
	healedAt int64
}

func (f *faults) begin(e Event) {
	f.spans = append(f.spans, faultSpan{kind: Fault(e.Code), victim: e.Proc, from: e.At})
}

// ended is told that a process has: until then one that was killed may have
// done something.
func (f *faults) ended(e Event) {
	for _, kind := range []Fault{KillWorker, KillProducer, TermWorker} {
		f.end(Event{At: e.At, Proc: e.Proc, Code: uint8(kind)})
	}
}

func (f *faults) end(e Event) {
	for i := len(f.spans) - 1; i >= 0; i-- {
		s := &f.spans[i]
		if s.to == 0 && s.kind == Fault(e.Code) && s.victim == e.Proc {
			s.to = e.At
			f.longest = max(f.longest, s.to-s.from)
			return
		}
	}
}

// during reports whether a fault that is meant was there at some time between
// from and to.
func (f *faults) during(from, to int64, meant func(faultSpan) bool) bool {
	for i := len(f.spans) - 1; i >= 0; i-- {
		s := f.spans[i]
		if s.from <= to && (s.to == 0 || s.to >= from) && meant(s) {
			return true
		}
		if f.over(s, from) {
			return false
		}
	}
	return false
}

// over reports whether neither s nor what began before it can reach from.
func (f *faults) over(s faultSpan, from int64) bool {
	const most = int64(60e9) // of one that has not ended yet
	return s.from < from-max(f.longest, most)
}

func (f *faults) any(from, to int64) bool {
	return f.during(from, to, func(faultSpan) bool { return true })
}

func (f *faults) stopped(proc uint32, from, to int64) bool {
	return f.during(from, to, func(s faultSpan) bool { return s.kind == StopWorker && s.victim == proc })
}

// outage reports whether the server or the network failed.
func (f *faults) outage(from, to int64) bool {
	return f.during(from, to, func(s faultSpan) bool { return !s.kind.ofWorker() })
}

// delays reports whether there was a fault that makes everybody wait, or a
// worker that was stopped and may hold what others wait for.
func (f *faults) delays(from, to int64) bool {
	return f.during(from, to, func(s faultSpan) bool {
		return s.kind == KillServer || s.kind == StopServer || s.kind == StopWorker || s.kind == BlackHole
	})
}

func (f *faults) server(from, to int64) bool {
	return f.during(from, to, func(s faultSpan) bool { return s.kind == KillServer || s.kind == StopServer })
}
