package beanstalkd

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerEnv); url != "" {
		fmt.Fprintln(os.Stderr, "worker:", holdJobs(url))
		os.Exit(3)
	}
	goleak.VerifyTestMain(m)
}
