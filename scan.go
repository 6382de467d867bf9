package linda

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkLimits refuses a body that would be costly to decode. It counts before
// anything is decoded and needs no valid JSON.
func checkLimits(body []byte) error {
	if len(body) > MaxBody {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxBody)
	}
	depth, nested, values := 0, 0, 1
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			if i = skipString(body, i) - 1; i < 0 {
				return nil // not JSON, which is for the decoder to say
			}
		case '[', '{':
			depth++
			nested++
		case ']', '}':
			depth--
		case ',':
			values++
		}
		switch {
		case depth > MaxDepth:
			return fmt.Errorf("%w: nested deeper than %d", ErrTooLarge, MaxDepth)
		case nested > maxNested:
			return fmt.Errorf("%w: more than %d arrays and objects", ErrTooLarge, maxNested)
		case values > maxValues:
			return fmt.Errorf("%w: more than %d values", ErrTooLarge, maxValues)
		}
	}
	return nil
}

// find returns the raw values of the members with these names, in their order,
// "" for one that is missing. Names are compared exactly; one that is there
// twice is an error, since readers disagree about which of them counts. For
// text see members.
func find(text string, names ...string) (values [3]string, err error) {
	for name, value := range members(text) {
		i := slices.Index(names, name)
		if i < 0 {
			continue
		}
		if values[i] != "" {
			return values, fmt.Errorf("%w: %s is there twice", ErrBadJob, name)
		}
		values[i] = value
	}
	return values, nil
}

// members iterates over the names and raw values of a JSON object, which is
// valid. The text starts behind the brace that opens it.
func members(text string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i := skipSpace(text, 0); text[i] != '}'; i = skipSpace(text, i) {
			if text[i] == ',' {
				i = skipSpace(text, i+1)
			}
			end := skipString(text, i)
			name, _ := unquote(text[i:end])
			i = skipSpace(text, skipSpace(text, end)+1) // over the colon
			end = skipValue(text, i)
			if !yield(name, text[i:end]) {
				return
			}
			i = end
		}
	}
}

// unquote decodes a JSON value that is valid, and reports whether it is a
// string.
func unquote(value string) (string, bool) {
	if !strings.HasPrefix(value, `"`) {
		return "", false
	}
	if !strings.Contains(value, `\`) {
		return value[1 : len(value)-1], true
	}
	var s string
	err := json.Unmarshal([]byte(value), &s)
	return s, err == nil
}

func skipSpace[T string | []byte](s T, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n') {
		i++
	}
	return i
}

// skipString returns the index behind the string that opens at i, or -1 where
// it does not end.
func skipString[T string | []byte](s T, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// skipValue returns the index behind the JSON value that starts at i, or -1
// where it does not end. The value need not be valid.
func skipValue(s string, i int) int {
	depth := 0
	for i < len(s) {
		switch s[i] {
		case '"':
			if i = skipString(s, i); i < 0 {
				return -1
			}
			if depth == 0 {
				return i
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth < 0 {
				return i
			}
			if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}

// validUTF8 reports whether every string within v is valid UTF-8.
func validUTF8(v reflect.Value, depth int) bool {
	if depth > 2*MaxDepth {
		return true // too deep a value is refused by checkLimits
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Interface, reflect.Pointer:
		return v.IsNil() || validUTF8(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return true // base64, or raw JSON, which says what it means
		}
		for i := range v.Len() {
			if !validUTF8(v.Index(i), depth+1) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !validUTF8(v.Field(i), depth+1) {
				return false
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !validUTF8(it.Key(), depth+1) || !validUTF8(it.Value(), depth+1) {
				return false
			}
		}
	}
	return true
}
