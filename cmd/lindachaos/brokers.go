package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	_ "github.com/amlun/linda/broker/beanstalkd"
	_ "github.com/amlun/linda/broker/kafka"
	_ "github.com/amlun/linda/broker/nsq"
	_ "github.com/amlun/linda/broker/rabbitmq"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos"
)

// target is a broker under test, and what its promises cover.
type target struct {
	kind *brokerd.Kind // nil: the broker is in the process, and so are the workers
	args []string      // of the server
	url  string        // where kind is nil

	tells   bool   // the server tells its clients where it is, and is told to name the proxy
	options string // in place of those of the server's URL; empty: as they are

	bound    bool                                          // jobs of a connection that breaks come back at once
	copies   bool                                          // a push of unknown outcome may make several jobs
	loose    bool                                          // settlements are not confirmed, and may be undone by a failure
	hops     bool                                          // a delayed job may be stored anew by whoever is handed it too early
	anew     bool                                          // what is released is stored anew before it is removed
	torn     bool                                          // the server may be killed in the middle of a push, and then hold half of it
	inexact  bool                                          // not every delivery is counted
	spared   []chaos.Fault                                 // what it does not promise to survive
	quiet    time.Duration                                 // nothing may be ready for so long at the end, where not all states are counted
	warm     time.Duration                                 // before the first fault
	visits   time.Duration                                 // so often one more worker joins or leaves, from then on; 0: never
	rerun    time.Duration                                 // beyond the lease: how long after a kill jobs wait
	prepare  func(ctx context.Context, url string) error   // before workers begin
	waiting  func(url string) (waiting count, done func()) // nil: Stats counts what is ready
	exact    bool                                          // it is empty once waiting is 0
	late     time.Duration                                 // how late a delayed job may be, when others are not; 0: as the checker has it
	special  func(ctx context.Context, url string) error
	residue  func(ctx context.Context, server *brokerd.Server, url string) (string, error)
	password string // that the server asks for; it is in no log
}

// targets are the brokers by name. A broker of another package is added by
// importing it and a line here.
var targets = map[string]target{
	"memory": {
		url: "memory://lindachaos",
		spared: []chaos.Fault{
			chaos.KillWorker, chaos.StopWorker, chaos.KillProducer, chaos.KillServer, chaos.StopServer,
			chaos.Reset, chaos.Close, chaos.BlackHole, chaos.Slow, chaos.Slices, chaos.Special,
		},
	},
	"redis": {
		kind: &brokerd.Redis,
		// What is acknowledged is to survive the death of the server.
		args:     []string{"--appendfsync", "always", "--requirepass", secret},
		rerun:    time.Second,
		special:  flushScripts,
		residue:  redisResidue,
		password: secret,
	},
	"beanstalkd": {
		kind: &brokerd.Beanstalkd,
		// The jobs of a connection go with it, and the server knows no put again.
		// A reservation that is open when it is killed is not counted, and of a
		// put it may have stored the length only.
		bound: true, copies: true, anew: true, torn: true, inexact: true,
		rerun: time.Second,
	},
	"rabbitmq": {
		kind: &brokerd.RabbitMQ,
		// The jobs of a connection go with it, the server knows no publish
		// again, and it does not confirm that it has removed a job.
		bound: true, copies: true, loose: true, anew: true,
		rerun: time.Second,
		// It cannot count what is delayed or reserved. A job that is delayed by
		// its push, by a retry or by a reservation is ready again by then.
		quiet:   10 * time.Second,
		warm:    5 * time.Second,
		prepare: rabbitQueue,
		residue: rabbitResidue,
	},
	"kafka": {
		kind: &brokerd.Kafka, tells: true,
		// A job that is held lets so many others of its partition go before it.
		args:    []string{"--override", "group.share.partition.max.record.locks=10000"},
		options: kafkaShare,
		// The records of a connection go with it. A reservation that is open
		// when the server is killed is not counted.
		bound: true, anew: true, inexact: true,
		rerun: time.Second,
		// Who moves the delayed jobs is replaced so long after it was killed.
		late: 3 * time.Second,
		// It counts dead jobs only: see rabbitmq.
		quiet:   10 * time.Second,
		warm:    5 * time.Second,
		visits:  2 * time.Second,
		waiting: kafkaWaiting,
		exact:   true,
		prepare: kafkaQueue,
		residue: kafkaResidue,
	},
	"kafka-classic": {
		kind: &brokerd.Kafka, tells: true,
		// A process that says nothing for so long has lost its partitions, and so
		// the jobs that it held: not before the lease is over.
		options: kafkaClassic,
		anew:    true,
		// It is as long until the group sees that a process has died. Until then
		// its partitions rest, and so do the delayed jobs that are moved there.
		rerun:   6 * time.Second,
		late:    8 * time.Second,
		quiet:   10 * time.Second,
		warm:    5 * time.Second,
		visits:  2 * time.Second,
		waiting: kafkaWaiting,
		prepare: kafkaQueue,
		residue: kafkaResidue,
	},
	"nsq": {
		kind: &brokerd.Nsqd,
		args: []string{"-mem-queue-size=0", "-sync-every=1"},
		// The server knows no publish again, and does not confirm that it has
		// removed a job. What is in work or delayed it forgets when it is killed.
		copies: true, loose: true, hops: true, anew: true,
		spared: []chaos.Fault{chaos.KillServer},
		rerun:  6 * time.Second, // it waits for a sign of life for 5 s at least
	},
}

// secret is what no process may tell.
const secret = "xq7PlantedSecretZ93k"

// names lists the targets.
func names() string { return strings.Join(slices.Sorted(maps.Keys(targets)), ", ") }

func redisAt(url string) (*redis.Client, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return redis.NewClient(options), nil
}

// flushScripts makes a Redis forget all scripts.
func flushScripts(ctx context.Context, url string) error {
	c, err := redisAt(url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.ScriptFlush(ctx).Err()
}

// redisResidue names keys that are left.
func redisResidue(ctx context.Context, _ *brokerd.Server, url string) (string, error) {
	c, err := redisAt(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	keys, _, err := c.Scan(ctx, 0, "*", 100).Result()
	if err != nil || len(keys) == 0 {
		return "", err
	}
	return fmt.Sprint("keys ", keys), nil
}
