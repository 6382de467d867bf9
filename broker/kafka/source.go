package kafka

import (
	"context"
	"time"

	"github.com/amlun/linda"
)

// source is where the jobs of one queue come from: a share group ([line]), or
// a consumer group ([seat]).
type source interface {
	// take waits for up to max deliveries, until there is one or ctx ends. With
	// now it waits only until the servers have been asked.
	take(ctx context.Context, max int, now bool) ([]*delivery, error)
	// leave gives back what was taken and not settled. The broker is closed.
	leave()
}

// origin is what a delivery is settled with: a [session] or a [partition].
type origin interface {
	// send queues a verdict. ErrNotReserved means that the delivery is over.
	send(v *verdict)
	// left returns for how much longer a delivery is surely this process's, 0 or
	// less where that may have ended, and whether to make sure of it by a verdict
	// of the kind renewed before more is done.
	left(d *delivery) (left time.Duration, late bool)
	// lost reports whether a delivery is over though it was not accepted.
	lost(d *delivery) bool
}

// source returns the source of a queue, which it opens at the first call.
func (b *broker) source(queue string) (source, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return nil, linda.ErrClosed
	}
	s := b.sources[queue]
	switch topic := b.topicOf(queue); {
	case s != nil:
		return s, nil
	case b.config.classic:
		s = b.newSeat(topic)
	default:
		s = b.newLine(topic)
	}
	b.sources[queue] = s
	return s, nil
}
