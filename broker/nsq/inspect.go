package nsq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amlun/linda"
)

// What the server cannot do. To show a message it has to hand it out, which it
// counts as a delivery; that does no harm to the dead ones.
var errDeadOnly = fmt.Errorf("linda/nsq: nsqd shows no jobs but the dead: %w", errors.ErrUnsupported)

// settled is how long Stats waits until the servers have done what this broker
// has told them.
const settled = time.Second

// Stats is that of a [linda.Inspector]. Messages that were sent to a process and
// not asked for count as reserved for a moment, and after a restart of the
// server delayed ones as ready until a worker has put them back.
func (b *broker) Stats(ctx context.Context, queue string) (linda.Stats, error) {
	none := linda.Stats{Ready: -1, Delayed: -1, Reserved: -1, Dead: -1}
	if err := b.check(ctx, queue); err != nil {
		return none, err
	}
	if len(b.config.http) == 0 {
		return none, nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	b.settle(ctx, queue)
	sum, err := b.count(ctx, queue)
	if err == nil && sum.Reserved > 0 && sleep(ctx, underWay) {
		sum, err = b.count(ctx, queue)
	}
	if err != nil {
		return none, b.closedOr(err)
	}
	return sum, nil
}

// underWay is how long a FIN may be on its way that another process has sent,
// whose Delete has returned.
const underWay = 30 * time.Millisecond

// count adds up what the servers tell.
func (b *broker) count(ctx context.Context, queue string) (sum linda.Stats, err error) {
	for _, s := range b.all() {
		depth, c, err := s.spread(ctx, ready(queue))
		if err != nil {
			return sum, err
		}
		sum.Ready += depth + c.Depth
		sum.Delayed += c.Deferred
		sum.Reserved += c.InFlight
		depth, c, err = s.topicStats(ctx, dead(queue))
		if err != nil {
			return sum, err
		}
		sum.Dead += depth + c.Depth + c.InFlight + c.Deferred
	}
	return sum, nil
}

// spread is topicStats once the server has moved what was published into the
// channel, where it tells what is delayed from what is ready. It soon has,
// unless the topic is paused.
func (s *server) spread(ctx context.Context, topic string) (depth int64, c channelStats, err error) {
	for range 20 {
		depth, c, err = s.topicStats(ctx, topic)
		if err != nil || depth == 0 || !sleep(ctx, lookEvery) {
			break
		}
	}
	return depth, c, err
}

// settle waits until the servers have done what this broker has told them of a
// queue.
func (b *broker) settle(ctx context.Context, queue string) {
	b.mu.Lock()
	t := b.taps[queue]
	b.mu.Unlock()
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	for !t.isSettled(ctx) {
		if !sleep(ctx, lookEvery) {
			return
		}
	}
}

func (t *tap) isSettled(ctx context.Context) bool {
	t.mu.Lock()
	busy := t.leaving+len(t.waiting)+len(t.early) > 0 && t.wanted == 0
	feeds := t.feeds
	t.mu.Unlock()
	for _, f := range feeds {
		t.mu.Lock()
		k, open := f.client()
		t.mu.Unlock()
		if !open {
			continue
		}
		if _, c, err := f.server.topicStats(ctx, t.topic); err == nil && !c.sees(k) {
			return false
		}
	}
	return !busy
}

func known(state linda.State) error {
	switch state {
	case linda.Ready, linda.Delayed, linda.Reserved, linda.Dead:
		return nil
	}
	return fmt.Errorf("linda/nsq: there is no state %q", state)
}

// Peek is that of a [linda.Inspector], for DEAD jobs. While it looks, nobody else
// sees them.
func (b *broker) Peek(ctx context.Context, queue string, state linda.State, max int) ([]*linda.Job, error) {
	if err := errors.Join(known(state), b.check(ctx, queue)); err != nil {
		return nil, err
	}
	if state != linda.Dead {
		return nil, errDeadOnly
	}
	var jobs []*linda.Job
	max = min(max, linda.MaxInspect)
	err := b.browse(ctx, queue, func(m *gathered) bool {
		if len(jobs) < max {
			jobs = append(jobs, linda.DecodePeeked(queue, m.body))
		}
		return len(jobs) < max
	})
	return jobs, err
}

// browse shows the dead jobs of a queue to see, the longest dead first, until it
// wants no more. Then those go back that it has not marked as done.
func (b *broker) browse(ctx context.Context, queue string, see func(m *gathered) bool) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	select { // two that look at once would see a part each
	case b.browsing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.browsing }()
	g, err := b.gather(ctx, dead(queue), 2*linda.MaxInspect)
	if err != nil {
		return err
	}
	defer g.end(ctx)
	for _, m := range g.all {
		if !see(m) {
			break
		}
	}
	return nil
}

// Kick is that of a [linda.Inspector]. A job is removed from the dead once the
// server has confirmed that it is READY.
func (b *broker) Kick(ctx context.Context, queue string, max int) (int, error) {
	if err := b.check(ctx, queue); err != nil || max < 1 {
		return 0, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	max = min(max, linda.MaxInspect)
	kicked := 0
	var failed error
	err := b.browse(ctx, queue, func(m *gathered) bool {
		p := &post{topic: ready(queue), body: linda.KickedBody(queue, m.body)}
		if failed = b.post(ctx, []*post{p})[0]; failed != nil {
			return false
		}
		m.done = true
		kicked++
		return kicked < max
	})
	return kicked, errors.Join(err, failed)
}

// Find is that of a [linda.Inspector], for DEAD jobs; where the job is not among
// them, the error is that the others cannot be seen.
func (b *broker) Find(ctx context.Context, queue, id string) (*linda.Job, linda.State, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, "", err
	}
	var job *linda.Job
	err := b.browse(ctx, queue, func(m *gathered) bool {
		if linda.BodyID(m.body) == id {
			job = linda.DecodePeeked(queue, m.body)
		}
		return job == nil
	})
	switch {
	case err != nil:
		return nil, "", err
	case job == nil:
		return nil, "", errDeadOnly
	}
	return job, linda.Dead, nil
}

// Remove is that of a [linda.Inspector], for DEAD jobs, like Find.
func (b *broker) Remove(ctx context.Context, queue, id string) (bool, error) {
	if err := b.check(ctx, queue); err != nil {
		return false, err
	}
	removed := false
	err := b.browse(ctx, queue, func(m *gathered) bool {
		m.done = linda.BodyID(m.body) == id
		removed = m.done
		return !removed
	})
	if err == nil && !removed {
		err = errDeadOnly
	}
	return removed, err
}

// Purge is that of a [linda.Inspector], for READY and DEAD jobs. It takes them
// out, so that workers may still get some of them.
func (b *broker) Purge(ctx context.Context, queue string, state linda.State) (int, error) {
	if err := errors.Join(known(state), b.check(ctx, queue)); err != nil {
		return 0, err
	}
	topic := ready(queue)
	switch state {
	case linda.Reserved:
		return 0, linda.ErrReserved
	case linda.Delayed:
		return 0, fmt.Errorf("linda/nsq: nsqd empties a channel only as a whole, with what is in work: %w", errors.ErrUnsupported)
	case linda.Dead:
		topic = dead(queue)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	purged := 0
	for {
		g, err := b.gather(ctx, topic, 2*linda.MaxInspect)
		if err != nil {
			return purged, err
		}
		n := 0
		for _, m := range g.all {
			if job := linda.DecodePeeked(queue, m.body); job.Due().After(time.Now()) && state == linda.Ready {
				// It came too early, and goes on to wait.
				p := &post{topic: topic, body: m.body, due: job.Due(), again: true}
				m.done = b.post(ctx, []*post{p})[0] == nil
				continue
			}
			m.done = true
			n++
		}
		g.end(ctx)
		if purged += n; n == 0 {
			return purged, nil
		}
	}
}

// Queues is that of a [linda.Inspector].
func (b *broker) Queues(ctx context.Context) ([]string, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	if len(b.config.http) == 0 {
		return nil, errNoWeb
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	var names []string
	for _, s := range b.all() {
		var all statistics
		if err := b.get(ctx, s.web+"/stats?format=json&include_mem=false&include_clients=false", &all); err != nil {
			return nil, b.closedOr(err)
		}
		for _, t := range all.Topics {
			jobs := t.Depth
			for _, c := range t.Channels {
				if c.Name == b.config.channel {
					jobs += c.Depth + c.InFlight + c.Deferred
				}
			}
			name := strings.TrimPrefix(t.Name, deadPrefix)
			if jobs > 0 && linda.CheckName(name) == nil {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
