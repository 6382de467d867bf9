package chaos

import (
	"hash/crc32"
	"math/rand/v2"
	"time"
)

// Class is what a job does when it runs.
type Class uint8

// The classes of jobs.
const (
	Quick    Class = iota // returns at once
	Busy                  // runs for some milliseconds
	Long                  // runs for longer than the lease
	Flaky                 // fails once or twice, and then succeeds
	Panics                // panics once, and then succeeds
	Deadly                // ends its process once, and then succeeds
	Hopeless              // fails for good
	classes
)

var classNames = [classes]string{
	Quick: "quick", Busy: "busy", Long: "long", Flaky: "flaky", Panics: "panics", Deadly: "deadly", Hopeless: "hopeless",
}

func (c Class) String() string { return classNames[c] }

// weights of the classes, in a million.
var weights = [classes]int{Busy: 30_000, Long: 100, Flaky: 15_000, Panics: 2_000, Deadly: 30, Hopeless: 300}

// Work is one job of a workload.
type Work struct {
	Class  Class
	Delay  time.Duration // of its push
	Amount int           // how long, or how often: see Class
}

// WorkOf returns the job of a number in the workload of a seed.
func WorkOf(seed uint64, number uint32) Work {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	w := Work{Class: pickClass(r.IntN(1_000_000)), Amount: 1 + r.IntN(2)}
	if w.Class == Busy {
		w.Amount = 1 + r.IntN(20)
	}
	if r.IntN(20) == 0 {
		w.Delay = time.Duration(1+r.IntN(3000)) * time.Millisecond
	}
	return w
}

func pickClass(n int) Class {
	for class, weight := range weights {
		if n < weight {
			return Class(class)
		}
		n -= weight
	}
	return Quick
}

// sum guards the arguments of a job.
func sum(seed uint64, number uint32, filler string) uint32 {
	var b [12]byte
	order.PutUint64(b[:], seed)
	order.PutUint32(b[8:], number)
	return crc32.Update(crc32.ChecksumIEEE(b[:]), crc32.IEEETable, []byte(filler))
}
