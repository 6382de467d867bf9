package beanstalkd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/amlun/linda"
)

// ErrDraining is the [linda.ErrFull] of a server in drain mode: since SIGUSR1 it
// takes no new jobs.
var ErrDraining = fmt.Errorf("linda/beanstalkd: the server is draining: %w", linda.ErrFull)

// errBusy ends a call before anything was sent for it.
var errBusy = errors.New("linda/beanstalkd: the server has not answered what was sent before")

// errRetired ends a connection that another has taken the place of.
var errRetired = errors.New("not needed any more")

// errSilent ends a connection that has not answered for too long.
var errSilent = errors.New("no answer")

// reply is one answer of the server: RESERVED 7 5, DELETED, OK 250 and so on.
type reply struct {
	word string
	id   uint64 // where the answer has one
	data string // where it is followed by data
}

// maxData bounds what the server can make us read; no body is that long.
const maxData = 1 << 30

// words interns the answers that come often.
var words = map[string]string{}

func init() {
	for _, w := range []string{
		"INSERTED", "RESERVED", "FOUND", "OK", "DELETED", "RELEASED", "BURIED", "TOUCHED", "NOT_FOUND", "TIMED_OUT",
		"USING", "WATCHING", "KICKED", "DEADLINE_SOON",
	} {
		words[w] = w
	}
}

func readReply(r *bufio.Reader) (reply, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return reply{}, err
	}
	word, rest, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte{' '})
	answer := reply{word: words[string(word)]}
	var size uint64
	switch answer.word {
	case "":
		answer.word = string(word)
	case "INSERTED":
		answer.id, err = strconv.ParseUint(string(rest), 10, 64)
	case "BURIED": // with an id as the answer to a put
		answer.id, _ = strconv.ParseUint(string(rest), 10, 64)
	case "RESERVED", "FOUND":
		id, length, _ := bytes.Cut(rest, []byte{' '})
		if answer.id, err = strconv.ParseUint(string(id), 10, 64); err == nil {
			size, err = strconv.ParseUint(string(length), 10, 64)
		}
	case "OK":
		size, err = strconv.ParseUint(string(rest), 10, 64)
	default:
		return answer, nil
	}
	if err != nil || size > maxData {
		return reply{}, fmt.Errorf("an answer that is none: %.40q", line)
	}
	if answer.word == "RESERVED" || answer.word == "FOUND" || answer.word == "OK" {
		answer.data, err = readData(r, int(size))
	}
	return answer, err
}

// readData reads data and the line end behind it.
func readData(r *bufio.Reader, size int) (string, error) {
	if size+2 <= r.Size() {
		b, err := r.Peek(size + 2)
		if err != nil {
			return "", err
		}
		data := string(b[:size])
		_, err = r.Discard(size + 2)
		return data, err
	}
	var b strings.Builder // grows with what comes, not with what was announced
	if _, err := io.CopyN(&b, r, int64(size)); err != nil {
		return "", err
	}
	_, err := r.Discard(2)
	return b.String(), err
}

// err is the error in an answer that is not the one wanted.
func (r reply) err(want string) error {
	switch r.word {
	case want:
		return nil
	case "NOT_FOUND":
		return linda.ErrNotReserved
	case "DRAINING":
		return ErrDraining
	case "OUT_OF_MEMORY":
		return fmt.Errorf("linda/beanstalkd: the server is out of memory: %w", linda.ErrFull)
	case "JOB_TOO_BIG":
		return fmt.Errorf("linda/beanstalkd: the server: %w", linda.ErrTooLarge)
	default:
		return fmt.Errorf("linda/beanstalkd: the server answers %.40q", r.word)
	}
}

// field returns a number from the YAML that the server writes; 0 where there is none.
func field(yaml, name string) int64 {
	text := textField(yaml, name)
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func textField(yaml, name string) string {
	for from := 0; ; {
		i := strings.Index(yaml[from:], name)
		if i < 0 {
			return ""
		}
		i += from
		from = i + len(name)
		if i > 0 && yaml[i-1] == '\n' && strings.HasPrefix(yaml[from:], ": ") {
			text, _, _ := strings.Cut(yaml[from+2:], "\n")
			return strings.Trim(text, `"`)
		}
	}
}
