package brokertest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amlun/linda"
)

var badBodyCases = []testCase{
	{name: "bad-bodies-pop", needs: needs(rawPush), check: badBodiesPop,
		rule: "Bodies that are no jobs do not keep Pop from returning every good job around them."},
	{name: "bad-bodies-dead", needs: needs(rawPush, inspector), check: badBodiesDead,
		rule: "Each body that is no job ends in DEAD once, byte for byte, with a reason; equal ones stay apart."},
	{name: "bad-bodies-at-most-once", needs: needs(rawPush, inspector), check: badBodiesAtMostOnce,
		rule: "A body that is no job ends in DEAD also where Pop has a timeout of 0."},
	{name: "bad-bodies-fetch", needs: needs(rawPush, fetcher, settler, inspector), check: badBodiesFetch,
		rule: "Fetch returns a body that is no job with Err set, to be buried."},
	{name: "bad-bodies-released", needs: needs(rawPush, fetcher, inspector), check: badBodiesReleased,
		rule: "A body that is no job keeps its bytes through release, delay and the end of a reservation."},
	{name: "foreign-headers", needs: needs(rawPush, inspector), check: foreignHeaders,
		rule: "A body with a header like linda's own, true or false, is a job or ends in DEAD, once, and stops nothing."},
}

// badBodies are not jobs.
var badBodies = []string{
	`{not json`, `null`, `[]`, `""`, ``, ` `, `"x"`, `42`, `true`, `{`, `}`, `{}`, ` { } `, `{,}`, "\x00", "\n",
	"\ufeff" + `{"Payload":{"class":"C"}}`,
	`{"Payload":null}`, `{"Payload":[]}`, `{"Payload":"x"}`, `{"Payload":{}}`, `{"PAYLOAD":{"class":"C"}}`,
	`{"Payload":{"args":[1]}}`, `{"Payload":{"class":""}}`, `{"Payload":{"class":7}}`, `{"Payload":{"class":null}}`,
	`{"Payload":{"CLASS":"C"}}`, `{"Payload":{"class":"C","args":{}}}`, `{"Payload":{"class":"C","args":"x"}}`,
	`{"Payload":{"class":"C","args":7}}`, `{"queue":7,"Payload":{"class":"C"}}`,
	`{"Payload":{"class":"C"},"Payload":{"class":"evil"}}`, `{"Payload":{"class":"C"},"payload":{"class":"evil"}}`,
	`{"Payload":{"class":"C","class":"evil"}}`, `{"Payload":{"class":"C","args":[1],"args":[2]}}`,
	`{"Payload":{"class":"C"}} x`, `{"Payload":{"class":"C"}}{"Payload":{"class":"C"}}`, `{"Payload":{"class":"C"}`,
	`{"Payload":{"class":"C","args":[1,]}}`, `{"Payload":{"class":"C","args":[NaN]}}`, `{'Payload':{'class':'C'}}`,
	"{\"Payload\":{\"class\":\"\xff\"}}", "{\"Payload\":{\"class\":\"C\",\"args\":[\"\xc3\x28\"]}}",
	"{\"Payload\":{\"class\":\"a\x00b\"}}", "\x80\x04\x95pickle", allBytes(),
	`{"Payload":{"class":"C","args":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}}`,
	`{"Payload":{"class":"C","args":[` + strings.Repeat("0,", 100_000) + `0]}}`,
	`{"Payload":{"class":"C","args":[` + strings.Repeat("{},", 10_000) + `0]}}`,
	`{"Payload":{"class":"C","args":["` + strings.Repeat("x", linda.MaxBody) + `"]}}`,
	strings.Repeat("[", linda.MaxBody),
	`{"Payload":{"class":"twice"}`, `{"Payload":{"class":"twice"}`,
}

func allBytes() string {
	var b [256]byte
	for i := range b {
		b[i] = byte(i)
	}
	return string(b[:])
}

// rawPushBad pushes the bad bodies, each before ten good jobs, and returns
// those that the server took.
func (c *trial) rawPushBad(b linda.Broker) (taken []string, good int) {
	c.Helper()
	for _, body := range badBodies {
		if c.rawPush(body) {
			taken = append(taken, body)
		}
		c.push(b, 10)
		good += 10
	}
	return taken, good
}

func badBodiesPop(c *trial) {
	b := c.open()
	_, good := c.rawPushBad(b)
	for range good {
		job := c.pop(b, c.queue)
		c.must(job.Err(), "Err of a job that Pop returned")
		c.delete(b, job)
	}
	c.nothing(b)
	c.purge(b, linda.Dead)
}

func badBodiesDead(c *trial) {
	b := c.open()
	bad, good := c.rawPushBad(b)
	for range good {
		c.delete(b, c.pop(b, c.queue))
	}
	c.nothing(b)
	c.buried(b, bad)
	c.purge(b, linda.Dead)
}

// buried checks that just these bodies are DEAD, with a reason.
func (c *trial) buried(b linda.Broker, bodies []string) {
	c.Helper()
	var got []string
	ids := make(map[string]bool)
	for _, job := range c.peek(b, linda.Dead) {
		got = append(got, string(job.Body()))
		ids[job.ID] = true
		if job.Err() == nil {
			c.Errorf("Err of a dead body is nil: %s", show(string(job.Body())))
		}
		if job.LastError() == "" {
			c.Errorf("a dead body has no reason: %s", show(string(job.Body())))
		}
	}
	equal(c, len(ids), len(got), "different ids")
	want := slices.Sorted(slices.Values(bodies))
	slices.Sort(got)
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && want[0] < got[0]:
			c.Errorf("not in DEAD: %s", show(want[0]))
			want = want[1:]
		case len(want) == 0 || got[0] < want[0]:
			c.Errorf("in DEAD, but never pushed, or once only: %s", show(got[0]))
			got = got[1:]
		default:
			want, got = want[1:], got[1:]
		}
	}
}

func badBodiesAtMostOnce(c *trial) {
	b := c.open()
	var taken []string
	for _, body := range badBodies[:10] {
		if c.rawPush(body) {
			taken = append(taken, body)
		}
	}
	c.until("every bad body is dead", func() bool {
		job, err := b.Pop(c.queue, 0)
		c.must(err, "Pop")
		equal(c, job == nil, true, "nothing comes out")
		return len(c.peek(b, linda.Dead)) >= len(taken)
	})
	c.buried(b, taken)
	c.purge(b, linda.Dead)
}

func badBodiesFetch(c *trial) {
	b := c.open()
	bad, good := c.rawPushBad(b)
	for left := len(bad) + good; left > 0; {
		jobs := c.reserve(b, c.queue, min(left, 50), c.long)
		left -= len(jobs)
		for _, job := range jobs {
			err := job.Err()
			if err == nil {
				c.delete(b, job)
				continue
			}
			if !errors.Is(err, linda.ErrBadJob) && !errors.Is(err, linda.ErrTooLarge) {
				c.Errorf("Err is neither ErrBadJob nor ErrTooLarge: %v", err)
			}
			c.settle(b, linda.Settlement{Job: job, Op: linda.OpBury, Reason: err.Error()})
		}
	}
	c.nothing(b)
	c.buried(b, bad)
	c.purge(b, linda.Dead)
}

func badBodiesReleased(c *trial) {
	b := c.open()
	taken := make(map[string]bool)
	for _, body := range []string{`{not json`, ``, `[1]`, ` {"x":1}`, `null`, `{`, `{}`, "\xff\x00", `{,"a"`} {
		if c.rawPush(body) {
			taken[body] = true
		}
	}
	c.againAll(b, len(taken), func(jobs []*linda.Job, after string) {
		for _, job := range jobs {
			equal(c, taken[string(job.Body())], true, fmt.Sprintf("after %s: %q was pushed", after, job.Body()))
			equal(c, job.Err() != nil, true, "Err is set after "+after)
		}
		equal(c, len(byID(jobs)), len(taken), "different ids after "+after)
	})
}

func foreignHeaders(c *trial) {
	b := c.open()
	const payload = `,"Payload":{"class":"C","args":[1]}}`
	ours := []string{"mine-1", "mine-2", "mine-3", "mine-4"} // headers as linda writes them
	pushed := 0
	for _, header := range []string{
		`{"linda":{"id":"mine-1","n":0}`,
		`{"linda":{"id":"mine-2","n":3}`,
		`{"linda":{"id":"mine-3","n":1,"r":"token"}`,
		`{"linda":{"id":"mine-4","n":1,"x":[{"id":"y","n":7}]},"linda":{"id":"other","n":1}`,
		`{"linda":{"id":"no n"}`, `{"linda":{"n":1,"id":"last"}`, ` { "linda":{"id":"spaced","n":1}`,
		`{"linda":{"id":"x","r":"token","n":1}`, `{"linda":{"id":"x","n":"1"}`, `{"linda":{"id":"x","n":-1}`,
		`{"linda":{"id":"x","n":1.5}`, `{"linda":{"id":"x","n":1e3}`, `{"linda":{"id":"x","n":99999999999999999999}`,
		`{"linda":{"id":"","n":1}`, `{"linda":{"id":"a b","n":1}`, `{"linda":{"id":"\u0000","n":1}`,
		`{"linda":{"id":"x","n":1`, `{"linda":{"id":"x`, `{"linda":{"id":"x","n":1}}`,
	} {
		if c.rawPush(header + payload) {
			pushed++
		}
	}
	c.push(b, 1)
	pushed++
	ids := make(map[string]bool)
	c.until("every body has come out or is dead", func() bool {
		job, err := b.Pop(c.queue, int64(c.long/time.Second))
		c.must(err, "Pop")
		if job != nil {
			equal(c, ids[job.ID], false, "a job with this id came out before")
			ids[job.ID] = true
			c.delete(b, job)
		}
		return len(ids)+len(c.peek(b, linda.Dead)) >= pushed
	})
	c.nothing(b)
	equal(c, len(ids)+len(c.peek(b, linda.Dead)), pushed, "jobs and dead bodies")
	for _, id := range ours {
		equal(c, ids[id], true, "there was a job with the id "+id)
	}
	c.purge(b, linda.Dead)
}
