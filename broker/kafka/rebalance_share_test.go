package kafka_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// Every 2 s a member joins or leaves the share group, while three others work.
// A share group takes no partitions away, so that nothing has to run twice.
func TestShareMembersThatComeAndGoLoseNoJobAndDoubleNone(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := newRecord()
	var workers sync.WaitGroup
	for i := range 3 {
		b := open(t, fmt.Sprintf("%s&lock=%ds", server.URL, 30+i)) // movers of their own
		defer b.Close()
		workers.Go(func() { r.work(ctx, b) })
	}
	coming, stop := context.WithCancel(ctx)
	workers.Go(func() {
		for coming.Err() == nil {
			b := open(t, server.URL)
			limited, cancel := context.WithTimeout(coming, 2*time.Second)
			r.work(limited, b)
			cancel()
			_ = b.Close()
			select {
			case <-time.After(2 * time.Second):
			case <-coming.Done():
			}
		}
	})
	producer := open(t, server.URL)
	defer producer.Close()
	pushed := 0
	for begun := time.Now(); time.Since(begun) < 12*time.Second; pushed += 20 {
		jobs := make([]*linda.Job, 20)
		for i := range jobs {
			jobs[i] = newJob(fmt.Sprint(pushed + i))
			jobs[i].Delay = time.Duration(i%2) * 700 * time.Millisecond
		}
		require.NoError(t, producer.(linda.BatchPusher).PushBatch(ctx, "q", jobs))
	}
	r.await(ctx, pushed)
	stop()
	cancel()
	workers.Wait()
	assert.Len(t, r.came, pushed)
	for class, times := range r.came {
		assert.Equal(t, 1, times, class)
	}
}

// record is what workers have seen.
type record struct {
	mu      sync.Mutex
	came    map[string]int // guarded by mu: how often each class came
	changed chan struct{}
}

func newRecord() *record {
	return &record{came: make(map[string]int), changed: make(chan struct{}, 1)}
}

// work deletes what comes until ctx ends.
func (r *record) work(ctx context.Context, b linda.Broker) {
	for ctx.Err() == nil {
		jobs, _ := b.(linda.Fetcher).Fetch(ctx, "q", 20, time.Minute)
		r.mu.Lock()
		for _, job := range jobs {
			r.came[job.Payload.Class]++
		}
		r.mu.Unlock()
		_ = deleteAll(context.WithoutCancel(ctx), b, "q", jobs)
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
}

// await returns when so many classes have come, or ctx ends.
func (r *record) await(ctx context.Context, classes int) {
	for {
		r.mu.Lock()
		n := len(r.came)
		r.mu.Unlock()
		if n >= classes {
			return
		}
		select {
		case <-r.changed:
		case <-ctx.Done():
			return
		}
	}
}
