package brokerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// playEnv makes the test binary play another program than the tests; see play.
const playEnv = "BROKERD_TEST_PLAY"

func TestMain(m *testing.M) {
	if part := os.Getenv(playEnv); part != "" {
		os.Exit(play(part))
	}
	goleak.VerifyTestMain(m)
}

// play is what a copy of the test binary does instead of testing.
func play(part string) int {
	switch part {
	case "fail at once":
		fmt.Println("cannot read my configuration")
		return 3
	case "never ready", "ignore SIGTERM":
		return playServer(part)
	case "start redis and hang":
		return playOwner()
	}
	return 2
}

// playServer runs until it is killed, or until SIGTERM if it does not ignore that.
func playServer(part string) int {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	fmt.Println("playing:", part)
	for range terms {
		if part != "ignore SIGTERM" {
			break
		}
	}
	return 0
}

// playOwner is a program that uses this package and is then killed.
func playOwner() int {
	s, err := Start(context.Background(), Redis)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(s.Addr, s.Dir, s.proc.pid())
	select {}
}

// actor is a kind whose server is this test binary playing part.
func actor(t *testing.T, part string, ready error) Kind {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return Kind{
		name:   "actor",
		binary: self,
		ports:  1,
		command: func(context.Context, setup) (*exec.Cmd, error) {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), playEnv+"="+part)
			return cmd, nil
		},
		ready: func(context.Context, setup, int) error { return ready },
		url:   func(s setup) string { return "actor://" + s.addr() },
	}
}

// ask sends one command to a redis server and returns the first line of its answer.
func ask(addr, command string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func requireAnswer(t *testing.T, s *Server, command, want string) {
	t.Helper()
	got, err := ask(s.Addr, command)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func requireTimeout(t *testing.T, s *Server) {
	t.Helper()
	_, err := ask(s.Addr, "PING")
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
}

// requireFree checks that nobody listens at the address any more.
func requireFree(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func withPorts(sets ...int) Option {
	return func(o *options) {
		o.ports = func(int) ([]int, error) {
			if len(sets) == 0 {
				return nil, errors.New("asked for more ports than expected")
			}
			port := sets[0]
			sets = slices.Delete(sets, 0, 1)
			return []int{port}, nil
		}
	}
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return n
}
