package rabbitmq

import (
	"slices"
	"time"
)

// Acknowledgements are collected for a moment, since one for a hundred jobs is as
// much work for the server as one for a single job.
const (
	ackPause = 5 * time.Millisecond
	// ackSlow is the pause where a flow is a small part of what the server may send: it
	// sends as many jobs on each flow that has room, so one with room for four would have
	// it send, and be acknowledged, four at a time.
	ackSlow = 20 * time.Millisecond
	// ackPatience is how long those above an open one wait, and at most twice that: most
	// often it ends meanwhile, and one acknowledgement will do.
	ackPatience = 10 * time.Millisecond
	// ackShare is which part of what the server may send may be settled without its
	// knowing, so that it does not stop sending for want of an acknowledgement.
	ackShare = 2
	// ackSmall is which part of all a slow flow is at most.
	ackSmall = 8
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
	t.pace.settled(len(ours), time.Now())
	_, total := t.room()
	var pipes []*pipe
	for _, d := range ours {
		d.pipe.settled.acknowledge(d.tag)
		if !slices.Contains(pipes, d.pipe) {
			pipes = append(pipes, d.pipe)
		}
	}
	for _, p := range pipes {
		if !p.acknowledge(total) {
			return deliveries
		}
		p.leave()
	}
	return lost
}

// acknowledge needs mu. The server may send so many jobs in total.
func (p *pipe) acknowledge(total int) (sent bool) {
	p.pause = ackPause
	slow := p.most*ackSmall <= total
	if slow {
		p.pause = ackSlow
	}
	sent = true
	switch {
	case p.flow == nil || p.flow.lone: // it is waited for
		sent = p.sendAcks(true)
	case !slow && p.settled.waiting()*ackShare >= p.most:
		if sent = p.sendAcks(false); p.settled.waiting()*4 >= p.most*3 { // one below all of these stays open
			sent = sent && p.sendAcks(true)
		}
	case time.Since(p.acked) >= p.pause:
		sent = p.sendAcks(false)
	}
	p.ackLater()
	return sent
}

// ackLater sees to it that what waits to be acknowledged is. It needs mu.
func (p *pipe) ackLater() {
	if !p.acking && p.settled.waiting() > 0 {
		p.acking = true
		time.AfterFunc(p.pause, p.flush)
	}
}

// flush acknowledges what was collected.
func (p *pipe) flush() {
	p.tap.mu.Lock()
	defer p.tap.mu.Unlock()
	p.acking = false
	if !p.closing && !p.tap.closed {
		p.sendAcks(false)
		p.ackLater()
	}
}

// sendAcks needs mu, though sending only fills a buffer, see socket: an
// acknowledgement of many that overtakes one of them would have the server close
// the channel. What cannot be acknowledged together waits for a while, unless all
// is to be sent.
func (p *pipe) sendAcks(all bool) (ok bool) {
	now := time.Now()
	upTo := p.settled.together()
	ok = upTo == 0 || p.ch.Ack(upTo, true) == nil
	if all || now.Sub(p.turned) >= ackPatience {
		for _, tag := range p.settled.single(!all) {
			ok = ok && p.ch.Ack(tag, false) == nil
		}
		p.turned = now
	}
	p.acked = now
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
