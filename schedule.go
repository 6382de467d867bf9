package linda

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// MissedPolicy says what becomes of ticks that came while nobody could push
// them: no process was running, or the broker did not answer.
type MissedPolicy int

// What becomes of missed ticks.
const (
	// MissedOnce pushes the latest of them, however late, and forgets the
	// others. It is the default: the nightly report that a deployment fell
	// upon is made late rather than not at all, and a schedule of every second
	// does not bring down the workers after a quiet weekend.
	MissedOnce MissedPolicy = iota
	// MissedSkip forgets them, but for the latest if it is less than a minute
	// late: so long a restart may take.
	MissedSkip
	// MissedAll pushes every one, the oldest first, however many there are.
	MissedAll
)

// missedAfter is how late a tick may be under MissedSkip.
const missedAfter = time.Minute

// ScheduleOption is an option of a schedule.
type ScheduleOption func(*schedule)

// Missed sets what becomes of missed ticks; the default is MissedOnce.
func Missed(policy MissedPolicy) ScheduleOption { return func(s *schedule) { s.missed = policy } }

// InLocation sets the time zone of a spec that names none; the default is UTC.
// With time.Local, processes on machines with different settings would
// disagree about the ticks.
func InLocation(zone *time.Location) ScheduleOption { return func(s *schedule) { s.zone = zone } }

// Schedule has a job pushed again and again while Run works, at the times that
// spec tells. However many processes have registered the schedule, each tick
// is pushed once, by one of them, never early by the broker's clock; Job.Tick
// tells a handler which. Ticks that nobody could push are subject to [Missed].
// The schedule begins when it first runs, and goes on where it stopped when all
// processes are restarted.
//
// A spec is one of cron, of five fields or six with seconds in front
// ("30 2 * * *", "*/10 * * * * MON-FRI"), or @hourly, @daily, @weekly, @monthly,
// @yearly, or "@every 90s": at the multiples of the period since 1970, UTC.
// "CRON_TZ=Europe/Berlin 30 2 * * *" names a time zone. When a clock is set
// forward, what falls into the hour that is skipped ticks at that moment; when
// it is set back, what falls into the hour that comes twice ticks the first
// time. Specs whose hour is * tick as the clock shows it instead: not in the
// hour that is skipped, and again in the hour that comes twice.
//
// The job is as it is now, with an id for each tick; it cannot have a Delay.
// With a UniqueKey, a tick that comes while the job of an earlier one is not
// done adds none. The job goes to its Queue, or Settings.Queue. The name is one
// that CheckName takes; what the broker remembers goes by it, so it must stay
// the same for the schedule to go on, and two schedules of a queue cannot share
// it. A Run that is under way keeps the schedules it started with.
//
// The error wraps ErrBadName, ErrBadSpec, ErrBadJob or ErrTooLarge, or
// errors.ErrUnsupported where the broker is no [Ticker]; Run returns that where
// the broker is opened later.
func (d *Dispatcher) Schedule(name, spec string, job *Job, options ...ScheduleOption) error {
	s, err := newSchedule(name, spec, job, options)
	if err != nil {
		return fmt.Errorf("linda: schedule %.64q: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(d.schedules, func(other *schedule) bool { return other.name == name }) {
		return fmt.Errorf("linda: schedule %s: %w: it is there already", name, ErrBadName)
	}
	if d.backend != nil && d.backend.ticker == nil {
		return errNoTicker
	}
	d.schedules = append(d.schedules, s)
	return nil
}

var errNoTicker = fmt.Errorf("linda: this broker has no schedules: %w", errors.ErrUnsupported)

// Schedule has a job with this argument pushed at the times that spec tells:
// see [Dispatcher.Schedule].
func (c Class[T]) Schedule(d *Dispatcher, name, spec string, arg T, options ...ScheduleOption) error {
	return d.Schedule(name, spec, c.Job(arg), options...)
}

// tickHeader holds the tick of a job in RFC 3339.
const tickHeader = "linda-tick"

// Tick returns the tick that a schedule pushed the job for, in UTC. It is zero
// for a job that was pushed otherwise.
func (j *Job) Tick() time.Time {
	t, err := time.Parse(time.RFC3339Nano, j.Headers[tickHeader])
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// schedule is a schedule as it was registered.
type schedule struct {
	name   string
	table  timetable
	missed MissedPolicy
	zone   *time.Location
	job    Job
}

func newSchedule(name, spec string, job *Job, options []ScheduleOption) (*schedule, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if job == nil {
		return nil, fmt.Errorf("%w: nil", ErrBadJob)
	}
	s := &schedule{name: name, zone: time.UTC}
	for _, set := range options {
		set(s)
	}
	switch {
	case s.missed < MissedOnce || s.missed > MissedAll:
		return nil, fmt.Errorf("%w: policy %d for missed ticks", ErrBadSpec, s.missed)
	case s.zone == nil:
		return nil, fmt.Errorf("%w: no location", ErrBadSpec)
	case job.Delay > 0:
		return nil, fmt.Errorf("%w: the job of a schedule cannot have a delay", ErrBadJob)
	}
	args, err := job.Payload.appendArgs(nil)
	if err != nil {
		return nil, err
	}
	s.job = Job{
		Queue: job.Queue, Payload: Payload{Class: job.Payload.Class, raw: string(args)},
		MaxAttempts: job.MaxAttempts, TimeLimit: job.TimeLimit,
		UniqueKey: job.UniqueKey, UniqueTTL: job.UniqueTTL, Headers: maps.Clone(job.Headers),
	}
	if s.table, err = parseSpec(spec, s.zone); err != nil {
		return nil, err
	}
	_, err = Encode(s.at(time.Now()).Job, job.Queue)
	return s, err
}

// at returns a tick of the schedule. Its job's id is the same whoever pushes
// it.
func (s *schedule) at(at time.Time) Tick {
	text := at.UTC().Format(time.RFC3339Nano)
	job := s.job
	job.ID = s.name + "@" + text
	job.Headers = make(map[string]string, len(s.job.Headers)+1)
	maps.Copy(job.Headers, s.job.Headers)
	job.Headers[tickHeader] = text
	return Tick{Schedule: s.name, Spec: s.table.text, At: at, Job: &job}
}

// dueMost is how many missed ticks of a schedule are pushed at once.
const dueMost = 100

// due returns the ticks to push, of those that have come since the last one,
// and the last one that is dealt with then.
func (s *schedule) due(last, now time.Time) (ticks []time.Time, upTo time.Time) {
	if s.missed == MissedAll {
		for tick := s.table.next(last); len(ticks) < dueMost && !tick.IsZero() && !tick.After(now); tick = s.table.next(tick) {
			ticks, last = append(ticks, tick), tick
		}
		return ticks, last
	}
	latest := s.table.latest(last, now)
	switch {
	case latest.IsZero():
		return nil, last
	case s.missed == MissedSkip && now.Sub(latest) > missedAfter:
		return nil, latest
	default:
		return []time.Time{latest}, latest
	}
}
