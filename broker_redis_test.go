package linda_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// onRedis runs a test on miniredis and on a real server.
func onRedis(t *testing.T, test func(t *testing.T, url string, c *redis.Client)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		url := "redis://" + miniredis.RunT(t).Addr()
		test(t, url, redisClient(t, url))
	})
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		url := brokerd.Run(t, brokerd.Redis).URL
		test(t, url, redisClient(t, url))
	})
}

func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	c := redis.NewClient(options)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openBroker(t *testing.T, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

// start runs a dispatcher until the test ends, and fails the test if it does
// not stop cleanly.
func start(t *testing.T, s linda.Settings, handlers map[string]linda.HandlerFunc) *linda.Dispatcher {
	t.Helper()
	d, err := linda.New(s)
	require.NoError(t, err)
	for class, h := range handlers {
		d.Handle(class, h)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		assert.NoError(t, d.Close())
	})
	return d
}

func TestRedisBareRPushRunsOnceWithExactArgumentsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		ran := make(chan string, 10)
		start(t, linda.Settings{Queue: "simple", Connection: url}, map[string]linda.HandlerFunc{
			"MyClass": func(_ context.Context, job *linda.Job) error {
				var small int
				var large json.Number
				var text string
				err := job.Payload.Decode(&small, &large, &text)
				ran <- fmt.Sprintf("%d %s %s %v", small, large, text, err)
				return nil
			},
		})
		body := `{"queue":"simple","Payload":{"class":"MyClass","args":[1,9007199254740993,"<&> x"]}}`
		require.NoError(t, c.RPush(t.Context(), "simple", body).Err())
		assert.Equal(t, "1 9007199254740993 <&> x <nil>", <-ran)
		require.Eventually(t, func() bool { return len(c.Keys(t.Context(), "*").Val()) == 0 }, 5*time.Second, 5*time.Millisecond)
		assert.Empty(t, ran)
	})
}

func TestRedisReservesEqualBodiesApartWhereverTheyStand(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		const copies, between = 3, 250 // more than one command of the script holds
		twin := `{"linda":{"id":"twin","n":0},"Payload":{"class":"C"}}`
		for n := range copies * between {
			body := fmt.Sprintf(`{"linda":{"id":"x%d","n":0},"Payload":{"class":"C"}}`, n)
			if n%between == 0 {
				body = twin
			}
			require.NoError(t, c.RPush(t.Context(), "q", body).Err())
		}
		b := openBroker(t, url)
		jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 1000, time.Minute)
		require.NoError(t, err)
		require.Len(t, jobs, copies*between)
		require.EqualValues(t, len(jobs), c.ZCard(t.Context(), "q:reserved").Val())
		for _, job := range jobs {
			require.NoError(t, b.Delete("q", job))
		}
		assert.Empty(t, c.Keys(t.Context(), "*").Val())
	})
}

func TestRedisHandsOutAloneWhatCrashed(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		body := func(id, counts string) string {
			return `{"linda":{"id":"` + id + `",` + counts + `},"Payload":{"class":"C"}}`
		}
		for _, body := range []string{
			body("1", `"n":0`), body("2", `"n":4,"s":4,"f":4`), body("3", `"n":4,"r":"x","s":4`), body("4", `"n":1`),
			body("5", `"n":3,"r":"x","s":2`), body("6", `"n":2,"s":1`), body("7", `"n":0`), body("8", `"n":0`),
		} {
			require.NoError(t, c.RPush(t.Context(), "q", body).Err())
		}
		b := openBroker(t, url)
		for _, want := range []string{"1 2 3", "4", "5", "6", "7 8"} {
			jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 100, time.Minute)
			require.NoError(t, err)
			var got []string
			for _, job := range jobs {
				got = append(got, job.ID)
				require.NoError(t, b.Delete("q", job))
			}
			assert.Equal(t, want, strings.Join(got, " "))
		}
		assert.Empty(t, c.Keys(t.Context(), "*").Val())
	})
}

func TestRedisTellsWhichJobsOfABatchWereNotReserved(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		b := openBroker(t, url)
		var jobs []*linda.Job
		for i := range 9 {
			job := &linda.Job{Payload: linda.Payload{Class: "C"}}
			if i == 5 {
				job.UniqueKey = "u"
			}
			jobs = append(jobs, job)
		}
		require.NoError(t, b.(linda.BatchPusher).PushBatch(t.Context(), "q", jobs))
		jobs, err := b.(linda.Fetcher).Fetch(t.Context(), "q", 9, time.Minute)
		require.NoError(t, err)
		members := c.ZRange(t.Context(), "q:reserved", 0, -1).Val()
		require.Len(t, members, 9)
		lost := []int{1, 4, 6, 8}
		for _, i := range lost {
			require.EqualValues(t, 1, c.ZRem(t.Context(), "q:reserved", members[i]).Val())
		}
		ops := []linda.Op{0, 0, 0, linda.OpRelease, linda.OpBury, 0, 0, 0, 0}
		batch := make([]linda.Settlement, len(jobs))
		for i, job := range jobs {
			batch[i] = linda.Settlement{Job: job, Op: ops[i]}
		}
		for i, err := range linda.EachError(b.(linda.Settler).Settle(t.Context(), "q", batch), len(batch)) {
			if slices.Contains(lost, i) {
				assert.ErrorIs(t, err, linda.ErrLeaseLost, i)
			} else {
				assert.NoError(t, err, i)
			}
		}
		assert.Equal(t, []string{"q"}, c.Keys(t.Context(), "*").Val(), "the released job is all there is")
		assert.EqualValues(t, 1, c.LLen(t.Context(), "q").Val())
	})
}

func TestRedisRunsWhatOlderClientsLeftInTheSortedSets(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		body := func(n int) string {
			return fmt.Sprintf(`{"queue":"q","Payload":{"class":"C","args":[%d]}}`, n)
		}
		past := float64(time.Now().Unix() - 5)
		require.NoError(t, c.ZAdd(t.Context(), "q:delayed", redis.Z{Score: past, Member: body(1)}).Err())
		require.NoError(t, c.ZAdd(t.Context(), "q:reserved", redis.Z{Score: past, Member: body(2)}).Err())
		b := openBroker(t, url)
		b.MigrateExpiredJobs("q")
		got := map[string]bool{}
		for range 2 {
			job, err := b.Pop("q", 60)
			require.NoError(t, err)
			require.NotNil(t, job)
			got[string(job.Body())] = true
			require.NoError(t, b.Delete("q", job))
		}
		assert.Equal(t, map[string]bool{body(1): true, body(2): true}, got)
		assert.Empty(t, c.Keys(t.Context(), "*").Val())
	})
}

func TestRedisKeepsTheOwnersLayout(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		b := openBroker(t, url)
		job := &linda.Job{Payload: linda.Payload{Class: "C", Args: []any{1}}}
		require.NoError(t, b.Push(job, "q"))
		require.NoError(t, b.Push(job, "q"))
		require.NoError(t, b.Later(60, job, "q"))
		popped, err := b.Pop("q", 60)
		require.NoError(t, err)
		require.NotNil(t, popped)
		assert.EqualValues(t, 1, c.LLen(t.Context(), "q").Val())
		assert.EqualValues(t, 1, c.ZCard(t.Context(), "q:delayed").Val())
		reserved := c.ZRangeWithScores(t.Context(), "q:reserved", 0, -1).Val()
		require.Len(t, reserved, 1)
		assert.InDelta(t, float64(time.Now().Unix()+60), reserved[0].Score, 5)
		var old struct {
			Queue   string `json:"queue"`
			Payload linda.Payload
		}
		require.NoError(t, json.Unmarshal([]byte(reserved[0].Member.(string)), &old), "an older client reads it")
		assert.Equal(t, "C", old.Payload.Class)
	})
}

func TestRedisGoesByTheClockOfTheServer(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	url := "redis://" + m.Addr()
	b := openBroker(t, url)
	m.SetTime(time.Now().Add(-time.Hour)) // the client is an hour ahead
	require.NoError(t, b.Later(10, &linda.Job{Payload: linda.Payload{Class: "C"}}, "q"))
	job, err := b.Pop("q", 10)
	require.NoError(t, err)
	require.Nil(t, job, "10 s have not passed")
	m.SetTime(time.Now().Add(-time.Hour + 11*time.Second))
	job, err = b.Pop("q", 10)
	require.NoError(t, err)
	require.NotNil(t, job)
	m.SetTime(time.Now().Add(-time.Hour + 22*time.Second))
	again, err := b.Pop("q", 10)
	require.NoError(t, err)
	require.NotNil(t, again, "the reservation has ended")
	assert.ErrorIs(t, b.Delete("q", job), linda.ErrLeaseLost)
	assert.NoError(t, b.Delete("q", again))
}

func TestRedisScriptFlushGoesUnnoticed(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		b := openBroker(t, url)
		for i := range 20 {
			require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C", Args: []any{i}}}, "q"))
			require.NoError(t, c.ScriptFlush(t.Context()).Err())
			job, err := b.Pop("q", 60)
			require.NoError(t, err)
			require.NotNil(t, job)
			require.NoError(t, c.ScriptFlush(t.Context()).Err())
			require.NoError(t, b.Delete("q", job))
		}
	})
}

func TestRedisKeyOfAnotherTypeIsAnErrorAndChangesNothing(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		b := openBroker(t, url)
		require.NoError(t, c.Set(t.Context(), "q", "not a list", 0).Err())
		require.NoError(t, c.ZAdd(t.Context(), "q:delayed", redis.Z{Score: 1, Member: "{}"}).Err())
		_, err := b.Pop("q", 60)
		assert.ErrorContains(t, err, "WRONGTYPE")
		assert.ErrorContains(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "q"), "WRONGTYPE")
		assert.NotErrorIs(t, err, linda.ErrUnknown, "the server has said no")
		assert.EqualValues(t, 1, c.ZCard(t.Context(), "q:delayed").Val())
	})
}

func TestRedisThatIsFullTakesNoJobsButGivesThem(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	c := redisClient(t, url)
	b := openBroker(t, url)
	job := &linda.Job{Payload: linda.Payload{Class: "C"}}
	require.NoError(t, b.Push(job, "q"))
	require.NoError(t, b.Later(1, job, "q"))
	require.NoError(t, c.ConfigSet(t.Context(), "maxmemory", "1").Err())
	err := b.Push(job, "q")
	assert.ErrorContains(t, err, "OOM")
	assert.NotErrorIs(t, err, linda.ErrUnknown)
	assert.ErrorContains(t, b.Later(1, job, "q"), "OOM")

	first, err := b.Pop("q", 1)
	require.NoError(t, err)
	require.NotNil(t, first, "it was ready")
	time.Sleep(1100 * time.Millisecond)
	for _, why := range []string{"its delay has ended", "its reservation has ended"} {
		popped, err := b.Pop("q", 60)
		require.NoError(t, err)
		require.NotNil(t, popped, why)
		require.NoError(t, b.ReleaseWithDelay("q", popped, 60))
	}
	assert.EqualValues(t, 2, c.ZCard(t.Context(), "q:delayed").Val())
}

func TestRedisIdleQueueCostsAtMostTwoCommandsASecond(t *testing.T) {
	t.Parallel()
	url := brokerd.Run(t, brokerd.Redis).URL
	c := redisClient(t, url)
	start(t, linda.Settings{Queue: "q", Connection: url}, nil)
	commands := func() int {
		stats := c.Info(t.Context(), "stats").Val()
		_, rest, _ := strings.Cut(stats, "total_commands_processed:")
		line, _, _ := strings.Cut(rest, "\r\n")
		n, err := strconv.Atoi(line)
		require.NoError(t, err)
		return n
	}
	time.Sleep(500 * time.Millisecond)
	before, since := commands(), time.Now()
	time.Sleep(6 * time.Second)
	idle := commands() - before - 1 // INFO itself
	assert.LessOrEqual(t, float64(idle), 2*time.Since(since).Seconds()+2)
	t.Logf("%d commands in %v", idle, time.Since(since))
}

func TestRedisCallsReturnThoughTheServerHangs(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis)
	d, err := linda.New(linda.Settings{Queue: "q", Connection: server.URL})
	require.NoError(t, err)
	defer func() { assert.NoError(t, d.Close()) }()
	job := &linda.Job{Payload: linda.Payload{Class: "C"}}
	require.NoError(t, d.Push(t.Context(), job))
	popped, err := d.Broker().Pop("q", 60)
	require.NoError(t, err)
	require.NoError(t, server.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	sent := time.Now()
	err = d.Push(ctx, job)
	assert.ErrorIs(t, err, linda.ErrUnknown)
	assert.Less(t, time.Since(sent), 2*time.Second)
	assert.ErrorIs(t, d.Broker().Delete("q", popped), linda.ErrUnknown)
	assert.Less(t, time.Since(sent), 8*time.Second)
	require.NoError(t, server.Resume())
	assert.Eventually(t, func() bool { return d.Broker().Delete("q", popped) == nil }, 5*time.Second, 10*time.Millisecond,
		"the earlier try was carried out, or this one is")
}

func TestRedisJobsSurviveTheServer(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.Redis, brokerd.Args("--appendfsync", "always"))
	ran := make(chan string, 1000)
	d := start(t, linda.Settings{Queue: "q", Connection: server.URL, Timeout: 4, Concurrency: 4}, map[string]linda.HandlerFunc{
		"C": func(_ context.Context, job *linda.Job) error {
			time.Sleep(5 * time.Millisecond)
			ran <- job.ID
			return nil
		},
	})
	want := map[string]bool{}
	for range 200 {
		job := &linda.Job{ID: linda.NewID(), Payload: linda.Payload{Class: "C"}}
		require.NoError(t, d.Push(t.Context(), job))
		want[job.ID] = true
	}
	require.NoError(t, server.Kill())
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, server.Restart(t.Context()))
	require.Eventually(t, func() bool {
		in, _ := linda.As[linda.Inspector](d.Broker())
		s, err := in.Stats(t.Context(), "q")
		return err == nil && s == linda.Stats{}
	}, 20*time.Second, 20*time.Millisecond)
	got := map[string]int{}
	for len(ran) > 0 {
		got[<-ran]++
	}
	assert.Len(t, got, len(want), "none is lost")
	for id, n := range got {
		assert.True(t, want[id])
		assert.Equal(t, 1, n, "the server was back within the lease, so none ran twice")
	}
}

func TestRedisURLFaultsAreToldWithoutThePassword(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"unknown option":   "redis://user:s3cr3t@localhost:6379/0?flavour=sweet",
		"database":         "redis://user:s3cr3t@localhost:6379/first",
		"port":             "redis://user:s3cr3t@localhost:s3cr3t/0",
		"option's value":   "redis://user:s3cr3t@localhost:6379/0?pool_size=s3cr3t",
		"password in path": "redis://localhost:6379/s3cr3t",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := linda.NewBroker(url)
			require.ErrorIs(t, err, linda.ErrBadURL)
			assert.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "s3cr3t")
		})
	}
}

func TestRedisThatIsNotThereIsToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := linda.NewBroker("redis://user:s3cr3t@127.0.0.1:1/")
	require.Error(t, err)
	assert.ErrorContains(t, err, "127.0.0.1:1")
	assert.NotContains(t, err.Error(), "s3cr3t")
}

func TestRedisConforms(t *testing.T) {
	t.Parallel()
	onRedis(t, func(t *testing.T, url string, c *redis.Client) {
		redisConforms(t, c, func() (linda.Broker, error) { return linda.NewBroker(url) })
	})
}

// redisKeys lists the keys of a queue, on every master.
func redisKeys(t testing.TB, c redis.UniversalClient, queue string) []string {
	cluster, ok := c.(*redis.ClusterClient)
	if !ok {
		return c.Keys(context.Background(), "*"+queue+"*").Val()
	}
	var mu sync.Mutex
	var keys []string
	assert.NoError(t, cluster.ForEachMaster(context.Background(), func(ctx context.Context, c *redis.Client) error {
		found, err := c.Keys(ctx, "*"+queue+"*").Result()
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, found...)
		return err
	}))
	return keys
}
