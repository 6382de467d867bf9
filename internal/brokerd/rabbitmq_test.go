package brokerd

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRabbitMQNodesLiveSideBySide(t *testing.T) {
	t.Parallel()
	first, second := Run(t, RabbitMQ), Run(t, RabbitMQ)
	for _, s := range []*Server{first, second} {
		assert.Equal(t, "amqp://guest:guest@"+s.Addr+"/", s.URL)
		node, err := s.Eval(t.Context(), "erlang:node()")
		require.NoError(t, err)
		assert.Equal(t, "'"+rabbitNode(s.setup)+"'", strings.TrimSpace(node))
	}
}

func TestRabbitMQIsKilledPausedAndRestarted(t *testing.T) {
	t.Parallel()
	s := Run(t, RabbitMQ)
	require.NoError(t, s.Pause())
	conn, err := net.Dial("tcp", s.Addr) // the system accepts it
	require.NoError(t, err)
	_, _ = conn.Write([]byte("AMQP\x00\x00\x09\x01"))
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = conn.Read(make([]byte, 1))
	var late net.Error
	require.ErrorAs(t, err, &late)
	assert.True(t, late.Timeout(), "a paused server answered: %v", err)
	require.NoError(t, conn.Close())

	require.NoError(t, s.Kill())
	requireFree(t, s.Addr)
	require.NoError(t, s.Restart(t.Context()))
	require.NoError(t, s.Stop())
	requireFree(t, s.Addr)
}
