package linda

import (
	"encoding/binary"
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
	start := len(b)
	b = append(b, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"...)
	text := b[start:]
	digits := func(i int) uint64 { return hexDigits(binary.LittleEndian.Uint32(id[i:])) }
	binary.LittleEndian.PutUint64(text, digits(0))
	next := digits(4)
	binary.LittleEndian.PutUint32(text[9:], uint32(next))
	binary.LittleEndian.PutUint32(text[14:], uint32(next>>32))
	next = digits(8)
	binary.LittleEndian.PutUint32(text[19:], uint32(next))
	binary.LittleEndian.PutUint32(text[24:], uint32(next>>32))
	binary.LittleEndian.PutUint64(text[28:], digits(12))
	return b
}

// hexDigits returns the eight digits of four bytes, in as few steps as two of them would
// take one after the other.
func hexDigits(bytes uint32) uint64 {
	const ones = 0x0101010101010101
	n := uint64(bytes)
	n = (n | n<<16) & 0x0000ffff0000ffff
	n = (n | n<<8) & 0x00ff00ff00ff00ff
	n = (n>>4 | n<<8) & (0x0f * ones)   // a digit in each byte
	letters := (n + 6*ones) >> 4 & ones // 1 where it is 10 or more
	return n + '0'*ones + ('a'-'0'-10)*letters
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
