package chaos

import (
	"iter"
	"math/rand/v2"
	"time"
)

// Planned is a fault and when to bring it about.
type Planned struct {
	At     time.Duration // since the first worker began
	Fault  Fault
	Victim uint32        // which of the workers or connections: a number to take the remainder of
	For    time.Duration // how long it lasts, of those that last
	Bytes  int64         // of faults of connections: after how many
	Down   bool          // counted in the answers of the server, else in what the clients send
}

// Mix says how often each kind of fault is to come, compared with the others.
type Mix [faultKinds]int

// DefaultMix has faults of all kinds, but for the special ones of a broker.
var DefaultMix = Mix{
	KillWorker: 36, StopWorker: 8, TermWorker: 4, KillProducer: 2, KillServer: 4, StopServer: 4,
	Reset: 24, Close: 6, BlackHole: 4, Slow: 3, Slices: 3, Special: 2,
}

// Plan yields the faults of a seed for ever, a mean gap apart. Those that last
// do so for up to most.
func Plan(seed uint64, mix Mix, gap, most time.Duration) iter.Seq[Planned] {
	total := 0
	for _, weight := range mix {
		total += weight
	}
	return func(yield func(Planned) bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		var at time.Duration
		for total > 0 {
			at += time.Duration(r.ExpFloat64() * float64(gap))
			p := Planned{At: at, Fault: pickFault(mix, r.IntN(total)), Victim: r.Uint32()}
			p.For = 50*time.Millisecond + time.Duration(r.Int64N(int64(most)))
			p.Bytes = int64(r.ExpFloat64() * 2000)
			p.Down = r.IntN(2) == 0
			if !yield(p) {
				return
			}
		}
	}
}

func pickFault(mix Mix, n int) Fault {
	for f, weight := range mix {
		if n < weight {
			return Fault(f)
		}
		n -= weight
	}
	panic("chaos: a number beyond the sum of the weights")
}
