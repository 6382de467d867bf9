package linda_test

import (
	"testing"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
)

// memoryHarness has the suite run on memory://store.
func memoryHarness(store string) brokertest.Harness {
	return brokertest.Harness{
		Open: func(t testing.TB) linda.Broker { return openMemory(t, store) },
		RawPush: func(t testing.TB, queue string, body []byte) error {
			linda.PushRawMemory(store, queue, string(body))
			return nil
		},
		Keys: func(t testing.TB, queue string) []string {
			if linda.HasMemoryQueue(store, queue) {
				return []string{queue}
			}
			return nil
		},
	}
}

func openMemory(t testing.TB, store string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker("memory://" + store)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMemoryBrokerConforms(t *testing.T) {
	openMemory(t, t.Name()) // keeps the store between the cases
	brokertest.Run(t, memoryHarness(t.Name()))
}

func TestMemoryBrokerConformsInVirtualTime(t *testing.T) {
	h := memoryHarness(t.Name())
	h.Bubble = true
	brokertest.Run(t, h)
}

// nineMethods hides what else a broker can do, but for what it promises.
type nineMethods struct{ linda.Broker }

func (b nineMethods) Guarantees() linda.Guarantees {
	return b.Broker.(linda.Guarantor).Guarantees()
}

// The suite asks nothing of a broker with the nine methods alone that these
// cannot do.
func TestNineMethodsConform(t *testing.T) {
	h := memoryHarness("nine")
	h.Open = func(t testing.TB) linda.Broker { return nineMethods{openMemory(t, "nine")} }
	h.Bubble = true
	brokertest.Run(t, h)
}
