package brokertest

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

var uniqueCases = []testCase{
	{name: "unique", needs: needs(uniquer), check: unique,
		rule: "A second job with the same key is a DuplicateError that names the holder; another key or queue is free."},
	{name: "unique-by-any-push", needs: needs(uniquer), check: uniqueByAnyPush,
		rule: "Push, Later and PushBatch honour the key as PushUnique does."},
	{name: "unique-freed", needs: needs(uniquer), check: uniqueFreed,
		rule: "The key is free once its job is deleted, buried, purged or popped at most once."},
	{name: "unique-kept", needs: needs(uniquer), check: uniqueKept,
		rule: "The key stays taken while its job waits, runs, is released, delayed or loses its reservation."},
	{name: "unique-ttl", needs: needs(uniquer), check: uniqueTTL,
		rule: "The key is free when its time is over, not earlier, and the old job's end does not free the new one's."},
	{name: "unique-failed-push", needs: needs(uniquer), check: uniqueFailedPush,
		rule: "A push that is refused takes no key."},
	{name: "unique-race", needs: needs(uniquer), check: uniqueRace,
		rule: "Of many pushes of one key at the same time, from several connections, exactly one succeeds."},
	{name: "unique-delayed", needs: needs(uniquer), check: uniqueDelayed,
		rule: "PushUnique honours the delay of the job."},
	{name: "unique-odd-keys", needs: needs(uniquer), check: uniqueOddKeys,
		rule: "Any text of up to 255 bytes is a key, and different keys do not collide."},
}

// keyed is a job with a unique key.
func keyed(key string) *linda.Job {
	job := newJob("unique", key)
	job.ID = linda.NewID()
	job.UniqueKey = key
	return job
}

// claim pushes a job with a key that must be free.
func (c *trial) claim(b linda.Broker, key, when string) *linda.Job {
	c.Helper()
	job := keyed(key)
	c.must(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, job), "PushUnique "+when)
	return job
}

// taken checks that a key is held.
func (c *trial) taken(b linda.Broker, key string, holder *linda.Job, when string) {
	c.Helper()
	err := as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, keyed(key))
	var dup *linda.DuplicateError
	if !errors.As(err, &dup) {
		c.Errorf("PushUnique %s: got %v, want a DuplicateError", when, err)
		return
	}
	equal(c, *dup, linda.DuplicateError{Queue: c.queue, Key: key, ID: holder.ID}, "the DuplicateError")
}

func uniqueByAnyPush(c *trial) {
	b := c.open()
	refused := func(err error, call string) {
		c.Helper()
		var dup *linda.DuplicateError
		if !errors.As(err, &dup) {
			c.Errorf("%s: got %v, want a DuplicateError", call, err)
		}
	}
	c.must(b.Push(keyed("k"), c.queue), "Push of a free key")
	refused(b.Push(keyed("k"), c.queue), "Push")
	refused(b.Later(60, keyed("k"), c.queue), "Later")
	if p, ok := linda.As[linda.BatchPusher](b); ok {
		refused(p.PushBatch(c.Context(), c.queue, []*linda.Job{newJob("free"), keyed("k")}), "PushBatch")
		c.delete(b, c.reserve(b, c.queue, 1, c.long)...)
	}
	c.delete(b, c.one(b))
}

func unique(c *trial) {
	b, other := c.open(), c.open()
	elsewhere := c.newQueue("elsewhere")
	first := c.claim(b, "k", "of a free key")
	c.taken(b, "k", first, "of a key that is taken")
	c.taken(other, "k", first, "by another connection")
	c.claim(b, "K", "of another key")
	c.must(as[linda.Uniquer](c, b).PushUnique(c.Context(), elsewhere, keyed("k")), "PushUnique to another queue")
	c.must(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, newJob("no key")), "PushUnique without a key")
	c.must(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, newJob("no key")), "PushUnique without a key")
	for _, job := range append(c.reserve(b, c.queue, 4, c.long), c.reserve(b, elsewhere, 1, c.long)...) {
		if job.ID == first.ID {
			equal(c, job.UniqueKey, "k", "UniqueKey of the popped job")
		}
		c.delete(b, job)
	}
	c.nothing(b)
}

func uniqueFreed(c *trial) {
	b := c.open()
	c.claim(b, "k", "of a free key")
	c.delete(b, c.one(b))
	c.claim(b, "k", "after Delete")
	if c.settles {
		c.settle(b, linda.Settlement{Job: c.one(b), Op: linda.OpBury, Reason: "no use"})
		c.claim(b, "k", "after it was buried")
	}
	if c.inspects {
		c.purge(b, linda.Ready)
		c.claim(b, "k", "after Purge")
		c.purge(b, linda.Dead)
	}
	c.popGone(b)
	c.claim(b, "k", "after Pop with a timeout of 0")
	c.delete(b, c.one(b))
}

func uniqueKept(c *trial) {
	b := c.open()
	first := c.claim(b, "k", "of a free key")
	job := c.one(b)
	c.taken(b, "k", first, "while it is reserved")
	c.must(b.Release(c.queue, job), "Release")
	c.taken(b, "k", first, "after Release")
	c.must(b.ReleaseWithDelay(c.queue, c.one(b), 1), "ReleaseWithDelay")
	c.taken(b, "k", first, "while it is delayed")
	c.reserve(b, c.queue, 1, c.lease)
	time.Sleep(c.lease + 50*time.Millisecond)
	c.taken(b, "k", first, "after the reservation ended")
	job = c.one(b)
	c.taken(b, "k", first, "while it is reserved again")
	c.delete(b, job)
	c.claim(b, "k", "after Delete")
	c.delete(b, c.one(b))
}

func uniqueTTL(c *trial) {
	b := c.open()
	u := as[linda.Uniquer](c, b)
	first := keyed("k")
	first.UniqueTTL = time.Second
	start := time.Now()
	c.must(u.PushUnique(c.Context(), c.queue, first), "PushUnique")
	second := keyed("k")
	c.until("the key is free again", func() bool {
		err := u.PushUnique(c.Context(), c.queue, second)
		var dup *linda.DuplicateError
		if err != nil && !errors.As(err, &dup) {
			c.must(err, "PushUnique")
		}
		return err == nil
	})
	c.notEarly(start, first.UniqueTTL, "the key")
	jobs := byID(c.reserve(b, c.queue, 2, c.long))
	c.delete(b, jobs[first.ID])
	c.taken(b, "k", second, "after the job that held it before is deleted")
	c.delete(b, jobs[second.ID])
	c.claim(b, "k", "after the job that holds it is deleted")
	c.delete(b, c.one(b))
}

func uniqueFailedPush(c *trial) {
	b := c.open()
	u := as[linda.Uniquer](c, b)
	bad := keyed("k")
	bad.Payload.Args = []any{math.NaN()}
	c.is(u.PushUnique(c.Context(), c.queue, bad), linda.ErrBadJob, "PushUnique of a bad job")
	bad.Payload.Args = []any{strings.Repeat("x", linda.MaxBody)}
	c.is(u.PushUnique(c.Context(), c.queue, bad), linda.ErrTooLarge, "PushUnique of a job too large")
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	c.is(u.PushUnique(ended, c.queue, keyed("k")), context.Canceled, "PushUnique with an ended context")
	c.claim(b, "k", "after pushes that were refused")
	c.delete(b, c.one(b))
	c.nothing(b)
}

func uniqueRace(c *trial) {
	brokers := []linda.Broker{c.open(), c.open()}
	var (
		all sync.WaitGroup
		won atomic.Int64
	)
	for i := range 20 {
		all.Go(func() {
			u, _ := linda.As[linda.Uniquer](brokers[i%2])
			err := u.PushUnique(c.Context(), c.queue, keyed("k"))
			var dup *linda.DuplicateError
			switch {
			case err == nil:
				won.Add(1)
			case !errors.As(err, &dup):
				c.Errorf("PushUnique: %v", err)
			}
		})
	}
	all.Wait()
	equal(c, won.Load(), 1, "pushes that succeeded")
	c.delete(brokers[0], c.one(brokers[0]))
	c.nothing(brokers[0])
}

func uniqueDelayed(c *trial) {
	b := c.open()
	job := keyed("k")
	job.Delay = time.Second
	start := time.Now()
	c.must(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, job), "PushUnique")
	c.nothing(b)
	c.taken(b, "k", job, "while its job is delayed")
	got := c.one(b)
	c.notEarly(start, time.Second, "the job")
	c.delete(b, got)
	c.claim(b, "k", "after Delete")
	c.delete(b, c.one(b))
}

func uniqueOddKeys(c *trial) {
	b := c.open()
	keys := []string{"\x00", "\n", " ", "a", "a:b", "a b", "é", "<&>\"\\", "{x}", "*", "😀", strings.Repeat("x", 255), strings.Repeat("x", 254)}
	for _, key := range keys {
		c.taken(b, key, c.claim(b, key, "of a free key"), "of a key that is taken")
	}
	c.is(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, keyed(strings.Repeat("x", 256))), linda.ErrBadJob, "a key too long")
	c.is(as[linda.Uniquer](c, b).PushUnique(c.Context(), c.queue, keyed("\xff")), linda.ErrBadJob, "a key that is not UTF-8")
	c.delete(b, c.reserve(b, c.queue, len(keys), c.long)...)
	for _, key := range keys {
		c.claim(b, key, "after Delete")
	}
	c.delete(b, c.reserve(b, c.queue, len(keys), c.long)...)
}
