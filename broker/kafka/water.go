package kafka

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// lowWater knows of one partition which records are done, in whatever order
// they are settled. Of that a consumer group stores one number, up to where
// all are done; what is done beyond it, and how far records were handed out,
// goes into the metadata of that commit. So the next process skips what is
// done, and knows which jobs were in the hands of one that died.
type lowWater struct {
	low  int64  // all before it are done
	high int64  // none from here on was handed out; at least low
	done []bool // from low on; the first is not done
}

// beginAt returns the state of a partition that was committed.
func beginAt(offset int64, metadata string) lowWater {
	w := lowWater{low: offset, high: offset}
	var ahead int64
	rest, ok := strings.CutPrefix(metadata, metadataMark)
	if !ok {
		return w
	}
	if n, _ := fmt.Sscan(rest, &ahead); n != 1 || ahead < 0 {
		return w
	}
	_, text, _ := strings.Cut(rest, " ")
	bits, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return w
	}
	w.high += ahead
	for i := range 8 * len(bits) {
		if bits[i/8]>>(i%8)&1 == 1 {
			w.settle(offset + int64(i))
		}
	}
	return w
}

const (
	metadataMark = "linda1 "
	metadataBits = 8 * 3000 // 4,000 characters; servers take 4,096 by default
)

// handOut notes that a record goes to a worker.
func (w *lowWater) handOut(offset int64) { w.high = max(w.high, offset+1) }

// settle notes that a record is done.
func (w *lowWater) settle(offset int64) { w.settleAll(offset, offset+1) }

// settleAll does that for the offsets from one up to another, which is not of
// them. There may be no records at some or all of them.
func (w *lowWater) settleAll(from, to int64) {
	if from <= w.low && len(w.done) == 0 {
		w.low = max(w.low, to)
	}
	for from = max(from, w.low); from < to; from++ {
		for int64(len(w.done)) <= from-w.low {
			w.done = append(w.done, false)
		}
		w.done[from-w.low] = true
	}
	n := 0
	for n < len(w.done) && w.done[n] {
		n++
	}
	w.low += int64(n)
	w.done = w.done[n:]
	w.high = max(w.high, w.low)
}

// isDone reports whether a record is done.
func (w *lowWater) isDone(offset int64) bool {
	i := offset - w.low
	return i < 0 || i < int64(len(w.done)) && w.done[i]
}

// metadata is what is to be committed beside low. A server takes a few
// thousand bytes of it: what is done beyond those is said by a later commit.
func (w *lowWater) metadata() string {
	n := min(len(w.done), metadataBits)
	for n > 0 && !w.done[n-1] {
		n--
	}
	if n == 0 && w.high == w.low {
		return ""
	}
	bits := make([]byte, (n+7)/8)
	for i, is := range w.done[:n] {
		if is {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return fmt.Sprintf("%s%d %s", metadataMark, w.high-w.low, base64.RawStdEncoding.EncodeToString(bits))
}
