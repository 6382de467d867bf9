package rabbitmq

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestThePaceIsThatOfTheLastMoment(t *testing.T) {
	t.Parallel()
	const tick = time.Millisecond
	var p pace
	now := time.Now()
	assert.Zero(t, p.within(time.Second, now), "before the first job")
	for range 100 { // a job each tick
		p.settled(1, now)
		now = now.Add(tick)
	}
	assert.InDelta(t, 40, p.within(40*tick, now), 5)
	for range 20 { // ten jobs each
		p.settled(10, now)
		now = now.Add(tick)
	}
	assert.InDelta(t, 400, p.within(40*tick, now), 50)
	assert.LessOrEqual(t, p.within(40*tick, now.Add(time.Second)), 5, "after a second without a job")
}

// Jobs are sent in advance at the pace of those that are settled, so none of those that take
// long, which others could do meanwhile.
func TestNoJobIsSentInAdvanceToWhoSettlesNone(t *testing.T) {
	t.Parallel()
	const ask, rounds = 50, 20
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b, err := linda.NewBroker(server.URL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	jobs := make([]*linda.Job, 3*ask*rounds)
	for i := range jobs {
		jobs[i] = &linda.Job{Payload: linda.Payload{Class: "job"}}
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	held := 0
	for range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		got, err := b.(linda.Fetcher).Fetch(ctx, "q", ask, time.Minute)
		cancel()
		require.NoError(t, err)
		held += len(got)
		tap, err := b.(*broker).tap(t.Context(), "q")
		require.NoError(t, err)
		tap.mu.Lock()
		_, total := tap.room()
		tap.mu.Unlock()
		assert.LessOrEqual(t, total, held+ask)
	}
}

// The pace rises with what the server may send, so one flow after it is known is not enough.
func TestAFlowIsAddedWhenThePaceHasDoubled(t *testing.T) {
	t.Parallel()
	const ask, most = 500, 4000
	now := time.Now()
	for name, c := range map[string]struct {
		perFlow int // settled in flowFor
		total   int
		opened  time.Duration // ago; hours, since the test may be slow
		want    int           // 0: none is added
	}{
		"first":               {perFlow: 1000, total: 100, opened: time.Hour, want: 900},
		"not known yet":       {perFlow: 1000, total: 100, opened: -time.Hour},
		"doubled":             {perFlow: 2400, total: 1200, opened: time.Hour, want: 1200},
		"risen a little":      {perFlow: 2300, total: 1200, opened: time.Hour},
		"more than the most":  {perFlow: 9000, total: 1200, opened: time.Hour, want: most - 1200},
		"as many as the most": {perFlow: 9000, total: most, opened: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			taken := &flow{pipe: &pipe{most: c.total}}
			tap := &tap{most: most, trust: most, wanted: ask, flows: []*flow{taken}, opened: now.Add(-c.opened)}
			tap.pace = pace{began: now.Add(time.Hour), before: float64(c.perFlow) / flowFor.Seconds()}
			if got := tap.short(); got != (c.want > 0) {
				t.Fatalf("short is %v", got)
			}
			if c.want > 0 {
				assert.InDelta(t, c.want, tap.lack(), 1)
			}
		})
	}
}
