package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// line brings the jobs of one queue to the calls that wait for them. It joins
// the share group of the queue when the first job is asked for, and again
// after the connection is lost: each time is one [life].
type line struct {
	b     *broker
	topic string
	group string
	wake  chan struct{} // told that somebody waits

	mu      sync.Mutex
	waiters []*waiter   // guarded by mu: the longest waiting first
	spare   []*delivery // guarded by mu: came when nobody waited any more
	life    *life       // guarded by mu: nil while there is none
}

// waiter is a call that waits for up to max jobs.
type waiter struct {
	max    int
	now    bool          // it is content with none once all servers have been asked
	toAsk  map[int32]int // the servers that have not been, of a waiter for now; guarded by line.mu
	got    []*delivery   // what came; read after done
	err    error         // why nothing came; read after done
	done   chan struct{}
	served bool // guarded by line.mu
}

// newLine starts the line of a topic.
func (b *broker) newLine(topic string) *line {
	l := &line{b: b, topic: topic, group: b.config.shareGroup(topic), wake: make(chan struct{}, 1)}
	b.run(l.run)
	return l
}

// leave is for other sources: the server has what the line holds.
func (l *line) leave() {}

// take waits for up to max deliveries, until there is one or ctx ends. With
// now it waits only until the servers have been asked.
func (l *line) take(ctx context.Context, max int, now bool) ([]*delivery, error) {
	w := &waiter{max: max, now: now, done: make(chan struct{})}
	l.mu.Lock()
	l.waiters = append(l.waiters, w)
	l.serve()
	if l.life != nil {
		l.life.wakeAll()
	}
	l.mu.Unlock()
	tell(l.wake)
	select {
	case <-w.done:
	case <-ctx.Done():
		l.giveUp(w, ctx.Err())
	}
	return w.got, w.err
}

// giveUp ends the wait of a waiter that has not been served.
func (l *line) giveUp(w *waiter, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.served {
		l.dismiss(w, err)
	}
}

// dismiss needs mu.
func (l *line) dismiss(w *waiter, err error) {
	for i, other := range l.waiters {
		if other == w {
			l.waiters = append(l.waiters[:i:i], l.waiters[i+1:]...)
			break
		}
	}
	w.served, w.err = true, err
	close(w.done)
}

// serve gives what is spare to those who wait. It needs mu.
func (l *line) serve() {
	for len(l.waiters) > 0 && len(l.spare) > 0 {
		w := l.waiters[0]
		n := min(w.max, len(l.spare))
		w.got = l.spare[:n:n]
		l.spare = l.spare[n:]
		l.dismiss(w, nil)
	}
}

// fail ends all waits.
func (l *line) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiters) > 0 {
		l.dismiss(l.waiters[0], err)
	}
}

// run keeps the line alive while jobs are asked for.
func (l *line) run() {
	for try := 1; ; try++ {
		select {
		case <-l.wake:
		case <-l.b.ctx.Done():
			l.fail(linda.ErrClosed)
			return
		}
		begun := time.Now()
		err := l.live()
		if l.b.ctx.Err() != nil {
			err = linda.ErrClosed
		}
		l.fail(l.b.fault("fetch", err))
		if time.Since(begun) > 10*time.Second {
			try = 1
		}
		_ = sleep(l.b.ctx, backoff(try))
		if !l.idle() {
			tell(l.wake) // somebody has come meanwhile
		}
	}
}

func (l *line) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiters) == 0
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is told already
	}
}

// life is one membership of the share group, over one set of connections. When
// it ends, the server gives the records that it holds to others.
type life struct {
	line   *line
	member string
	client *kgo.Client
	topic  *topic
	end    context.CancelCauseFunc

	sessions map[int32]*session  // by server
	held     map[place]*delivery // guarded by line.mu
	over     bool                // guarded by line.mu
}

// place is where a record is in its topic.
type place struct {
	partition int32
	offset    int64
}

// live joins the group and fetches until something is wrong or Close.
func (l *line) live() error {
	client, err := kgo.NewClient(l.b.config.clientOptions()...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, end := context.WithCancelCause(l.b.ctx)
	defer end(nil)
	f := &life{line: l, member: rand.Text(), client: client, end: end,
		sessions: make(map[int32]*session), held: make(map[place]*delivery)}
	member, err := f.join(ctx)
	if err != nil {
		return err
	}
	for partition, leader := range f.topic.leaders {
		s := f.sessions[leader]
		if s == nil {
			s = &session{life: f, server: leader, wake: make(chan struct{}, 1)}
			f.sessions[leader] = s
		}
		s.partitions = append(s.partitions, int32(partition))
	}
	l.begin(f)
	var tasks sync.WaitGroup
	tasks.Go(func() { end(member.stay(ctx)) })
	tasks.Go(func() { l.trim(ctx, f.topic) })
	for _, s := range f.sessions {
		tasks.Go(func() { end(s.run(ctx)) })
	}
	tasks.Wait()
	l.bury(f)
	member.leave()
	return context.Cause(ctx)
}

// join makes the topic and the group, and becomes a member.
func (f *life) join(ctx context.Context) (*member, error) {
	l := f.line
	limited, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	if err := l.b.ensure(limited, l.b.config.partitions, l.topic); err != nil {
		return nil, err
	}
	if err := l.b.configure(limited, l.group); err != nil {
		return nil, err
	}
	topic, err := lookUp(limited, f.client, l.topic)
	if err != nil {
		return nil, err
	}
	if topic == nil {
		l.b.forget(l.topic)
		return nil, errors.New("there is no topic " + l.topic)
	}
	if err := l.b.fromTheStart(limited, l.group, topic); err != nil {
		return nil, err
	}
	f.topic = topic
	m := &member{client: l.b.client, group: l.group, id: f.member, topic: l.topic}
	return m, m.join(limited)
}

func (l *line) begin(f *life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.life = f
	f.wakeAll()
}

// bury ends the reservations of a life.
func (l *line) bury(f *life) {
	l.mu.Lock()
	f.over = true
	l.life = nil
	l.spare = nil
	for _, d := range f.held {
		d.over = true
	}
	for _, w := range l.waiters {
		w.toAsk = nil
	}
	var open []*verdict
	for _, s := range f.sessions {
		open = append(open, s.verdicts...)
		s.verdicts = nil
	}
	l.mu.Unlock()
	for _, v := range open {
		v.done(linda.ErrNotReserved) // it has not been sent
	}
	now := time.Now()
	l.b.keeper.Lose(func(d *delivery) bool {
		if d.session.life == f {
			// The reservation has ended now, so that an earlier try with an
			// unknown outcome need not have settled the job.
			d.receipt.Extend(now)
		}
		return d.session.life == f
	})
}

// wakeAll needs line.mu.
func (f *life) wakeAll() {
	for _, s := range f.sessions {
		tell(s.wake)
	}
}
