package linda

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPlainArgumentsAreDecodedAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		`["a",1]`: true, `[1]`: true, `["",""]`: true, `[-0,1.0,1e3,-2.5E-3,12345678901234567890]`: true,
		`["é,]\u2028"]`: false, `["é,]["]`: true, `[0.1,"]"]`: true,
		`[]`: true, `[]]`: false, `[,]`: false, `[ ]`: false, `[ 1]`: false, `[1 ]`: false, `[1, 2]`: false, `["a" ]`: false,
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

func TestWhatEncodeWritesIsReadInOnePass(t *testing.T) {
	for _, args := range [][]any{nil, {}, {"a", 1, -1.5, true, false, nil}, {"é"}, {int64(7), 1e300, ""}} {
		body, err := Encode(&Job{Payload: Payload{Class: "C", Args: args}}, "q")
		require.NoError(t, err)
		job := &Job{body: string(body)}
		job.headEnd, err = job.head.read(job.body)
		require.NoError(t, err)
		require.True(t, job.decodeShort(), "%s", body)
	}
}

func TestBodiesThatAreNotPlainAreLeftToTheDecoder(t *testing.T) {
	for _, body := range []string{
		`,"queue":"q","Payload":{"class":"C","args":[]}}`, `{"queue":"q","Payload":{"class":"","args":[]}}`,
		`{"queue":"q","Payload":{"class":"C","args":[]}} `, `{"queue":"q","Payload":{"class":"C","args":[]},"x":1}}`,
		`{"queue":"q","Payload":{"class":"C","args":["\u0061"]}}`, "{\"queue\":\"q\",\"Payload\":{\"class\":\"C\",\"args\":[\"\xff\"]}}",
		`{"queue":"q","Payload":{"class":"C","args":[01]}}`, `{"queue":"q","Payload":{"class":"C","args":[1.]}}`,
		`{"queue":"q","Payload":{"class":"C","args":[1e]}}`, `{"queue":"q","Payload":{"class":"C","args":[-]}}`,
		`{"queue":"q","Payload":{"class":"C","args":[+1]}}`, `{"queue":"q","Payload":{"class":"C","args":[.5]}}`,
		`{"queue":"q","Payload":{"class":"C","args":[1,]}}`, `{"queue":"q","Payload":{"class":"C","args":[,1]}}`,
		`{"queue":"q","Payload":{"class":"C","args":[tru]}}`, `{"queue":"q","Payload":{"class":"C","args":[1}}`,
		`{"queue":"q","Payload":{"class":"C","args":[[]]}}`, `{"queue":"q","Payload":{"class":"C","args":1}}`, "",
	} {
		require.False(t, (&Job{body: body}).decodeShort(), "%s", body)
	}
}

func TestPlainArgumentsAreWrittenAsEncodingJSONDoes(t *testing.T) {
	for _, arg := range []any{
		"", "a b<>&", 0, -7, int64(1) << 62, 0.0, 1.5, 1e20, 1e21, 1e-6, 9e-7, 123456789.25, math.MaxFloat64, true, false, nil,
		"\u2028", "quote\"", "back\\slash", "\x1f", "é", math.Copysign(0, -1), uint8(3), float32(0.1), []any{1},
	} {
		want, err := appendJSON(nil, []any{arg})
		require.NoError(t, err)
		if got, ok := appendPlain(nil, []any{arg}); ok {
			require.Equal(t, string(want), string(got))
		}
	}
	for _, arg := range []any{math.NaN(), math.Inf(1), "\xff", struct{}{}} {
		_, ok := appendPlain(nil, []any{arg})
		require.False(t, ok)
	}
}
