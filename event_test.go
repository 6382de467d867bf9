package linda

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logged is the line that an event makes.
func logged(t *testing.T, e Event) map[string]any {
	t.Helper()
	var b bytes.Buffer
	e.log(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	var line map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &line), b.String())
	return line
}

func TestEventIsLoggedAtTheLevelAnOperatorCaresAbout(t *testing.T) {
	for kind, level := range map[EventKind]string{
		EventDone: "DEBUG", EventSettled: "DEBUG", EventSnoozed: "DEBUG",
		EventRetried: "INFO", EventReleased: "INFO", EventDead: "WARN", EventLost: "WARN",
	} {
		line := logged(t, Event{Kind: kind})
		assert.Equal(t, level, line["level"], kind)
		assert.Equal(t, "linda: job "+string(kind), line["msg"])
	}
}

func TestEventIsLoggedWithItsKeys(t *testing.T) {
	line := logged(t, Event{Kind: EventRetried, Queue: "q", Class: "C", ID: "x", Attempt: 2, Took: 3, Delay: 4, Err: errors.New("no")})
	delete(line, "time")
	assert.Equal(t, map[string]any{
		"level": "INFO", "msg": "linda: job retried", "queue": "q", "class": "C", "job": "x",
		"attempt": 2.0, "took": 3.0, "delay": 4.0, "err": "no",
	}, line)

	line = logged(t, Event{Kind: EventDone})
	assert.NotContains(t, line, "err")
	assert.NotContains(t, line, "delay")
}

func TestLogLineIsShortAndBearsAnyError(t *testing.T) {
	long := strings.Repeat("x\xff", 10_000)
	line := logged(t, Event{Kind: EventDead, Class: long, Err: errors.New(long)})
	assert.LessOrEqual(t, len(line["class"].(string)), maxReason)
	assert.LessOrEqual(t, len(line["err"].(string)), maxReason)
	assert.Equal(t, "<nil>", logged(t, Event{Kind: EventDead, Err: (*nilError)(nil)})["err"])
}

func TestLogLineCannotBeForged(t *testing.T) {
	var b bytes.Buffer
	e := Event{Kind: EventDead, Class: "C\nlevel=ERROR \x1b[31m", Err: errors.New("a\r\nlevel=ERROR")}
	e.log(slog.New(slog.NewTextHandler(&b, nil)))
	assert.Equal(t, 1, strings.Count(b.String(), "\n"))
	assert.NotContains(t, b.String(), "\r")
	assert.NotContains(t, b.String(), "\x1b")
}

func TestLogOfAJobShowsNoArgument(t *testing.T) {
	const secret = "hunter2"
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d := opened(t, Settings{Logger: log, Queue: "q", Backoff: func(int) time.Duration { return time.Hour }})
	var n struct{ Time time.Time }
	for _, arg := range []any{secret, map[string]string{"time": secret}} {
		err := Payload{Class: "C", Args: []any{arg}}.Decode(&n)
		(&Event{Kind: EventDead, Err: err}).log(d.settings.Logger)
	}
	assert.Equal(t, 2, strings.Count(b.String(), "\n"))
	assert.NotContains(t, b.String(), secret)
}

func TestDisabledLogCostsNothing(t *testing.T) {
	e := Event{Kind: EventDone, Err: errors.New("x")}
	log := slog.New(slog.DiscardHandler)
	assert.Zero(t, testing.AllocsPerRun(100, func() { e.log(log) }))
}
