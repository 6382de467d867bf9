package linda_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amlun/linda"
	"go.uber.org/goleak"
)

// noLeak fails the test if it leaves a goroutine behind.
func noLeak(t *testing.T) {
	here := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, here) })
}

// onMemory sets the package's settings for a test on a broker of its own.
func onMemory(t *testing.T, s linda.Settings) {
	noLeak(t)
	s.Connection = "memory://" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s.Logger = slog.New(slog.DiscardHandler)
	linda.SetSettings(s)
	t.Cleanup(func() {
		linda.Close()
		linda.SetSettings(linda.Settings{})
	})
}

func TestPackageFunctionsWorkAsTheOwnerUsesThem(t *testing.T) {
	onMemory(t, linda.Settings{Queue: "scheduler", Timeout: 60, IntervalFloat: 5.0, Concurrency: 1})
	runs := make(chan string, 10)
	linda.RegisterWorkers("DispatcherSeed", func(job *linda.Job) error {
		runs <- fmt.Sprint(job.Payload.Args[0])
		broker := linda.GetBroker()
		if job.Context().Err() != nil {
			t.Error("the context has ended")
		}
		return broker.ReleaseWithDelay("scheduler", job, 60)
	})
	if linda.GetBroker() != nil {
		t.Error("GetBroker before Init is not nil")
	}
	if err := linda.Init(); err != nil {
		t.Fatal(err)
	}
	first := linda.GetBroker()
	if err := linda.Init(); err != nil || linda.GetBroker() != first {
		t.Errorf("a second Init did something: %v", err)
	}
	for range 3 { // Run after Close works; named memory lives as long as somebody has it open
		if err := linda.Init(); err != nil {
			t.Fatal(err)
		}
		err := linda.GetBroker().Push(&linda.Job{Queue: "scheduler", Payload: linda.Payload{
			Class: "DispatcherSeed", Args: []interface{}{"seed_url_md5"}}}, "scheduler")
		if err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- linda.Run() }()
		if got := <-runs; got != "seed_url_md5" {
			t.Errorf("argument: %q", got)
		}
		linda.Close()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		if linda.GetBroker() != nil {
			t.Error("GetBroker after Close is not nil")
		}
	}
	linda.Close() // harmless
}

func TestSecondRunIsAnErrorAndLeavesTheFirstAlone(t *testing.T) {
	onMemory(t, linda.Settings{Queue: "q"})
	runs := make(chan struct{}, 10)
	linda.Register("a", func(*linda.Job) error { runs <- struct{}{}; return nil })
	if err := linda.Init(); err != nil {
		t.Fatal(err)
	}
	push := func() {
		if err := linda.Default().Push(t.Context(), &linda.Job{Payload: linda.Payload{Class: "a"}}); err != nil {
			t.Fatal(err)
		}
		<-runs
	}
	stopped := make(chan error, 1)
	go func() { stopped <- linda.Run() }()
	go func() { _ = linda.Default().Push(t.Context(), &linda.Job{Payload: linda.Payload{Class: "a"}}) }()
	<-runs
	if err := linda.Run(); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("second Run: %v", err)
	}
	push()
	linda.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestRunReportsFaultsOfTheSettings(t *testing.T) {
	noLeak(t)
	linda.SetSettings(linda.Settings{Queue: "a b", Concurrency: -1, Connection: "memory://"})
	defer linda.SetSettings(linda.Settings{})
	err := linda.Run()
	if !errors.Is(err, linda.ErrBadName) || !strings.Contains(err.Error(), "Concurrency") {
		t.Errorf("Run: %v", err)
	}
	linda.SetSettings(linda.Settings{Connection: "nowhere://"})
	if err := linda.Run(); !errors.Is(err, linda.ErrBadURL) {
		t.Errorf("Run: %v", err)
	}
	if linda.GetBroker() != nil {
		t.Error("a broker is open")
	}
}

// childMode makes this test binary a worker process: see TestSignals.
const childMode = "LINDA_TEST_CHILD"

func TestChildWorker(t *testing.T) {
	mode := os.Getenv(childMode)
	if mode == "" {
		t.Skip("a helper of TestSignals")
	}
	linda.SetSettings(linda.Settings{Connection: "memory://child", Queue: "q", Grace: time.Minute})
	linda.Register("a", func(job *linda.Job) error {
		fmt.Println("running")
		if mode == "stubborn" {
			select {}
		}
		time.Sleep(300 * time.Millisecond)
		fmt.Println("finished")
		return nil
	})
	if err := linda.Init(); err != nil {
		t.Fatal(err)
	}
	if err := linda.GetBroker().Push(&linda.Job{Payload: linda.Payload{Class: "a"}}, "q"); err != nil {
		t.Fatal(err)
	}
	if err := linda.Run(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("returned")
}

// child starts a worker process and waits until its handler runs.
func child(t *testing.T, mode string) (*exec.Cmd, *lines) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildWorker$")
	cmd.Env = append(os.Environ(), childMode+"="+mode)
	out := &lines{wait: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for !strings.Contains(out.String(), "running") {
		select {
		case <-out.wait:
		case <-time.After(30 * time.Second):
			t.Fatalf("the worker does not run: %s", out)
		}
	}
	return cmd, out
}

type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	wait chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.wait <- struct{}{}:
	default:
	}
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestSignalStopsRunAfterItsHandlers(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, out := child(t, "good")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("the worker ended with %v: %s", err, out)
			}
			for _, want := range []string{"finished", "returned"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing: %s", want, out)
				}
			}
		})
	}
}

func TestSecondSignalEndsTheProcess(t *testing.T) {
	cmd, out := child(t, "stubborn")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(out.String(), "stopping") {
		select {
		case <-out.wait:
		case <-time.After(30 * time.Second):
			t.Fatalf("the worker does not stop: %s", out)
		}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the first ones may come before the default is restored
		select {
		case err := <-done:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("the worker ended with %v", err)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// F20: neither the password of the connection nor an argument is in a log line
// of any level, nor in an event, through a run with every kind of failure.
func TestNoSecretIsLogged(t *testing.T) {
	noLeak(t)
	const password, argument = "Zq7mKx93vWq2", "Jt4hYb81nRp6"
	var log lines
	dead := make(chan struct{}, 100)
	d, err := linda.New(linda.Settings{
		Connection: "secretive://user:" + password + "@host", Queue: "q", MaxAttempts: 2, Timeout: 1, Grace: 50 * time.Millisecond,
		Backoff: func(int) time.Duration { return time.Millisecond },
		Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 100, AddSource: true})),
		OnEvent: func(e linda.Event) {
			fmt.Fprintf(&log, "%+v\n", e)
			if e.Kind == linda.EventDead {
				dead <- struct{}{}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	handlers := map[string]func(context.Context, *linda.Job) error{
		"ok":    func(context.Context, *linda.Job) error { return nil },
		"fails": func(context.Context, *linda.Job) error { return errors.New("broken") },
		"panic": func(context.Context, *linda.Job) error { panic("oh") },
		"waits": func(ctx context.Context, _ *linda.Job) error { <-ctx.Done(); return ctx.Err() },
		"typed": func(_ context.Context, job *linda.Job) error { var n struct{ A int }; return job.Payload.Decode(&n) },
	}
	for class, h := range handlers {
		d.Handle(class, linda.HandlerFunc(h))
	}
	for _, class := range []string{"ok", "fails", "panic", "waits", "typed", "unknown"} {
		if err := d.Push(t.Context(), &linda.Job{Payload: linda.Payload{Class: class, Args: []any{argument, password}}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- d.Run(ctx) }()
	for range 4 {
		select {
		case <-dead:
		case <-time.After(30 * time.Second):
			t.Fatalf("not all are dead: %s", &log)
		}
	}
	cancel()
	err = <-stopped
	fmt.Fprintln(&log, err, d.Close())
	_, err = linda.New(linda.Settings{Connection: "secretive://user:" + password + "@host:port%"})
	fmt.Fprintln(&log, err)
	text := log.String()
	for _, secret := range []string{password, argument} {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), secret[2:10]} {
			if i := strings.Index(text, form); i >= 0 {
				t.Errorf("%q is told: ...%s", form, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	if !strings.Contains(text, "broken") || !strings.Contains(text, "level=ERROR") {
		t.Errorf("the log is not what it should be: %s", text)
	}
}

func init() { linda.RegisterBroker("secretive", func() linda.Broker { return new(secretive) }) }

// secretive is a memory broker that is opened with a password and fails now
// and then.
type secretive struct {
	linda.Broker
	linda.Settler
	calls atomic.Int32
}

func (b *secretive) Connect(*neturl.URL) (err error) {
	b.Broker, err = linda.NewBroker("memory://")
	b.Settler, _ = linda.As[linda.Settler](b.Broker)
	return err
}

func (b *secretive) Unwrap() linda.Broker { return b.Broker }

func (b *secretive) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	if b.calls.Add(1)%2 == 1 {
		return errors.New("refused")
	}
	return b.Settler.Settle(ctx, queue, batch)
}
