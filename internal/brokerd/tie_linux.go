package brokerd

import (
	"os/exec"
	"runtime"
	"syscall"
)

// tie makes the kernel kill the program that cmd starts when this process dies, even by SIGKILL.
//
// The kernel's parent death signal follows the thread that forked, not its process, and Go ends a thread when
// some goroutine returns while locked to it: the program would die with that thread, at random. So the caller
// starts the program, and waits for it, on one goroutine that keeps its thread until then, and unties after that.
// Only the program itself is tied, not what it starts in turn.
func tie(cmd *exec.Cmd) (untie func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return runtime.UnlockOSThread
}
