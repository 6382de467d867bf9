package linda

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
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
	maxHeader = 64 << 10
	maxReason = 1 << 10
	maxID     = 128
)

// header is linda's bookkeeping: the first member, "linda", of a body. Its
// short names are part of the wire format (docs/design.md). Scripts of the
// brokers rely on id, n and r being first, in this order.
type header struct {
	ID         string            `json:"id"`
	Deliveries int64             `json:"n"`              // how often the job was reserved
	Token      string            `json:"r,omitempty"`    // fences the last reservation, where the broker has no token of its own
	Settled    int64             `json:"s,omitempty"`    // deliveries that are accounted for; the others crashed
	Uncounted  int64             `json:"u,omitempty"`    // deliveries that are not attempts
	Failures   int64             `json:"f,omitempty"`    // attempts that ended with an error
	Raw        int               `json:"raw,omitempty"`  // 1: what follows the header is not a JSON object
	Max        int               `json:"max,omitempty"`  // Job.MaxAttempts
	Limit      int64             `json:"lim,omitempty"`  // Job.TimeLimit in ms
	Due        int64             `json:"due,omitempty"`  // unix ms, for brokers that may hand a job out early
	UniqueKey  string            `json:"uniq,omitempty"` // Job.UniqueKey
	Headers    map[string]string `json:"h,omitempty"`    // Job.Headers
	Err        string            `json:"err,omitempty"`  // Job.LastError
}

const headerOpen = `{"linda":{"id":"`

// text renders the header as the start of a body, up to and without what
// follows the member.
func (h *header) text() string {
	b, err := marshal(h)
	if err != nil { // every field is plain data
		panic(err)
	}
	return `{"linda":` + string(b)
}

// Encode returns the body that a broker stores for a job that is pushed to a
// queue. It is a new job even where job was popped. For authors of brokers;
// what a settlement stores is [Settlement.Body].
func Encode(job *Job, queue string) ([]byte, error) {
	head, err := newHeader(job)
	if err != nil {
		return nil, err
	}
	args, err := job.Payload.encodedArgs()
	if err != nil {
		return nil, err
	}
	class, err := marshal(job.Payload.Class)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(args)+192)
	b = append(b, head.text()...)
	bookkeeping := len(b)
	b = append(b, `,"queue":"`...)
	b = append(b, queue...) // CheckName lets nothing pass that JSON escapes
	b = append(b, `","Payload":{"class":`...)
	b = append(b, class...)
	b = append(b, `,"args":`...)
	b = append(b, args...)
	b = append(b, "}}"...)
	if err := checkLimits("{"+string(b[bookkeeping+1:]), 0); err != nil { // as Decode will find it
		return nil, err
	}
	return b, nil
}

// newHeader checks what the caller set on a job that is pushed for the first
// time.
func newHeader(job *Job) (*header, error) {
	h := &header{
		ID: job.ID, Max: job.MaxAttempts, Limit: job.TimeLimit.Milliseconds(),
		UniqueKey: job.UniqueKey, Headers: job.Headers,
	}
	if job.receipt == nil {
		h.Err = job.head.Err
	}
	if h.ID == "" || job.receipt != nil {
		h.ID = NewID()
	}
	switch c := job.Payload.Class; {
	case !validID(h.ID):
		return nil, fmt.Errorf("%w: id %.64q: 1 to %d printable ASCII characters, no quote or backslash", ErrBadJob, h.ID, maxID)
	case c == "" || len(c) > 255 || !utf8.ValidString(c):
		return nil, fmt.Errorf("%w: class %.64q: 1 to 255 bytes of UTF-8", ErrBadJob, c)
	case len(job.UniqueKey) > 255 || !utf8.ValidString(job.UniqueKey):
		return nil, fmt.Errorf("%w: unique key: up to 255 bytes of UTF-8", ErrBadJob)
	case job.MaxAttempts < 0 || job.TimeLimit < 0 || job.UniqueTTL < 0:
		return nil, fmt.Errorf("%w: MaxAttempts, TimeLimit and UniqueTTL cannot be negative", ErrBadJob)
	}
	size := 0
	for k, v := range job.Headers {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return nil, fmt.Errorf("%w: headers: not UTF-8", ErrBadJob)
		}
	}
	if size > maxHeader/8 { // room for the escapes of JSON
		return nil, fmt.Errorf("%w: headers: %d bytes, at most %d", ErrTooLarge, size, maxHeader/8)
	}
	return h, nil
}

func validID(id string) bool {
	ok := 1 <= len(id) && len(id) <= maxID
	for i := 0; ok && i < len(id); i++ {
		ok = ' ' < id[i] && id[i] < 0x7f && id[i] != '"' && id[i] != '\\'
	}
	return ok
}

// after is the header of a delivery that is settled: unstarted means that no
// handler ran, uncounted that the run is no attempt, and a reason that it
// failed.
func (h header) after(unstarted, uncounted bool, reason string) header {
	if unstarted {
		h.Settled++ // this delivery did not crash; what earlier ones did stands
	} else {
		h.Settled = h.Deliveries
	}
	if unstarted || uncounted {
		h.Uncounted++
	}
	if reason != "" {
		h.Failures++
		h.Err = clip(reason)
	}
	return h
}

// fresh is the header of a dead job that is kicked: its attempts begin anew.
func (h header) fresh() header {
	h.Settled, h.Uncounted = h.Deliveries, h.Deliveries
	h.Failures, h.Err, h.Token = 0, "", ""
	return h
}

// clip shortens the text of an error to what a header holds.
func clip(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// renewed returns the body of a popped job with another header.
func (j *Job) renewed(h header) string {
	text, rest, found := cutHeader(j.body)
	switch {
	case found:
		return text[:strings.IndexByte(text, '{')] + h.text() + rest
	case startsObject(j.body):
		i := strings.IndexByte(j.body, '{')
		return j.body[:i] + h.text() + separator(j.body[i+1:]) + j.body[i+1:]
	default:
		h.Raw = 1
		return h.text() + "}" + j.body
	}
}

// separator is what goes between a header and the members that followed the
// opening brace.
func separator(members string) string {
	if strings.HasPrefix(strings.TrimLeft(members, jsonSpace), "}") {
		return ""
	}
	return ","
}

const jsonSpace = " \t\r\n"

func startsObject(s string) bool {
	return strings.HasPrefix(strings.TrimLeft(s, jsonSpace), "{")
}

// original returns a body without its header: what its producer wrote.
func original(body string) string {
	text, rest, found := cutHeader(body)
	if !found {
		return body
	}
	lead := text[:strings.IndexByte(text, '{')]
	if strings.Contains(text, `,"raw":1`) {
		if h, err := parseHeader(text); err == nil && h.Raw == 1 {
			return strings.TrimPrefix(rest, "}")
		}
	}
	return lead + "{" + strings.TrimPrefix(rest, ",")
}

// cutHeader splits a body behind the header: text starts with the brace that
// opens the body (and space before it), rest with what follows the member.
func cutHeader(body string) (text, rest string, found bool) {
	lead := len(body) - len(strings.TrimLeft(body, jsonSpace))
	if !strings.HasPrefix(body[lead:], headerOpen) {
		return "", body, false
	}
	from := lead + len(`{"linda":`)
	end := skipValue(body, from)
	if end < 0 || end-from > maxHeader {
		return "", body, false
	}
	return body[:end], body[end:], true
}

// parseHeader reads what cutHeader found.
func parseHeader(text string) (header, error) {
	var h header
	text = text[strings.IndexByte(text, '{')+len(`"linda":`)+1:]
	if h.parseShort(text) {
		return h, nil
	}
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return header{}, err
	}
	if !validID(h.ID) || h.Deliveries < 0 {
		return header{}, fmt.Errorf("id or n out of range")
	}
	return h, nil
}

// parseShort reads the header of nearly every job, {"id":"..","n":1,"r":".."},
// and reports whether it was that.
func (h *header) parseShort(text string) bool {
	text, _ = strings.CutPrefix(text, `{"id":"`)
	id, text, ok := strings.Cut(text, `","n":`)
	if !ok || !validID(id) {
		return false
	}
	number, token, hasToken := strings.Cut(strings.TrimSuffix(text, "}"), `,"r":"`)
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return false
	}
	if hasToken {
		token, ok = strings.CutSuffix(token, `"`)
		if !ok || !validID(token) {
			return false
		}
	}
	h.ID, h.Deliveries, h.Token = id, n, token
	return true
}

// Decode reads a body that was stored in a queue. The job is never nil: where
// the body is not a job, Err tells why, Body holds it byte for byte, and the
// job can be settled like any other, so that linda can bury it. For authors of
// brokers.
func Decode(queue, body string) (*Job, error) {
	j := &Job{Queue: queue, body: body}
	text, _, found := cutHeader(body)
	if found {
		j.head, j.err = parseHeader(text)
	}
	if j.err == nil {
		j.err = j.decode(original(body))
	} else {
		j.err = fmt.Errorf("%w: header: %v", ErrBadJob, j.err)
	}
	if j.head.ID == "" {
		j.head.ID = NewID()
	}
	j.ID, j.Headers = j.head.ID, j.head.Headers
	j.MaxAttempts, j.UniqueKey = j.head.Max, j.head.UniqueKey
	j.TimeLimit = time.Duration(j.head.Limit) * time.Millisecond
	return j, j.err
}

// decode reads the part of the body that is not linda's.
func (j *Job) decode(body string) error {
	if err := checkLimits(body, 0); err != nil {
		return err
	}
	if !utf8.ValidString(body) {
		return fmt.Errorf("%w: not UTF-8", ErrBadJob)
	}
	if !json.Valid([]byte(body)) || !startsObject(body) {
		return fmt.Errorf("%w: not a JSON object", ErrBadJob)
	}
	var queue, payload string
	if err := members(body, map[string]*string{"queue": &queue, "Payload": &payload, "payload": &payload}); err != nil {
		return err
	}
	if !strings.HasPrefix(payload, "{") {
		return fmt.Errorf("%w: Payload is not an object", ErrBadJob)
	}
	var class, args string
	if err := members(payload, map[string]*string{"class": &class, "args": &args}); err != nil {
		return err
	}
	if err := unquote(class, &j.Payload.Class); err != nil || j.Payload.Class == "" {
		return fmt.Errorf("%w: class is not a name", ErrBadJob)
	}
	if queue == "null" {
		queue = ""
	}
	if err := unquote(queue, &queue); err != nil && queue != "" {
		return fmt.Errorf("%w: queue is not a string", ErrBadJob)
	}
	if j.Queue == "" {
		j.Queue = queue
	}
	switch {
	case args == "" || args == "null":
		args = "[]"
	case args[0] != '[':
		return fmt.Errorf("%w: args is not an array", ErrBadJob)
	}
	j.Payload.raw = json.RawMessage(args)
	return nil
}

func unquote(token string, to *string) error {
	if n := len(token); n >= 2 && token[0] == '"' && !strings.Contains(token, `\`) {
		*to = token[1 : n-1]
		return nil
	}
	var s *string
	if err := json.Unmarshal([]byte(token), &s); err != nil || s == nil {
		return fmt.Errorf("%w: not a string", ErrBadJob)
	}
	*to = *s
	return nil
}

// marshal is json.Marshal without its escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// encodeArgs encodes arguments as given by a program.
func encodeArgs(args []any) ([]byte, error) {
	if args == nil {
		return []byte("[]"), nil
	}
	b, err := marshal(args)
	if err != nil {
		// The text of the error may quote an argument.
		return nil, fmt.Errorf("%w: arguments cannot be encoded (%T)", ErrBadJob, err)
	}
	// encoding/json turns invalid UTF-8 into this escape without an error.
	if bytes.Contains(b, []byte(`\ufffd`)) && !validUTF8(reflect.ValueOf(args), 0) {
		return nil, fmt.Errorf("%w: arguments are not UTF-8", ErrBadJob)
	}
	return b, nil
}
