package sim

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/amlun/linda/internal/chaos"
)

var oneSeed = flag.String("seed", "", "simulate this seed only, such as 0x2a, and write its history down")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seedsByDefault take about 10 s with -race on two cores.
const seedsByDefault = 60

// seeds returns how many seeds to simulate.
func seeds(t testing.TB) uint64 {
	text := os.Getenv("LINDA_SIM_SEEDS")
	if text == "" {
		return seedsByDefault
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		t.Fatalf("LINDA_SIM_SEEDS: %v", err)
	}
	return n
}

// simulate simulates one seed.
func simulate(t *testing.T, seed uint64, log io.Writer) (r *Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = Run(seed, log); err != nil {
			t.Error(err)
		}
	})
	return r
}

// The engine keeps its promises, whatever the seed does to it.
func TestEnginePromisesHoldInEverySimulatedHour(t *testing.T) {
	defer Chances()()
	if *oneSeed != "" {
		replay(t)
		return
	}
	began := time.Now()
	n := seeds(t)
	var sum chaos.Report
	ticks := 0
	for seed := uint64(1); seed <= n && !t.Failed(); seed++ {
		r := simulate(t, seed, nil)
		ticks += r.Ticks
		sum.Acknowledged += r.Acknowledged
		sum.Succeeded += r.Succeeded
		sum.Dead += r.Dead
		sum.DeadByFaults += r.DeadByFaults
		sum.Killed += r.Killed
		for i, n := range r.Again {
			sum.Again[i] += n
		}
		for i, n := range r.Faults {
			sum.Faults[i] += n
		}
		for i, n := range r.Events {
			sum.Events[i] += n
		}
		if !r.OK() {
			var table bytes.Buffer
			r.Print(&table)
			t.Errorf("seed %#x breaks a promise; to see it again:\n\tgo test ./internal/sim -run EverySimulatedHour -seed %#x -v\n%s", seed, seed, &table)
		}
	}
	took := time.Since(began)
	t.Logf("%d simulated hours, %.1f a second; %d jobs acknowledged, %d ticks, %d runs, %d succeeded, %d dead (%d by faults); %d crashes, %d faults on the way; repeated: %v",
		n, float64(n)/took.Seconds(), sum.Acknowledged, ticks, sum.Events[chaos.Started], sum.Succeeded, sum.Dead, sum.DeadByFaults,
		sum.Killed, sum.Faults[chaos.Reset], sum.Again)
}

// replay simulates one seed and writes its history to a file.
func replay(t *testing.T) {
	seed, err := strconv.ParseUint(*oneSeed, 0, 64)
	if err != nil {
		t.Fatalf("-seed: %v", err)
	}
	var log bytes.Buffer
	r := simulate(t, seed, &log)
	name := filepath.Join(os.TempDir(), fmt.Sprintf("linda-sim-%#x.log", seed))
	if err := os.WriteFile(name, log.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	r.Print(&table)
	t.Logf("seed %#x, history %016x in %s\n%s", seed, r.Hash, name, &table)
	if !r.OK() {
		t.Fail()
	}
}

// A seed that fails can be looked at again: it fails in the same way.
func TestSameSeedSameHistory(t *testing.T) {
	defer Chances()()
	const times = 100
	same, first := 0, uint64(0)
	for i := range times {
		r := simulate(t, 7, nil)
		if i == 0 {
			first = r.Hash
		}
		if r.Hash == first {
			same++
		}
	}
	if same != times {
		t.Errorf("%d of %d histories are the same", same, times)
	}
}
