package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// ready names the server's queue of the READY jobs. linda's names have no
// colon, so it is nobody else's: the server keeps amq. for itself, also where
// .dead follows amq, and .dead is
// the end of every dead queue.
func (c *config) ready(queue string) string {
	name := c.prefix + queue
	if name == "amq" || strings.HasPrefix(name, "amq.") {
		name = "linda:" + name
	}
	if strings.HasSuffix(name, ".dead") {
		name += ":ready"
	}
	return name
}

// dead names the server's queue of the DEAD jobs.
func (c *config) dead(queue string) string { return linda.DeadQueue(c.ready(queue)) }

// alone names the server's queue of the READY jobs that crashed.
func (c *config) alone(queue string) string { return c.ready(queue) + ":alone" }

// declareQueue makes the queues of READY and DEAD jobs, and of those that crashed,
// or takes those that are there.
func (b *broker) declareQueue(ctx context.Context, k *link, queue string) error {
	return k.declared.await(ctx, b.beginQueue(k, queue))
}

func (b *broker) beginQueue(k *link, queue string) *part {
	return k.declared.begin("queue "+queue, func(ctx context.Context) (ripe time.Time, err error) {
		ready, dead := b.config.ready(queue), b.config.dead(queue)
		args := b.queueArgs(k)
		// What the server itself gives up, by a policy say, is dead, not lost.
		args["x-dead-letter-exchange"], args["x-dead-letter-routing-key"] = "", dead
		there, err := b.exists(ctx, k, ready)
		if err != nil {
			return ripe, err
		}
		var deadErr, aloneErr error
		var others sync.WaitGroup
		others.Go(func() { deadErr = b.declareOne(ctx, k, dead, b.queueArgs(k)) })
		others.Go(func() { aloneErr = b.declareOne(ctx, k, b.config.alone(queue), args) })
		err = b.declareOne(ctx, k, ready, args)
		others.Wait()
		if !there {
			ripe = b.ripe(k)
		}
		return ripe, cmp.Or(err, deadErr, aloneErr)
	})
}

func (b *broker) queueArgs(k *link) amqp.Table {
	if !b.quorum(k) {
		return amqp.Table{"x-queue-type": "classic"}
	}
	args := amqp.Table{"x-queue-type": "quorum"}
	if serverMajor(k) >= 4 { // it drops a message after 20 deliveries otherwise
		args["x-delivery-limit"] = int64(-1)
	}
	return args
}

// quorum reports whether queues are to be replicated ones.
func (b *broker) quorum(k *link) bool {
	if b.config.queueType != "" {
		return b.config.queueType == "quorum"
	}
	major, minor := serverVersion(k)
	return major > 3 || major == 3 && minor >= 8
}

func serverMajor(k *link) int {
	major, _ := serverVersion(k)
	return major
}

func serverVersion(k *link) (major, minor int) {
	version, _ := k.conn.Properties["version"].(string)
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major, minor
}

// declareOne declares a queue. One that is there with other arguments, since
// somebody else has made it, is used as it is.
func (b *broker) declareOne(ctx context.Context, k *link, name string, args amqp.Table) error {
	var other bool
	err := k.on(ctx, "declare queue "+name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		var refused *amqp.Error
		if errors.As(err, &refused) && refused.Code == amqp.PreconditionFailed {
			other, err = true, nil
		}
		return err
	})
	if err == nil && other {
		_, err = b.exists(ctx, k, name)
	}
	return err
}

func (b *broker) exists(ctx context.Context, k *link, name string) (there bool, err error) {
	found := make(chan bool, 1)
	err = k.on(ctx, "look for queue "+name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		var refused *amqp.Error
		missing := errors.As(err, &refused) && refused.Code == amqp.NotFound
		if missing {
			err = nil
		}
		found <- !missing
		return err
	})
	if err != nil {
		return false, err
	}
	return <-found, nil
}

// ripe returns when a server that is killed remembers a quorum queue that is made
// now. It writes the names of new ones down half a second after the last, and till
// then forgets with them what they have confirmed.
func (b *broker) ripe(k *link) time.Time {
	if !b.quorum(k) {
		return time.Time{}
	}
	return time.Now().Add(b.config.ripe)
}
