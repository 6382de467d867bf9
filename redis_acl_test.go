package linda_test

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// redisRights reads from the documentation what a user must be allowed.
func redisRights(t *testing.T) []string {
	text, err := os.ReadFile("docs/brokers.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "ACL SETUSER linda on '>password' resetchannels '~*' -@all \\\n")
	require.True(t, found)
	block, _, _ := strings.Cut(rest, "\n\n")
	return strings.Fields(strings.ReplaceAll(block, "\\", ""))
}

// asUser makes a user with some rights and returns the URL for it.
func asUser(t *testing.T, c *redis.Client, url, user string, rights []string) string {
	args := []any{"ACL", "SETUSER", user, "reset", "on", ">secret", "resetchannels", "~*", "-@all"}
	for _, right := range rights {
		args = append(args, right)
	}
	require.NoError(t, c.Do(t.Context(), args...).Err())
	u, err := neturl.Parse(url)
	require.NoError(t, err)
	u.User = neturl.UserPassword(user, "secret")
	return u.String()
}

func TestRedisConformsWithTheRightsThatAreDocumented(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	c := redisClient(t, server.URL)
	url := asUser(t, c, server.URL, "linda", redisRights(t))
	redisConforms(t, c, func() (linda.Broker, error) { return linda.NewBroker(url) })
}

func TestRedisNeedsEachRightThatIsDocumented(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	c := redisClient(t, server.URL)
	rights := redisRights(t)
	require.NoError(t, useAll(t, asUser(t, c, server.URL, "all", rights), "all"))
	for i, right := range rights {
		t.Run(right, func(t *testing.T) {
			t.Parallel()
			less := append(append([]string{}, rights[:i]...), rights[i+1:]...)
			queue := fmt.Sprintf("q%d", i)
			c, server := c, server
			if right == "+eval" { // a server that nobody has taught the scripts
				server = brokerd.Run(t, brokerd.Redis)
				c = redisClient(t, server.URL)
			}
			err := useAll(t, asUser(t, c, server.URL, queue, less), queue)
			assert.Error(t, err, "a right that is not needed")
		})
	}
}

// useAll does whatever a broker can do, and returns the first error.
func useAll(t *testing.T, url, queue string) error {
	open, err := linda.NewBroker(url)
	if err != nil {
		return err
	}
	defer open.Close()
	g, _ := linda.As[linda.Guarantor](open)
	for _, note := range g.Guarantees().Notes {
		if strings.Contains(note, "not known") {
			return errors.New(note)
		}
	}
	b := open.(interface {
		linda.Fetcher
		linda.Settler
		linda.Toucher
		linda.Inspector
		linda.BatchPusher
		linda.Limiter
		linda.Pauser
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	job := func(key string, delay time.Duration) []*linda.Job {
		return []*linda.Job{{Payload: linda.Payload{Class: "C"}, UniqueKey: key, Delay: delay}}
	}
	fetch := func() (*linda.Job, error) {
		jobs, err := b.Fetch(ctx, queue, 1, time.Minute)
		if err != nil {
			return nil, err
		}
		return jobs[0], nil
	}
	settle := func(s linda.Settlement) func() error {
		return func() error {
			job, err := fetch()
			if err != nil {
				return err
			}
			if err := b.Touch(ctx, queue, time.Minute, []*linda.Job{job}); err != nil {
				return err
			}
			s.Job = job
			return b.Settle(ctx, queue, []linda.Settlement{s})
		}
	}
	push := func(key string, delay time.Duration) func() error {
		return func() error { return b.PushBatch(ctx, queue, job(key, delay)) }
	}
	purge := func(state linda.State) func() error {
		return func() error { _, err := b.Purge(ctx, queue, state); return err }
	}
	peek := func(state linda.State) func() error {
		return func() error { _, err := b.Peek(ctx, queue, state, 1); return err }
	}
	remove := func() error {
		known := job("", 0)
		known[0].ID = linda.NewID()
		if err := b.PushBatch(ctx, queue, known); err != nil {
			return err
		}
		_, err := b.Remove(ctx, queue, known[0].ID)
		return err
	}
	waits := func() error {
		time.AfterFunc(200*time.Millisecond, func() { _ = b.PushBatch(ctx, queue, job("", 0)) })
		since := time.Now()
		j, err := fetch()
		if err == nil && time.Since(since) > 900*time.Millisecond {
			err = errors.New("it does not wait, it looks")
		}
		if err != nil {
			return err
		}
		return b.Settle(ctx, queue, []linda.Settlement{{Job: j}})
	}
	slots := func() error {
		_, _, err := b.TakeSlots(ctx, queue, 1, time.Minute, []string{"holder"})
		if err == nil {
			err = b.RenewSlots(ctx, queue, time.Minute, []string{"holder"})
		}
		return err
	}
	for _, step := range []func() error{
		slots,
		push("", 0), purge(linda.Ready), remove, waits,
		push("", 0), peek(linda.Ready), settle(linda.Settlement{Op: linda.OpRelease, Unstarted: true}),
		settle(linda.Settlement{Op: linda.OpRelease}), settle(linda.Settlement{Op: linda.OpBury}), peek(linda.Dead),
		func() error { _, err := b.Kick(ctx, queue, 1); return err },
		settle(linda.Settlement{Op: linda.OpRelease, Delay: time.Millisecond}), settle(linda.Settlement{Op: linda.OpDelete}),
		push("k", 0), settle(linda.Settlement{Op: linda.OpDelete}),
		push("k", 0), purge(linda.Ready), push("k", time.Hour), purge(linda.Delayed),
		push("", 0), purge(linda.Ready), push("", time.Hour), purge(linda.Delayed),
		func() error { _, err := b.Stats(ctx, queue); return err },
		func() error { _, err := b.Queues(ctx); return err },
		func() error { return b.Pause(ctx, queue) },
		func() error { return b.Resume(ctx, queue) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
