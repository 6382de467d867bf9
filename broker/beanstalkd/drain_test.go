//go:build unix

package beanstalkd

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestAServerThatDrainsRefusesPushesAndLosesNoRetry(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	b := open(t, server.URL)
	defer b.Close()
	require.NoError(t, b.Push(job(1), "q"))
	held := fetched(t, b)
	drain(t, server)
	err := b.Push(job(2), "q")
	require.ErrorIs(t, err, ErrDraining)
	require.ErrorIs(t, err, linda.ErrFull)
	failed := linda.Settlement{Job: held, Op: linda.OpRelease, Reason: "x"}
	require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{failed}))
	again := fetched(t, b)
	assert.Equal(t, held.ID, again.ID)
	dead := linda.Settlement{Job: again, Op: linda.OpBury, Reason: "x"}
	require.NoError(t, b.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{dead}))
	stats, err := b.(linda.Inspector).Stats(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, linda.Stats{Dead: 1}, stats)
}
