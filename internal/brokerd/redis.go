package brokerd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Redis is redis-server without a configuration file, with an append-only file that is synced every second. A password
// given as Args("--requirepass", "...") is part of the server's URL.
var Redis = Kind{
	name:    "redis",
	binary:  "redis-server",
	ports:   1,
	command: redisCommand,
	ready:   redisReady,
	url:     redisURL,
}

func redisCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	return redisCommandWith(ctx, s, "--port", strconv.Itoa(s.ports[0]))
}

// redisCommandWith puts the arguments that differ between kinds of Redis before those of the caller.
func redisCommandWith(ctx context.Context, s setup, own ...string) (*exec.Cmd, error) {
	args := append([]string{
		"--bind", "127.0.0.1",
		"--dir", s.dir,
		"--save", "",
		"--appendonly", "yes",
		"--appendfsync", "everysec",
	}, own...)
	version, err := exec.CommandContext(ctx, s.binary, "--version").Output()
	if err != nil {
		return nil, err
	}
	if redisMajor(string(version)) >= 7 { // older ones always allow DEBUG and refuse the option
		args = append(args, "--enable-debug-command", "local")
	}
	return exec.Command(s.binary, append(args, s.args...)...), nil
}

var redisVersion = regexp.MustCompile(`\bv=(\d+)\.`)

// redisMajor reads what --version prints: "Redis server v=7.0.15 sha=...". It is 0 for anything else.
func redisMajor(version string) int {
	match := redisVersion.FindStringSubmatch(version)
	if match == nil {
		return 0
	}
	major, _ := strconv.Atoi(match[1])
	return major
}

// redisReady asks for a PONG, which a server that is still loading its data refuses, and for the process id.
func redisReady(ctx context.Context, s setup, pid int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return err
	}
	return redisReadyOn(ctx, conn, s, pid)
}

func redisReadyOn(ctx context.Context, conn net.Conn, s setup, pid int) error {
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	ask := "PING\r\nINFO server\r\nQUIT\r\n"
	if password := redisPassword(s); password != "" {
		ask = "AUTH " + strconv.Quote(password) + "\r\n" + ask
	}
	if _, err := io.WriteString(conn, ask); err != nil {
		return err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	return checkRedisReply(string(reply), pid)
}

func checkRedisReply(reply string, pid int) error {
	if !strings.Contains(reply, fmt.Sprintf("process_id:%d\r\n", pid)) {
		return fmt.Errorf("no answer from process %d: %.200q", pid, reply)
	}
	if !strings.Contains(reply, "+PONG\r\n") {
		return fmt.Errorf("no PONG: %.200q", reply)
	}
	return nil
}

func redisURL(s setup) string {
	u := url.URL{Scheme: "redis", Host: s.addr(), Path: "/"}
	if password := redisPassword(s); password != "" {
		u.User = url.UserPassword("", password)
	}
	return u.String()
}

func redisPassword(s setup) string {
	i := slices.Index(s.args, "--requirepass")
	if i < 0 || i+1 >= len(s.args) {
		return ""
	}
	return s.args[i+1]
}
