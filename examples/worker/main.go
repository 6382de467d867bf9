// Worker runs the jobs that examples/push adds, each of them again a minute
// after its last run. Ctrl-C stops it.
//
//	go run ./examples/worker
package main

import (
	"fmt"
	"log"
	"time"

	"github.com/amlun/linda"
)

func init() {
	linda.SetSettings(linda.Settings{
		Queue:         "scheduler",
		Connection:    connection,
		Timeout:       60,
		IntervalFloat: 5.0,
		Concurrency:   1,
	})
	linda.RegisterWorkers("DispatcherSeed", DispatcherSeed)
}

func main() {
	if err := linda.Run(); err != nil {
		log.Fatal(err)
	}
}

// DispatcherSeed runs a job and releases it, to run again after the delay.
func DispatcherSeed(job *linda.Job) error {
	fmt.Println(time.Now().Format(time.TimeOnly), "DispatcherSeed", job.Payload.Args, "run", job.Attempt())
	broker := linda.GetBroker()
	broker.ReleaseWithDelay("scheduler", job, delay)
	return nil
}
