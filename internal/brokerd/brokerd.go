// Package brokerd starts real broker servers for tests and benchmarks, each on free loopback ports and in a
// temporary folder of its own, and ends them by process id. Each kind of server is one file: see redis.go.
package brokerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// ErrNotInstalled is returned, wrapped, by Start when the kind's program is not on PATH.
var ErrNotInstalled = errors.New("brokerd: not on PATH")

// Kind describes one kind of broker server; its values, such as Redis, are declared in this package and never changed.
type Kind struct {
	name   string   // as written in LINDA_TEST_REQUIRE and in folder names
	binary string   // looked up on PATH
	places []string // where else it may be
	ports  int      // how many it listens on

	// lacking says what is not there when Start returns ErrNotInstalled, where that may be more than the binary.
	lacking string
	remedy  string // what to do then, where that is another than usual

	// command builds a fresh command, in the foreground and logging to stdout. It runs before every start of the
	// server, a restart too, so what it writes into the folder must not destroy the data there. Its error wraps
	// ErrNotInstalled where more than the binary is needed and is not there.
	command func(context.Context, setup) (*exec.Cmd, error)

	// ready answers nil once the process pid itself serves clients: after a port race someone else's server may
	// be answering at the address. It obeys its context's deadline and is asked again until it answers nil.
	ready func(ctx context.Context, s setup, pid int) error

	url func(setup) string
}

// String returns the kind's name, such as "redis".
func (k Kind) String() string { return k.name }

// setup is what a kind needs to know to start one server; it stays the same across restarts.
type setup struct {
	binary string
	dir    string
	ports  []int
	args   []string // the caller's, to be put last so that they win

	advertised []string // where clients are told that it is; none: at its own address
}

func (s setup) addr() string { return loopback(s.ports[0]) }

// Option changes how Start starts a server.
type Option func(*options)

type options struct {
	args       []string
	ports      func(n int) ([]int, error)
	advertised []string
}

// Args appends command-line arguments, after the kind's own so that they win.
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// Advertise makes a server that tells its clients where it is, as Kafka does, name other addresses to those who come by
// its last ports: those of proxies, each of which forwards to the port at the same place from the end.
func Advertise(addrs ...string) Option {
	return func(o *options) { o.advertised = addrs }
}

// portTries is how many sets of ports Start tries before it gives up.
const portTries = 5

// Start returns a server that is ready for clients, or an error that holds the end of its log; the caller closes it.
// The context bounds the start only, for which there is also a limit of a minute: the server outlives it.
func Start(ctx context.Context, kind Kind, opts ...Option) (*Server, error) {
	binary, err := kind.find()
	if err != nil {
		return nil, err
	}
	o := options{ports: freePorts}
	for _, opt := range opts {
		opt(&o)
	}
	for try := 1; ; try++ {
		s, err := launch(ctx, kind, binary, o)
		if try == portTries || !errors.Is(err, errPortTaken) {
			return s, err
		}
	}
}

// find returns the path of the kind's program.
func (k Kind) find() (string, error) {
	for _, name := range append([]string{k.binary}, k.places...) {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNotInstalled, k.binary)
}

// launch makes one attempt, with a new folder and new ports, and leaves nothing behind when it does not succeed.
func launch(ctx context.Context, kind Kind, binary string, o options) (*Server, error) {
	ports, err := o.ports(kind.ports + max(0, len(o.advertised)-1))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "linda-"+kind.name+"-")
	if err != nil {
		return nil, fmt.Errorf("brokerd: %w", err)
	}
	s := newServer(kind, setup{binary: binary, dir: dir, ports: ports, args: o.args, advertised: o.advertised})
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}
