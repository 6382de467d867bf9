package rabbitmq

import (
	"context"
	"fmt"
	"time"

	"github.com/amlun/linda"
)

// settling is a settlement that was begun.
type settling struct {
	index    int
	receipt  *linda.Receipt
	delivery *delivery
	post     *post // nil: the job is done
	err      error
}

// Settle is that of a [linda.Settler].
func (b *broker) Settle(ctx context.Context, queue string, batch []linda.Settlement) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	for _, s := range batch {
		if s.Op == linda.OpRelease && s.Delay > delayMost {
			return fmt.Errorf("%w: %v, at most %v", linda.ErrDelayTooLong, s.Delay, delayMost)
		}
	}
	errs := make([]error, len(batch))
	begun := make([]settling, 0, len(batch))
	for i := range batch {
		s := &batch[i]
		receipt, err := s.Begin(b, queue)
		if err != nil {
			errs[i] = err
			continue
		}
		d := receipt.Token().(*delivery)
		begun = append(begun, settling{index: i, receipt: receipt, delivery: d, post: postOf(s)})
	}
	b.settle(ctx, queue, begun)
	for _, s := range begun {
		errs[s.index] = s.receipt.End(s.err)
	}
	return linda.Batch(errs)
}

// postOf returns what a settlement stores anew, nil for nothing.
func postOf(s *linda.Settlement) *post {
	switch s.Op {
	case linda.OpDelete:
		return nil
	case linda.OpBury:
		return &post{body: []byte(s.Body()), dead: true}
	default:
		alone := s.Unstarted && s.Delay <= 0 && s.Job.Crashes() > 0
		return &post{body: []byte(s.Body()), delay: s.Delay, alone: alone}
	}
}

// settle stores anew what goes on to live, and then removes what was
// delivered: the other way round a crash could lose the job.
func (b *broker) settle(ctx context.Context, queue string, batch []settling) {
	b.repost(ctx, queue, batch)
	byTap := make(map[*tap][]*delivery)
	for i := range batch {
		if s := &batch[i]; s.err == nil && !s.receipt.Gone() {
			byTap[s.delivery.tap] = append(byTap[s.delivery.tap], s.delivery)
		}
	}
	lost := make(map[*delivery]bool)
	for t, deliveries := range byTap {
		for _, d := range t.acknowledge(deliveries) {
			lost[d] = true
		}
		for _, d := range deliveries {
			b.keeper.Drop(d)
		}
	}
	for i := range batch {
		if s := &batch[i]; s.err == nil && lost[s.delivery] {
			s.err = linda.ErrLeaseLost
		}
	}
}

// repost publishes the bodies of those that go on to live.
func (b *broker) repost(ctx context.Context, queue string, batch []settling) {
	var posts []post
	var of []*settling
	for i := range batch {
		s := &batch[i]
		switch {
		case !s.receipt.Gone() && s.delivery.tap.broken():
			s.err = linda.ErrLeaseLost
		case s.post != nil:
			posts, of = append(posts, *s.post), append(of, s)
		}
	}
	if len(posts) == 0 {
		return
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	for i, err := range b.send(ctx, queue, posts) {
		of[i].err = err
	}
}

// Touch is that of a [linda.Toucher]. It asks nothing of the server, which
// knows of no reservation.
func (b *broker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*linda.Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	most := b.config.leaseMax()
	if lease <= 0 || lease > most {
		return tooLong(lease, most)
	}
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		errs[i] = b.touch(queue, job, lease)
	}
	return linda.Batch(errs)
}

func (b *broker) touch(queue string, job *linda.Job, lease time.Duration) error {
	receipt, err := job.Receipt(b, queue)
	if err != nil {
		return err
	}
	d := receipt.Token().(*delivery)
	switch until := time.Now().Add(lease); {
	case receipt.Gone():
		return linda.ErrNotReserved
	case d.tap.broken():
		receipt.Lose()
		return linda.ErrLeaseLost
	case until.After(d.came.Add(b.config.leaseMax())):
		return tooLong(until.Sub(d.came), b.config.leaseMax())
	default:
		receipt.Extend(until)
		b.keeper.Drop(d) // the end may be sooner than it was
		b.keeper.Hold(d, receipt)
		if _, err := job.Receipt(b, queue); err != nil { // settled or ended meanwhile
			b.keeper.Drop(d)
			return err
		}
		return nil
	}
}

// shed gives jobs that were sent here, and that nobody has asked for, to
// others. They are published anew, since the server would count it as a crash
// to have them back. Those that it does not take stay here for now.
func (b *broker) shed(t *tap, deliveries []*delivery) {
	limit := shedFor
	if b.life.Err() != nil {
		limit = closeLimit / 2
	}
	ctx, cancel := context.WithTimeout(b.wires, limit)
	defer cancel()
	posts := make([]post, len(deliveries))
	for i, d := range deliveries {
		posts[i] = post{body: d.body, alone: d.lone}
		if d.past > 0 {
			back := linda.Settlement{Job: d.job(), Op: linda.OpRelease, Unstarted: true}
			posts[i] = post{body: []byte(back.Body()), alone: true}
		}
	}
	errs := b.send(ctx, t.queue, posts)
	var moved, not []*delivery
	for i, err := range errs {
		if err == nil {
			moved = append(moved, deliveries[i])
		} else {
			not = append(not, deliveries[i])
		}
	}
	t.acknowledge(moved)
	t.keep(not)
}
