package brokerd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
)

// Beanstalkd is beanstalkd with a binlog in the server's folder, synced every 50 ms, as is its own default.
var Beanstalkd = Kind{
	name:    "beanstalkd",
	binary:  "beanstalkd",
	ports:   1,
	command: beanstalkdCommand,
	ready:   beanstalkdReady,
	url:     func(s setup) string { return "beanstalkd://" + s.addr() },
}

// BeanstalkdUnlogged is beanstalkd without a binlog, as Debian starts it: a restart loses every job, and ids begin anew.
var BeanstalkdUnlogged = Kind{
	name:    "beanstalkd",
	binary:  "beanstalkd",
	ports:   1,
	command: beanstalkdUnlogged,
	ready:   beanstalkdReady,
	url:     func(s setup) string { return "beanstalkd://" + s.addr() },
}

func beanstalkdUnlogged(_ context.Context, s setup) (*exec.Cmd, error) {
	args := []string{"-l", "127.0.0.1", "-p", strconv.Itoa(s.ports[0])}
	return exec.Command(s.binary, append(args, s.args...)...), nil
}

func beanstalkdCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	args := []string{"-l", "127.0.0.1", "-p", strconv.Itoa(s.ports[0]), "-b", s.dir}
	return exec.Command(s.binary, append(args, s.args...)...), nil
}

// beanstalkdReady asks for the statistics, which tell the process id.
func beanstalkdReady(ctx context.Context, s setup, pid int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "stats\r\nquit\r\n"); err != nil {
		return err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !strings.Contains(string(reply), fmt.Sprintf("\npid: %d\n", pid)) {
		return fmt.Errorf("no answer from process %d: %.200q", pid, reply)
	}
	return nil
}
