package brokerd

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// KafkaVersion is the release of Apache Kafka that scripts/install-test-servers fetches.
const KafkaVersion = "4.2.2"

// kafkaJarsEnv names the folder with the jars of another Kafka.
const kafkaJarsEnv = "LINDA_TEST_KAFKA"

// Kafka is one process of Apache Kafka, broker and controller in one, with small internal topics and with lower bounds
// for the times of share groups. Its arguments are those of kafka.Kafka, such as Args("--override", "name=value").
// It obeys Advertise.
var Kafka = Kind{
	name:    "kafka",
	binary:  "java",
	ports:   3,
	lacking: "java is not on PATH, or the jars of Kafka are not in the cache",
	command: func(ctx context.Context, s setup) (*exec.Cmd, error) {
		return kafkaCommand(ctx, s, kafkaPlainListeners(s))
	},
	ready: func(ctx context.Context, s setup, _ int) error { return kafkaReady(ctx, s, s.addr()) },
	url:   func(s setup) string { return "kafka://" + s.addr() + "?partitions=1&replication=1" },
}

// kafkaQuick makes a JVM that starts soon and stays small.
var kafkaQuick = []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss512k"}

func kafkaCommand(ctx context.Context, s setup, listeners []string, format ...string) (*exec.Cmd, error) {
	jars, err := kafkaJars()
	if err != nil {
		return nil, err
	}
	properties := filepath.Join(s.dir, "server.properties")
	if err := os.WriteFile(properties, []byte(kafkaKnown(kafkaProperties(s, listeners), jars)), 0o600); err != nil {
		return nil, err
	}
	if _, err := kafkaCluster(s); errors.Is(err, fs.ErrNotExist) {
		if err := kafkaFormat(ctx, s, jars, properties, format); err != nil {
			return nil, err
		}
	}
	args := slices.Concat(kafkaQuick, []string{"-Xms128m", "-Xmx512m", "-cp", jars, "kafka.Kafka", properties}, s.args)
	return exec.Command(s.binary, args...), nil
}

// kafkaJars returns the class path, or an error that wraps ErrNotInstalled.
func kafkaJars() (string, error) {
	dir := os.Getenv(kafkaJarsEnv)
	if dir == "" {
		cache := os.Getenv("XDG_CACHE_HOME")
		if cache == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			cache = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(cache, "linda", "kafka-"+KafkaVersion)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "kafka_*.jar")); len(found) == 0 {
		return "", fmt.Errorf("%w: the jars of Kafka are not in %s", ErrNotInstalled, dir)
	}
	return filepath.Join(dir, "*"), nil
}

// kafkaPlainListeners are one for clients that come directly, and one for those that come by each proxy.
func kafkaPlainListeners(s setup) []string {
	listeners := []string{"PLAINTEXT://" + s.addr()}
	told := slices.Clone(listeners)
	protocols := "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	for i, port := range s.ports[2:] {
		proxied := loopback(port)
		name := fmt.Sprint("PROXIED", i)
		listeners = append(listeners, name+"://"+proxied)
		if i < len(s.advertised) {
			proxied = s.advertised[i]
		}
		told = append(told, name+"://"+proxied)
		protocols += "," + name + ":PLAINTEXT"
	}
	listeners = append(listeners, "CONTROLLER://"+loopback(s.ports[1]))
	return []string{
		"listeners=" + strings.Join(listeners, ","),
		"advertised.listeners=" + strings.Join(told, ","),
		"listener.security.protocol.map=" + protocols,
		"inter.broker.listener.name=PLAINTEXT",
	}
}

func kafkaProperties(s setup, listeners []string) string {
	return strings.Join(append(listeners,
		"process.roles=broker,controller",
		"node.id=1",
		"controller.quorum.bootstrap.servers="+loopback(s.ports[1]),
		"controller.listener.names=CONTROLLER",
		"log.dirs="+kafkaData(s),
		"auto.create.topics.enable=false",
		"broker.heartbeat.interval.ms=500",
		"broker.session.timeout.ms=5000",
		"num.network.threads=2",
		"num.io.threads=4",
		"log.cleaner.dedupe.buffer.size=4194304",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=4",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"share.coordinator.state.topic.num.partitions=4",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=1000",
		"group.share.max.share.sessions=10000",
		"group.share.max.groups=10000",
		"group.share.max.size=1000",
		"group.share.min.record.lock.duration.ms=1000",
		"group.share.min.session.timeout.ms=1000",
		"group.share.min.heartbeat.interval.ms=500",
		"",
	), "\n")
}

// kafkaKnown leaves out the properties of share groups where the release has none, and refuses them.
func kafkaKnown(properties, jars string) string {
	if found, _ := filepath.Glob(filepath.Join(filepath.Dir(jars), "kafka-share-coordinator-*.jar")); len(found) > 0 {
		return properties
	}
	known := slices.DeleteFunc(strings.Split(properties, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "share.") || strings.HasPrefix(line, "group.share.")
	})
	return strings.Join(known, "\n")
}

func kafkaData(s setup) string { return filepath.Join(s.dir, "data") }

// kafkaFormat prepares the folder for the data, as a cluster of its own.
func kafkaFormat(ctx context.Context, s setup, jars, properties string, more []string) error {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	id[0] &= 0x7f // an id that begins with a hyphen would be read as an option
	args := append(slices.Clone(kafkaQuick), "-cp", jars, "kafka.tools.StorageTool",
		"format", "--standalone", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", properties)
	args = append(args, more...)
	out, err := exec.CommandContext(ctx, s.binary, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format: %w: %s", err, out)
	}
	return nil
}

// kafkaCluster returns the id of the cluster that the folder was formatted for.
func kafkaCluster(s setup) (string, error) {
	meta, err := os.ReadFile(filepath.Join(kafkaData(s), "meta.properties"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(meta)) {
		if id, ok := strings.CutPrefix(line, "cluster.id="); ok {
			return strings.ReplaceAll(strings.TrimSpace(id), `\`, ""), nil
		}
	}
	return "", errors.New("no cluster.id")
}

// kafkaReady asks for the metadata; the id of the cluster tells that it is the answer of this server.
func kafkaReady(ctx context.Context, s setup, addr string) error {
	want, err := kafkaCluster(s)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if answer.ClusterID == nil || *answer.ClusterID != want || len(answer.Brokers) == 0 {
		return errors.New("no answer from this cluster yet")
	}
	return nil
}
