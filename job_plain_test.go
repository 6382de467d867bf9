package linda

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPlainArgumentsAreDecodedAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		`["a",1]`: true, `[1]`: true, `["",""]`: true, `[-0,1.0,1e3,-2.5E-3,12345678901234567890]`: true,
		`["é,]\u2028"]`: false, `["é,]["]`: true, `[0.1,"]"]`: true,
		`[]`: false, `[ 1]`: false, `[1 ]`: false, `[1, 2]`: false, `["a" ]`: false,
		`[null]`: false, `[true]`: false, `[[1]]`: false, `[{"a":1}]`: false, `["a\n"]`: false, `[1e999]`: false,
	} {
		args, plain := decodePlain(raw)
		require.Equal(t, want, plain, raw)
		if plain {
			var byJSON []any
			require.NoError(t, json.Unmarshal([]byte(raw), &byJSON), raw)
			assert.Equal(t, byJSON, args, raw)
		}
	}
}

func FuzzPlainArguments(f *testing.F) {
	f.Add(`["an argument",1,-2.5e3]`)
	f.Add(`["a\\","]",1e999]`)
	f.Fuzz(func(t *testing.T, raw string) {
		var want []any
		if _, err := Decode("q", `{"Payload":{"class":"C","args":`+raw+`}}`); err != nil || json.Unmarshal([]byte(raw), &want) != nil {
			t.Skip("not what reaches decodeArgs")
		}
		if args, plain := decodePlain(raw); plain {
			require.Equal(t, want, args)
		}
	})
}
