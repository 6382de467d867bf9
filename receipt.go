package linda

import (
	"errors"
	"sync"
	"time"
)

// Op is how a reservation ends.
type Op int

// The ways a reservation ends.
const (
	OpDelete  Op = iota // the job is done
	OpRelease           // READY again, or DELAYED where there is a delay
	OpBury              // DEAD
)

// Settlement is the end of one reservation.
type Settlement struct {
	Job   *Job
	Op    Op
	Delay time.Duration // of OpRelease; brokers round it up

	// Reason tells why the job failed or is dead. With a reason the attempt
	// counts as a failure.
	Reason string
	// Snoozed says that the run does not count as an attempt.
	Snoozed bool
	// Unstarted says that no handler ran: the attempt does not count, and the
	// job goes back to the head of its queue where the broker can do that.
	Unstarted bool
}

// Body returns what to store for a job that is released or buried: the bytes
// of its producer with linda's bookkeeping renewed. For authors of brokers.
func (s *Settlement) Body() string {
	return s.Job.renewed(s.Job.head.after(s.Unstarted, s.Snoozed, s.Reason))
}

// Receipt ties a job that was popped to the broker that handed it out. It lets
// each reservation be settled once, by that broker, on that queue, before
// anything reaches the server. Authors of brokers put one on each job they
// hand out, with [Job.Reserve], and pass each settlement through
// [Settlement.Begin] and [Receipt.End]. It is safe for concurrent use.
type Receipt struct {
	broker Broker
	queue  string
	token  any

	mu     sync.Mutex
	state  receiptState // guarded by mu, as all below
	until  time.Time    // when the reservation ends at the latest, by the local clock; zero: there is none
	unsure bool         // an earlier settlement may have been carried out
	asked  Settlement   // the last one that was begun; without a Job: none was
}

type receiptState int

const (
	held receiptState = iota
	settling
	settled
	lost
)

// Reserve puts a broker's receipt on a job. The token is whatever the broker
// needs to settle the job; until is the local time at which the reservation
// has surely not ended yet on the server: that of sending the request, plus
// the lease. A zero until marks a job that is gone from the broker (at most
// once).
func (j *Job) Reserve(b Broker, queue string, token any, until time.Time) {
	j.receipt = &Receipt{broker: b, queue: queue, token: token, until: until}
}

// Delivered sets how often the job was handed out, this time included. A broker
// calls it whose server counts deliveries apart from the body; by default the
// count is the one in the body that Decode read.
func (j *Job) Delivered(total int64) { j.head.Deliveries = total }

// Redelivered adds deliveries, this one included, that a server has counted
// since it stored the body to those that the body counts.
func (j *Job) Redelivered(times int64) { j.head.Deliveries += times }

// Receipt returns the receipt by which b handed the job out of a queue. The
// error is ErrNotReserved where another broker or none did, or where it is
// used, and ErrLeaseLost where the reservation is known to be lost.
func (j *Job) Receipt(b Broker, queue string) (*Receipt, error) {
	r := j.receipt
	if !r.from(b, queue) {
		return nil, ErrNotReserved
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.state.err()
}

func (r *Receipt) from(b Broker, queue string) bool {
	return r != nil && r.broker == b && r.queue == queue
}

func (s receiptState) err() error {
	switch s {
	case held:
		return nil
	case lost:
		return ErrLeaseLost
	default:
		return ErrNotReserved
	}
}

// Begin claims the receipt for this settlement. The error, if any, is that of
// [Job.Receipt]; without one the caller must carry the settlement out and call
// [Receipt.End].
func (s *Settlement) Begin(b Broker, queue string) (*Receipt, error) {
	r := s.Job.receipt
	if !r.from(b, queue) {
		return nil, ErrNotReserved
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.state.err(); err != nil {
		return nil, err
	}
	r.state = settling
	r.asked = *s
	return r, nil
}

// End records how the settlement went and returns the error for the caller. An
// ErrNotReserved is final, unless an earlier try had an unknown outcome and the
// reservation cannot have ended: then it was that try which settled the job,
// and End returns nil. After any other error the job is still held and can be
// settled again.
func (r *Receipt) End(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.state = settled
	case !errors.Is(err, ErrNotReserved):
		r.state = held
		r.unsure = r.unsure || errors.Is(err, ErrUnknown)
	case r.unsure && time.Now().Before(r.until):
		r.state, err = settled, nil
	default:
		r.state, err = lost, ErrLeaseLost
	}
	return err
}

// Token returns what the broker gave to [Job.Reserve].
func (r *Receipt) Token() any { return r.token }

// Gone reports whether the job has no reservation because it was deleted when
// it was popped. Deleting it is then already done.
func (r *Receipt) Gone() bool { return r.Until().IsZero() }

// Until returns the local time before which the reservation has not ended.
func (r *Receipt) Until() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until
}

// Extend records that the reservation was prolonged.
func (r *Receipt) Extend(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = until
}

// Lose records that the reservation has ended without a settlement, and
// reports whether that is so: it is not while a settlement is under way or
// after one, be it one with an unknown outcome.
func (r *Receipt) Lose() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.state != held:
	case r.unsure && time.Now().Before(r.until): // see End
		r.state = settled
	default:
		r.state = lost
	}
	return r.state == lost
}

// request returns the settlement that somebody asked for, without a Job if
// nobody did, and what has become of it.
func (r *Receipt) request() (Settlement, receiptState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, r.state
}
