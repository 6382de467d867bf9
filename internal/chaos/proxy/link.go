package proxy

import (
	"cmp"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection, of two halves.
type link struct {
	ends [2]*net.TCPConn // by the direction that they send: the client, the server
	done chan struct{}   // closed when it is cut
	cuts *atomic.Int64   // those of the proxy

	mu     sync.Mutex
	passed [2]int64      // guarded by mu, as all below: bytes by direction
	faults [2][]planned  // to come, in the order of at
	spells [2][]spell    // that last
	healed chan struct{} // closed, and replaced, by heal
	timers []*time.Timer // of cuts that happen at the latest then
	seq    int           // of the last id
	isCut  bool
	reset  bool
}

// planned is a fault and the byte at which it happens.
type planned struct {
	Fault
	at      int64
	expires time.Time // zero: never
	id      int       // of one that happens at the latest after Within; 0 for others
}

// spell is a fault that lasts.
type spell struct {
	Fault
	until time.Time // zero: for ever
}

func newLink(client, server *net.TCPConn, cuts *atomic.Int64) *link {
	return &link{ends: [2]*net.TCPConn{Up: client, Down: server}, done: make(chan struct{}), cuts: cuts, healed: make(chan struct{})}
}

// add plans a fault. What needs no byte to pass first happens at once.
func (l *link) add(f Fault) {
	l.mu.Lock()
	at := l.passed[f.Dir] + f.After
	if f.After <= 0 && f.Kind <= Close {
		l.mu.Unlock()
		l.spoil(f.Kind == Reset)
		return
	}
	defer l.mu.Unlock()
	next := planned{Fault: f, at: at}
	switch {
	case f.Within > 0 && f.Kind <= Close:
		l.seq++
		next.id = l.seq
		l.timers = append(l.timers, time.AfterFunc(f.Within, func() { l.cutLate(f, next.id) }))
	case f.Within > 0:
		next.expires = time.Now().Add(f.Within)
	}
	fs := append(l.faults[f.Dir], next)
	slices.SortStableFunc(fs, func(a, b planned) int { return cmp.Compare(a.at, b.at) })
	l.faults[f.Dir] = fs
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults, l.spells = [2][]planned{}, [2][]spell{}
	close(l.healed)
	l.healed = make(chan struct{})
}

// cutLate cuts for a fault that has waited for long enough, unless it was taken
// back.
func (l *link) cutLate(f Fault, id int) {
	l.mu.Lock()
	waits := slices.ContainsFunc(l.faults[f.Dir], func(p planned) bool { return p.id == id })
	l.mu.Unlock()
	if waits {
		l.spoil(f.Kind == Reset)
	}
}

func (l *link) wasReset() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reset
}

// spoil cuts the connection for a fault.
func (l *link) spoil(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isCut {
		l.cuts.Add(1) // before the ends can see it
	}
	l.cutLocked(reset)
}

// cut ends the connection, by an RST to both ends or by a FIN.
func (l *link) cut(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutLocked(reset)
}

// cutLocked is cut. It needs mu.
func (l *link) cutLocked(reset bool) {
	if l.isCut {
		return
	}
	l.isCut, l.reset = true, reset
	close(l.done)
	for _, t := range l.timers {
		t.Stop()
	}
	for _, c := range l.ends {
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

// pump forwards what comes in a direction until either end is closed.
func (l *link) pump(dir Direction) {
	from, to := l.ends[dir], l.ends[1-dir]
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			allowed, ok := l.next(dir, len(rest))
			if !ok {
				return
			}
			if _, err := to.Write(rest[:allowed]); err != nil {
				l.cut(false)
				return
			}
			l.pass(dir, allowed)
			rest = rest[allowed:]
		}
		if err != nil {
			l.cut(false)
			return
		}
	}
}

// pass counts bytes that have passed, and cuts where the plan says so, without
// waiting for the next one.
func (l *link) pass(dir Direction, n int) {
	l.mu.Lock()
	l.passed[dir] += int64(n)
	l.expire(dir)
	due := len(l.faults[dir]) > 0 && l.faults[dir][0].at <= l.passed[dir] && l.faults[dir][0].Kind <= Close
	reset := due && l.faults[dir][0].Kind == Reset
	l.mu.Unlock()
	if due {
		l.spoil(reset)
	}
}

// next waits as the faults of a direction want, and returns how many of the
// bytes may pass then; it is not ok once the connection is cut.
func (l *link) next(dir Direction, n int) (allowed int, ok bool) {
	for {
		wait, healed, n := l.rule(dir, n)
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-healed:
			case <-l.done:
			}
			timer.Stop()
		}
		select {
		case <-l.done:
			return 0, false
		default:
		}
		if n > 0 {
			return n, true
		}
	}
}

// expire takes back the faults that have waited for too long. The caller holds
// mu.
func (l *link) expire(dir Direction) {
	if len(l.faults[dir]) == 0 {
		return
	}
	now := time.Now()
	l.faults[dir] = slices.DeleteFunc(l.faults[dir], func(f planned) bool { return !f.expires.IsZero() && now.After(f.expires) })
}

// holeLook is how often a hole without end is looked at.
const holeLook = time.Minute

// rule returns how long to wait before how many bytes pass; 0 bytes: ask again
// then.
func (l *link) rule(dir Direction, n int) (wait time.Duration, healed chan struct{}, allowed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.expire(dir)
	for len(l.faults[dir]) > 0 {
		f := l.faults[dir][0]
		if f.at > l.passed[dir] {
			n = int(min(int64(n), f.at-l.passed[dir]))
			break
		}
		l.faults[dir] = l.faults[dir][1:]
		s := spell{Fault: f.Fault}
		if f.For > 0 {
			s.until = now.Add(f.For)
		}
		l.spells[dir] = append(l.spells[dir], s)
	}
	l.spells[dir] = slices.DeleteFunc(l.spells[dir], func(s spell) bool { return !s.until.IsZero() && !now.Before(s.until) })
	for _, s := range l.spells[dir] {
		switch {
		case s.Kind == Hole && s.until.IsZero():
			return holeLook, l.healed, 0
		case s.Kind == Hole:
			return s.until.Sub(now), l.healed, 0
		case s.Kind == Delay:
			wait = max(wait, s.Late)
		case s.Kind == Slice:
			n = min(n, 1+int(l.passed[dir]%8))
		}
	}
	return wait, l.healed, n
}
