package brokerd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// RabbitMQ is a node of its own of rabbitmq-server, without plugins. It knows no other node and needs no epmd: it
// listens for the tools of Erlang on a port that only Eval knows.
//
// Lines given as Args are put at the end of its rabbitmq.conf, such as "consumer_timeout = 2000".
var RabbitMQ = Kind{
	name:   "rabbitmq",
	binary: "rabbitmq-server",
	// Users other than root have /usr/sbin not on their PATH.
	places:  []string{"/usr/sbin/rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server"},
	ports:   2,
	command: rabbitCommand,
	ready:   rabbitReady,
	url:     func(s setup) string { return "amqp://guest:guest@" + s.addr() + "/" },
}

// rabbitCookie lets Eval in. It is no secret: whoever is on this machine may read the folder.
const rabbitCookie = "linda"

func rabbitCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	if err := os.WriteFile(filepath.Join(s.dir, "rabbitmq.conf"), []byte(rabbitConf(s)), 0o600); err != nil {
		return nil, err
	}
	script, err := rabbitScript(s.binary)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(),
		"HOME="+s.dir,
		// Without a shell as the parent of the Erlang machine, signals reach it.
		"RUNNING_UNDER_SYSTEMD=1",
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(s.dir, "none"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(s.dir, "rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(s.dir, "none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(s.dir, "none"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(s.dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(s.dir, "log"),
		"RABBITMQ_NODENAME="+rabbitNode(s),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(s.ports[1]),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+strings.Join(rabbitDistribution(s, rabbitNode(s)), " "),
	)
	return cmd, nil
}

// rabbitScript returns the script that starts the server. Debian has another one before it, which becomes another
// user first.
func rabbitScript(binary string) (string, error) {
	path, err := filepath.EvalSymlinks(binary)
	if err == nil && filepath.Base(path) == "rabbitmq-script-wrapper" {
		path, err = filepath.EvalSymlinks(filepath.Join(filepath.Dir(path), "rabbitmq-server"))
	}
	return path, err
}

func rabbitConf(s setup) string {
	lines := append([]string{
		"listeners.tcp.local = " + s.addr(),
		"cluster_name = " + filepath.Base(s.dir),
		"log.file = false",
		"log.console = true",
		"log.console.level = info",
		"raft.wal_max_size_bytes = 16777216",
	}, s.args...)
	return strings.Join(lines, "\n") + "\n"
}

func rabbitNode(s setup) string { return filepath.Base(s.dir) + "@localhost" }

// rabbitDistribution are the arguments by which an Erlang machine finds the node, or is it.
func rabbitDistribution(s setup, name string) []string {
	return []string{
		"-sname", name, "-setcookie", rabbitCookie, "-start_epmd", "false", "-erl_epmd_port", strconv.Itoa(s.ports[1]),
		"-kernel", "inet_dist_use_interface", "{127,0,0,1}",
	}
}

// rabbitReady reads the first frame of AMQP, in which the server tells its name.
func rabbitReady(ctx context.Context, s setup, _ int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	frame := make([]byte, 4096)
	n, err := conn.Read(frame)
	if err != nil {
		return err
	}
	if !bytes.Contains(frame[:n], []byte(filepath.Base(s.dir))) {
		return fmt.Errorf("somebody else answers: %.200q", frame[:n])
	}
	return nil
}

// Eval has a RabbitMQ node evaluate a call such as "rabbit_alarm:get_alarms()" and returns the result as Erlang
// writes it.
func (s *Server) Eval(ctx context.Context, call string) (string, error) {
	module, rest, _ := strings.Cut(call, ":")
	function, arguments, _ := strings.Cut(strings.TrimSuffix(rest, ")"), "(")
	ask := fmt.Sprintf("io:format(\"~0p\", [rpc:call('%s', %s, %s, [%s], 20000)]), halt().",
		rabbitNode(s.setup), module, function, arguments)
	args := append(rabbitDistribution(s.setup, "ask-"+filepath.Base(s.Dir)+"@localhost"),
		"-dist_listen", "false", "-hidden", "-noinput", "-eval", ask)
	cmd := exec.CommandContext(ctx, "erl", args...)
	cmd.Env = append(os.Environ(), "HOME="+s.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "badrpc") {
		return "", fmt.Errorf("brokerd: %s: %w: %.500q", call, err, out)
	}
	return string(out), nil
}
