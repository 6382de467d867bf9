//go:build unix

package brokerd

import (
	"errors"
	"os"
	"syscall"
)

// A server may be a script that starts the real program, so signals go to the whole process group.

func pauseGroup(p *os.Process) error  { return signalGroup(p, syscall.SIGSTOP) }
func resumeGroup(p *os.Process) error { return signalGroup(p, syscall.SIGCONT) }

// killGroup leaves the verdict to p.Kill: for a group that has ended but was not waited for yet, systems differ.
func killGroup(p *os.Process) error {
	_ = signalGroup(p, syscall.SIGKILL)
	return p.Kill()
}

func signalGroup(p *os.Process, sig syscall.Signal) error {
	err := syscall.Kill(-p.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
