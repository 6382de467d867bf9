package brokerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Group is a Redis service of several servers.
type Group struct {
	URL     string    // what linda.NewBroker takes
	Servers []*Server // each may be killed, paused and restarted by itself
}

// Close closes every server.
func (g *Group) Close() error {
	var errs []error
	for _, s := range g.Servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// At returns the server at an address, or nil.
func (g *Group) At(addr string) *Server {
	for _, s := range g.Servers {
		if s.Addr == addr {
			return s
		}
	}
	return nil
}

// RunGroup returns a service that is ready, from StartRedisCluster or StartRedisSentinel, and is closed when the test
// ends, as Run does.
func RunGroup(tb testing.TB, start func(context.Context) (*Group, error)) *Group {
	tb.Helper()
	Run(tb, Redis) // skips the test where there is none
	g, err := start(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, s := range g.Servers {
			finish(tb, s)
		}
	})
	return g
}

// groupMasters is how many masters a cluster has, and how many replicas together.
const groupMasters = 3

// redisNode is a node of a cluster. Its second port is the one of the cluster's bus. It takes a second to suspect
// another.
var redisNode = Kind{
	name:   "redis",
	binary: "redis-server",
	ports:  2,
	command: func(ctx context.Context, s setup) (*exec.Cmd, error) {
		return redisNodeCommand(ctx, s, "--port", strconv.Itoa(s.ports[0]))
	},
	ready: redisReady,
	url:   redisURL,
}

func redisNodeCommand(ctx context.Context, s setup, own ...string) (*exec.Cmd, error) {
	return redisCommandWith(ctx, s, append([]string{"--cluster-port", strconv.Itoa(s.ports[1]),
		"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0",
		"--repl-diskless-sync-delay", "0"}, own...)...)
}

// redisNodeTLS is a node that speaks TLS only, to clients and to the other nodes. All have the same certificate, each
// in files of its own, as RedisTLS has.
func redisNodeTLS(cert, key []byte) Kind {
	return Kind{
		name:   "redis",
		binary: "redis-server",
		ports:  2,
		command: func(ctx context.Context, s setup) (*exec.Cmd, error) {
			err := errors.Join(os.WriteFile(certOf(s), cert, 0o600), os.WriteFile(keyOf(s), key, 0o600))
			if err != nil {
				return nil, err
			}
			return redisNodeCommand(ctx, s, append(redisTLSArgs(s), "--tls-cluster", "yes", "--tls-replication", "yes")...)
		},
		ready: redisTLSReady,
		url:   redisTLSURL,
	}
}

// StartRedisCluster starts a cluster of three masters with a replica each: the servers 3, 4 and 5 are those of 0, 1
// and 2. It needs Redis 7.
func StartRedisCluster(ctx context.Context) (*Group, error) {
	return startCluster(ctx, "redis-cluster://%s/", redisNode, func(s *Server) *redis.Options {
		return &redis.Options{Addr: s.Addr}
	})
}

// StartRedisClusterTLS is StartRedisCluster of nodes that speak nothing but TLS.
func StartRedisClusterTLS(ctx context.Context) (*Group, error) {
	cert, key, err := newCertificateFiles()
	if err != nil {
		return nil, err
	}
	config, err := testTLSConfigOf(cert, key, cert)
	if err != nil {
		return nil, err
	}
	g, err := startCluster(ctx, "rediss-cluster://%s/", redisNodeTLS(cert, key), func(s *Server) *redis.Options {
		return &redis.Options{Addr: s.Addr, TLSConfig: config}
	})
	if err != nil {
		return nil, err
	}
	_, options, _ := strings.Cut(g.Servers[0].URL, "?")
	g.URL += "?" + options
	return g, nil
}

// startCluster starts the nodes of a cluster and joins them by clients with the options that it is given.
func startCluster(ctx context.Context, url string, node Kind, options func(*Server) *redis.Options) (*Group, error) {
	g, err := startGroup(ctx, 2*groupMasters, func(int) Kind { return node }, nil)
	if err != nil {
		return nil, err
	}
	addrs := make([]string, len(g.Servers))
	clients := make([]*redis.Client, len(g.Servers))
	for i, s := range g.Servers {
		addrs[i] = s.Addr
		clients[i] = redis.NewClient(options(s))
		defer clients[i].Close()
	}
	g.URL = fmt.Sprintf(url, strings.Join(addrs, ","))
	if err := joinCluster(ctx, g.Servers, clients); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// startGroup starts n servers side by side.
func startGroup(ctx context.Context, n int, kind func(i int) Kind, args func(i int) []string) (*Group, error) {
	g := &Group{Servers: make([]*Server, n)}
	errs := make(chan error)
	for i := range n {
		go func() {
			var err error
			var own []string
			if args != nil {
				own = args(i)
			}
			g.Servers[i], err = Start(ctx, kind(i), Args(own...))
			errs <- err
		}()
	}
	var failed error
	for range n {
		failed = errors.Join(failed, <-errs)
	}
	if failed == nil {
		return g, nil
	}
	for _, s := range g.Servers {
		if s != nil {
			failed = errors.Join(failed, s.Close())
		}
	}
	return nil, failed
}

// joinCluster makes a cluster of empty nodes.
func joinCluster(ctx context.Context, nodes []*Server, clients []*redis.Client) error {
	ids := make([]string, len(nodes))
	for i := range nodes {
		var err error
		if ids[i], err = clients[i].ClusterMyID(ctx).Result(); err != nil {
			return err
		}
		if err := clients[i].Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return err
		}
		if i < groupMasters {
			const slots = 16384
			if err := clients[i].ClusterAddSlotsRange(ctx, i*slots/groupMasters, (i+1)*slots/groupMasters-1).Err(); err != nil {
				return err
			}
		}
		for _, other := range nodes[:i] {
			err := clients[i].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.Ports[0], other.Ports[1]).Err()
			if err != nil {
				return err
			}
		}
	}
	for i := groupMasters; i < len(nodes); i++ {
		err := until(ctx, func() error { return clients[i].ClusterReplicate(ctx, ids[i-groupMasters]).Err() })
		if err != nil {
			return fmt.Errorf("brokerd: replicate: %w", err)
		}
	}
	return until(ctx, func() error { return checkCluster(ctx, clients) })
}

// checkCluster returns nil once every node knows the others and has its slots, and the replicas follow.
func checkCluster(ctx context.Context, clients []*redis.Client) error {
	for i, c := range clients {
		info, err := c.ClusterInfo(ctx).Result()
		if err != nil {
			return err
		}
		for _, want := range []string{"cluster_state:ok", fmt.Sprintf("cluster_known_nodes:%d", len(clients))} {
			if !strings.Contains(info, want) {
				return fmt.Errorf("node %d: no %s", i, want)
			}
		}
		nodes, err := c.ClusterNodes(ctx).Result()
		if err != nil {
			return err
		}
		if n := strings.Count(nodes, "slave "); n != len(clients)-groupMasters {
			return fmt.Errorf("node %d knows %d replicas", i, n)
		}
		want := "connected_slaves:1"
		if i >= groupMasters {
			want = "master_link_status:up"
		}
		if info := c.Info(ctx, "replication").Val(); !strings.Contains(info, want) {
			return fmt.Errorf("node %d: no %s", i, want)
		}
	}
	return nil
}

// until asks again and again, for as long as a start may take.
func until(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	ticker := time.NewTicker(10 * probeEvery)
	defer ticker.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("brokerd: not ready: %w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// SentinelMaster is the name by which sentinels know the master.
const SentinelMaster = "linda"

// RedisSentinel is a sentinel of the master at a port. It takes a second to suspect it.
func RedisSentinel(master int) Kind {
	return Kind{
		name:   "redis",
		binary: "redis-server",
		ports:  1,
		command: func(_ context.Context, s setup) (*exec.Cmd, error) {
			file := filepath.Join(s.dir, "sentinel.conf")
			if _, err := os.Stat(file); err != nil { // it is the sentinel's from its first start
				text := fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %q\n"+
					"sentinel monitor %[3]s 127.0.0.1 %[4]d 2\nsentinel down-after-milliseconds %[3]s 1000\n"+
					"sentinel failover-timeout %[3]s 3000\n", s.ports[0], s.dir, SentinelMaster, master)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					return nil, err
				}
			}
			return exec.Command(s.binary, append([]string{file, "--sentinel"}, s.args...)...), nil
		},
		ready: func(ctx context.Context, s setup, pid int) error {
			c := redis.NewClient(&redis.Options{Addr: s.addr(), MaxRetries: -1, DialerRetries: 1})
			defer c.Close()
			return checkRedisReply("+PONG\r\n"+c.Info(ctx, "server").Val(), pid)
		},
		url: redisURL,
	}
}

// StartRedisSentinel starts a master, two replicas and three sentinels, in that order.
func StartRedisSentinel(ctx context.Context) (*Group, error) {
	redises := func(int) Kind { return Redis }
	delay := []string{"--repl-diskless-sync-delay", "0"}
	g, err := startGroup(ctx, 1, redises, func(int) []string { return delay })
	if err != nil {
		return nil, err
	}
	port := g.Servers[0].Ports[0]
	replicas, err := startGroup(ctx, 2, redises, func(int) []string {
		return append([]string{"--replicaof", "127.0.0.1 " + strconv.Itoa(port)}, delay...)
	})
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.Servers = append(g.Servers, replicas.Servers...)
	master := redis.NewClient(&redis.Options{Addr: g.Servers[0].Addr})
	defer master.Close()
	err = until(ctx, func() error {
		if !strings.Contains(master.Info(ctx, "replication").Val(), "connected_slaves:2") {
			return errors.New("the master has not two replicas")
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	sentinels, err := startGroup(ctx, 3, func(int) Kind { return RedisSentinel(port) }, nil)
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.Servers = append(g.Servers, sentinels.Servers...)
	addrs := make([]string, len(sentinels.Servers))
	for i, s := range sentinels.Servers {
		addrs[i] = s.Addr
		if err := until(ctx, func() error { return checkSentinel(ctx, s.Addr) }); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	g.URL = "redis-sentinel://" + strings.Join(addrs, ",") + "/?master_name=" + SentinelMaster
	return g, nil
}

// checkSentinel returns nil once a sentinel knows the others and the replicas.
func checkSentinel(ctx context.Context, addr string) error {
	c := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer c.Close()
	master, err := c.Master(ctx, SentinelMaster).Result()
	if err != nil {
		return err
	}
	if master["flags"] != "master" || master["num-slaves"] != "2" || master["num-other-sentinels"] != "2" {
		return fmt.Errorf("sentinel %s: master %s with %s replicas, %s other sentinels", addr,
			master["flags"], master["num-slaves"], master["num-other-sentinels"])
	}
	return nil
}

// MasterAddr asks the sentinels of a group for the address of the master.
func (g *Group) MasterAddr(ctx context.Context) (string, error) {
	var last error
	for _, s := range g.Servers[3:] {
		c := redis.NewSentinelClient(&redis.Options{Addr: s.Addr})
		addr, err := c.GetMasterAddrByName(ctx, SentinelMaster).Result()
		_ = c.Close()
		if err == nil && len(addr) == 2 {
			return net.JoinHostPort(addr[0], addr[1]), nil
		}
		last = err
	}
	return "", last
}
