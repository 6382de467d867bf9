package brokerd

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const logTail = 8 << 10

// process is one run of a server's program. A nil process counts as one that has ended.
type process struct {
	cmd  *exec.Cmd
	exit error         // of Wait; read it only after done
	done chan struct{} // closed when the program has ended and been waited for
}

// spawn starts cmd with its output appended to the file logPath.
//
// One goroutine both starts the program and waits for it, because on Linux the program is tied to the thread
// that started it: see tie.
func spawn(cmd *exec.Cmd, logPath string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		defer tie(cmd)()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.exit = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	if p == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exitCause tells how an ended process ended; it is never nil.
func (p *process) exitCause() error {
	if p.exit != nil {
		return p.exit
	}
	return errors.New("exit status 0")
}

// kill ends the process and those it started, and waits for it.
func (p *process) kill() error {
	if p.ended() {
		return nil
	}
	if err := killGroup(p.cmd.Process); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// stop asks the process to end and reports whether it did so within the limit. Where there is no SIGTERM it kills.
func (p *process) stop(limit time.Duration) bool {
	if p.ended() {
		return true
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return p.kill() == nil
	}
	_ = p.resume() // a paused process would not see the signal
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) pause() error {
	if p.ended() {
		return os.ErrProcessDone
	}
	return pauseGroup(p.cmd.Process)
}

func (p *process) resume() error {
	if p.ended() {
		return os.ErrProcessDone
	}
	return resumeGroup(p.cmd.Process)
}

// tailOf returns the last bytes of the file at path.
func tailOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	start := max(0, info.Size()-logTail)
	tail, err := io.ReadAll(io.NewSectionReader(f, start, logTail))
	return string(tail), err
}
