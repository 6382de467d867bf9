package brokerd

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// requireEnv names the kinds that a test run must find installed, separated by commas.
const requireEnv = "LINDA_TEST_REQUIRE"

// Run returns a server that is ready and is closed, its log printed if the test has failed, when the test ends. Where the
// program is not installed it skips the test, or fails it if LINDA_TEST_REQUIRE names the kind.
func Run(tb testing.TB, kind Kind, opts ...Option) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), kind, opts...)
	switch {
	case errors.Is(err, ErrNotInstalled) && !required(kind, os.Getenv(requireEnv)):
		tb.Skip(absent(kind))
	case errors.Is(err, ErrNotInstalled):
		tb.Fatalf("%s (%s names %s)", absent(kind), requireEnv, kind)
	case err != nil:
		tb.Fatal(err)
	}
	tb.Cleanup(func() { finish(tb, s) })
	return s
}

func required(kind Kind, list string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(name string) bool {
		return strings.TrimSpace(name) == kind.name
	})
}

func absent(kind Kind) string {
	lacking := cmp.Or(kind.lacking, kind.binary+" is not on PATH")
	return lacking + ": " + cmp.Or(kind.remedy, "install it or run make test")
}

func finish(tb testing.TB, s *Server) {
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
	if tb.Failed() {
		tb.Logf("log of %s at %s:\n%s", s.kind, s.Addr, s.Log())
	}
}
