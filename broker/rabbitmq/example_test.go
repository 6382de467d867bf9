package rabbitmq_test

import (
	"context"
	"fmt"
	"time"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/rabbitmq" // amqp:// and amqps://
)

func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	d, err := linda.New(linda.Settings{
		Queue:      "letters",
		Connection: "amqp://guest:guest@localhost:5672/?queue_type=quorum",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	d.HandleFunc("send", func(_ context.Context, job *linda.Job) error {
		fmt.Println("to", job.Payload.Args[0])
		stop()
		return nil
	})
	letter := &linda.Job{
		Payload: linda.Payload{Class: "send", Args: []any{"ada@example.com"}},
		Delay:   time.Second, // kept by the server, without a plugin
	}
	if err := d.Push(ctx, letter); err != nil {
		fmt.Println(err)
		return
	}
	if err := d.Run(ctx); err != nil {
		fmt.Println(err)
	}
}
