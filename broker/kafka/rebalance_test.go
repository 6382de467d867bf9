package kafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// tally counts what happens to jobs.
type tally struct {
	mu      sync.Mutex
	pushed  int            // guarded by mu, as all below
	started map[string]int // by id
	ended   map[string]int // its handler
	done    map[string]int // it is settled
	lost    int
	last    time.Time     // when the last one started
	pause   time.Duration // the longest between two starts
}

func newTally() *tally {
	return &tally{started: make(map[string]int), ended: make(map[string]int), done: make(map[string]int)}
}

// push pushes naps until ctx ends.
func (y *tally) push(ctx context.Context, t *testing.T, b linda.Broker) {
	for i := 0; ctx.Err() == nil; i++ {
		length := time.Duration(rand.IntN(200)) * time.Millisecond
		if i%50 == 0 {
			length = time.Second
		}
		if !assert.NoError(t, b.Push(nap(fmt.Sprint("job-", i), length), "q")) {
			return
		}
		y.mu.Lock()
		y.pushed++
		y.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
}

// run works until ctx ends, in this process but as a member of its own where
// the URL differs from the others. It returns how many jobs it has started.
func (y *tally) run(ctx context.Context, t *testing.T, url string) int {
	var started atomic.Int64
	d, err := linda.New(linda.Settings{
		Connection: url, Queue: "q", Concurrency: 16, Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(e linda.Event) { y.note(string(e.Kind), e.ID) },
	})
	if !assert.NoError(t, err) {
		return 0
	}
	defer d.Close()
	d.HandleFunc("nap", func(_ context.Context, job *linda.Job) error {
		started.Add(1)
		y.note("started", job.ID)
		time.Sleep(time.Duration(job.Payload.Args[0].(float64)) * time.Millisecond)
		y.note("ended", job.ID)
		return nil
	})
	assert.NoError(t, d.Run(ctx))
	return int(started.Load())
}

func (y *tally) note(kind, id string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	switch kind {
	case "started":
		if !y.last.IsZero() {
			y.pause = max(y.pause, time.Since(y.last))
		}
		y.last = time.Now()
		y.started[id]++
	case "ended":
		y.ended[id]++
	case "done":
		y.done[id]++
	case "lost":
		y.lost++
	}
}

func (y *tally) isComplete() bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.ended) == y.pushed
}

// comeAndGo has a member join at one tick and leave at the next. It returns how
// many jobs these members have started.
func (y *tally) comeAndGo(t *testing.T, members int, every time.Duration, url string) int64 {
	var visited atomic.Int64
	var all sync.WaitGroup
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for range members {
		member, leave := context.WithCancel(t.Context())
		<-ticks.C
		all.Go(func() { visited.Add(int64(y.run(member, t, url))) })
		<-ticks.C
		leave()
	}
	all.Wait()
	return visited.Load()
}

// F17: every 2 s a member joins or leaves under load, as it should. Work goes
// on: a partition that goes to another member waits for its jobs to end, which
// take up to a second here, and the others do not.
func TestInClassicModeMembersThatComeAndGoLoseNoJobAndDoubleNone(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := strings.Replace(server.URL, "partitions=1", "partitions=4", 1) + classic
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	y := newTally()
	var all sync.WaitGroup
	defer all.Wait()
	working, stop := context.WithCancel(t.Context())
	defer stop()
	all.Go(func() { y.run(working, t, url) })
	pushing, enough := context.WithCancel(t.Context())
	var pusher sync.WaitGroup
	pusher.Go(func() { y.push(pushing, t, b) })
	visited := y.comeAndGo(t, 6, 2*time.Second, url+"&create=true")
	enough()
	pusher.Wait()
	require.Eventually(t, y.isComplete, 30*time.Second, 50*time.Millisecond)
	stop()
	all.Wait()
	for id, times := range y.started {
		assert.Equal(t, 1, times, id)
	}
	assert.Zero(t, y.lost)
	assert.NotZero(t, visited)
	assert.Less(t, y.pause, 4*time.Second)
	t.Logf("%d jobs, %d of them with the members that came and went; none began for up to %v", y.pushed, visited, y.pause)
}

// F17: members die under load.
func TestInClassicModeMembersThatAreKilledLoseNoJobAndDoubleOnlyWhatTheyHeld(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := strings.Replace(server.URL, "partitions=1", "partitions=4", 1) + classic + "&lock=1s"
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	y := newTally()
	var all sync.WaitGroup
	defer all.Wait()
	working, stop := context.WithCancel(t.Context())
	defer stop()
	all.Go(func() { y.run(working, t, url) })
	pushing, enough := context.WithCancel(t.Context())
	var pusher sync.WaitGroup
	pusher.Go(func() { y.push(pushing, t, b) })
	held := make(map[string]int) // started by a process that was killed, and not known to be done
	for range 4 {
		w := startWorker(t, url)
		w.until(t, "it to work", 20*time.Second, func(line string) bool {
			kind, id, _ := strings.Cut(line, " ")
			y.note(kind, id)
			return kind == "done"
		})
		time.Sleep(2 * time.Second)
		for _, line := range w.kill(t) {
			kind, id, _ := strings.Cut(line, " ")
			y.note(kind, id)
		}
		y.mu.Lock()
		for id := range y.started {
			if y.done[id] == 0 {
				held[id]++
			}
		}
		y.mu.Unlock()
	}
	enough()
	pusher.Wait()
	require.Eventually(t, y.isComplete, 30*time.Second, 50*time.Millisecond)
	stop()
	all.Wait()
	doubled := 0
	for id, times := range y.started {
		assert.LessOrEqual(t, times, 1+held[id], id)
		doubled += times - 1
	}
	t.Logf("%d jobs, %d of them again", y.pushed, doubled)
}
