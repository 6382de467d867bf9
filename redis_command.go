package linda

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisPause is the first pause before a command is sent again that the server
// has refused for a reason that passes, redisPatience the longest.
const (
	redisPause    = 50 * time.Millisecond
	redisPatience = 400 * time.Millisecond
)

// onceCmd is a command that go-redis does not send again when its outcome is
// unknown. It still follows a cluster's redirections.
type onceCmd struct{ *redis.Cmd }

func (onceCmd) NoRetry() bool { return true }

// do sends a command once, and again only where the server has refused it for
// a reason that passes: it was not carried out.
func (b *redisBroker) do(ctx context.Context, args ...any) *redis.Cmd {
	for pause := redisPause; ; pause *= 2 {
		cmd := redis.NewCmd(ctx, args...)
		err := b.send(ctx, b.client, cmd)
		if !passes(err) || pause > redisPatience || sleep(ctx, pause) != nil {
			return cmd
		}
	}
}

func (b *redisBroker) send(ctx context.Context, client redis.UniversalClient, cmd *redis.Cmd) error {
	var once redis.Cmder = onceCmd{cmd}
	if b.repeat {
		once = cmd
	}
	err := client.Process(ctx, once)
	b.lookAgain(err)
	return err
}

// lookAgain makes the client ask for the nodes of the cluster again if one of
// them has not answered: another may be in its place.
func (b *redisBroker) lookAgain(err error) {
	var reply redis.Error
	if err == nil || errors.As(err, &reply) {
		return
	}
	for _, client := range []redis.UniversalClient{b.client, b.blocker} {
		if cluster, ok := client.(*redis.ClusterClient); ok {
			cluster.ReloadState(context.Background())
		}
	}
}

// run runs a script.
func (b *redisBroker) run(ctx context.Context, script *redisScript, keys []string, args ...any) *redis.Cmd {
	return runRedis(ctx, b.do, script, keys, args...)
}

// runRedis runs a script by its hash, and sends it where the server has
// forgotten it.
func runRedis(ctx context.Context, do redisDo, script *redisScript, keys []string, args ...any) *redis.Cmd {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, "EVALSHA", script.hash, len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	all = append(all, args...)
	cmd := do(ctx, all...)
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		all[0], all[1] = "EVAL", script.text
		cmd = do(ctx, all...)
	}
	return cmd
}

// redisDo sends a command and returns it with its answer.
type redisDo func(ctx context.Context, args ...any) *redis.Cmd

// redisScript is a script and the hash that a server knows it by.
type redisScript struct{ text, hash string }

func newRedisScript(text string) *redisScript {
	return &redisScript{text: text, hash: redis.NewScript(text).Hash()}
}

// passes reports whether the server has refused a command for a reason that is
// gone a moment later, as a rule.
func passes(err error) bool {
	_, moved := redis.IsMovedError(err)
	_, ask := redis.IsAskError(err)
	return err != nil && (moved || ask ||
		redis.IsTryAgainError(err) || redis.IsClusterDownError(err) || redis.IsMasterDownError(err) ||
		redis.IsReadOnlyError(err) || redis.IsLoadingError(err))
}

// redisError tells what an error of go-redis means for the caller.
func redisError(err error) error {
	var reply redis.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.ErrClosed):
		return ErrClosed
	case errors.Is(err, ErrUnknown):
		return fmt.Errorf("linda: redis: %w", err)
	case redis.IsAuthError(err), redis.IsPermissionError(err):
		return fmt.Errorf("linda: redis: %w", denied(err))
	case redis.IsOOMError(err):
		return fmt.Errorf("linda: redis: %w: %w", ErrFull, err)
	case errors.As(err, &reply), errors.Is(err, redis.ErrPoolTimeout), notConnected(err):
		return fmt.Errorf("linda: redis: %w", err) // it was not carried out
	default:
		return fmt.Errorf("linda: redis: %w: %w", ErrUnknown, err)
	}
}

// denied makes an error that is about a password or a right an ErrDenied.
func denied(err error) error {
	if redis.IsAuthError(err) || redis.IsPermissionError(err) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// dialError is the failure to connect: nothing was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

func notConnected(err error) bool {
	var own dialError
	var dial *net.OpError
	return errors.As(err, &own) || errors.As(err, &dial) && dial.Op == "dial"
}

// hookDials makes failures to connect, of whatever kind, dialErrors, and
// connections such as look for answers while pushes travel together.
func (b *redisBroker) hookDials() {
	hook := dialHook{&b.lines.sending}
	switch c := b.client.(type) {
	case *redis.Client:
		c.AddHook(hook)
	case *redis.ClusterClient:
		c.OnNewNode(func(node *redis.Client) { node.AddHook(hook) })
	}
}

type dialHook struct{ sending *atomic.Int64 }

func (dialHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (dialHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h dialHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, dialError{err}
		}
		return looking(conn, h.sending), nil
	}
}
