package linda

import (
	"fmt"
	neturl "net/url"
	"slices"
	"strings"
	"sync"
)

var registry = struct {
	sync.RWMutex
	byScheme map[string]func() Broker // guarded by RWMutex
}{byScheme: make(map[string]func() Broker)}

// RegisterBroker makes a broker available under a URL scheme, usually from the
// init function of its package. It panics if the scheme is empty or taken, or
// if open is nil; open must return a new broker at every call.
func RegisterBroker(scheme string, open func() Broker) {
	registry.Lock()
	defer registry.Unlock()
	if scheme == "" || open == nil {
		panic("linda: RegisterBroker needs a scheme and a function")
	}
	if _, taken := registry.byScheme[scheme]; taken {
		panic("linda: RegisterBroker called twice for scheme " + scheme)
	}
	registry.byScheme[scheme] = open
}

// NewBroker opens the broker at a URL such as redis://localhost:6379/ or
// memory://. The URL's scheme chooses the kind, and each call opens a
// connection of its own, which the caller closes. Errors never show the URL,
// since it may hold a password.
func NewBroker(url string) (Broker, error) {
	u, err := neturl.Parse(url)
	if err != nil || strings.Contains(u.EscapedPath()+u.RawQuery+u.EscapedFragment(), "@") {
		// The parse error quotes the URL, password included. An @ behind the
		// host follows a password with a slash, a ? or a # in it.
		return nil, fmt.Errorf("%w: it does not parse (special characters in a password are written %%XX)", ErrBadURL)
	}
	registry.RLock()
	open, known := registry.byScheme[u.Scheme]
	registry.RUnlock()
	if !known {
		return nil, unknownScheme(u.Scheme)
	}
	b := open()
	if err := b.Connect(u); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// imported tells in which package the brokers outside the root live.
var imported = map[string]string{
	"beanstalkd": "beanstalkd", "beanstalk": "beanstalkd",
	"nsq":   "nsq",
	"kafka": "kafka", "kafka+tls": "kafka",
	"amqp": "rabbitmq", "amqps": "rabbitmq",
}

func unknownScheme(scheme string) error {
	if pkg, ok := imported[scheme]; ok {
		return fmt.Errorf("%w: no broker for %s:// (forgotten import _ \"github.com/amlun/linda/broker/%s\"?)", ErrBadURL, scheme, pkg)
	}
	registry.RLock()
	defer registry.RUnlock()
	known := make([]string, 0, len(registry.byScheme))
	for s := range registry.byScheme {
		known = append(known, s+"://")
	}
	slices.Sort(known)
	// Without "//" the scheme may be any text before a colon, even a user name.
	return fmt.Errorf("%w: unknown scheme (known: %s; forgotten import?)", ErrBadURL, strings.Join(known, ", "))
}
