package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The table is true to the source: every mutant still has its place.
func TestEveryMutantApplies(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join("../..", m.file))
		if err != nil {
			t.Error(err)
			continue
		}
		if changed, err := m.apply(string(source)); err != nil || changed == string(source) {
			t.Errorf("%s: %v", m.name, err)
		}
		if seen[m.name] || len(m.by) == 0 {
			t.Errorf("%s: it is there twice, or nothing is to catch it", m.name)
		}
		for _, s := range m.by {
			if commands[s] == nil {
				t.Errorf("%s: no stage %s", m.name, s)
			}
		}
		seen[m.name] = true
	}
	if len(mutants) < 40 {
		t.Errorf("%d mutants are not enough", len(mutants))
	}
}

func TestFirstFailureIsTheCaseItself(t *testing.T) {
	for out, want := range map[string]string{
		"--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/b (0.1s)\n": "TestA/b",
		"x\n--- FAIL: TestA (0.1s)\n--- FAIL: TestB (0.1s)\n":    "TestB",
		"panic: test timed out after 1m\n":                       "time-out",
		"ok\n":                                                   "",
	} {
		if got := firstFailure([]byte(out)); got != want {
			t.Errorf("%q: got %q, want %q", out, got, want)
		}
	}
}
