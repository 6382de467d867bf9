package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// rabbitQueue makes the queue, and those for delays: RabbitMQ 3.10 breaks the channel
// of whoever consumes from a queue that another one declares just then, and counts
// what it has sent there as delivered; and the first delay of its length takes long.
func rabbitQueue(ctx context.Context, url string) error {
	b, err := linda.NewBroker(url)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if err := b.Later(4, &linda.Job{Payload: linda.Payload{Class: "first"}}, queue); err != nil {
		return err
	}
	fetcher, _ := linda.As[linda.Fetcher](b)
	jobs, err := fetcher.Fetch(ctx, queue, 1, time.Minute)
	if err != nil {
		return err
	}
	return b.Delete(queue, jobs[0])
}

// rabbitHolds is what rabbitResidue asks the server for, of one queue.
var rabbitHolds = regexp.MustCompile(`queue,<<"([^"]+)">>}},{messages_ready,(\d+)},{messages_unacknowledged,(\d+)}`)

// rabbitResidue names queues that still hold something: ready jobs, those that are
// delayed, those whose queue was not there when their delay ended, and what was sent
// to a worker that is no more and has not come back, which no client can see.
//
// A quorum queue tells of its jobs every five seconds.
func rabbitResidue(ctx context.Context, server *brokerd.Server, _ string) (left string, err error) {
	for range 4 {
		if left, err = rabbitLeft(ctx, server); left == "" || err != nil || !rest(ctx, 5*time.Second) {
			return left, err
		}
	}
	return left, err
}

func rabbitLeft(ctx context.Context, server *brokerd.Server) (left string, err error) {
	told, err := server.Eval(ctx, `rabbit_amqqueue:info_all(<<"/">>, [name, messages_ready, messages_unacknowledged])`)
	if err != nil {
		return "", err
	}
	queues := rabbitHolds.FindAllStringSubmatch(strings.Join(strings.Fields(told), ""), -1)
	if len(queues) == 0 {
		return "", fmt.Errorf("the server tells of no queues: %.200s", told)
	}
	for _, q := range queues {
		if name, ready, unsettled := q[1], q[2], q[3]; ready != "0" || unsettled != "0" {
			left += fmt.Sprintf("%s ready and %s unsettled in queue %s ", ready, unsettled, name)
		}
	}
	return left, nil
}
