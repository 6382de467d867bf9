package linda_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

// openRedis opens a client by a URL of linda's.
func openRedis(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	c, err := linda.OpenRedis(url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// redisConforms runs the conformance suite on what open opens, with a client
// of the same service.
func redisConforms(t *testing.T, c redis.UniversalClient, open func() (linda.Broker, error)) {
	brokertest.Run(t, brokertest.Harness{
		Open: func(t testing.TB) linda.Broker {
			b, err := open()
			require.NoError(t, err)
			return b
		},
		RawPush: func(t testing.TB, queue string, body []byte) error {
			return c.RPush(t.Context(), queue, body).Err()
		},
		Keys: func(t testing.TB, queue string) []string {
			return redisKeys(t, c, queue)
		},
	})
}

func TestRedisConformsOverTLS(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.RedisTLS).URL
	redisConforms(t, openRedis(t, url), func() (linda.Broker, error) { return linda.NewBroker(url) })
}

func TestRedisConformsOverASocket(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.RedisUnix).URL
	redisConforms(t, openRedis(t, url), func() (linda.Broker, error) { return linda.NewBroker(url) })
}

// tlsReasons are what errors tell that only linda, not the server, can know.
var tlsReasons = map[string]string{
	"an authority that is not known": "unknown authority",
	"another name":                   "localhost",
	"TLS 1.1":                        "protocol version",
	"a certificate that has expired": "expired",
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

// tlsServer runs a server that speaks TLS up to a version, with a certificate
// for 127.0.0.1 that change may spoil: redis-server refuses to be such a one.
// It returns its address and the option to trust it.
func tlsServer(t *testing.T, change func(*x509.Certificate), version uint16) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(certificate)
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	m := miniredis.NewMiniRedis()
	require.NoError(t, m.StartTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS10, MaxVersion: version,
	}))
	t.Cleanup(m.Close)
	return m.Addr() + "/?ca=" + file
}

func TestRedisTLSTakesAServerThatItCanCheck(t *testing.T) {
	t.Parallel()
	b, err := linda.NewBroker("rediss://" + tlsServer(t, nil, tls.VersionTLS12))
	require.NoError(t, err, "else the refusals prove nothing")
	require.NoError(t, b.Close())
}

func TestRedisTLSRefusesAServerItCannotCheck(t *testing.T) {
	t.Parallel()
	secure, plain := brokerd.Run(t, brokerd.RedisTLS), brokerd.Run(t, brokerd.Redis)
	certificate := filepath.Join(secure.Dir, "cert.pem")
	pair := "&cert=" + certificate + "&key=" + filepath.Join(secure.Dir, "key.pem")
	for name, url := range map[string]string{
		"an authority that is not known": "rediss://" + secure.Addr + "/?" + pair[1:],
		"another name":                   secure.URL + "&server_name=localhost",
		"no certificate of ours":         "rediss://" + secure.Addr + "/?ca=" + certificate,
		"a server without TLS":           "rediss://" + plain.Addr + "/?ca=" + certificate,
		"a client without TLS":           "redis://" + secure.Addr,
		"TLS 1.1":                        "rediss://" + tlsServer(t, nil, tls.VersionTLS11),
		"a certificate that has expired": "rediss://" + tlsServer(t, expired, tls.VersionTLS13),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			since := time.Now()
			_, err := linda.NewBroker(url)
			require.Error(t, err)
			assert.Less(t, time.Since(since), 2*time.Second)
			if reason, ours := tlsReasons[name]; ours {
				assert.ErrorContains(t, err, reason)
			}
			t.Log(err)
		})
	}
}

func TestRedisBrokerOnAClientOfTheProgram(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	c := openRedis(t, url)
	b, err := linda.NewRedisBroker(c)
	require.NoError(t, err)
	ran := make(chan string, 1)
	d := start(t, linda.Settings{Queue: "q", Broker: b}, map[string]linda.HandlerFunc{
		"C": func(_ context.Context, job *linda.Job) error { ran <- job.ID; return nil },
	})
	time.Sleep(50 * time.Millisecond)
	since := time.Now()
	require.NoError(t, d.Push(t.Context(), &linda.Job{Payload: linda.Payload{Class: "C"}}))
	<-ran
	assert.Less(t, time.Since(since), time.Second, "it waits, it does not poll")
	t.Cleanup(func() { // after the dispatcher has ended
		assert.NoError(t, c.Ping(context.Background()).Err(), "the client is still open")
	})
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
}

func TestRedisBrokerRefusesAClientThatCannotHoldAQueue(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	_, err := linda.NewRedisBroker(ring)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = linda.NewRedisBroker(nil)
	assert.Error(t, err)
	gone := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1})
	defer gone.Close()
	_, err = linda.NewRedisBroker(gone)
	assert.ErrorContains(t, err, "refused")
}

// wrapped is a client of a type that linda does not know.
type wrapped struct{ redis.UniversalClient }

func TestRedisBrokerOnAWrappedClientLooksForJobs(t *testing.T) {
	t.Parallel()
	b, err := linda.NewRedisBroker(wrapped{openRedis(t, brokerd.Run(t, brokerd.Redis).URL)})
	require.NoError(t, err)
	defer b.Close()
	time.AfterFunc(100*time.Millisecond, func() {
		assert.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	})
	f, _ := linda.As[linda.Fetcher](b)
	jobs, err := f.Fetch(t.Context(), "q", 1, time.Minute)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
}

// TestRedisSentinel is one test, for one service: starting it takes a while.
func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	g := brokerd.RunGroup(t, brokerd.StartRedisSentinel)
	t.Run("conforms", func(t *testing.T) {
		redisConforms(t, openRedis(t, g.URL), func() (linda.Broker, error) { return linda.NewBroker(g.URL) })
	})
	t.Run("rights at sentinels", func(t *testing.T) { needsTheRightsAtSentinels(t, g) })
	t.Run("outlives the death of its master", func(t *testing.T) {
		url := g.URL + "&wait_replicas=2&wait_timeout=500ms" // either of them may be chosen
		outlivesAFailover(t, url, g.Servers[0], g.Servers[1:3])
	})
}
