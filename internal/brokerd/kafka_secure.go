package brokerd

import (
	"context"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
)

// The user that KafkaSecure knows, for every mechanism.
const (
	KafkaUser     = "linda"
	KafkaPassword = "x7PlantedSecretQ41"
)

// KafkaSecure is Kafka whose first port speaks TLS and asks for a user, by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Its
// certificate is for 127.0.0.1, and that of its authority is ca.pem in its folder. The user has no rights but those
// that the test grants: whoever comes by the third port, without TLS, or by the fourth, with it, may do everything.
var KafkaSecure = Kind{
	name:    Kafka.name,
	binary:  Kafka.binary,
	ports:   4,
	lacking: Kafka.lacking,
	command: kafkaSecureCommand,
	ready:   func(ctx context.Context, s setup, _ int) error { return kafkaReady(ctx, s, loopback(s.ports[2])) },
	url: func(s setup) string {
		u := neturl.URL{Scheme: "kafka+tls", User: neturl.UserPassword(KafkaUser, KafkaPassword), Host: s.addr(), Path: "/"}
		u.RawQuery = neturl.Values{"partitions": {"1"}, "replication": {"1"}, "ca": {authorityOf(s)}, "sasl": {"scram-sha-512"}}.Encode()
		return u.String()
	},
}

func kafkaSecureCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	if _, err := os.Stat(certOf(s)); err != nil {
		if err := makeSignedCertificate(authorityOf(s), certOf(s), keyOf(s)); err != nil {
			return nil, err
		}
	}
	if err := kafkaKeystore(s); err != nil {
		return nil, err
	}
	credentials := "[name=" + KafkaUser + ",password=" + KafkaPassword + "]"
	return kafkaCommand(ctx, s, kafkaSecureListeners(s),
		"--add-scram", "SCRAM-SHA-256="+credentials, "--add-scram", "SCRAM-SHA-512="+credentials)
}

// kafkaKeystore puts key and certificate in one file, as the server wants them.
func kafkaKeystore(s setup) error {
	var both []byte
	for _, file := range []string{keyOf(s), certOf(s)} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		both = append(both, text...)
	}
	return os.WriteFile(keystoreOf(s), both, 0o600)
}

func keystoreOf(s setup) string { return filepath.Join(s.dir, "keystore.pem") }

func kafkaSecureListeners(s setup) []string {
	clients := "CLIENT://" + s.addr() + ",PLAINTEXT://" + loopback(s.ports[2]) + ",SSL://" + loopback(s.ports[3])
	const security = "org.apache.kafka.common.security."
	return []string{
		"listeners=" + clients + ",CONTROLLER://" + loopback(s.ports[1]),
		"advertised.listeners=" + clients,
		"listener.security.protocol.map=CLIENT:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name=PLAINTEXT",
		"ssl.keystore.type=PEM",
		"ssl.keystore.location=" + keystoreOf(s),
		"listener.name.client.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.client.plain.sasl.jaas.config=" + security + "plain.PlainLoginModule required user_" +
			KafkaUser + "=\"" + KafkaPassword + "\";",
		"listener.name.client.scram-sha-256.sasl.jaas.config=" + security + "scram.ScramLoginModule required;",
		"listener.name.client.scram-sha-512.sasl.jaas.config=" + security + "scram.ScramLoginModule required;",
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users=User:ANONYMOUS",
	}
}
