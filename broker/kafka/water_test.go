package kafka

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheLowWaterNeverPassesAJobThatIsNotDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin  int64
		out    int64   // handed out up to here
		settle []int64 // in this order
		low    int64
		done   []int64 // beyond low
	}{
		"nothing settled":       {begin: 5, out: 8, low: 5},
		"in order":              {begin: 0, out: 3, settle: []int64{0, 1, 2}, low: 3},
		"the first is missing":  {begin: 0, out: 4, settle: []int64{1, 2, 3}, low: 0, done: []int64{1, 2, 3}},
		"the first comes last":  {begin: 0, out: 4, settle: []int64{3, 2, 1, 0}, low: 4},
		"a hole":                {begin: 10, out: 15, settle: []int64{10, 11, 13}, low: 12, done: []int64{13}},
		"two holes, one closed": {begin: 10, out: 16, settle: []int64{11, 13, 15, 10}, low: 12, done: []int64{13, 15}},
		"settled twice":         {begin: 0, out: 3, settle: []int64{1, 1, 0, 0}, low: 2},
		"before the beginning":  {begin: 7, out: 8, settle: []int64{3}, low: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := beginAt(c.begin, "")
			for o := c.begin; o < c.out; o++ {
				w.handOut(o)
			}
			for _, o := range c.settle {
				w.settle(o)
			}
			// What the process knows, and what the next one reads, are the same.
			for _, w := range []lowWater{w, beginAt(w.low, w.metadata())} {
				assert.Equal(t, c.low, w.low)
				assert.Equal(t, max(c.out, c.low), w.high)
				for o := c.begin; o < c.out; o++ {
					want := o < c.low
					for _, done := range c.done {
						want = want || o == done
					}
					assert.Equal(t, want, w.isDone(o), "offset %d", o)
				}
			}
		})
	}
}

func TestOffsetsWithoutARecordAreDone(t *testing.T) {
	t.Parallel()
	w := beginAt(4, "")
	w.settleAll(4, 1_000_000_004) // far, with nothing open before it
	assert.Equal(t, int64(1_000_000_004), w.low)
	assert.Empty(t, w.done)

	w = beginAt(4, "")
	w.handOut(4)
	w.settleAll(5, 8)
	assert.Equal(t, int64(4), w.low)
	w.settle(4)
	assert.Equal(t, int64(8), w.low)
	assert.Equal(t, int64(8), w.high)
	w.settleAll(9, 9)
	assert.Equal(t, int64(8), w.low, "nothing")
}

func TestAnyOrderOfSettlingEndsAtTheSameMark(t *testing.T) {
	t.Parallel()
	for range 200 {
		w := beginAt(100, "")
		order := rand.Perm(300)
		open := make(map[int64]bool)
		for _, i := range order {
			open[100+int64(i)] = true
			w.handOut(100 + int64(i))
		}
		for n, i := range order {
			w.settle(100 + int64(i))
			delete(open, 100+int64(i))
			for o := range open {
				require.False(t, w.low > o, "the mark has passed %d", o)
				require.False(t, w.isDone(o))
			}
			if n%37 == 0 { // the process ends, another goes on
				w = beginAt(w.low, w.metadata())
			}
		}
		require.Equal(t, int64(400), w.low)
		require.Empty(t, w.metadata())
	}
}

func TestMetadataFitsWhateverTheWindow(t *testing.T) {
	t.Parallel()
	w := beginAt(0, "")
	w.handOut(0)
	w.settleAll(1, 100_000)
	text := w.metadata()
	assert.Less(t, len(text), 4096)
	next := beginAt(0, text)
	assert.Equal(t, int64(0), next.low)
	assert.True(t, next.isDone(metadataBits-1))
	assert.False(t, next.isDone(metadataBits), "it comes again, which is not to lose it")
	assert.False(t, next.isDone(0))
}

func TestForeignMetadataSaysNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "linda1", "linda1 ", "linda1 x AA", "linda1 -5 AA", "linda1 5 *", "linda2 5 AA", strings.Repeat("A", 5000)} {
		w := beginAt(9, text)
		assert.Equal(t, int64(9), w.low, text)
		assert.Equal(t, int64(9), w.high, text)
		assert.False(t, w.isDone(9), text)
	}
}
