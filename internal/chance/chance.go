// Package chance draws what spreads processes and their tries over time. The
// simulation makes it draw the same again.
package chance

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

var source atomic.Pointer[func() uint64]

// pause is what Last does.
var pause atomic.Pointer[func(turn int)]

// SetLast makes Last call wait from now on; nil: it does nothing, as usual. It is
// for tests.
func SetLast(wait func(turn int)) {
	if wait == nil {
		pause.Store(nil)
		return
	}
	pause.Store(&wait)
}

// Last lets everything else that happens at this instant happen first, and those
// who ask for a lower turn, where time is simulated. There many goroutines wake
// at one instant, in whatever order the scheduler of Go likes; who looks at what
// the others did looks after them, and so always sees the same. Elsewhere it does
// nothing.
func Last(turn int) {
	if wait := pause.Load(); wait != nil {
		(*wait)(turn)
	}
}

// Set makes draw the source of everything drawn from now on; nil: the usual
// one. It is for tests, and draw must be safe for concurrent use.
func Set(draw func() uint64) {
	if draw == nil {
		source.Store(nil)
		return
	}
	source.Store(&draw)
}

// drawn is the source that is set.
type drawn struct{}

func (drawn) Uint64() uint64 {
	if draw := source.Load(); draw != nil {
		return (*draw)()
	}
	return rand.Uint64()
}

var generator = rand.New(drawn{})

// N returns a duration from 0 up to and without d, which is greater than 0.
func N(d time.Duration) time.Duration { return time.Duration(generator.Int64N(int64(d))) }

// Shuffle puts n things into another order.
func Shuffle(n int, swap func(i, j int)) { generator.Shuffle(n, swap) }
