package brokerd

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	neturl "net/url"
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

// RabbitMQTLS is RabbitMQ that speaks TLS only, with a certificate for 127.0.0.1 and the authority of it: cert.pem, key.pem
// and ca.pem in its folder. It asks clients for one of the same authority, so the URL names these files.
var RabbitMQTLS = Kind{
	name:    "rabbitmq",
	binary:  RabbitMQ.binary,
	places:  RabbitMQ.places,
	ports:   2,
	command: rabbitTLSCommand,
	ready: func(ctx context.Context, s setup, _ int) error {
		config, err := testTLSConfig(s, authorityOf(s))
		if err != nil {
			return err
		}
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.addr())
		if err != nil {
			return err
		}
		return rabbitGreets(ctx, conn, s)
	},
	url: func(s setup) string {
		options := neturl.Values{"cacertfile": {authorityOf(s)}, "certfile": {certOf(s)}, "keyfile": {keyOf(s)}}
		return "amqps://guest:guest@" + s.addr() + "/?" + options.Encode()
	},
}

// rabbitCookie lets Eval in. It is no secret: whoever is on this machine may read the folder.
const rabbitCookie = "linda"

func rabbitCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	return rabbitCommandWith(s, "listeners.tcp.local = "+s.addr())
}

func authorityOf(s setup) string { return filepath.Join(s.dir, "ca.pem") }

func rabbitTLSCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	if _, err := os.Stat(certOf(s)); err != nil {
		if err := makeSignedCertificate(authorityOf(s), certOf(s), keyOf(s)); err != nil {
			return nil, err
		}
	}
	return rabbitCommandWith(s,
		"listeners.tcp = none",
		"listeners.ssl.local = "+s.addr(),
		"ssl_options.cacertfile = "+authorityOf(s),
		"ssl_options.certfile = "+certOf(s),
		"ssl_options.keyfile = "+keyOf(s),
		"ssl_options.verify = verify_peer",
		"ssl_options.fail_if_no_peer_cert = true",
	)
}

func rabbitCommandWith(s setup, listen ...string) (*exec.Cmd, error) {
	if err := os.WriteFile(filepath.Join(s.dir, "rabbitmq.conf"), []byte(rabbitConf(s, listen)), 0o600); err != nil {
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

func rabbitConf(s setup, listen []string) string {
	lines := append(listen, []string{
		"cluster_name = " + filepath.Base(s.dir),
		"log.file = false",
		"log.console = true",
		"log.console.level = info",
		"raft.wal_max_size_bytes = 16777216",
	}...)
	return strings.Join(append(lines, s.args...), "\n") + "\n"
}

func rabbitNode(s setup) string { return filepath.Base(s.dir) + "@localhost" }

// rabbitDistribution are the arguments by which an Erlang machine finds the node, or is it.
func rabbitDistribution(s setup, name string) []string {
	return []string{
		"-sname", name, "-setcookie", rabbitCookie, "-start_epmd", "false", "-erl_epmd_port", strconv.Itoa(s.ports[1]),
		"-kernel", "inet_dist_use_interface", "{127,0,0,1}",
	}
}

func rabbitReady(ctx context.Context, s setup, _ int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return err
	}
	return rabbitGreets(ctx, conn, s)
}

// rabbitGreets reads the first frame of AMQP, in which the server tells its name, and closes the connection.
func rabbitGreets(ctx context.Context, conn net.Conn, s setup) error {
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
	cmd.Dir = s.Dir // a machine that crashes leaves its dump there
	cmd.Env = append(os.Environ(), "HOME="+s.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "badrpc") {
		return "", fmt.Errorf("brokerd: %s: %w: %.500q", call, err, out)
	}
	return string(out), nil
}
