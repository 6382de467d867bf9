package brokerd

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// Ports are taken from below the range that systems hand out to outgoing connections. In that range a client that
// redials a killed server can be given the server's own port, connect to itself, and so keep the server from
// coming back.
const (
	firstPort = 20000
	lastPort  = 32000
)

var errPortTaken = errors.New("port already in use")

// freePorts returns n different loopback ports that were free a moment ago; nothing keeps them free.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		defer l.Close() // only at return, so that no port is picked twice
		ports = append(ports, port)
	}
	return nil, errors.New("brokerd: no free loopback port")
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// saysPortTaken reports whether a server's log tells of a port that someone else holds: the words of the C library,
// Go and Java, then Erlang's.
func saysPortTaken(log string) bool {
	log = strings.ToLower(log)
	return strings.Contains(log, "address already in use") || strings.Contains(log, "eaddrinuse")
}
