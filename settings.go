package linda

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// AtMostOnce as Settings.Timeout makes a job leave the broker when it is
// popped: it runs once or, if the process dies, not at all, and is not retried.
const AtMostOnce = -1

// Settings configure a [Dispatcher]. The zero value of each field means its
// default.
type Settings struct {
	// Queue is the queue to work on, and the one that jobs without a queue
	// are pushed to. Defaults to the first of Queues, or "default".
	Queue string
	// Queues are the queues to work on where there are several, each with its
	// share of the workers' turns. Defaults to Queue alone.
	Queues []Share
	// Strict serves Queues in their order: while one of them has jobs, none of
	// a later one is fetched. There are no weights then.
	Strict bool
	// Connection is the URL of the broker. Defaults to
	// "redis://localhost:6379/".
	Connection string
	// Broker is used instead of Connection where it is set; it stays the
	// caller's to close.
	Broker Broker
	// Timeout is the lease of a reservation in seconds: how long after the
	// crash of a worker its jobs run again. It does not limit handlers, whose
	// reservations are prolonged while they run. Defaults to 60.
	Timeout int64
	// IntervalFloat is how many seconds pass between looks at an empty queue,
	// on brokers that cannot wait for jobs. Defaults to 1.
	IntervalFloat float64
	// Concurrency is how many jobs run at the same time. Defaults to 10.
	Concurrency int
	// MaxAttempts is after how many failures a job is dead, unless it says so
	// itself. Defaults to 25.
	MaxAttempts int
	// MaxCrashes is after how many crashes in a row of the process that ran it
	// a job is dead. Defaults to 3.
	MaxCrashes int
	// Backoff returns how long a job waits after so many failures (1 or more).
	// Defaults to [ExponentialBackoff].
	Backoff func(failures int) time.Duration
	// TimeLimit is how long one attempt may run before its context ends,
	// unless the job says so itself. Defaults to no limit.
	TimeLimit time.Duration
	// Grace is how long Run waits for running handlers once it is told to
	// stop, before it ends their contexts. Defaults to 25 s.
	Grace time.Duration
	// Logger receives what linda has to say. Defaults to slog.Default().
	Logger *slog.Logger
	// OnEvent, if set, is called for each end of a job's run, one at a time
	// and before the next jobs are settled: it must not block.
	OnEvent func(Event)
}

// Share is one of several queues that a Dispatcher works on. While all have
// jobs, each gets turns in proportion to its weight, so none starves; a queue
// without jobs leaves its turns to the others.
type Share struct {
	Queue  string
	Weight int // Defaults to 1.
}

// withDefaults returns the settings with every zero field filled in.
func (s Settings) withDefaults() Settings {
	if len(s.Queues) > 0 {
		setDefault(&s.Queue, s.Queues[0].Queue)
	}
	setDefault(&s.Queue, "default")
	setDefault(&s.Connection, "redis://localhost:6379/")
	setDefault(&s.Timeout, 60)
	setDefault(&s.IntervalFloat, 1)
	setDefault(&s.Concurrency, 10)
	setDefault(&s.MaxAttempts, 25)
	setDefault(&s.MaxCrashes, 3)
	setDefault(&s.Grace, 25*time.Second)
	if s.Backoff == nil {
		s.Backoff = ExponentialBackoff
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	return s
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports every fault at once.
func (s Settings) validate() error {
	var faults []error
	check := func(ok bool, field, rule string, value any) {
		if !ok {
			faults = append(faults, fmt.Errorf("linda: Settings.%s: %s, not %v", field, rule, value))
		}
	}
	if err := CheckName(s.Queue); err != nil {
		faults = append(faults, fmt.Errorf("linda: Settings.Queue: %w", err))
	}
	faults = append(faults, s.queueFaults()...)
	const longest = 365 * 24 * 3600
	check(s.Timeout == AtMostOnce || 1 <= s.Timeout && s.Timeout <= longest, "Timeout", "1 to 31536000 seconds or AtMostOnce", s.Timeout)
	check(0.001 <= s.IntervalFloat && s.IntervalFloat <= longest, "IntervalFloat", "0.001 to 31536000 seconds", s.IntervalFloat)
	check(1 <= s.Concurrency && s.Concurrency <= 100_000, "Concurrency", "1 to 100000", s.Concurrency)
	check(s.MaxAttempts >= 1, "MaxAttempts", "1 or more", s.MaxAttempts)
	check(s.MaxCrashes >= 1, "MaxCrashes", "1 or more", s.MaxCrashes)
	check(s.TimeLimit >= 0, "TimeLimit", "0 or more", s.TimeLimit)
	check(s.Grace >= 0, "Grace", "0 or more", s.Grace)
	return errors.Join(faults...)
}

// shares are the queues to work on.
func (s Settings) shares() []Share {
	if len(s.Queues) == 0 {
		return []Share{{Queue: s.Queue}}
	}
	return s.Queues
}

// queueFaults reports what is wrong with Queues.
func (s Settings) queueFaults() []error {
	var faults []error
	fault := func(i int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("linda: Settings.Queues[%d]: "+format, append([]any{i}, args...)...))
	}
	seen := make(map[string]bool, len(s.Queues))
	for i, share := range s.Queues {
		if err := CheckName(share.Queue); err != nil {
			fault(i, "%w", err)
		} else if seen[share.Queue] {
			fault(i, "queue %s is listed twice", share.Queue)
		}
		seen[share.Queue] = true
		if share.Weight < 0 || share.Weight > 1_000_000 {
			fault(i, "Weight: 0 to 1000000, not %d", share.Weight)
		} else if s.Strict && share.Weight != 0 {
			fault(i, "Weight: none where Strict is set, not %d", share.Weight)
		}
	}
	return faults
}

// lease is the length of a reservation; 0 means at most once.
func (s Settings) lease() time.Duration {
	if s.Timeout == AtMostOnce {
		return 0
	}
	return time.Duration(s.Timeout) * time.Second
}

func (s Settings) interval() time.Duration {
	return time.Duration(s.IntervalFloat * float64(time.Second))
}

// ExponentialBackoff waits 1 s after the first failure and twice as long after
// each further one, up to an hour, give or take a quarter so that jobs which
// failed together do not come back together. 25 attempts take about 13 hours.
func ExponentialBackoff(failures int) time.Duration {
	wait := time.Hour
	if failures <= 12 {
		wait = time.Second << (max(failures, 1) - 1)
	}
	return time.Duration(float64(wait) * (0.75 + rand.Float64()/2))
}
