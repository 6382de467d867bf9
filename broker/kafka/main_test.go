package kafka_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerEnv); url != "" {
		work := runJobs
		if os.Getenv(holdEnv) != "" {
			work = holdJobs
		}
		if err := work(url); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(3)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
