package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// limit is for how long a mutant may live.
	limit = time.Minute
	// patience is how long one run of tests may take. Tests that hang until then
	// have noticed; without a mutant they take a fraction of it.
	patience = 55 * time.Second
)

// lab is a copy of the module, in which the mutants are tried. The copy itself
// stays as it is: a mutant is an overlay, so that the compiler's cache serves all
// of them and any number can be tried at once.
type lab struct {
	dir      string            // of everything
	module   string            // of the copy
	controls map[string]string // test programs without a mutant, by package
	unfit    map[tests]error   // tests that fail without a mutant
}

func newLab(from string) (*lab, error) {
	dir, err := os.MkdirTemp("", "linda-mutants-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, module: filepath.Join(dir, "linda"), controls: make(map[string]string), unfit: make(map[tests]error)}
	if err := copyModule(from, l.module); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

// copyModule copies all files but the hidden ones.
func copyModule(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		hidden := strings.HasPrefix(entry.Name(), ".") && path != from
		switch {
		case err != nil:
			return err
		case entry.IsDir() && hidden:
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, path), 0o755)
		case hidden || !entry.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, path), b, 0o644)
	})
}

// control runs all the tests that are to catch the mutants without one, and notes
// those that fail: they would catch anything.
func (l *lab) control(ctx context.Context, parallel int, todo []mutant) error {
	var runs []tests
	for _, m := range todo {
		for _, t := range m.tests() {
			if !slices.Contains(runs, t) {
				runs = append(runs, t)
			}
		}
	}
	packages := make(map[string]bool)
	for _, t := range runs {
		if packages[t.pkg] {
			continue
		}
		packages[t.pkg] = true
		program := filepath.Join(l.dir, fmt.Sprintf("control%d", len(packages)))
		if err := l.build(ctx, t.pkg, program, nil); err != nil {
			return err
		}
		l.controls[t.pkg] = program
	}
	for i, err := range each(parallel, runs, func(t tests) error {
		began := time.Now()
		failed, err := l.run(ctx, l.controls[t.pkg], t)
		fmt.Printf("%-36s %s %.1fs\n", "no mutant", t, time.Since(began).Seconds())
		if err == nil && failed != "" {
			err = fmt.Errorf("%s fails without a mutant: %s", t, failed)
		}
		return err
	}) {
		l.unfit[runs[i]] = err
	}
	return ctx.Err()
}

// outcome is what became of a mutant.
type outcome string

const (
	caught     outcome = "caught"
	survived   outcome = "SURVIVED"
	unapplied  outcome = "DID NOT APPLY"
	uncompiled outcome = "DOES NOT COMPILE"
	untried    outcome = "COULD NOT BE TRIED"
)

// result is an outcome, and how it came about.
type result struct {
	mutant
	outcome outcome
	test    string // that caught it
	took    time.Duration
	err     error
}

// try runs the tests of a mutant, until one catches it.
func (l *lab) try(ctx context.Context, m mutant) result {
	r := result{mutant: m}
	dir, err := os.MkdirTemp(l.dir, "mutant-")
	if err != nil {
		return r.failed(untried, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := l.plant(m, dir)
	if err != nil {
		return r.failed(unapplied, err)
	}
	programs := make(map[string]string)
	r.outcome = survived
	for _, t := range m.tests() {
		if err := l.unfit[t]; err != nil {
			return r.failed(untried, err)
		}
		if programs[t.pkg] == "" {
			programs[t.pkg] = filepath.Join(dir, fmt.Sprintf("test%d", len(programs)))
			if err := l.build(ctx, t.pkg, programs[t.pkg], overlay); err != nil {
				return r.failed(uncompiled, err)
			}
		}
		began := time.Now() // compiling is not what is measured
		limited, cancel := context.WithTimeout(ctx, limit-r.took)
		test, err := l.run(limited, programs[t.pkg], t)
		cancel()
		r.took += time.Since(began)
		switch {
		case err != nil:
			return r.failed(untried, err)
		case test != "":
			r.outcome, r.test = caught, test
			return r
		}
	}
	return r
}

func (r result) failed(o outcome, err error) result {
	r.outcome, r.err = o, err
	return r
}

// plant writes the changed sources and returns the flag by which the compiler
// sees them in the place of the true ones.
func (l *lab) plant(m mutant, dir string) (overlay []string, err error) {
	changed, err := m.apply(func(file string) (string, error) {
		source, err := os.ReadFile(filepath.Join(l.module, file))
		return string(source), err
	})
	if err != nil {
		return nil, err
	}
	replace := make(map[string]string)
	for file, source := range changed {
		planted := filepath.Join(dir, fmt.Sprint("planted", len(replace), filepath.Ext(file)))
		if err := os.WriteFile(planted, []byte(source), 0o644); err != nil {
			return nil, err
		}
		replace[filepath.Join(l.module, file)] = planted
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "overlay.json")
	return []string{"-overlay", file}, os.WriteFile(file, list, 0o644)
}

// build compiles the tests of a package.
func (l *lab) build(ctx context.Context, pkg, program string, flags []string) error {
	args := slices.Concat([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", program}, flags, []string{pkg})
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir = l.module
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", pkg, err, out)
	}
	return nil
}

// run runs tests and names the one that failed, if any did.
func (l *lab) run(ctx context.Context, program string, t tests) (failed string, err error) {
	test := exec.CommandContext(ctx, program, "-test.failfast", "-test.timeout="+patience.String(), "-test.run="+t.run, "-test.skip="+t.skip)
	test.Dir = filepath.Join(l.module, t.pkg)
	test.Cancel = func() error { return test.Process.Signal(os.Interrupt) }
	test.WaitDelay = 5 * time.Second
	out, err := test.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return "", fmt.Errorf("%s: there is no such test", t)
	case err == nil:
		return "", nil
	case errors.As(err, &exit) && ctx.Err() == nil:
		return firstFailure(out), nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", nil // it has lived for too long
	}
	return "", err
}

// firstFailure names the test that failed first, down to its case, or how the
// tests ended.
func firstFailure(out []byte) string {
	name, how := "", "exit"
	for line := range bytes.Lines(out) {
		if _, rest, ok := strings.Cut(string(line), "--- FAIL: "); ok {
			test, _, _ := strings.Cut(rest, " ")
			if name == "" || strings.HasPrefix(test, name+"/") {
				name = test
			}
		}
		if how == "exit" && bytes.HasPrefix(line, []byte("panic: ")) {
			how = "panic"
			if bytes.Contains(line, []byte("test timed out")) {
				how = "time-out"
			}
		}
	}
	if name == "" {
		return how
	}
	return name
}
