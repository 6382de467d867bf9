// Package brokerurl reads what the URLs of brokers have in common: hosts,
// options and the files of TLS. No error shows a value, since it may be secret.
package brokerurl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hosts returns the hosts of a URL, separated by commas, with their ports. Where
// there is only one, and it has no name, it is localhost.
func Hosts(list string, usual int) (addrs []string, err error) {
	if !strings.Contains(list, ",") {
		list = Local(list)
	}
	for _, host := range strings.Split(list, ",") {
		addr, err := Host(host, usual)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// Local returns host[:port], as it stands in a URL, with the name localhost where
// it has none.
func Local(host string) string {
	if host == "" || host[0] == ':' {
		return "localhost" + host
	}
	return host
}

// Host returns host[:port], as it stands in a URL, with its port, which is the
// usual one by default.
func Host(host string, usual int) (addr string, err error) {
	u := neturl.URL{Host: host}
	name, port := u.Hostname(), u.Port()
	if port == "" {
		port = strconv.Itoa(usual)
	}
	n, err := strconv.Atoi(port)
	switch {
	case name == "":
		return "", errors.New("a host is missing")
	case err != nil || n < 1 || n > 65535 || strings.ContainsAny(name, ":[]") && net.ParseIP(name) == nil:
		return "", errors.New("a host or its port is wrong")
	}
	return net.JoinHostPort(name, port), nil
}

// Reader reads the value of an option, and reports whether it is a right one.
type Reader func(value string) bool

// shown is what may be told of an unknown option: a password with an & in it
// has no "=" behind what looks like a name.
var shown = regexp.MustCompile(`^[a-z_]{1,40}=`)

// Options gives each option of a query to its reader. One that is unknown,
// there twice or wrong is an error.
func Options(query string, readers map[string]Reader) error {
	options, err := neturl.ParseQuery(query)
	if err != nil {
		return errors.New("the options do not parse")
	}
	for name, values := range options {
		read, known := readers[name]
		switch {
		case !known:
			return Unknown(query, name)
		case len(values) > 1:
			return fmt.Errorf("option %s is there twice", name)
		case !read(values[0]):
			return fmt.Errorf("option %s has a wrong value", name)
		}
	}
	return nil
}

// Unknown is the error of an option of a query that nobody knows.
func Unknown(query, name string) error {
	if slices.ContainsFunc(strings.Split(query, "&"), func(part string) bool {
		return strings.HasPrefix(part, name+"=") && shown.MatchString(part)
	}) {
		return fmt.Errorf("unknown option %s", name)
	}
	return errors.New("unknown option")
}

// Text reads a text that is not empty and for which all conditions hold.
func Text(to *string, conditions ...func(string) bool) Reader {
	return func(value string) bool {
		*to = value
		return value != "" && !slices.ContainsFunc(conditions, func(holds func(string) bool) bool { return !holds(value) })
	}
}

// OneOf reads one of the choices.
func OneOf(to *string, choices ...string) Reader {
	return Text(to, func(value string) bool { return slices.Contains(choices, value) })
}

// Bool reads what [strconv.ParseBool] does.
func Bool(to *bool) Reader {
	return func(value string) bool {
		var err error
		*to, err = strconv.ParseBool(value)
		return err == nil
	}
}

// Number reads a decimal number from least to most.
func Number[T int | int16 | int32 | int64 | uint32](to *T, least, most T) Reader {
	return func(value string) bool {
		n, err := strconv.ParseInt(value, 10, 64)
		*to = T(n)
		return err == nil && int64(least) <= n && n <= int64(most)
	}
}

// Duration reads a duration from least to most, such as 10s.
func Duration(to *time.Duration, least, most time.Duration) Reader {
	return func(value string) bool {
		d, err := time.ParseDuration(value)
		*to = d
		return err == nil && least <= d && d <= most
	}
}

// TLS are the files of a URL with TLS; each may be missing.
type TLS struct {
	CA         string // authorities, in place of the system's
	Cert, Key  string // what the client shows
	ServerName string // what to check for, in place of the host's name
}

// None reports whether nothing is set.
func (t TLS) None() bool { return t == TLS{} }

// Config reads the files. The server's name is checked, always.
func (t TLS) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, errors.New("the file of the authority cannot be read")
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the file of the authority holds no certificate")
		}
	}
	if t.Cert == "" && t.Key == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, errors.New("the files of certificate and key are no pair")
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
