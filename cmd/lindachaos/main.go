// Command lindachaos runs real workers on a real server, kills, stops and cuts
// them, and checks that every acknowledged job ran, none twice without a cause,
// none early, and that nothing is left:
//
//	go run ./cmd/lindachaos -broker redis -for 20s -seed 0x5eed
//
// All that it does is drawn from the seed, which it prints first. A run that
// fails exits with status 1, keeps its histories and tells how to repeat it;
// with -shrink it looks for fewer faults that still make it fail. docs/reliability.md
// tells what the table means.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/amlun/linda/internal/chaos"
)

const planName = "plan.json"

func main() {
	if status, ok := child(); ok {
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := command(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(status)
}

// options are what the command line says.
type options struct {
	config
	shrink, keep bool
	markdown     bool
	replay, off  string
	show, check  string
	job          uint
}

// command runs the program and returns the status to exit with.
func command(ctx context.Context, args []string, out io.Writer) (status int) {
	o, err := parse(args, out)
	if err != nil {
		_, _ = fmt.Fprintln(out, "lindachaos:", err)
		return 2
	}
	if o.show != "" {
		return show(o.show, uint32(o.job), out)
	}
	if o.check != "" {
		return check(o, out)
	}
	_, _ = fmt.Fprintf(out, "seed %#x\n", o.seed)
	report, faults, dir, err := once(ctx, o, out)
	if err != nil {
		_, _ = fmt.Fprintln(out, "lindachaos:", err)
		return 2
	}
	report.Print(out)
	if o.markdown {
		markdown(out, o.config, report)
	}
	if report.OK() {
		return 0
	}
	_, _ = fmt.Fprintf(out, "histories: %s\nagain: go run ./cmd/lindachaos %s -replay %s\n",
		dir, strings.Join(args, " "), filepath.Join(dir, planName))
	if o.shrink {
		shrink(ctx, o, faults, out)
	}
	return 1
}

func parse(args []string, out io.Writer) (*options, error) {
	o := &options{config: config{mix: chaos.DefaultMix}}
	set := flag.NewFlagSet("lindachaos", flag.ContinueOnError)
	set.SetOutput(out)
	set.StringVar(&o.broker, "broker", "redis", "one of "+names())
	set.DurationVar(&o.span, "for", 20*time.Second, "how long jobs are pushed and faults happen, at most")
	set.Int64Var(&o.goal.jobs, "jobs", 0, "end that as soon as there are so many acknowledged jobs, and what the next three ask for; a run that does not come to it fails")
	set.Int64Var(&o.goal.kills, "kills", 0, "and so many workers were killed")
	set.Int64Var(&o.goal.serverFaults, "server-faults", 0, "and the server was killed or stopped so many times")
	set.Int64Var(&o.goal.resets, "resets", 0, "and so many connections were reset")
	seed := set.String("seed", "", "draw everything from this number; empty: from a random one")
	set.IntVar(&o.rate, "rate", 0, "pushes in a second; 0: as many as are worked off")
	set.Int64Var(&o.backlog, "backlog", 500, "push no more while so many jobs are ready")
	set.IntVar(&o.workers, "workers", 4, "worker processes")
	set.IntVar(&o.concurrency, "concurrency", 10, "jobs that each of them runs at once")
	set.DurationVar(&o.lease, "lease", 3*time.Second, "of reservations, in whole seconds")
	set.DurationVar(&o.gap, "gap", 400*time.Millisecond, "between faults, on average")
	set.DurationVar(&o.drain, "drain", 2*time.Minute, "how long the drain may take")
	set.StringVar(&o.off, "off", "", "kinds of faults to leave out, by number, such as 4,5: "+faultList())
	set.StringVar(&o.replay, "replay", "", "take the faults from the "+planName+" of an earlier run")
	set.BoolVar(&o.shrink, "shrink", false, "after a failure, look for fewer faults that make it fail")
	set.BoolVar(&o.keep, "keep", false, "keep the histories of a run that passes")
	set.BoolVar(&o.markdown, "markdown", false, "print the run as a row of the table in docs/reliability.md as well")
	set.StringVar(&o.show, "show", "", "only print the histories in this folder")
	set.StringVar(&o.check, "check", "", "only check the histories in this folder, of a run with the same -broker and -lease")
	set.UintVar(&o.job, "job", 0, "of -show: only what is about this job, and the faults; 0: everything")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if _, known := targets[o.broker]; !known {
		return nil, fmt.Errorf("no broker %q; there are %s", o.broker, names())
	}
	if o.lease < time.Second || o.lease%time.Second != 0 || o.workers < 1 || o.concurrency < 1 || o.gap <= 0 {
		return nil, fmt.Errorf("the lease is whole seconds; workers, concurrency and gap are more than 0")
	}
	o.seed = rand.Uint64()
	if *seed != "" {
		var err error
		if o.seed, err = strconv.ParseUint(*seed, 0, 64); err != nil {
			return nil, err
		}
	}
	for _, text := range strings.FieldsFunc(o.off, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n >= len(o.mix) {
			return nil, fmt.Errorf("-off: no fault %q", text)
		}
		o.mix[n] = 0
	}
	if err := o.goal.possible(o.mix, targets[o.broker]); err != nil {
		return nil, err
	}
	return o, o.read()
}

func faultList() string {
	var list []string
	for f := range chaos.DefaultMix {
		list = append(list, fmt.Sprintf("%d %v", f, chaos.Fault(f)))
	}
	return strings.Join(list, ", ")
}

// read reads the faults to replay.
func (o *options) read() error {
	if o.replay == "" {
		return nil
	}
	text, err := os.ReadFile(o.replay)
	if err != nil {
		return err
	}
	var plan struct{ Faults []chaos.Planned }
	if err := json.Unmarshal(text, &plan); err != nil {
		return err
	}
	o.faults = append([]chaos.Planned{}, plan.Faults...)
	return nil
}

// once makes a run in a new folder, which it removes if the run passes.
func once(ctx context.Context, o *options, out io.Writer) (*chaos.Report, []chaos.Planned, string, error) {
	dir, err := os.MkdirTemp("", "lindachaos-")
	if err != nil {
		return nil, nil, "", err
	}
	c := o.config
	c.dir = dir
	report, faults, err := run(ctx, c, out)
	if err != nil {
		return nil, nil, dir, err
	}
	if report.OK() && !o.keep {
		return report, faults, dir, os.RemoveAll(dir)
	}
	return report, faults, dir, save(dir, c, faults)
}

// shrink halves the faults of a run that failed for as long as one of the
// halves makes it fail.
func shrink(ctx context.Context, o *options, faults []chaos.Planned, out io.Writer) {
	for len(faults) > 1 && ctx.Err() == nil {
		half := len(faults) / 2
		failed := false
		for _, part := range [][]chaos.Planned{faults[:half], faults[half:]} {
			o.faults = part
			report, done, dir, err := once(ctx, o, io.Discard)
			if err != nil {
				_, _ = fmt.Fprintln(out, "lindachaos:", err)
				return
			}
			if !report.OK() {
				_, _ = fmt.Fprintf(out, "%d faults are enough: %s\n", len(part), filepath.Join(dir, planName))
				faults, failed = done, true
				break
			}
		}
		if !failed {
			return
		}
	}
}

// show prints histories.
func show(dir string, job uint32, out io.Writer) (status int) {
	w := bufio.NewWriter(out)
	defer func() { _ = w.Flush() }()
	for e, err := range chaos.Events(dir) {
		if err != nil {
			_, _ = fmt.Fprintln(w, "lindachaos:", err)
			return 2
		}
		if job == 0 || e.Job == job || e.Job == 0 {
			_, _ = fmt.Fprintln(w, e)
		}
	}
	return 0
}

// check checks histories once more.
func check(o *options, out io.Writer) (status int) {
	report, err := chaos.Check(o.rules(targets[o.broker]), chaos.Events(o.check))
	if err != nil {
		_, _ = fmt.Fprintln(out, "lindachaos:", err)
		return 2
	}
	report.Print(out)
	if !report.OK() {
		return 1
	}
	return 0
}
