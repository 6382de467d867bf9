package sim

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// mix is a hash of numbers: what the simulation draws for what they name.
func mix(numbers ...uint64) uint64 {
	x := uint64(0x9e3779b97f4a7c15)
	for _, n := range numbers {
		x ^= n + 0x9e3779b97f4a7c15
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		x ^= x >> 31
	}
	return x
}

// draws is a row of numbers that a seed and a name determine.
type draws struct{ seed, n uint64 }

func newDraws(numbers ...uint64) *draws { return &draws{seed: mix(numbers...)} }

func (d *draws) next() uint64 {
	d.n++
	return mix(d.seed, d.n)
}

// below returns a number from 0 up to and without n.
func (d *draws) below(n int) int { return int(d.next() % uint64(n)) }

// chance reports true in so many of 10,000 cases.
func (d *draws) chance(tenThousandths int) bool { return d.below(10_000) < tenThousandths }

// between returns a duration to the nanosecond, so that hardly two things
// happen at the same instant.
func (d *draws) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.next()%uint64(high-low))
}

func number(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// fate is what happens to one operation on its way.
type fate int

const (
	passes  fate = iota
	refused      // it fails before it is applied, and the client knows
	cut          // it fails before it is applied; the client cannot know
	lost         // it is applied, and its answer lost
	late         // it is applied so much later that the client may have given up
	dropped      // there is no answer until ctx ends, and it is not applied
	twice        // it is applied again, some time later
	fates
)

// journey is what one operation is to meet.
type journey struct {
	fate     fate
	up, down time.Duration
	wait     time.Duration // of late: until it is applied; of twice: until it is again
}

// answerLimit is for how long a client waits for an answer.
const answerLimit = 5 * time.Second

// journey draws the next one of an operation.
func (c *Conn) journey(op, queue string) (j journey, ok bool) {
	w := c.world
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return journey{}, false
	}
	name := op + " " + queue // two queues may be called at one instant
	c.calls[name]++
	d := newDraws(w.seed, uint64(c.proc), number(name), c.calls[name])
	j.up, j.down = d.between(50*time.Microsecond, 2*time.Millisecond), d.between(50*time.Microsecond, 2*time.Millisecond)
	trouble := w.trouble.Load()
	switch {
	case w.down.Load():
		j.fate = []fate{refused, refused, cut}[d.below(3)]
		return j, true
	case c.held.After(time.Now()):
		j.fate, j.wait = late, time.Until(c.held)+d.between(0, time.Millisecond)
		return j, true
	case !d.chance(int(trouble)):
		return j, true
	}
	j.fate = fate(1 + d.below(int(fates)-1))
	if j.fate == twice && (op == opPush || op == opFetch) {
		j.fate = lost // no broker's client sends these twice
	}
	j.wait = d.between(time.Millisecond, 100*time.Millisecond)
	if d.chance(5000) {
		j.wait = d.between(100*time.Millisecond, 2*w.lease)
	}
	return j, true
}
