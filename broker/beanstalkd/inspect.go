package beanstalkd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/amlun/linda"
)

// peeks names the command that shows the next job in a state.
var peeks = map[linda.State]string{linda.Ready: "peek-ready", linda.Delayed: "peek-delayed", linda.Dead: "peek-buried"}

// native is what the server calls the states.
var native = map[linda.State]string{
	linda.Ready: "ready", linda.Delayed: "delayed", linda.Reserved: "reserved", linda.Dead: "buried",
}

func (b *broker) Stats(ctx context.Context, queue string) (linda.Stats, error) {
	if err := b.check(ctx, queue); err != nil {
		return linda.Stats{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	s, err := b.stats(ctx, queue)
	return s, b.reason(ctx, err)
}

func (b *broker) stats(ctx context.Context, queue string) (linda.Stats, error) {
	cmd := &commands{}
	cmd.about("stats-tube", queue)
	answers, err := b.looks.do(ctx, cmd)
	if err != nil {
		return linda.Stats{}, err
	}
	return tubeStats(answers[0])
}

func tubeStats(r reply) (linda.Stats, error) {
	if r.word == "NOT_FOUND" { // a tube is there as long as something is in it
		return linda.Stats{}, nil
	}
	count := func(state linda.State) int64 { return field(r.data, "current-jobs-"+native[state]) }
	return linda.Stats{
		Ready: count(linda.Ready), Delayed: count(linda.Delayed), Reserved: count(linda.Reserved), Dead: count(linda.Dead),
	}, r.err("OK")
}

// count is the number of jobs in a state.
func count(s linda.Stats, state linda.State) int64 {
	return map[linda.State]int64{
		linda.Ready: s.Ready, linda.Delayed: s.Delayed, linda.Reserved: s.Reserved, linda.Dead: s.Dead,
	}[state]
}

func (b *broker) Queues(ctx context.Context) ([]string, error) {
	if b.ctx.Err() != nil {
		return nil, linda.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list := &commands{}
	list.add("list-tubes")
	answers, err := b.looks.do(ctx, list)
	if err != nil {
		return nil, b.reason(ctx, err)
	}
	var names []string
	cmd := &commands{}
	for line := range strings.Lines(answers[0].data) {
		name, isItem := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if isItem && linda.CheckName(name) == nil {
			names = append(names, name)
			cmd.about("stats-tube", name)
		}
	}
	if answers, err = b.looks.do(ctx, cmd); err != nil {
		return nil, b.reason(ctx, err)
	}
	var queues []string
	for i, answer := range answers {
		if s, err := tubeStats(answer); err == nil && s != (linda.Stats{}) {
			queues = append(queues, names[i])
		}
	}
	slices.Sort(queues)
	return queues, nil
}

// Kick moves dead jobs one by one: each is reserved, so that no two kicks take
// the same, put as it is to be, and deleted.
func (b *broker) Kick(ctx context.Context, queue string, max int) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	kicked := 0
	for kicked < min(max, linda.MaxInspect) {
		dead, err := b.next(ctx, queue, linda.Dead)
		if err != nil || dead.id == 0 {
			return kicked, b.reason(ctx, err)
		}
		switch err := b.kick(ctx, queue, dead); {
		case err == nil:
			kicked++
		case errors.Is(err, linda.ErrNotReserved): // somebody else has it
		default:
			return kicked, b.reason(ctx, err)
		}
	}
	return kicked, nil
}

func (b *broker) kick(ctx context.Context, queue string, dead reply) error {
	c, err := b.looks.conn(ctx)
	if err != nil {
		return err
	}
	ask := func(name string, want string, args ...uint64) error {
		cmd := &commands{}
		cmd.add(name, args...)
		answers, err := c.do(ctx, cmd, nil)
		if err != nil {
			return err
		}
		return answers[0].err(want)
	}
	if err := ask("reserve-job", "RESERVED", dead.id); err != nil {
		return err
	}
	defer c.forgetID(dead.id)
	puts := &commands{tube: queue}
	puts.put(linda.KickedBody(queue, dead.data), b.config.pri, 0, b.ttr())
	if _, err := b.insert(ctx, puts); err != nil {
		return errors.Join(err, ask("bury", "BURIED", dead.id, b.config.pri))
	}
	return ask("delete", "DELETED", dead.id)
}

// next returns the next job in a state; its id is 0 where there is none.
func (b *broker) next(ctx context.Context, queue string, state linda.State) (reply, error) {
	cmd := &commands{tube: queue}
	cmd.add(peeks[state])
	answers, err := b.looks.do(ctx, cmd)
	switch {
	case err != nil:
		return reply{}, err
	case answers[0].word == "NOT_FOUND":
		return reply{}, nil
	}
	return answers[0], answers[0].err("FOUND")
}

// Purge removes as many jobs as there are when it begins.
func (b *broker) Purge(ctx context.Context, queue string, state linda.State) (int, error) {
	if err := b.check(ctx, queue); err != nil {
		return 0, err
	}
	if err := known(state); err != nil {
		return 0, err
	}
	if state == linda.Reserved {
		return 0, fmt.Errorf("linda/beanstalkd: queue %s: %w", queue, linda.ErrReserved)
	}
	s, err := b.stats(ctx, queue)
	if err != nil {
		return 0, b.reason(ctx, err)
	}
	purged := 0
	for left := count(s, state); left > 0; left-- {
		job, err := b.next(ctx, queue, state)
		if err != nil || job.id == 0 {
			return purged, b.reason(ctx, err)
		}
		deleted, err := b.deleteID(ctx, job.id)
		if err != nil {
			return purged, b.reason(ctx, err)
		}
		if deleted {
			purged++
		}
	}
	return purged, nil
}

// deleteID deletes a job that is not reserved, and reports whether it did.
func (b *broker) deleteID(ctx context.Context, id uint64) (bool, error) {
	cmd := &commands{}
	cmd.add("delete", id)
	answers, err := b.looks.do(ctx, cmd)
	if err != nil {
		return false, err
	}
	return answers[0].word == "DELETED", nil
}

func known(state linda.State) error {
	if native[state] == "" {
		return fmt.Errorf("linda/beanstalkd: no such state: %q", state)
	}
	return nil
}
