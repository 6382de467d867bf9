package linda

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIDsAreUUIDsInTheOrderOfTheirMaking(t *testing.T) {
	t.Parallel()
	began := time.Now().Truncate(time.Millisecond)
	last := ""
	for range 20_000 { // faster than the clock counts
		id := string(appendID(nil))
		require.Less(t, last, id)
		last = id
	}
	id, err := uuid.Parse(last)
	require.NoError(t, err)
	assert.EqualValues(t, 7, id.Version())
	assert.Equal(t, uuid.RFC4122, id.Variant())
	assert.Equal(t, id.String(), last)
	made := (&Job{ID: last}).PushedAt()
	assert.False(t, made.Before(began), "%v is before %v", made, began)
	// 20,000 ids a quarter of a microsecond apart end 5 ms ahead at most.
	assert.False(t, made.After(time.Now().Add(10*time.Millisecond)), "%v", made)
}

func TestIDsMadeAtTheSameTimeDiffer(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := make(map[string]bool)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5000 {
				id := NewID()
				mu.Lock()
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assert.Len(t, seen, 40_000)
	seen[uuid.Nil.String()] = true
	assert.Len(t, seen, 40_001)
}
