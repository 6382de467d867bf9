package kafka

import (
	"crypto/tls"
	"fmt"
	neturl "net/url"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerurl"
)

// config is what a URL says.
type config struct {
	url         string // whole, with its password: not to be shown
	hosts       []string
	group       string // start of the names of the groups
	prefix      string // start of the names of the topics
	partitions  int32  // of a topic that is created
	replication int16
	create      bool
	mode        string        // modeAuto, modeShare or modeClassic
	lock        time.Duration // of a record that is reserved, renewed at a third of it; of the session of a consumer group
	window      int32         // of a partition, in classic mode: offsets from the first that is not done to the last handed out
	trim        string        // trimOff, trimCreated or trimAll
	trimEvery   time.Duration
	mechanism   sasl.Mechanism
	tls         *tls.Config

	// What the cluster has made of mode, once it was asked.
	shares  bool // it has share groups
	classic bool // the jobs come from consumer groups all the same
}

// readURL reads a URL
//
//	kafka://[user:password@]host[:port][,host[:port]...][?options]
//
// where kafka+tls is for TLS. An error shows nothing of it that may be secret.
func readURL(url *neturl.URL) (*config, error) {
	c := &config{url: url.String(), group: "linda", partitions: 12, replication: -1, create: true,
		mode: modeAuto, lock: 30 * time.Second, window: 2000, trim: trimCreated, trimEvery: time.Minute}
	if url.Opaque != "" || url.Fragment != "" || url.Path != "" && url.Path != "/" {
		return nil, badURL("it has not the form of one")
	}
	for _, host := range strings.Split(url.Host, ",") {
		addr, err := brokerurl.Host(brokerurl.Local(host), 9092)
		if err != nil {
			return nil, badURL(err.Error())
		}
		c.hosts = append(c.hosts, addr)
	}
	var files brokerurl.TLS
	var method string
	name := func(s string) bool { return linda.CheckName(s) == nil }
	err := brokerurl.Options(url.RawQuery, map[string]brokerurl.Reader{
		"group":       brokerurl.Text(&c.group, name),
		"prefix":      brokerurl.Text(&c.prefix, name),
		"partitions":  brokerurl.Number(&c.partitions, 1, 1000),
		"replication": brokerurl.Number(&c.replication, 1, 100),
		"create":      brokerurl.Bool(&c.create),
		"lock":        brokerurl.Duration(&c.lock, time.Second, maxLock),
		"mode":        brokerurl.OneOf(&c.mode, modeAuto, modeShare, modeClassic),
		"window":      brokerurl.Number(&c.window, 1, 16000),
		"trim":        brokerurl.OneOf(&c.trim, trimOff, trimCreated, trimAll),
		"trim_every":  brokerurl.Duration(&c.trimEvery, time.Second, time.Hour),
		"sasl":        brokerurl.Text(&method),
		"ca":          brokerurl.Text(&files.CA),
	})
	if err != nil {
		return nil, badURL(err.Error())
	}
	if url.Scheme == schemeTLS {
		if c.tls, err = files.Config(); err != nil {
			return nil, badURL(err.Error())
		}
	} else if !files.None() {
		return nil, badURL("option ca is for " + schemeTLS + "://")
	}
	c.mechanism, err = mechanism(method, url.User)
	return c, err
}

func badURL(reason string) error { return fmt.Errorf("%w: kafka: %s", linda.ErrBadURL, reason) }

// maxLock is the most that the server takes for a lock, of which it usually takes
// 15 s to 60 s.
const maxLock = time.Hour

func mechanism(name string, user *neturl.Userinfo) (sasl.Mechanism, error) {
	if user == nil {
		if name != "" {
			return nil, badURL("option sasl needs a user and a password")
		}
		return nil, nil
	}
	password, _ := user.Password()
	switch name {
	case "", "plain":
		return plain.Auth{User: user.Username(), Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, badURL("option sasl is none of plain, scram-sha-256 and scram-sha-512")
}

// clientOptions are what every connection has in common.
func (c *config) clientOptions() []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(c.hosts...),
		kgo.ClientID("linda"),
		kgo.DialTimeout(3 * time.Second),
		kgo.RequestTimeoutOverhead(callLimit),
		kgo.RetryTimeout(callLimit),
		kgo.RetryBackoffFn(backoff),
		kgo.ConnIdleTimeout(5 * time.Minute), // a session ends with its connection
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.DisableClientMetrics(),
		kgo.RecordPartitioner(spread{c}),
	}
	if c.tls != nil {
		options = append(options, kgo.DialTLSConfig(c.tls))
	}
	if c.mechanism != nil {
		options = append(options, kgo.SASL(c.mechanism))
	}
	return options
}
