package lease_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is what a keeper calls; the broker of its receipts does nothing.
type server struct {
	linda.Broker
	begun           time.Time
	renewed, before []string // deliveries with the time
}

func (s *server) note(list *[]string) func([]string) {
	return func(deliveries []string) {
		for _, d := range deliveries {
			*list = append(*list, d+" "+time.Since(s.begun).String())
		}
	}
}

// hold makes a job with a reservation and has it kept.
func (s *server) hold(t *testing.T, k *lease.Keeper[string], delivery string, d time.Duration) (*linda.Job, *linda.Receipt) {
	t.Helper()
	job := new(linda.Job)
	job.Reserve(s, "q", delivery, time.Now().Add(d))
	receipt, err := job.Receipt(s, "q")
	if err != nil {
		t.Fatal(err)
	}
	k.Hold(delivery, receipt)
	return job, receipt
}

// keep runs a test in virtual time, with a keeper that renews every 2 s.
func keep(t *testing.T, check func(t *testing.T, s *server, k *lease.Keeper[string])) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{begun: time.Now()}
		k := lease.New(lease.Options[string]{Every: 2 * time.Second, Renew: s.note(&s.renewed), Return: s.note(&s.before)})
		defer k.Close()
		check(t, s, k)
	})
}

func (s *server) want(t *testing.T, renewed, before []string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(s.renewed, renewed) || !slices.Equal(s.before, before) {
		t.Errorf("renewed %v, want %v; given back %v, want %v", s.renewed, renewed, s.before, before)
	}
}

func TestRenewsUntilTheLeaseEndsThenGivesBack(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		job, _ := s.hold(t, k, "long", 5*time.Second)
		s.hold(t, k, "short", time.Second)
		time.Sleep(time.Minute)
		s.want(t, []string{"long 2s", "long 4s"}, []string{"short 1s", "long 5s"})
		if _, err := job.Receipt(s, "q"); err != linda.ErrLeaseLost {
			t.Errorf("after its lease the receipt gives %v", err)
		}
		if n := k.Held(); n != 0 {
			t.Errorf("%d still held", n)
		}
	})
}

func TestALeaseThatIsExtendedEndsLater(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		_, receipt := s.hold(t, k, "job", time.Second)
		time.Sleep(900 * time.Millisecond)
		receipt.Extend(time.Now().Add(1500 * time.Millisecond))
		time.Sleep(time.Minute)
		s.want(t, []string{"job 2s"}, []string{"job 2.4s"})
	})
}

func TestADroppedDeliveryIsLeftAlone(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		s.hold(t, k, "job", 10*time.Second)
		time.Sleep(time.Second)
		if !k.Drop("job") || k.Drop("job") {
			t.Error("Drop does not tell whether the delivery was held")
		}
		time.Sleep(time.Minute)
		s.want(t, nil, nil)
	})
}

func TestALostConnectionEndsItsReservations(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		gone, _ := s.hold(t, k, "gone", time.Second)
		other, _ := s.hold(t, k, "other", time.Second)
		k.Lose(func(d string) bool { return d == "gone" })
		if _, err := gone.Receipt(s, "q"); err != linda.ErrLeaseLost {
			t.Errorf("the receipt gives %v", err)
		}
		if _, err := other.Receipt(s, "q"); err != nil {
			t.Errorf("the receipt of another connection gives %v", err)
		}
		time.Sleep(time.Minute)
		s.want(t, nil, []string{"other 1s"})
	})
}

func TestASettlementThatFailsAfterTheLeaseGivesBack(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		job, receipt := s.hold(t, k, "job", time.Second)
		if _, err := (&linda.Settlement{Job: job}).Begin(s, "q"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1150 * time.Millisecond)
		s.want(t, nil, nil) // it is being settled
		_ = receipt.End(linda.ErrUnknown)
		time.Sleep(time.Minute)
		s.want(t, nil, []string{"job 1.2s"})
	})
}

func TestCloseLeavesTheReservations(t *testing.T) {
	keep(t, func(t *testing.T, s *server, k *lease.Keeper[string]) {
		s.hold(t, k, "job", time.Second)
		k.Close()
		time.Sleep(time.Minute)
		s.want(t, nil, nil)
	})
}
