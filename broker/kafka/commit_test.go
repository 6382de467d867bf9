package kafka

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestWhichCommitsMayGoAgain(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		io.EOF:                           true,
		context.DeadlineExceeded:         true,
		kerr.IllegalGeneration:           true, // the group has changed at just that moment
		kerr.RebalanceInProgress:         true,
		kerr.NotCoordinator:              true,
		kerr.CoordinatorLoadInProgress:   true,
		kerr.UnknownMemberID:             false,
		kerr.FencedInstanceID:            false,
		kerr.GroupAuthorizationFailed:    false,
		kerr.TopicAuthorizationFailed:    false,
		kerr.OffsetMetadataTooLarge:      false,
		kerr.InvalidCommitOffsetSize:     false,
		kerr.UnknownTopicOrPartition:     false, // the topic is gone
		errors.Join(kerr.InvalidGroupID): false,
	} {
		assert.Equal(t, want, mayGoAgain(err), "%v", err)
	}
}

// F17: what is signed by an old generation changes nothing, and a settlement
// that met a change of generation succeeds if the partition is still the
// process's.
func TestACommitOfAnOldGenerationIsRefused(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	opened, err := linda.NewBroker(server.URL + "&mode=classic")
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*broker)
	require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	jobs, err := b.Fetch(t.Context(), "q", 1, time.Minute)
	require.NoError(t, err)

	source, err := b.source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	receipt, err := jobs[0].Receipt(b, "q")
	require.NoError(t, err)
	p := receipt.Token().(*delivery).origin.(*partition)
	m.mu.Lock()
	tenure := m.tenure
	p.water.settle(0)
	p.dirty = true // behind the back of the committer
	m.mu.Unlock()
	r, err := tenure.gather()
	require.NoError(t, err)
	require.Equal(t, int64(1), r.request.Topics[0].Partitions[0].Offset)
	r.request.Generation--
	results, err := r.send(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, results[0], kerr.IllegalGeneration)
	done, err := b.leftByClassic(t.Context(), tenure.topic)
	require.ErrorContains(t, err, "has members")
	require.Nil(t, done)
	r.keep(r.parts) // none of it was stored
	require.NoError(t, b.Delete("q", jobs[0]))
	require.NoError(t, b.Close())
	require.Eventually(t, func() bool {
		other := open()
		other.config = b.config
		other.client, err = b.config.newClient()
		require.NoError(t, err)
		defer other.Close()
		done, err = other.leftByClassic(t.Context(), tenure.topic)
		return err == nil
	}, 10*time.Second, 50*time.Millisecond)
	assert.Equal(t, map[int32]int64{0: 1}, done)
}

// A settlement of which nothing is known is not taken for done when the
// partition is lost.
func TestASettlementOfUnknownOutcomeIsLostWithItsPartition(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	opened, err := linda.NewBroker(server.URL + "&mode=classic")
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*broker)
	for range 2 {
		require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	}
	var jobs []*linda.Job
	for len(jobs) < 2 {
		got, err := b.Fetch(t.Context(), "q", 2, time.Minute)
		require.NoError(t, err)
		jobs = append(jobs, got...)
	}
	source, err := b.source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	m.mu.Lock()
	tenure := m.tenure
	m.mu.Unlock()
	require.NoError(t, server.Pause())
	require.Eventually(t, func() bool { // a busy machine stops it late
		limited, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.Stats(limited, "q")
		return err != nil
	}, 10*time.Second, time.Millisecond)
	limited, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = b.Settle(limited, "q", []linda.Settlement{{Job: jobs[0]}})
	require.ErrorIs(t, linda.EachError(err, 1)[0], linda.ErrUnknown)
	tenure.lose(tenure.all())
	for _, job := range jobs {
		require.ErrorIs(t, b.Delete("q", job), linda.ErrLeaseLost)
	}
	require.NoError(t, server.Resume())
}

// Where members come and go quickly, a partition may go on before the one that
// got it has heard what is done of it.
func TestAPartitionThatGoesOnBeforeItWasBegunIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	opened, err := linda.NewBroker(server.URL + "&mode=classic")
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*broker)
	for range 3 {
		require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
		jobs, err := b.Fetch(t.Context(), "q", 1, time.Minute)
		require.NoError(t, err)
		require.NoError(t, b.Delete("q", jobs[0]))
	}
	source, err := b.source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	m.mu.Lock()
	tenure := m.tenure
	tenure.parts[0] = &partition{t: tenure, number: 0, out: make(map[int64]*delivery)} // as assigned does
	m.mu.Unlock()
	tenure.revoked(t.Context(), tenure.client, map[string][]int32{"q": {0}})
	stored, err := offsetsOf(t.Context(), b.client, m.group, tenure.topic)
	require.NoError(t, err)
	assert.Equal(t, int64(3), stored[0].offset)
}

func TestWhichErrorsOfAGroupItsMemberOutlasts(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&kgo.ErrGroupSession{Err: io.EOF}:                         true,
		&kgo.ErrGroupSession{Err: kerr.CoordinatorNotAvailable}:   true,
		&kgo.ErrGroupSession{Err: kerr.UnknownMemberID}:           true,
		&kgo.ErrGroupSession{Err: kerr.GroupAuthorizationFailed}:  false,
		&kgo.ErrGroupSession{Err: kerr.InconsistentGroupProtocol}: false,
		io.EOF:                false, // of a partition
		kerr.UnknownTopicID:   false,
		kerr.OffsetOutOfRange: false,
	} {
		assert.Equal(t, want, recovers(err), "%v", err)
	}
}

// A new member would wait, and all others with it, until the session of the one
// that it was ends.
func TestAServerThatIsAwayForAWhileFindsTheSameMemberAgain(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	opened, err := linda.NewBroker(server.URL + "&mode=classic&lock=1m")
	require.NoError(t, err)
	defer opened.Close()
	b := opened.(*broker)
	one := func() error {
		require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		jobs, err := b.Fetch(ctx, "q", 1, time.Minute)
		if err != nil {
			return err
		}
		return b.Delete("q", jobs[0])
	}
	require.NoError(t, one())
	source, err := b.source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	m.mu.Lock()
	tenure, member := m.tenure, m.tenure.member
	m.mu.Unlock()
	require.NoError(t, server.Kill())
	_, err = b.Fetch(t.Context(), "q", 1, time.Minute)
	require.Error(t, err, "who waits is told")
	require.NoError(t, server.Restart(t.Context()))
	for range 10 { // the first ones may be told of the past
		if err = one(); err == nil {
			break
		}
	}
	require.NoError(t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.Same(t, tenure, m.tenure)
	assert.Equal(t, member, m.tenure.member)
}

// The group is told of a delivery before a worker gets it. Where that does not
// wait any more, and the process then ends in order, nothing was delivered.
func TestWhatNoWorkerWasGivenDoesNotCount(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	var brokers []*broker
	for _, option := range []string{"", "&create=true"} { // members of their own
		opened, err := linda.NewBroker(server.URL + "&mode=classic" + option)
		require.NoError(t, err)
		defer opened.Close()
		brokers = append(brokers, opened.(*broker))
	}
	b := brokers[0]
	one := func(b *broker) *linda.Job {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		jobs, err := b.Fetch(ctx, "q", 1, time.Minute)
		require.NoError(t, err)
		return jobs[0]
	}
	for range 2 {
		require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	}
	require.NoError(t, b.Delete("q", one(b))) // it is a member
	source, err := b.source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	var c *claim
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		c = m.pick(b, 1)
		return c != nil
	}, 10*time.Second, time.Millisecond)
	left, leave := context.WithCancel(t.Context())
	leave()
	<-c.answers // the group knows
	m.confirm(left, c)
	require.NoError(t, b.Close())
	job := one(brokers[1])
	assert.Equal(t, 1, job.Attempt())
	assert.Zero(t, job.Crashes())
}

func TestWhoAsksForNoJobsLeavesItsPartitionsToOthers(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	var brokers []*broker
	for _, option := range []string{"", "&create=true"} { // members of their own
		opened, err := linda.NewBroker(server.URL + "&mode=classic" + option)
		require.NoError(t, err)
		defer opened.Close()
		brokers = append(brokers, opened.(*broker))
	}
	source, err := brokers[0].source("q")
	require.NoError(t, err)
	m := source.(*seat).m
	m.idle = 500 * time.Millisecond
	for i, b := range []*broker{brokers[0], brokers[1]} {
		require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		jobs, err := b.Fetch(ctx, "q", 1, time.Minute)
		require.NoError(t, err, "broker %d", i)
		require.NoError(t, b.Delete("q", jobs[0]))
	}
	require.NoError(t, brokers[1].Close())
	require.NoError(t, brokers[0].Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	jobs, err := brokers[0].Fetch(ctx, "q", 1, time.Minute) // and comes back
	require.NoError(t, err)
	require.NoError(t, brokers[0].Delete("q", jobs[0]))
}

// A settlement that was confirmed when nobody waited for it any more is done:
// who asks again is told so, and not that the job is lost.
func TestASettlementThatWasConfirmedLateIsDone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{modeShare, modeClassic} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := brokerd.Run(t, brokerd.Kafka)
			opened, err := linda.NewBroker(server.URL + "&mode=" + mode)
			require.NoError(t, err)
			defer opened.Close()
			b := opened.(*broker)
			require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
			jobs, err := b.Fetch(t.Context(), "q", 1, time.Minute)
			require.NoError(t, err)
			require.Len(t, jobs, 1)
			require.NoError(t, server.Pause())
			limited, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err = b.Settle(limited, "q", []linda.Settlement{{Job: jobs[0]}})
			require.ErrorIs(t, linda.EachError(err, 1)[0], linda.ErrUnknown)
			require.NoError(t, server.Resume())
			receipt, err := jobs[0].Receipt(b, "q")
			require.NoError(t, err)
			d := receipt.Token().(*delivery)
			require.Eventually(t, func() bool {
				left, _ := d.origin.left(d)
				return left <= 0
			}, 10*time.Second, 10*time.Millisecond)
			require.NoError(t, b.Delete("q", jobs[0]))
		})
	}
}
