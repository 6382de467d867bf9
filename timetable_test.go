package linda

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the machine may have none
)

func table(t testing.TB, spec string) timetable {
	t.Helper()
	tt, err := parseSpec(spec, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return tt
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// nextOnes returns the ticks after from as a clock in the spec's zone, or UTC,
// shows them.
func nextOnes(t testing.TB, spec, from string, n int) []string {
	t.Helper()
	tt := table(t, spec)
	zone := tt.zone
	if zone == nil {
		zone = time.UTC
	}
	var got []string
	for at := instant(t, from); len(got) < n; {
		if at = tt.next(at); at.IsZero() {
			return append(got, "none")
		}
		got = append(got, at.In(zone).Format("01-02T15:04:05.999Z07:00"))
	}
	return got
}

func TestTicksOfASpec(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ spec, from, want string }{
		{"30 2 * * *", "2026-05-01T02:29:59.999Z", "05-01T02:30:00Z 05-02T02:30:00Z"},
		{"30 2 * * *", "2026-05-01T02:30:00Z", "05-02T02:30:00Z"},
		{"*/20 * * * * *", "2026-05-01T00:00:00.001Z", "05-01T00:00:20Z 05-01T00:00:40Z 05-01T00:01:00Z"},
		{"0 9 * * MON-FRI", "2026-05-01T10:00:00Z", "05-04T09:00:00Z 05-05T09:00:00Z"},
		{"0 0 29 2 *", "2026-05-01T00:00:00Z", "02-29T00:00:00Z"},
		{"@hourly", "2026-05-01T00:59:59Z", "05-01T01:00:00Z 05-01T02:00:00Z"},
		{"@daily", "2026-05-01T00:59:59Z", "05-02T00:00:00Z"},
		{"@weekly", "2026-05-01T00:00:00Z", "05-03T00:00:00Z"},
		{"@monthly", "2026-05-01T00:00:00Z", "06-01T00:00:00Z"},
		{"@yearly", "2026-05-01T00:00:00Z", "01-01T00:00:00Z"},
		{"  @every  90s ", "2026-05-01T00:00:01Z", "05-01T00:01:30Z 05-01T00:03:00Z"},
		{"@every 1500ms", "2026-05-01T00:00:00Z", "05-01T00:00:01.5Z 05-01T00:00:03Z"},
		{"@every 24h", "2026-05-01T12:00:00Z", "05-02T00:00:00Z"},
		{"CRON_TZ=Asia/Kolkata 0 9 * * *", "2026-05-01T00:00:00Z", "05-01T09:00:00+05:30 05-02T09:00:00+05:30"},
		{"TZ=Asia/Kolkata  0 9 * * *", "2026-05-01T00:00:00Z", "05-01T09:00:00+05:30"},
		{"CRON_TZ=America/New_York @daily", "2026-05-01T00:00:00Z", "05-01T00:00:00-04:00"},
	} {
		want := strings.Fields(test.want)
		areSame(t, test.spec, nextOnes(t, test.spec, test.from, len(want)), want)
	}
}

// In Berlin 02:00 is followed by 03:00 on 29 March 2026, and 03:00 by 02:00 on
// 25 October. In other zones it is midnight that is missing, or half an hour.
func TestTicksWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, spec, from, want string }{
		{"a skipped time ticks when the clock is set", "CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-28T12:00:00Z",
			"03-29T03:00:00+02:00 03-30T02:30:00+02:00"},
		{"skipped times tick together", "CRON_TZ=Europe/Berlin */20 2,3 * * *", "2026-03-28T12:00:00Z",
			"03-29T03:00:00+02:00 03-29T03:20:00+02:00 03-29T03:40:00+02:00 03-30T02:00:00+02:00"},
		{"the edge of the hour is not skipped", "CRON_TZ=Europe/Berlin 59 1 * * *", "2026-03-28T12:00:00Z",
			"03-29T01:59:00+01:00 03-30T01:59:00+02:00"},
		{"an hour of * goes by elapsed time", "CRON_TZ=Europe/Berlin 30 * * * *", "2026-03-29T00:00:00Z",
			"03-29T01:30:00+01:00 03-29T03:30:00+02:00 03-29T04:30:00+02:00"},
		{"@hourly too", "CRON_TZ=Europe/Berlin @hourly", "2026-03-29T00:00:00Z",
			"03-29T03:00:00+02:00 03-29T04:00:00+02:00"},
		{"a doubled time ticks the first time", "CRON_TZ=Europe/Berlin 30 2 * * *", "2026-10-24T12:00:00Z",
			"10-25T02:30:00+02:00 10-26T02:30:00+01:00"},
		{"so do the whole hour, and what follows it", "CRON_TZ=Europe/Berlin 0,40 2,3 * * *", "2026-10-24T12:00:00Z",
			"10-25T02:00:00+02:00 10-25T02:40:00+02:00 10-25T03:00:00+01:00 10-25T03:40:00+01:00 10-26T02:00:00+01:00"},
		{"from within the second one", "CRON_TZ=Europe/Berlin 30 2 * * *", "2026-10-25T01:10:00Z",
			"10-26T02:30:00+01:00"},
		{"an hour of * ticks both times", "CRON_TZ=Europe/Berlin 30 * * * *", "2026-10-24T23:00:00Z",
			"10-25T01:30:00+02:00 10-25T02:30:00+02:00 10-25T02:30:00+01:00 10-25T03:30:00+01:00"},
		{"over the end of a year with both", "CRON_TZ=Europe/Berlin 30 2 1 1 *", "2026-01-02T00:00:00Z",
			"01-01T02:30:00+01:00"},
		{"midnight is skipped", "CRON_TZ=America/Sao_Paulo @daily", "2018-11-03T12:00:00Z",
			"11-04T01:00:00-02:00 11-05T00:00:00-02:00"},
		{"the day whose midnight is skipped", "CRON_TZ=America/Sao_Paulo 0 1 4 11 *", "2018-11-03T12:00:00Z",
			"11-04T01:00:00-02:00"},
		{"midnight comes twice", "CRON_TZ=America/Sao_Paulo 30 23 * * *", "2018-02-17T12:00:00Z",
			"02-17T23:30:00-02:00 02-18T23:30:00-03:00"},
		{"half an hour is skipped", "CRON_TZ=Australia/Lord_Howe 15 2 * * *", "2026-10-03T12:00:00Z",
			"10-04T02:30:00+11:00 10-05T02:15:00+11:00"},
		{"half an hour comes twice", "CRON_TZ=Australia/Lord_Howe 45 1 * * *", "2026-04-04T12:00:00Z",
			"04-05T01:45:00+11:00 04-06T01:45:00+10:30"},
		{"@every knows of no clocks", "CRON_TZ=Europe/Berlin @every 1h", "2026-03-29T00:00:00Z",
			"03-29T01:00:00Z 03-29T02:00:00Z 03-29T03:00:00Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := strings.Fields(test.want)
			areSame(t, test.spec, nextOnes(t, test.spec, test.from, len(want)), want)
		})
	}
}

func TestBadSpecs(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"", " ", "x", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "@never", "@every", "@every x", "@every 999ms",
		"@every 1s1us", "@every -1h", "@every 0", "TZ=", "TZ=UTC", "CRON_TZ=Europe/Berlin", "CRON_TZ= * * * * *",
		"CRON_TZ=Mars/Olympus * * * * *", "CRON_TZ=UTC TZ=UTC", "CRON_TZ=UTC TZ=UTC * * * * *", "0 0 31 2 *", "0 0 30 FEB *",
		", * * * * *", "1,,2 * * * *", "*/0 * * * *", "@reboot", "* * * * *\n", "- * * * *",
	} {
		switch _, err := parseSpec(spec, time.UTC); {
		case spec == "* * * * *\n":
			isError(t, "white space at the end", err, nil)
		case !errors.Is(err, ErrBadSpec):
			t.Errorf("%q: got %v, want ErrBadSpec", spec, err)
		}
	}
}

func TestASpecIsKnownByItsTextAndItsZone(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	text := func(spec string, zone *time.Location) string {
		tt, err := parseSpec(spec, zone)
		isError(t, spec, err, nil)
		return tt.text
	}
	const want = "CRON_TZ=Europe/Berlin 30 2 * * *"
	is(t, "zone by the option", text(" 30  2 * * * ", berlin), want)
	is(t, "zone by the spec", text("CRON_TZ=Europe/Berlin 30 2 * * *", time.UTC), want)
	is(t, "other name of the prefix", text("TZ=Europe/Berlin\t30 2 * * *", time.UTC), want)
	is(t, "no zone", text("30 2 * * *", time.UTC), "CRON_TZ=UTC 30 2 * * *")
	is(t, "a period in another way", text("@every 90s", time.UTC), text("@every 1m30s", berlin))
}

func TestLatestTickIsFoundWhateverTheirNumber(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ spec, since, now, want string }{
		{"* * * * * *", "2026-01-01T00:00:00Z", "2026-12-31T12:00:00.5Z", "2026-12-31T12:00:00Z"},
		{"* * * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z"},
		{"* * * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.999Z", ""},
		{"* * * * 1 *", "2025-12-01T00:00:00Z", "2026-12-31T00:00:00Z", "2026-01-31T23:59:59Z"},
		{"30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-09T02:29:59Z", "2026-01-08T02:30:00Z"},
		{"30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-01T02:30:00Z", ""},
		{"30 2 * * *", "2026-01-01T02:30:00Z", "2025-01-01T02:30:00Z", ""},
		{"@every 1500ms", "2026-01-01T00:00:00Z", "2026-01-01T01:00:01.6Z", "2026-01-01T01:00:01.5Z"},
		{"CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-01T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z"},
	} {
		var want time.Time
		if test.want != "" {
			want = instant(t, test.want)
		}
		got := table(t, test.spec).latest(instant(t, test.since), instant(t, test.now))
		if !got.Equal(want) {
			t.Errorf("%s from %s to %s: got %v, want %v", test.spec, test.since, test.now, got, want)
		}
	}
}

func FuzzSpec(f *testing.F) {
	for _, spec := range []string{"30 2 * * *", "*/7 1-9 1,15 JAN-MAR MON", "@every 90s", "CRON_TZ=Europe/Berlin @daily",
		"TZ=", "TZ=UTC TZ=", "@every 999999h", "CRON_TZ=America/Sao_Paulo 0 0 * * SUN", "1/5 * * * * *", "? ? ? ? ?"} {
		f.Add(spec, int64(1774746000))
	}
	f.Fuzz(func(t *testing.T, spec string, unix int64) {
		tt, err := parseSpec(spec, time.UTC)
		if err != nil {
			isError(t, spec, err, ErrBadSpec)
			return
		}
		if strings.ContainsAny(tt.text, "\r\n") {
			t.Fatalf("%q is known as %q", spec, tt.text)
		}
		again, err := parseSpec(tt.text, time.UTC)
		if err != nil || again.text != tt.text {
			t.Fatalf("%q is known as %q, and that as %q, %v", spec, tt.text, again.text, err)
		}
		from := time.Unix(unix%(200*365*86400), 0)
		for range 3 {
			next := tt.next(from)
			if next.IsZero() {
				return
			}
			if !next.After(from) || !again.next(from).Equal(next) {
				t.Fatalf("%q: %v is followed by %v and %v", spec, from, next, again.next(from))
			}
			if before := tt.next(next.Add(-time.Millisecond)); !before.Equal(next) {
				t.Fatalf("%q: %v is a tick after %v, but just before it %v is", spec, next, from, before)
			}
			from = next
		}
	})
}
