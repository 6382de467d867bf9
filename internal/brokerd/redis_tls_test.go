package brokerd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisTLSKeepsItsCertificateAndRefusesPlainText(t *testing.T) {
	t.Parallel()
	s := Run(t, RedisTLS)
	assert.True(t, strings.HasPrefix(s.URL, "rediss://"+s.Addr+"/?ca="), s.URL)
	before, err := os.ReadFile(filepath.Join(s.Dir, "cert.pem"))
	require.NoError(t, err)
	_, err = ask(s.Addr, "PING")
	require.Error(t, err)
	require.NoError(t, s.Restart(t.Context()))
	after, err := os.ReadFile(filepath.Join(s.Dir, "cert.pem"))
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

func TestRedisUnixListensOnItsSocketOnly(t *testing.T) {
	t.Parallel()
	s := Run(t, RedisUnix)
	assert.Equal(t, "unix://"+filepath.Join(s.Dir, "redis.sock"), s.URL)
	conn, err := net.Dial("unix", filepath.Join(s.Dir, "redis.sock"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	requireFree(t, s.Addr)
}
