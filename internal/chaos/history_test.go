package chaos

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEventsSurviveTheirStore(t *testing.T) {
	t.Parallel()
	e := Event{At: 1 << 60, Value: -5, Job: 1<<32 - 1, Proc: 7, Attempt: 65535, Kind: Present, Code: 255}
	stored := e.append(nil)
	require.Len(t, stored, size)
	require.Zero(t, 4096%size, "no event crosses a page")
	back, err := decode(stored)
	require.NoError(t, err)
	assert.Equal(t, e, back)
	for i := range stored {
		stored[i] ^= 1
		_, err := decode(stored)
		require.ErrorIs(t, err, errDamaged, "byte %d", i)
		stored[i] ^= 1
	}
}

func TestHistoriesAreReadInTheOrderOfTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const writers, each = 5, 1000
	var wg sync.WaitGroup
	for w := range uint32(writers) {
		h, err := OpenHistory(dir, string(rune('a'+w)), w+1)
		require.NoError(t, err)
		for range 2 { // of one process
			wg.Go(func() {
				for i := range uint32(each) {
					h.Write(Event{Kind: PushCalled, Job: i}, Event{Kind: Pushed, Job: i})
				}
			})
		}
		t.Cleanup(func() { assert.NoError(t, h.Close()) })
	}
	wg.Wait()
	var last int64
	count := map[uint32]int{}
	for e, err := range Events(dir) {
		require.NoError(t, err)
		require.GreaterOrEqual(t, e.At, last)
		last = e.At
		count[e.Proc]++
	}
	require.Len(t, count, writers)
	for proc, n := range count {
		assert.Equal(t, 2*2*each, n, proc)
	}
}

func TestDamagedHistoryIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h, err := OpenHistory(dir, "a", 1)
	require.NoError(t, err)
	h.Write(Event{Kind: Began}, Event{Kind: Drained})
	require.NoError(t, h.Close())
	require.NoError(t, os.Truncate(filepath.Join(dir, "a"+suffix), size+5))
	var failed error
	for _, err := range Events(dir) {
		failed = err
	}
	assert.Error(t, failed)
	for _, err := range Events(t.TempDir()) {
		assert.Error(t, err, "no history at all")
	}
}

func TestLastJobIsWhereTheNextProducerGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last, err := LastJob(dir, "producer")
	require.NoError(t, err)
	assert.Zero(t, last)
	h, err := OpenHistory(dir, "producer", 1)
	require.NoError(t, err)
	for i := range uint32(40_000) {
		h.Write(Event{Kind: PushCalled, Job: i}, Event{Kind: Pushed, Job: i / 2})
	}
	require.NoError(t, h.Close())
	last, err = LastJob(dir, "producer")
	require.NoError(t, err)
	assert.Equal(t, uint32(39_999), last)
}
