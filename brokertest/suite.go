// Package brokertest holds a broker to what [linda.Broker] and its optional
// interfaces promise. Each case is a rule in words and the code that checks it;
// the words are printed when it fails.
//
// A driver runs it against a real server:
//
//	func TestConformance(t *testing.T) {
//		url := startServer(t)
//		brokertest.Run(t, brokertest.Harness{
//			Open: func(t testing.TB) linda.Broker {
//				b, err := linda.NewBroker(url)
//				if err != nil {
//					t.Fatal(err)
//				}
//				return b
//			},
//			RawPush: func(t testing.TB, queue string, body []byte) error {
//				return client.RPush(t.Context(), queue, body).Err()
//			},
//		})
//	}
//
// What a broker cannot do it says: by not implementing an optional interface,
// or in its [linda.Guarantees]. The cases that need it are then skipped, with
// that reason; nothing else is.
package brokertest

import (
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amlun/linda"
)

// Harness connects the suite to a server. Only Open is needed.
type Harness struct {
	// Open opens one more connection to the server under test; the jobs are
	// the server's, so that two connections stand for two workers. The suite
	// closes what Open returns.
	Open func(t testing.TB) linda.Broker
	// RawPush makes body READY in a queue by the server's own client, as a
	// producer in another language would. It returns an error where the server
	// cannot hold such a body, which is then left out. Nil skips the cases
	// about foreign bodies.
	RawPush func(t testing.TB, queue string, body []byte) error
	// Keys names what the server holds for a queue. Where it is set, nothing
	// may be left at the end of a case, when all jobs are gone.
	Keys func(t testing.TB, queue string) []string
	// Counts holds a broker to exact attempts though it does not promise them,
	// as where it misses those that are open when the server dies: no case ends
	// the server.
	Counts bool
	// Bubble runs each case in a bubble of testing/synctest, in virtual time.
	// It is for brokers that wait on channels and timers and nothing else.
	Bubble bool
	// Slack is how late anything may be on a busy machine. Defaults to 5 s.
	Slack time.Duration
	// Skew is how much the server's clock and that of the test may differ: a
	// delay or a reservation may end that much early. Defaults to 0.
	Skew time.Duration
}

// parallel is how many cases run at once in real time. They wait more than
// they compute, so that it does not depend on the number of processors.
const parallel = 16

// Run runs every case against the harness, as a subtest with the case's name.
// Each case uses queues with names of its own, so that the server may be
// shared.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Slack == 0 {
		h.Slack = 5 * time.Second
	}
	p := probe(t, h)
	workers := parallel
	if h.Bubble {
		workers = 1
	}
	todo := make(chan testCase)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for k := range todo {
				t.Run(k.name, func(t *testing.T) { k.run(t, h, p) })
			}
		})
	}
	for _, theme := range themes {
		for _, k := range theme {
			todo <- k
		}
	}
	close(todo)
	running.Wait()
}

// testCase is one rule and its check.
type testCase struct {
	name  string
	rule  string // one sentence
	needs []need // what the broker must be able to do
	check func(c *trial)
}

var themes = [][]testCase{
	transitionCases, fetchCases, fencingCases, touchCases, payloadCases, pushCases, badBodyCases, delayCases,
	nameCases, concurrencyCases, contextCases, closeCases, batchCases, attemptCases, inspectCases, findCases, deadCases,
	uniqueCases, scheduleCases, queuesCases, pauseCases, limitCases,
}

func (k testCase) run(t *testing.T, h Harness, p promises) {
	for _, need := range k.needs {
		if missing := need(p); missing != "" {
			t.Skip(missing)
		}
	}
	check := func(t *testing.T) {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the rule: %s", k.rule)
			}
		})
		c := newTrial(t, h, p, k.name)
		k.check(c)
		c.noResidue()
	}
	if h.Bubble {
		synctest.Test(t, check)
		return
	}
	check(t)
}

// promises is what a broker says it can do.
type promises struct {
	linda.Guarantees
	fetches, fetchesAny, pauses, pushesBatches, settles, touches, inspects, unique, ticks, limits, raw bool

	peeks bool // Peek shows more than the dead
}

func probe(t *testing.T, h Harness) promises {
	b := h.Open(t)
	defer b.Close()
	p := promises{
		fetches: has[linda.Fetcher](b), fetchesAny: has[linda.MultiFetcher](b), pauses: has[linda.Pauser](b),
		pushesBatches: has[linda.BatchPusher](b), settles: has[linda.Settler](b),
		touches: has[linda.Toucher](b), inspects: has[linda.Inspector](b), unique: has[linda.Uniquer](b),
		ticks: has[linda.Ticker](b), limits: has[linda.Limiter](b), raw: h.RawPush != nil,
	}
	if g, ok := linda.As[linda.Guarantor](b); ok {
		p.Guarantees = g.Guarantees()
	}
	p.AttemptsExact = p.AttemptsExact || h.Counts
	if i, ok := linda.As[linda.Inspector](b); ok {
		_, err := i.Peek(t.Context(), newQueue("probe"), linda.Delayed, 1)
		p.peeks = !errors.Is(err, errors.ErrUnsupported)
	}
	return p
}

func has[T any](b linda.Broker) bool {
	_, ok := linda.As[T](b)
	return ok
}

// need returns what is missing for a case, or nothing.
type need func(p promises) string

func needs(n ...need) []need { return n }

func unless(ok bool, missing string) string {
	if ok {
		return ""
	}
	return missing
}

func fetcher(p promises) string { return unless(p.fetches, "the broker is no linda.Fetcher") }
func multiFetcher(p promises) string {
	return unless(p.fetchesAny, "the broker is no linda.MultiFetcher")
}
func pauser(p promises) string { return unless(p.pauses, "the broker is no linda.Pauser") }
func batchPusher(p promises) string {
	return unless(p.pushesBatches, "the broker is no linda.BatchPusher")
}
func settler(p promises) string   { return unless(p.settles, "the broker is no linda.Settler") }
func toucher(p promises) string   { return unless(p.touches, "the broker is no linda.Toucher") }
func inspector(p promises) string { return unless(p.inspects, "the broker is no linda.Inspector") }

// overseer is an inspector to whom no job is hidden, in whatever state.
func overseer(p promises) string {
	for _, state := range []linda.State{linda.Ready, linda.Delayed, linda.Reserved, linda.Dead} {
		if !slices.Contains(p.Stats, state) {
			return "the broker does not promise to count jobs that are " + string(state)
		}
	}
	if p.inspects && !p.peeks {
		return "the broker's Peek does not show jobs that are delayed"
	}
	return inspector(p)
}
func uniquer(p promises) string { return unless(p.unique, "the broker is no linda.Uniquer") }
func rawPush(p promises) string { return unless(p.raw, "the harness has no RawPush") }
func anyOptional(p promises) string {
	return unless(p.fetches || p.pushesBatches || p.settles || p.touches || p.inspects || p.unique,
		"the broker has only the nine methods")
}

func ordered(p promises) string { return unless(p.Ordered, "the broker does not promise an order") }
func exact(p promises) string {
	return unless(p.AttemptsExact, "the broker does not promise to count every delivery")
}

// newQueue makes a queue name that nobody else uses.
func newQueue(name string) string {
	return "t-" + name[:min(len(name), 30)] + "-" + rand.Text()[:10]
}
