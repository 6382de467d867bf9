package brokerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned, wrapped, by the methods of a Server that need its folder after Close has removed it.
var ErrClosed = errors.New("brokerd: server is closed")

const (
	startLimit = time.Minute
	stopLimit  = 20 * time.Second
	probeLimit = time.Second
	probeEvery = 5 * time.Millisecond
)

// Server is one running broker server; its methods are safe for concurrent use and happen one after another.
type Server struct {
	URL   string // what linda.NewBroker takes
	Addr  string // host:port of the port that clients use
	Ports []int  // all its loopback ports, the one in Addr first
	Dir   string // its data and its log, removed by Close

	kind    Kind
	setup   setup
	lastLog atomic.Value // string: what Log returned when Close removed the folder

	turn   sync.Mutex // held for a whole operation, waiting included; guards what follows
	proc   *process   // the latest one, which may have ended; nil if none ever started
	closed bool
}

func newServer(kind Kind, s setup) *Server {
	return &Server{URL: kind.url(s), Addr: s.addr(), Ports: s.ports, Dir: s.dir, kind: kind, setup: s}
}

// Kill ends the server as a crash would, with SIGKILL, and returns when it is gone; its data stays for Restart.
// It answers nil if the server is not running.
func (s *Server) Kill() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.proc.kill()
}

// Stop asks the server to end, with SIGTERM, and returns when it is gone; its data stays for Restart. A server that
// does not end in 20 seconds is killed, which is an error. It answers nil if the server is not running.
func (s *Server) Stop() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.stop()
}

func (s *Server) stop() error {
	if !s.proc.stop(stopLimit) {
		return errors.Join(fmt.Errorf("brokerd: %s did not stop in %v", s.kind, stopLimit), s.proc.kill())
	}
	return nil
}

// Restart stops the server if it runs and starts it again with the same ports and folder, so that URL stays right
// and its data is there; it returns when the server is ready, or with an error like Start's.
func (s *Server) Restart(ctx context.Context) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.closed {
		return fmt.Errorf("%w: %s", ErrClosed, s.kind)
	}
	if err := s.stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

// Pause freezes the server, with SIGSTOP: it keeps its connections, and the system even accepts new ones for it, but
// nothing is answered until Resume. Where the system cannot do that the error wraps errors.ErrUnsupported; where
// the server is not running it wraps os.ErrProcessDone.
func (s *Server) Pause() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := s.proc.pause(); err != nil {
		return fmt.Errorf("brokerd: pause %s: %w", s.kind, err)
	}
	return nil
}

// Resume lets a paused server go on, and does nothing to one that is not paused; its errors are those of Pause.
func (s *Server) Resume() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := s.proc.resume(); err != nil {
		return fmt.Errorf("brokerd: resume %s: %w", s.kind, err)
	}
	return nil
}

// Close kills the server, paused or not, and removes its folder; closing again does nothing.
func (s *Server) Close() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.closed = true
	err := s.proc.kill()
	s.lastLog.Store(s.Log())
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// Log returns the last 8 KiB that the server has printed, over all its restarts, also after Close.
func (s *Server) Log() string {
	tail, err := tailOf(s.logPath())
	if last, ok := s.lastLog.Load().(string); ok && err != nil {
		return last
	}
	return tail
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "server.log") }

// start sets proc and returns when it is ready; on an error no process is left running.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd, err := s.kind.command(ctx, s.setup)
	if err != nil {
		return fmt.Errorf("brokerd: prepare %s: %w", s.kind, err)
	}
	proc, err := spawn(cmd, s.logPath())
	if err != nil {
		return fmt.Errorf("brokerd: start %s: %w", s.kind, err)
	}
	s.proc = proc
	if err := s.await(ctx); err != nil {
		return errors.Join(err, proc.kill())
	}
	return nil
}

// await returns nil once the server is ready, and an error with the end of its log once it has ended or ctx has.
func (s *Server) await(ctx context.Context) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		notReady := s.probe(ctx)
		if notReady == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return s.exitError()
		case <-ctx.Done():
			return fmt.Errorf("brokerd: %s is not ready: %w: %w; its log:\n%s", s.kind, context.Cause(ctx), notReady, s.Log())
		case <-ticker.C:
		}
	}
}

func (s *Server) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	return s.kind.ready(ctx, s.setup, s.proc.pid())
}

func (s *Server) exitError() error {
	log := s.Log()
	cause := s.proc.exitCause()
	if saysPortTaken(log) {
		cause = errPortTaken
	}
	return fmt.Errorf("brokerd: %s ended before it was ready: %w; its log:\n%s", s.kind, cause, log)
}
