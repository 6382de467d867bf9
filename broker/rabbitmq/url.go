package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/amlun/linda"
)

// config is what a URL says.
type config struct {
	addrs          []string // host:port of the nodes of one cluster
	user, password string
	vhost          string
	tls            *tls.Config // nil: none

	queueType       string // quorum or classic; empty: quorum where the server has it
	prefix          string // before the names of queues
	delays          string // before the names of the exchanges and queues for delays
	prefetch        int    // how many jobs the server may have handed out of one queue to one broker
	heartbeat       time.Duration
	connectTimeout  time.Duration
	consumerTimeout time.Duration // how long the server lets a delivery be held
	ripe            time.Duration // how old a quorum queue is before it is relied on

	ca, cert, key, serverName string
}

const (
	defaultHeartbeat       = 10 * time.Second
	defaultConnectTimeout  = 5 * time.Second
	defaultConsumerTimeout = 30 * time.Minute // the server's own
	defaultPrefetch        = 2000
	defaultRipe            = 1500 * time.Millisecond
	maxPrefix              = 64
)

// readURL reads amqp[s]://[user:password@]host[:port],...[/vhost][?options]. An
// error shows nothing of the URL that may be secret.
func readURL(url *neturl.URL) (*config, error) {
	c := &config{
		user: "guest", password: "guest", vhost: "/", delays: "linda:delay", prefetch: defaultPrefetch,
		heartbeat: defaultHeartbeat, connectTimeout: defaultConnectTimeout, consumerTimeout: defaultConsumerTimeout,
		ripe: defaultRipe,
	}
	if url.Opaque != "" || url.Fragment != "" {
		return nil, badURL("it has not the form of one")
	}
	if url.User != nil {
		c.user = url.User.Username()
		c.password, _ = url.User.Password()
	}
	if len(url.Path) > 1 {
		c.vhost = url.Path[1:]
	}
	secure := url.Scheme == "amqps"
	if err := c.readHosts(url.Host, secure); err != nil {
		return nil, err
	}
	if err := c.readOptions(url.RawQuery); err != nil {
		return nil, err
	}
	if !secure {
		if c.ca+c.cert+c.key+c.serverName != "" {
			return nil, badURL("options for TLS need amqps://")
		}
		return c, nil
	}
	return c, c.readTLS()
}

func badURL(reason string) error { return fmt.Errorf("%w: rabbitmq: %s", linda.ErrBadURL, reason) }

func (c *config) readHosts(hosts string, secure bool) error {
	usual := "5672"
	if secure {
		usual = "5671"
	}
	for _, host := range strings.Split(hosts, ",") {
		place := neturl.URL{Host: host}
		name, port := place.Hostname(), place.Port()
		if strings.ContainsAny(name, ":[]") && net.ParseIP(name) == nil || name == "" && strings.Contains(hosts, ",") {
			return badURL("a host is wrong")
		}
		if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) {
			return badURL("a port is wrong")
		}
		if name == "" {
			name = "localhost"
		}
		if port == "" {
			port = usual
		}
		c.addrs = append(c.addrs, net.JoinHostPort(name, port))
	}
	return nil
}

// readOptions reads the options. Those that the client library knows too have
// its names and units.
func (c *config) readOptions(query string) error {
	options, err := neturl.ParseQuery(query)
	if err != nil {
		return badURL("the options do not parse")
	}
	for name, values := range options {
		read, known := c.options()[name]
		switch {
		case !known:
			return badURL(fmt.Sprintf("unknown option %.40q", name))
		case len(values) > 1:
			return badURL("option " + name + " is there twice")
		case !read(values[0]):
			return badURL("option " + name + " has a wrong value")
		}
	}
	return nil
}

// options are the ways to read the value of each option.
func (c *config) options() map[string]func(value string) bool {
	return map[string]func(string) bool{
		"queue_type":             oneOf(&c.queueType, "quorum", "classic"),
		"prefix":                 name(&c.prefix),
		"delay_prefix":           name(&c.delays),
		"prefetch":               number(&c.prefetch, 1, 65535),
		"heartbeat":              duration(&c.heartbeat, time.Second, time.Second, time.Hour),
		"connection_timeout":     duration(&c.connectTimeout, time.Millisecond, time.Millisecond, time.Minute),
		"consumer_timeout":       duration(&c.consumerTimeout, time.Millisecond, time.Second, 1000*24*time.Hour),
		"new_queue_wait":         duration(&c.ripe, time.Millisecond, 0, time.Minute),
		"cacertfile":             text(&c.ca),
		"certfile":               text(&c.cert),
		"keyfile":                text(&c.key),
		"server_name_indication": text(&c.serverName),
	}
}

func text(to *string) func(string) bool {
	return func(value string) bool { *to = value; return value != "" }
}

func oneOf(to *string, choices ...string) func(string) bool {
	return func(value string) bool {
		for _, choice := range choices {
			if value == choice {
				*to = value
				return true
			}
		}
		return false
	}
}

// name is the beginning of names on the server.
func name(to *string) func(string) bool {
	return func(value string) bool {
		*to = value
		return len(value) <= maxPrefix && value != "" && !strings.HasPrefix(value, "amq.") &&
			!strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == '*' || r == '#' })
	}
}

func number(to *int, least, most int) func(string) bool {
	return func(value string) bool {
		n, err := strconv.Atoi(value)
		*to = n
		return err == nil && least <= n && n <= most
	}
}

// duration reads "10s", or a bare number of the unit.
func duration(to *time.Duration, unit, least, most time.Duration) func(string) bool {
	return func(value string) bool {
		d, err := time.ParseDuration(value)
		if n, numberErr := strconv.ParseInt(value, 10, 32); numberErr == nil {
			d, err = time.Duration(n)*unit, nil
		}
		*to = d
		return err == nil && least <= d && d <= most
	}
}

func (c *config) readTLS() error {
	c.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return badURL("cacertfile cannot be read")
		}
		c.tls.RootCAs = x509.NewCertPool()
		if !c.tls.RootCAs.AppendCertsFromPEM(pem) {
			return badURL("cacertfile holds no certificate")
		}
	}
	if c.cert == "" && c.key == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return badURL("certfile and keyfile are no pair of certificate and key")
	}
	c.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// leaseMax is the longest reservation: the server takes a delivery back, and
// all others of its channel with it, soon after the time-out.
func (c *config) leaseMax() time.Duration { return c.consumerTimeout - c.consumerTimeout/6 }
