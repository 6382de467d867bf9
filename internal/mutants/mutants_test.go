package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The tables are true to the source: every mutant still has its place.
func TestEveryMutantApplies(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			changed, err := m.apply(sourceOf)
			if err != nil {
				t.Fatal(err)
			}
			for file, text := range changed {
				if source, _ := sourceOf(file); text == source {
					t.Errorf("%s: it changes nothing", file)
				}
			}
		})
	}
}

func sourceOf(file string) (string, error) {
	source, err := os.ReadFile(filepath.Join("../..", file))
	return string(source), err
}

func TestEveryMutantHasANameAndTestsOfItsOwn(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range mutants {
		if seen[m.name] {
			t.Errorf("%s: it is there twice", m.name)
		}
		seen[m.name] = true
		if len(m.at) == 0 {
			t.Errorf("%s: nothing is to catch it", m.name)
		}
		for _, s := range m.at {
			if stages[s].pkg == "" {
				t.Errorf("%s: no stage %q", m.name, s)
			}
		}
	}
	if len(mutants) < 40 {
		t.Errorf("%d mutants are not enough", len(mutants))
	}
}

func TestFirstFailureIsTheCaseItself(t *testing.T) {
	for out, want := range map[string]string{
		"--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/b (0.1s)\n":                                                                   "TestA/b",
		"--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/b (0.1s)\n        --- FAIL: TestA/b/c (0.1s)\n    --- FAIL: TestA/d (0.1s)\n": "TestA/b/c",
		"x\n--- FAIL: TestA (0.1s)\n--- FAIL: TestB (0.1s)\n":                                                                      "TestA",
		"panic: test timed out after 1m\n":                                                                                         "time-out",
		"a goroutine was left behind\n":                                                                                            "exit",
	} {
		if got := firstFailure([]byte(out)); got != want {
			t.Errorf("%q: got %q, want %q", out, got, want)
		}
	}
}

func TestAMutantThatNoLongerAppliesSaysWhere(t *testing.T) {
	m := mutant{file: "a.go", old: "x", new: "y"}
	of := func(source string) func(string) (string, error) {
		return func(string) (string, error) { return source, nil }
	}
	for _, source := range []string{"", "x x"} {
		if _, err := m.apply(of(source)); err == nil {
			t.Errorf("%q: no error", source)
		}
	}
	if got, err := m.apply(of("a x b")); err != nil || got["a.go"] != "a y b" {
		t.Errorf("got %q, %v", got, err)
	}
	m.also = []edit{{"a.go", "b", "c"}, {"b.go", "x", "z"}}
	if got, err := m.apply(of("a x b")); err != nil || got["a.go"] != "a y c" || got["b.go"] != "a z b" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestARowOfTheDocumentIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "mutants.md")
	rows := map[string]row{}
	for i, o := range []outcome{caught, survived} {
		r := result{mutant: mutants[i], outcome: o, test: "TestA/b"}.row()
		rows[r.name] = r
	}
	if err := os.WriteFile(name, document(rows), 0o644); err != nil {
		t.Fatal(err)
	}
	again := readRows(name)
	for name, r := range rows {
		if again[name] != r {
			t.Errorf("got %v, want %v", again[name], r)
		}
	}
	if again[mutants[0].name].caught() != true || again[mutants[1].name].caught() != false || again[mutants[2].name].caught() != false {
		t.Error("what was caught is told from the others")
	}
}
