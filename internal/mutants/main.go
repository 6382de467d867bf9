// Command mutants shows that the tests find bugs: it puts each of a table of
// bugs into a copy of the module, runs the tests that should notice, and writes
// docs/mutants.md.
//
//	go run ./internal/mutants            all of them, two at a time
//	go run ./internal/mutants NAME ...   some, and nothing is written
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// limit is for how long a mutant may live.
const limit = time.Minute

func main() {
	parallel := flag.Int("parallel", 2, "how many at once")
	list := flag.String("o", "docs/mutants.md", "where to write the result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *parallel, *list, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// result is what became of a mutant.
type result struct {
	mutant
	caught stage // empty: none did
	test   string
	took   time.Duration
	err    error // it could not be tried
}

func run(ctx context.Context, parallel int, list string, names []string) error {
	todo := mutants
	if len(names) > 0 {
		todo = slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return !slices.Contains(names, m.name) })
	}
	results := make([]result, len(todo))
	next := make(chan int)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for i := range next {
				results[i] = try(ctx, todo[i])
				fmt.Println(results[i])
			}
		})
	}
	for i := range todo {
		next <- i
	}
	close(next)
	workers.Wait()
	for _, r := range results {
		if r.err != nil {
			return fmt.Errorf("%s: %w", r.name, r.err)
		}
	}
	if len(names) > 0 {
		return nil
	}
	return os.WriteFile(list, document(results), 0o644)
}

func (r result) String() string {
	switch {
	case r.err != nil:
		return fmt.Sprintf("%-36s ERROR %v", r.name, r.err)
	case r.caught == "":
		return fmt.Sprintf("%-36s NOT CAUGHT %.1fs", r.name, r.took.Seconds())
	}
	return fmt.Sprintf("%-36s %s: %s %.1fs", r.name, r.caught, r.test, r.took.Seconds())
}

// try puts a mutant into a copy of the module and runs its stages, until one
// catches it.
func try(ctx context.Context, m mutant) (r result) {
	r.mutant = m
	dir, err := os.MkdirTemp("", "linda-mutant-")
	if err != nil {
		r.err = err
		return r
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if r.err = m.plant(".", dir); r.err != nil {
		return r
	}
	for _, s := range m.by { // compiling is not what is measured
		build := exec.CommandContext(ctx, "go", "test", "-run", "^$", commands[s][len(commands[s])-1])
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			r.err = fmt.Errorf("it does not compile: %w\n%s", err, out)
			return r
		}
	}
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	ctx, cancel := context.WithDeadline(ctx, began.Add(limit))
	defer cancel()
	for _, s := range m.by {
		test := exec.CommandContext(ctx, "go", append(slices.Clone(commands[s]), "-timeout", limit.String())...)
		test.Dir = dir
		test.Cancel = func() error { return test.Process.Signal(os.Interrupt) }
		test.WaitDelay = 5 * time.Second
		out, err := test.CombinedOutput()
		var failed *exec.ExitError
		switch {
		case errors.As(err, &failed) && ctx.Err() == nil:
			r.caught, r.test = s, firstFailure(out)
			return r
		case ctx.Err() != nil:
			return r // it was too slow
		case err != nil:
			r.err = err
			return r
		}
	}
	return r
}

// plant copies the module and puts the mutant in.
func (m mutant) plant(from, to string) error {
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != from:
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, path), 0o755)
		case !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), ".git"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, path), b, 0o644)
	})
	if err != nil {
		return err
	}
	name := filepath.Join(to, m.file)
	source, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed, err := m.apply(string(source))
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(changed), 0o644)
}

// apply changes the one place in a source that the mutant is about.
func (m mutant) apply(source string) (string, error) {
	if n := strings.Count(source, m.old); n != 1 {
		return "", fmt.Errorf("%s has the text to change %d times, not once", m.file, n)
	}
	return strings.Replace(source, m.old, m.new, 1), nil
}

// firstFailure names the test that failed first, or how the tests ended.
func firstFailure(out []byte) string {
	name := ""
	for line := range bytes.Lines(out) {
		if _, rest, ok := strings.Cut(string(line), "--- FAIL: "); ok {
			name, _, _ = strings.Cut(rest, " ")
			if strings.Contains(name, "/") { // the case itself
				return name
			}
		}
		if name == "" && bytes.HasPrefix(line, []byte("panic: ")) {
			name = "panic"
			if bytes.Contains(line, []byte("test timed out")) {
				name = "time-out"
			}
		}
	}
	return name
}

// document is docs/mutants.md.
func document(results []result) []byte {
	var b bytes.Buffer
	caught := 0
	for _, r := range results {
		if r.caught != "" {
			caught++
		}
	}
	fmt.Fprintf(&b, `# Mutants

Bugs that are put into linda on purpose, one at a time, to see that the tests
find them: those of the first linda, those that other libraries have had, and
further ones in each part. This page is written by

    go run ./internal/mutants

from the table in `+"`internal/mutants/table.go`"+`. Each runs the tests that should
notice, in this order, for at most a minute without compiling: the simulation
(sim), the tests of the root package without Redis (unit), those on a real Redis
(redis), the byte-cut sweep (cuts), those of internal/lease (lease). A test holds
the table to the source, so it cannot rot.

Caught: %d of %d.

| mutant | file | caught by | seconds |
|---|---|---|---|
`, caught, len(results))
	for _, r := range results {
		by := fmt.Sprintf("%s: `%s`", r.caught, r.test)
		if r.caught == "" {
			by = "**not caught**: " + r.why
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %.1f |\n", r.name, r.file, by, r.took.Seconds())
	}
	return b.Bytes()
}
