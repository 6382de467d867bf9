//go:build unix

package beanstalkd

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda/internal/brokerd"
)

// drain puts the server into drain mode.
func drain(t *testing.T, server *brokerd.Server) {
	t.Helper()
	pid := field(ask(t, server.Addr, "stats\r\n", 1)[0], "pid")
	require.NoError(t, syscall.Kill(int(pid), syscall.SIGUSR1))
	require.Eventually(t, func() bool {
		return textField(ask(t, server.Addr, "stats\r\n", 1)[0], "draining") == "true"
	}, patience, 1e7)
}
