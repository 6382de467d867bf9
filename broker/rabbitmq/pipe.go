package rabbitmq

import (
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// pipe is a channel, as the server calls it, on which jobs of one queue come: those of
// one consumer, or one job that was got by basic.get.
//
// It has never more than one of these, since a server of that time may lose jobs of
// who has more. To RabbitMQ before 4.1.1 a job that was got is a consumer too. When a
// channel ends, it takes back what its consumers hold in the order of an Erlang map,
// which for more than 32 consumers of a queue is one by hashes, and those are others
// when the server has been restarted: then it works its log off again and removes
// other jobs than those that were acknowledged. Each channel by itself ends in the same
// order always. See https://github.com/rabbitmq/rabbitmq-server/pull/13971.
type pipe struct {
	tap *tap
	ch  *amqp.Channel

	open    int           // guarded by the mutex of the tap, as all below: how many it holds
	most    int           // how many the server sends on it before one is settled
	flow    *flow         // its consumer, which may have ended; nil: jobs are got on it
	settled tags          // which of those that it brought are
	acked   time.Time     // when acknowledgements were sent last
	turned  time.Time     // when those were sent last that could not be sent together
	pause   time.Duration // between acknowledgements
	acking  bool          // they will be again, by flush
	closing bool
}

// tapSeats is how many pipes each tap can have at any time: one for jobs, and one for
// those that crashed. Further ones it has as long as the link has seats.
const tapSeats = 2

// pipeRest is how long a pipe stays after its last acknowledgement: the channel of a
// quorum queue forgets what it has not passed on yet when it is closed.
const pipeRest = time.Second

var errSeats = errors.New("as many jobs are held as the connection has channels, and each that was popped needs one: settle some first")

// newPipe opens a pipe.
func (t *tap) newPipe() (*pipe, error) {
	p := &pipe{tap: t, most: 1}
	if err := t.addPipe(p); err != nil {
		return nil, err
	}
	ch, err := t.link.conn.Channel()
	if errors.Is(err, amqp.ErrChannelMax) {
		err = errSeats
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.removePipe(p)
		return nil, err
	}
	p.ch = ch
	go p.watch(ch.NotifyClose(make(chan *amqp.Error, 1)))
	if t.closed { // end found no channel
		p.close()
		return nil, amqp.ErrClosed
	}
	return p, nil
}

// addPipe counts a pipe that is to be opened.
func (t *tap) addPipe(p *pipe) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return amqp.ErrClosed
	}
	if len(t.pipes) >= tapSeats && !t.link.seat(1) {
		return errSeats
	}
	t.pipes[p] = struct{}{}
	return nil
}

// removePipe needs mu.
func (t *tap) removePipe(p *pipe) {
	delete(t.pipes, p)
	switch {
	case len(t.pipes) >= tapSeats:
		t.link.unseat(1)
	case len(t.pipes) == 0 && t.closed:
		t.link.unseat(tapSeats)
	}
}

// watch ends the tap when the server closes the pipe, or the link breaks.
func (p *pipe) watch(closed <-chan *amqp.Error) {
	var reason *amqp.Error
	for err := range closed {
		reason = err
	}
	p.tap.mu.Lock()
	p.tap.removePipe(p)
	closing := p.closing
	p.tap.mu.Unlock()
	if !closing {
		p.tap.end(reason)
	}
}

// close needs mu. It does not wait for the server.
func (p *pipe) close() {
	if p.ch == nil || p.closing {
		return
	}
	p.closing = true
	go func() { // ends with the answer, or with the link
		defer p.tap.limit()()
		_ = p.ch.Close()
	}()
}

// takePipe returns a pipe that nobody else has, and that holds nothing.
func (t *tap) takePipe() (*pipe, error) {
	t.mu.Lock()
	if last := len(t.spare) - 1; last >= 0 {
		defer t.mu.Unlock()
		p := t.spare[last]
		t.spare = t.spare[:last]
		return p, nil
	}
	t.mu.Unlock()
	p, err := t.newPipe()
	if err != nil && !errors.Is(err, errSeats) {
		t.end(refusal(err))
	}
	return p, err
}

// leave needs mu. It makes a pipe spare that holds nothing any more, unless it had a
// consumer: what that one held may not be removed yet on the server.
func (p *pipe) leave() {
	if p.flow == nil && p.open == 0 && !p.closing {
		p.tap.spare = append(p.tap.spare, p)
	}
}

// sweep closes the pipes that are not needed any more. It needs mu.
func (t *tap) sweep(now time.Time) {
	t.ended = slices.DeleteFunc(t.ended, func(p *pipe) bool {
		rested := p.open == 0 && p.settled.waiting() == 0 && now.Sub(p.acked) >= pipeRest
		if rested {
			p.close()
		}
		return rested
	})
	left := len(t.pipes)
	t.spare = slices.DeleteFunc(t.spare, func(p *pipe) bool {
		extra := left > tapSeats && now.Sub(p.acked) >= pipeRest
		if extra {
			p.close()
			left--
		}
		return extra
	})
}
