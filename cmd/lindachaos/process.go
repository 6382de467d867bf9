package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/amlun/linda/internal/chaos"
)

// slot is the place of one worker or producer: when its process ends another
// one begins, until the slot is closed.
type slot struct {
	h     *harness
	order order // Proc is set anew for each process

	busy sync.Mutex // held by who does something to the process

	mu     sync.Mutex
	proc   process // guarded by mu, as all below
	number uint32
	closed bool
	ended  chan struct{} // closed when the last process has ended
}

// process is a worker or a producer.
type process interface {
	signal(os.Signal) error
	wait() (status int)
}

// open starts the first process.
func (h *harness) open(o order) *slot {
	s := &slot{h: h, order: o, ended: make(chan struct{})}
	h.wg.Go(s.keep)
	return s
}

// keep starts one process after the other.
func (s *slot) keep() {
	defer close(s.ended)
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return
		}
		s.number = s.h.procs.Add(1)
		o := s.order
		o.Proc = s.number
		p, err := s.h.start(o)
		s.proc = p
		s.mu.Unlock()
		if err != nil {
			s.h.complain(chaos.I12, fmt.Sprintf("%s does not start: %v", o.Name, err))
			return
		}
		status := p.wait()
		s.h.history.Write(chaos.Event{Kind: chaos.Ended, Proc: o.Proc})
		if status == exitFailed || status > 0 && status != exitDeadly {
			s.h.complain(chaos.I12, fmt.Sprintf("%s, process %d, ended with status %d: see %s", o.Name, o.Proc, status, logName))
		}
	}
}

// current returns the process of the slot.
func (s *slot) current() (p process, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc, s.number
}

// close lets no other process begin, stops the present one and waits for it.
func (s *slot) close(limit time.Duration) {
	s.mu.Lock()
	s.closed = true
	p := s.proc
	s.mu.Unlock()
	if p != nil {
		_ = p.signal(syscall.SIGTERM)
	}
	select {
	case <-s.ended:
	case <-time.After(limit):
		s.h.complain(chaos.I12, fmt.Sprintf("%s does not stop in %v", s.order.Name, limit))
		if p != nil {
			_ = p.signal(syscall.SIGKILL)
		}
		<-s.ended
	}
}

// child is a process of its own.
type childProcess struct {
	cmd    *exec.Cmd
	output io.ReadCloser
	acked  *atomic.Int64
	alive  io.Closer // the child's standard input: it ends when this is closed
}

// startChild starts this program again with an order.
func startChild(o order, log *os.File, acked *atomic.Int64) (process, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GOMAXPROCS=2")
	cmd.Stderr = log
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &childProcess{cmd, output, acked, alive}, cmd.Start()
}

func (c *childProcess) signal(sig os.Signal) error { return c.cmd.Process.Signal(sig) }

// wait returns the status of a process that has ended by itself, and -1 for one
// that was killed.
func (c *childProcess) wait() (status int) {
	lines := bufio.NewScanner(c.output)
	for lines.Scan() {
		n, _ := strconv.ParseInt(lines.Text(), 10, 64)
		c.acked.Add(n)
	}
	_ = c.cmd.Wait()
	_ = c.alive.Close()
	return c.cmd.ProcessState.ExitCode()
}

// inside is a worker or a producer in this process, for a broker that is.
type inside struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // read only after done
}

func startInside(o order, log io.Writer, told func(int64)) process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &inside{cancel: cancel, done: make(chan struct{})}
	o.told, o.log = told, log
	go func() {
		defer close(p.done)
		p.err = o.run(ctx, nil)
	}()
	return p
}

func (p *inside) signal(sig os.Signal) error {
	if sig != syscall.SIGTERM {
		return errors.ErrUnsupported
	}
	p.cancel()
	return nil
}

func (p *inside) wait() (status int) {
	<-p.done
	if p.err != nil {
		return exitFailed
	}
	return 0
}
