package brokertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amlun/linda"
)

var limitCases = []testCase{
	{name: "slots", needs: needs(limiter), check: slots,
		rule: "No more slots are taken than a limit has, over all connections; who asks for more gets as many as there are, for the first of the holders."},
	{name: "slots-again", needs: needs(limiter), check: slotsAgain,
		rule: "A holder that has a slot keeps it when it asks again, also where the limit is full, and takes no second one."},
	{name: "slots-freed", needs: needs(limiter), check: slotsFreed,
		rule: "A slot that is given back is free at once; giving back what one does not hold changes nothing."},
	{name: "slots-end", needs: needs(limiter), check: slotsEnd,
		rule: "A slot ends with its time, not earlier, whatever its owner does; TakeSlots tells in how long the first one does."},
	{name: "slots-renewed", needs: needs(limiter), check: slotsRenewed,
		rule: "A slot that is renewed in time is kept; renewing one that has ended or was given back is refused, and does not take one."},
	{name: "slots-apart", needs: needs(limiter), check: slotsApart,
		rule: "Limits of other names have slots of their own."},
	{name: "slots-batch", needs: needs(limiter), check: slotsBatch,
		rule: "Slots of thousands are taken, renewed and given back in one call, and each that is not held has its own error."},
	{name: "slots-race", needs: needs(limiter), check: slotsRace,
		rule: "Of many who take slots at the same time, from several connections, never more than the limit hold one."},
	{name: "slots-rate", needs: needs(limiter), check: slotsRate,
		rule: "With slots that nobody gives back, no period of their length begins more than the limit."},
	{name: "slots-refused", needs: needs(limiter), check: slotsRefused,
		rule: "Bad names of limits and ended contexts are refused, and a closed broker says so."},
}

func limiter(p promises) string { return unless(p.limits, "the broker is no linda.Limiter") }

// newLimit makes the name of a limit that nobody else uses. Class names are
// part of such names, so it has any characters.
func (c *trial) newLimit() string { return "of {class} ü:" + newQueue("limit") }

// takes asks for slots and checks how many it gets.
func (c *trial) takes(b linda.Broker, limit string, most int, hold time.Duration, want int, holders ...string) time.Duration {
	c.Helper()
	taken, free, err := as[linda.Limiter](c, b).TakeSlots(c.Context(), limit, most, hold, holders)
	c.must(err, "TakeSlots")
	equal(c, taken, want, fmt.Sprintf("slots for %q", holders[:min(len(holders), 5)]))
	return free
}

func (c *trial) frees(b linda.Broker, limit string, holders ...string) {
	c.Helper()
	c.must(as[linda.Limiter](c, b).FreeSlots(c.Context(), limit, holders), "FreeSlots")
}

// renews asks to renew slots and checks which of the holders have none.
func (c *trial) renews(b linda.Broker, limit string, hold time.Duration, refused string, holders ...string) {
	c.Helper()
	err := as[linda.Limiter](c, b).RenewSlots(c.Context(), limit, hold, holders)
	var without []string
	for i, err := range linda.EachError(err, len(holders)) {
		if err != nil {
			c.is(err, linda.ErrNotReserved, "RenewSlots of "+holders[i])
			without = append(without, holders[i])
		}
	}
	equal(c, strings.Join(without, " "), refused, "holders without a slot")
}

func slots(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	c.takes(b, l, 5, c.long, 3, "a", "b", "c")
	c.takes(other, l, 5, c.long, 2, "d", "e", "f", "g")
	c.takes(b, l, 5, c.long, 0, "h")
	c.renews(b, l, c.long, "f g h", "a", "b", "c", "d", "e", "f", "g", "h")
	c.takes(b, l, 6, c.long, 1, "f", "g")
	c.takes(b, l, 2, c.long, 0, "x")
	c.frees(b, l, "a", "b", "c", "d", "e", "f")
}

func slotsAgain(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	c.takes(b, l, 2, c.long, 2, "a", "b")
	c.takes(b, l, 2, c.long, 2, "a", "b")
	c.takes(other, l, 2, c.long, 1, "b", "c", "a")
	c.frees(b, l, "a")
	c.takes(b, l, 2, c.long, 2, "b", "c", "d")
	c.frees(b, l, "b", "c")
}

func slotsFreed(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	c.frees(b, l, "nobody")
	c.takes(b, l, 2, c.long, 2, "a", "b")
	c.frees(other, l, "c", "A", "a b", "")
	c.takes(other, l, 2, c.long, 0, "c")
	c.frees(b, l, "b", "b")
	c.takes(other, l, 2, c.long, 1, "c", "d")
	c.frees(b, l, "b")
	c.takes(b, l, 2, c.long, 0, "d")
	c.frees(b, l, "a", "c")
}

func slotsEnd(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	const hold = 500 * time.Millisecond
	since := time.Now()
	c.takes(b, l, 2, hold, 1, "a")
	c.takes(b, l, 2, c.long, 1, "b")
	free := c.takes(other, l, 2, c.long, 0, "c")
	if free <= 0 || free > hold+c.harness.Skew {
		c.Errorf("the first slot ends in %v, want up to %v", free, hold)
	}
	c.until("the slot of a is free", func() bool {
		taken, _, err := as[linda.Limiter](c, other).TakeSlots(c.Context(), l, 2, c.long, []string{"c"})
		c.must(err, "TakeSlots")
		return taken == 1
	})
	c.notEarly(since, hold, "the end of a slot")
	free = c.takes(other, l, 2, c.long, 0, "d")
	if free < c.long/2 || free > c.long+c.harness.Skew {
		c.Errorf("the first slot ends in %v, want about %v", free, c.long)
	}
	c.frees(other, l, "b", "c")
}

func slotsRenewed(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	const hold = 2 * time.Second // long enough to renew in time on a busy machine
	c.takes(b, l, 2, hold, 2, "a", "b")
	c.renews(b, l, c.long, "", "a")
	time.Sleep(hold + c.harness.Skew + 50*time.Millisecond)
	c.renews(b, l, c.long, "b", "b", "a")
	c.takes(other, l, 2, c.long, 1, "c", "d")
	c.renews(b, l, c.long, "b", "b")
	c.frees(b, l, "a")
	c.renews(b, l, c.long, "a", "a")
	c.takes(other, l, 2, c.long, 1, "d", "e")
	c.renews(other, l, hold, "", "c", "d") // a shorter time counts as well
	c.until("the slots end", func() bool {
		taken, _, err := as[linda.Limiter](c, b).TakeSlots(c.Context(), l, 2, c.long, []string{"x", "y"})
		c.must(err, "TakeSlots")
		return taken == 2
	})
	c.frees(b, l, "x", "y")
}

func slotsApart(c *trial) {
	b, one, two := c.open(), c.newLimit(), c.newLimit()
	c.takes(b, one, 1, c.long, 1, "a")
	c.takes(b, two, 1, c.long, 1, "a")
	c.frees(b, one, "a")
	c.takes(b, two, 1, c.long, 0, "b")
	c.renews(b, two, c.long, "", "a")
	c.frees(b, two, "a")
}

func slotsBatch(c *trial) {
	b, l := c.open(), c.newLimit()
	const n = 10_000
	holders := make([]string, n)
	for i := range holders {
		holders[i] = fmt.Sprint("holder-", i)
	}
	c.takes(b, l, n-2, c.long, n-2, holders...)
	c.renews(b, l, c.long, strings.Join(holders[n-2:], " "), holders...)
	c.frees(b, l, holders[10:]...)
	c.takes(b, l, 12, c.long, 2, "x", "y", "z")
	c.frees(b, l, append(holders[:10], "x", "y")...)
	c.takes(b, l, 1, c.long, 1, "x")
	c.frees(b, l, "x")
}

func slotsRace(c *trial) {
	brokers, l := []linda.Broker{c.open(), c.open(), c.open()}, c.newLimit()
	const most, goroutines, rounds = 5, 12, 40
	var (
		all      sync.WaitGroup
		held     atomic.Int64
		greatest atomic.Int64
	)
	for g := range goroutines {
		all.Go(func() {
			b, _ := linda.As[linda.Limiter](brokers[g%len(brokers)])
			for n := range rounds {
				holders := []string{fmt.Sprint(g, "-", n, "a"), fmt.Sprint(g, "-", n, "b")}
				taken, _, err := b.TakeSlots(c.Context(), l, most, c.long, holders)
				if err != nil {
					c.Errorf("TakeSlots: %v", err)
					return
				}
				now := held.Add(int64(taken))
				for old := greatest.Load(); now > old && !greatest.CompareAndSwap(old, now); old = greatest.Load() {
				}
				held.Add(-int64(taken))
				if err := b.FreeSlots(c.Context(), l, holders); err != nil {
					c.Errorf("FreeSlots: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	if greatest.Load() > most || greatest.Load() == 0 {
		c.Errorf("most slots at once: got %d, want up to %d", greatest.Load(), most)
	}
	c.takes(brokers[0], l, most, c.long, most, "a", "b", "c", "d", "e", "f")
	c.frees(brokers[0], l, "a", "b", "c", "d", "e")
}

func slotsRate(c *trial) {
	b, other, l := c.open(), c.open(), c.newLimit()
	const most, period = 5, 400 * time.Millisecond
	var before, after []time.Time // each slot was taken between the two
	for n := 0; len(before) < 4*most; n++ {
		asked := time.Now()
		from := []linda.Broker{b, other}[n%2]
		taken, free, err := as[linda.Limiter](c, from).TakeSlots(c.Context(), l, most, period, []string{fmt.Sprint(n, "a"), fmt.Sprint(n, "b")})
		c.must(err, "TakeSlots")
		for range taken {
			before, after = append(before, asked), append(after, time.Now())
		}
		if taken < 2 {
			time.Sleep(min(free, period)/3 + time.Millisecond)
		}
	}
	for i := most; i < len(before); i++ {
		if gap := after[i].Sub(before[i-most]); gap < period-c.harness.Skew {
			c.Errorf("slot %d was taken %v after slot %d: that is more than %d in %v", i, gap, i-most, most, period)
		}
	}
	if took := after[len(after)-1].Sub(before[0]); took > 4*period+c.harness.Slack {
		c.Errorf("%d slots took %v", len(before), took)
	}
}

func slotsRefused(c *trial) {
	b := c.open()
	l := as[linda.Limiter](c, b)
	for _, bad := range []string{"", strings.Repeat("x", 301)} {
		_, _, err := l.TakeSlots(c.Context(), bad, 1, c.long, []string{"a"})
		c.is(err, linda.ErrBadName, "TakeSlots")
		c.is(l.RenewSlots(c.Context(), bad, c.long, []string{"a"}), linda.ErrBadName, "RenewSlots")
		c.is(l.FreeSlots(c.Context(), bad, []string{"a"}), linda.ErrBadName, "FreeSlots")
	}
	name := c.newLimit()
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	_, _, err := l.TakeSlots(ended, name, 1, c.long, []string{"a"})
	c.is(err, context.Canceled, "TakeSlots")
	c.takes(b, name, 1, c.long, 1, "b")
	c.frees(b, name, "b")
	c.must(b.Close(), "Close")
	_, _, err = l.TakeSlots(c.Context(), name, 1, c.long, []string{"a"})
	c.is(err, linda.ErrClosed, "TakeSlots")
	c.is(l.RenewSlots(c.Context(), name, c.long, []string{"a"}), linda.ErrClosed, "RenewSlots")
	c.is(l.FreeSlots(c.Context(), name, []string{"a"}), linda.ErrClosed, "FreeSlots")
}
