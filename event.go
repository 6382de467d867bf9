package linda

import (
	"context"
	"log/slog"
	"time"
)

// EventKind tells how a delivery of a job ended.
type EventKind string

// The ways a delivery ends.
const (
	EventDone     EventKind = "done"     // the handler succeeded, the job is deleted
	EventRetried  EventKind = "retried"  // it failed and will run again after Delay
	EventSnoozed  EventKind = "snoozed"  // it asked to run again after Delay
	EventDead     EventKind = "dead"     // its attempts are used up, or no attempt can succeed
	EventReleased EventKind = "released" // it was handed back, through no fault of its own
	EventLimited  EventKind = "limited"  // it did not start and was put back for Delay, since a Limit is full
	EventSettled  EventKind = "settled"  // the handler settled the job itself
	EventLost     EventKind = "lost"     // the reservation ended before the job was settled: it runs again
)

// Event tells how one delivery of a job ended, once the broker has confirmed
// it.
type Event struct {
	Kind      EventKind
	Queue     string
	Class, ID string
	Attempt   int
	Took      time.Duration // how long the handler ran
	Delay     time.Duration // of EventRetried, EventSnoozed and EventLimited
	Err       error         // what the handler answered, or why it was not asked; may be nil
}

// level is how much an operator cares.
func (e *Event) level() slog.Level {
	switch e.Kind {
	case EventDone, EventSettled, EventSnoozed, EventLimited:
		return slog.LevelDebug
	case EventDead, EventLost:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// log writes the event to the log.
func (e *Event) log(l *slog.Logger) {
	level := e.level()
	if !l.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("queue", e.Queue), slog.String("class", clip(e.Class)), slog.String("job", e.ID),
		slog.Int("attempt", e.Attempt), slog.Duration("took", e.Took),
	}
	if e.Delay > 0 {
		attrs = append(attrs, slog.Duration("delay", e.Delay))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("err", clip(reasonOf(e.Err))))
	}
	l.LogAttrs(context.Background(), level, "linda: job "+string(e.Kind), attrs...)
}
