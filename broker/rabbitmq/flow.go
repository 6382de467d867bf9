package rabbitmq

import (
	"context"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// linger is how long a job may wait here for a Fetch, and how long the server
// may go on sending jobs when nobody fetches. After that they are for others.
const linger = 250 * time.Millisecond

// flow is one consumer, as the server calls it. A tap that needs more opens
// another one beside it: to end one while jobs are under way on it makes
// RabbitMQ 3.10 take them back, and count them as delivered.
type flow struct {
	name string
	most int           // the server sends so many before one is settled
	open int           // guarded by the mutex of the tap: those that are not settled
	over chan struct{} // closed when no more will come
}

// want says that a Fetch waits for so many more jobs, or fewer.
func (t *tap) want(n int) {
	t.mu.Lock()
	t.wanted += n
	t.last = time.Now()
	tell := n > 0 && (t.short() || t.wanted == n)
	t.mu.Unlock()
	if tell {
		t.tell()
	}
}

func (t *tap) tell() {
	select {
	case t.asked <- struct{}{}:
	default: // it is being told already
	}
}

// short reports whether the server may send much less than is wanted. It needs
// mu.
func (t *tap) short() bool {
	room, total := t.room()
	return len(t.flows) == 0 || room < t.wanted-len(t.waiting) && total < t.most && room < (t.wanted+1)/2
}

// room returns how many jobs the server may send now, and how many while none
// is settled. It needs mu.
func (t *tap) room() (room, total int) {
	for _, f := range t.flows {
		room, total = room+f.most-f.open, total+f.most
	}
	return room, total
}

// add takes in what the server has sent.
func (t *tap) add(d *delivery) {
	t.mu.Lock()
	if d.flow != nil {
		d.flow.open++
	}
	t.waiting = append(t.waiting, d)
	close(t.more)
	t.more = newSignal()
	tell := t.wanted == 0
	t.mu.Unlock()
	if tell {
		t.tell()
	}
}

// tend asks the server to send jobs while a Fetch waits, and to stop when none
// does any more. It ends with the channel, or when life does.
func (t *tap) tend(life context.Context) {
	look := time.NewTimer(linger)
	defer look.Stop()
	for {
		var rested chan struct{}
		select {
		case <-t.gone:
			return
		case <-life.Done():
			return
		case rested = <-t.rests:
		case <-t.asked:
		case <-look.C:
		}
		t.mu.Lock()
		now := time.Now()
		short := t.wanted > 0 && t.short()
		idle := t.wanted == 0 && (rested != nil || now.Sub(t.last) >= linger)
		stale := len(t.waiting) > 0 && now.Sub(t.waiting[0].came) >= linger
		busy := len(t.flows) > 0 || len(t.waiting) > 0
		t.mu.Unlock()
		switch {
		case short:
			t.start()
		case idle || stale:
			t.stop()
			t.giveAway()
		}
		if rested != nil {
			close(rested)
		}
		if busy {
			look.Reset(linger / 2)
		}
	}
}

// start has the server send as many jobs as are wanted.
func (t *tap) start() {
	t.mu.Lock()
	room, total := t.room()
	n := min(t.wanted-len(t.waiting)-room, t.most-total)
	if n <= 0 || t.closed {
		t.mu.Unlock()
		return
	}
	f := &flow{name: newName(), most: n, over: newSignal()}
	t.flows = append(t.flows, f)
	t.mu.Unlock()
	defer t.limit()()
	err := t.ch.Qos(f.most, 0, false)
	var deliveries <-chan amqp.Delivery
	if err == nil {
		deliveries, err = t.ch.Consume(t.from, f.name, false, false, false, false, nil)
	}
	if err != nil {
		close(f.over)
		t.end()
		return
	}
	go func() {
		defer close(f.over)
		for m := range deliveries {
			t.add(newDelivery(t, f, &m))
		}
		t.mu.Lock()
		ours := !slices.Contains(t.flows, f)
		t.mu.Unlock()
		if !ours { // the queue was deleted, or its node is gone
			t.end()
		}
	}()
}

// stop ends the flows, and returns when no more comes of them.
func (t *tap) stop() {
	t.mu.Lock()
	flows := t.flows
	t.flows = nil
	t.mu.Unlock()
	if len(flows) == 0 {
		return
	}
	defer t.limit()()
	for _, f := range flows {
		if err := t.ch.Cancel(f.name, false); err != nil {
			t.end()
		}
		<-f.over
	}
}

// silence is how long the server may leave a question about a tap without an
// answer, before its link is taken for broken.
const silence = 10 * time.Second

// limit breaks the link unless it is undone in time.
func (t *tap) limit() (undo func()) {
	timer := time.AfterFunc(silence, func() { _ = t.link.socket.Close() })
	return func() { timer.Stop() }
}

// rest gives away the jobs that nobody has asked for, unless a Fetch waits.
func (t *tap) rest(ctx context.Context) {
	rested := newSignal()
	select {
	case t.rests <- rested:
	case <-t.gone:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-rested:
	case <-t.gone:
	case <-ctx.Done():
	}
}

// giveAway hands the jobs that nobody has asked for to others.
func (t *tap) giveAway() {
	t.mu.Lock()
	jobs := t.waiting
	t.waiting = nil
	t.mu.Unlock()
	if len(jobs) > 0 {
		t.shed(t, jobs)
	}
}
