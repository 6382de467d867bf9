// Redis shows an operator's view of the queues on a Redis: how many jobs are
// in which state, which are dead and why, and brings dead ones back.
//
//	go run ./examples/redis
//	go run ./examples/redis -queue scheduler
//	go run ./examples/redis -queue scheduler -kick 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"text/tabwriter"
	"time"

	"github.com/amlun/linda"
)

func main() {
	connection := flag.String("connection", "redis://localhost:6379/", "URL of the broker")
	queue := flag.String("queue", "", "list the dead jobs of this queue")
	kick := flag.Int("kick", 0, "make so many dead jobs of the queue ready again, the longest dead first")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := inspect(ctx, *connection, *queue, *kick); err != nil {
		log.Fatal(err)
	}
}

func inspect(ctx context.Context, connection, queue string, kick int) error {
	broker, err := linda.NewBroker(connection)
	if err != nil {
		return err
	}
	defer broker.Close()

	if g, ok := linda.As[linda.Guarantor](broker); ok {
		for _, note := range g.Guarantees().Notes {
			fmt.Println("note:", note)
		}
	}
	inspector, ok := linda.As[linda.Inspector](broker)
	switch {
	case !ok:
		return errors.New("this broker does not show its queues")
	case queue == "":
		return list(ctx, inspector)
	case kick > 0:
		n, err := inspector.Kick(ctx, queue, kick)
		fmt.Println("kicked", n)
		return err
	default:
		return dead(ctx, inspector, queue)
	}
}

// list shows every queue with its counts.
func list(ctx context.Context, inspector linda.Inspector) error {
	queues, err := inspector.Queues(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "QUEUE\tREADY\tDELAYED\tRESERVED\tDEAD")
	for _, queue := range queues {
		s, err := inspector.Stats(ctx, queue)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\n", queue, s.Ready, s.Delayed, s.Reserved, s.Dead)
	}
	return table.Flush()
}

// dead shows the jobs that died first, and why.
func dead(ctx context.Context, inspector linda.Inspector, queue string) error {
	jobs, err := inspector.Peek(ctx, queue, linda.Dead, 20)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tCLASS\tARGUMENTS\tATTEMPTS\tREASON")
	for _, job := range jobs {
		fmt.Fprintf(table, "%s\t%s\t%v\t%d\t%s\n", job.ID, job.Payload.Class, job.Payload.Args, job.Attempt(), job.LastError())
	}
	return table.Flush()
}
