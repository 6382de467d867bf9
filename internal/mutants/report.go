package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

func (r result) String() string {
	text := fmt.Sprintf("%-36s %s", r.name, r.outcome)
	switch r.outcome {
	case caught:
		return fmt.Sprintf("%s by %s %.1fs", text, r.test, r.took.Seconds())
	case survived:
		return fmt.Sprintf("%s %.1fs", text, r.took.Seconds())
	}
	return fmt.Sprintf("%s: %v", text, r.err)
}

// row is a mutant in the document.
type row struct {
	name, file, by string
	seconds        float64
}

func (r row) String() string {
	return fmt.Sprintf("| %s | `%s` | %s | %.1f |", r.name, r.file, r.by, r.seconds)
}

func (r row) caught() bool { return strings.HasPrefix(r.by, "`") }

var rowForm = regexp.MustCompile("(?m)^\\| ([a-z0-9-]+) \\| `([^`]+)` \\| (.+) \\| ([0-9.]+) \\|$")

// readRows reads the rows of an earlier document, none if there is none.
func readRows(name string) map[string]row {
	text, _ := os.ReadFile(name)
	rows := make(map[string]row)
	for _, m := range rowForm.FindAllStringSubmatch(string(text), -1) {
		if m[3] == "**not tried yet**" {
			continue
		}
		seconds, _ := strconv.ParseFloat(m[4], 64)
		rows[m[1]] = row{m[1], m[2], m[3], seconds}
	}
	return rows
}

func (r result) row() row {
	by := "**" + strings.ToLower(string(r.outcome)) + "**"
	switch {
	case r.outcome == caught:
		by = "`" + r.test + "`"
	case r.outcome == survived && r.why != "":
		by += ": " + r.why
	}
	return row{r.name, r.file, by, r.took.Seconds()}
}

// document is docs/mutants.md: the rows of all mutants that have been tried.
func document(rows map[string]row) []byte {
	var b, table bytes.Buffer
	caught, untried, slowest := 0, 0, 0.0
	for _, m := range mutants {
		r, tried := rows[m.name]
		if !tried {
			r = row{m.name, m.file, "**not tried yet**", 0}
			untried++
		}
		if r.caught() {
			caught++
			slowest = max(slowest, r.seconds)
		}
		fmt.Fprintln(&table, r)
	}
	fmt.Fprintf(&b, `# Mutants

Bugs that are put into linda on purpose, one at a time, to see that the tests
find them: those of the first linda, those that other libraries have had, and
further ones in each part. This page is written by

    go run ./internal/mutants

from the tables in `+"`internal/mutants`"+`; with the names of some mutants it renews
their rows. Each mutant goes into a copy of the module, and the tests that should
notice run against it for at most a minute, without compiling; the same tests have
passed without a mutant just before. Where one line stands behind another, so that
neither alone is needed, a mutant changes both. A test holds the tables to the source, so they
cannot rot: where a line that a mutant changes was rewritten, it says which.

Caught: %d of %d that were tried (%.1f %%), the slowest after %.0f s; not tried yet: %d.

| mutant | file | caught by | seconds |
|---|---|---|---|
`, caught, len(mutants)-untried, 100*float64(caught)/float64(max(1, len(mutants)-untried)), slowest, untried)
	return append(b.Bytes(), table.Bytes()...)
}
