package linda

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Nearly every job is written by Encode with arguments that are strings without
// escapes and numbers. This file reads and writes those in one pass, several
// times faster than encoding/json, and leaves everything else to it.

// decodeShort reads the part of a body that is not linda's where it is written
// as Encode writes it and the arguments are plain, in one pass, and reports
// whether it was so. Everything else is for decode, which finds the same in
// what decodeShort accepts.
func (j *Job) decodeShort() bool {
	rest := j.body[j.headEnd:]
	opens := "{"
	if j.headEnd > 0 {
		opens = ","
	}
	if j.head.Raw == 1 || len(rest) > MaxBody || !strings.HasPrefix(rest, opens) {
		return false
	}
	queue, rest, ok := cutPlain(rest[1:], `"queue":`)
	if !ok {
		return false
	}
	class, rest, ok := cutPlain(rest, `,"Payload":{"class":`)
	if !ok || class == "" || len(class) > maxName {
		return false
	}
	args, ok := strings.CutPrefix(rest, `,"args":`)
	if !ok {
		return false
	}
	if args, ok = strings.CutSuffix(args, "}}"); !ok || !plainArgs(args) {
		return false
	}
	if j.Queue == "" {
		j.Queue = queue
	}
	j.Payload = Payload{Class: class, raw: args}
	return true
}

// cutPlain cuts a prefix and the plain JSON string behind it, and returns the
// string's text and what follows it.
func cutPlain(s, prefix string) (text, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, prefix); !ok {
		return "", "", false
	}
	end := skipPlain(s, 0)
	if end < 0 {
		return "", "", false
	}
	return s[1 : end-1], s[end:], true
}

// skipPlain returns the index behind the JSON string that starts at i if it is
// one without escapes, else -1.
func skipPlain(s string, i int) int {
	if i >= len(s) || s[i] != '"' {
		return -1
	}
	start, wide := i+1, false
	for i = start; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && wide && !utf8.ValidString(s[start:i]):
			return -1
		case c == '"':
			return i + 1
		case c < ' ' || c == '\\':
			return -1
		case c >= utf8.RuneSelf:
			wide = true
		}
	}
	return -1
}

// plainArgs reports whether s is a JSON array of strings without escapes,
// numbers, true, false and null, without white space, within the limits.
func plainArgs(s string) bool {
	if s == "[]" {
		return true
	}
	if s == "" || s[0] != '[' {
		return false
	}
	for i, values := 1, 1; values < maxValues/2; values++ {
		if i = skipScalar(s, i); i < 0 || i >= len(s) {
			return false
		}
		if s[i] == ']' {
			return i == len(s)-1
		}
		if s[i] != ',' {
			return false
		}
		i++
	}
	return false
}

// skipScalar returns the index behind the plain value that starts at i, or -1.
func skipScalar(s string, i int) int {
	if i >= len(s) {
		return -1
	}
	switch s[i] {
	case '"':
		return skipPlain(s, i)
	case 't':
		return skipWord(s, i, "true")
	case 'f':
		return skipWord(s, i, "false")
	case 'n':
		return skipWord(s, i, "null")
	}
	return skipNumber(s, i)
}

func skipWord(s string, i int, word string) int {
	if !strings.HasPrefix(s[i:], word) {
		return -1
	}
	return i + len(word)
}

// skipNumber returns the index behind the JSON number that starts at i, or -1.
func skipNumber(s string, i int) int {
	if i < len(s) && s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if i = skipDigits(s, i); i < 0 {
		return -1
	}
	if i < len(s) && s[i] == '.' {
		if i = skipDigits(s, i+1); i < 0 {
			return -1
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		i = skipDigits(s, i)
	}
	return i
}

// skipDigits returns the index behind the digits that start at i, or -1 where
// there is none.
func skipDigits(s string, i int) int {
	start := i
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// decodePlain decodes the arguments of nearly every job, strings and numbers
// without escapes, white space or anything nested, in a fifth of the time of
// encoding/json. It reports whether they were that.
func decodePlain(raw string) (args []any, plain bool) {
	rest, ok := strings.CutPrefix(raw, "[")
	if !ok {
		return nil, false
	}
	if rest == "]" {
		return []any{}, true
	}
	args = make([]any, 0, min(8, 1+strings.Count(raw, ",")))
	for {
		value, end := plainValue(rest)
		if end < 0 || end == len(rest) {
			return nil, false
		}
		args = append(args, value)
		if rest[end:] == "]" {
			return args, true
		}
		if rest[end] != ',' {
			return nil, false
		}
		rest = rest[end+1:]
	}
}

// plainValue decodes the string or number that s starts with, and returns the
// index behind it, or -1 where it is not plain.
func plainValue(s string) (value any, end int) {
	if s == "" {
		return nil, -1
	}
	if s[0] == '"' {
		end = 1 + strings.IndexByte(s[1:], '"')
		if end == 0 || strings.IndexByte(s[1:end], '\\') >= 0 {
			return nil, -1
		}
		return s[1:end], end + 1
	}
	if end = skipNumber(s, 0); end < 0 {
		return nil, -1
	}
	number, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return nil, -1
	}
	return number, end
}

// appendPlain appends arguments as encoding/json would, and reports whether all
// of them are plain: ASCII strings without escapes, numbers, true, false and
// nil.
func appendPlain(b []byte, args []any) (plain []byte, ok bool) {
	if len(args) > maxValues/2 {
		return nil, false
	}
	b = append(b, '[')
	for i, arg := range args {
		if i > 0 {
			b = append(b, ',')
		}
		switch v := arg.(type) {
		case string:
			if !ascii(v) {
				return nil, false
			}
			b = append(append(append(b, '"'), v...), '"')
		case int:
			b = strconv.AppendInt(b, int64(v), 10)
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case float64:
			if !plainFloat(v) {
				return nil, false
			}
			b = strconv.AppendFloat(b, v, 'f', -1, 64)
		case bool:
			b = strconv.AppendBool(b, v)
		case nil:
			b = append(b, "null"...)
		default:
			return nil, false
		}
	}
	return append(b, ']'), true
}

// plainSize returns how many bytes appendPlain appends at most, and whether it
// will.
func plainSize(args []any) (size int, ok bool) {
	const number = 32 // bytes of the longest, and more than true, false and null
	if len(args) > maxValues/2 {
		return 0, false
	}
	size = len("[]") + (number+len(","))*len(args)
	for _, arg := range args {
		switch v := arg.(type) {
		case string:
			if !ascii(v) {
				return 0, false
			}
			size += len(v)
		case int, int64, bool, nil:
		case float64:
			if !plainFloat(v) {
				return 0, false
			}
		default:
			return 0, false
		}
	}
	return size, true
}

// plainFloat reports whether a number is written without an exponent.
func plainFloat(v float64) bool {
	size := math.Abs(v)
	return v == 0 || 1e-6 <= size && size < 1e21
}

// ascii reports whether s is a JSON string as it stands, of ASCII only.
func ascii(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
