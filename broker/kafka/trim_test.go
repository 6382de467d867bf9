package kafka_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// rawClient is another program's.
func rawClient(t testing.TB, server *brokerd.Server) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(server.Addr))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// begin returns the first offset that the server still has of a topic's first
// partition.
func begin(t testing.TB, c *kgo.Client, topic string) int64 {
	t.Helper()
	request := kmsg.NewPtrListOffsetsRequest()
	on := kmsg.NewListOffsetsRequestTopic()
	on.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = -2
	on.Partitions = append(on.Partitions, p)
	request.Topics = append(request.Topics, on)
	answer, err := request.RequestWith(t.Context(), c)
	require.NoError(t, err)
	require.Zero(t, answer.Topics[0].Partitions[0].ErrorCode)
	return answer.Topics[0].Partitions[0].Offset
}

func becomes(t testing.TB, want int64, what func() int64) {
	t.Helper()
	require.Eventually(t, func() bool { return what() == want }, 20*time.Second, 50*time.Millisecond, "%d, not %d", what(), want)
}

// fetchAll reserves n jobs, in the order of their offsets.
func fetchAll(t testing.TB, b linda.Broker, queue string, n int) (jobs []*linda.Job) {
	t.Helper()
	for len(jobs) < n {
		more, err := b.(linda.Fetcher).Fetch(t.Context(), queue, n-len(jobs), time.Minute)
		require.NoError(t, err)
		jobs = append(jobs, more...)
	}
	return jobs
}

func pushMany(t testing.TB, b linda.Broker, queue string, n int) {
	t.Helper()
	jobs := make([]*linda.Job, n)
	for i := range jobs {
		jobs[i] = newJob(fmt.Sprint("job-", i))
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), queue, jobs))
}

func TestWhatIsDoneIsTrimmedAndWhatIsNotIsKept(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	raw := rawClient(t, server)
	b := open(t, server.URL+"&trim_every=1s")
	defer b.Close()
	pushMany(t, b, "q", 100)
	jobs := fetchAll(t, b, "q", 100)
	unfinished := jobs[10]
	require.NoError(t, deleteAll(t.Context(), b, "q", append(jobs[:10:10], jobs[11:]...)))
	oneMore(t, b, "q")
	becomes(t, 10, func() int64 { return begin(t, raw, "q") })

	// Another share group of linda's has not seen these.
	other := open(t, server.URL+"&trim_every=1s&group=other")
	defer other.Close()
	theirs := fetchAll(t, other, "q", 91)
	require.Equal(t, "job-10", theirs[0].Payload.Class)
	require.NoError(t, b.Delete("q", unfinished))
	oneMore(t, b, "q")
	require.NoError(t, deleteAll(t.Context(), other, "q", theirs[:40]))
	require.NoError(t, other.Delete("q", theirs[40]))
	becomes(t, 50, func() int64 { return begin(t, raw, "q") })
	require.NoError(t, deleteAll(t.Context(), other, "q", theirs[41:90]))
	require.NoError(t, other.Delete("q", theirs[90]))
	becomes(t, 100, func() int64 { return begin(t, raw, "q") })
}

// oneMore is a job by whose end the server stores where the share group is.
func oneMore(t testing.TB, b linda.Broker, queue string) {
	t.Helper()
	pushMany(t, b, queue, 1)
	require.NoError(t, deleteAll(t.Context(), b, queue, fetchAll(t, b, queue, 1)))
}

func TestATopicOfSomebodyElseIsTrimmedOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	raw := rawClient(t, server)
	require.NoError(t, createTopic(t, raw, "theirs"))
	b := open(t, server.URL+"&trim_every=1s")
	for round := range 3 {
		for _, queue := range []string{"theirs", "ours"} {
			pushMany(t, b, queue, 10)
			require.NoError(t, deleteAll(t.Context(), b, queue, fetchAll(t, b, queue, 10)))
			oneMore(t, b, queue)
		}
		becomes(t, int64(11*round+10), func() int64 { return begin(t, raw, "ours") })
	}
	assert.Zero(t, begin(t, raw, "theirs"))
	require.NoError(t, b.Close())

	b = open(t, server.URL+"&trim_every=1s&trim=off")
	oneMore(t, b, "ours")
	oneMore(t, b, "ours")
	require.NoError(t, b.Close())

	b = open(t, server.URL+"&trim_every=1s&trim=all")
	defer b.Close()
	oneMore(t, b, "theirs")
	becomes(t, 33, func() int64 { return begin(t, raw, "theirs") })
	assert.EqualValues(t, 32, begin(t, raw, "ours"), "trim=off")
}

func TestDelaysThatHaveBeenMovedAreTrimmed(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	raw := rawClient(t, server)
	b := open(t, server.URL+"&trim_every=1s")
	defer b.Close()
	job := newJob("soon")
	job.Delay = 40 * time.Millisecond
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", []*linda.Job{job}))
	require.NoError(t, b.Later(3600, newJob("late"), "q"))
	fetchAll(t, b, "q", 1)
	becomes(t, 1, func() int64 { return begin(t, raw, "_linda.delay.0") })
	assert.Zero(t, begin(t, raw, "_linda.delay.8"), "an hour is not over")
}
