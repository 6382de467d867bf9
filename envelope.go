package linda

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a job, checked at Push and again before a body is decoded.
const (
	MaxBody   = 1 << 20 // bytes, linda's own bookkeeping not counted
	MaxDepth  = 64      // of nested arrays and objects
	maxNested = 10_000  // arrays and objects in one body
	maxValues = 100_000 // values in one body
)

// Encode returns the body that a broker stores for a job that is pushed to a
// queue. It is a new job even where job was popped. For authors of brokers;
// what a settlement stores is [Settlement.Body].
func Encode(job *Job, queue string) ([]byte, error) { return encode(job, queue, "") }

func encode(job *Job, queue, token string) ([]byte, error) {
	return appendBody(make([]byte, 0, bodySize+len(job.Payload.raw)), job, queue, token)
}

// bodySize is room for most bodies.
const bodySize = 256

// appendBody is encode into a slice, which is lost where there is an error.
func appendBody(b []byte, job *Job, queue, token string) ([]byte, error) {
	if queue != "" { // as json.Marshal of a Job may leave it
		if err := CheckName(queue); err != nil {
			return nil, err
		}
	}
	head, err := newHeader(job)
	if err != nil {
		return nil, err
	}
	head.Token = token
	b = head.appendTo(b)
	headEnd := len(b)
	b = appendFrame(b, queue, job.Payload.Class)
	if plain, ok := appendPlain(b, job.Payload.Args); ok && job.Payload.raw == "" && len(plain)-headEnd+2 <= MaxBody {
		return append(plain, "}}"...), nil
	}
	if b, err = job.Payload.appendArgs(b); err != nil {
		return nil, err
	}
	b = append(b, "}}"...)
	b[headEnd] = '{' // without the header, as Decode sees it
	err = checkLimits(b[headEnd:])
	b[headEnd] = ','
	if err != nil {
		return nil, err
	}
	return b, nil
}

// appendFrame appends what is between the header and the arguments.
func appendFrame(b []byte, queue, class string) []byte {
	b = append(b, `,"queue":`...)
	b = appendString(b, queue)
	b = append(b, `,"Payload":{"class":`...)
	b = appendString(b, class)
	return append(b, `,"args":`...)
}

// newHeader checks what the caller set on a job that is pushed for the first
// time.
func newHeader(job *Job) (header, error) {
	h := header{
		ID: job.ID, Max: int64(job.MaxAttempts), Limit: job.TimeLimit.Milliseconds(),
		UniqueKey: job.UniqueKey, Headers: job.Headers,
	}
	if job.TimeLimit%time.Millisecond > 0 {
		h.Limit++
	}
	again := job.body != "" || job.receipt != nil
	if again {
		h.ID = "" // it gets a new one
	} else {
		h.Err = job.head.Err // of a burial
	}
	switch c := job.Payload.Class; {
	case h.ID != "" && !validID(h.ID):
		return header{}, fmt.Errorf("%w: id %.64q: 1 to %d printable ASCII characters, no quote or backslash", ErrBadJob, h.ID, maxID)
	case !validClass(c):
		return header{}, fmt.Errorf("%w: class %.64q: 1 to %d bytes of UTF-8", ErrBadJob, c, maxName)
	case len(job.UniqueKey) > maxName || !utf8.ValidString(job.UniqueKey):
		return header{}, fmt.Errorf("%w: unique key: up to %d bytes of UTF-8", ErrBadJob, maxName)
	case job.MaxAttempts < 0 || job.TimeLimit < 0 || job.UniqueTTL < 0:
		return header{}, fmt.Errorf("%w: MaxAttempts, TimeLimit and UniqueTTL cannot be negative", ErrBadJob)
	}
	size := 0
	for k, v := range job.Headers {
		size += len(k) + len(v) + 1
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return header{}, fmt.Errorf("%w: headers: not UTF-8", ErrBadJob)
		}
	}
	if size > maxHeader/8 { // room for the escapes of JSON
		return header{}, fmt.Errorf("%w: headers: %d bytes, at most %d", ErrTooLarge, size, maxHeader/8)
	}
	return h, nil
}

func validClass(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name)
}

// simple reports whether a job that is pushed has nothing to say in its header
// but an id and a count, which are new. One that was popped has an id; where the
// program has taken that away, it gets a new one like any other.
func (j *Job) simple() bool {
	return j.ID == "" && j.head.Err == "" && j.Payload.raw == "" && j.MaxAttempts == 0 && j.TimeLimit == 0 &&
		j.UniqueKey == "" && j.UniqueTTL == 0 && len(j.Headers) == 0
}

// Decode reads a body that was stored in a queue. The job is never nil: where
// the body is not a job, Err tells why, Body holds it byte for byte, and the
// job can be settled like any other, so that linda can bury it. For authors of
// brokers.
func Decode(queue, body string) (*Job, error) {
	j := &Job{Queue: queue, body: body}
	j.headEnd, j.err = j.head.read(body)
	switch {
	case j.err == nil && j.decodeShort():
	case j.err == nil:
		j.err = j.decode()
	default:
		j.err = fmt.Errorf("%w: header: %v", ErrBadJob, j.err)
	}
	if j.head.ID == "" {
		j.head.ID = NewID()
	}
	j.ID, j.Headers = j.head.ID, j.head.Headers
	j.MaxAttempts, j.UniqueKey = int(j.head.Max), j.head.UniqueKey
	j.TimeLimit = time.Duration(min(j.head.Limit, int64(maxDelay/time.Millisecond))) * time.Millisecond
	return j, j.err
}

// decode reads the part of the body that is not linda's.
func (j *Job) decode() error {
	body := j.Body()
	if err := checkLimits(body); err != nil {
		return err
	}
	if !utf8.Valid(body) {
		return fmt.Errorf("%w: not UTF-8", ErrBadJob)
	}
	if !json.Valid(body) || body[skipSpace(body, 0)] != '{' {
		return fmt.Errorf("%w: not a JSON object", ErrBadJob)
	}
	text := j.behindHeader() // as a string, since what is found in it is kept
	if j.headEnd == 0 || j.head.Raw == 1 {
		text = text[strings.IndexByte(text, '{')+1:]
	}
	v, err := find(text, "queue", "Payload", "payload")
	if err != nil {
		return err
	}
	queue, payload := v[0], cmp.Or(v[1], v[2])
	if !strings.HasPrefix(payload, "{") || v[1] != "" && v[2] != "" {
		return fmt.Errorf("%w: Payload is not one object", ErrBadJob)
	}
	if v, err = find(payload[1:], "class", "args"); err != nil {
		return err
	}
	class, classOK := unquote(v[0])
	name, nameOK := unquote(queue)
	args := v[1]
	if args == "" || args == "null" {
		args = "[]"
	}
	switch {
	case !classOK || class == "" || len(class) > maxName:
		return fmt.Errorf("%w: class is not a string of 1 to %d bytes", ErrBadJob, maxName)
	case !nameOK && queue != "" && queue != "null":
		return fmt.Errorf("%w: queue is not a string", ErrBadJob)
	case args[0] != '[':
		return fmt.Errorf("%w: args is not an array", ErrBadJob)
	}
	j.Queue = cmp.Or(j.Queue, name)
	j.Payload = Payload{Class: class, raw: args}
	return nil
}

// appendString appends s, which is valid UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			b, _ = appendJSON(b, s)
			return b
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendJSON is json.Marshal without its escapes for HTML.
func appendJSON(b []byte, v any) ([]byte, error) {
	w := bytes.NewBuffer(b)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(w.Bytes(), []byte("\n")), nil
}

// appendArgs appends arguments as given by a program.
func appendArgs(b []byte, args []any) ([]byte, error) {
	if args == nil {
		return append(b, "[]"...), nil
	}
	start := len(b)
	b, err := appendJSON(b, args)
	if err != nil {
		// The text of the error may quote an argument.
		return nil, fmt.Errorf("%w: arguments cannot be encoded (%T)", ErrBadJob, err)
	}
	// encoding/json turns invalid UTF-8 into this escape without an error, and
	// passes on what a json.Marshaler gives it.
	replaced := bytes.Contains(b[start:], []byte(`\ufffd`)) && !validUTF8(reflect.ValueOf(args), 0)
	if replaced || !utf8.Valid(b[start:]) {
		return nil, fmt.Errorf("%w: arguments are not UTF-8", ErrBadJob)
	}
	return b, nil
}
