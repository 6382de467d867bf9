package nsq

import (
	"crypto/tls"
	"fmt"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerurl"
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
		addr, err := brokerurl.Host(host, defaultPort)
		if err != nil {
			return nil, badURL(err.Error())
		}
		c.hosts = append(c.hosts, addr)
	}
	var files brokerurl.TLS
	var http string
	err := brokerurl.Options(url.RawQuery, map[string]brokerurl.Reader{
		"channel":            brokerurl.Text(&c.channel, func(s string) bool { return linda.CheckName(s) == nil }),
		"lookupd":            func(s string) (ok bool) { c.lookupd, ok = webAddresses(s, 4161); return ok },
		"http":               brokerurl.Text(&http),
		"msg_timeout":        brokerurl.Duration(&c.msgTimeout, time.Second, 24*time.Hour),
		"max_msg_timeout":    brokerurl.Duration(&c.maxMsgTimeout, time.Second, 1000*time.Hour),
		"max_req_timeout":    brokerurl.Duration(&c.maxReqTimeout, time.Second, 1000*time.Hour),
		"max_msg_size":       brokerurl.Number(&c.maxMsgSize, 8<<10, 1<<30),
		"max_in_flight":      brokerurl.Number(&c.maxInFlight, 1, 1<<20),
		"heartbeat_interval": brokerurl.Duration(&c.heartbeat, time.Second, time.Minute),
		"connect_timeout":    brokerurl.Duration(&c.connectLimit, time.Millisecond, time.Minute),
		"auth_secret":        brokerurl.Text(&c.secret),
		"ca":                 brokerurl.Text(&files.CA),
		"cert":               brokerurl.Text(&files.Cert),
		"key":                brokerurl.Text(&files.Key),
		"server_name":        brokerurl.Text(&files.ServerName),
	})
	if err != nil {
		return nil, badURL(err.Error())
	}
	if err := c.readHTTP(http); err != nil {
		return nil, err
	}
	if url.Scheme == schemeTLS {
		if c.tls, err = files.Config(); err != nil {
			return nil, badURL(err.Error())
		}
	} else if !files.None() {
		return nil, badURL("options for TLS need " + schemeTLS + "://")
	}
	return c, nil
}

func badURL(reason string) error { return fmt.Errorf("%w: nsq: %s", linda.ErrBadURL, reason) }

// webAddresses reads host:port or URLs, separated by commas.
func webAddresses(list string, port int) (urls []string, ok bool) {
	for _, one := range strings.Split(list, ",") {
		web, host, isURL := strings.Cut(one, "://")
		if !isURL {
			web, host = "http", one
		}
		addr, err := brokerurl.Host(strings.TrimSuffix(host, "/"), port)
		if err != nil || web != "http" && web != "https" {
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
