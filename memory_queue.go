package linda

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// memoryStore holds the queues of one memory:// URL.
type memoryStore struct {
	name    string
	brokers int // attached; guarded by memoryStores

	mu     sync.Mutex
	queues map[string]*memoryQueue // guarded by mu, with all they hold
	limits map[string]memoryLimit  // guarded by mu
}

func newMemoryStore(name string) *memoryStore {
	return &memoryStore{name: name, queues: make(map[string]*memoryQueue), limits: make(map[string]memoryLimit)}
}

// queue returns a queue, with everything that is due moved to READY. The caller
// holds mu.
func (s *memoryStore) queue(name string) *memoryQueue {
	q := s.queues[name]
	if q == nil {
		q = newMemoryQueue()
		s.queues[name] = q
	}
	q.migrate(time.Now())
	return q
}

// unlock ends the use of some queues, and forgets those of which nothing is left.
func (s *memoryStore) unlock(queues ...string) {
	for _, name := range queues {
		if q := s.queues[name]; q != nil && q.empty() {
			delete(s.queues, name)
		}
	}
	s.mu.Unlock()
}

// leave ends the wait for some queues to change.
func (s *memoryStore) leave(queues []string, bell memoryBell) {
	s.mu.Lock()
	for _, name := range queues {
		delete(s.queues[name].bells, bell)
	}
	s.unlock(queues...)
}

// memoryJob is a stored job. It is in one of the collections of its queue, or
// gone.
type memoryJob struct {
	body       string
	deliveries int64     // also the fencing token
	due        time.Time // when the delay or the reservation ends
	added      uint64    // orders jobs that are due at the same time
	index      int       // in its heap
}

type memoryToken struct {
	job      *memoryJob
	delivery int64
}

type memoryQueue struct {
	ready     deque
	delayed   dueHeap
	reserved  dueHeap
	dead      []*memoryJob
	keys      map[string]memoryKey
	schedules map[string]memorySchedule
	bells     map[memoryBell]bool // of those who wait
	paused    bool                // nothing is handed out
	added     uint64              // how often a job was added
}

// memoryBell wakes one who waits, on one queue or several. It is rung when a job
// is ready, or due earlier than before; there is room for one ring.
type memoryBell chan struct{}

func (b memoryBell) ring() {
	select {
	case b <- struct{}{}:
	default: // it has been rung
	}
}

type memoryKey struct {
	id    string
	until time.Time // zero: no limit
}

func newMemoryQueue() *memoryQueue {
	return &memoryQueue{
		keys: make(map[string]memoryKey), schedules: make(map[string]memorySchedule), bells: make(map[memoryBell]bool),
	}
}

// empty reports whether the queue can be forgotten.
func (q *memoryQueue) empty() bool {
	return q.jobs()+len(q.keys)+len(q.schedules)+len(q.bells) == 0 && !q.paused
}

func (q *memoryQueue) jobs() int {
	return q.ready.len() + len(q.delayed) + len(q.reserved) + len(q.dead)
}

func (q *memoryQueue) notify() {
	for bell := range q.bells {
		bell.ring()
	}
}

// add makes a job READY or DELAYED.
func (q *memoryQueue) add(m *memoryJob, delay time.Duration) {
	q.added++
	m.added = q.added
	if delay > 0 {
		m.due = time.Now().Add(delay)
		heap.Push(&q.delayed, m)
	} else {
		m.due = time.Time{}
		q.ready.pushBack(m)
	}
	q.notify()
}

// migrate makes READY what is due.
func (q *memoryQueue) migrate(now time.Time) {
	for _, h := range []*dueHeap{&q.reserved, &q.delayed} {
		for len(*h) > 0 && !(*h)[0].due.After(now) {
			m := heap.Pop(h).(*memoryJob)
			m.due = time.Time{}
			q.ready.pushBack(m)
		}
	}
}

// nextDue returns the time until the next job is due.
func (q *memoryQueue) nextDue() time.Duration {
	next := time.Duration(math.MaxInt64)
	for _, h := range []dueHeap{q.reserved, q.delayed} {
		if len(h) > 0 {
			next = min(next, time.Until(h[0].due))
		}
	}
	return next
}

// reserve starts the reservation of a job, or sets its end anew.
func (q *memoryQueue) reserve(m *memoryJob, until time.Time) {
	if q.holds(m) {
		m.due = until
		heap.Fix(&q.reserved, m.index)
		return
	}
	m.due = until
	heap.Push(&q.reserved, m)
}

func (q *memoryQueue) holds(m *memoryJob) bool {
	return m.index < len(q.reserved) && q.reserved[m.index] == m
}

// heldBy returns the job that a receipt still reserves, or nil.
func (q *memoryQueue) heldBy(r *Receipt) *memoryJob {
	t, ok := r.Token().(memoryToken)
	if !ok || t.job.deliveries != t.delivery || !q.holds(t.job) {
		return nil
	}
	return t.job
}

// settle ends a reservation. It returns the job where that goes to the head of
// the queue, which is left to putBack.
func (q *memoryQueue) settle(s *Settlement, r *Receipt) (head *memoryJob, err error) {
	m := q.heldBy(r)
	switch {
	case r.Gone():
		m = &memoryJob{deliveries: s.Job.head.Deliveries}
	case m == nil:
		return nil, ErrNotReserved
	default:
		heap.Remove(&q.reserved, m.index)
	}
	if s.Op != OpRelease {
		q.unlockKey(s.Job)
	}
	if s.Op == OpDelete {
		return nil, nil
	}
	m.body = s.Body()
	switch {
	case s.Op == OpBury:
		m.due = time.Now()
		q.dead = append(q.dead, m)
	case s.Unstarted && s.Delay <= 0:
		return m, nil
	default:
		q.add(m, s.Delay)
	}
	return nil, nil
}

// putBack makes jobs READY before all others.
func (q *memoryQueue) putBack(jobs []*memoryJob) {
	for _, m := range slices.Backward(jobs) {
		m.due = time.Time{}
		q.ready.pushFront(m)
		q.notify()
	}
}

// lockKey takes the unique key of a job that is pushed.
func (q *memoryQueue) lockKey(queue string, body []byte, job *Job) error {
	now := time.Now()
	if k, taken := q.keys[job.UniqueKey]; taken && (k.until.IsZero() || now.Before(k.until)) {
		return &DuplicateError{Queue: queue, Key: job.UniqueKey, ID: k.id}
	}
	k := memoryKey{id: BodyID(string(body))}
	if job.UniqueTTL > 0 {
		k.until = now.Add(job.UniqueTTL)
	}
	q.keys[job.UniqueKey] = k
	return nil
}

// unlockKey frees the unique key of a job that is done or dead.
func (q *memoryQueue) unlockKey(job *Job) {
	if key := job.UniqueKey; key != "" && q.keys[key].id == job.ID {
		delete(q.keys, key)
	}
}

// in lists the jobs in a state, the next in line first.
func (q *memoryQueue) in(state State) ([]*memoryJob, error) {
	switch state {
	case Ready:
		return q.ready.list(), nil
	case Delayed:
		return q.delayed.list(), nil
	case Reserved:
		return q.reserved.list(), nil
	case Dead:
		return slices.Clone(q.dead), nil
	}
	return nil, fmt.Errorf("linda: unknown state %q", state)
}

// find returns the job with an id and its state, or nil.
func (q *memoryQueue) find(id string) (*memoryJob, State) {
	if !validID(id) {
		return nil, ""
	}
	for _, state := range states {
		jobs, _ := q.in(state)
		for _, m := range jobs {
			if BodyID(m.body) == id {
				return m, state
			}
		}
	}
	return nil, ""
}

// remove takes a job out of a state.
func (q *memoryQueue) remove(m *memoryJob, state State) {
	is := func(other *memoryJob) bool { return other == m }
	switch state {
	case Ready:
		q.ready.front = slices.DeleteFunc(q.ready.front, is)
		q.ready.back = slices.DeleteFunc(q.ready.back, is)
	case Delayed:
		heap.Remove(&q.delayed, m.index)
	case Dead:
		q.dead = slices.DeleteFunc(q.dead, is)
	}
}

// show returns a stored job to be looked at.
func (m *memoryJob) show(queue string) *Job {
	job := DecodePeeked(queue, m.body)
	job.Delivered(m.deliveries)
	return job
}

func (q *memoryQueue) purge(state State) (int, error) {
	jobs, err := q.in(state)
	if err != nil {
		return 0, err
	}
	switch state {
	case Ready:
		q.ready = deque{}
	case Delayed:
		q.delayed = nil
	case Dead:
		q.dead = nil
	default:
		return 0, ErrReserved
	}
	gone := make(map[string]bool, len(jobs))
	for _, m := range jobs {
		gone[BodyID(m.body)] = true
	}
	maps.DeleteFunc(q.keys, func(_ string, k memoryKey) bool { return gone[k.id] })
	return len(jobs), nil
}

// byDue compares jobs by due, and those due at the same time by when they were
// added.
func byDue(a, b *memoryJob) int {
	return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.added, b.added))
}

// dueHeap orders jobs by due; it implements heap.Interface.
type dueHeap []*memoryJob

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return byDue(h[i], h[j]) < 0 }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h dueHeap) list() []*memoryJob {
	jobs := slices.Clone(h)
	slices.SortFunc(jobs, byDue)
	return jobs
}

func (h *dueHeap) Push(x any) {
	m := x.(*memoryJob)
	m.index = len(*h)
	*h = append(*h, m)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}

// deque is a first-in, first-out queue that also takes jobs back at its head.
type deque struct {
	front []*memoryJob // in reverse
	back  []*memoryJob
	head  int // of back
}

func (d *deque) len() int               { return len(d.front) + len(d.back) - d.head }
func (d *deque) pushBack(m *memoryJob)  { d.back = append(d.back, m) }
func (d *deque) pushFront(m *memoryJob) { d.front = append(d.front, m) }

func (d *deque) popFront() *memoryJob {
	if n := len(d.front); n > 0 {
		m := d.front[n-1]
		d.front = d.front[:n-1]
		return m
	}
	m := d.back[d.head]
	d.back[d.head] = nil
	d.head++
	if d.head > 1024 && d.head > len(d.back)/2 {
		d.back = append([]*memoryJob(nil), d.back[d.head:]...)
		d.head = 0
	}
	return m
}

func (d *deque) list() []*memoryJob {
	jobs := slices.Clone(d.front)
	slices.Reverse(jobs)
	return append(jobs, d.back[d.head:]...)
}
