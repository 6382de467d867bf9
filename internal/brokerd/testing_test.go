package brokerd

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

// verdict is a testing.TB that remembers how a test ended.
type verdict struct {
	testing.TB
	skipped, fatal string
}

func (v *verdict) Helper() {}

func (v *verdict) Skip(args ...any) {
	v.skipped = fmt.Sprint(args...)
	runtime.Goexit()
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func runIn(t *testing.T, kind Kind) *verdict {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(v, kind)
	}()
	<-done
	return v
}

func TestRunSkipsWithAReasonWhereTheProgramIsAbsent(t *testing.T) {
	t.Setenv(requireEnv, "redis")
	v := runIn(t, Kind{name: "nothing", binary: "linda-no-such-server"})
	assert.Equal(t, "linda-no-such-server is not on PATH: install it or run make test", v.skipped)
	assert.Empty(t, v.fatal)
}

func TestRunFailsWhereTheAbsentProgramIsRequired(t *testing.T) {
	t.Setenv(requireEnv, "redis, nothing")
	v := runIn(t, Kind{name: "nothing", binary: "linda-no-such-server"})
	assert.Empty(t, v.skipped)
	assert.Contains(t, v.fatal, "linda-no-such-server is not on PATH")
	assert.Contains(t, v.fatal, "LINDA_TEST_REQUIRE names nothing")
}

func TestRequired(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]bool{
		"": false, "redis": true, "redis,nsq": true, "nsq, redis ": true, "redis7": false, "nsq": false,
	} {
		assert.Equal(t, want, required(Redis, list), "%q", list)
	}
}
