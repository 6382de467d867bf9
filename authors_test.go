package linda

import (
	"testing"
	"time"
)

func TestDueIsKeptInTheBodyAndRoundedUp(t *testing.T) {
	due := time.Unix(1_700_000_000, 1)
	for _, body := range []string{
		`{"Payload":{"class":"c","args":[ 1 ]},"more":1}`,
		`{"linda":{"id":"x","n":2,"f":1},"Payload":{"class":"c","args":[ 1 ]}}`,
	} {
		stamped := DueBody(body, due)
		job := delivered(t, stamped)
		if want := time.Unix(1_700_000_000, int64(time.Millisecond)); !job.Due().Equal(want) {
			t.Errorf("%s: due %v, want %v", stamped, job.Due(), want)
		}
		if again := DueBody(stamped, time.Time{}); !delivered(t, again).Due().IsZero() {
			t.Errorf("%s: not taken out", again)
		}
		released := Settlement{Job: job, Op: OpRelease}
		if body := released.Body(); !delivered(t, body).Due().IsZero() {
			t.Errorf("%s: a job that is released without a delay is still due later", body)
		}
	}
}

func TestDueLeavesABodyWithABadHeaderAlone(t *testing.T) {
	const bad = `{"linda":{"id":"x","n":-2},"Payload":{"class":"c"}}`
	if got := DueBody(bad, time.Unix(1, 0)); got != bad {
		t.Errorf("got %s", got)
	}
}
