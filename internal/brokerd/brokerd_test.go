package brokerd

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStartReturnsAReadyServer(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis)
	requireAnswer(t, s, "PING", "+PONG\r\n")
	assert.Equal(t, "redis://"+s.Addr+"/", s.URL)
	assert.DirExists(t, s.Dir)
	assert.Contains(t, s.Log(), "Ready to accept connections")
}

func TestServerOutlivesTheContextOfStart(t *testing.T) {
	t.Parallel()
	Run(t, Redis) // skips where it is not installed
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Redis)
	require.NoError(t, err)
	defer s.Close()
	cancel()
	requireAnswer(t, s, "PING", "+PONG\r\n")
}

func TestArgsWinOverTheDefaults(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis, Args("--appendonly", "no"), Args("--databases", "3"))
	requireAnswer(t, s, "CONFIG GET appendonly", "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n")
	requireAnswer(t, s, "CONFIG GET databases", "*2\r\n$9\r\ndatabases\r\n$1\r\n3\r\n")
}

func TestKillAndRestartKeepDataAndAddress(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Server) error{
		"killed":        (*Server).Kill,
		"stopped":       (*Server).Stop,
		"still running": func(*Server) error { return nil },
		"paused":        (*Server).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Run(t, Redis)
			requireAnswer(t, s, "SET colour green", "+OK\r\n")
			require.NoError(t, end(s))
			addr := s.Addr
			require.NoError(t, s.Restart(t.Context()))
			assert.Equal(t, addr, s.Addr)
			requireAnswer(t, s, "GET colour", "$5\r\ngreen\r\n")
			assert.Equal(t, 2, strings.Count(s.Log(), "Ready to accept connections"), "the log is of both runs")
		})
	}
}

func TestKilledOrStoppedServerIsGoneAndItsPortFree(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Server) error{
		"Kill": (*Server).Kill, "Stop": (*Server).Stop, "Close": (*Server).Close,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Run(t, Redis)
			require.NoError(t, end(s))
			requireFree(t, s.Addr)
			require.NoError(t, end(s), "a second time")
		})
	}
}

func TestStopLetsTheServerEndByItself(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis)
	require.NoError(t, s.Stop())
	assert.Contains(t, s.Log(), "Redis is now ready to exit")
}

func TestCloseRemovesTheFolderAndKeepsTheLog(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis)
	require.NoError(t, s.Close())
	assert.NoDirExists(t, s.Dir)
	assert.Contains(t, s.Log(), "Ready to accept connections")
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Restart(t.Context()), ErrClosed)
	require.ErrorIs(t, s.Pause(), os.ErrProcessDone)
}

func TestOperationsAreSafeTogether(t *testing.T) {
	t.Parallel()
	s := Run(t, Redis)
	var wg sync.WaitGroup
	for _, operation := range []func(){
		func() { assert.NoError(t, s.Restart(t.Context())) },
		func() { assert.NoError(t, s.Kill()) },
		func() { _ = s.Pause() },
		func() { _ = s.Resume() },
		func() { _ = s.Log() },
	} {
		wg.Go(func() {
			for range 5 {
				operation()
			}
		})
	}
	wg.Wait()
	for range 2 {
		wg.Go(func() { assert.NoError(t, s.Close()) })
	}
	wg.Wait()
	requireFree(t, s.Addr)
}

func TestAbsentProgramIsErrNotInstalled(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Kind{name: "nothing", binary: "linda-no-such-server"})
	require.ErrorIs(t, err, ErrNotInstalled)
	require.ErrorContains(t, err, "linda-no-such-server")
}

func TestServerThatExitsAtOnceIsAnErrorWithItsLog(t *testing.T) {
	t.Parallel()
	began := time.Now()
	var dir string
	kind := actor(t, "fail at once", errors.New("not ready"))
	url := kind.url
	kind.url = func(s setup) string { dir = s.dir; return url(s) }
	_, err := Start(t.Context(), kind)
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "cannot read my configuration")
	assert.Less(t, time.Since(began), startLimit/2)
	assert.NoDirExists(t, dir)
}

func TestServerThatIsNeverReadyEndsWithTheContext(t *testing.T) {
	t.Parallel()
	impatient := errors.New("waited long enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, impatient)
	defer cancel()
	_, err := Start(ctx, actor(t, "never ready", errors.New("still warming up")))
	require.ErrorIs(t, err, impatient)
	require.ErrorContains(t, err, "still warming up")
	require.ErrorContains(t, err, "playing: never ready")
}

func TestTakenPortIsRetriedWithAnother(t *testing.T) {
	t.Parallel()
	other := Run(t, Redis) // a redis that answers PING there, which Start must not take for its own
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	free, err := freePorts(1)
	require.NoError(t, err)

	s := Run(t, Redis, withPorts(other.Ports[0], portOf(t, silent.Addr().String()), free[0]))
	assert.Equal(t, free, s.Ports)
	requireAnswer(t, s, "PING", "+PONG\r\n")
}

func TestPortThatStaysTakenIsAnError(t *testing.T) {
	t.Parallel()
	p := Run(t, Redis).Ports[0]
	_, err := Start(t.Context(), Redis, withPorts(p, p, p, p, p))
	require.ErrorIs(t, err, errPortTaken)
}

func TestFreePortsAreDifferentAndBelowTheSystemsOwn(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(50)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, p := range ports {
		assert.False(t, seen[p], "port %d twice", p)
		assert.True(t, p >= firstPort && p < lastPort, "port %d", p)
		seen[p] = true
	}
	assert.Len(t, seen, 50)
}
