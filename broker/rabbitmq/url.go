package rabbitmq

import (
	"crypto/tls"
	"fmt"
	neturl "net/url"
	"strconv"
	"strings"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerurl"
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

	files brokerurl.TLS
}

const (
	defaultHeartbeat       = 10 * time.Second
	defaultConnectTimeout  = 5 * time.Second
	defaultConsumerTimeout = 30 * time.Minute // the server's own
	defaultPrefetch        = 4000
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
	usual := 5672
	if secure {
		usual = 5671
	}
	var err error
	if c.addrs, err = brokerurl.Hosts(url.Host, usual); err != nil {
		return nil, badURL(err.Error())
	}
	if err = brokerurl.Options(url.RawQuery, c.options()); err != nil {
		return nil, badURL(err.Error())
	}
	if secure {
		if c.tls, err = c.files.Config(); err != nil {
			return nil, badURL(err.Error())
		}
	} else if !c.files.None() {
		return nil, badURL("options for TLS need amqps://")
	}
	return c, nil
}

func badURL(reason string) error { return fmt.Errorf("%w: rabbitmq: %s", linda.ErrBadURL, reason) }

// options are the ways to read the value of each option. Those that the client
// library knows too have its names and units.
func (c *config) options() map[string]brokerurl.Reader {
	return map[string]brokerurl.Reader{
		"queue_type":             brokerurl.OneOf(&c.queueType, "quorum", "classic"),
		"prefix":                 brokerurl.Text(&c.prefix, isPrefix),
		"delay_prefix":           brokerurl.Text(&c.delays, isPrefix),
		"prefetch":               brokerurl.Number(&c.prefetch, 1, 65535),
		"heartbeat":              duration(&c.heartbeat, time.Second, time.Second, time.Hour),
		"connection_timeout":     duration(&c.connectTimeout, time.Millisecond, time.Millisecond, time.Minute),
		"consumer_timeout":       duration(&c.consumerTimeout, time.Millisecond, time.Second, 1000*24*time.Hour),
		"new_queue_wait":         duration(&c.ripe, time.Millisecond, 0, time.Minute),
		"cacertfile":             brokerurl.Text(&c.files.CA),
		"certfile":               brokerurl.Text(&c.files.Cert),
		"keyfile":                brokerurl.Text(&c.files.Key),
		"server_name_indication": brokerurl.Text(&c.files.ServerName),
	}
}

// isPrefix reports whether names on the server can begin so.
func isPrefix(text string) bool {
	return len(text) <= maxPrefix && !strings.HasPrefix(text, "amq.") &&
		!strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == '*' || r == '#' })
}

// duration reads "10s", or a bare number of the unit.
func duration(to *time.Duration, unit, least, most time.Duration) brokerurl.Reader {
	return func(value string) bool {
		if _, err := strconv.ParseInt(value, 10, 32); err == nil {
			var n int64
			ok := brokerurl.Number(&n, int64((least+unit-1)/unit), int64(most/unit))(value)
			*to = time.Duration(n) * unit
			return ok
		}
		return brokerurl.Duration(to, least, most)(value)
	}
}

// leaseMax is the longest reservation: the server takes a delivery back, and
// all others of its channel with it, soon after the time-out.
func (c *config) leaseMax() time.Duration { return c.consumerTimeout - c.consumerTimeout/6 }
