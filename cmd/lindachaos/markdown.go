package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/amlun/linda/internal/chaos"
)

// markdownHead are the columns of the table in docs/reliability.md.
var markdownHead = []string{
	"broker", "seed", "jobs acknowledged", "workers killed", "server killed, stopped", "connections reset",
	"lost", "early", "left over", "duplicates without a cause",
	"with one: worker killed, stopped, server or network, unknown", "dead by faults",
	"killed worker's jobs again, p99 (of all)", "80 % of the rate again, median and worst", "verdict",
}

// markdown writes a run as a row of that table, with its head.
func markdown(w io.Writer, c config, r *chaos.Report) {
	line := func(cells ...string) { _, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(markdownHead...)
	line(strings.Split(strings.Repeat("---,", len(markdownHead)-1)+"---", ",")...)
	line(markdownRow(c, r)...)
}

func markdownRow(c config, r *chaos.Report) []string {
	verdict := "PASS"
	if !r.OK() {
		verdict = "FAIL"
	}
	number := func(n int) string { return fmt.Sprint(n) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
	return []string{
		c.broker, fmt.Sprintf("`%#x`", c.seed), number(r.Acknowledged), number(r.Faults[chaos.KillWorker]),
		fmt.Sprintf("%d, %d", r.Faults[chaos.KillServer], r.Faults[chaos.StopServer]), number(r.Resets),
		number(r.Lost), number(r.Early), number(r.Broken[chaos.I9]), number(r.Again[chaos.Unexplained]),
		fmt.Sprintf("%d, %d, %d, %d", r.Again[chaos.ByKill], r.Again[chaos.ByStop], r.Again[chaos.ByOutage], r.Again[chaos.ByUnknown]),
		number(r.DeadByFaults), seconds(r.Rerun99) + " (" + seconds(r.Rerun99All) + ")",
		seconds(r.RecoveryMedian) + ", " + seconds(r.RecoveryMax), verdict,
	}
}
