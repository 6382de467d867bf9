package nsq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// PushBatch is that of a [linda.BatchPusher].
func (b *broker) PushBatch(ctx context.Context, queue string, jobs []*linda.Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	bodies, err := linda.EncodeBatch(ctx, queue, jobs)
	if err != nil || len(jobs) == 0 {
		return err
	}
	most := b.maxSize() - bookkeeping
	now := time.Now()
	posts := make([]*post, len(jobs))
	for i, job := range jobs {
		if job.UniqueKey != "" {
			return fmt.Errorf("linda/nsq: queue %s: unique keys: %w", queue, errors.ErrUnsupported)
		}
		p := &post{topic: ready(queue), body: string(bodies[i])}
		if job.Delay > 0 {
			p.delay(now, job.Delay)
		}
		if len(p.body) > most {
			return fmt.Errorf("linda/nsq: queue %s: %w: %d bytes, at most %d, since %d are for bookkeeping", queue, linda.ErrTooLarge, len(p.body), most, bookkeeping)
		}
		posts[i] = p
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return linda.Batch(b.post(ctx, posts))
}

// delay makes a post one that is not due before its delay has passed.
func (p *post) delay(now time.Time, delay time.Duration) {
	p.due = now.Add(delay)
	p.body = linda.DueBody(p.body, p.due)
}

// post publishes posts and returns an error for each. What a server has not
// taken, and surely not, is tried with the next one.
func (b *broker) post(ctx context.Context, posts []*post) []error {
	errs := make([]error, len(posts))
	todo := make([]int, len(posts))
	for i := range posts {
		todo[i] = i
	}
	servers := b.ofURL()
	for try := 0; len(todo) > 0 && try < 2*len(servers)+1; try++ {
		s := b.choose(servers, try)
		rest := make([]*post, len(todo))
		for n, i := range todo {
			rest[n] = posts[i]
		}
		var again []int
		for n, err := range b.postTo(ctx, s, rest) {
			i := todo[n]
			if errs[i] = b.closedOr(err); errors.Is(err, errUnsent) && ctx.Err() == nil && b.wires.Err() == nil {
				again = append(again, i)
			}
		}
		todo = again
	}
	return errs
}

// ofURL are the servers that jobs are published to.
func (b *broker) ofURL() []*server { return b.all()[:len(b.config.hosts)] }

// choose returns the server for a try: the first that seems to work, and after
// each failure the next one.
func (b *broker) choose(servers []*server, try int) *server {
	for i := range servers {
		if s := servers[(try+i)%len(servers)]; !s.stuck() {
			return s
		}
	}
	return servers[try%len(servers)]
}

func (b *broker) postTo(ctx context.Context, s *server, posts []*post) []error {
	o, err := s.prepare(ctx, posts)
	if err != nil {
		if ctx.Err() == nil {
			err = unsent{err}
		}
		errs := make([]error, len(posts))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return o.publish(ctx, posts)
}

// tryFor is how long a server may take to be greeted where there are others.
const tryFor = time.Second

// prepare connects and makes the channels that are needed.
func (s *server) prepare(ctx context.Context, posts []*post) (*outlet, error) {
	limit := callLimit
	if len(s.broker.config.hosts) > 1 {
		limit = tryFor
	}
	trying, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o, err := s.publisher(trying)
	if err == nil {
		err = s.declareAll(trying, posts)
	}
	if err != nil && trying.Err() != nil && ctx.Err() == nil {
		err = s.shun()
	}
	return o, err
}

// shun leaves a server alone for a while that accepts connections and is silent.
func (s *server) shun() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = s.explain("greet", errSilent)
	s.dialAt = time.Now().Add(mostPause)
	return s.down
}

// declareAll makes the channels of all topics that are posted to.
func (s *server) declareAll(ctx context.Context, posts []*post) error {
	last := ""
	for _, p := range posts {
		if p.topic == last {
			continue
		}
		if err := s.declare(ctx, p.topic); err != nil {
			return err
		}
		last = p.topic
	}
	return nil
}
