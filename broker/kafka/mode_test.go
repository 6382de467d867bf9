package kafka_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// modeOf tells by its notes in which mode a broker is.
func modeOf(b linda.Broker) string {
	if strings.HasPrefix(b.(linda.Guarantor).Guarantees().Notes[0], "classic mode") {
		return "classic"
	}
	return "share"
}

func TestTheModeIsShareWhereTheServerCanUnlessTheURLSaysOtherwise(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	for option, want := range map[string]string{"": "share", "&mode=auto": "share", "&mode=share": "share", "&mode=classic": "classic"} {
		b := open(t, server.URL+option)
		assert.Equal(t, want, modeOf(b), option)
		require.NoError(t, b.Close())
	}
}

// The servers of these versions are in this process, and know no more than their
// versions did.
func TestAnOlderClusterIsServedInClassicMode(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]*kversion.Versions{
		"2.5": kversion.V2_5_0(), "2.8": kversion.V2_8_0(), "3.5": kversion.V3_5_0(), "3.9": kversion.V3_9_0(), "4.1": kversion.V4_1_0(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(version))
			require.NoError(t, err)
			defer cluster.Close()
			url := "kafka://" + cluster.ListenAddrs()[0] + "?partitions=2&replication=1"
			_, err = linda.NewBroker(url + "&mode=share")
			require.ErrorContains(t, err, "Kafka 4.2")
			b := open(t, url)
			defer b.Close()
			require.Equal(t, "classic", modeOf(b))

			for _, class := range []string{"released", "delayed", "deleted"} {
				require.NoError(t, b.Push(newJob(class), "q"))
			}
			require.NoError(t, b.Later(1, newJob("later"), "q"))
			came := make(map[string]int)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for n := 0; n < 6; {
				jobs, err := b.(linda.Fetcher).Fetch(ctx, "q", 10, time.Minute)
				require.NoError(t, err, "%v", came)
				for _, job := range jobs {
					n++
					class := job.Payload.Class
					came[class]++
					switch {
					case class == "released" && job.Attempt() == 1:
						require.NoError(t, b.Release("q", job))
					case class == "delayed" && job.Attempt() == 1:
						require.NoError(t, b.ReleaseWithDelay("q", job, 1))
					default:
						require.NoError(t, b.Delete("q", job))
					}
				}
			}
			assert.Equal(t, map[string]int{"released": 2, "delayed": 2, "deleted": 1, "later": 1}, came)
			none, err := b.Pop("q", 60)
			require.NoError(t, err)
			assert.Nil(t, none)
		})
	}
}

// Each mode has a group of its own, which must neither begin anew nor work beside
// the other.
func TestAQueueGoesFromOneModeToTheOtherAndBack(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Kafka)
	warmUp(t, server.URL)
	const each = 20
	before := ""
	for round, mode := range []string{"share", "classic", "share", "classic", "classic", "share"} {
		b := open(t, server.URL+"&mode="+mode)
		want := make(map[string]bool)
		for i := range each {
			class := fmt.Sprint(mode, "-", round, "-", i)
			want[class] = true
			require.NoError(t, b.Push(newJob(class), "q"))
		}
		came := drain(t, b, "q", want, 30*time.Second)
		for class := range came {
			// The server tells where the first job is that a share group has not
			// finished, and may be late with that.
			late := before == "share" && mode == "classic" && strings.HasPrefix(class, fmt.Sprint("share-", round-1, "-"))
			assert.True(t, want[class] || late, "%s came again", class)
		}
		before = mode

		other := map[string]string{"share": "classic", "classic": "share"}[mode]
		intruder := open(t, server.URL+"&mode="+other)
		_, err := intruder.Pop("q", 60)
		require.ErrorContains(t, err, "other processes have this queue in "+mode+" mode")
		require.NoError(t, intruder.Close())
		require.NoError(t, b.Close())
	}
}

func TestInClassicModeJobsWithoutAKeyGoToAllPartitions(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V3_9_0()))
	require.NoError(t, err)
	defer cluster.Close()
	b := open(t, "kafka://"+cluster.ListenAddrs()[0]+"?partitions=4&replication=1")
	defer b.Close()
	keyed := make(map[int32]bool)
	jobs := make([]*linda.Job, 200)
	for i := range jobs {
		jobs[i] = newJob("free")
	}
	require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
	for range 20 {
		require.NoError(t, b.Push(newJob("free"), "q"))
		job := newJob("keyed")
		job.Key = "customer"
		require.NoError(t, b.Push(job, "q"))
	}
	raw, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("q"))
	require.NoError(t, err)
	defer raw.Close()
	free := make(map[int32]int)
	for n := 0; n < 240; {
		fetches := raw.PollFetches(t.Context())
		require.NoError(t, fetches.Err())
		for _, r := range fetches.Records() {
			n++
			if r.Key != nil {
				keyed[r.Partition] = true
			} else {
				free[r.Partition]++
			}
		}
	}
	assert.Len(t, keyed, 1)
	require.Len(t, free, 4)
	for partition, n := range free {
		assert.InDelta(t, 55, n, 25, "partition %d", partition)
	}
}
