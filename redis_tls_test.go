package linda_test

import (
	"context"
	"fmt"
	"net"
	neturl "net/url"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestRedisClusterOverTLS(t *testing.T) {
	t.Parallel()
	g := brokerd.RunGroup(t, brokerd.StartRedisClusterTLS)
	c := openRedis(t, g.URL).(*redis.ClusterClient)
	require.NoError(t, c.ForEachShard(t.Context(), func(_ context.Context, node *redis.Client) error {
		assert.NotNil(t, g.At(node.Options().Addr), "the nodes name their TLS ports")
		return nil
	}))
	servesQueuesOfEveryMaster(t, g.URL)
	outlivesAFailover(t, g.URL+"&wait_replicas=1&wait_timeout=500ms", g.Servers[0], g.Servers[3:4])
}

// listenByTLS makes a server listen on one port more and returns its address.
func listenByTLS(t *testing.T, c *redis.Client) string {
	for range 20 {
		port := freePort(t)
		if c.Do(t.Context(), "CONFIG", "SET", "tls-port", port).Err() == nil { // nobody else has taken it
			return "127.0.0.1:" + port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// TestRedisSentinelOverTLS has a server and a sentinel of it, both of which
// speak TLS to clients and the sentinel to the server.
func TestRedisSentinelOverTLS(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	files := brokerd.Run(t, brokerd.RedisTLS).Dir
	ca, key := filepath.Join(files, "cert.pem"), filepath.Join(files, "key.pem")
	c := redisClient(t, server.URL)
	require.NoError(t, c.Do(t.Context(), "CONFIG", "SET", "tls-cert-file", ca, "tls-key-file", key, "tls-ca-cert-file", ca).Err())
	_, port, err := net.SplitHostPort(listenByTLS(t, c))
	require.NoError(t, err)
	secure, err := strconv.Atoi(port)
	require.NoError(t, err)
	require.NoError(t, c.Do(t.Context(), "CONFIG", "SET", "port", 0).Err(), "it speaks nothing else")
	own := freePort(t)
	brokerd.Run(t, brokerd.RedisSentinel(secure), brokerd.Args("--tls-port", own, "--tls-replication", "yes",
		"--tls-cert-file", ca, "--tls-key-file", key, "--tls-ca-cert-file", ca))
	options := neturl.Values{"ca": {ca}, "cert": {ca}, "key": {key}, "master_name": {brokerd.SentinelMaster}}
	url := fmt.Sprintf("rediss-sentinel://127.0.0.1:%s/?%s", own, options.Encode())
	b := openBroker(t, url)
	require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	job, err := b.Pop("q", 60)
	require.NoError(t, err)
	require.NoError(t, b.Delete("q", job))
	options.Del("cert")
	options.Del("key")
	_, err = linda.NewBroker(fmt.Sprintf("rediss-sentinel://127.0.0.1:%s/?%s", own, options.Encode()))
	require.Error(t, err, "a client that shows no certificate")
}
