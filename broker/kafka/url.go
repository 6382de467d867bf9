package kafka

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

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/amlun/linda"
)

// config is what a URL says.
type config struct {
	url         string // whole, with its password: not to be shown
	hosts       []string
	group       string // start of the names of the groups
	prefix      string // start of the names of the topics
	partitions  int32  // of a topic that is created
	replication int16
	create      bool
	lock        time.Duration // of a record that is reserved, renewed at a third of it
	trim        string        // trimOff, trimCreated or trimAll
	trimEvery   time.Duration
	mechanism   sasl.Mechanism
	tls         *tls.Config
}

// readURL reads a URL
//
//	kafka://[user:password@]host[:port][,host[:port]...][?options]
//
// where kafka+tls is for TLS. An error shows nothing of it that may be secret.
func readURL(url *neturl.URL) (*config, error) {
	c := &config{url: url.String(), group: "linda", partitions: 12, replication: -1, create: true, lock: 30 * time.Second}
	c.trim, c.trimEvery = trimCreated, time.Minute
	if url.Opaque != "" || url.Fragment != "" || url.Path != "" && url.Path != "/" {
		return nil, badURL("it has not the form of one")
	}
	for _, host := range strings.Split(url.Host, ",") {
		addr, err := address(host)
		if err != nil {
			return nil, err
		}
		c.hosts = append(c.hosts, addr)
	}
	var ca, method string
	mode := "auto"
	err := c.readOptions(url.RawQuery, map[string]func(string) error{
		"group":       text(&c.group, func(s string) bool { return linda.CheckName(s) == nil }),
		"prefix":      text(&c.prefix, func(s string) bool { return linda.CheckName(s) == nil }),
		"partitions":  func(s string) error { return number(s, &c.partitions, 1, 1000) },
		"replication": func(s string) error { return number(s, &c.replication, 1, 100) },
		"create":      func(s string) (err error) { c.create, err = strconv.ParseBool(s); return err },
		"lock":        func(s string) error { return duration(s, &c.lock) },
		"mode":        text(&mode, func(s string) bool { return s == "auto" || s == "share" }),
		"trim":        text(&c.trim, func(s string) bool { return s == trimOff || s == trimCreated || s == trimAll }),
		"trim_every":  func(s string) error { return duration(s, &c.trimEvery) },
		"sasl":        text(&method, func(string) bool { return true }),
		"ca":          text(&ca, func(string) bool { return true }),
	})
	if err != nil {
		return nil, err
	}
	if url.Scheme == schemeTLS {
		if c.tls, err = trust(ca); err != nil {
			return nil, err
		}
	} else if ca != "" {
		return nil, badURL("option ca is for " + schemeTLS + "://")
	}
	c.mechanism, err = mechanism(method, url.User)
	return c, err
}

func badURL(reason string) error { return fmt.Errorf("%w: kafka: %s", linda.ErrBadURL, reason) }

// address returns a host with its port, the usual one by default.
func address(host string) (string, error) {
	u := neturl.URL{Host: host}
	name, port := u.Hostname(), u.Port()
	if name == "" {
		name = "localhost"
	}
	if port == "" {
		port = "9092"
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || strings.ContainsAny(name, ":[]") && net.ParseIP(name) == nil {
		return "", badURL("a host or its port is wrong")
	}
	return net.JoinHostPort(name, port), nil
}

// readOptions gives each option of a query to its reader. An option that is
// unknown, there twice or wrong is an error that names it.
func (c *config) readOptions(query string, readers map[string]func(string) error) error {
	options, err := neturl.ParseQuery(query)
	if err != nil {
		return badURL("its options do not parse")
	}
	for name, values := range options {
		read, known := readers[name]
		switch {
		case !known:
			return badURL(fmt.Sprintf("unknown option %.64q", name))
		case len(values) > 1:
			return badURL("option " + name + " is there twice")
		case read(values[0]) != nil:
			return badURL("option " + name + " has a wrong value")
		}
	}
	return nil
}

func text(to *string, ok func(string) bool) func(string) error {
	return func(s string) error {
		if s == "" || !ok(s) {
			return strconv.ErrSyntax
		}
		*to = s
		return nil
	}
}

func number[T int16 | int32](s string, to *T, least, most T) error {
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil || T(n) < least || T(n) > most {
		return strconv.ErrRange
	}
	*to = T(n)
	return nil
}

// duration reads a time from 1 s to 1 h: the most that the server takes for a
// lock, of which it usually takes 15 s to 60 s.
func duration(s string, to *time.Duration) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > time.Hour {
		return strconv.ErrRange
	}
	*to = d
	return nil
}

func trust(file string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return c, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, badURL("the file of option ca cannot be read")
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, badURL("the file of option ca holds no certificate")
	}
	return c, nil
}

func mechanism(name string, user *neturl.Userinfo) (sasl.Mechanism, error) {
	if user == nil {
		if name != "" {
			return nil, badURL("option sasl needs a user and a password")
		}
		return nil, nil
	}
	password, _ := user.Password()
	switch name {
	case "", "plain":
		return plain.Auth{User: user.Username(), Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, badURL("option sasl is none of plain, scram-sha-256 and scram-sha-512")
}

// clientOptions are what every connection has in common.
func (c *config) clientOptions() []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(c.hosts...),
		kgo.ClientID("linda"),
		kgo.DialTimeout(3 * time.Second),
		kgo.RequestTimeoutOverhead(callLimit),
		kgo.RetryTimeout(callLimit),
		kgo.RetryBackoffFn(backoff),
		kgo.ConnIdleTimeout(5 * time.Minute), // a session ends with its connection
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.DisableClientMetrics(),
	}
	if c.tls != nil {
		options = append(options, kgo.DialTLSConfig(c.tls))
	}
	if c.mechanism != nil {
		options = append(options, kgo.SASL(c.mechanism))
	}
	return options
}
