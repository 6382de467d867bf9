package linda

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// checkLimits refuses a body that would be costly to decode. It counts before
// anything is allocated and needs no valid JSON. The depth is that of the
// arrays and objects already open where body starts.
func checkLimits(body string, depth int) error {
	if len(body) > MaxBody {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxBody)
	}
	nested, values := depth, 1
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

// members stores the raw values of the wanted members of a valid JSON object.
// Names are compared exactly; a wanted member that is there twice is an error,
// since readers disagree about which of them counts.
func members(object string, wanted map[string]*string) error {
	i := strings.IndexByte(object, '{') + 1
	for {
		i = skipSpace(object, i)
		if object[i] == '}' {
			return nil
		}
		if object[i] == ',' {
			i = skipSpace(object, i+1)
		}
		end := skipString(object, i)
		var name string
		if err := unquote(object[i:end], &name); err != nil {
			return err
		}
		i = skipSpace(object, skipSpace(object, end)+1) // over the colon
		end = skipValue(object, i)
		if to, ok := wanted[name]; ok {
			if *to != "" {
				return fmt.Errorf("%w: %s is there twice", ErrBadJob, name)
			}
			*to = object[i:end]
		}
		i = end
	}
}

func skipSpace(s string, i int) int {
	for i < len(s) && strings.IndexByte(jsonSpace, s[i]) >= 0 {
		i++
	}
	return i
}

// skipString returns the index behind the string that opens at i, or -1 where
// it does not end.
func skipString(s string, i int) int {
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
