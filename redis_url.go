package linda

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	neturl "net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amlun/linda/internal/brokerurl"
)

const redisWriteBuffer = 64 << 10 // bytes, of each connection

// redisConfig is what a URL says about a Redis service.
type redisConfig struct {
	redis.UniversalOptions
	network  string // of a single server: tcp or unix
	sentinel bool   // Addrs are sentinels, who know the server
	cluster  bool   // Addrs are some nodes of a cluster
	repeat   bool   // a command whose outcome is unknown is sent again

	hashtag string // "always": name the keys as on a cluster
	wait    replicaWait

	ca, cert, key, serverName string // TLS
}

// redisSchemes are the URL schemes, and what each says.
var redisSchemes = map[string]redisConfig{
	"redis":           {network: "tcp"},
	"rediss":          {network: "tcp"},
	"unix":            {network: "unix"},
	"redis+unix":      {network: "unix"},
	"redis-sentinel":  {sentinel: true},
	"rediss-sentinel": {sentinel: true},
	"redis-cluster":   {cluster: true},
	"rediss-cluster":  {cluster: true},
}

// readRedisURL reads a URL
//
//	redis://[user:password@]host[:port][/db][?options]
//	unix://[user:password@]/path/of/socket[?options]
//	redis-sentinel://[user:password@]host:port,host:port[/db]?master_name=name[&options]
//	redis-cluster://[user:password@]host:port,host:port[?options]
//
// where rediss instead of redis is for TLS. An error shows nothing of the URL
// that may be secret.
func readRedisURL(url *neturl.URL) (*redisConfig, error) {
	c, known := redisSchemes[url.Scheme]
	if !known || url.Opaque != "" || url.Fragment != "" {
		return nil, badRedisURL("it has not the form of one")
	}
	secure := strings.HasPrefix(url.Scheme, "rediss")
	c.Username = url.User.Username()
	c.Password, _ = url.User.Password()
	c.ContextTimeoutEnabled = true
	c.DialerRetries = 1 // linda tries again itself, with its own backoff
	// A command that is sent again may be carried out twice. What can be
	// repeated is repeated by linda.
	c.MaxRetries = -1
	// linda needs nothing of version 3, which has the client look for
	// notifications before each command, by a system call.
	c.Protocol = 2
	// Of a batch of a thousand jobs more leaves at once than of the usual 32 KiB, which
	// has the server begin later and wait less.
	c.WriteBufferSize = redisWriteBuffer
	if err := c.readPlace(url); err != nil {
		return nil, err
	}
	if err := c.readOptions(url.RawQuery, secure); err != nil {
		return nil, err
	}
	c.repeat = c.MaxRetries > 0
	if c.wait.timeout == 0 {
		c.wait.timeout = redisWait
	}
	switch {
	case c.DB < 0:
		return nil, badRedisURL("the database is less than 0")
	case c.cluster && c.DB != 0:
		return nil, badRedisURL("a cluster has no databases")
	case c.hashtag != "" && c.hashtag != "always":
		return nil, badRedisURL("option hashtag is not always")
	case c.wait.replicas < 0 || c.wait.timeout < 0 || c.wait.timeout > redisWaitMost:
		return nil, badRedisURL("wait_replicas is less than 0, or wait_timeout not between 0 and " + redisWaitMost.String())
	case c.sentinel && c.MasterName == "":
		return nil, badRedisURL("sentinels need the option master_name")
	}
	if secure {
		c.DialTimeout = cmp.Or(c.DialTimeout, redisHandshake)
		return &c, c.readTLS()
	}
	return &c, nil
}

// redisHandshake is how long connecting takes at most by TLS, unless the URL
// says otherwise. A server without TLS waits for the end of a line in what it
// takes for a command, and would be told of after the time limit of the call.
const redisHandshake = 1500 * time.Millisecond

func badRedisURL(reason string) error { return fmt.Errorf("%w: redis: %s", ErrBadURL, reason) }

// readPlace reads the hosts and the database, or the socket.
func (c *redisConfig) readPlace(url *neturl.URL) error {
	if c.network == "unix" {
		if url.Host != "" || len(url.Path) < 2 {
			return badRedisURL("a socket is three slashes and a path, as in unix:///run/redis.sock")
		}
		c.Addrs = []string{url.Path}
		return nil
	}
	usual := 6379
	if c.sentinel {
		usual = 26379
	}
	var err error
	if c.Addrs, err = brokerurl.Hosts(url.Host, usual); err != nil {
		return badRedisURL(err.Error())
	}
	if c.network == "tcp" && len(c.Addrs) > 1 {
		return badRedisURL("several hosts are for redis-sentinel:// and redis-cluster://")
	}
	if path := strings.Trim(url.Path, "/"); path != "" {
		db, err := strconv.Atoi(path)
		if err != nil {
			return badRedisURL("the database is not a number")
		}
		c.DB = db
	}
	return nil
}

// options maps the names of the options, which are those of go-redis where it
// has them, to what they set.
func (c *redisConfig) options(secure bool) map[string]any {
	options := map[string]any{
		"username": &c.Username, "password": &c.Password, "client_name": &c.ClientName, "protocol": &c.Protocol,
		"max_retries": &c.MaxRetries, "min_retry_backoff": &c.MinRetryBackoff, "max_retry_backoff": &c.MaxRetryBackoff,
		"dial_timeout": &c.DialTimeout, "read_timeout": &c.ReadTimeout, "write_timeout": &c.WriteTimeout,
		"pool_fifo": &c.PoolFIFO, "pool_size": &c.PoolSize, "pool_timeout": &c.PoolTimeout,
		"min_idle_conns": &c.MinIdleConns, "max_idle_conns": &c.MaxIdleConns, "max_active_conns": &c.MaxActiveConns,
		"max_concurrent_dials": &c.MaxConcurrentDials, "pipeline_pool_size": &c.PipelinePoolSize,
		"pipeline_read_buffer_size": &c.PipelineReadBufferSize, "pipeline_write_buffer_size": &c.PipelineWriteBufferSize,
		"conn_max_idle_time": &c.ConnMaxIdleTime, "idle_timeout": &c.ConnMaxIdleTime,
		"conn_max_lifetime": &c.ConnMaxLifetime, "max_conn_age": &c.ConnMaxLifetime,
		"conn_max_lifetime_jitter": &c.ConnMaxLifetimeJitter,
		"hashtag":                  &c.hashtag, "wait_replicas": &c.wait.replicas, "wait_timeout": &c.wait.timeout,
	}
	if c.sentinel {
		options["master_name"] = &c.MasterName
		options["sentinel_username"], options["sentinel_password"] = &c.SentinelUsername, &c.SentinelPassword
	}
	if c.cluster {
		options["max_redirects"] = &c.MaxRedirects
	} else {
		options["db"] = &c.DB
	}
	if secure {
		options["ca"], options["cert"], options["key"], options["server_name"] = &c.ca, &c.cert, &c.key, &c.serverName
	}
	return options
}

func (c *redisConfig) readOptions(query string, secure bool) error {
	values, err := neturl.ParseQuery(query)
	if err != nil {
		return badRedisURL("its options do not parse")
	}
	options := c.options(secure)
	for name, given := range values {
		field, known := options[name]
		if !known {
			return badRedisURL(brokerurl.Unknown(query, name).Error())
		}
		if len(given) > 1 {
			return badRedisURL("option " + name + " is given twice")
		}
		if given[0] == "" {
			continue
		}
		if wrong := setOption(field, given[0]); wrong != "" {
			return badRedisURL("option " + name + " is not " + wrong)
		}
	}
	return nil
}

// setOption reads a value into a field, and returns what the value should have
// been if it cannot be read.
func setOption(field any, value string) (wrong string) {
	switch f := field.(type) {
	case *string:
		*f = value
	case *int:
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < -1 || n > 1<<30 {
			return "a number"
		}
		*f = int(n)
	case *bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return "true or false"
		}
		*f = b
	case *time.Duration:
		d, err := time.ParseDuration(value)
		if n, number := strconv.ParseInt(value, 10, 32); number == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil {
			return "a duration"
		}
		if d <= 0 {
			d = -1 // none
		}
		*f = d
	}
	return ""
}

// readTLS sets up TLS with the certificates of the system, or those of ca.
// Nothing turns the check of the server's certificate off.
func (c *redisConfig) readTLS() error {
	c.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if c.network == "tcp" && c.serverName == "" {
		c.TLSConfig.ServerName, _, _ = net.SplitHostPort(c.Addrs[0])
	} // of several hosts, crypto/tls checks each against its own name
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return badRedisURL("option ca: " + fileReason(err))
		}
		c.TLSConfig.RootCAs = x509.NewCertPool()
		if !c.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return badRedisURL("option ca: there is no certificate in the file")
		}
	}
	if (c.cert == "") != (c.key == "") {
		return badRedisURL("options cert and key go together")
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return badRedisURL("options cert and key: " + fileReason(err))
		}
		c.TLSConfig.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// fileReason tells what is wrong with a file, without its name or content.
func fileReason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return "the file is not what it should be"
}

// open returns a client. It does not connect yet.
func (c *redisConfig) open() redis.UniversalClient {
	switch {
	case c.cluster:
		options := c.Cluster()
		options.DisableRoutingPolicies = true // the server would be asked about all its commands
		return redis.NewClusterClient(options)
	case c.sentinel:
		return redis.NewFailoverClient(c.Failover())
	default:
		options := c.Simple()
		options.Network = c.network
		return redis.NewClient(options)
	}
}

// openBlocking returns a client for commands that wait in the server.
func (c *redisConfig) openBlocking() redis.UniversalClient {
	blocking := *c
	blocking.ReadTimeout = redisBlock + callLimit
	blocking.MinIdleConns = 0
	blocking.PipelinePoolSize = -1
	return blocking.open()
}
