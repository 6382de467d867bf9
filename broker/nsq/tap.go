package nsq

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

const (
	// ahead is how long before it is due a delayed message is asked for: the
	// server looks for those that are due ten times a second. It waits here.
	ahead = 250 * time.Millisecond
	// ripe is how long a message that is not due yet may wait here. One that
	// has to wait longer is put back.
	ripe = 500 * time.Millisecond
	// linger is how long a job may wait here for a Fetch. After that it is for
	// others.
	linger = 250 * time.Millisecond
	// quiet is how long nothing comes before the server is made to send what
	// it may still have in its buffer.
	quiet = 3 * time.Millisecond
	// spare is how many messages that are not due yet are held beside those
	// that are wanted, and moving how many may be on their way back.
	spare  = 16
	moving = 1000
)

// tap is where the jobs of a queue come from: a feed for each server. The
// servers send no more than the Fetches under way have asked for, beside what
// is in work.
//
// One goroutine does what is to be done in time; see tend.
type tap struct {
	broker     *broker
	queue      string
	topic      string
	msgTimeout time.Duration
	asked      chan struct{} // told when there may be something to tend

	mu      sync.Mutex
	feeds   []*feed       // guarded by mu, as all below
	waiting []*delivery   // jobs that nobody has asked for yet
	early   []*delivery   // that are not due yet, the first that is due first
	leaving int           // on their way back to the server
	wanted  int           // how many jobs the Fetches under way wait for
	news    chan struct{} // closed when there are more of waiting, or a feed has opened or failed
	lookAt  time.Time     // when tend looks again; zero: when it is told
	looking bool          // it does so now, and needs not be told
	closed  bool
}

// delivery is a message in the hands of this process, and the token of its
// receipt.
type delivery struct {
	feed *feed
	id   messageID
	job  *linda.Job
	body string // as it was stored
	past int64  // deliveries that the server has counted before this one
	came time.Time
	due  time.Time // zero: it is

	waits time.Time // guarded by the mutex of the tap: since when nobody has asked for it

	touched time.Time // guarded by the mutex of the tap: when the server was last told that it is in work
	over    bool      // guarded by the mutex of the tap: it is settled, or lost

	receipt atomic.Pointer[linda.Receipt] // nil: it was not handed out yet

	mu      sync.Mutex
	outcome *outcome // guarded by mu: of the last settlement
}

// newDelivery reads a message.
func newDelivery(f *feed, m *message) *delivery {
	now := time.Now()
	d := &delivery{feed: f, id: m.id, body: m.body, past: int64(m.attempts) - 1, came: now, waits: now, touched: now}
	d.job, _ = linda.Decode(f.tap.queue, m.body)
	d.job.Redelivered(d.past + 1)
	if due := d.job.Due(); due.After(now) {
		d.due = due
	}
	return d
}

func (t *tap) tell() {
	select {
	case t.asked <- struct{}{}:
	default: // it is being told already
	}
}

// later has tend look at a time. It needs mu.
func (t *tap) later(at time.Time) {
	if t.lookAt.IsZero() || at.Before(t.lookAt) {
		t.lookAt = at
		if !t.looking {
			t.tell()
		}
	}
}

// announce wakes those who wait for news. It needs mu.
func (t *tap) announce() {
	close(t.news)
	t.news = make(chan struct{})
}

// want says that a Fetch waits for so many more jobs, or fewer.
func (t *tap) want(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted += n
	t.adjust()
	if t.wanted == 0 && len(t.waiting) > 0 {
		t.later(t.waiting[0].waits.Add(linger))
	}
}

// take returns up to max jobs that are here, a channel that is closed when there
// is news, and why there can be none.
func (t *tap) take(max int) ([]*delivery, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(max, len(t.waiting))
	jobs := slices.Clone(t.waiting[:n])
	t.waiting = t.waiting[n:]
	if len(t.waiting) == 0 {
		t.waiting = nil
	}
	return jobs, t.news, t.down()
}

// down tells why no server sends anything, nil if one does, or may soon. It
// needs mu.
func (t *tap) down() error {
	var err error
	for _, f := range t.feeds {
		if f.conn != nil || f.down == nil {
			return nil
		}
		err = f.down
	}
	return err
}

// adjust tells every server how much to send. It needs mu.
func (t *tap) adjust() {
	for _, f := range t.feeds {
		if f.conn == nil {
			continue
		}
		if n := t.ready(f); n != f.rdy {
			f.rdy = n
			_ = f.conn.send(func(out []byte) []byte { return appendRDY(out, n) })
			if f.window > 1 && t.missing() > 0 {
				t.later(time.Now().Add(quiet))
			}
		}
	}
}

// missing is how many jobs are wanted and not here. It needs mu.
func (t *tap) missing() int {
	if len(t.early) > t.wanted+spare || t.leaving > moving || t.closed {
		return 0
	}
	return max(0, t.wanted-len(t.waiting))
}

// ready is how many messages a server may have sent that are not settled. It
// needs mu.
func (t *tap) ready(f *feed) int {
	open := 0
	for _, other := range t.feeds {
		if other.conn != nil {
			open++
		}
	}
	share := (t.missing() + open - 1) / max(open, 1)
	return min(len(f.held)+min(share, f.window), f.server.known().maxRdy, t.broker.config.maxInFlight)
}

// add takes in what a server has sent.
func (t *tap) add(f *feed, ds []*delivery) {
	t.mu.Lock()
	var replaced []*delivery
	var back []*delivery
	now := time.Now()
	if len(f.held)+len(ds) >= f.rdy {
		f.window = anyNumber
	}
	f.arrived = now
	fresh := 0
	for _, d := range ds {
		if f.done.has(d.id) {
			// It was finished here, but too late: the server had given up waiting.
			f.finishAgain(d.id)
			continue
		}
		if old := f.held[d.id]; old != nil {
			old.over = true
			replaced = append(replaced, old)
		}
		f.held[d.id] = d
		switch {
		case t.closed:
			back = append(back, d)
		case d.due.IsZero():
			t.waiting = append(t.waiting, d)
			fresh++
		case d.due.Sub(now) <= ripe, now.Sub(f.opened) < youth && d.due.Sub(now) <= min(youth, f.timeout/2) && len(t.early) < t.wanted+spare:
			t.insert(d)
		default:
			back = append(back, d)
		}
	}
	if len(replaced) > 0 {
		over := func(d *delivery) bool { return d.over }
		t.waiting, t.early = slices.DeleteFunc(t.waiting, over), slices.DeleteFunc(t.early, over)
	}
	t.leaving += len(back)
	t.adjust()
	if fresh > 0 {
		t.announce()
		if t.wanted == 0 && len(t.waiting) > 0 {
			t.later(t.waiting[0].waits.Add(linger))
		}
	}
	t.mu.Unlock()
	if len(replaced) > 0 {
		t.broker.lose(func(d *delivery) bool { return slices.Contains(replaced, d) })
	}
	t.broker.giveBack(t, back)
}

// insert adds a job that is not due yet. It needs mu.
func (t *tap) insert(d *delivery) {
	at, _ := slices.BinarySearchFunc(t.early, d, func(a, b *delivery) int { return a.due.Compare(b.due) })
	t.early = slices.Insert(t.early, at, d)
	t.later(t.early[0].due)
}

// tend hands over what has become due, gives away what nobody asks for, and
// makes the server send what it has. It ends when life does.
func (t *tap) tend(life context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-life.Done():
			return
		case <-t.asked:
		case <-timer.C:
		}
		t.mu.Lock()
		back := t.look(time.Now())
		at := t.lookAt
		t.leaving += len(back)
		t.mu.Unlock()
		t.broker.giveBack(t, back)
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
	}
}

// look does what is to be done by now, sets when to look again, and returns the
// jobs that are to be given back. It needs mu.
func (t *tap) look(now time.Time) (back []*delivery) {
	t.lookAt, t.looking = time.Time{}, true
	defer func() { t.looking = false }()
	due := 0
	for due < len(t.early) && !t.early[due].due.After(now) {
		t.early[due].waits = now
		due++
	}
	if due > 0 {
		t.waiting = append(t.waiting, t.early[:due]...)
		t.early = slices.Clone(t.early[due:])
		t.announce()
	}
	stale := 0
	for stale < len(t.waiting) && now.Sub(t.waiting[stale].waits) >= linger {
		stale++
	}
	back = slices.Clone(t.waiting[:stale])
	t.waiting = t.waiting[stale:]
	for _, f := range t.feeds {
		if f.conn == nil || f.window == 1 || t.missing() == 0 {
			continue
		}
		if at := f.arrived.Add(quiet); at.After(now) {
			t.later(at)
		} else {
			f.window = 1
		}
	}
	t.adjust()
	if len(t.early) > 0 {
		t.later(t.early[0].due)
	}
	if len(t.waiting) > 0 {
		t.later(t.waiting[0].waits.Add(linger))
	}
	return back
}

// end ends deliveries by a command for each, and returns those that had ended
// before: to them the server must not be told anything.
func (t *tap) end(ds []*delivery, command func(out []byte, d *delivery) []byte) (before []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := make(map[*feed][]*delivery, 1)
	now := time.Now()
	for _, d := range ds {
		if d.dropped(now) {
			before = append(before, d)
			continue
		}
		rows[d.feed] = append(rows[d.feed], d)
	}
	for f, row := range rows {
		for _, d := range row {
			d.over = true
			delete(f.held, d.id)
		}
		if err := t.endRow(f, row, command); err != nil {
			before = append(before, row...)
			f.conn.fail(err)
		}
	}
	return before
}

// endRow sends the commands. Where fewer messages are to be in flight from now
// on, the server is told before, lest it sends more. It needs mu.
func (t *tap) endRow(f *feed, row []*delivery, command func([]byte, *delivery) []byte) error {
	n := t.ready(f)
	return f.conn.send(func(out []byte) []byte {
		if n < f.rdy {
			out = appendRDY(out, n)
		}
		for _, d := range row {
			out = command(out, d)
		}
		if n > f.rdy {
			out = appendRDY(out, n)
		}
		f.rdy = n
		f.told += uint64(len(row))
		return out
	})
}

// dropped reports whether a delivery has ended, and ends one that the server may
// have taken back: to settle that could hit the next delivery of the message.
// It needs the mutex of the tap.
func (d *delivery) dropped(now time.Time) bool {
	if !d.over && d.stale(now) {
		d.over = true
		delete(d.feed.held, d.id)
	}
	return d.over
}

// stale reports whether the server may have taken a message back, since it was
// last told that it is in work. It needs the mutex of the tap.
func (d *delivery) stale(now time.Time) bool {
	until := d.touched.Add(d.feed.timeout)
	if last := d.came.Add(d.feed.server.known().maxMsgTimeout); last.Before(until) {
		until = last
	}
	return now.After(until.Add(-margin))
}

var errClosing = errors.New("closing")
