// Package examples_test builds the examples and runs them as processes.
package examples_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/beanstalkd"
	_ "github.com/amlun/linda/broker/nsq"
	_ "github.com/amlun/linda/broker/rabbitmq"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/nsqdtest"
)

// patience is how long a process may take to do what is expected of it.
const patience = 30 * time.Second

var programs string // the folder they are built in

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "linda-examples-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(programs)
	args := []string{"build", "-o", programs + string(filepath.Separator)}
	if underRace() {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "./...")...).CombinedOutput(); err != nil {
		fmt.Printf("%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// underRace reports whether this test is built with -race.
func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestQuickstartShowsWhatBecomesOfAJob(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		connect func(*testing.T) string
	}{
		{"memory", func(*testing.T) string { return "memory://" }},
		{"redis", func(t *testing.T) string { return brokerd.Run(t, brokerd.Redis).URL }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			connection := test.connect(t)
			p := start(t, nil, "quickstart", "-connection", connection, "-jobs", "50")
			for _, line := range []string{
				"the sum of their arguments is 1275",
				"retried  attempt 1: the line is busy; again in 200ms",
				"retried  attempt 2: the line is busy; again in 400ms",
				"done     attempt 3",
				"asked to wait 1s, it waited ",
				"snoozed  attempt 1",
				"dead     attempt 1: discarded: the card has expired",
				"listed   pay [order 1815], dead because the card has expired",
				"kicked   1",
				"to ada@example.com: Welcome!",
				"done         55",
				"retried       2",
				"delayed       1",
				"snoozed       1",
				"dead          1",
			} {
				p.await(line)
			}
			require.Zero(t, p.exit(), "exit code")
			requireEmpty(t, connection)
		})
	}
}

func TestQuickstartLeavesNothingBehindWhenInterrupted(t *testing.T) {
	t.Parallel()
	connection := brokerd.Run(t, brokerd.Redis).URL
	p := start(t, nil, "quickstart", "-connection", connection)
	p.await("retried  attempt 2")
	p.signal(os.Interrupt)
	require.Equal(t, 1, p.exit(), "exit code")
	requireEmpty(t, connection)
}

// The contract of the first two programs, with every part a process of its own.
func TestAJobThatItsHandlerReleasesRunsAgainAfterTheDelay(t *testing.T) {
	t.Parallel()
	connection := brokerd.Run(t, brokerd.Redis).URL
	const delay = 2 * time.Second
	env := []string{"LINDA_CONNECTION=" + connection, "LINDA_DELAY=2"}
	require.Zero(t, start(t, env, "push").exit(), "exit code of push")

	worker := start(t, env, "worker")
	worker.await("DispatcherSeed [seed_url_md5] run 1")
	first := time.Now()
	worker.await("DispatcherSeed [seed_url_md5] run 2")
	// The first line may have been read a little late.
	require.Greater(t, time.Since(first), delay-delay/4, "pause between the runs")

	worker.signal(syscall.SIGTERM)
	require.Zero(t, worker.exit(), "exit code of worker")

	c := client(t, connection)
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"scheduler:delayed"}, keys)
	require.EqualValues(t, 1, c.ZCard(t.Context(), "scheduler:delayed").Val())
}

func TestAnyLanguageCanPushByRPUSH(t *testing.T) {
	t.Parallel()
	connection := brokerd.Run(t, brokerd.Redis).URL
	env := []string{"LINDA_CONNECTION=" + connection}
	worker := start(t, env, "worker")
	body := `{"Payload": {"class": "DispatcherSeed", "args": ["from elsewhere"]}}`
	require.NoError(t, client(t, connection).RPush(t.Context(), "scheduler", body).Err())
	worker.await("DispatcherSeed [from elsewhere] run 1")
	worker.signal(syscall.SIGTERM)
	require.Zero(t, worker.exit(), "exit code")
}

func TestCronScheduleAndTypedWorkUntilInterrupted(t *testing.T) {
	t.Parallel()
	for program, lines := range map[string][]string{
		"cron":     {"every-2s, attempt 1", "every-2s, attempt 2"},
		"schedule": {"beat of", "quick report of", "beat of"},
		"limit":    {"resizing photo-", "call 1", "resizing photo-"},
		"typed":    {"refused: it waits already", `sent "How is it going?" to ada@example.com`},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			p := start(t, nil, program)
			for _, line := range lines {
				p.await(line)
			}
			p.signal(os.Interrupt)
			require.Zero(t, p.exit(), "exit code")
		})
	}
}

func TestRedisShowsAndKicksDeadJobs(t *testing.T) {
	t.Parallel()
	connection := brokerd.Run(t, brokerd.Redis).URL
	env := []string{"LINDA_CONNECTION=" + connection}
	c := client(t, connection)
	require.NoError(t, c.RPush(t.Context(), "scheduler", "not a job").Err())
	worker := start(t, env, "worker")
	require.Eventually(t, func() bool { return c.ZCard(t.Context(), "scheduler:dead").Val() == 1 },
		patience, 10*time.Millisecond, "the body is dead")
	worker.signal(syscall.SIGTERM)
	require.Zero(t, worker.exit(), "exit code of worker")

	list := start(t, nil, "redis", "-connection", connection)
	list.await("scheduler   0       0         0          1")
	require.Zero(t, list.exit())
	dead := start(t, nil, "redis", "-connection", connection, "-queue", "scheduler")
	dead.await("not a JSON object")
	require.Zero(t, dead.exit())
	kick := start(t, nil, "redis", "-connection", connection, "-queue", "scheduler", "-kick", "5")
	kick.await("kicked 1")
	require.Zero(t, kick.exit())
	require.Equal(t, []string{"not a job"}, c.LRange(t.Context(), "scheduler", 0, -1).Val())
}

func TestBeanstalkdWorksOnWhatOtherProgramsPutAndKicksWhatIsBuried(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Beanstalkd)
	c, err := net.Dial("tcp", server.Addr)
	require.NoError(t, err)
	defer c.Close()
	answers := bufio.NewReader(c)
	put := func(file string) {
		body := fmt.Sprintf(`{"Payload":{"class":"resize","args":[%q]}}`, file)
		fmt.Fprintf(c, "use pictures\r\nput 0 0 60 %d\r\n%s\r\n", len(body), body)
		_, err := answers.ReadString('\n')
		require.NoError(t, err)
		answer, err := answers.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, answer, "INSERTED")
	}
	worker := start(t, nil, "beanstalkd", "-connection", server.URL)
	put("a.png")
	worker.await("resized a.png, attempt 1")
	put("b.txt")
	worker.await("refused b.txt, attempt 1")
	worker.await("refused b.txt, attempt 2")
	broker, err := linda.NewBroker(server.URL)
	require.NoError(t, err)
	defer broker.Close()
	require.Eventually(t, func() bool {
		s, err := broker.(linda.Inspector).Stats(t.Context(), "pictures")
		return err == nil && s == linda.Stats{Dead: 1}
	}, patience, 10*time.Millisecond)
	kick := start(t, nil, "beanstalkd", "-connection", server.URL, "-kick", "5")
	kick.await("resize [b.txt] died after 2 attempts: not a PNG file")
	kick.await("kicked 1")
	require.Zero(t, kick.exit())
	worker.await("refused b.txt, attempt 1")
	worker.signal(syscall.SIGTERM)
	require.Zero(t, worker.exit(), "exit code")
}

func TestRabbitMQRunsWhatIsPushedAtOnceAndLater(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.RabbitMQ)
	p := start(t, nil, "rabbitmq", "-connection", server.URL)
	p.await("sent a letter to")
	p.await("sent a letter to")
	p.await("sent a letter to later@example.com")
	require.Zero(t, p.exit(), "exit code")
	broker, err := linda.NewBroker(server.URL)
	require.NoError(t, err)
	defer broker.Close()
	s, err := broker.(linda.Inspector).Stats(t.Context(), "letters")
	require.NoError(t, err)
	require.Equal(t, linda.Stats{Delayed: -1, Reserved: -1}, s)
}

func TestNSQRunsWhatIsPushedAtOnceAndLater(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(*testing.T) string{
		"nsqd":     func(t *testing.T) string { return brokerd.Run(t, brokerd.Nsqd).URL },
		"scripted": func(t *testing.T) string { return nsqdtest.Start(t, nsqdtest.Limits{}).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := connect(t)
			p := start(t, nil, "nsq", "-connection", connection)
			p.await("sent a letter to")
			p.await("sent a letter to")
			p.await("sent a letter to later@example.com")
			require.Zero(t, p.exit(), "exit code")
			broker, err := linda.NewBroker(connection)
			require.NoError(t, err)
			defer broker.Close()
			s, err := broker.(linda.Inspector).Stats(t.Context(), "letters")
			require.NoError(t, err)
			require.Equal(t, linda.Stats{}, s)
		})
	}
}

func TestKafkaRunsWhatIsPushedAtOnceAndLater(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	p := start(t, nil, "kafka", "-connection", server.URL)
	for range 3 {
		p.await("shipped order")
	}
	for _, order := range []string{"1 of ada", "2 of grace", "3 of ada"} { // share groups keep no order
		require.Contains(t, strings.Join(p.seen, "\n"), "shipped order "+order)
	}
	require.Zero(t, p.exit(), "exit code")
}

func client(t *testing.T, connection string) *redis.Client {
	options, err := redis.ParseURL(connection)
	require.NoError(t, err)
	c := redis.NewClient(options)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// requireEmpty requires that nothing is left in a redis.
func requireEmpty(t *testing.T, connection string) {
	if strings.HasPrefix(connection, "redis:") {
		require.Empty(t, client(t, connection).Keys(t.Context(), "*").Val())
	}
}

// process is a running example.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its standard output; closed at its end
	seen  []string
	log   strings.Builder // its standard error; to be read after exit
}

// start starts an example, which does not outlive the test.
func start(t *testing.T, env []string, program string, args ...string) *process {
	p := &process{t: t, lines: make(chan string, 1000)}
	p.cmd = exec.CommandContext(t.Context(), filepath.Join(programs, program), args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go p.read(out)
	return p
}

func (p *process) read(out io.Reader) {
	defer close(p.lines)
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		p.lines <- scanner.Text()
	}
}

// await waits for a line that contains text.
func (p *process) await(text string) {
	p.t.Helper()
	late := time.After(patience)
	for {
		select {
		case line, more := <-p.lines:
			if !more {
				_ = p.cmd.Wait()
				require.FailNowf(p.t, "the process ended", "without the line %q; output:\n%s\n%s", text, strings.Join(p.seen, "\n"), p.log.String())
			}
			p.seen = append(p.seen, line)
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			require.FailNowf(p.t, "too late", "no line %q; output:\n%s", text, strings.Join(p.seen, "\n"))
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// exit waits for the end of the process and returns its exit code.
func (p *process) exit() int {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	for line := range p.lines { // the output must be read before Wait
		p.seen = append(p.seen, line)
	}
	_ = p.cmd.Wait()
	code := p.cmd.ProcessState.ExitCode()
	if code != 0 {
		p.t.Logf("%v\n%s\n%s", p.cmd.ProcessState, strings.Join(p.seen, "\n"), p.log.String())
	}
	return code
}
