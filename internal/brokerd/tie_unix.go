//go:build unix && !linux

package brokerd

import (
	"os/exec"
	"syscall"
)

// tie only gives the program its own process group: these systems have no parent death signal.
func tie(cmd *exec.Cmd) (untie func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return func() {}
}
