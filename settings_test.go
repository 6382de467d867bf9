package linda

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestZeroSettingsMeanTheDefaults(t *testing.T) {
	s := Settings{}.withDefaults()
	require.NoError(t, s.validate())
	assert.Equal(t, "default", s.Queue)
	assert.Equal(t, "redis://localhost:6379/", s.Connection)
	assert.EqualValues(t, 60, s.Timeout)
	assert.Equal(t, 1.0, s.IntervalFloat)
	assert.Equal(t, 10, s.Concurrency)
	assert.Equal(t, 25, s.MaxAttempts)
	assert.Equal(t, 3, s.MaxCrashes)
	assert.Equal(t, 25*time.Second, s.Grace)
	assert.Zero(t, s.TimeLimit)
	assert.Same(t, slog.Default(), s.Logger)
	assert.NotNil(t, s.Backoff)
	assert.Nil(t, s.OnEvent)
	assert.Equal(t, time.Minute, s.lease())
	assert.Equal(t, time.Second, s.interval())
}

func TestSettingsThatAreGivenStay(t *testing.T) {
	given := Settings{Queue: "scheduler", Connection: "memory://", Timeout: AtMostOnce, IntervalFloat: 0.25, Concurrency: 1,
		MaxAttempts: 2, MaxCrashes: 1, TimeLimit: time.Second, Grace: time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	s := given.withDefaults()
	require.NoError(t, s.validate())
	assert.NotNil(t, s.Backoff)
	s.Backoff = nil
	assert.Equal(t, given, s)
	assert.Zero(t, s.lease(), "at most once")
	assert.Equal(t, 250*time.Millisecond, s.interval())
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	_, err := New(Settings{Connection: "memory://", Queue: "a b", Timeout: -2, IntervalFloat: math.NaN(), Concurrency: -1,
		MaxAttempts: -1, MaxCrashes: -1, TimeLimit: -1, Grace: -1})
	require.ErrorIs(t, err, ErrBadName)
	faults := strings.Split(err.Error(), "\n")
	assert.Len(t, faults, 8)
	for i, field := range []string{"Queue", "Timeout", "IntervalFloat", "Concurrency", "MaxAttempts", "MaxCrashes", "TimeLimit", "Grace"} {
		assert.True(t, strings.HasPrefix(faults[i], "linda: Settings."+field+": "), faults[i])
	}
}

func TestSettingsOutOfRangeAreRefused(t *testing.T) {
	for i, s := range []Settings{
		{Timeout: math.MinInt64}, {Timeout: math.MaxInt64}, {IntervalFloat: -1}, {IntervalFloat: 1e-9},
		{IntervalFloat: math.Inf(1)}, {Concurrency: 1_000_000}, {Queue: "q:reserved"},
	} {
		assert.Error(t, s.withDefaults().validate(), i)
	}
}

func TestBackoffDoublesUpToAnHourGiveOrTakeAQuarter(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		math.MinInt: time.Second, -1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second,
		12: 2048 * time.Second, 13: time.Hour, 14: time.Hour, 64: time.Hour, 1000: time.Hour, math.MaxInt: time.Hour,
	} {
		t.Run(fmt.Sprint(failures), func(t *testing.T) {
			seen := make(map[time.Duration]bool)
			for range 100 {
				wait := ExponentialBackoff(failures)
				require.GreaterOrEqual(t, wait, want*3/4)
				require.LessOrEqual(t, wait, want*5/4)
				seen[wait] = true
			}
			assert.Greater(t, len(seen), 50, "jobs that failed together do not come back together")
		})
	}
}
