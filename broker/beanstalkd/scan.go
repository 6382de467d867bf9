package beanstalkd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/amlun/linda"
)

const (
	// scanStep is how many ids one exchange asks about.
	scanStep = 500
	// scanMost is how many ids one look goes through: a job that is further from
	// where the look began is not seen.
	scanMost = 1 << 20
	// probeTube is where the newest id is found out. It is no queue's name.
	probeTube = "linda/probe"
)

// sighting is a job that a look has come across.
type sighting struct {
	id   uint64
	yaml string // what stats-job tells
	body string
}

// walk asks about ids, from one on, upwards or down, and shows what there is of
// a queue, until show has seen enough. The server lists no jobs; it only shows
// the next one in a state, or the one with an id.
func (b *broker) walk(ctx context.Context, queue string, from, last uint64, up bool, show func([]sighting) (enough bool)) error {
	for looked := 0; looked < scanMost; looked += scanStep {
		cmd := &commands{}
		var ids []uint64
		for id := from; len(ids) < scanStep && id > 0 && (!up || id <= last); {
			ids = append(ids, id)
			cmd.add("stats-job", id)
			if up {
				id++
			} else {
				id--
			}
			from = id
		}
		if len(ids) == 0 {
			return nil
		}
		answers, err := b.looks.do(ctx, cmd)
		if err != nil {
			return err
		}
		var seen []sighting
		for i, answer := range answers {
			if answer.word == "OK" && textField(answer.data, "tube") == queue {
				seen = append(seen, sighting{id: ids[i], yaml: answer.data})
			}
		}
		if len(seen) > 0 && show(seen) {
			return nil
		}
	}
	return nil
}

// newest returns an id that is not lower than that of any job. The probe is a
// job of nobody, deleted at once.
func (b *broker) newest(ctx context.Context) (uint64, error) {
	c, err := b.looks.conn(ctx)
	if err != nil {
		return 0, err
	}
	probe := &commands{tube: probeTube}
	probe.put("", 0, uint64(maxDelay/time.Second), 1)
	answers, err := c.do(ctx, probe, func(late []reply) { discard(c, late[0].id) })
	if err != nil {
		return 0, err
	}
	if err := answers[0].err("INSERTED"); err != nil {
		return 0, fmt.Errorf("linda/beanstalkd: looking for the newest job: %w", err)
	}
	discard(c, answers[0].id)
	return answers[0].id, nil
}

func discard(c *conn, id uint64) {
	cmd := &commands{tube: "default"} // a tube that nobody uses is forgotten
	cmd.add("delete", id)
	_, _ = c.send(cmd)
}

// bodies reads the bodies of jobs, and leaves out those that are gone.
func (b *broker) bodies(ctx context.Context, seen []sighting) ([]sighting, error) {
	var got []sighting
	for part := range slices.Chunk(seen, scanStep) {
		cmd := &commands{}
		for _, s := range part {
			cmd.add("peek", s.id)
		}
		answers, err := b.looks.do(ctx, cmd)
		if err != nil {
			return nil, err
		}
		for i, s := range part {
			if answers[i].word == "FOUND" {
				s.body = answers[i].data
				got = append(got, s)
			}
		}
	}
	return got, nil
}

func (s sighting) job(queue string) *linda.Job {
	job := linda.DecodePeeked(queue, s.body)
	var r reservation
	r.know(s.yaml, time.Time{})
	job.Redelivered(r.native)
	return job
}

func (b *broker) Peek(ctx context.Context, queue string, state linda.State, max int) ([]*linda.Job, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, err
	}
	if err := known(state); err != nil {
		return nil, err
	}
	max = min(max, linda.MaxInspect)
	if max < 1 {
		return nil, nil
	}
	seen, err := b.look(ctx, queue, state, max)
	if err == nil {
		seen, err = b.bodies(ctx, seen[:min(max, len(seen))])
	}
	if err != nil {
		return nil, b.reason(ctx, err)
	}
	jobs := make([]*linda.Job, len(seen))
	for i, s := range seen {
		jobs[i] = s.job(queue)
	}
	return jobs, nil
}

// look finds jobs in a state, the next in line first. The order of ready and
// dead jobs is that of their ids, so for those it stops at max.
func (b *broker) look(ctx context.Context, queue string, state linda.State, max int) ([]sighting, error) {
	s, err := b.stats(ctx, queue)
	if err != nil {
		return nil, err
	}
	want := int(count(s, state))
	if state == linda.Ready || state == linda.Dead {
		want = min(want, max)
	}
	if want == 0 {
		return nil, nil
	}
	last, err := b.newest(ctx)
	if err != nil {
		return nil, err
	}
	from := last
	if peeks[state] != "" {
		first, err := b.next(ctx, queue, state)
		if err != nil {
			return nil, err
		}
		from = min(cmp.Or(first.id, last), last)
	}
	var found []sighting
	show := func(seen []sighting) bool {
		for _, s := range seen {
			if textField(s.yaml, "state") == native[state] {
				found = append(found, s)
			}
		}
		return len(found) >= want
	}
	if err = b.walk(ctx, queue, from, last, true, show); err == nil && len(found) < want {
		err = b.walk(ctx, queue, from-1, last, false, show)
	}
	slices.SortFunc(found, func(a, b sighting) int { return order(state, a, b) })
	return found, err
}

// order compares jobs in a state: which is next in line.
func order(state linda.State, a, b sighting) int {
	by := "id"
	switch state {
	case linda.Ready:
		by = "pri"
	case linda.Delayed, linda.Reserved:
		by = "time-left"
	}
	return cmp.Or(cmp.Compare(field(a.yaml, by), field(b.yaml, by)), cmp.Compare(a.id, b.id))
}

func (b *broker) Find(ctx context.Context, queue, id string) (*linda.Job, linda.State, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, "", err
	}
	found, err := b.find(ctx, queue, id)
	if err != nil || found == nil {
		return nil, "", b.reason(ctx, err)
	}
	for state, name := range native {
		if textField(found.yaml, "state") == name {
			return found.job(queue), state, nil
		}
	}
	return nil, "", nil
}

func (b *broker) Remove(ctx context.Context, queue, id string) (bool, error) {
	if err := b.check(ctx, queue); err != nil {
		return false, err
	}
	found, err := b.find(ctx, queue, id)
	if err != nil || found == nil {
		return false, b.reason(ctx, err)
	}
	deleted, err := b.deleteID(ctx, found.id)
	if err != nil {
		return false, b.reason(ctx, err)
	}
	if !deleted && textField(found.yaml, "state") == native[linda.Reserved] {
		return false, fmt.Errorf("linda/beanstalkd: queue %s: %w", queue, linda.ErrReserved)
	}
	return deleted, nil
}

// find looks for the job with an id of linda's, the newest jobs first, until it
// has seen as many as the queue has.
func (b *broker) find(ctx context.Context, queue, id string) (*sighting, error) {
	s, err := b.stats(ctx, queue)
	left := s.Ready + s.Delayed + s.Reserved + s.Dead
	if err != nil || left == 0 || id == "" {
		return nil, err
	}
	last, err := b.newest(ctx)
	if err != nil {
		return nil, err
	}
	var found *sighting
	var failed error
	err = b.walk(ctx, queue, last, last, false, func(seen []sighting) bool {
		left -= int64(len(seen))
		if seen, failed = b.bodies(ctx, seen); failed != nil {
			return true
		}
		for i := range seen {
			if linda.BodyID(seen[i].body) == id {
				found = &seen[i]
				return true
			}
		}
		return left <= 0
	})
	return found, cmp.Or(err, failed)
}
