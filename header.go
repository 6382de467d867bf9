package linda

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// header is linda's bookkeeping: the first member, "linda", of a stored body.
// A body without it gets it when it is first settled, or by its broker at its
// first pop.
type header struct {
	Err        string // Job.LastError; the first, since each push looks at it and at the fields before it
	ID         string
	Deliveries int64             // how often the job was reserved
	Token      string            // tells jobs apart whose ids the program chose, and chose twice
	Settled    int64             // deliveries that are accounted for; the others crashed
	Uncounted  int64             // deliveries that are not attempts
	Failures   int64             // attempts that ended with an error
	Raw        int64             // 1: what follows the header is not a JSON object
	Max        int64             // Job.MaxAttempts
	Limit      int64             // Job.TimeLimit in ms
	Due        int64             // unix ms, for brokers that may hand a job out early
	UniqueKey  string            // Job.UniqueKey
	Headers    map[string]string // Job.Headers

	newer string // members that a newer linda wrote, as they stood: ,"name":value...
}

const (
	headerOpen = `{"linda":{"id":"` // every header starts a body with these bytes
	maxHeader  = 64 << 10
	maxCount   = 1e15 - 1 // a script must be able to count one more without rounding
	maxID      = 128
	maxName    = 255 // bytes of a class or a unique key
	maxReason  = 1 << 10
)

// headerField is a member of the header: value points to the field, which is a
// string, an int64 or a map[string]string.
type headerField struct {
	name  string
	value any
}

// fields lists the members in the order they are written. Their names are part
// of the wire format (docs/design.md). Scripts of the brokers rely on id, n and
// r being first.
func (h *header) fields() [13]headerField {
	return [...]headerField{
		{"id", &h.ID},
		{"n", &h.Deliveries},
		{"r", &h.Token},
		{"s", &h.Settled},
		{"u", &h.Uncounted},
		{"f", &h.Failures},
		{"raw", &h.Raw},
		{"max", &h.Max},
		{"lim", &h.Limit},
		{"due", &h.Due},
		{"uniq", &h.UniqueKey},
		{"h", &h.Headers},
		{"err", &h.Err},
	}
}

// set stores a JSON value, and reports whether it is of the right type.
func (f headerField) set(value string) (ok bool) {
	var err error
	switch v := f.value.(type) {
	case *string:
		*v, ok = unquote(value)
	case *int64:
		*v, err = strconv.ParseInt(value, 10, 64)
		ok = err == nil && 0 <= *v && *v <= maxCount
	case *map[string]string:
		ok = value != "null" && json.Unmarshal([]byte(value), v) == nil
	}
	return ok
}

// appendTo appends the header as the start of a body, up to and without what
// follows the member. Only id and n are written where they are zero, and a
// header without an id gets a new one.
func (h *header) appendTo(b []byte) []byte {
	b = append(b, headerOpen...)
	if h.ID == "" {
		b = appendID(b)
	} else {
		b = append(b, h.ID...)
	}
	b = append(b, `","n":`...)
	b = strconv.AppendInt(b, h.Deliveries, 10)
	if h.Token != "" {
		b = appendString(appendName(b, "r"), h.Token)
	}
	if h.bare() {
		return append(b, '}')
	}
	fields := h.fields()
	for _, f := range fields[3:] {
		switch v := f.value.(type) {
		case *string:
			if *v != "" {
				b = appendString(appendName(b, f.name), *v)
			}
		case *int64:
			if *v != 0 {
				b = strconv.AppendInt(appendName(b, f.name), *v, 10)
			}
		case *map[string]string:
			if len(*v) > 0 {
				b, _ = appendJSON(appendName(b, f.name), *v)
			}
		}
	}
	b = append(b, h.newer...)
	return append(b, '}')
}

// bare reports whether a header has nothing but id, count and token, as that of
// nearly every job.
func (h *header) bare() bool {
	return h.Settled|h.Uncounted|h.Failures|h.Raw|h.Max|h.Limit|h.Due == 0 &&
		h.UniqueKey == "" && len(h.Headers) == 0 && h.Err == "" && h.newer == ""
}

func appendName(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

// read reads the header of a body and returns the index behind it, which is 0
// where there is none. A header that cannot be read is an error, since the
// attempts of its job could not be counted; it is left where it is.
func (h *header) read(body string) (end int, err error) {
	if end = h.readShort(body); end > 0 {
		return end, nil
	}
	lead := skipSpace(body, 0)
	if !strings.HasPrefix(body[lead:], headerOpen) {
		return 0, nil
	}
	from := lead + len(`{"linda":`)
	end = skipValue(body[:min(len(body), from+maxHeader)], from)
	if end < 0 {
		return 0, errors.New("it does not end, or is too long")
	}
	if err = h.parse(body[from:end]); err == nil && !h.goesBefore(body[end:]) {
		err = errors.New("what follows it is not JSON")
	}
	if err != nil {
		*h = header{}
		return 0, err
	}
	return end, nil
}

// goesBefore reports whether the rest of a body can follow the header.
func (h *header) goesBefore(rest string) bool {
	if h.Raw == 1 {
		return strings.HasPrefix(rest, "}")
	}
	i := skipSpace(rest, 0)
	return i < len(rest) && (rest[i] == '}' || rest[i] == ',')
}

// parse reads the object that is the header. It is strict, so that no two
// readers can see different headers in the same bytes.
func (h *header) parse(text string) error {
	if !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return errors.New("not JSON")
	}
	fields := h.fields()
	var seen [len(fields)]bool
	var newer []byte
	for name, value := range members(text[1:]) {
		i := slices.IndexFunc(fields[:], func(f headerField) bool { return f.name == name })
		if i < 0 {
			if newer == nil {
				newer = make([]byte, 0, len(text))
			}
			newer = append(appendString(append(newer, ','), name), ':')
			newer = append(newer, value...)
			continue
		}
		if seen[i] || !fields[i].set(value) {
			return fmt.Errorf("%s is wrong, or there twice", name)
		}
		seen[i] = true
	}
	if !validID(h.ID) || !strings.HasPrefix(text, `{"id":"`+h.ID+`"`) {
		return errors.New("id is not a plain one")
	}
	if h.Raw > 1 || len(h.UniqueKey) > maxName {
		return errors.New("raw or uniq is out of range")
	}
	h.Err, h.newer = clip(h.Err), string(newer)
	return nil
}

// readShort reads the header of nearly every job, {"id":"..","n":1,"r":".."}, at
// the very start of a body and before another member. It returns the index
// behind it, or 0 where it is another one or none.
func (h *header) readShort(body string) (end int) {
	rest, ok := strings.CutPrefix(body, headerOpen)
	if !ok {
		return 0
	}
	id, rest, ok := cutID(rest)
	if !ok {
		return 0
	}
	rest, ok = strings.CutPrefix(rest, `,"n":`)
	digits := skipDigits(rest, 0)
	if !ok || digits < 0 || rest[0] == '0' && digits > 1 {
		return 0
	}
	n, err := strconv.ParseUint(rest[:digits], 10, 63)
	if err != nil || n > maxCount {
		return 0
	}
	token, rest := "", rest[digits:]
	if behind, has := strings.CutPrefix(rest, `,"r":"`); has {
		if token, rest, ok = cutID(behind); !ok {
			return 0
		}
	}
	if !strings.HasPrefix(rest, "},") {
		return 0
	}
	h.ID, h.Deliveries, h.Token = id, int64(n), token
	return len(body) - len(rest) + 1
}

// cutID cuts an id and the quote behind it.
func cutID(s string) (id, rest string, ok bool) {
	end := strings.IndexByte(s, '"')
	if end < 0 || !validID(s[:end]) {
		return "", "", false
	}
	return s[:end], s[end+1:], true
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
	h.Due = 0
	if reason != "" {
		h.Failures++
		h.Err = clip(reason)
	}
	return h
}

// fresh is the header of a dead job that is kicked: its attempts begin anew.
func (h header) fresh() header {
	h.Settled, h.Uncounted = h.Deliveries, h.Deliveries
	h.Failures, h.Err = 0, ""
	return h
}

// clip shortens the text of an error to what a header holds.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "?")
}

// renewed returns the body of a popped job with another header. The rest of
// the body stays as it is, byte for byte.
func (j *Job) renewed(h header) string {
	brace := skipSpace(j.body, 0)
	switch rest := j.body[j.headEnd:]; {
	case j.headEnd > 0:
		return h.before(j.body[:brace], rest)
	case !strings.HasPrefix(j.body[brace:], "{"):
		h.Raw = 1
		return h.before("", "}"+rest)
	case strings.HasPrefix(j.body[skipSpace(j.body, brace+1):], "}"):
		return h.before(j.body[:brace], j.body[brace+1:])
	default:
		return h.before(j.body[:brace], ","+j.body[brace+1:])
	}
}

// before returns the header between what is before and behind it in a body.
func (h *header) before(lead, rest string) string {
	b := h.appendTo(append(make([]byte, 0, len(lead)+len(rest)+192), lead...))
	if len(b)-len(lead) > maxHeader-1<<10 { // of another writer, and a broker may put in a token
		h.Headers, h.newer = nil, ""
		return h.before(lead, rest)
	}
	return string(append(b, rest...))
}

// Body returns the job as its producer wrote it, byte for byte: without
// linda's bookkeeping. It is empty for a job that was not popped.
func (j *Job) Body() []byte {
	rest := j.behindHeader()
	b := make([]byte, 0, len(rest)+1)
	switch {
	case j.headEnd == 0:
		return append(b, rest...)
	case j.head.Raw == 1:
		return append(b, rest[1:]...)
	}
	b = append(b, j.body[:skipSpace(j.body, 0)+1]...) // up to the brace
	return append(b, rest...)
}

// behindHeader returns the body from behind the header and its comma, or all
// of a body without a header.
func (j *Job) behindHeader() string {
	rest := j.body[j.headEnd:]
	if comma := skipSpace(rest, 0); j.headEnd > 0 && strings.HasPrefix(rest[comma:], ",") {
		return rest[comma+1:]
	}
	return rest
}
