package beanstalkd

import (
	"bufio"
	"strings"
	"testing"
)

// FuzzReadReply reads whatever a server may send: what is taken is an answer
// with all its data, and the rest is left for the next.
func FuzzReadReply(f *testing.F) {
	for _, seed := range []string{
		"INSERTED 7\r\n", "RESERVED 7 3\r\nabc\r\nOK 0\r\n\r\n", "FOUND 1 0\r\n\r\n", "OK 4\r\n---\n\r\n", "BURIED\r\n", "BURIED 3\r\n",
		"NOT_FOUND\r\n", "OK 1073741825\r\n", "RESERVED 1 -1\r\n", "RESERVED\r\n", "\r\n", "OK 5\r\nab", strings.Repeat("x", 40<<10),
		"RESERVED 18446744073709551616 1\r\na\r\n", "DEADLINE_SOON\r\n", "OUT_OF_MEMORY\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := bufio.NewReaderSize(strings.NewReader(text), 64)
		for {
			answer, err := readReply(r)
			if err != nil {
				return
			}
			if !strings.Contains(text, answer.word) || !strings.Contains(text, answer.data) {
				t.Fatalf("%+v was never sent", answer)
			}
			_ = answer.err("OK")
			_ = field(answer.data, "ttr")
		}
	})
}

func TestAnswersThatAreNoneEndTheConnection(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"INSERTED x\r\n", "RESERVED 1\r\n", "RESERVED x 1\r\n", "OK -1\r\n", "OK 9999999999\r\n", "OK 5\r\nab"} {
		if answer, err := readReply(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q is read as %+v", text, answer)
		}
	}
}
