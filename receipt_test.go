package linda

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// receiptOf puts a receipt on a new job and returns a settlement of it.
func receiptOf(b Broker, until time.Time) *Settlement {
	job := &Job{ID: "x"}
	job.Reserve(b, "q", "token", until)
	return &Settlement{Job: job, Op: OpDelete}
}

func TestReceiptIsGoodForOneSettlement(t *testing.T) {
	b := newMemoryBroker()
	s := receiptOf(b, time.Now().Add(time.Minute))
	r, err := s.Begin(b, "q")
	require.NoError(t, err)
	assert.Equal(t, "token", r.Token())

	_, err = s.Begin(b, "q")
	assert.ErrorIs(t, err, ErrNotReserved, "while it is under way")
	assert.NotErrorIs(t, err, ErrLeaseLost)
	assert.False(t, r.Lose(), "it cannot be lost now")

	require.NoError(t, r.End(nil))
	_, err = s.Begin(b, "q")
	assert.ErrorIs(t, err, ErrNotReserved, "after it")
	assert.NotErrorIs(t, err, ErrLeaseLost)
	assert.False(t, r.Lose(), "what is settled is not lost")
}

func TestReceiptIsOfOneBrokerAndOneQueue(t *testing.T) {
	b, other := &memoryBroker{store: newMemoryStore("a")}, &memoryBroker{store: newMemoryStore("b")}
	s := receiptOf(b, time.Now().Add(time.Minute))
	for _, try := range []struct {
		broker Broker
		queue  string
	}{{other, "q"}, {b, "p"}, {nil, "q"}} {
		_, err := s.Begin(try.broker, try.queue)
		assert.Equal(t, ErrNotReserved, err)
	}
	_, err := (&Settlement{Job: new(Job)}).Begin(b, "q")
	assert.Equal(t, ErrNotReserved, err, "a job that was never popped")
	_, err = s.Begin(b, "q")
	assert.NoError(t, err, "the tries before have not used it")
}

func TestEndOfASettlement(t *testing.T) {
	unknown := fmt.Errorf("reading: %w", ErrUnknown)
	refused := errors.New("READONLY")
	later, earlier := time.Now().Add(time.Minute), time.Now().Add(-time.Minute)
	for name, c := range map[string]struct {
		until   time.Time
		answers []error // of the tries, in turn
		want    []error
		next    error // of one more Begin
	}{
		"done":                  {later, []error{nil}, []error{nil}, ErrNotReserved},
		"refused, done":         {later, []error{refused, nil}, []error{refused, nil}, ErrNotReserved},
		"refused":               {later, []error{refused}, []error{refused}, nil},
		"not reserved":          {later, []error{ErrNotReserved}, []error{ErrLeaseLost}, ErrLeaseLost},
		"lease lost":            {later, []error{ErrLeaseLost}, []error{ErrLeaseLost}, ErrLeaseLost},
		"refused, not reserved": {later, []error{refused, ErrNotReserved}, []error{refused, ErrLeaseLost}, ErrLeaseLost},
		"unknown, not reserved: the first did it": {later, []error{unknown, ErrNotReserved}, []error{unknown, nil}, ErrNotReserved},
		"unknown, refused, not reserved":          {later, []error{unknown, refused, ErrNotReserved}, []error{unknown, refused, nil}, ErrNotReserved},
		"unknown, not reserved, but too late":     {earlier, []error{unknown, ErrNotReserved}, []error{unknown, ErrLeaseLost}, ErrLeaseLost},
		"unknown, done":                           {later, []error{unknown, nil}, []error{unknown, nil}, ErrNotReserved},
	} {
		t.Run(name, func(t *testing.T) {
			b := newMemoryBroker()
			s := receiptOf(b, c.until)
			for i, answer := range c.answers {
				r, err := s.Begin(b, "q")
				require.NoError(t, err)
				assert.Equal(t, c.want[i], r.End(answer))
			}
			_, err := s.Begin(b, "q")
			assert.Equal(t, c.next, err)
		})
	}
}

func TestLostReceiptCannotBeUsed(t *testing.T) {
	b := newMemoryBroker()
	s := receiptOf(b, time.Now().Add(time.Minute))
	r, err := s.Job.Receipt(b, "q")
	require.NoError(t, err)
	assert.True(t, r.Lose())
	assert.True(t, r.Lose())
	_, err = s.Begin(b, "q")
	assert.ErrorIs(t, err, ErrLeaseLost)
	assert.ErrorIs(t, err, ErrNotReserved)
	_, err = s.Job.Receipt(b, "q")
	assert.ErrorIs(t, err, ErrLeaseLost)
}

func TestReservationCanBeProlonged(t *testing.T) {
	b := newMemoryBroker()
	until := time.Now().Add(time.Minute)
	r, err := receiptOf(b, until).Job.Receipt(b, "q")
	require.NoError(t, err)
	assert.Equal(t, until, r.Until())
	assert.False(t, r.Gone())
	r.Extend(until.Add(time.Minute))
	assert.Equal(t, until.Add(time.Minute), r.Until())

	gone, err := receiptOf(b, time.Time{}).Job.Receipt(b, "q")
	require.NoError(t, err)
	assert.True(t, gone.Gone())
}

func TestOneOfManySettlementsWins(t *testing.T) {
	for range 200 {
		b := newMemoryBroker()
		s := receiptOf(b, time.Now().Add(time.Minute))
		job := *s.Job // a copy shares the receipt
		var won atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				mine := Settlement{Job: &job, Op: OpRelease, Delay: time.Duration(i)}
				r, err := mine.Begin(b, "q")
				if err != nil {
					assert.Equal(t, ErrNotReserved, err)
					return
				}
				won.Add(1)
				assert.NoError(t, r.End(nil))
				asked, _ := r.request()
				assert.EqualValues(t, i, asked.Delay)
			})
		}
		all.Wait()
		require.EqualValues(t, 1, won.Load())
	}
}

func TestSettlementBodyKeepsTheToken(t *testing.T) {
	job := decoded(t, `{"linda":{"id":"x","n":1,"r":"token"},"Payload":{"class":"C"}}`)
	assert.Equal(t, "token", job.head.Token)
	assert.Equal(t, `{"linda":{"id":"x","n":1,"r":"token","s":1},"Payload":{"class":"C"}}`, (&Settlement{Job: job, Op: OpRelease}).Body())
}
