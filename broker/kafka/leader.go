package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leader settles which process moves the delayed jobs. It shows that it lives
// by an offset that it commits for a group without members; who sees the same
// one for too long takes its place. That two lead for a moment is harmless:
// they use one transactional id, by which the server refuses the older.
//
// A consumer group would settle it too, but each of its members that dies holds
// up all of them for as long as a session lasts, 6 s at least, and where
// processes die more often than that, for ever.
type leader struct {
	client *kgo.Client
	topic  *topic // for which the offset is
	group  string
	id     string // of this process
}

const (
	beatEvery = 300 * time.Millisecond // of who leads
	lookEvery = 500 * time.Millisecond // of the others
	deadAfter = 1500 * time.Millisecond
	claimWait = 100 * time.Millisecond
)

var errDeposed = errors.New("another process moves the delayed jobs")

// await returns once this process leads.
func (l *leader) await(ctx context.Context) error {
	var last committed
	since := time.Now()
	for {
		s, err := l.look(ctx)
		if err != nil {
			return err
		}
		if s != last {
			last, since = s, time.Now()
		}
		if s.metadata != "" && s.metadata != l.id && time.Since(since) <= deadAfter {
			if err := sleep(ctx, lookEvery+rand.N(lookEvery/4)); err != nil {
				return err
			}
			continue
		}
		// Others may have seen the same: the last one to tell leads.
		if err := errors.Join(l.tell(ctx, s.offset+1, l.id), sleep(ctx, claimWait)); err != nil {
			return err
		}
		if s, err = l.look(ctx); err != nil || s.metadata == l.id {
			return err
		}
	}
}

// keep shows that this process lives until another one leads or ctx ends. It
// goes on when the server does not answer: nobody else can tell it then.
func (l *leader) keep(ctx context.Context) error {
	for ctx.Err() == nil {
		s, err := l.look(ctx)
		if err == nil && s.metadata != l.id {
			return errDeposed
		}
		if err == nil {
			_ = l.tell(ctx, s.offset+1, l.id)
		}
		_ = sleep(ctx, beatEvery)
	}
	return ctx.Err()
}

// resign lets another process lead at once.
func (l *leader) resign() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if s, err := l.look(ctx); err == nil && s.metadata == l.id {
		_ = l.tell(ctx, s.offset+1, "")
	}
}

// look returns the last sign of life.
func (l *leader) look(ctx context.Context) (committed, error) {
	all, err := offsetsOf(ctx, l.client, l.group, l.topic)
	if err != nil {
		return committed{}, err
	}
	return all[0], nil
}

func (l *leader) tell(ctx context.Context, beat int64, id string) error {
	request := kmsg.NewPtrOffsetCommitRequest()
	request.Group = l.group
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID = l.topic.name, l.topic.id
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset, p.Metadata = beat, &id
	t.Partitions = append(t.Partitions, p)
	request.Topics = append(request.Topics, t)
	answer, err := request.RequestWith(ctx, l.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
}

// committed is the offset that a group has committed for the first partition of
// a topic; -1 where it has not.
type committed struct {
	offset   int64
	metadata string
}

// offsetsOf returns what a group has committed for topics. It waits until no
// transaction can change that any more.
func offsetsOf(ctx context.Context, client *kgo.Client, group string, topics ...*topic) ([]committed, error) {
	request := kmsg.NewPtrOffsetFetchRequest()
	request.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	for _, topic := range topics {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.TopicID, t.Partitions = topic.name, topic.id, []int32{0}
		g.Topics = append(g.Topics, t)
	}
	request.Groups = append(request.Groups, g)
	for try := 1; ; try++ {
		answer, err := request.RequestWith(ctx, client)
		if err != nil {
			return nil, err
		}
		all, err := readCommitted(answer, topics)
		if !retriable(err) || try > 20 {
			return all, err
		}
		if err := sleep(ctx, backoff(try)); err != nil {
			return nil, err
		}
	}
}

func readCommitted(answer *kmsg.OffsetFetchResponse, topics []*topic) ([]committed, error) {
	all := make([]committed, len(topics))
	for i := range all {
		all[i].offset = -1
	}
	for _, g := range answer.Groups {
		err := kerr.ErrorForCode(g.ErrorCode)
		if errors.Is(err, kerr.GroupIDNotFound) { // as some servers say of a group that has committed nothing
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, t := range g.Topics {
			for i, topic := range topics {
				if t.Topic != topic.name && t.TopicID != topic.id {
					continue
				}
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						return nil, err
					}
					all[i].offset = p.Offset
					if p.Metadata != nil {
						all[i].metadata = *p.Metadata
					}
				}
			}
		}
	}
	return all, nil
}
