package linda_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
)

// whole is what the memory broker is.
type whole interface {
	linda.Broker
	linda.Fetcher
	linda.MultiFetcher
	linda.Pauser
	linda.BatchPusher
	linda.Settler
	linda.Toucher
	linda.Inspector
	linda.Uniquer
	linda.Ticker
	linda.Limiter
	linda.Guarantor
}

// mutants are brokers that each break one rule, and the case that must say so.
var mutants = []struct {
	name, caughtBy string
	of             func(b whole) linda.Broker
}{
	{"settles-by-value", "exact-arguments", func(b whole) linda.Broker { return &settlesByValue{whole: b} }},
	{"settles-by-id", "stale-settle", func(b whole) linda.Broker { return &settlesByID{whole: b} }},
	{"settles-twice", "double-settle", func(b whole) linda.Broker { return settlesTwice{b} }},
	{"collapses-equal-jobs", "equal-jobs-later", func(b whole) linda.Broker { return &collapses{whole: b} }},
	{"one-id-for-all", "equal-jobs", func(b whole) linda.Broker { return oneID{b} }},
	{"delays-short", "later", func(b whole) linda.Broker { return delaysShort{b} }},
	{"truncates-delays", "sub-second-delay", func(b whole) linda.Broker { return truncatesDelays{b} }},
	{"leases-short", "lease-expiry", func(b whole) linda.Broker { return leasesShort{b} }},
	{"fetches-too-many", "fetch-several", func(b whole) linda.Broker { return fetchesTooMany{b} }},
	{"fetch-ignores-context", "fetch-ends", func(b whole) linda.Broker { return fetchIgnoresContext{b} }},
	{"fetch-misses-pushes", "fetch-woken", func(b whole) linda.Broker { return fetchMissesPushes{b} }},
	{"loses-bad-bodies", "bad-bodies-dead", func(b whole) linda.Broker { return losesBadBodies{b} }},
	{"stops-at-bad-bodies", "bad-bodies-pop", func(b whole) linda.Broker { return stopsAtBadBodies{b} }},
	{"loses-some-jobs", "many-workers", func(b whole) linda.Broker { return &losesSome{whole: b} }},
	{"at-least-once", "at-most-once", func(b whole) linda.Broker { return atLeastOnce{b} }},
	{"takes-any-name", "bad-names", func(b whole) linda.Broker { return takesAnyName{b} }},
	{"half-a-batch", "batch-with-bad-job", func(b whole) linda.Broker { return halfABatch{b} }},
	{"forgets-reasons", "attempts", func(b whole) linda.Broker { return forgetsReasons{b} }},
	{"deletes-the-buried", "bury", func(b whole) linda.Broker { return deletesTheBuried{b} }},
	{"keys-for-ever", "unique-ttl", func(b whole) linda.Broker { return keysForEver{b} }},
	{"ticks-again", "tick", func(b whole) linda.Broker { return ticksAgain{b} }},
	{"ticks-early", "tick-early", func(b whole) linda.Broker { return ticksEarly{b} }},
	{"slot-too-many", "slots", func(b whole) linda.Broker { return slotTooMany{b} }},
	{"slots-for-ever", "slots-end", func(b whole) linda.Broker { return slotsForEver{b} }},
	{"renews-what-is-lost", "slots-renewed", func(b whole) linda.Broker { return renewsWhatIsLost{b} }},
	{"forgets-holders", "slots-again", func(b whole) linda.Broker { return &forgetsHolders{whole: b} }},
	{"slots-in-windows", "slots-rate", func(b whole) linda.Broker { return slotsInWindows{b} }},
	{"ignores-the-order", "fetch-any-order", func(b whole) linda.Broker { return ignoresTheOrder{b} }},
	{"forgets-pauses", "pause", func(b whole) linda.Broker { return forgetsPauses{b} }},
	{"never-closes", "closed", func(b whole) linda.Broker { return neverCloses{b} }},
}

const mutantVariable = "LINDA_TEST_MUTANT"

// The suite has teeth: it fails on each mutant, by the rule that is broken.
func TestSuiteCatchesMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			suite := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMutant$/^"+m.caughtBy+"$", "-test.timeout=1m")
			suite.Env = append(os.Environ(), mutantVariable+"="+m.name)
			out, err := suite.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "the rule: ") {
				t.Errorf("case %s did not catch it: %v\n%s", m.caughtBy, err, out)
			}
		})
	}
}

// TestMutant is the process that TestSuiteCatchesMutants starts.
func TestMutant(t *testing.T) {
	for _, m := range mutants {
		if m.name != os.Getenv(mutantVariable) {
			continue
		}
		h := memoryHarness("mutant")
		h.Bubble = true
		h.Open = func(t testing.TB) linda.Broker { return m.of(openMemory(t, "mutant").(whole)) }
		brokertest.Run(t, h)
		return
	}
	t.Skip("for TestSuiteCatchesMutants")
}

// settlesByValue looks for a job by marshalling it again, and takes what it
// does not find for deleted.
type settlesByValue struct {
	whole
	mu   sync.Mutex
	held []*linda.Job // guarded by mu
}

func (b *settlesByValue) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	jobs, err := b.whole.Fetch(ctx, queue, max, lease)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, jobs...)
	return jobs, err
}

func (b *settlesByValue) Delete(queue string, job *linda.Job) error {
	var envelope struct {
		Queue   string `json:"queue"`
		Payload linda.Payload
	}
	if json.Unmarshal(job.Body(), &envelope) != nil {
		return nil
	}
	value := mustMarshal(envelope)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, held := range b.held {
		if string(held.Body()) == string(value) {
			return b.whole.Delete(queue, held)
		}
	}
	return nil
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// settlesByID settles whatever reservation there is of the job.
type settlesByID struct{ whole }

var reservedByID sync.Map // of id to the last reservation, a func to delete it

func (b *settlesByID) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	jobs, err := b.whole.Fetch(ctx, queue, max, lease)
	for _, job := range jobs {
		reservedByID.Store(job.ID, func() error { return b.whole.Delete(queue, job) })
	}
	return jobs, err
}

func (b *settlesByID) Delete(queue string, job *linda.Job) error {
	if last, ok := reservedByID.Load(job.ID); ok {
		return last.(func() error)()
	}
	return b.whole.Delete(queue, job)
}

// settlesTwice finds nothing wrong with a job that is gone.
type settlesTwice struct{ whole }

func (b settlesTwice) Delete(queue string, job *linda.Job) error {
	_ = b.whole.Delete(queue, job)
	return nil
}

// collapses keeps delayed jobs in a set of their payloads.
type collapses struct {
	whole
	seen sync.Map
}

func (b *collapses) Later(delay int64, job *linda.Job, queue string) error {
	if _, again := b.seen.LoadOrStore(queue+string(mustMarshal(job.Payload)), true); again {
		return nil
	}
	return b.whole.Later(delay, job, queue)
}

// oneID gives equal jobs the same id.
type oneID struct{ whole }

func (b oneID) Push(job *linda.Job, queue string) error {
	same := *job
	same.ID = job.Payload.Class
	return b.whole.Push(&same, queue)
}

// delaysShort hands delayed jobs out a millisecond early.
type delaysShort struct{ whole }

func (b delaysShort) Later(delay int64, job *linda.Job, queue string) error {
	short := *job
	short.Delay = time.Duration(delay)*time.Second - time.Millisecond
	return b.whole.Push(&short, queue)
}

// truncatesDelays rounds delays down to milliseconds.
type truncatesDelays struct{ whole }

func (b truncatesDelays) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	short := make([]*linda.Job, len(jobs))
	for i, job := range jobs {
		copied := *job
		copied.Delay = job.Delay.Truncate(time.Millisecond)
		short[i] = &copied
	}
	return b.whole.PushBatch(ctx, queue, short)
}

// leasesShort ends reservations before their time.
type leasesShort struct{ whole }

func (b leasesShort) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.whole.Fetch(ctx, queue, max, lease*9/10)
}

// fetchesTooMany reserves one job more than it was asked for.
type fetchesTooMany struct{ whole }

func (b fetchesTooMany) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.whole.Fetch(ctx, queue, max+1, lease)
}

// fetchIgnoresContext waits until there is a job.
type fetchIgnoresContext struct{ whole }

func (b fetchIgnoresContext) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.whole.Fetch(context.WithoutCancel(ctx), queue, max, lease)
}

// fetchMissesPushes looks once, and then only at the end of its wait.
type fetchMissesPushes struct{ whole }

func (b fetchMissesPushes) Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error) {
	now, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	jobs, err := b.whole.Fetch(now, queue, max, lease)
	if now.Err() != nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return jobs, err
}

// losesBadBodies deletes what is no job.
type losesBadBodies struct{ whole }

func (b losesBadBodies) Pop(queue string, timeout int64) (*linda.Job, error) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		jobs, err := b.Fetch(ctx, queue, 1, time.Duration(timeout)*time.Second)
		if err == context.DeadlineExceeded {
			return nil, nil
		}
		if err != nil || jobs[0].Err() == nil {
			return append(jobs, nil)[0], err
		}
		if err := b.Delete(queue, jobs[0]); err != nil {
			return nil, err
		}
	}
}

// stopsAtBadBodies returns a body that is no job as an error of Pop.
type stopsAtBadBodies struct{ whole }

func (b stopsAtBadBodies) Pop(queue string, timeout int64) (*linda.Job, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	jobs, err := b.Fetch(ctx, queue, 1, time.Duration(timeout)*time.Second)
	if err == context.DeadlineExceeded {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return jobs[0], jobs[0].Err()
}

// losesSome says yes to every push and keeps most of the jobs.
type losesSome struct {
	whole
	mu sync.Mutex
	n  int // pushes so far; guarded by mu
}

func (b *losesSome) Push(job *linda.Job, queue string) error {
	b.mu.Lock()
	b.n++
	lose := b.n%1000 == 0
	b.mu.Unlock()
	if lose {
		return nil
	}
	return b.whole.Push(job, queue)
}

// atLeastOnce reserves a job that was to be deleted.
type atLeastOnce struct{ whole }

func (b atLeastOnce) Pop(queue string, timeout int64) (*linda.Job, error) {
	return b.whole.Pop(queue, max(timeout, 60))
}

// takesAnyName makes a name of its own out of a bad one.
type takesAnyName struct{ whole }

func (b takesAnyName) Push(job *linda.Job, queue string) error {
	if linda.CheckName(queue) != nil {
		queue = "other"
	}
	return b.whole.Push(job, queue)
}

// halfABatch pushes until one job fails.
type halfABatch struct{ whole }

func (b halfABatch) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	for _, job := range jobs {
		if err := b.Push(job, queue); err != nil {
			return err
		}
	}
	return nil
}

// forgetsReasons does not store why a job failed.
type forgetsReasons struct{ whole }

func (b forgetsReasons) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	for i := range batch {
		batch[i].Reason = ""
	}
	return b.whole.Settle(ctx, queue, batch)
}

// deletesTheBuried has no DEAD.
type deletesTheBuried struct{ whole }

func (b deletesTheBuried) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	for i := range batch {
		if batch[i].Op == linda.OpBury {
			batch[i].Op = linda.OpDelete
		}
	}
	return b.whole.Settle(ctx, queue, batch)
}

// keysForEver does not end the time of a unique key.
type keysForEver struct{ whole }

func (b keysForEver) PushUnique(ctx context.Context, queue string, job *linda.Job) error {
	held := *job
	held.UniqueTTL = 0
	return b.whole.PushUnique(ctx, queue, &held)
}

// neverCloses goes on after Close.
type neverCloses struct{ whole }

func (b neverCloses) Close() error { return nil }

// ticksAgain pushes whatever tick it is asked for.
type ticksAgain struct{ whole }

func (b ticksAgain) Tick(ctx context.Context, queue string, ticks []linda.Tick) ([]linda.Ticked, time.Time, error) {
	done, now, err := b.whole.Tick(ctx, queue, ticks)
	for i := range done {
		if !done[i].Pushed && ticks[i].Job != nil && !ticks[i].At.After(now) {
			done[i].Pushed = b.PushBatch(ctx, queue, []*linda.Job{ticks[i].Job}) == nil
		}
	}
	return done, now, err
}

// ticksEarly goes by a clock that is ahead.
type ticksEarly struct{ whole }

func (b ticksEarly) Tick(ctx context.Context, queue string, ticks []linda.Tick) ([]linda.Ticked, time.Time, error) {
	const ahead = 5 * time.Second
	earlier := make([]linda.Tick, len(ticks))
	for i, t := range ticks {
		t.At = t.At.Add(-ahead)
		earlier[i] = t
	}
	return b.whole.Tick(ctx, queue, earlier)
}

// slotTooMany counts one slot too few.
type slotTooMany struct{ whole }

func (b slotTooMany) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	return b.whole.TakeSlots(ctx, limit, most+1, hold, holders)
}

// slotsForEver leaves slots with those who took them.
type slotsForEver struct{ whole }

func (b slotsForEver) TakeSlots(ctx context.Context, limit string, most int, _ time.Duration, holders []string) (int, time.Duration, error) {
	return b.whole.TakeSlots(ctx, limit, most, time.Hour, holders)
}

// renewsWhatIsLost takes a slot again for whoever has lost it.
type renewsWhatIsLost struct{ whole }

func (b renewsWhatIsLost) RenewSlots(ctx context.Context, limit string, hold time.Duration, holders []string) error {
	_, _, err := b.whole.TakeSlots(ctx, limit, 1<<30, hold, holders)
	return err
}

// forgetsHolders counts a holder that asks again twice.
type forgetsHolders struct {
	whole
	n atomic.Int64
}

func (b *forgetsHolders) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	renamed := make([]string, len(holders))
	for i, holder := range holders {
		renamed[i] = fmt.Sprint(holder, b.n.Add(1))
	}
	return b.whole.TakeSlots(ctx, limit, most, hold, renamed)
}

// slotsInWindows has slots end with a window of the clock.
type slotsInWindows struct{ whole }

func (b slotsInWindows) TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (int, time.Duration, error) {
	left := time.Until(time.Now().Truncate(hold).Add(hold))
	return b.whole.TakeSlots(ctx, limit, most, left/2+1, holders)
}

// ignoresTheOrder serves queues by their names.
type ignoresTheOrder struct{ whole }

func (b ignoresTheOrder) FetchAny(ctx context.Context, queues []string, max int, lease time.Duration) ([]*linda.Job, error) {
	return b.whole.FetchAny(ctx, slices.Sorted(slices.Values(queues)), max, lease)
}

// forgetsPauses pauses nothing.
type forgetsPauses struct{ whole }

func (b forgetsPauses) Pause(context.Context, string) error { return nil }
