package linda

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	neturl "net/url"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func mustReadRedisURL(t *testing.T, text string) *redisConfig {
	t.Helper()
	url, err := neturl.Parse(text)
	require.NoError(t, err)
	c, err := readRedisURL(url)
	require.NoError(t, err, text)
	return c
}

func TestRedisURLNamesTheServer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]*redis.Options{
		"redis://":                        {Network: "tcp", Addr: "localhost:6379"},
		"redis://:7000":                   {Network: "tcp", Addr: "localhost:7000"},
		"redis://h":                       {Network: "tcp", Addr: "h:6379"},
		"redis://[::1]:7/2":               {Network: "tcp", Addr: "[::1]:7", DB: 2},
		"redis://[::1]/?db=3":             {Network: "tcp", Addr: "[::1]:6379", DB: 3},
		"redis://u:p%40q@h:7/":            {Network: "tcp", Addr: "h:7", Username: "u", Password: "p@q"},
		"redis://h?username=u&password=p": {Network: "tcp", Addr: "h:6379", Username: "u", Password: "p"},
		"unix:///run/r.sock":              {Network: "unix", Addr: "/run/r.sock"},
		"redis+unix://u:p@/r.sock?db=1":   {Network: "unix", Addr: "/r.sock", Username: "u", Password: "p", DB: 1},
	} {
		client := mustReadRedisURL(t, text).open().(*redis.Client)
		got := client.Options()
		assert.Equal(t, *want, redis.Options{
			Network: got.Network, Addr: got.Addr, DB: got.DB, Username: got.Username, Password: got.Password,
		}, text)
		assert.NoError(t, client.Close())
	}
}

func TestRedisURLNamesSentinelsAndClusters(t *testing.T) {
	t.Parallel()
	c := mustReadRedisURL(t, "redis-sentinel://u:p@a:1,b:2/3?master_name=m&sentinel_username=su&sentinel_password=sp")
	assert.True(t, c.sentinel)
	failover := c.Failover()
	assert.Equal(t, []string{"a:1", "b:2"}, failover.SentinelAddrs)
	assert.Equal(t, "m u p su sp 3", fmt.Sprint(failover.MasterName, " ", failover.Username, " ", failover.Password, " ",
		failover.SentinelUsername, " ", failover.SentinelPassword, " ", failover.DB))

	c = mustReadRedisURL(t, "redis-cluster://u:p@a,b:2?max_redirects=7")
	assert.True(t, c.cluster)
	cluster := c.Cluster()
	assert.Equal(t, []string{"a:6379", "b:2"}, cluster.Addrs)
	assert.Equal(t, "u p 7", fmt.Sprint(cluster.Username, " ", cluster.Password, " ", cluster.MaxRedirects))
	assert.Equal(t, []string{"a:26379"}, mustReadRedisURL(t, "redis-sentinel://a?master_name=m").Addrs)
}

func TestRedisURLSetsTheOptionsOfTheClient(t *testing.T) {
	t.Parallel()
	c := mustReadRedisURL(t, "redis://h?pool_size=7&dial_timeout=2&read_timeout=150ms&write_timeout=-1&pool_fifo=true&"+
		"client_name=me&pipeline_pool_size=-1&idle_timeout=1m&min_idle_conns=")
	assert.Equal(t, 7, c.PoolSize)
	assert.Equal(t, 2*time.Second, c.DialTimeout)
	assert.Equal(t, 150*time.Millisecond, c.ReadTimeout)
	assert.EqualValues(t, -1, c.WriteTimeout)
	assert.True(t, c.PoolFIFO)
	assert.Equal(t, "me", c.ClientName)
	assert.Equal(t, -1, c.PipelinePoolSize)
	assert.Equal(t, time.Minute, c.ConnMaxIdleTime)
	assert.Equal(t, -1, c.MaxRetries, "nothing is sent again")
	assert.False(t, c.repeat)
	assert.True(t, mustReadRedisURL(t, "redis://h?max_retries=2").repeat, "unless it is asked for")
}

func TestRedisURLWithTLSChecksTheServer(t *testing.T) {
	t.Parallel()
	for text, name := range map[string]string{
		"rediss://h.example:7":                        "h.example",
		"rediss://127.0.0.1?server_name=other":        "other",
		"rediss-cluster://a:1,b:2":                    "", // crypto/tls takes that of the host it connects to
		"rediss-cluster://a:1?server_name=x":          "x",
		"rediss-sentinel://a:1?master_name=m":         "",
		"rediss-sentinel://a?master_name=m&ca=&cert=": "",
	} {
		config := mustReadRedisURL(t, text).TLSConfig
		require.NotNil(t, config, text)
		assert.Equal(t, name, config.ServerName, text)
		assert.EqualValues(t, tls.VersionTLS12, config.MinVersion)
		assert.False(t, config.InsecureSkipVerify)
	}
	assert.Nil(t, mustReadRedisURL(t, "redis://h").TLSConfig)
}

func TestRedisURLThatIsWrongSaysWhy(t *testing.T) {
	t.Parallel()
	for text, reason := range map[string]string{
		"redis:h":                                  "form",
		"redis://h#x":                              "form",
		"redis://h/first":                          "database",
		"redis://h/-1":                             "database",
		"redis://h/1/2":                            "database",
		"redis://a:1,b:2":                          "several hosts",
		"redis://h:0":                              "port",
		"redis://h:99999":                          "port",
		"redis-cluster://a:1,,b:2":                 "host",
		"redis://h?pool_size=many":                 "option pool_size is not a number",
		"redis://h?pool_size=99999999999":          "option pool_size is not a number",
		"redis://h?pool_size=1&pool_size=2":        "option pool_size is given twice",
		"redis://h?dial_timeout=soon":              "option dial_timeout is not a duration",
		"redis://h?pool_fifo=maybe":                "option pool_fifo is not true or false",
		"redis://h?flavour=sweet":                  "unknown option flavour",
		"redis://h?skip_verify=true":               "unknown option skip_verify",
		"rediss://h?skip_verify=true":              "unknown option skip_verify",
		"redis://h?ca=/tmp/ca.pem":                 "unknown option ca",
		"redis://h?master_name=m":                  "unknown option master_name",
		"redis-cluster://h/1":                      "no databases",
		"redis-cluster://h?db=1":                   "unknown option db",
		"redis-sentinel://h":                       "master_name",
		"unix://host/path":                         "socket",
		"unix:///":                                 "socket",
		"rediss://h?cert=/tmp/c":                   "go together",
		"rediss://h?ca=/no/such/s3cr3t":            "option ca: no such file",
		"rediss://h?ca=redis_url_test.go":          "no certificate",
		"rediss://h?cert=go.mod&key=go.mod":        "options cert and key",
		"redis-sentinel://h?sentinel_password=a&b": "unknown option",
		"redis://h?hashtag=sometimes":              "hashtag",
		"redis://h?wait_replicas=-1":               "wait_replicas",
		"redis://h?wait_timeout=1m":                "wait_timeout",
		"redis://h?wait_timeout=0":                 "wait_timeout",
		"redis://h?a=%zz":                          "options do not parse",
	} {
		url, err := neturl.Parse(text)
		require.NoError(t, err, text)
		_, err = readRedisURL(url)
		require.ErrorIs(t, err, ErrBadURL, text)
		assert.ErrorContains(t, err, reason, text)
		assert.NotContains(t, err.Error(), "s3cr3t")
	}
}

func TestRedisURLErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	for _, form := range []string{
		"redis://%[1]s:%[1]s@h:x/", "redis://%[1]s:%[1]s@h/%[1]s", "redis://u:%[1]s@h?pool_size=%[1]s", "redis://u@h?%[1]s=1",
		"redis://u@h?password=x&%[1]s", "redis://%[1]s/x", "redis://u:%[1]s", "rediss://h?ca=/%[1]s", "rediss://h?cert=/%[1]s&key=%[1]s",
		"redis-sentinel://%[1]s@h", "redis-cluster://%[1]s@h/%[1]s", "unix://%[1]s@h/%[1]s", "redis://h?dial_timeout=%[1]s",
		"redis://h?pool_fifo=%[1]s", "redis:%[1]s", "redis://h:6379#%[1]s", "redis://%[1]s:%[1]s@h?a=%%zz%[1]s",
	} {
		secret := "S-" + rand.Text()[:24]
		_, err := NewBroker(fmt.Sprintf(form, secret))
		require.ErrorIs(t, err, ErrBadURL, form)
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), secret[2:20], form)
	}
}

func FuzzRedisURL(f *testing.F) {
	for _, seed := range []string{
		"redis://u:p@h:1/2?pool_size=3", "rediss-cluster://a:1,[::1]?server_name=x", "unix:///s?db=1", "redis-sentinel://,:@?master_name=m",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		url, err := neturl.Parse(text)
		if err != nil {
			return
		}
		c, err := readRedisURL(url)
		if err != nil {
			require.ErrorIs(t, err, ErrBadURL)
			return
		}
		require.NotEmpty(t, c.Addrs)
	})
}
