package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// answerOf is what a server says a group has committed for one partition.
func answerOf(groupCode, partitionCode int16, topic string, offset int64, metadata *string) *kmsg.OffsetFetchResponse {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.ErrorCode, p.Offset, p.Metadata = partitionCode, offset, metadata
	t := kmsg.NewOffsetFetchResponseGroupTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	g := kmsg.NewOffsetFetchResponseGroup()
	g.ErrorCode, g.Topics = groupCode, append(g.Topics, t)
	answer := kmsg.NewPtrOffsetFetchResponse()
	answer.Groups = append(answer.Groups, g)
	return answer
}

func TestWhatAGroupHasCommitted(t *testing.T) {
	t.Parallel()
	topics := []*topic{{name: "a", id: [16]byte{1}}, {name: "b", id: [16]byte{2}}}
	id := "process"
	none := committed{offset: -1}
	for name, c := range map[string]struct {
		answer *kmsg.OffsetFetchResponse
		want   []committed
		err    error
	}{
		"nothing":                 {kmsg.NewPtrOffsetFetchResponse(), []committed{none, none}, nil},
		"the group is unknown":    {answerOf(kerr.GroupIDNotFound.Code, 0, "b", 7, &id), []committed{none, none}, nil},
		"of one topic":            {answerOf(0, 0, "b", 7, &id), []committed{none, {7, id}}, nil},
		"nothing beside it":       {answerOf(0, 0, "b", 7, nil), []committed{none, {offset: 7}}, nil},
		"of a topic of others":    {answerOf(0, 0, "c", 7, &id), []committed{none, none}, nil},
		"the group is refused":    {answerOf(kerr.GroupAuthorizationFailed.Code, 0, "b", 7, &id), nil, kerr.GroupAuthorizationFailed},
		"a transaction is open":   {answerOf(0, kerr.UnstableOffsetCommit.Code, "b", 7, &id), nil, kerr.UnstableOffsetCommit},
		"the server is not ready": {answerOf(kerr.CoordinatorLoadInProgress.Code, 0, "b", 7, &id), nil, kerr.CoordinatorLoadInProgress},
	} {
		got, err := readCommitted(c.answer, topics)
		require.ErrorIs(t, err, c.err, name)
		if c.err == nil {
			assert.Equal(t, c.want, got, name)
		}
	}
}

// candidates are processes that would lead, as the server sees them.
type candidates struct {
	b    *broker
	all  []*leader
	wins chan int // who has come to lead
	errs chan error
}

func stand(t *testing.T, n int) *candidates {
	server := brokerd.Run(t, brokerd.Kafka)
	opened, err := linda.NewBroker(server.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	s := &candidates{b: opened.(*broker), wins: make(chan int, n), errs: make(chan error, n)}
	require.NoError(t, s.b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	found, err := lookUp(t.Context(), s.b.client, "q")
	require.NoError(t, err)
	for i := range n {
		s.all = append(s.all, &leader{client: s.b.client, topic: found, group: "leaders", id: fmt.Sprint("process-", i)})
	}
	require.Eventually(t, func() bool { // the server makes its topic for what groups commit
		_, err := s.all[0].look(t.Context())
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	return s
}

// run lets all of them stand. Whoever leads keeps to it until its context ends.
func (s *candidates) run(t *testing.T, each []context.Context) {
	for i, l := range s.all {
		s.b.run(func() {
			err := l.await(each[i])
			if err == nil {
				s.wins <- i
				err = l.keep(each[i])
			}
			if !errors.Is(err, context.Canceled) {
				s.errs <- fmt.Errorf("%s: %w", l.id, err)
			}
		})
	}
}

// next returns who leads next, and after how long.
func (s *candidates) next(t *testing.T, limit time.Duration) (who int, took time.Duration) {
	t.Helper()
	since := time.Now()
	select {
	case who = <-s.wins:
	case err := <-s.errs:
		require.NoError(t, err)
	case <-time.After(limit):
		require.Fail(t, "nobody leads", "for %v", limit)
	}
	return who, time.Since(since)
}

// nobody checks that no other one comes to lead for as long as it takes to see
// that one is dead, and longer.
func (s *candidates) nobody(t *testing.T) {
	t.Helper()
	select {
	case who := <-s.wins:
		require.Fail(t, "two lead", "process-%d is the second", who)
	case err := <-s.errs:
		require.NoError(t, err)
	case <-time.After(deadAfter + 2*lookEvery):
	}
}

// The documentation says about 2 s.
func TestOneLeadsAndWhenItDiesOneOfTheOthers(t *testing.T) {
	t.Parallel()
	const n = 4
	s := stand(t, n)
	each := make([]context.Context, n)
	kill := make([]context.CancelFunc, n)
	for i := range each {
		each[i], kill[i] = context.WithCancel(t.Context())
		defer kill[i]()
	}
	s.run(t, each)
	for left := n; left > 0; left-- {
		who, took := s.next(t, 10*time.Second)
		t.Logf("process-%d leads after %v", who, took)
		if left < n {
			assert.Less(t, took, deadAfter+lookEvery+lookEvery/4+claimWait+2*time.Second, "with 2 s for a busy machine")
		}
		s.nobody(t)
		kill[who]()
	}
}

func TestWhoResignsIsFollowedAtOnce(t *testing.T) {
	t.Parallel()
	s := stand(t, 2)
	least := time.Hour
	for range 3 { // the best of three, since the machine may be busy
		require.NoError(t, s.all[0].await(t.Context()))
		s.b.run(func() {
			if err := s.all[1].await(t.Context()); err != nil {
				s.errs <- err
				return
			}
			s.wins <- 1
		})
		keeping, stop := context.WithTimeout(t.Context(), 2*beatEvery)
		require.ErrorIs(t, s.all[0].keep(keeping), context.DeadlineExceeded)
		stop()
		s.all[0].resign()
		_, took := s.next(t, 10*time.Second)
		least = min(least, took)
		s.all[1].resign()
	}
	assert.Less(t, least, deadAfter, "as if it had died")
}

func TestWhoIsNotTheLeaderDoesNotResignForIt(t *testing.T) {
	t.Parallel()
	s := stand(t, 2)
	require.NoError(t, s.all[0].await(t.Context()))
	s.all[1].resign()
	now, err := s.all[1].look(t.Context())
	require.NoError(t, err)
	assert.Equal(t, s.all[0].id, now.metadata)
}

func TestWhoIsDeposedHearsOfIt(t *testing.T) {
	t.Parallel()
	s := stand(t, 2)
	require.NoError(t, s.all[0].await(t.Context()))
	now, err := s.all[1].look(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.all[1].tell(t.Context(), now.offset+1, s.all[1].id))
	require.ErrorIs(t, s.all[0].keep(t.Context()), errDeposed)
}
