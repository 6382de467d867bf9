package linda_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// TestRedisClusterOverTLS turns TLS on in a cluster that runs: its nodes then
// name their TLS ports to clients, and speak TLS to one another.
func TestRedisClusterOverTLS(t *testing.T) {
	if os.Getenv("LINDA_LONG") == "" {
		t.Skip("set LINDA_LONG=1: nodes of Redis 7.0 that are told of TLS while they run may go on naming ports without it")
	}
	t.Parallel()
	g := brokerd.RunGroup(t, brokerd.StartRedisCluster)
	files := brokerd.Run(t, brokerd.RedisTLS).Dir // its certificate is for 127.0.0.1
	ca, key := filepath.Join(files, "cert.pem"), filepath.Join(files, "key.pem")
	addrs := make([]string, len(g.Servers))
	for i, s := range g.Servers {
		c := redisClient(t, s.URL)
		require.NoError(t, c.Do(t.Context(), "CONFIG", "SET", "tls-cert-file", ca, "tls-key-file", key, "tls-ca-cert-file", ca).Err())
		addrs[i] = listenByTLS(t, c)
	}
	for _, s := range g.Servers {
		require.NoError(t, redisClient(t, s.URL).Do(t.Context(), "CONFIG", "SET", "tls-cluster", "yes").Err())
	}
	options := neturl.Values{"ca": {ca}, "cert": {ca}, "key": {key}}
	url := "rediss-cluster://" + strings.Join(addrs, ",") + "/?" + options.Encode()
	require.Eventually(t, func() bool {
		return knowsOnly(t, openRedis(t, url).(*redis.ClusterClient), addrs)
	}, 20*time.Second, 100*time.Millisecond, "the nodes name their TLS ports")
	servesQueuesOfEveryMaster(t, url)
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

// knowsOnly reports whether a client is told of no other nodes.
func knowsOnly(t *testing.T, c *redis.ClusterClient, addrs []string) bool {
	return c.ForEachShard(t.Context(), func(_ context.Context, node *redis.Client) error {
		if addr := node.Options().Addr; !slices.Contains(addrs, addr) {
			return errors.New(addr + " is another")
		}
		return nil
	}) == nil
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
