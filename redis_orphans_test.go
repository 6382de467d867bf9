package linda_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// F2: no job is stuck for ever because something beside it is gone, as after an
// eviction or half a restore. There is no second key that tells of a job: what a
// key held goes with it, and nothing else.
func TestRedisWithoutOneOfItsKeysRunsTheRestAndKeepsNothing(t *testing.T) {
	t.Parallel()
	const running = "linda:limit:running:class:held"
	for _, key := range []string{"q", "q:delayed", "q:reserved", "q:dead", "q:unique", "q:schedule", running} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			url := brokerd.Run(t, brokerd.Redis).URL
			c := redisClient(t, url)
			w := holdOneOfEach(t, url, c)
			require.Contains(t, redisKeys(t, c, ""), key, "there is such a key before it goes")
			require.NoError(t, c.Del(t.Context(), key).Err())
			close(w.goOn)
			w.push(t, "after", linda.Job{})

			gone := map[string][]string{"q": {"ready"}, "q:delayed": {"delayed"}, "q:reserved": {"held"}}[key]
			require.Eventually(t, func() bool { return w.over(gone...) }, 10*time.Second, 5*time.Millisecond, "%v", w.ends())
			if key == "q:reserved" {
				require.Eventually(t, func() bool { return slices.Contains(w.ends(), "held lost") }, 5*time.Second, 5*time.Millisecond)
			}
			// The unique key is free once the job is done. That of a job which is gone
			// ends with its time: nothing tells that the job is nowhere.
			require.Eventually(t, func() bool { return w.tryPush(t, "again", linda.Job{UniqueKey: "k"}) == nil }, 5*time.Second, 10*time.Millisecond)
			require.Eventually(t, func() bool { return slices.Contains(w.ends(), "again done") }, 10*time.Second, 5*time.Millisecond)
			require.Eventually(t, func() bool {
				left := slices.DeleteFunc(redisKeys(t, c, ""), func(k string) bool { return k == "q:dead" || k == "q:schedule" })
				return len(left) == 0
			}, 10*time.Second, 5*time.Millisecond, "nothing stays behind: %v", redisKeys(t, c, ""))
		})
	}
}

// oneOfEach is a worker and a queue that holds a job in each state.
type oneOfEach struct {
	broker linda.Broker
	goOn   chan struct{} // lets the handler return that holds a job

	mu   sync.Mutex
	told []string // guarded by mu: class and end of each event
}

func holdOneOfEach(t *testing.T, url string, c *redis.Client) *oneOfEach {
	w := &oneOfEach{broker: openBroker(t, url), goOn: make(chan struct{})}
	w.push(t, "doomed", linda.Job{})
	doomed, err := w.broker.Pop("q", 60)
	require.NoError(t, err)
	require.NoError(t, w.broker.(linda.Settler).Settle(t.Context(), "q", []linda.Settlement{{Job: doomed, Op: linda.OpBury, Reason: "r"}}))
	d, err := linda.New(linda.Settings{Connection: url, Queue: "q", Concurrency: 1, Timeout: 2, OnEvent: w.tell})
	require.NoError(t, err)
	started := make(chan struct{})
	d.HandleFunc("held", func(context.Context, *linda.Job) error {
		close(started)
		<-w.goOn
		return nil
	})
	for _, class := range []string{"ready", "delayed", "after", "again", "tick"} {
		d.HandleFunc(class, func(context.Context, *linda.Job) error { return nil })
	}
	require.NoError(t, d.Limit(linda.Limit{Class: "held", Running: 1}))
	require.NoError(t, d.Schedule("often", "@every 1h", &linda.Job{Payload: linda.Payload{Class: "tick"}}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		assert.NoError(t, d.Close())
	})
	require.Eventually(t, func() bool { return c.Exists(t.Context(), "q:schedule").Val() == 1 }, 5*time.Second, time.Millisecond)
	w.push(t, "held", linda.Job{UniqueKey: "k", UniqueTTL: 3 * time.Second})
	<-started
	w.push(t, "ready", linda.Job{})
	w.push(t, "delayed", linda.Job{Delay: time.Second})
	return w
}

func (w *oneOfEach) push(t *testing.T, class string, job linda.Job) {
	t.Helper()
	require.NoError(t, w.tryPush(t, class, job))
}

func (w *oneOfEach) tryPush(t *testing.T, class string, job linda.Job) error {
	job.Payload.Class = class
	return linda.EachError(w.broker.(linda.BatchPusher).PushBatch(t.Context(), "q", []*linda.Job{&job}), 1)[0]
}

func (w *oneOfEach) tell(e linda.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, e.Class+" "+string(e.Kind))
}

func (w *oneOfEach) ends() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

// over reports whether all jobs are done but those that went with a key.
func (w *oneOfEach) over(gone ...string) bool {
	ends := w.ends()
	for _, class := range []string{"held", "ready", "delayed", "after"} {
		if !slices.Contains(gone, class) && !slices.Contains(ends, class+" done") {
			return false
		}
	}
	return true
}
