package sim

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/amlun/linda"
)

// store is the memory broker, as the server of the simulation.
type store interface {
	linda.Broker
	linda.BatchPusher
	linda.Settler
	linda.Toucher
	linda.Ticker
	linda.Inspector
	FetchNow(ctx context.Context, queue string, max int, lease time.Duration) ([]*linda.Job, error)
}

// server is what all connections reach. Each request comes to it at an instant
// of its own, so time puts them in order, and the same order for the same seed.
// It knows a reservation by its token only, whatever the client believes.
type server struct {
	seed  uint64
	store store

	mu    sync.Mutex
	waits []*wait   // guarded by mu, as all below: fetches that found nothing
	due   instants  // when something becomes ready
	wake  time.Time // when timer fires
	timer *time.Timer
}

// wait is a fetch that waits at the server.
type wait struct {
	conn   *Conn
	queues []string
	max    int
	lease  time.Duration
	rank   uint64       // who comes first
	answer chan fetched // has room for one
}

type fetched struct {
	jobs []*linda.Job
	err  error
}

func newServer(seed uint64) (*server, error) {
	b, err := linda.NewBroker("memory://")
	if err != nil {
		return nil, err
	}
	s := &server{seed: seed, store: b.(store)}
	s.timer = time.AfterFunc(time.Hour, s.ring)
	s.timer.Stop()
	return s, nil
}

func (s *server) close() {
	s.timer.Stop()
	_ = s.store.Close()
}

// do carries out a request, and hands out what it made ready.
func (s *server) do(request func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	request()
	s.serve()
}

// ring is called when something has become ready by itself.
func (s *server) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve()
}

// at notes that something may become ready at a time. The caller holds mu.
func (s *server) at(t time.Time) { heap.Push(&s.due, t) }

// serve gives the waiting fetches what there is, and sets the timer. The caller
// holds mu.
func (s *server) serve() {
	now := time.Now()
	for len(s.due) > 0 && !s.due[0].After(now) {
		heap.Pop(&s.due)
	}
	s.waits = slices.DeleteFunc(s.waits, func(w *wait) bool {
		jobs := s.take(w.queues, w.max, w.lease)
		if len(jobs) == 0 {
			return false
		}
		w.answer <- fetched{jobs: jobs}
		return true
	})
	if len(s.waits) == 0 || len(s.due) == 0 {
		s.timer.Stop()
		s.wake = time.Time{}
	} else if next := s.due[0]; !next.Equal(s.wake) {
		s.wake = next
		s.timer.Reset(time.Until(next))
	}
}

// take reserves what is ready in some queues. The caller holds mu.
func (s *server) take(queues []string, most int, lease time.Duration) []*linda.Job {
	var jobs []*linda.Job
	for _, queue := range queues {
		if len(jobs) < most {
			more, err := s.store.FetchNow(context.Background(), queue, most-len(jobs), lease)
			must(err)
			jobs = append(jobs, more...)
		}
	}
	if len(jobs) > 0 {
		s.at(time.Now().Add(lease))
	}
	return jobs
}

// await makes a fetch wait, unless there is something for it.
func (s *server) await(w *wait) {
	s.do(func() {
		w.conn.waits++
		w.rank = mix(s.seed, uint64(w.conn.proc), w.conn.waits)
		at, _ := slices.BinarySearchFunc(s.waits, w, func(a, b *wait) int { return cmp.Compare(a.rank, b.rank) })
		s.waits = slices.Insert(s.waits, at, w)
	})
}

// leave ends the waits that match.
func (s *server) leave(err error, match func(*wait) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = slices.DeleteFunc(s.waits, func(w *wait) bool {
		if !match(w) {
			return false
		}
		w.answer <- fetched{err: err}
		return true
	})
}

// settle carries out settlements, of which the server knows nothing but the
// tokens. The caller holds mu.
func (s *server) settle(queue string, batch []linda.Settlement, tokens []any) []error {
	asked := slices.Clone(batch)
	for i := range asked {
		asked[i].Job = s.known(queue, asked[i].Job, tokens[i])
		if d := asked[i].Delay; d > 0 {
			s.at(time.Now().Add(d))
		}
	}
	return linda.EachError(s.store.Settle(context.Background(), queue, asked), len(asked))
}

// touch prolongs reservations. The caller holds mu.
func (s *server) touch(queue string, lease time.Duration, jobs []*linda.Job, tokens []any) []error {
	asked := make([]*linda.Job, len(jobs))
	for i, job := range jobs {
		asked[i] = s.known(queue, job, tokens[i])
	}
	s.at(time.Now().Add(lease))
	return linda.EachError(s.store.Touch(context.Background(), queue, lease, asked), len(asked))
}

// known returns a job as the server is asked about it: with a receipt that
// nobody has used, so that only the token counts.
func (s *server) known(queue string, job *linda.Job, token any) *linda.Job {
	asked := *job
	asked.Reserve(s.store, queue, token, time.Now().Add(time.Hour))
	return &asked
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// instants is a heap of times.
type instants []time.Time

func (h instants) Len() int           { return len(h) }
func (h instants) Less(i, j int) bool { return h[i].Before(h[j]) }
func (h instants) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *instants) Push(x any)        { *h = append(*h, x.(time.Time)) }
func (h *instants) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
