package brokertest

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/amlun/linda"
)

var payloadCases = []testCase{
	{name: "exact-arguments", check: exactArguments,
		rule: "Arguments come out byte for byte as they went in, at every delivery, whatever happened in between."},
	{name: "go-arguments", check: goArguments,
		rule: "Values of Go decode from the arguments as the values they were."},
	{name: "no-arguments", check: noArguments,
		rule: "A job with nil or no arguments comes out with none."},
	{name: "foreign-bodies", needs: needs(rawPush), check: foreignBodies,
		rule: "A body that another program pushed is a job, and Body returns it byte for byte at every delivery."},
	{name: "envelope-travels", check: envelopeTravels,
		rule: "MaxAttempts, TimeLimit, Headers and the id travel with the job through all its deliveries."},
	{name: "largest-body", check: largestBody,
		rule: "The largest body a broker promises to take comes out whole; one byte more is ErrTooLarge and stores nothing."},
}

// again takes a job through release, delay and the end of a reservation, and
// calls check on each delivery.
func (c *trial) again(b linda.Broker, check func(job *linda.Job, after string)) {
	c.Helper()
	c.againAll(b, 1, func(jobs []*linda.Job, after string) { check(jobs[0], after) })
}

// againAll is again for n jobs at once.
func (c *trial) againAll(b linda.Broker, n int, check func(jobs []*linda.Job, after string)) {
	c.Helper()
	jobs := c.reserve(b, c.queue, n, c.long)
	check(jobs, "push")
	for _, job := range jobs {
		c.must(b.Release(c.queue, job), "Release")
	}
	jobs = c.reserve(b, c.queue, n, c.long)
	check(jobs, "Release")
	for _, job := range jobs {
		c.must(b.ReleaseWithDelay(c.queue, job, 1), "ReleaseWithDelay")
	}
	jobs = c.reserve(b, c.queue, n, c.lease)
	check(jobs, "ReleaseWithDelay")
	jobs = c.reserve(b, c.queue, n, c.long)
	check(jobs, "the end of a reservation")
	c.delete(b, jobs...)
}

func exactArguments(c *trial) {
	want := []string{
		`9007199254740993`, `-9223372036854775809`, `18446744073709551616`, `1.0`, `-0`, `0.10`, `1e400`, `1E-7`,
		`"<>&"`, "\"\u2028\u2029\"", `"\u2028"`, `"\u0000"`, `"\/"`, `"\ud83d\ude00"`, "\"😀\"", `"é"`, `""`, `" "`,
		`null`, `true`, `[]`, `{}`, `[[[{"b":1,"a":[{"c":[]}]}]]]`, `{"b":1,"a":2,"b":3}`, `"{\"linda\":{\"id\":\"x\"}}"`,
	}
	args := make([]any, len(want))
	for i, text := range want {
		args[i] = json.RawMessage(text)
	}
	b := c.open()
	c.must(b.Push(newJob("exact", args...), c.queue), "Push")
	body := ""
	c.again(b, func(job *linda.Job, after string) {
		for i, got := range rawArgs(c, job, len(want)) {
			equal(c, got, want[i], fmt.Sprintf("argument %d after %s", i, after))
		}
		if body == "" {
			body = string(job.Body())
		}
		equal(c, string(job.Body()), body, "Body after "+after)
	})
}

// rawArgs decodes n arguments to their own bytes.
func rawArgs(c *trial, job *linda.Job, n int) []string {
	c.Helper()
	raw := make([]json.RawMessage, n)
	dst := make([]any, n)
	for i := range raw {
		dst[i] = &raw[i]
	}
	c.must(job.Payload.Decode(dst...), "Decode")
	texts := make([]string, n)
	for i := range raw {
		texts[i] = string(raw[i])
	}
	return texts
}

func goArguments(c *trial) {
	type point struct{ X, Y uint64 }
	text := "a\x00b<>&\u2028\u2029\\\"/\x7f😀\U0010FFFF\n"
	b := c.open()
	c.must(b.Push(newJob("go", int64(math.MinInt64), uint64(math.MaxUint64), math.MaxFloat64, text,
		[]byte{0, 255}, point{1<<53 + 1, 2}, json.Number("1.10")), c.queue), "Push")
	c.again(b, func(job *linda.Job, after string) {
		var (
			small  int64
			big    uint64
			float  float64
			got    string
			bytes  []byte
			p      point
			number json.Number
		)
		c.must(job.Payload.Decode(&small, &big, &float, &got, &bytes, &p, &number), "Decode after "+after)
		equal(c, small, math.MinInt64, "int64")
		equal(c, big, math.MaxUint64, "uint64")
		equal(c, float, math.MaxFloat64, "float64")
		equal(c, got, text, "string")
		equal(c, string(bytes), "\x00\xff", "bytes")
		equal(c, p, point{1<<53 + 1, 2}, "struct")
		equal(c, number, "1.10", "json.Number")
	})
}

func noArguments(c *trial) {
	b := c.open()
	c.must(b.Push(newJob("none"), c.queue), "Push")
	c.must(b.Push(&linda.Job{Payload: linda.Payload{Class: "none", Args: []any{}}}, c.queue), "Push")
	for range 2 {
		job := c.pop(b, c.queue)
		equal(c, len(job.Payload.Args), 0, "number of arguments")
		c.must(job.Payload.Decode(), "Decode")
		c.delete(b, job)
	}
}

func foreignBodies(c *trial) {
	b := c.open()
	bodies := map[string]string{ // to their arguments
		`{"Payload":{"class":"C","args":[1]}}`:                                                   `[1]`,
		`{"payload":{"class":"C","args":[2]}}`:                                                   `[2]`,
		`{"queue":"elsewhere","Payload":{"class":"C","args":[3]}}`:                               `[3]`,
		`{"queue":null,"Payload":{"class":"C","args":[4]}}`:                                      `[4]`,
		" {\n\t\"payload\" : { \"args\" : [ 1.0 , 1e400 ] , \"class\" : \"C\" } , \"z\" :0}\r\n": `[1.0 1e400]`,
		`{"z":{"deep":[1,{"y":null}]},"Payload":{"x":1,"class":"C","args":["x"]},"a":"é<>&"}`:    `["x"]`,
		`{"x":1,"x":2,"Payload":{"class":"C","args":[5]},"PAYLOAD":{"class":"evil"}}`:            `[5]`,
		`{"Payload":{"class":"C","CLASS":"evil","args":[6],"Args":[7]}}`:                         `[6]`,
		`{"Payload":{"class":"\u0043","args":["\u2028\/"]}}`:                                     `["\u2028\/"]`,
		`{"Payload":{"class":"C"}}`:                                                              `[]`,
		`{"Payload":{"class":"C","args":null},"y":0}`:                                            `[]`,
		`{"Payload":{"class":"C","args":[7]},"linda":{"id":"mine"}}`:                             `[7]`,
		`{"linda":7,"Payload":{"class":"C","args":[8]}}`:                                         `[8]`,
		`{"Payload":{"class":"C","args":[9]},"s":"} {\"linda\":{\"id\":\"x\"},"}`:                `[9]`,
	}
	sent := 0
	for body := range bodies {
		if c.rawPush(body) {
			sent++
		}
	}
	c.againAll(b, sent, func(jobs []*linda.Job, after string) {
		for _, job := range jobs {
			args, known := bodies[string(job.Body())]
			if !known {
				c.Errorf("after %s: Body is not one that was pushed: %s", after, show(string(job.Body())))
				continue
			}
			c.must(job.Err(), show(string(job.Body())))
			equal(c, job.Payload.Class, "C", "class")
			n := len(strings.Fields(args))
			if args == "[]" {
				n = 0
			}
			equal(c, fmt.Sprint(rawArgs(c, job, n)), args, "arguments")
		}
		equal(c, len(byID(jobs)), sent, "different ids after "+after)
	})
}

// rawPush pushes a body as it is, and reports whether the server can hold it.
func (c *trial) rawPush(body string) bool {
	c.Helper()
	err := c.harness.RawPush(c, c.queue, []byte(body))
	if err != nil {
		c.Logf("left out, the server does not take it: %s: %v", show(body), err)
	}
	return err == nil
}

func envelopeTravels(c *trial) {
	b := c.open()
	job := newJob("envelope")
	job.ID = "my-id:" + linda.NewID()
	job.MaxAttempts, job.TimeLimit = 7, 1500*time.Millisecond
	job.Headers = map[string]string{"trace": "00-4bf9", "é": "<>&\"\\\u2028", "": ""}
	c.must(b.Push(job, c.queue), "Push")
	c.again(b, func(got *linda.Job, after string) {
		equal(c, got.ID, job.ID, "ID after "+after)
		equal(c, got.MaxAttempts, 7, "MaxAttempts after "+after)
		equal(c, got.TimeLimit, job.TimeLimit, "TimeLimit after "+after)
		equal(c, fmt.Sprint(got.Headers), fmt.Sprint(job.Headers), "Headers after "+after)
	})
}

func largestBody(c *trial) {
	b := c.open()
	if c.BodyMax == 0 {
		c.Log("the broker does not say how long a body may be")
	}
	limit, slack := linda.MaxBody, 0
	if 0 < c.BodyMax && c.BodyMax < limit {
		limit, slack = c.BodyMax, 2048 // the broker's limit counts linda's bookkeeping
	}
	c.must(b.Push(newJob("large", ""), c.queue), "Push")
	probe := c.one(b)
	room := limit - len(probe.Body())
	c.delete(b, probe)

	c.is(b.Push(newJob("large", strings.Repeat("x", room+1)), c.queue), linda.ErrTooLarge, "Push of one byte too many")
	c.is(b.Later(1, newJob("large", strings.Repeat("x", room+1)), c.queue), linda.ErrTooLarge, "Later of one byte too many")
	c.nothing(b)
	largest := strings.Repeat("x", room-slack)
	c.must(b.Push(newJob("large", largest), c.queue), "Push of the largest body")
	c.again(b, func(job *linda.Job, after string) {
		c.must(job.Err(), "the largest body after "+after)
		var got string
		c.must(job.Payload.Decode(&got), "Decode")
		equal(c, got == largest, true, "the largest body is whole after "+after)
	})
}
