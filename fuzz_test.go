package linda

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzDecode: no body panics or is changed, and what a settlement stores is
// the same job with its counts.
func FuzzDecode(f *testing.F) {
	for _, body := range badBodies {
		f.Add(body)
	}
	f.Add(plain(`[1, "<&>"]`))
	f.Add(`{"linda":{"id":"0"},}`)
	f.Add(`{"linda":{"id":"0"},,"Payload":{"class":"C"}}`)
	f.Add(" \n" + plain(`[]`))
	f.Add(`{"linda":{"id":"x","n":3,"r":"t"} , "Payload":{"class":"C"}}`)
	f.Add(`{"linda":{"id":"x","n":1,"raw":1}} {"Payload":{"class":"C"}}`)
	f.Add(`{"linda":{"id":"x","n":9,"s":8,"u":1,"f":2,"max":3,"lim":4,"due":5,"uniq":"k","h":{"a":"b"},"err":"e","new":{}},"Payload":{"class":"C"}}`)
	f.Fuzz(func(t *testing.T, body string) {
		job, err := Decode("q", body)
		require.Equal(t, err, job.Err())
		original := string(job.Body())
		if job.headEnd == 0 {
			require.Equal(t, body, original)
		}
		require.LessOrEqual(t, len(original), len(body))

		job.head.Deliveries++
		stored := (&Settlement{Job: job, Op: OpRelease, Reason: "no"}).Body()
		again, err := Decode("q", stored)
		require.NotZero(t, again.headEnd)
		require.Equal(t, original, string(again.Body()))
		if badHeader := job.headEnd == 0 && strings.HasPrefix(body[skipSpace(body, 0):], headerOpen); !badHeader {
			// behind a good one, a bad one is a member like others
			require.Equal(t, job.Err() == nil, err == nil, "%v, then %v", job.Err(), err)
			require.Equal(t, job.Payload, again.Payload)
		}
		require.Equal(t, job.ID, again.ID)
		require.Equal(t, job.head.after(false, false, "no").counts(), again.head.counts())
		require.Equal(t, job.head.newer, again.head.newer)
		require.Equal(t, stored, again.renewed(again.head), "it is stable")

		if job.Err() != nil {
			return
		}
		slow := &Job{Queue: "q", body: body}
		slow.headEnd, _ = slow.head.read(body)
		require.NoError(t, slow.decode(), "what one pass accepts is a job")
		require.Equal(t, slow.Payload, job.Payload, "and the same one")
		require.True(t, json.Valid([]byte(stored)) || job.head.Raw == 1)
		job.fillArgs()
		pushed, err := Encode(job, "q")
		if err == nil { // its class, say, may be one that no program can push
			require.Equal(t, job.Payload.raw, decoded(t, string(pushed)).Payload.raw)
		}
	})
}

func (h header) counts() []int64 {
	return []int64{h.Deliveries, h.Settled, h.Uncounted, h.Failures, h.Max, h.Limit, h.Due}
}

// FuzzEncodeDecode: what Push takes comes out of Pop; the rest is refused at
// Push.
func FuzzEncodeDecode(f *testing.F) {
	f.Add("C", "arg", "id", "key", "header")
	f.Add(`"}\`, "\u2028<&>\x00", "", "\x7f", "\ufffd")
	f.Add("\xff", "\xff", "é", "\xff", "\xff")
	f.Add(strings.Repeat("c", maxName), strings.Repeat("[", 1000), strings.Repeat("i", maxID), "", "")
	f.Fuzz(func(t *testing.T, class, arg, id, key, value string) {
		job := &Job{ID: id, UniqueKey: key, Headers: map[string]string{value: value}, Payload: Payload{Class: class, Args: []any{arg, map[string]any{arg: arg}}}}
		body, err := Encode(job, "q")
		valid := utf8.ValidString(class + "\n" + arg + "\n" + key + "\n" + value)
		if err != nil {
			fits := class != "" && len(class) <= maxName && len(key) <= maxName && len(value) < 4000 && (id == "" || validID(id))
			require.False(t, valid && fits && len(arg) < 1000, "%v", err)
			return
		}
		require.True(t, valid)
		require.True(t, json.Valid(body))
		got := decoded(t, string(body))
		got.fillArgs()
		require.Equal(t, job.Payload.Class, got.Payload.Class)
		require.Equal(t, job.Payload.Args, got.Payload.Args)
		require.Equal(t, job.UniqueKey, got.UniqueKey)
		require.Equal(t, job.Headers, got.Headers)
		if id != "" {
			require.Equal(t, id, got.ID)
		}
	})
}

// FuzzName: a name is taken where it keeps to the grammar, and can do no harm.
func FuzzName(f *testing.F) {
	for _, name := range badNames {
		f.Add(name)
	}
	f.Add("mail.dead")
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	f.Fuzz(func(t *testing.T, name string) {
		want := 1 <= len(name) && len(name) <= 60 && strings.Trim(name, letters+"._-") == "" &&
			!slices.Contains([]byte("._-"), name[0])
		for _, c := range name {
			want = want && strings.ContainsRune(letters+"._-", c)
		}
		err := CheckName(name)
		require.Equal(t, want, err == nil, "%q", name)
		if err != nil {
			require.ErrorIs(t, err, ErrBadName)
		}
	})
}

// FuzzHeader: the header is what encoding/json reads in the same bytes, on
// both ways of reading it, and comes out of appendTo as it went in.
func FuzzHeader(f *testing.F) {
	for _, body := range badBodies {
		if strings.HasPrefix(body, headerOpen) {
			f.Add(body)
		}
	}
	for _, head := range []string{
		`{"id":"x","n":1}`, `{"id":"x","n":0,"r":"t"}`, `{"id":"x","n":01}`, `{"id":"x","n":+1}`, `{"id":"x","n":-0}`, `{"id":"x","n":1,"r":""}`,
		`{"id":"x","n":1,"r":"t","s":1}`, `{"id":"x","n":1_0}`, `{"id":"x","n":1]`, `{"id":"x","n":1,"r":"t"]`, `{"id":"x","n":999999999999999}`,
		`{"id":"x","n":1000000000000000}`, `{"id":"x","n":1 }`, `{"id":"x","h":{}}`, `{"id":"x","N":1,"ID":"y"}`, `{"id":"x","h":{"a":"\ud800"},"err":"\u0000"}`,
	} {
		f.Add(`{"linda":` + head + `,"Payload":{"class":"C"}}`)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var h header
		end, err := h.read(body)
		if end == 0 {
			require.Equal(t, header{}, h)
			require.Equal(t, err != nil, strings.HasPrefix(body[skipSpace(body, 0):], headerOpen))
			return
		}
		require.NoError(t, err)
		require.True(t, validID(h.ID))
		text := body[skipSpace(body, 0)+len(`{"linda":`) : end]

		var exact map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(text), &exact), text)
		for _, field := range h.fields() {
			if raw, there := exact[field.name]; there {
				same, err := json.Marshal(field.value)
				require.NoError(t, err)
				if field.name != "err" { // may be clipped
					require.JSONEq(t, strings.Replace(string(raw), "-0", "0", 1), string(same), field.name)
				}
			}
		}

		written := string(h.appendTo(nil))
		if len(written) > maxHeader {
			return
		}
		var again header
		_, err = again.read(written + "}")
		require.NoError(t, err, written)
		if len(h.Headers) == 0 {
			h.Headers = nil
		}
		require.Equal(t, h, again)
	})
}
