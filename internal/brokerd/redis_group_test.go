package brokerd

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisClusterHoldsKeysOnEveryMaster(t *testing.T) {
	t.Parallel()
	g := RunGroup(t, StartRedisCluster)
	require.Len(t, g.Servers, 6)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{g.Servers[5].Addr}})
	defer c.Close()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		require.NoError(t, c.Set(t.Context(), key, key, 0).Err())
	}
	require.NoError(t, c.ForEachMaster(t.Context(), func(ctx context.Context, m *redis.Client) error {
		assert.NotNil(t, g.At(m.Options().Addr))
		return nil
	}))
	assert.EqualValues(t, 6, c.DBSize(t.Context()).Val())
}

func TestRedisSentinelsNameTheMaster(t *testing.T) {
	t.Parallel()
	g := RunGroup(t, StartRedisSentinel)
	require.Len(t, g.Servers, 6)
	addr, err := g.MasterAddr(t.Context())
	require.NoError(t, err)
	assert.Equal(t, g.Servers[0], g.At(addr))
	assert.Nil(t, g.At("127.0.0.1:1"))
}
