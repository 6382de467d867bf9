//go:build unix

package brokerd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPausedServerDoesNotAnswerUntilResumed(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis)
	require.NoError(t, s.Pause())
	requireTimeout(t, s)
	require.NoError(t, s.Resume())
	requireAnswer(t, s, "PING", "+PONG\r\n")
}

func TestPausedServerCanBeEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Server) error{
		"Kill": (*Server).Kill, "Stop": (*Server).Stop, "Close": (*Server).Close,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Run(t, Redis)
			require.NoError(t, s.Pause())
			began := time.Now()
			require.NoError(t, end(s))
			assert.Less(t, time.Since(began), stopLimit/2)
			requireFree(t, s.Addr)
		})
	}
}

func TestProcessThatIgnoresSIGTERMIsReportedAndCanBeKilled(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), actor(t, "ignore SIGTERM", nil))
	require.NoError(t, err)
	defer s.Close()
	require.Eventually(t, func() bool { return s.Log() != "" }, 10*time.Second, 5*time.Millisecond, "it ignores it by now")
	assert.False(t, s.proc.stop(200*time.Millisecond))
	require.NoError(t, s.Kill())
	assert.True(t, s.proc.ended())
}
