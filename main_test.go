package linda

import (
	"testing"

	"go.uber.org/goleak"
)

// A pool of go-redis that is closed while its server is away looks once more,
// up to a second later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}
