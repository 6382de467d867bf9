package rabbitmq

import (
	"slices"
	"time"
)

// Acknowledgements are collected for a moment, since one for a hundred jobs is as
// much work for the server as one for a single job. Those of jobs above one that is
// open wait for another moment: most often it ends meanwhile, and one will do.
const (
	ackPause = time.Millisecond
	// ackShare is which part of what the server may send may be settled without its
	// knowing, so that it does not stop sending for want of an acknowledgement.
	ackShare = 4
)

// acknowledge removes deliveries from the queue, and returns those that it
// could not: all of them when the tap is gone, and with it the reservations. It
// does so at once where none came for a moment.
func (t *tap) acknowledge(deliveries []*delivery) (lost []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return deliveries
	}
	ours, lost := finish(deliveries)
	var pipes []*pipe
	for _, d := range ours {
		d.pipe.settled.acknowledge([]uint64{d.tag})
		if !slices.Contains(pipes, d.pipe) {
			pipes = append(pipes, d.pipe)
		}
	}
	for _, p := range pipes {
		if !p.acknowledge() {
			return deliveries
		}
		p.leave()
	}
	return lost
}

// acknowledge needs mu.
func (p *pipe) acknowledge() (sent bool) {
	sent = true
	switch {
	case p.settled.waiting()*ackShare >= p.most:
		sent = p.sendAcks(false)
	case time.Since(p.acked) >= ackPause:
		sent = p.sendAcks(true)
	}
	p.ackLater()
	return sent
}

// ackLater sees to it that what waits to be acknowledged is. It needs mu.
func (p *pipe) ackLater() {
	if !p.acking && p.settled.waiting() > 0 {
		p.acking = true
		time.AfterFunc(ackPause, p.flush)
	}
}

// flush acknowledges what was collected.
func (p *pipe) flush() {
	p.tap.mu.Lock()
	defer p.tap.mu.Unlock()
	p.acking = false
	if !p.closing && !p.tap.closed {
		p.sendAcks(true)
		p.ackLater()
	}
}

// sendAcks needs mu, though sending only fills a buffer, see socket: an
// acknowledgement of many that overtakes one of them would have the server close
// the channel.
func (p *pipe) sendAcks(patient bool) (ok bool) {
	upTo, single := p.settled.next(patient)
	ok = upTo == 0 || p.ch.Ack(upTo, true) == nil
	for _, tag := range single {
		ok = ok && p.ch.Ack(tag, false) == nil
	}
	p.acked = time.Now()
	return ok
}

// reject gives deliveries back to the server, which counts them.
func (t *tap) reject(deliveries []*delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ours, _ := finish(deliveries)
	for _, d := range ours {
		d.pipe.settled.note(d.tag)
		if !t.closed {
			_ = d.pipe.ch.Reject(d.tag, true)
			d.pipe.leave()
		}
	}
}

// finish ends deliveries, and returns those that were not ended before: the server
// closes the channel where one is settled twice. It needs the mutex of their tap.
func finish(deliveries []*delivery) (ours, before []*delivery) {
	for _, d := range deliveries {
		if d.over {
			before = append(before, d)
			continue
		}
		d.over = true
		d.pipe.open--
		ours = append(ours, d)
	}
	return ours, before
}
