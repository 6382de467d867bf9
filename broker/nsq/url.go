package nsq

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

const (
	scheme    = "nsq"
	schemeTLS = "nsq+tls"
)

// What the server's limits are by its own defaults.
const (
	defaultMaxReq  = time.Hour
	defaultMaxSize = 1 << 20
	defaultPort    = 4150
)

// config is what a URL says.
type config struct {
	hosts   []string // host:port of the nsqds
	http    []string // URLs of their HTTP, in the same order; none: there is none
	lookupd []string // URLs of nsqlookupds
	channel string

	msgTimeout    time.Duration
	maxMsgTimeout time.Duration // 0: the server's
	maxReqTimeout time.Duration // 0: the server's
	maxMsgSize    int           // 0: the server's
	maxInFlight   int
	heartbeat     time.Duration
	connectLimit  time.Duration
	secret        string
	tls           *tls.Config // nil: none
}

// readURL reads nsq[+tls]://host[:port],...[?options]. An error shows nothing of
// it that may be secret.
func readURL(url *neturl.URL) (*config, error) {
	c := &config{
		channel: "linda", msgTimeout: time.Minute, maxInFlight: 2000,
		heartbeat: 10 * time.Second, connectLimit: 5 * time.Second,
	}
	switch {
	case url.Opaque != "" || url.Fragment != "" || url.Path != "" && url.Path != "/":
		return nil, badURL("it has not the form of one")
	case url.User != nil:
		return nil, badURL("the server knows no users; see the option auth_secret")
	}
	for _, host := range strings.Split(url.Host, ",") {
		addr, ok := address(host, defaultPort)
		if !ok {
			return nil, badURL("a host or its port is wrong")
		}
		c.hosts = append(c.hosts, addr)
	}
	var ca, cert, key, serverName, http string
	err := readOptions(url.RawQuery, map[string]func(string) bool{
		"channel":            func(s string) bool { c.channel = s; return linda.CheckName(s) == nil },
		"lookupd":            func(s string) (ok bool) { c.lookupd, ok = webAddresses(s, 4161); return ok },
		"http":               text(&http),
		"msg_timeout":        duration(&c.msgTimeout, time.Second, 24*time.Hour),
		"max_msg_timeout":    duration(&c.maxMsgTimeout, time.Second, 1000*time.Hour),
		"max_req_timeout":    duration(&c.maxReqTimeout, time.Second, 1000*time.Hour),
		"max_msg_size":       number(&c.maxMsgSize, 8<<10, 1<<30),
		"max_in_flight":      number(&c.maxInFlight, 1, 1<<20),
		"heartbeat_interval": duration(&c.heartbeat, time.Second, time.Minute),
		"connect_timeout":    duration(&c.connectLimit, time.Millisecond, time.Minute),
		"auth_secret":        text(&c.secret),
		"ca":                 text(&ca), "cert": text(&cert), "key": text(&key), "server_name": text(&serverName),
	})
	if err != nil {
		return nil, err
	}
	if err := c.readHTTP(http); err != nil {
		return nil, err
	}
	if url.Scheme == schemeTLS {
		c.tls, err = trust(ca, cert, key, serverName)
		return c, err
	}
	if ca+cert+key+serverName != "" {
		return nil, badURL("options for TLS need " + schemeTLS + "://")
	}
	return c, nil
}

func badURL(reason string) error { return fmt.Errorf("%w: nsq: %s", linda.ErrBadURL, reason) }

// address returns a host with its port.
func address(host string, port int) (string, bool) {
	u := neturl.URL{Host: host}
	name, text := u.Hostname(), u.Port()
	if text != "" {
		port, _ = strconv.Atoi(text)
	}
	ok := name != "" && 0 < port && port < 65536 && (!strings.ContainsAny(name, ":[]") || net.ParseIP(name) != nil)
	return net.JoinHostPort(name, strconv.Itoa(port)), ok
}

// webAddresses reads host:port or URLs, separated by commas.
func webAddresses(list string, port int) (urls []string, ok bool) {
	for _, one := range strings.Split(list, ",") {
		web, host, isURL := strings.Cut(one, "://")
		if !isURL {
			web, host = "http", one
		}
		addr, ok := address(strings.TrimSuffix(host, "/"), port)
		if !ok || web != "http" && web != "https" {
			return nil, false
		}
		urls = append(urls, web+"://"+addr)
	}
	return urls, true
}

// readHTTP finds where the nsqds tell of their queues.
func (c *config) readHTTP(option string) error {
	switch option {
	case "off":
		return nil
	case "":
		for _, host := range c.hosts {
			name, port, _ := net.SplitHostPort(host)
			n, _ := strconv.Atoi(port)
			c.http = append(c.http, "http://"+net.JoinHostPort(name, strconv.Itoa(n+1)))
		}
		return nil
	}
	urls, ok := webAddresses(option, defaultPort+1)
	if !ok || len(urls) != len(c.hosts) {
		return badURL("option http has a wrong value, or not one for each host")
	}
	c.http = urls
	return nil
}

// readOptions gives each option of a query to its reader.
func readOptions(query string, readers map[string]func(string) bool) error {
	options, err := neturl.ParseQuery(query)
	if err != nil {
		return badURL("the options do not parse")
	}
	for name, values := range options {
		read, known := readers[name]
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

func text(to *string) func(string) bool {
	return func(value string) bool { *to = value; return value != "" }
}

func number(to *int, least, most int) func(string) bool {
	return func(value string) bool {
		n, err := strconv.Atoi(value)
		*to = n
		return err == nil && least <= n && n <= most
	}
}

func duration(to *time.Duration, least, most time.Duration) func(string) bool {
	return func(value string) bool {
		d, err := time.ParseDuration(value)
		*to = d
		return err == nil && least <= d && d <= most
	}
}

// trust is the TLS of a URL. The server's name is checked, always.
func trust(ca, cert, key, serverName string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, badURL("ca cannot be read")
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, badURL("ca holds no certificate")
		}
	}
	if cert == "" && key == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, badURL("cert and key are no pair of certificate and key")
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
