package nsq

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
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

// tapped stands between clients and a server, records what clients send, and
// can hold that up.
type tapped struct {
	addr string
	held sync.Mutex // locked: nothing passes from client to server

	mu   sync.Mutex
	sent bytes.Buffer // guarded by mu
	open []net.Conn   // guarded by mu
}

func newTapped(t *testing.T, target string) *tapped {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tapped{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, client, server)
			p.mu.Unlock()
			all.Go(func() { _, _ = io.Copy(client, server); _ = client.Close() })
			all.Go(func() { _, _ = io.Copy(p.up(server), client); _ = server.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		all.Wait()
	})
	return p
}

// cut ends all connections.
func (p *tapped) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

func (p *tapped) up(server io.Writer) io.Writer {
	return writer(func(b []byte) (int, error) {
		p.held.Lock()
		defer p.held.Unlock()
		p.mu.Lock()
		p.sent.Write(b)
		p.mu.Unlock()
		return server.Write(b)
	})
}

type writer func(b []byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// count is how often clients have sent a text.
func (p *tapped) count(text string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Count(p.sent.Bytes(), []byte(text))
}

// through is the URL of a server by way of a proxy.
func (p *tapped) through(url string) string {
	_, rest, _ := strings.Cut(url, "?")
	return "nsq://" + p.addr + "?" + rest
}

func TestASecondSettlementNeverReachesTheServer(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	p := newTapped(t, server.Addr)
	b := opened(t, p.through(server.URL))
	require.NoError(t, b.Push(job("job"), "q"))
	j := fetch(t, b, 1, time.Minute)[0]
	require.NoError(t, b.Delete("q", j))
	for range 3 {
		require.ErrorIs(t, b.Delete("q", j), linda.ErrNotReserved)
		require.ErrorIs(t, b.Release("q", j), linda.ErrNotReserved)
	}
	require.NoError(t, b.Close())
	assert.Eventually(t, func() bool { return p.count("FIN ") == 1 }, slack, time.Millisecond)
	time.Sleep(50 * time.Millisecond) // for what must not come
	assert.Equal(t, 1, p.count("FIN "))
	assert.Zero(t, p.count("REQ "))
	assert.Equal(t, 1, p.count("PUB "))
}

func TestWhatTheServerHasTakenBackIsNotSettledOnItsConnection(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	p := newTapped(t, server.Addr)
	b := opened(t, p.through(server.URL)+"&msg_timeout=3s")
	require.NoError(t, b.Push(job("job"), "q"))
	first := fetch(t, b, 1, time.Minute)[0]
	go func() { // so that there is somebody to whom it is handed out again
		time.Sleep(100 * time.Millisecond)
		p.held.Lock() // the server hears nothing, and takes the job back
	}()
	second := fetch(t, b, 1, time.Minute)[0]
	assert.ErrorIs(t, b.Delete("q", first), linda.ErrLeaseLost)
	assert.Equal(t, first.ID, second.ID)
	assert.Equal(t, 2, second.Attempt())
	assert.Equal(t, 1, second.Crashes())
	p.held.Unlock()
	require.NoError(t, b.Delete("q", second))
	require.Eventually(t, func() bool {
		s, err := b.Stats(t.Context(), "q")
		return err == nil && s == linda.Stats{}
	}, slack, 10*time.Millisecond)
	assert.Equal(t, 1, p.count("FIN "))
}

func TestASettlementThatIsTriedAgainMakesNoSecondCopy(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	p := newTapped(t, server.Addr)
	b := opened(t, p.through(server.URL))
	require.NoError(t, b.Push(job("job"), "q"))
	again := []linda.Settlement{{Job: fetch(t, b, 1, time.Minute)[0], Op: linda.OpRelease}}
	p.held.Lock()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, b.Settle(ctx, "q", again), linda.ErrUnknown)
		cancel()
	}
	p.held.Unlock()
	require.NoError(t, b.Settle(t.Context(), "q", again))
	require.NoError(t, b.Delete("q", fetch(t, b, 1, time.Minute)[0]))
	assert.Empty(t, rest(t, b, 500*time.Millisecond))
}

func TestJobsOfAConnectionThatBreaksAreLostToTheirWorker(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	p := newTapped(t, server.Addr)
	b := opened(t, p.through(server.URL)+"&msg_timeout=3s")
	require.NoError(t, b.Push(job("job"), "q"))
	j := fetch(t, b, 1, time.Minute)[0]
	p.cut()
	again := fetch(t, b, 1, time.Minute)[0] // by a new connection
	assert.ErrorIs(t, b.Delete("q", j), linda.ErrLeaseLost)
	assert.Equal(t, j.ID, again.ID)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", again))
}

func TestPushesOfManyCallersTravelTogether(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	p := newTapped(t, server.Addr)
	b := opened(t, p.through(server.URL))
	const callers, each = 50, 40
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				assert.NoError(t, b.Push(job("job"), "q"))
			}
		})
	}
	all.Wait()
	commands := p.count("PUB q")
	t.Logf("%d pushes by %d commands", callers*each, commands)
	assert.Less(t, commands, callers*each/4)
	assert.Equal(t, callers*each, rest(t, b, 500*time.Millisecond)["job"])
}

func TestAPushGoesToTheNextServer(t *testing.T) {
	t.Parallel()
	first, second := brokerd.Run(t, brokerd.Nsqd), brokerd.Run(t, brokerd.Nsqd)
	_, firstWeb, _ := strings.Cut(first.URL, "http=")
	_, secondWeb, _ := strings.Cut(second.URL, "http=")
	b := opened(t, "nsq://"+first.Addr+","+second.Addr+"?http="+firstWeb+","+secondWeb)
	require.NoError(t, b.Push(job("first"), "q"))
	require.NoError(t, first.Stop())
	for range 3 {
		require.NoError(t, b.Push(job("second"), "q"))
	}
	require.NoError(t, b.Push(delayed("second", time.Second), "q"))
	assert.Equal(t, map[string]int{"second": 4}, rest(t, b, 2*time.Second))
	require.NoError(t, first.Restart(t.Context()))
	assert.Equal(t, map[string]int{"first": 1}, rest(t, b, 3*time.Second), "it is fetched from again")

	require.NoError(t, first.Pause()) // it is silent
	defer func() { _ = first.Resume() }()
	require.NoError(t, b.Push(job("other"), "q"))
	assert.Equal(t, map[string]int{"other": 1}, rest(t, b, time.Second))
}

func TestEveryCallReturnsWhileTheServerIsStopped(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	b := opened(t, server.URL)
	for range 3 {
		require.NoError(t, b.Push(job("job"), "q"))
	}
	held := fetch(t, b, 2, time.Minute)
	require.NoError(t, server.Pause())
	time.Sleep(50 * time.Millisecond) // until all its threads stand still
	const limit = time.Second
	calls := map[string]func(context.Context) error{
		"push": func(ctx context.Context) error { return b.PushBatch(ctx, "q", []*linda.Job{job("late")}) },
		"fetch": func(ctx context.Context) error {
			_, err := b.Fetch(ctx, "new", 1, time.Minute)
			return err
		},
		"stats": func(ctx context.Context) error { _, err := b.Stats(ctx, "q"); return err },
		"peek":  func(ctx context.Context) error { _, err := b.Peek(ctx, "q", linda.Dead, 1); return err },
		"kick":  func(ctx context.Context) error { _, err := b.Kick(ctx, "q", 1); return err },
		"release": func(ctx context.Context) error {
			return b.Settle(ctx, "q", []linda.Settlement{{Job: held[0], Op: linda.OpRelease}})
		},
		"pop": func(context.Context) error { _, err := b.Pop("q", 60); return err }, // five seconds
	}
	var all sync.WaitGroup
	for name, call := range calls {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			err := call(ctx)
			took := time.Since(began)
			assert.Error(t, err, name)
			if name == "pop" {
				took -= 4 * time.Second
			}
			assert.Less(t, took, limit+slack/5, name)
			if name == "push" || name == "release" {
				assert.ErrorIs(t, linda.EachError(err, 1)[0], linda.ErrUnknown, name)
			}
		})
	}
	all.Wait()
	require.NoError(t, b.Delete("q", held[1])) // it is on its way
	require.NoError(t, server.Resume())
	got := rest(t, b, 2*time.Second)
	assert.Equal(t, map[string]int{"job": 2, "late": 1}, got, "the one that was released, once, and the third")
}

// TestAStopOfTheServerIsSurvived has a Run go on when the server was stopped for
// longer than a heartbeat, and jobs were in work.
func TestAStopOfTheServerIsSurvived(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	load := startLoad(t, server.URL)
	time.Sleep(time.Second)
	require.NoError(t, server.Pause())
	time.Sleep(15 * time.Second)
	require.NoError(t, server.Resume())
	load.goesOn(t)
	load.end(t)
	assert.LessOrEqual(t, load.twice(), int(load.unknown.Load()), "only what was pushed twice ran twice")
}

func TestARestartUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Nsqd)
	load := startLoad(t, server.URL)
	for range 3 {
		time.Sleep(700 * time.Millisecond)
		require.NoError(t, server.Restart(t.Context()))
		load.goesOn(t)
	}
	load.end(t)
}

// load is a Run with producers beside it.
type load struct {
	run     func() error
	stop    context.CancelFunc
	pushing sync.WaitGroup
	enough  context.CancelFunc
	unknown atomic.Int64
	last    atomic.Int64 // when a job ran, unix ns

	mu    sync.Mutex
	acked map[string]bool // guarded by mu
	ran   map[string]int  // guarded by mu
}

func startLoad(t *testing.T, url string) *load {
	t.Helper()
	l := &load{acked: make(map[string]bool), ran: make(map[string]int)}
	d, err := linda.New(linda.Settings{Queue: "q", Connection: url, Concurrency: 8, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	d.HandleFunc("job", func(_ context.Context, job *linda.Job) error {
		l.mu.Lock()
		l.ran[job.ID]++
		l.mu.Unlock()
		l.last.Store(time.Now().UnixNano())
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	l.run = func() error { err := <-done; _ = d.Close(); return err }
	pushing, enough := context.WithCancel(t.Context())
	l.enough = enough
	for range 4 {
		l.pushing.Go(func() {
			for pushing.Err() == nil {
				l.push(t.Context(), d)
				time.Sleep(time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) push(ctx context.Context, d *linda.Dispatcher) {
	j := job("job")
	j.ID = linda.NewID()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := d.Push(ctx, j); err != nil {
		l.unknown.Add(1)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[j.ID] = true
}

// goesOn waits for a job that runs from now on.
func (l *load) goesOn(t *testing.T) {
	t.Helper()
	back := time.Now()
	require.Eventually(t, func() bool { return l.last.Load() > back.UnixNano() }, 20*time.Second, 5*time.Millisecond)
	t.Logf("working again %v after the server was back", time.Since(back))
	assert.Less(t, time.Since(back), 2*time.Second+slack)
}

// end checks that all that was acknowledged has run.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.enough()
	l.pushing.Wait()
	lost := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for id := range l.acked {
			if l.ran[id] == 0 {
				n++
			}
		}
		return n
	}
	assert.Eventually(t, func() bool { return lost() == 0 }, 90*time.Second, 50*time.Millisecond)
	t.Logf("%d acknowledged, %d not, %d lost, %d ran twice", len(l.acked), l.unknown.Load(), lost(), l.twice())
	l.stop()
	require.NoError(t, l.run())
}

func (l *load) twice() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.ran {
		if times > 1 {
			n++
		}
	}
	return n
}
