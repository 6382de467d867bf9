package beanstalkd

import (
	"fmt"
	"math"
	"net"
	neturl "net/url"
	"strconv"
	"time"

	"github.com/amlun/linda"
)

// config is what a URL says.
type config struct {
	addr  string
	ttr   time.Duration // whole seconds
	pri   uint64
	conns int
}

// readURL reads beanstalkd://host[:port][?options]. It is strict, so that what is
// misspelt is not silently left out.
func readURL(url *neturl.URL) (config, error) {
	c := config{ttr: time.Minute, pri: 1024, conns: 64}
	bad := func(format string, args ...any) (config, error) {
		return config{}, fmt.Errorf("%w: beanstalkd: "+format, append([]any{linda.ErrBadURL}, args...)...)
	}
	switch {
	case url.User != nil:
		return bad("the server knows no users")
	case url.Hostname() == "":
		return bad("no host")
	case url.Path != "" && url.Path != "/" || url.Fragment != "" || url.Opaque != "":
		return bad("there is something behind the host")
	}
	port := url.Port()
	if port == "" {
		port = "11300"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("the port is out of range")
	}
	c.addr = net.JoinHostPort(url.Hostname(), port)
	query, err := neturl.ParseQuery(url.RawQuery)
	if err != nil {
		return bad("the options do not parse")
	}
	for name, values := range query {
		if len(values) != 1 {
			return bad("option %q is there twice", name)
		}
		ok := false
		switch name {
		case "ttr":
			c.ttr, err = time.ParseDuration(values[0])
			ok = err == nil && c.ttr >= 3*time.Second && c.ttr <= math.MaxUint32*time.Second && c.ttr%time.Second == 0
		case "pri":
			c.pri, err = strconv.ParseUint(values[0], 10, 32)
			ok = err == nil
		case "conns":
			c.conns, err = strconv.Atoi(values[0])
			ok = err == nil && c.conns >= 2
		default:
			return bad("unknown option %q (known: conns, pri, ttr)", name)
		}
		if !ok {
			return bad("option %s is out of range: %s", name, ranges[name])
		}
	}
	return c, nil
}

var ranges = map[string]string{
	"ttr":   "whole seconds, 3s or more",
	"pri":   "0 to 4294967295",
	"conns": "2 or more",
}
