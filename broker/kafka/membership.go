package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// membership is the part of this process in the consumer group of one queue. It
// joins when the first job is asked for, leaves when none is asked for any more,
// and joins anew after it has lost the group: each time is one [tenure].
type membership struct {
	b     *broker // of its own
	name  string  // in memberships
	topic string
	group string
	wake  chan struct{} // told that somebody waits
	idle  time.Duration // how long nobody may ask for jobs before the partitions are left to others

	mu       sync.Mutex
	users    map[*broker]bool // guarded by mu, as all below
	tenure   *tenure          // nil while there is none
	waiting  int              // how many calls wait
	asked    time.Time        // when the last wait ended
	changed  chan struct{}    // closed when a wait may have come to its end, and made anew
	failures int
	failed   error // the last of them
}

// notify has all who wait look again. It needs mu.
func (m *membership) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *membership) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures++
	m.failed = err
	m.notify()
}

// run keeps the membership while jobs are asked for.
func (m *membership) run() {
	for try := 1; ; try++ {
		select {
		case <-m.wake:
		case <-m.b.ctx.Done():
			return
		}
		begun := time.Now()
		err := m.live()
		select {
		case <-m.wake: // from before
		default:
		}
		if !errors.Is(err, errIdle) {
			m.fail(m.b.fault("fetch", err))
			if time.Since(begun) > 10*time.Second {
				try = 1
			}
			_ = sleep(m.b.ctx, backoff(try))
		}
		if !m.nobodyWaits() {
			tell(m.wake) // somebody has come meanwhile
		}
	}
}

func (m *membership) nobodyWaits() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting == 0
}

var errIdle = errors.New("no job is asked for")

// live joins the group and fetches until something is wrong, nobody asks any
// more, or Close.
func (m *membership) live() error {
	ctx, end := context.WithCancelCause(m.b.ctx)
	defer end(nil)
	topic, shared, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	t := &tenure{m: m, topic: topic, shared: shared, end: end, commits: make(chan struct{}, 1), room: make(chan struct{}, 1),
		parts: make(map[int32]*partition)}
	m.mu.Lock()
	t.client, err = kgo.NewClient(append(m.b.config.clientOptions(), t.options()...)...)
	if err == nil {
		m.tenure = t
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	t.run(ctx)
	return context.Cause(ctx)
}

// prepare makes the topic, and tells what it is and what of it was done in share
// mode.
func (m *membership) prepare(ctx context.Context) (found *topic, shared map[int32]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	if m.b.client == nil {
		client, err := m.b.config.newClient()
		if err != nil {
			return nil, nil, err
		}
		m.b.client = client
	}
	if err := m.b.ensure(ctx, m.b.config.partitions, m.topic); err != nil {
		return nil, nil, err
	}
	found, err = lookUp(ctx, m.b.client, m.topic)
	if err == nil && found == nil {
		m.b.forget(m.topic)
		err = errors.New("there is no topic " + m.topic)
	}
	if err != nil {
		return nil, nil, err
	}
	shared, err = m.b.leftByShare(ctx, found)
	return found, shared, err
}

// ends returns where the partitions end that are this process's.
func (m *membership) ends(ctx context.Context) (map[int32]int64, error) {
	m.mu.Lock()
	var numbers []int32
	if m.tenure != nil {
		numbers = append(numbers, m.tenure.order...)
	}
	m.mu.Unlock()
	return boundsOf(ctx, m.b.client, m.topic, numbers, latest)
}

// boundsOf asks where partitions begin or end, what is in open transactions
// left out.
func boundsOf(ctx context.Context, client *kgo.Client, name string, partitions []int32, at int64) (map[int32]int64, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	request := kmsg.NewPtrListOffsetsRequest()
	request.IsolationLevel = 1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = name
	for _, number := range partitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = number, at
		t.Partitions = append(t.Partitions, p)
	}
	request.Topics = append(request.Topics, t)
	answer, err := request.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	offsets := make(map[int32]int64, len(partitions))
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, err
			}
			offsets[p.Partition] = p.Offset
		}
	}
	return offsets, nil
}
