package kafka

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Delayed jobs of all queues wait in tiers. A tier is a topic in which each
// record stays equally long, so that those in front leave first and nothing
// has to be searched or kept in memory. A job enters the longest tier that is
// not longer than what is left of its delay, and when it leaves that, the next.
// In the shortest tier a record leaves when its job is due, so that those
// behind it wait for at most that tier's time.
const (
	tiers        = 13
	shortestTier = 50             // ms; each tier is four times as long as the one before
	tierPrefix   = "linda.delay." // behind an underscore, as no name of a queue begins
)

func tierTopic(prefix string, i int) string { return fmt.Sprintf("_%s%s%d", prefix, tierPrefix, i) }

func tierTime(i int) int64 { return shortestTier << (2 * i) }

// tierOf returns which tier a topic is, -1 if none.
func tierOf(topic, prefix string) int {
	number, ok := strings.CutPrefix(topic, "_"+prefix+tierPrefix)
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i < 0 || i >= tiers {
		return -1
	}
	return i
}

// tierFor returns the tier for what is left of a delay, and how long to stay.
func tierFor(left int64) (tier int, stay int64) {
	for tier < tiers-1 && tierTime(tier+1) <= left {
		tier++
	}
	return tier, min(left, tierTime(tier))
}

// detain sends a record to its tier instead of its topic.
func (b *broker) detain(r *kgo.Record, due int64, now time.Time) {
	tier, stay := tierFor(max(due-now.UnixMilli(), 1))
	r.Headers = []kgo.RecordHeader{
		{Key: headerDue, Value: stamp(due)},
		{Key: headerLeave, Value: stamp(now.UnixMilli() + stay)},
		{Key: headerTopic, Value: []byte(r.Topic)},
	}
	r.Topic = tierTopic(b.config.prefix, tier)
}

// detention is what the headers of a record in a tier tell. A foreign record
// without them goes nowhere.
func detention(r *kgo.Record) (due, leave int64, topic string) {
	for _, h := range r.Headers {
		switch h.Key {
		case headerDue:
			due, _ = strconv.ParseInt(string(h.Value), 10, 64)
		case headerLeave:
			leave, _ = strconv.ParseInt(string(h.Value), 10, 64)
		case headerTopic:
			topic = string(h.Value)
		}
	}
	return due, leave, topic
}

// waiting are the records of a tier that a mover has read and not moved, the
// first to leave first.
type waiting struct {
	records []*kgo.Record
	bytes   int
}

func (w *waiting) add(r *kgo.Record) {
	w.records = append(w.records, r)
	w.bytes += size(r)
}

// due returns how many of the records are to leave by now.
func (w *waiting) due(now time.Time) int {
	n := slices.IndexFunc(w.records, func(r *kgo.Record) bool {
		_, leave, _ := detention(r)
		return leave > now.UnixMilli()
	})
	if n < 0 {
		return len(w.records)
	}
	return n
}

// remove takes the first n records out.
func (w *waiting) remove(n int) {
	for i := range n {
		w.bytes -= size(w.records[i])
		w.records[i] = nil // what is behind it keeps the array
	}
	w.records = w.records[n:]
}

// size is about how much memory a record takes.
func size(r *kgo.Record) int { return len(r.Key) + len(r.Value) + 500 }

// ensureTiers sees to it that all tiers are there.
func (b *broker) ensureTiers(ctx context.Context) error {
	return b.ensure(ctx, 1, b.tierTopics()...)
}

func (b *broker) tierTopics() []string {
	names := make([]string, tiers)
	for i := range names {
		names[i] = tierTopic(b.config.prefix, i)
	}
	return names
}
