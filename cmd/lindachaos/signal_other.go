//go:build !unix

package main

import "syscall"

// No process can be stopped here: these are refused, and the fault is none.
const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)
