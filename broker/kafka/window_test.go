package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestAJobThatIsHeldHoldsUpItsPartitionAtTheEndOfTheWindow(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	const window = 20
	url := fmt.Sprint(server.URL, classic, "&window=", window)
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	for i := range 3 * window {
		require.NoError(t, b.Push(newJob(fmt.Sprint("job-", i)), "q"))
	}
	fetch := func() (jobs []*linda.Job) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		jobs, err := b.(linda.Fetcher).Fetch(ctx, "q", 3*window, time.Minute)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		return jobs
	}
	held := fetch()
	require.NotEmpty(t, held)
	got := slices.Clone(held)
	for again := fetch(); len(again) > 0; again = fetch() {
		got = append(got, again...)
	}
	require.Len(t, got, window)
	for _, job := range got[1:] {
		require.NoError(t, b.Delete("q", job))
	}
	require.Empty(t, fetch(), "the first is still held")
	require.NoError(t, b.Delete("q", got[0]))
	for len(got) < 2*window {
		more := fetch()
		require.NotEmpty(t, more)
		got = append(got, more...)
	}
	for i, job := range got {
		assert.Equal(t, fmt.Sprint("job-", i), job.Payload.Class, "a partition's jobs come in their order")
	}
}

// F17: the group can also put a member out whose process lives.
func TestAMemberThatWasPutOutOfTheGroupSettlesNothingAndJoinsAnew(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	url := server.URL + classic
	warmUp(t, url)
	b := open(t, url)
	defer b.Close()
	for i := range 5 {
		require.NoError(t, b.Push(newJob(fmt.Sprint("job-", i)), "q"))
	}
	var held []*linda.Job
	for len(held) < 5 {
		jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 5, time.Minute)
		require.NoError(t, err)
		held = append(held, jobs...)
	}
	require.NoError(t, b.Delete("q", held[2]))
	raw, err := kgo.NewClient(kgo.SeedBrokers(server.Addr))
	require.NoError(t, err)
	defer raw.Close()
	putOut(t, raw, "linda.classic:q")
	for _, i := range []int{0, 1, 3, 4} {
		require.ErrorIs(t, b.Delete("q", held[i]), linda.ErrLeaseLost)
		require.ErrorIs(t, b.(linda.Toucher).Touch(t.Context(), "q", time.Minute, held[i:i+1]), linda.ErrNotReserved)
	}
	classes := make(map[string]bool)
	for len(classes) < 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		jobs, err := b.(linda.Fetcher).Fetch(ctx, "q", 5, time.Minute)
		cancel()
		if err != nil { // what ended the membership is told once
			require.ErrorContains(t, err, "UNKNOWN_MEMBER_ID")
			continue
		}
		for _, job := range jobs {
			assert.Equal(t, 1, job.Crashes())
			assert.False(t, classes[job.Payload.Class])
			classes[job.Payload.Class] = true
			require.NoError(t, b.Delete("q", job))
		}
	}
	assert.NotContains(t, classes, "job-2")
}

// putOut removes all members of a group.
func putOut(t *testing.T, client *kgo.Client, group string) {
	t.Helper()
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = append(describe.Groups, group)
	described, err := describe.RequestWith(t.Context(), client)
	require.NoError(t, err)
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	for _, m := range described.Groups[0].Members {
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		leave.Members = append(leave.Members, member)
	}
	require.Len(t, leave.Members, 1)
	left, err := leave.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.Zero(t, left.ErrorCode)
	require.Zero(t, left.Members[0].ErrorCode)
}

// A record whose job is written anew must not be forgotten, nor its job doubled,
// when the call that found it ends meanwhile.
func TestAFetchThatEndsEarlyNeitherLosesNorDoublesAJobThatComesAgain(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	for _, mode := range []string{"classic", "share"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := open(t, server.URL+"&mode="+mode)
			defer b.Close()
			queue, want := mode, make(map[string]bool)
			for i := range 50 {
				class := fmt.Sprint("job-", i)
				want[class] = true
				require.NoError(t, b.Push(newJob(class), queue))
			}
			came := make(map[string]int)
			fetch := func(limit, lease time.Duration) (jobs []*linda.Job) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				jobs, _ = b.(linda.Fetcher).Fetch(ctx, queue, 5, lease)
				return jobs
			}
			for held := 0; held < 50; {
				held += len(fetch(10*time.Second, 500*time.Millisecond))
			}
			for begun := time.Now(); time.Since(begun) < 3*time.Second; {
				for _, job := range fetch(3*time.Millisecond, time.Minute) {
					came[job.Payload.Class]++
					require.NoError(t, b.Delete(queue, job))
				}
			}
			for class := range came {
				delete(want, class)
			}
			for class, times := range drain(t, b, queue, want, 60*time.Second) {
				came[class] += times
			}
			for range 3 {
				for _, job := range fetch(300*time.Millisecond, time.Minute) {
					came[job.Payload.Class]++
				}
			}
			for class, times := range came {
				require.Equal(t, 1, times, class)
			}
			require.Len(t, came, 50)
		})
	}
}
