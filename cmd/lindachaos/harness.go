package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	neturl "net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos"
	"github.com/amlun/linda/internal/chaos/proxy"
)

// config is what a run is to do.
type config struct {
	broker      string
	span        time.Duration // of the load and the faults
	goal        goal          // end them when it is reached
	seed        uint64
	rate        int
	backlog     int64
	workers     int
	concurrency int
	lease       time.Duration
	gap         time.Duration // between faults, on average
	drain       time.Duration // how long the drain may take
	mix         chaos.Mix
	faults      []chaos.Planned // instead of those of the seed, if not nil
	dir         string          // for the histories
}

const logName = "processes.log"

// harness is one run.
type harness struct {
	config
	target   target
	url      string       // of the server itself
	inside   linda.Broker // of this process, so that one inside it stays open; nil for others
	server   *brokerd.Server
	proxy    *proxy.Proxy
	history  *chaos.History
	log      *os.File
	wg       sync.WaitGroup // of slots, and of who waits for the goal
	faultsOn sync.WaitGroup // of faults that last
	procs    atomic.Uint32  // numbers the processes
	acked    atomic.Int64

	workers  []*slot
	producer *slot
	visitor  order      // of the worker that comes and goes
	serverOp sync.Mutex // held by who does something to the server

	mu         sync.Mutex
	done       []chaos.Planned // guarded by mu: faults that were brought about
	complaints []complaint     // guarded by mu
}

type complaint struct {
	rule chaos.Rule
	text string
}

// run makes one run, and returns what it found and the faults that there were.
func run(ctx context.Context, c config, out io.Writer) (*chaos.Report, []chaos.Planned, error) {
	h := &harness{config: c, target: targets[c.broker]}
	defer h.close()
	if err := h.begin(ctx); err != nil {
		return nil, nil, err
	}
	h.load(ctx)
	h.heal()
	drained := h.drain(ctx)
	for _, s := range h.workers {
		s.close(3 * h.lease)
	}
	if drained {
		h.history.Write(chaos.Event{Kind: chaos.Drained})
	}
	if err := h.dump(ctx); err != nil {
		h.complain(chaos.I9, fmt.Sprintf("looking at what is left: %v", err))
	}
	began := time.Now()
	report, err := chaos.Check(h.rules(h.target), chaos.Events(h.dir))
	if err != nil {
		return nil, h.done, err
	}
	h.spy()
	for _, complaint := range h.complaints {
		report.Fail(complaint.rule, complaint.text)
	}
	if h.proxy != nil {
		report.Resets = h.proxy.Resets()
		_, _ = fmt.Fprintf(out, "connections reset: %d\n", report.Resets)
	}
	if missing := h.goal.missing(h.reached()); missing != "" {
		report.Fail(chaos.I10, "the run ended with only "+missing)
	}
	_, _ = fmt.Fprintf(out, "checked in %v\n", time.Since(began).Round(time.Millisecond))
	return report, h.done, nil
}

// rules are what a run on a target is held to.
func (c *config) rules(t target) chaos.Rules {
	r := chaos.Rules{Lease: c.lease, Bound: t.bound, Copies: t.copies, Loose: t.loose, Hops: t.hops, Anew: t.anew, Torn: t.torn, Inexact: t.inexact, Late: t.late}
	if t.rerun > 0 {
		r.Rerun = c.lease + t.rerun
	}
	return r
}

// begin starts the server, the proxy, the workers and the producer.
func (h *harness) begin(ctx context.Context) (err error) {
	if h.history, err = chaos.OpenHistory(h.dir, "harness", 0); err != nil {
		return err
	}
	if h.log, err = os.Create(filepath.Join(h.dir, logName)); err != nil {
		return err
	}
	h.url = h.target.url
	through := h.url
	if h.target.kind != nil {
		if through, err = h.serve(ctx); err != nil {
			return err
		}
	}
	if h.server == nil {
		if h.inside, err = linda.NewBroker(h.url); err != nil {
			return err
		}
	}
	if h.target.prepare != nil {
		if err := h.target.prepare(ctx, h.url); err != nil {
			return err
		}
	}
	o := order{
		Broker: h.broker, URL: through, Dir: h.dir, Seed: h.seed, Lease: h.lease, Concurrency: h.concurrency, Rate: h.rate, Backlog: h.backlog,
	}
	for i := range h.config.workers {
		o.Role, o.Name = chaos.Worker, fmt.Sprint("worker-", i)
		h.workers = append(h.workers, h.open(o))
	}
	o.Name = "visitor"
	h.visitor = o
	o.Role, o.Name = chaos.Producer, "producer"
	h.producer = h.open(o)
	return nil
}

// serve starts the server and the proxy before it, and returns the URL of that.
func (h *harness) serve(ctx context.Context) (through string, err error) {
	if h.proxy, err = proxy.Start("", nil); err != nil {
		return "", err
	}
	options := []brokerd.Option{brokerd.Args(h.target.args...)}
	if h.target.tells {
		options = append(options, brokerd.Advertise(h.proxy.Addr))
	}
	if h.server, err = brokerd.Start(ctx, *h.target.kind, options...); err != nil {
		return "", err
	}
	to := h.server.Addr
	if h.target.tells {
		to = fmt.Sprint("127.0.0.1:", h.server.Ports[len(h.server.Ports)-1])
	}
	h.proxy.Forward(to)
	h.url = h.server.URL
	if h.target.options != "" {
		h.url = strings.SplitN(h.url, "?", 2)[0] + h.target.options
	}
	return withHost(h.url, h.proxy.Addr)
}

// withHost returns a URL with another host and port.
func withHost(url, addr string) (string, error) {
	u, err := neturl.Parse(url)
	if err != nil {
		return "", err
	}
	u.Host = addr
	return u.String(), nil
}

// start starts a process, of its own where the broker is not in this one.
func (h *harness) start(o order) (process, error) {
	if h.server == nil {
		return startInside(o, h.log, func(n int64) { h.acked.Add(n) }), nil
	}
	return startChild(o, h.log, &h.acked)
}

func (h *harness) complain(rule chaos.Rule, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.complaints = append(h.complaints, complaint{rule, text})
}

// load lets the producer push and faults happen, until the time is over or the
// goal is reached.
func (h *harness) load(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.span)
	defer cancel()
	if !h.goal.none() {
		h.wg.Go(func() {
			for h.goal.missing(h.reached()) != "" && rest(ctx, 20*time.Millisecond) {
			}
			cancel()
		})
	}
	if rest(ctx, h.target.warm) {
		visits := h.visit(ctx)
		h.inject(ctx)
		visits.Wait()
	}
	<-ctx.Done()
}

// heal ends the load and all faults.
func (h *harness) heal() {
	h.producer.close(30 * time.Second)
	h.faultsOn.Wait()
	if h.proxy != nil {
		h.proxy.Heal()
	}
	h.history.Write(chaos.Event{Kind: chaos.Healed})
}

// drain waits until the broker holds no job but dead ones.
func (h *harness) drain(ctx context.Context) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, h.config.drain)
	defer cancel()
	b, err := connect(ctx, h.url)
	if b == nil || err != nil {
		h.complain(chaos.I10, "the broker does not come back")
		return false
	}
	defer func() { _ = b.Close() }()
	in, ok := linda.As[linda.Inspector](b)
	if !ok {
		h.complain(chaos.I9, "the broker has no Inspector")
		return false
	}
	waiting := func(context.Context) (int64, error) { return 0, nil }
	if h.target.exact {
		var done func()
		waiting, done = h.target.waiting(h.url)
		defer done()
	}
	var s linda.Stats
	for since := time.Now(); rest(ctx, 20*time.Millisecond); {
		s, err = in.Stats(ctx, queue)
		n, waitErr := waiting(ctx)
		if err = errors.Join(err, waitErr); err != nil || s.Ready > 0 || s.Delayed > 0 || s.Reserved > 0 || n > 0 {
			since = time.Now()
		} else if time.Since(since) >= h.target.quiet {
			return true
		}
	}
	h.complain(chaos.I9, fmt.Sprintf("not drained in %v: %+v %v", h.config.drain, s, err))
	return false
}

// dump writes down what the broker still holds, removes the dead jobs, and
// looks whether anything else is left.
func (h *harness) dump(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b, err := linda.NewBroker(h.url)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	in, ok := linda.As[linda.Inspector](b)
	if !ok {
		return nil
	}
	places := []linda.State{chaos.InReady: linda.Ready, chaos.InDelayed: linda.Delayed, chaos.InReserved: linda.Reserved, chaos.InDead: linda.Dead}
	for place, state := range places {
		jobs, err := in.Peek(ctx, queue, state, linda.MaxInspect)
		if errors.Is(err, errors.ErrUnsupported) { // residue looks for them
			continue
		}
		if err != nil {
			return err
		}
		for _, job := range jobs {
			h.history.Write(chaos.PresentEvent(job, chaos.Place(place)))
		}
		switch {
		case len(jobs) < linda.MaxInspect:
		case state == linda.Dead:
			if err := h.exhume(ctx, b, in); err != nil {
				return err
			}
		default:
			h.complain(chaos.I9, fmt.Sprintf("%d jobs or more are %s", linda.MaxInspect, state))
		}
	}
	if _, err := in.Purge(ctx, queue, linda.Dead); err != nil {
		return err
	}
	if h.target.residue == nil {
		return nil
	}
	left, err := h.target.residue(ctx, h.server, h.url)
	if left != "" {
		h.complain(chaos.I9, "the server still holds "+left)
	}
	return err
}

// exhume writes down all dead jobs where they are more than can be looked at: it
// makes them ready and fetches them.
func (h *harness) exhume(ctx context.Context, b linda.Broker, in linda.Inspector) error {
	fetcher, ok := linda.As[linda.Fetcher](b)
	if !ok {
		return errors.New("more are dead than can be looked at")
	}
	for {
		n, err := in.Kick(ctx, queue, linda.MaxInspect)
		if err != nil || n == 0 {
			return err
		}
		for n > 0 {
			jobs, err := fetcher.Fetch(ctx, queue, n, time.Minute)
			for _, job := range jobs {
				h.history.Write(chaos.PresentEvent(job, chaos.InDead))
				err = errors.Join(err, b.Delete(queue, job))
			}
			if err != nil {
				return err
			}
			n -= len(jobs)
		}
	}
}

// spy looks for the secret where it must not be.
func (h *harness) spy() {
	if h.target.password == "" {
		return
	}
	text, err := os.ReadFile(h.log.Name())
	if err != nil || bytes.Contains(text, []byte(h.target.password)) {
		h.complain(chaos.I13, fmt.Sprintf("the password is in %s (%v)", logName, err))
	}
}

// close ends whatever is left.
func (h *harness) close() {
	if h.producer != nil {
		for _, s := range append(h.workers, h.producer) {
			s.close(3 * h.lease)
		}
	}
	h.wg.Wait()
	h.faultsOn.Wait()
	if h.proxy != nil {
		_ = h.proxy.Close()
	}
	if h.server != nil {
		_ = h.server.Close()
	}
	if h.inside != nil {
		_ = h.inside.Close()
	}
	if h.log != nil {
		_ = h.log.Close()
	}
	if h.history != nil {
		_ = h.history.Close()
	}
}

// save writes what is needed to run again.
func save(dir string, c config, faults []chaos.Planned) error {
	text, err := json.MarshalIndent(map[string]any{
		"broker": c.broker, "seed": fmt.Sprintf("%#x", c.seed), "go": runtime.Version(), "faults": faults,
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, planName), text, 0o644)
}
