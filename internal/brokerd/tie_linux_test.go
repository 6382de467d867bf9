package brokerd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServerDiesWithTheProcessThatStartedIt(t *testing.T) {
	t.Parallel()
	Run(t, Redis) // skips where it is not installed
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), playEnv+"=start redis and hang")
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait() // "signal: killed"

	var addr, dir string
	var pid int
	_, err = fmt.Sscan(line, &addr, &dir, &pid)
	require.NoError(t, err, "it printed %q", line)
	defer os.RemoveAll(dir)
	defer syscall.Kill(pid, syscall.SIGKILL) // in case the test fails
	require.Eventually(t, func() bool {
		_, err := ask(addr, "PING")
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "the server is still there")
	requireFree(t, addr)
}

func TestServerSurvivesTheThreadThatCalledStart(t *testing.T) {
	t.Parallel()
	Run(t, Redis) // skips where it is not installed
	s, tid := startOnAThreadThatEnds(t)
	require.Eventually(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
		return os.IsNotExist(err)
	}, 5*time.Second, time.Millisecond, "the thread is still there")
	requireAnswer(t, s, "PING", "+PONG\r\n")
}

func startOnAThreadThatEnds(t *testing.T) (s *Server, tid int) {
	t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		if tid = syscall.Gettid(); tid != os.Getpid() {
			s, err = Start(t.Context(), Redis)
		}
	}()
	<-done
	if tid == os.Getpid() { // the main thread, which Go parks instead of ending it: the next one is another
		return startOnAThreadThatEnds(t)
	}
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s, tid
}
