package linda

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// redisWait is how long a push waits for replicas unless the URL says so.
	redisWait = 200 * time.Millisecond
	// redisWaitMost leaves time to answer within the limit of a call.
	redisWaitMost = 3 * time.Second
)

// replicaWait is how many replicas must have a push before it is confirmed,
// and how long it waits for them.
type replicaWait struct {
	replicas int
	timeout  time.Duration
}

// adder returns what sends the commands that add jobs to a queue.
func (b *redisBroker) adder(queue string) redisDo {
	if b.wait.replicas == 0 {
		return b.do
	}
	return func(ctx context.Context, args ...any) *redis.Cmd { return b.doReplicated(ctx, queue, args...) }
}

// doReplicated sends a command as do does, and WAIT behind it on the same
// connection, since it is about what that has written. Where too few replicas
// have answered in time, the command was carried out, but a failover may undo
// it: the error wraps ErrUnknown.
//
// WAIT belongs to no key, so on a cluster redirections are followed here.
func (b *redisBroker) doReplicated(ctx context.Context, queue string, args ...any) *redis.Cmd {
	for pause, redirect := redisPause, error(nil); ; pause *= 2 {
		cmd := redis.NewCmd(ctx, args...)
		node, asking, err := b.node(ctx, queue, redirect)
		if err != nil {
			b.lookAgain(err)
			cmd.SetErr(dialError{err})
			return cmd
		}
		pipe := node.Pipeline()
		if asking {
			pipe.Do(ctx, "ASKING")
		}
		_ = pipe.Process(ctx, cmd)
		wait := pipe.Do(ctx, "WAIT", b.wait.replicas, milliseconds(b.wait.timeout))
		_, err = pipe.Exec(ctx)
		b.lookAgain(err)
		if redirect = cmd.Err(); redirect == nil {
			cmd.SetErr(b.wait.check(wait))
			return cmd
		}
		if !passes(redirect) || pause > redisPatience || sleep(ctx, pause) != nil {
			return cmd
		}
	}
}

func (w replicaWait) check(wait *redis.Cmd) error {
	got, err := wait.Int()
	switch {
	case err != nil:
		return fmt.Errorf("%w: added, but the replicas are not known to have it: %w", ErrUnknown, err)
	case got < w.replicas:
		return fmt.Errorf("%w: added, but %d replicas have it after %v, not %d", ErrUnknown, got, w.timeout, w.replicas)
	}
	return nil
}

var errNoSuchNode = errors.New("redirected to a node that is not known yet")

// node returns the server of a queue: the one that the last answer has named,
// or the master as far as is known; asking tells to ask for a slot that is on
// its way there.
func (b *redisBroker) node(ctx context.Context, queue string, last error) (node *redis.Client, asking bool, err error) {
	cluster, ok := b.client.(*redis.ClusterClient)
	if !ok {
		return b.client.(*redis.Client), false, nil // no other client has an URL
	}
	addr, moved := redis.IsMovedError(last)
	if !moved {
		addr, asking = redis.IsAskError(last)
	}
	if addr == "" {
		node, err = cluster.MasterForKey(ctx, queue)
		return node, false, err
	}
	cluster.ReloadState(ctx)
	found := make(chan *redis.Client, 1)
	err = cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		if c.Options().Addr == addr {
			select {
			case found <- c:
			default:
			}
		}
		return nil
	})
	select {
	case node = <-found:
		return node, asking, nil
	default:
		return nil, false, errors.Join(err, errNoSuchNode)
	}
}
