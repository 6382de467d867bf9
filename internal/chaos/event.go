// Package chaos holds linda to its promises while everything around it fails:
// processes write down what they see, and a checker reads it all afterwards.
// The command that starts, kills and cuts is lindachaos.
package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Event is one line of a history. What Value and Code mean depends on Kind.
type Event struct {
	At      int64  // of the monotonic clock that all processes of a host share, in ns
	Value   int64  // see Kind
	Job     uint32 // its number; 0 where the event is about none
	Proc    uint32 // number of the process that it happened to
	Attempt uint16 // of the job's delivery
	Kind    Kind
	Code    uint8 // see Kind
}

// Kind is what happened.
type Kind uint8

// The kinds of events. Whoever does a thing that others can see writes the
// event before it; whoever learns of one writes it after.
const (
	_            Kind = iota
	Began             // a process begins; Code: its Role
	Killing           // a process is about to be killed
	Dying             // a process is about to end itself, without a stop
	Ended             // a process has ended
	FaultBegins       // Code: a Fault; Proc: its victim, 0 for the server or the network
	FaultEnds         // as FaultBegins
	Healed            // there are no more faults
	Drained           // the queue is empty
	PushCalled        // a push is about to begin; Value: its delay; Code: the Class
	Pushed            // it was acknowledged
	PushRefused       // it failed: the broker does not have the job
	PushUnknown       // it failed: the broker may have the job
	Fetched           // a job was reserved; Value: when the fetch was sent
	Touched           // its reservation was prolonged; Value: when the touch was sent
	Started           // its handler begins; Value: crashes<<32 | failures; Code: the Class
	Corrupt           // its handler found other arguments than were pushed
	ContextEnded      // the context of its handler ended
	Finished          // its handler returns; Code: an Answer
	Settled           // its settlement was acknowledged; Value: when it was sent; Code: an End
	SettleLost        // as Settled, but it was not reserved any more
	SettleUnsure      // as Settled, but whether it was carried out is unknown, or it was not
	NotBefore         // the settlement that follows delays the job; Value: the time it is due at the earliest
	Present           // the broker holds it at the end; Code: a Place
	kinds
)

var kindNames = [kinds]string{
	Began: "began", Killing: "killing", Dying: "dying", Ended: "ended",
	FaultBegins: "fault begins", FaultEnds: "fault ends", Healed: "healed", Drained: "drained",
	PushCalled: "push called", Pushed: "pushed", PushRefused: "push refused", PushUnknown: "push unknown",
	Fetched: "fetched", Touched: "touched", Started: "started", Corrupt: "corrupt", ContextEnded: "context ended",
	Finished: "finished", Settled: "settled", SettleLost: "settle lost", SettleUnsure: "settle unsure",
	NotBefore: "not before", Present: "present",
}

func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprint("kind ", uint8(k))
	}
	return kindNames[k]
}

// String tells the event in one line.
func (e Event) String() string {
	return fmt.Sprintf("%.6f process %d job %d attempt %d %v value %d code %d",
		time.Duration(e.At).Seconds(), e.Proc, e.Job, e.Attempt, e.Kind, e.Value, e.Code)
}

// Role is what a process is for.
type Role = uint8

// The roles of processes.
const (
	Supervisor Role = iota
	Producer
	Worker
)

// Answer is how a handler returned.
type Answer = uint8

// The answers of handlers.
const (
	Success Answer = iota
	Failure        // an error, a panic, or a wish to run again
)

// End is how a reservation was settled.
type End = uint8

// The ends of reservations.
const (
	EndDelete  End = iota
	EndRelease     // the attempt counts
	EndUncount     // released, and the attempt does not count
	EndBury
)

// Place is a state in which the broker holds a job.
type Place = uint8

// The places of jobs.
const (
	InReady Place = iota
	InDelayed
	InReserved
	InDead
)

const (
	// size divides the size of a page: a process that is killed while it writes
	// may leave the write half done at the end of a page, but never an event.
	size = 32

	offValue, offJob, offProc, offAttempt, offKind, offCode, offSum = 8, 16, 20, 24, 26, 27, 28
)

var order = binary.LittleEndian

// append appends the event as it is stored.
func (e *Event) append(b []byte) []byte {
	start := len(b)
	b = order.AppendUint64(b, uint64(e.At))
	b = order.AppendUint64(b, uint64(e.Value))
	b = order.AppendUint32(b, e.Job)
	b = order.AppendUint32(b, e.Proc)
	b = order.AppendUint16(b, e.Attempt)
	b = append(b, byte(e.Kind), e.Code)
	return order.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

var errDamaged = errors.New("chaos: damaged event")

// decode reads an event; b holds exactly one.
func decode(b []byte) (Event, error) {
	if crc32.ChecksumIEEE(b[:offSum]) != order.Uint32(b[offSum:]) {
		return Event{}, errDamaged
	}
	return Event{
		At: int64(order.Uint64(b)), Value: int64(order.Uint64(b[offValue:])),
		Job: order.Uint32(b[offJob:]), Proc: order.Uint32(b[offProc:]), Attempt: order.Uint16(b[offAttempt:]),
		Kind: Kind(b[offKind]), Code: b[offCode],
	}, nil
}
