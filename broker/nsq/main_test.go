package nsq

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/amlun/linda"
)

// holderEnv makes this test binary a worker that reserves jobs and hangs.
const holderEnv = "LINDA_NSQ_HOLDER"

func TestMain(m *testing.M) {
	url := os.Getenv(holderEnv)
	if url == "" {
		goleak.VerifyTestMain(m)
		return
	}
	b, err := linda.NewBroker(url)
	for held := 0; err == nil && held < 5; {
		var jobs []*linda.Job
		jobs, err = b.(linda.Fetcher).Fetch(context.Background(), "q", 5-held, 10*time.Minute)
		held += len(jobs)
	}
	fmt.Println("held:", err)
	select {}
}
