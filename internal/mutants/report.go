package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
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

// summary counts results.
type summary struct {
	all, caught, survived, broken int
	slowest, took                 time.Duration
}

func summarize(results []result) (s summary) {
	s.all = len(results)
	for _, r := range results {
		switch r.outcome {
		case caught:
			s.caught++
			s.slowest = max(s.slowest, r.took)
		case survived:
			s.survived++
		default:
			s.broken++
		}
	}
	return s
}

func (s summary) String() string {
	return fmt.Sprintf("%d of %d caught (%.1f %%), the slowest after %.0f s; %d survived, %d could not be tried; %.0f minutes in all",
		s.caught, s.all, 100*float64(s.caught)/float64(s.all), s.slowest.Seconds(), s.survived, s.broken, s.took.Minutes())
}

// document is docs/mutants.md.
func document(results []result, s summary) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Mutants

Bugs that are put into linda on purpose, one at a time, to see that the tests
find them: those of the first linda, those that other libraries have had, and
further ones in each part. This page is written by

    go run ./internal/mutants

from the tables in `+"`internal/mutants`"+`. Each mutant goes into a copy of the
module, and the tests that should notice run against it for at most a minute,
without compiling; the same tests have passed without a mutant just before. A
test holds the tables to the source, so they cannot rot: where a line that a
mutant changes was rewritten, it says which.

%s.

| mutant | file | caught by | seconds |
|---|---|---|---|
`, s)
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %.1f |\n", r.name, r.file, r.by(), r.took.Seconds())
	}
	return b.Bytes()
}

// by tells what caught a mutant, or why nothing did.
func (r result) by() string {
	switch r.outcome {
	case caught:
		return "`" + r.test + "`"
	case survived:
		return strings.TrimSuffix("**survived**: "+r.why, ": ")
	}
	return "**" + strings.ToLower(string(r.outcome)) + "**"
}
