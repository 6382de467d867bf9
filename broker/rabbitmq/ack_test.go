package rabbitmq_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// hold pushes and reserves so many jobs.
func hold(t *testing.T, b linda.Broker, n int) (held []*linda.Job) {
	t.Helper()
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = job("job")
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	for len(held) < n {
		held = append(held, take(t, b, n-len(held))...)
	}
	return held
}

// Acknowledgements are collected for a moment, and longer where an older job is open.
func TestWhatIsDoneIsAcknowledgedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	other := opened(t, server.URL)
	b := open(t, server.URL)
	held := hold(t, b, 100)
	for _, done := range held[1:] {
		require.NoError(t, b.Delete("q", done))
	}
	require.NoError(t, b.Close())
	back := one(t, other, "q")
	assert.Equal(t, held[0].ID, back.ID)
	require.NoError(t, other.Delete("q", back))
	stats, err := other.(linda.Inspector).Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Zero(t, stats.Ready)
}

// A worker that is idle otherwise does not hold an acknowledgement back for long.
func TestWhatIsDoneAboveAnOpenJobIsAcknowledgedSoon(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	b := opened(t, server.URL)
	held := hold(t, b, 100)
	require.NoError(t, b.Delete("q", held[1]))
	require.NoError(t, b.Delete("q", held[2]))
	require.Eventually(t, func() bool {
		out, err := server.Eval(t.Context(), `rabbit_amqqueue:info_all(<<"/">>, [name, messages])`)
		require.NoError(t, err)
		return strings.Contains(out, `<<"q">>}},{messages,98}`)
	}, 30*time.Second, time.Millisecond)
}
