//go:build !unix

package brokerd

import (
	"errors"
	"os"
	"os/exec"
)

func tie(*exec.Cmd) (untie func()) { return func() {} }

func killGroup(p *os.Process) error { return p.Kill() }
func pauseGroup(*os.Process) error  { return errors.ErrUnsupported }
func resumeGroup(*os.Process) error { return errors.ErrUnsupported }
