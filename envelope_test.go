package linda

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plain is the body of a job as any language would push it.
func plain(args string) string {
	return `{"queue":"q","Payload":{"class":"C","args":` + args + `}}`
}

// decoded is a good job.
func decoded(t testing.TB, body string) *Job {
	t.Helper()
	job, err := Decode("q", body)
	require.NoError(t, err, body)
	return job
}

// delivered is a job as a broker hands it out.
func delivered(t testing.TB, body string) *Job {
	t.Helper()
	job, _ := Decode("q", body)
	job.head.Deliveries++
	return job
}

func TestEncodedJobDecodesToItself(t *testing.T) {
	job := &Job{
		ID:          "my-id",
		Payload:     Payload{Class: `a "class" \ é ` + "\u2028", Args: []any{"x", 1.5, nil, true, map[string]any{"k": []any{}}}},
		MaxAttempts: 7,
		TimeLimit:   90 * time.Second,
		UniqueKey:   "key\x00",
		Headers:     map[string]string{"trace": `<"1">`, "": ""},
	}
	body, err := Encode(job, "q")
	require.NoError(t, err)
	require.True(t, json.Valid(body), "%s", body)

	got := decoded(t, string(body))
	got.fillArgs()
	assert.Equal(t, job.ID, got.ID)
	assert.Equal(t, "q", got.Queue)
	assert.Equal(t, job.Payload.Class, got.Payload.Class)
	assert.Equal(t, job.Payload.Args, got.Payload.Args)
	assert.Equal(t, job.MaxAttempts, got.MaxAttempts)
	assert.Equal(t, job.TimeLimit, got.TimeLimit)
	assert.Equal(t, job.UniqueKey, got.UniqueKey)
	assert.Equal(t, job.Headers, got.Headers)
}

func TestTimeLimitIsNeverRoundedDownToNone(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{
		1:                    time.Millisecond,
		time.Millisecond:     time.Millisecond,
		time.Millisecond + 1: 2 * time.Millisecond,
		maxDelay:             maxDelay.Truncate(time.Millisecond),
	} {
		body, err := Encode(&Job{TimeLimit: given, Payload: Payload{Class: "C"}}, "q")
		require.NoError(t, err)
		assert.Equal(t, want, decoded(t, string(body)).TimeLimit)
	}
}

func TestArgumentsComeOutByteForByte(t *testing.T) {
	for _, args := range []string{
		`[]`, `[ ]`, `[9007199254740993]`, `[1.0, 1e400, -0, 0.10]`, `["<&>"]`, "[\"\u2028\"]",
		`["\u003c\u0000\/"]`, `[{"b":1, "a":2, "b":3}]`, "[ 1 ,\n\t2 ]", `[null,[[],{}]]`, `["}],{\"linda\":{"]`,
	} {
		job := delivered(t, plain(args))
		assert.Equal(t, args, job.Payload.raw)

		later := delivered(t, (&Settlement{Job: job, Op: OpRelease, Reason: "x"}).Body())
		assert.Equal(t, args, later.Payload.raw, "after a release")

		job.fillArgs() // as for a handler
		again, err := Encode(job, "q")
		require.NoError(t, err)
		assert.Equal(t, args, decoded(t, string(again)).Payload.raw, "after another push")

		stored, err := json.Marshal(job)
		require.NoError(t, err)
		var read Job
		require.NoError(t, json.Unmarshal(stored, &read))
		assert.Equal(t, compacted(t, args), compacted(t, read.Payload.raw), "after encoding/json")
	}
}

func compacted(t *testing.T, raw string) string {
	b, err := json.Marshal(json.RawMessage(raw))
	require.NoError(t, err)
	return string(b)
}

func TestArgumentsAreEncodedWithoutEscapesForHTML(t *testing.T) {
	body, err := Encode(&Job{Payload: Payload{Class: "C", Args: []any{"<&>"}}, Headers: map[string]string{"k": "<&>"}}, "q")
	require.NoError(t, err)
	assert.Contains(t, string(body), `"args":["<&>"]`)
	assert.Contains(t, string(body), `"h":{"k":"<&>"}`)
}

func TestChangedArgumentsAreEncodedAnew(t *testing.T) {
	job := delivered(t, plain(`[{"n": 9007199254740993}, "a"]`))
	job.fillArgs()
	job.Payload.Args[1] = "b"
	body, err := Encode(job, "q")
	require.NoError(t, err)
	assert.Contains(t, string(body), `,"b"]`)

	job = delivered(t, plain(`[{"n": 9007199254740993}, "a"]`))
	job.fillArgs()
	job.Payload.Args[0].(map[string]any)["n"] = 1
	body, err = Encode(job, "q")
	require.NoError(t, err)
	assert.Contains(t, string(body), `[{"n":1},"a"]`)

	job.Payload = Payload{Class: "C"}
	body, err = Encode(job, "q")
	require.NoError(t, err)
	assert.Contains(t, string(body), `"args":[]`)
}

func TestBothSpellingsOfPayloadAreRead(t *testing.T) {
	for _, body := range []string{
		`{"payload":{"class":"C","args":[1]}}`,
		`{"Payload":{"class":"C","args":[1]}}`,
		" \r\n\t{ \"Payload\" : { \"args\" : [1] , \"class\" : \"C\" } } \n",
		`{"P\u0061yload":{"cl\u0061ss":"\u0043","args":[1]},"other":{"class":"D"}}`,
		`{"queue":null,"PAYLOAD":{"class":"D"},"payload":{"class":"C","args":[1],"CLASS":"evil","Args":[2]}}`,
	} {
		job := decoded(t, body)
		assert.Equal(t, "C", job.Payload.Class, body)
		assert.Equal(t, "[1]", job.Payload.raw, body)
	}
}

func TestQueueOfTheBodyCountsOnlyWhereNoneIsGiven(t *testing.T) {
	job, err := Decode("", plain(`[]`))
	require.NoError(t, err)
	assert.Equal(t, "q", job.Queue)
	job, err = Decode("other", plain(`[]`))
	require.NoError(t, err)
	assert.Equal(t, "other", job.Queue)
}

// badBodies are no jobs.
var badBodies = []string{
	"", " ", "{", "{,", "{}", "{ }", "[]", "null", "1", `"x"`, "garbage", "{not json", "\x00", "\xff",
	`{}}`, `{"Payload":{"class":"C"}} trailing`, `{"Payload":{"class":"C"}`,
	`{"Payload":null}`, `{"Payload":[]}`, `{"Payload":"x"}`, `{"PAYLOAD":{"class":"C"}}`, `{"Payload":{}}`,
	`{"Payload":{"CLASS":"C"}}`, `{"Payload":{"class":null}}`, `{"Payload":{"class":1}}`, `{"Payload":{"class":""}}`,
	`{"Payload":{"class":"` + strings.Repeat("c", maxName+1) + `"}}`,
	`{"Payload":{"class":"a","class":"evil"}}`, `{"Payload":{"class":"a","cl\u0061ss":"evil"}}`,
	`{"Payload":{"class":"a"},"payload":{"class":"evil"}}`, `{"Payload":{"class":"a"},"Payload":{"class":"evil"}}`,
	`{"Payload":{"class":"a","args":[],"args":[]}}`, `{"Payload":{"class":"a","args":{}}}`, `{"Payload":{"class":"a","args":"x"}}`,
	`{"queue":1,"Payload":{"class":"a"}}`, `{"queue":"a","queue":"b","Payload":{"class":"a"}}`,
	"{\"Payload\":{\"class\":\"a\xff\"}}", "{\"x\":\"\xff\",\"Payload\":{\"class\":\"a\"}}",
	"\ufeff" + `{"Payload":{"class":"a"}}`,
	`{"linda":{"id":"0"}"Payload":{"class":"0"}}`, `{"linda":{"id":"0"}`,
	// bodies that start like one with bookkeeping, which cannot be read
	`{"linda":{"id":"`, `{"linda":{"id":""},"Payload":{"class":"a"}}`, `{"linda":{"id":"a b"},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","n":-1},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","n":1e3},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","n":1,"n":2},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","n":9007199254740993},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","u":-5},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","id":"y"},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x\u0061","n":1},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","n":"1"},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","n":1,"raw":1},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","n":1,"raw":2},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","uniq":"` + strings.Repeat("k", maxName+1) + `"},"Payload":{"class":"a"}}`,
	`{"linda":{"id":"x","err":null},"Payload":{"class":"a"}}`, `{"linda":{"id":"x","h":[]},"Payload":{"class":"a"}}`,
	"{\"linda\":{\"id\":\"x\",\"err\":\"\xff\"},\"Payload\":{\"class\":\"a\"}}",
	`{"linda":{"id":"x","err":"` + strings.Repeat("e", maxHeader) + `"},"Payload":{"class":"a"}}`,
}

func TestBadBodyIsAJobThatSaysWhy(t *testing.T) {
	for _, body := range badBodies {
		job, err := Decode("q", body)
		require.NotNil(t, job)
		assert.ErrorIs(t, err, ErrBadJob, "%.100q", body)
		assert.Equal(t, err, job.Err())
		assert.Equal(t, body, string(job.Body()), "the bytes are kept")
		assert.NotEmpty(t, job.ID)
		assert.Equal(t, "q", job.Queue)
		assert.Less(t, len(err.Error()), 200)
	}
}

func TestBadBodyIsBuriedByteForByte(t *testing.T) {
	for _, body := range badBodies {
		job, err := Decode("q", body)
		dead := (&Settlement{Job: job, Op: OpBury, Reason: reasonOf(err)}).Body()

		again, _ := Decode("q", dead)
		assert.Equal(t, body, string(again.Body()))
		assert.Equal(t, job.ID, again.ID)
		assert.Equal(t, err.Error(), again.LastError())

		back, _ := Decode("q", KickedBody("q", dead))
		assert.Equal(t, body, string(back.Body()), "after a kick")
	}
}

func TestBodyIsWhatTheProducerWrote(t *testing.T) {
	for _, body := range []string{
		plain(`[]`), " \n" + plain(`[]`) + "\n ", "{ \"x\" : 1 ,\"Payload\":{\"class\":\"C\"}}",
		`{"Payload":{"class":"C"},"linda":{"id":"not the first member"}}`,
		`{"linda" : {"id":"x","n":7},"Payload":{"class":"C"}}`, `{"linda":{"n":7,"id":"x"},"Payload":{"class":"C"}}`,
		`{"linda":"x","Payload":{"class":"C"}}`, `{"lindas":{},"Payload":{"class":"C"}}`,
	} {
		job := decoded(t, body)
		for range 3 {
			assert.Equal(t, body, string(job.Body()))
			stored := (&Settlement{Job: job, Op: OpRelease}).Body()
			require.True(t, json.Valid([]byte(stored)), stored)
			job = delivered(t, stored)
			require.NoError(t, job.Err())
		}
	}
}

func TestBookkeepingOfAnotherWriterIsReadAndRenewed(t *testing.T) {
	for body, want := range map[string]string{
		`{"linda":{"id":"x"},"Payload":{"class":"C"}}`:                             `{"Payload":{"class":"C"}}`,
		` {"linda":{"id":"x"} , "Payload":{"class":"C"}}`:                          ` { "Payload":{"class":"C"}}`,
		`{"linda":{"id":"x" , "f" : 2,"n":  3 },"Payload":{"class":"C"}}`:          `{"Payload":{"class":"C"}}`,
		`{"linda":{"id":"x","future":[1, 2],"N":9,"n":3},"Payload":{"class":"C"}}`: `{"Payload":{"class":"C"}}`,
	} {
		job := decoded(t, body)
		assert.Equal(t, "x", job.ID)
		assert.Equal(t, want, string(job.Body()))
		job.head.Deliveries = 4
		later := decoded(t, (&Settlement{Job: job, Op: OpRelease, Reason: "no"}).Body())
		assert.Equal(t, "x", later.ID)
		assert.EqualValues(t, 4, later.head.Deliveries)
		assert.Equal(t, job.Failures()+1, later.Failures())
		assert.Equal(t, want, string(later.Body()))
	}
}

func TestMembersThatANewerLindaWroteSurvive(t *testing.T) {
	job := decoded(t, `{"linda":{"id":"x","n":1,"prio":[1, 2],"ID":"y","q\"uote":{"a":null},"err":"old"},"Payload":{"class":"C"}}`)
	for range 3 {
		job = delivered(t, (&Settlement{Job: job, Op: OpRelease, Reason: "new"}).Body())
		assert.Equal(t, "x", job.ID)
		assert.Equal(t, "new", job.LastError())
		assert.Equal(t, `,"prio":[1, 2],"ID":"y","q\"uote":{"a":null}`, job.head.newer)
	}
	dead := decoded(t, KickedBody("q", job.body))
	assert.Equal(t, job.head.newer, dead.head.newer)
}

func TestHeaderThatGrewTooLongKeepsItsCounts(t *testing.T) {
	big := strings.Repeat("h", maxHeader-100)
	for _, member := range []string{`"h":{"k":"` + big + `"}`, `"future":"` + big + `"`} {
		job := decoded(t, `{"linda":{"id":"x","n":5,`+member+`},"Payload":{"class":"C"}}`)
		later := decoded(t, (&Settlement{Job: job, Op: OpRelease, Reason: strings.Repeat("\x01", 5000)}).Body())
		assert.Equal(t, "x", later.ID)
		assert.EqualValues(t, 5, later.head.Deliveries)
		assert.Equal(t, 1, later.Failures())
	}
}

func TestLargestHeaderOfOurOwnIsRead(t *testing.T) {
	for _, value := range []string{strings.Repeat("\x02", 1000), ""} {
		headers := make(map[string]string)
		for i, size := 0, 0; ; i++ {
			key := string([]byte{byte(i%32) + 0, byte(i / 32 % 128)}) + strings.Repeat("\x01", i/(32*128))
			if size += len(key) + len(value) + 1; size > maxHeader/8 {
				break
			}
			headers[key] = value
		}
		largestHeaderIsRead(t, headers)
	}
}

func largestHeaderIsRead(t *testing.T, headers map[string]string) {
	job := &Job{ID: strings.Repeat("i", maxID), UniqueKey: strings.Repeat("\x01", maxName), Headers: headers,
		Payload: Payload{Class: "C"}, MaxAttempts: maxCount, TimeLimit: maxDelay}
	body, err := Encode(job, "q")
	require.NoError(t, err)
	later := decoded(t, (&Settlement{Job: decoded(t, string(body)), Op: OpRelease, Reason: strings.Repeat("\x01", 5000)}).Body())
	assert.Equal(t, headers, later.Headers)
	assert.Equal(t, job.ID, later.ID)
}

func TestReasonIsClippedAndValid(t *testing.T) {
	job := delivered(t, plain(`[]`))
	for _, reason := range []string{
		"short", strings.Repeat("é", maxReason), "x" + strings.Repeat("é", maxReason), "\xff", strings.Repeat("\xffa", maxReason), "\x00\r\n\x1b[31m",
	} {
		later := decoded(t, (&Settlement{Job: job, Op: OpBury, Reason: reason}).Body())
		assert.LessOrEqual(t, len(later.LastError()), maxReason)
		assert.True(t, utf8.ValidString(later.LastError()))
		assert.NotEmpty(t, later.LastError())
	}
	foreign := decoded(t, `{"linda":{"id":"x","err":"`+strings.Repeat("e", 2*maxReason)+`"},"Payload":{"class":"C"}}`)
	assert.Len(t, foreign.LastError(), maxReason)
	assert.Equal(t, "\x00\r\n\x1b[31m", clip("\x00\r\n\x1b[31m"))
}

func TestLimitsHoldAtPushAndAtPop(t *testing.T) {
	empty, err := Encode(&Job{ID: "x", Payload: Payload{Class: "C", Args: []any{""}}}, "q")
	require.NoError(t, err)
	used := len(decoded(t, string(empty)).Body())
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

	for name, c := range map[string]struct {
		args string
		ok   bool
	}{
		"the longest body":        {`["` + strings.Repeat("x", MaxBody-used) + `"]`, true},
		"one byte more":           {`["` + strings.Repeat("x", MaxBody-used+1) + `"]`, false},
		"the deepest body":        {nested(MaxDepth - 2), true},
		"one level more":          {nested(MaxDepth - 1), false},
		"the most containers":     {"[" + strings.Repeat("{},", maxNested-4) + "{}]", true},
		"one container more":      {"[" + strings.Repeat("{},", maxNested-3) + "{}]", false},
		"the most values":         {"[" + strings.Repeat("1,", maxValues-3) + "1]", true},
		"one value more":          {"[" + strings.Repeat("1,", maxValues-2) + "1]", false},
		"brackets within strings": {`["` + strings.Repeat(`[{,\"`, 1000) + `"]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			var args []any
			require.NoError(t, json.Unmarshal([]byte(c.args), &args))
			body, err := Encode(&Job{Payload: Payload{Class: "C", Args: args}}, "q")
			_, popErr := Decode("q", plain(c.args))
			if !c.ok {
				assert.ErrorIs(t, err, ErrTooLarge)
				assert.ErrorIs(t, popErr, ErrTooLarge)
				return
			}
			require.NoError(t, err)
			require.NoError(t, popErr)
			_, err = Decode("q", string(body))
			assert.NoError(t, err, "what Push takes, Pop takes")
		})
	}
}

func TestHostileBodyAllocatesAtMostFourTimesItsSize(t *testing.T) {
	for name, body := range map[string]string{
		"a bomb of objects":   plain("[" + strings.Repeat("{},", MaxBody/3-100) + "{}]"),
		"a bomb of the limit": plain("[" + strings.Repeat("{},", maxNested-4) + "{}]"),
		"only brackets":       strings.Repeat("[", MaxBody),
		"8 MiB":               strings.Repeat("{},", 8<<20/3),
		"a long string":       plain(`["` + strings.Repeat(`\"`, MaxBody/2-100) + `"]`),
		"a long garbage":      strings.Repeat("x", MaxBody),
		"a header of members": headerOpen + `x"` + strings.Repeat(`,"":0`, maxHeader/5-10) + "}" + plain(`[]`)[1:],
		"an endless header":   headerOpen + strings.Repeat("x", MaxBody),
	} {
		t.Run(name, func(t *testing.T) {
			allocated := func() uint64 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.TotalAlloc
			}
			before := allocated()
			_, _ = Decode("q", body)
			assert.LessOrEqual(t, allocated()-before, uint64(4*len(body)))
		})
	}
}

func TestUnencodableJobIsRefused(t *testing.T) {
	const secret = "hunter2"
	for name, job := range map[string]*Job{
		"no class":                 {},
		"long class":               {Payload: Payload{Class: strings.Repeat("c", maxName+1)}},
		"class not UTF-8":          {Payload: Payload{Class: "c\xff"}},
		"id with a space":          {ID: "a b", Payload: Payload{Class: "C"}},
		"id with a quote":          {ID: `a"b`, Payload: Payload{Class: "C"}},
		"id not ASCII":             {ID: "é", Payload: Payload{Class: "C"}},
		"long id":                  {ID: strings.Repeat("x", maxID+1), Payload: Payload{Class: "C"}},
		"key not UTF-8":            {UniqueKey: "\xff", Payload: Payload{Class: "C"}},
		"long key":                 {UniqueKey: strings.Repeat("k", maxName+1), Payload: Payload{Class: "C"}},
		"negative attempts":        {MaxAttempts: -1, Payload: Payload{Class: "C"}},
		"negative time limit":      {TimeLimit: -1, Payload: Payload{Class: "C"}},
		"negative key time":        {UniqueTTL: -1, Payload: Payload{Class: "C"}},
		"header name not UTF-8":    {Headers: map[string]string{"\xff": ""}, Payload: Payload{Class: "C"}},
		"header not UTF-8":         {Headers: map[string]string{"": "\xff"}, Payload: Payload{Class: "C"}},
		"args not UTF-8":           {Payload: Payload{Class: "C", Args: []any{secret + "\xff"}}},
		"args not UTF-8, deep":     {Payload: Payload{Class: "C", Args: []any{map[string]any{"k": []any{struct{ S *string }{ptr(secret + "\xff")}}}}}},
		"map key not UTF-8":        {Payload: Payload{Class: "C", Args: []any{map[string]int{secret + "\xff": 1}}}},
		"raw args not UTF-8":       {Payload: Payload{Class: "C", Args: []any{json.RawMessage("\"" + secret + "\xff\"")}}},
		"raw args not JSON":        {Payload: Payload{Class: "C", Args: []any{json.RawMessage(secret)}}},
		"a channel":                {Payload: Payload{Class: "C", Args: []any{secret, make(chan int)}}},
		"a marshaler that objects": {Payload: Payload{Class: "C", Args: []any{objector(secret)}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Encode(job, "q")
			require.ErrorIs(t, err, ErrBadJob)
			assert.NotContains(t, err.Error(), secret, "no argument in an error")
		})
	}
	_, err := Encode(&Job{Payload: Payload{Class: "C"}, Headers: map[string]string{"k": strings.Repeat("v", maxHeader)}}, "q")
	assert.ErrorIs(t, err, ErrTooLarge)
	_, err = Encode(&Job{Payload: Payload{Class: "C"}}, `q","x":"`)
	assert.ErrorIs(t, err, ErrBadName)
}

type objector string

func (o objector) MarshalJSON() ([]byte, error) { return nil, errors.New(string(o)) }

func ptr[T any](v T) *T { return &v }

func TestReplacementCharacterIsNoFault(t *testing.T) {
	for _, arg := range []any{"\ufffd", `\ufffd`, json.RawMessage(`"\ufffd"`), []byte{0xff}} {
		_, err := Encode(&Job{Payload: Payload{Class: "C", Args: []any{arg}}}, "q")
		assert.NoError(t, err)
	}
}

func TestPushedJobIsNewWhereItWasPopped(t *testing.T) {
	body, err := Encode(&Job{ID: "mine", Payload: Payload{Class: "C"}}, "q")
	require.NoError(t, err)
	peeked := decoded(t, string(body))
	assert.Equal(t, "mine", peeked.ID)

	again, err := Encode(peeked, "q")
	require.NoError(t, err)
	assert.NotEqual(t, "mine", decoded(t, string(again)).ID)
	assert.Zero(t, decoded(t, string(again)).Attempt())
}

// model is what is known of a job that has been delivered some times.
type model struct{ deliveries, attempts, failures, crashes int }

func TestCountsFollowEverySequenceOfDeliveries(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		body := plain(`[1]`)
		var m model
		lastError := ""
		for range 20 {
			job, err := Decode("q", body) // the body is also what a crash leaves
			require.NoError(t, err)
			m.deliveries++
			m.attempts++
			job.Delivered(int64(m.deliveries))
			require.Equal(t, m, model{m.deliveries, job.Attempt(), job.Failures(), job.Crashes()}, "seed %d", seed)
			require.Equal(t, lastError, job.LastError())

			switch random.IntN(5) {
			case 0: // released
				body, m.crashes = (&Settlement{Job: job, Op: OpRelease}).Body(), 0
			case 1: // failed
				lastError = fmt.Sprint("failure ", random.Uint32())
				body, m.crashes = (&Settlement{Job: job, Op: OpRelease, Reason: lastError}).Body(), 0
				m.failures++
			case 2: // snoozed
				body, m.crashes = (&Settlement{Job: job, Op: OpRelease, Snoozed: true}).Body(), 0
				m.attempts--
			case 3: // not started: what happened before stands
				body = (&Settlement{Job: job, Op: OpRelease, Unstarted: true}).Body()
				m.attempts--
			case 4: // crashed
				m.crashes++
			}
		}
		job := delivered(t, KickedBody("q", body))
		require.Equal(t, 1, job.Attempt(), "after a kick")
		require.Zero(t, job.Crashes(), "after a kick")
		require.Equal(t, plain(`[1]`), string(job.Body()))
		require.Zero(t, job.Failures())
		require.Empty(t, job.LastError())
	}
}

func TestCountsAreNeverNegative(t *testing.T) {
	job := decoded(t, `{"linda":{"id":"x","n":1,"s":9,"u":9},"Payload":{"class":"C"}}`)
	assert.Zero(t, job.Attempt())
	assert.Zero(t, job.Crashes())
	assert.Zero(t, new(Job).Attempt())
	assert.Zero(t, new(Job).Crashes())
}
