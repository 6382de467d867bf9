package linda_test

import (
	"fmt"
	neturl "net/url"
	"testing"

	"github.com/amlun/linda"
)

// What a program of the first linda says, as it says it. That it compiles is
// the test; examples_test.go runs two such programs.

func dispatcherSeed(job *linda.Job) error {
	broker := linda.GetBroker()
	broker.ReleaseWithDelay("scheduler", job, 60)
	return nil
}

func _() {
	settings := linda.Settings{
		Queue:         "scheduler",
		Connection:    "redis://localhost:6379/",
		Timeout:       60,
		IntervalFloat: 5.0,
		Concurrency:   1,
	}
	linda.SetSettings(settings)
	linda.RegisterWorkers("DispatcherSeed", dispatcherSeed)
	linda.Register("MyClass", dispatcherSeed)
	if err := linda.Init(); err != nil {
		fmt.Println("Error:", err)
	}
	if err := linda.Run(); err != nil {
		fmt.Println("Error:", err)
	}
	linda.Close()
}

func _() {
	broker, err := linda.NewBroker("redis://localhost:6379/")
	if err != nil {
		fmt.Println(err)
		return
	}
	queue := "scheduler"
	job := &linda.Job{
		Queue: queue,
		Payload: linda.Payload{
			Class: "DispatcherSeed",
			Args:  []interface{}{"seed_url_md5"},
		},
	}
	if err := broker.Push(job, queue); err != nil {
		fmt.Println("Error:", err)
	}
}

type ownBroker struct{}

func (*ownBroker) Connect(url *neturl.URL) error                              { return nil }
func (*ownBroker) Close() error                                               { return nil }
func (*ownBroker) MigrateExpiredJobs(queue string)                            {}
func (*ownBroker) Pop(queue string, timeout int64) (*linda.Job, error)        { return nil, nil }
func (*ownBroker) Delete(queue string, job *linda.Job) error                  { return nil }
func (*ownBroker) Release(queue string, job *linda.Job) error                 { return nil }
func (*ownBroker) ReleaseWithDelay(queue string, j *linda.Job, d int64) error { return nil }
func (*ownBroker) Push(job *linda.Job, queue string) error                    { return nil }
func (*ownBroker) Later(delay int64, job *linda.Job, queue string) error      { return nil }

func TestNineMethodsMakeABroker(t *testing.T) {
	linda.RegisterBroker("own", func() linda.Broker { return new(ownBroker) })
	b, err := linda.NewBroker("own://")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.(*ownBroker); !ok {
		t.Errorf("opened a %T", b)
	}
}
