package brokerd

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisPasswordIsPartOfTheURL(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis, Args("--requirepass", `p@ss "word"`))
	assert.Equal(t, "redis://:p%40ss%20%22word%22@"+s.Addr+"/", s.URL)
	requireAnswer(t, s, "PING", "-NOAUTH Authentication required.\r\n")
}

func TestRedisAllowsDebugCommands(t *testing.T) {
	t.Parallel()
	requireAnswer(t, Run(t, Redis), "DEBUG SLEEP 0", "+OK\r\n")
}

func TestRedisMajor(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]int{
		"Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=b0": 7,
		"Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=a3": 6,
		"Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=c1": 8,
		"Redis server v=10.0.0":   10,
		"something else entirely": 0,
	} {
		assert.Equal(t, want, redisMajor(version), version)
	}
}

func TestRedisIsReadyWhenItsOwnProcessAnswersPong(t *testing.T) {
	t.Parallel()
	const own = "# Server\r\nprocess_id:12\r\ntcp_port:1\r\n"
	require.NoError(t, checkRedisReply("+PONG\r\n"+own, 12))
	require.Error(t, checkRedisReply("+PONG\r\n"+own, 1), "another process, whose id begins alike")
	require.Error(t, checkRedisReply("+PONG\r\n"+own, 2), "another process, whose id ends alike")
	require.Error(t, checkRedisReply("-LOADING Redis is loading the dataset in memory\r\n"+own, 12))
	require.Error(t, checkRedisReply("", 12))
}
