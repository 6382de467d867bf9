package nsq

import (
	"context"
	"slices"
	"time"
)

const (
	// anyNumber is a window that bounds nothing.
	anyNumber = 1 << 30
	// margin is how long before the server may take a message back it is not
	// settled any more.
	margin = 50 * time.Millisecond
)

// feed is the subscription of a tap to one server: a connection, and the next
// one when it is gone.
//
// The server keeps what it sends in a buffer, unless as much is in flight as it
// was allowed. So a feed that waits on an empty queue allows it one message
// more, which comes at once; when that has come it allows as many as are
// wanted, and when nothing comes any more, one again.
type feed struct {
	tap    *tap
	server *server

	batch []*delivery // that have come; of the goroutine that reads

	// All below is guarded by the mutex of the tap.
	conn    *conn         // nil: not connected
	over    chan struct{} // closed when conn is gone, and all of it was dealt with
	timeout time.Duration
	held    map[messageID]*delivery
	done    recent
	rdy     int // as the server was last told
	window  int // how many more than are held the server may send
	opened  time.Time
	arrived time.Time
	told    uint64 // how many FIN and REQ were sent
	refusal uint64 // how many of them failed
	down    error  // why it is not connected
}

// run keeps a feed connected until its life ends.
func (f *feed) run(life context.Context) {
	for life.Err() == nil {
		over, err := f.open(life)
		if err == nil {
			select {
			case <-over:
				continue
			case <-life.Done():
				return
			}
		}
		f.tap.mu.Lock()
		f.down = err
		f.tap.announce()
		f.tap.mu.Unlock()
		if !sleep(life, max(f.server.wait(), firstPause)) {
			return
		}
	}
}

// open connects and subscribes. It returns a channel that is closed when the
// connection is gone, and the feed knows.
func (f *feed) open(life context.Context) (over <-chan struct{}, err error) {
	t := f.tap
	ctx, cancel := context.WithTimeout(life, callLimit)
	defer cancel()
	c, err := f.server.dial(ctx, t.msgTimeout)
	if err != nil {
		return nil, err
	}
	if err := c.subscribe(ctx, t.topic, t.broker.config.channel); err != nil {
		_ = c.net.Close()
		return nil, f.server.explain("subscribe to topic "+t.topic, err)
	}
	f.server.isDeclared(t.topic)
	t.mu.Lock()
	f.conn, f.down = c, nil
	f.held, f.done = make(map[messageID]*delivery), recent{}
	f.timeout = time.Duration(c.hello.MsgTimeout) * time.Millisecond
	f.rdy, f.window, f.told, f.refusal = 0, 1, 0, 0
	f.batch, f.opened, f.over = nil, time.Now(), make(chan struct{})
	over = f.over
	t.adjust()
	t.announce()
	t.mu.Unlock()
	if !t.broker.beginConn(c, f) {
		c.fail(errClosing)
		f.ended(errClosing)
		return nil, errClosing
	}
	return over, nil
}

func (f *feed) response(string) {}

func (f *feed) message(m message) { f.batch = append(f.batch, newDelivery(f, &m)) }

func (f *feed) paused() {
	if len(f.batch) > 0 {
		f.tap.add(f, f.batch)
		f.batch = nil
	}
}

// refused is told that a FIN, REQ or TOUCH was too late, or anything else that
// ends the connection.
func (f *feed) refused(err *serverError) {
	id, late := err.about()
	if !late {
		f.conn.fail(err)
		return
	}
	t := f.tap
	t.mu.Lock()
	d := f.held[id]
	switch {
	case err.code != "E_TOUCH_FAILED":
		f.refusal++
		d = nil // a delivery that has come since is another one
	case d != nil:
		d.over = true
		delete(f.held, id)
		t.adjust()
	}
	t.mu.Unlock()
	if d != nil {
		t.broker.lose(func(other *delivery) bool { return other == d })
	}
}

// ended ends the reservations of a connection that is gone. The server hands
// out their jobs again when their time is over.
func (f *feed) ended(error) {
	t := f.tap
	t.mu.Lock()
	held := f.held
	f.conn, f.held, f.batch = nil, nil, nil
	defer close(f.over)
	for _, d := range held {
		d.over = true
	}
	gone := func(d *delivery) bool { return held[d.id] == d }
	t.waiting = slices.DeleteFunc(t.waiting, gone)
	t.early = slices.DeleteFunc(t.early, gone)
	t.adjust()
	t.announce()
	t.mu.Unlock()
	t.broker.lose(gone)
}

// finishAgain tells the server once more that a message is done. It needs the
// mutex of the tap.
func (f *feed) finishAgain(id messageID) {
	f.told++
	_ = f.conn.send(func(out []byte) []byte { return appendFIN(out, id) })
}

// recent remembers the messages that were finished last.
type recent struct {
	ids  map[messageID]struct{}
	ring []messageID
	next int
}

const mostRecent = 4096

func (r *recent) add(id messageID) {
	if r.ids == nil {
		r.ids = make(map[messageID]struct{})
	}
	if len(r.ring) < mostRecent {
		r.ring = append(r.ring, id)
	} else {
		delete(r.ids, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % mostRecent
	}
	r.ids[id] = struct{}{}
}

func (r *recent) has(id messageID) bool {
	_, found := r.ids[id]
	return found
}
