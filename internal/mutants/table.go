package main

import (
	"fmt"
	"slices"
	"strings"
)

// mutant is one bug: an exact piece of the source, and what it becomes.
type mutant struct {
	name     string
	file     string
	old, new string
	also     []edit  // what stands behind it: a bug is no bug while a second line prevents it
	at       []stage // what should catch it, in this order
	test     string  // the tests of the first stage that should; empty: all of them
	why      string  // where nothing does: the reason
}

// edit is a piece of a file that becomes another.
type edit struct{ file, old, new string }

// edits are all of a mutant.
func (m mutant) edits() []edit { return append([]edit{{m.file, m.old, m.new}}, m.also...) }

// tests are some tests of a package.
type tests struct{ pkg, run, skip string }

func (t tests) String() string {
	return strings.TrimSpace(t.pkg + " " + t.run + strings.TrimSuffix(" without "+t.skip, " without "))
}

// stage is a run of tests.
type stage string

// The stages.
const (
	simulated stage = "the simulation"
	unit      stage = "the root package without Redis: engine, envelope, memory broker"
	redis     stage = "Redis: conformance, and the tests of its own"
	sweep     stage = "the byte-cut sweep"
	leases    stage = "reservations that linda keeps"
	beanstalk stage = "beanstalkd"
	rabbit    stage = "RabbitMQ"
	kafka     stage = "Kafka"
	nsq       stage = "NSQ"
)

// stages are the tests of each. A broker of its own package needs a line here and
// mutants in table_brokers.go.
var stages = map[stage]tests{
	simulated: {pkg: "./internal/sim", run: "EverySimulatedHour"},
	unit:      {pkg: ".", skip: "Redis|SuiteCatches|Signal|Child|Fuzz"},
	redis: {pkg: ".",
		run: "Redis(Conforms$|BareRPush|Reserves|Runs|Keeps|GoesBy|ScriptFlush|KeyOf|ThatIsFull|CallsReturn|Remembers|Ticks|Schedule|Pushes|Push)"},
	sweep:     {pkg: "./internal/cuts", run: "Cut.*/redis"},
	leases:    {pkg: "./internal/lease"},
	beanstalk: {pkg: "./broker/beanstalkd", skip: "UnderLoad|HangsForLong|Fuzz"},
	rabbit:    {pkg: "./broker/rabbitmq", run: "Conformance/quorum"},
	kafka:     {pkg: "./broker/kafka", run: "Conformance"},
	nsq:       {pkg: "./broker/nsq", run: "ConformanceOfNsqd"},
}

// tests are those that should catch a mutant, in this order.
func (m mutant) tests() []tests {
	row := make([]tests, len(m.at))
	for i, s := range m.at {
		row[i] = stages[s]
	}
	if m.test != "" {
		row[0].run, row[0].skip = m.test, ""
	}
	return row
}

// apply changes the one place in a source that the edit is about.
func (e edit) apply(source string) (string, error) {
	if n := strings.Count(source, e.old); n != 1 {
		return "", fmt.Errorf("%s has this text %d times, not once:\n%s\nGive the mutant the new text in internal/mutants, or remove it",
			e.file, n, e.old)
	}
	return strings.Replace(source, e.old, e.new, 1), nil
}

// apply changes what the mutant is about, and returns each file that has changed.
func (m mutant) apply(read func(file string) (string, error)) (changed map[string]string, err error) {
	changed = make(map[string]string)
	for _, e := range m.edits() {
		source, again := changed[e.file]
		if !again {
			if source, err = read(e.file); err != nil {
				return nil, err
			}
		}
		if changed[e.file], err = e.apply(source); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

// conforms names cases of the conformance suite on a real Redis.
func conforms(cases string) string { return "TestRedisConforms$/redis-server/^(" + cases + ")$" }

var (
	engine  = []stage{simulated, unit}
	onRedis = []stage{redis}
	atUnits = []stage{unit, simulated}
)

// mutants are all bugs.
var mutants = slices.Concat(rootMutants, brokerMutants)
