// Push adds one job to the queue that examples/worker works on.
//
//	go run ./examples/push
//
// The broker is redis://localhost:6379/ unless LINDA_CONNECTION names another.
package main

import (
	"cmp"
	"log"
	"os"

	"github.com/amlun/linda"
)

var connection = cmp.Or(os.Getenv("LINDA_CONNECTION"), "redis://localhost:6379/")

func main() {
	broker, err := linda.NewBroker(connection)
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()

	job := &linda.Job{
		Queue: "scheduler",
		Payload: linda.Payload{
			Class: "DispatcherSeed",
			Args:  []interface{}{"seed_url_md5"},
		},
	}
	if err := broker.Push(job, "scheduler"); err != nil {
		log.Fatal(err)
	}
}
