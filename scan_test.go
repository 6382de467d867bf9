package linda

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMembersAreThoseOfEncodingJSON(t *testing.T) {
	for _, object := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":1,"b":"x"}`, `{ "a" : [1, {"b":2}] , "c" : {} }`, `{"\"}":"}\\\"","":null,"t":true}`,
		"{\n\t\"a\"\r:\n-1.5e3\t}", `{"\u00e9\ud83d\ude00":"é"}`,
	} {
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(object), &want))
		got := make(map[string]json.RawMessage)
		for name, value := range members(object[skipSpace(object, 0)+1:]) {
			got[name] = json.RawMessage(value)
		}
		assert.Equal(t, want, got)
	}
}

func TestMembersCanBeLeftEarly(t *testing.T) {
	for name := range members(`"a":1,"b":2}`) {
		assert.Equal(t, "a", name)
		break
	}
}

func TestSkippingEndsWhereTheValueDoes(t *testing.T) {
	for text, rest := range map[string]string{
		`1,2`: `,2`, `"a\"b" :`: ` :`, `[1,[2]],3`: `,3`, `{"a":"}"}}`: `}`, `true}`: `}`, `-1e5 `: ` `, `""`: ``, `[]`: ``,
	} {
		end := skipValue(text, 0)
		require.GreaterOrEqual(t, end, 0, text)
		assert.Equal(t, rest, text[end:])
	}
	for _, text := range []string{``, `"`, `"\"`, `"\`, `[`, `{"a":1`, `["]`, `1`} {
		assert.Equal(t, -1, skipValue(text, 0), text)
	}
}
