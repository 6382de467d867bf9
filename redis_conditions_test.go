package linda_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// TestRedisRefusals provokes each refusal on a server of its own, and looks at
// what a push and a fetch say, how soon, and how many commands that takes.
func TestRedisRefusals(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		args    []string
		provoke func(t *testing.T, c *redis.Client)
		relieve func(t *testing.T, c *redis.Client)
		says    string
		is      error // or nil
	}{
		"READONLY": {
			provoke: func(t *testing.T, c *redis.Client) { do(t, c, "REPLICAOF", "127.0.0.1", "1") },
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "REPLICAOF", "NO", "ONE") },
			says:    "READONLY",
		},
		"MASTERDOWN": {
			provoke: func(t *testing.T, c *redis.Client) {
				do(t, c, "CONFIG", "SET", "replica-serve-stale-data", "no")
				do(t, c, "REPLICAOF", "127.0.0.1", "1")
			},
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "REPLICAOF", "NO", "ONE") },
			says:    "MASTERDOWN|READONLY", // what of both comes first differs between commands
		},
		"OOM": {
			provoke: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "maxmemory", "1") },
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "maxmemory", "0") },
			says:    "OOM",
			is:      linda.ErrFull,
		},
		"NOREPLICAS": {
			provoke: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "min-replicas-to-write", "1") },
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "min-replicas-to-write", "0") },
			says:    "NOREPLICAS",
		},
		"NOAUTH": {
			provoke: func(t *testing.T, c *redis.Client) {
				do(t, c, "ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all")
				do(t, c, "CONFIG", "SET", "requirepass", "s3cr3t")
				killOthers(t, c)
			},
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "requirepass", "") },
			says:    "NOAUTH|unauthenticated", // the latter for commands of more than ten words
			is:      linda.ErrDenied,
		},
		"NOPERM": {
			provoke: func(t *testing.T, c *redis.Client) { do(t, c, "ACL", "SETUSER", "default", "-rpush", "-evalsha") },
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "ACL", "SETUSER", "default", "+@all") },
			says:    "NOPERM",
			is:      linda.ErrDenied,
		},
		"BUSY": {
			args: []string{"--busy-reply-threshold", "50"},
			provoke: func(t *testing.T, c *redis.Client) {
				go func() { _ = c.Eval(context.Background(), "while true do end", nil).Err() }()
				require.Eventually(t, func() bool { return redis.HasErrorPrefix(c.Get(t.Context(), "x").Err(), "BUSY") },
					5*time.Second, 10*time.Millisecond)
			},
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "SCRIPT", "KILL") },
			says:    "BUSY",
		},
		"max clients": {
			provoke: func(t *testing.T, c *redis.Client) {
				do(t, c, "CONFIG", "SET", "maxclients", "1")
				killOthers(t, c)
			},
			relieve: func(t *testing.T, c *redis.Client) { do(t, c, "CONFIG", "SET", "maxclients", "1000") },
			says:    "max number of clients|outcome unknown", // the server may only hang up
		},
		"a script cache that is empty": {
			provoke: func(t *testing.T, c *redis.Client) { do(t, c, "SCRIPT", "FLUSH") },
			relieve: func(*testing.T, *redis.Client) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Redis, brokerd.Args(k.args...))
			// One connection, from before; as another user, where the usual one loses its rights.
			setup := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1})
			defer setup.Close()
			do(t, setup, "ACL", "SETUSER", "operator", "on", "nopass", "~*", "&*", "+@all")
			c := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "operator", Password: "x", PoolSize: 3, MaxRetries: -1})
			defer c.Close()
			do(t, c, "PING")
			b := openBroker(t, server.URL)
			var ran atomic.Int64
			d := start(t, linda.Settings{Queue: "worked", Connection: server.URL}, map[string]linda.HandlerFunc{
				"C": func(context.Context, *linda.Job) error { ran.Add(1); return nil },
			})
			job := &linda.Job{Payload: linda.Payload{Class: "C"}}
			require.NoError(t, d.Push(t.Context(), job))
			require.Eventually(t, func() bool { return ran.Load() == 1 }, 5*time.Second, time.Millisecond)
			require.NoError(t, b.Push(job, "other"))
			k.provoke(t, c)
			push := func() error { return b.Push(job, "q") }
			pop := func() error { _, err := b.Pop("other", 60); return err }
			for what, call := range map[string]func() error{"push": push, "pop": pop} {
				if k.says == "" {
					require.NoError(t, call(), what)
					continue
				}
				if name == "OOM" && what == "pop" {
					continue // what makes room is carried out
				}
				var err error
				require.Eventually(t, func() bool { // a connection that is cut off is seen to be so once
					since := time.Now()
					err = call()
					return assert.Less(t, time.Since(since), 1500*time.Millisecond) && err != nil && matches(err, k.says)
				}, 3*time.Second, time.Millisecond, what)
				if !matches(err, "outcome unknown") || name != "max clients" {
					assert.NotErrorIs(t, err, linda.ErrUnknown, "%s: the server has said no", what)
				}
				if k.is != nil {
					assert.ErrorIs(t, err, k.is, what)
				}
			}
			k.relieve(t, c)
			// The worker has tried all the while, and goes on.
			require.Eventually(t, func() bool { return b.Push(job, "worked") == nil }, 10*time.Second, 20*time.Millisecond)
			require.Eventually(t, func() bool { return ran.Load() >= 2 }, 10*time.Second, 5*time.Millisecond)
		})
	}
}

func matches(err error, any string) bool {
	return slices.ContainsFunc(strings.Split(any, "|"), func(text string) bool { return strings.Contains(err.Error(), text) })
}

func TestRedisThatIsFullStillLetsJobsOut(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	c := redisClient(t, server.URL)
	b := openBroker(t, server.URL)
	f, _ := linda.As[linda.Fetcher](b)
	toucher, _ := linda.As[linda.Toucher](b)
	job := &linda.Job{Payload: linda.Payload{Class: "C"}}
	require.NoError(t, b.Later(1, job, "q"))
	require.NoError(t, b.Push(job, "q"))
	do(t, c, "CONFIG", "SET", "maxmemory", "1")
	require.ErrorIs(t, b.Push(job, "q"), linda.ErrFull)
	for range 2 { // one that was ready, one that becomes due
		jobs, err := f.Fetch(t.Context(), "q", 1, time.Minute)
		require.NoError(t, err)
		require.NoError(t, toucher.Touch(t.Context(), "q", time.Minute, jobs))
		require.NoError(t, b.ReleaseWithDelay("q", jobs[0], 0))
		jobs, err = f.Fetch(t.Context(), "q", 1, time.Minute)
		require.NoError(t, err)
		require.NoError(t, b.Delete("q", jobs[0]))
	}
}

func do(t *testing.T, c *redis.Client, args ...any) {
	t.Helper()
	require.NoError(t, c.Do(t.Context(), args...).Err(), "%v", args)
}

// killOthers ends all connections but those of the user operator.
func killOthers(t *testing.T, c *redis.Client) {
	do(t, c, "CLIENT", "KILL", "USER", "default", "SKIPME", "yes")
}

func TestRedisWrongPasswordIsDenied(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis, brokerd.Args("--requirepass", "right"))
	_, err := linda.NewBroker("redis://:s3cr3t@" + server.Addr)
	require.ErrorIs(t, err, linda.ErrDenied)
	assert.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "s3cr3t")
	_, err = linda.NewBroker("redis://" + server.Addr)
	require.ErrorIs(t, err, linda.ErrDenied)
}

func TestRedisThatLoadsItsDataIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis, brokerd.Args("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"))
	c := redisClient(t, server.URL)
	b := openBroker(t, server.URL)
	job := &linda.Job{Payload: linda.Payload{Class: "C"}}
	require.NoError(t, b.Push(job, "q"))
	do(t, c, "DEBUG", "POPULATE", 10000)
	loaded := make(chan error, 1)
	go func() { loaded <- c.Do(context.Background(), "DEBUG", "RELOAD").Err() }()
	saw := false
	for {
		select {
		case err := <-loaded:
			require.NoError(t, err)
			require.True(t, saw, "a push came while the server was loading")
			require.NoError(t, b.Push(job, "q"))
			return
		default:
			err := b.Push(job, "q")
			saw = saw || err != nil && strings.Contains(err.Error(), "LOADING")
			if err != nil {
				require.NotErrorIs(t, err, linda.ErrUnknown)
			}
		}
	}
}

func TestRedisWithoutAClusterAroundItIsClusterdown(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis, brokerd.Args("--cluster-enabled", "yes", "--cluster-port", freePort(t)))
	b, err := linda.NewBroker(server.URL)
	require.NoError(t, err)
	defer b.Close()
	since := time.Now()
	err = b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q")
	require.ErrorContains(t, err, "CLUSTERDOWN")
	assert.NotErrorIs(t, err, linda.ErrUnknown)
	assert.Less(t, time.Since(since), 1500*time.Millisecond)
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, errors.Join(err))
	return port
}
