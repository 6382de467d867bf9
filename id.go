package linda

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// NewID returns a new job id: a UUID whose order is that of its making. It is
// unlike any other, but no secret.
func NewID() string { return newUUID().String() }

// appendID is NewID in the place where the id is wanted.
func appendID(b []byte) []byte { return appendUUID(b, newUUID()) }

func appendUUID(b []byte, id uuid.UUID) []byte {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

// lastStamp is the stamp of the UUID made last: unix milliseconds, and 12 bits
// for their fractions.
var lastStamp atomic.Int64

// newStamps returns the first of n stamps in a row that nobody else has in this
// process, for ids that are made soon.
func newStamps(n int) (first int64) {
	now := time.Now().UnixNano()
	ms := now / int64(time.Millisecond)
	next := ms<<12 | (now%int64(time.Millisecond))>>8
	for {
		last := lastStamp.Load()
		first = max(next, last+1)
		if lastStamp.CompareAndSwap(last, first+int64(n)-1) {
			return first
		}
	}
}

// newUUID makes a UUID of version 7.
func newUUID() uuid.UUID { return stampedUUID(newStamps(1)) }

// stampedUUID makes a UUID of version 7 with the generator of math/rand/v2, which
// the system seeds. That of package uuid reads from an io.Reader and locks,
// which is a third of what encoding a job costs.
func stampedUUID(stamp int64) (id uuid.UUID) {
	const version, variant = 0x7 << 12, 0b10 << 62
	binary.BigEndian.PutUint64(id[:], uint64(stamp)>>12<<16|version|uint64(stamp)&0xfff)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()>>2|variant)
	return id
}

// validID reports whether a text can be the id of a job.
func validID(id string) bool {
	ok := 1 <= len(id) && len(id) <= maxID
	for i := 0; ok && i < len(id); i++ {
		ok = ' ' < id[i] && id[i] < 0x7f && id[i] != '"' && id[i] != '\\'
	}
	return ok
}
