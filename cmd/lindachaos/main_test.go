package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/chaos"
)

func TestMain(m *testing.M) {
	if status, ok := child(); ok {
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}

func TestMemoryKeepsItsPromisesWhenWorkersEnd(t *testing.T) {
	var out bytes.Buffer
	status := command(t.Context(), strings.Fields("-broker memory -for 1s -gap 100ms -rate 2000 -lease 1s -seed 0x1"), &out)
	require.Zero(t, status, out.String())
	text := out.String()
	assert.True(t, strings.HasPrefix(text, "seed 0x1\n"), text)
	assert.Contains(t, text, "fault: worker ended")
	assert.Contains(t, text, "PASS")
}

// The faults are few, since the time is short; lindachaos is for long runs.
func TestRedisKeepsItsPromisesInShortChaos(t *testing.T) {
	brokerd.Run(t, brokerd.Redis) // skips where there is none
	var out bytes.Buffer
	status := command(t.Context(), strings.Fields("-broker redis -for 4s -gap 150ms -rate 1500 -lease 1s -workers 3 -seed 0x5eed"), &out)
	require.Zero(t, status, out.String())
	assert.Contains(t, out.String(), "fault: worker killed")
	t.Log(out.String())
}

// A run goes on until it has come to all that it is to reach, and says so in one
// row.
func TestARunEndsWhenItsGoalIsReached(t *testing.T) {
	brokerd.Run(t, brokerd.Redis)
	var out bytes.Buffer
	args := "-broker redis -for 1m -jobs 2000 -kills 2 -server-faults 1 -resets 2 -gap 100ms -rate 1500 -lease 1s -workers 3 -seed 0x5eed -markdown"
	began := time.Now()
	status := command(t.Context(), strings.Fields(args), &out)
	require.Zero(t, status, out.String())
	assert.Less(t, time.Since(began), 50*time.Second)
	row := regexp.MustCompile("\\| redis \\| `0x5eed` \\| (\\d+) \\| (\\d+) \\| (\\d+), (\\d+) \\| (\\d+) \\| 0 \\| 0 \\| 0 \\| 0 \\|.*PASS").FindStringSubmatch(out.String())
	require.NotNil(t, row, out.String())
	numbers := make([]int, len(row))
	for i, text := range row[1:] {
		numbers[i], _ = strconv.Atoi(text)
	}
	assert.GreaterOrEqual(t, numbers[0], 2000)
	assert.GreaterOrEqual(t, numbers[1], 2)
	assert.GreaterOrEqual(t, numbers[2]+numbers[3], 1)
	assert.GreaterOrEqual(t, numbers[4], 2)
}

func TestTheDocumentHasTheColumnsOfARow(t *testing.T) {
	text, err := os.ReadFile("../../docs/reliability.md")
	require.NoError(t, err)
	var out bytes.Buffer
	markdown(&out, config{}, new(chaos.Report))
	head, _, _ := strings.Cut(out.String(), "\n")
	assert.Contains(t, string(text), head+"\n")
	assert.Len(t, markdownRow(config{}, new(chaos.Report)), len(markdownHead))
}

// A run that does not come to what it is to reach proves nothing.
func TestARunThatMissesItsGoalFails(t *testing.T) {
	var out bytes.Buffer
	assert.Equal(t, 1, command(t.Context(), strings.Fields("-broker memory -for 200ms -jobs 100000000 -rate 100 -seed 1"), &out))
	assert.Regexp(t, `the run ended with only \d+ of 100000000 acknowledged jobs`, out.String())
}

// No fault is brought about but what deadly jobs do to their workers: it is the
// coming and going of workers that the server miscounts, if they cancel.
func TestRabbitMQKeepsItsPromisesWhenWorkersDie(t *testing.T) {
	brokerd.Run(t, brokerd.RabbitMQ) // skips where there is none
	var out bytes.Buffer
	status := command(t.Context(), strings.Fields("-broker rabbitmq -for 2s -seed 0x5eed"), &out)
	require.Zero(t, status, out.String())
	t.Log(out.String())
}

func TestNSQKeepsItsPromisesInShortChaos(t *testing.T) {
	brokerd.Run(t, brokerd.Nsqd) // skips where there is none
	var out bytes.Buffer
	status := command(t.Context(), strings.Fields("-broker nsq -for 4s -gap 300ms -rate 500 -lease 3s -workers 3 -seed 0x5eed"), &out)
	require.Zero(t, status, out.String())
	assert.Contains(t, out.String(), "fault: worker killed")
	t.Log(out.String())
}

// All faults come together, in each mode: the server is killed and stopped, and
// so are workers, while one more of them joins or leaves every 2 s.
func TestKafkaKeepsItsPromisesInShortChaos(t *testing.T) { kafkaChaos(t, "kafka") }

func TestKafkaInClassicModeKeepsItsPromisesInShortChaos(t *testing.T) { kafkaChaos(t, "kafka-classic") }

func kafkaChaos(t *testing.T, target string) {
	brokerd.Run(t, brokerd.Kafka) // skips where there is none
	var out bytes.Buffer
	status := command(t.Context(), strings.Fields("-broker "+target+" -for 25s -gap 1s -rate 500 -seed 0x2b4"), &out)
	require.Zero(t, status, out.String())
	for _, fault := range []string{"worker killed", "worker stopped", "server killed", "server stopped"} {
		assert.Contains(t, out.String(), "fault: "+fault)
	}
	t.Log(out.String())
}

// A Redis that keeps nothing on its disk loses what it acknowledged, when it is
// killed: the harness has to see that, and that the end of a worker has nothing
// to do with it.
func TestServerThatForgetsIsFoundOut(t *testing.T) {
	brokerd.Run(t, brokerd.Redis)
	forgetful := targets["redis"]
	forgetful.args = append([]string{"--appendonly", "no"}, forgetful.args...)
	targets["forgetful"] = forgetful
	defer delete(targets, "forgetful")
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	plan := filepath.Join(dir, planName)
	require.NoError(t, os.WriteFile(plan, []byte(`{"faults":[{"At":200000000,"Fault":2},{"At":500000000,"Fault":4,"For":50000000}]}`), 0o644))
	require.Equal(t, []chaos.Fault{2, 4}, []chaos.Fault{chaos.TermWorker, chaos.KillServer})
	var out bytes.Buffer
	// More is pushed than is worked off, so that there is something to lose.
	args := "-broker forgetful -for 1s -rate 0 -backlog 3000 -lease 1s -workers 1 -concurrency 1 -drain 10s -seed 2 -shrink -replay " + plan
	status := command(t.Context(), strings.Fields(args), &out)
	assert.Equal(t, 1, status, out.String())
	assert.Contains(t, out.String(), "FAIL I1 no loss")
	kept, err := filepath.Glob(filepath.Join(dir, "lindachaos-*", "*.history"))
	require.NoError(t, err)
	assert.NotEmpty(t, kept, "the histories of a failure are kept")
	assert.Regexp(t, `again: go run ./cmd/lindachaos .* -replay `+dir+`/lindachaos-\d+/plan.json`, out.String())
	assert.Contains(t, out.String(), "\n1 faults are enough: ")
}

func TestNobodyOutlivesTheHarness(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+`={"Role":2,"Name":"w","Proc":1,"URL":"redis://127.0.0.1:1/","Dir":"`+t.TempDir()+`","Lease":1000000000,"Concurrency":1}`)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, in.Close())
	var exit *exec.ExitError
	require.True(t, errors.As(cmd.Wait(), &exit))
	assert.Equal(t, exitFailed, exit.ExitCode())
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range []string{
		"-broker nothing", "-lease 1500ms", "-workers 0", "-seed x", "-off 99", "-replay nowhere", "-what",
		"-broker redis -kills 1 -off 0", "-broker memory -resets 1",
	} {
		var out bytes.Buffer
		assert.Equal(t, 2, command(t.Context(), strings.Fields(args), &out), args)
	}
}

func TestShowPrintsAHistory(t *testing.T) {
	dir := t.TempDir()
	h, err := chaos.OpenHistory(dir, "a", 3)
	require.NoError(t, err)
	h.Write(chaos.Event{Kind: chaos.Pushed, Job: 7}, chaos.Event{Kind: chaos.Pushed, Job: 8})
	require.NoError(t, h.Close())
	var out bytes.Buffer
	assert.Zero(t, command(t.Context(), []string{"-show", dir, "-job", "7"}, &out))
	assert.Contains(t, out.String(), "process 3 job 7 attempt 0 pushed")
	assert.NotContains(t, out.String(), "job 8")
}
