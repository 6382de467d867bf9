package linda

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// timetable tells the ticks of a spec. All processes that have the spec agree
// on them: they depend on nothing but the spec and its time zone.
type timetable struct {
	text  string             // the spec with its zone
	every time.Duration      // of "@every d": the ticks are its multiples since 1970; 0: none
	clock *cron.SpecSchedule // what a clock on the wall shows at a tick, as a time in UTC
	zone  *time.Location     // where the clock hangs
}

var cronParser = cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// parseSpec reads a spec, whose zone is the given one unless it names one.
func parseSpec(spec string, zone *time.Location) (timetable, error) {
	bad := func(format string, args ...any) (timetable, error) {
		return timetable{}, fmt.Errorf("%w %.128q: %s", ErrBadSpec, spec, fmt.Sprintf(format, args...))
	}
	fields := strings.Join(strings.Fields(spec), " ")
	if first, rest, _ := strings.Cut(fields, " "); strings.HasPrefix(first, "CRON_TZ=") || strings.HasPrefix(first, "TZ=") {
		_, name, _ := strings.Cut(first, "=")
		var err error
		if zone, err = time.LoadLocation(name); err != nil || name == "" {
			return bad("time zone %.64q is not known here", name)
		}
		fields = rest
	}
	if period, ok := strings.CutPrefix(fields, "@every "); ok {
		every, err := time.ParseDuration(period)
		if err != nil || every < time.Second || every%time.Millisecond != 0 {
			return bad("a period is at least 1s, in whole milliseconds")
		}
		return timetable{text: "@every " + every.String(), every: every}, nil
	}
	for field := range strings.SplitSeq(fields, " ") { // which the parser takes for a list of nothing
		if slices.Contains(strings.Split(field, ","), "") {
			return bad("a list with nothing between two commas")
		}
	}
	parsed, err := cronParser.Parse("TZ=UTC " + fields)
	if err != nil {
		return bad("%v", err)
	}
	clock, ok := parsed.(*cron.SpecSchedule)
	if !ok || clock.Next(time.Now().UTC()).IsZero() {
		return bad("it has no tick within five years")
	}
	return timetable{text: "CRON_TZ=" + zone.String() + " " + fields, clock: clock, zone: zone}, nil
}

// next returns the first tick after t, the zero time if there is none.
//
// Where the hour is *, the ticks are the moments at which the clock on the wall
// matches: none in an hour that is skipped, and two for each in an hour that
// comes twice. All others are once a day. What falls into a skipped hour ticks
// when the clock is set forward, and in a doubled hour the first one counts.
//
// The clock's next match is looked for without a time zone, and then put into
// one, a period between two changes of the offset after the other.
func (tt timetable) next(t time.Time) time.Time {
	if tt.every > 0 {
		ms := tt.every.Milliseconds()
		return time.UnixMilli((t.UnixMilli()/ms + 1) * ms)
	}
	const star = 1 << 63 // the parser's mark of a field that is *
	allHours := tt.clock.Hour&star != 0
	for from, after := t.In(tt.zone), wall(t.In(tt.zone)); ; {
		match := tt.clock.Next(after)
		if match.IsZero() {
			return time.Time{}
		}
		tick := from.Add(match.Sub(wall(from)))
		start, end := from.ZoneBounds()
		switch {
		case end.IsZero() || tick.Before(end):
			if allHours || !repeated(match, start) {
				return tick
			}
			after = match
		case !allHours && match.Before(wall(end)):
			return end
		default:
			from, after = end, wall(end).Add(-time.Second)
		}
	}
}

// wall returns what a clock shows at t, as a time in UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// repeated reports whether the clock that was set at start had shown a time
// before.
func repeated(shown, start time.Time) bool {
	return !start.IsZero() && shown.Before(wall(start.Add(-1)).Add(1))
}

// latest returns the last tick that is after since and not after now, the zero
// time if there is none. It looks at few of them, however many there are.
func (tt timetable) latest(since, now time.Time) time.Time {
	due := func(t time.Time) bool { tick := tt.next(t); return !tick.IsZero() && !tick.After(now) }
	if !due(since) {
		return time.Time{}
	}
	none := now // no tick after it is due
	for none.Sub(since) > time.Millisecond {
		if middle := since.Add(none.Sub(since) / 2); due(middle) {
			since = middle
		} else {
			none = middle
		}
	}
	return tt.next(since)
}
