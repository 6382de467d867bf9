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
	defer func() {
		if t.Failed() { // else the id is free, and may be someone else's by now
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	require.Eventually(t, func() bool {
		_, err := ask(addr, "PING")
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "the server is still there")
	requireFree(t, addr)
}

func TestServerSurvivesTheEndOfThreads(t *testing.T) {
	t.Parallel()
	Run(t, Redis) // skips where it is not installed
	var s *Server
	var err error
	endThreads(t, 1, func() { s, err = Start(t.Context(), Redis) })
	require.NoError(t, err)
	defer s.Close()
	endThreads(t, 64, func() {}) // more than are idle: the one that forked the server too, were it let go
	requireAnswer(t, s, "PING", "+PONG\r\n")
}

// endThreads calls f on n threads at once and returns when those threads have ended. The main thread, which Go
// parks instead, may be one of them.
func endThreads(t *testing.T, n int, f func()) {
	t.Helper()
	tids := make(chan int, n)
	all := make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
			f()
			tids <- syscall.Gettid()
			<-all
		}()
	}
	var ending []int
	for range n {
		ending = append(ending, <-tids)
	}
	close(all)
	for _, tid := range ending {
		require.Eventually(t, func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
			return os.IsNotExist(err) || tid == os.Getpid()
		}, 5*time.Second, time.Millisecond, "thread %d is still there", tid)
	}
}
