package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

const (
	// hidden is the delay of a copy that is to be buried, in seconds: should it
	// never be, it is a job again after this time, and not lost.
	hidden = 10
	// shortReason is what is kept of a reason for which a body has no room.
	shortReason = 64
	// margin is how long before the server may take a job back its reservation
	// is not relied upon any more, but asked for.
	margin = time.Second
)

// ending is one settlement on its way.
//
// The server cannot change a body. So where one is to bear new bookkeeping a
// copy is put, and once the server has it the job is deleted: a crash between
// the two leaves two of it, never none.
type ending struct {
	*linda.Settlement
	r     *reservation // nil: the job was deleted when it was popped
	queue string
	delay uint64
	body  string // of the copy; empty where none is needed
	copy  uint64 // id of the copy; 0: there is none
	touch bool   // whether the reservation lasts, and what the job is like, is to be asked first
	bury  bool   // bury the job as it is
	lapse bool   // the reservation has ended: there is no settlement, and the copy counts a crash
	err   error
	*outcome
}

// outcome is what became of a settlement, also where its caller did not wait.
type outcome struct {
	done chan struct{} // closed when err is there
	err  error
}

func (b *broker) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	errs := make([]error, len(batch))
	receipts := make([]*linda.Receipt, len(batch))
	outcomes := make([]*outcome, len(batch))
	var endings []*ending
	for i := range batch {
		s := new(batch[i]) // it may still be on its way when the caller has left
		delay, err := wholeSeconds(s.Delay)
		if err == nil {
			receipts[i], err = s.Begin(b, queue)
		}
		if err != nil {
			errs[i] = err
			continue
		}
		e, earlier := b.prepare(queue, s, receipts[i], delay)
		if earlier != nil {
			outcomes[i] = earlier
			continue
		}
		outcomes[i] = e.outcome
		endings = append(endings, e)
	}
	if len(endings) > 0 && !b.begin(func() { b.carryOut(queue, endings) }) {
		for _, e := range endings {
			e.end(linda.ErrClosed)
		}
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	for i, o := range outcomes {
		if o != nil {
			errs[i] = end(receipts[i], o.wait(limited))
		}
	}
	return linda.Batch(errs)
}

// end is that of the receipt. A connection that is gone has taken the reservation
// with it, so that an earlier try with an unknown outcome need not have settled
// the job.
func end(receipt *linda.Receipt, err error) error {
	r, isHeld := receipt.Token().(*reservation)
	if isHeld && r.conn.lost() && errors.Is(err, linda.ErrNotReserved) {
		receipt.Extend(time.Now())
	}
	return receipt.End(err)
}

// wait returns how a settlement went; after the end of ctx that is unknown.
func (o *outcome) wait(ctx context.Context) error {
	select {
	case <-o.done:
		return o.err
	default:
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", linda.ErrUnknown, ctx.Err())
	}
}

func (e *ending) end(err error) {
	e.outcome.err = err
	close(e.done)
}

// prepare decides how a settlement is carried out. Where an earlier one of the
// same reservation is still under way, or was done although its caller does not
// know, its outcome is the answer: a second copy would be a second job.
func (b *broker) prepare(queue string, s *linda.Settlement, receipt *linda.Receipt, delay uint64) (e *ending, earlier *outcome) {
	e = &ending{Settlement: s, queue: queue, delay: delay, outcome: &outcome{done: make(chan struct{})}}
	if receipt.Gone() {
		if s.Op != linda.OpDelete {
			if e.body = b.fit(e); e.body == "" {
				e.err = fmt.Errorf("linda/beanstalkd: queue %s: %w for its bookkeeping", queue, linda.ErrTooLarge)
			}
		}
		return e, nil
	}
	e.r = receipt.Token().(*reservation)
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if o := e.r.outcome; o != nil && !o.failed() {
		return nil, o
	}
	e.r.outcome = e.outcome
	if s.Op == linda.OpDelete {
		return e, nil
	}
	if s.Op == linda.OpBury || !s.Unstarted || s.Delay > 0 {
		e.body = b.fit(e)
	}
	e.touch = !e.r.known || e.body != "" && !time.Now().Add(margin).Before(e.r.surely)
	return e, nil
}

// failed reports whether a settlement has ended and was not carried out.
func (o *outcome) failed() bool {
	select {
	case <-o.done:
		return o.err != nil
	default:
		return false
	}
}

// fit returns the body of the copy. Where there is no room for the bookkeeping
// the reason is shortened; where there is none for that either, which only the
// body of another program can lack, the job stays as it is: one that failed is
// buried, since its attempts could not be counted.
func (b *broker) fit(e *ending) string {
	body := e.Body()
	if len(body) <= b.maxJob {
		return body
	}
	short := *e.Settlement
	short.Reason = short.Reason[:min(len(short.Reason), shortReason)]
	if body = short.Body(); len(body) <= b.maxJob {
		return body
	}
	e.bury = e.Reason != ""
	return ""
}

// carryOut settles jobs of one queue. It goes on when the caller has left, so
// that a copy which was put is followed by the end of its job.
func (b *broker) carryOut(queue string, endings []*ending) {
	b.verify(endings)
	b.copyAll(queue, endings)
	b.finish(endings)
	for _, e := range endings {
		switch {
		case e.r == nil:
		case e.err == nil || errors.Is(e.err, linda.ErrNotReserved):
			e.r.conn.forget(e.r)
			b.keeper.Drop(e.r)
		}
		e.end(e.err)
	}
}

// verify asks for reservations that may have ended whether they last: somebody
// else's job must not be copied.
func (b *broker) verify(endings []*ending) {
	b.perConn(endings, func(e *ending, cmd *commands) bool {
		if e.touch {
			cmd.add("touch", e.r.id)
			cmd.add("stats-job", e.r.id)
		}
		return e.touch
	}, func(e *ending, answers []reply, sent time.Time) {
		if e.err = answers[0].err("TOUCHED"); e.err != nil {
			return
		}
		if answers[1].word == "OK" {
			e.r.learn(answers[1].data)
		}
		_, ttr, _ := e.r.traits()
		e.r.sure(sent.Add(ttr))
	})
}

// copyAll puts the copies, in the order of the batch, on one connection. Where
// the server takes none, since it is draining or full, the jobs stay as they are.
func (b *broker) copyAll(queue string, endings []*ending) {
	puts := &commands{tube: queue}
	var copied []*ending
	for _, e := range endings {
		if e.body == "" || e.err != nil {
			continue
		}
		pri, ttr, delay := b.config.pri, b.ttr(), e.delay
		if e.r != nil {
			own, lasts, _ := e.r.traits()
			pri, ttr = own, uint64(lasts/time.Second)
		}
		if e.Op == linda.OpBury && !e.lapse {
			delay = hidden
		}
		puts.put(e.body, pri, delay, ttr)
		copied = append(copied, e)
	}
	if puts.n == 0 {
		return
	}
	ids, err := b.insert(b.ctx, puts)
	for i, err := range linda.EachError(err, puts.n) {
		e := copied[i]
		switch {
		case err == nil:
			e.copy = ids[i]
		case e.r != nil && !e.lapse && (errors.Is(err, linda.ErrFull) || errors.Is(err, linda.ErrTooLarge)):
			e.bury = e.Op == linda.OpBury || errors.Is(err, linda.ErrTooLarge) && e.Reason != ""
		default:
			e.err = err
		}
	}
	b.buryCopies(copied)
}

// buryCopies makes the copies of dead jobs DEAD. The server buries only what is
// reserved.
func (b *broker) buryCopies(copied []*ending) {
	cmd := &commands{}
	var buried []*ending
	for _, e := range copied {
		if e.Op == linda.OpBury && !e.lapse && e.copy != 0 {
			cmd.add("reserve-job", e.copy)
			cmd.add("bury", e.copy, b.config.pri)
			buried = append(buried, e)
		}
	}
	if cmd.n == 0 {
		return
	}
	answers, err := b.puts.do(b.ctx, cmd)
	for i, e := range buried {
		if e.err = err; err == nil {
			e.err = answers[2*i+1].err("BURIED")
		}
		if c := b.puts.current(); c != nil {
			c.forgetID(e.copy)
		}
	}
}

// finish ends the reservations.
func (b *broker) finish(endings []*ending) {
	b.perConn(endings, func(e *ending, cmd *commands) bool {
		pri, _, _ := e.r.traits()
		switch {
		case e.bury:
			cmd.add("bury", e.r.id, pri)
		case e.Op == linda.OpDelete || e.copy != 0:
			cmd.add("delete", e.r.id)
		default:
			cmd.add("release", e.r.id, pri, e.delay)
		}
		return true
	}, func(e *ending, answers []reply, _ time.Time) {
		switch {
		case e.bury:
			e.err = answers[0].err("BURIED")
		case e.Op == linda.OpDelete || e.copy != 0:
			e.err = answers[0].err("DELETED")
		default:
			e.err = answers[0].err("RELEASED")
		}
		if e.copy != 0 && errors.Is(e.err, linda.ErrNotReserved) {
			b.remove(e.copy) // the job is somebody else's
		}
	})
}

// perConn sends the commands of each ending that has no error to the connection
// that holds its job, all of a connection together, and reads the answers.
func (b *broker) perConn(endings []*ending, ask func(*ending, *commands) bool, read func(*ending, []reply, time.Time)) {
	type place struct {
		*ending
		at int
	}
	rows := make(map[*conn]*share)
	places := make(map[*conn][]place)
	for _, e := range endings {
		if e.r == nil || e.err != nil {
			continue
		}
		c := e.r.conn
		if !c.holds(e.r) {
			e.err = linda.ErrNotReserved
			continue
		}
		if rows[c] == nil {
			rows[c] = &share{}
		}
		at := rows[c].n
		if ask(e, &rows[c].commands) {
			places[c] = append(places[c], place{e, at})
		}
	}
	sent := time.Now()
	for c, row := range rows {
		row.send(c)
	}
	for c, row := range rows {
		answers, err := row.wait(context.Background()) // it ends with the connection
		for _, p := range places[c] {
			if p.err = err; err == nil {
				read(p.ending, answers[p.at:], sent)
			}
		}
	}
}
