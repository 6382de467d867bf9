package nsq

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/amlun/linda"
)

// Kinds of frames.
const (
	frameResponse = 0
	frameError    = 1
	frameMessage  = 2
)

const (
	magic         = "  V2"
	heartbeat     = "_heartbeat_"
	messageHeader = 8 + 2 + len(messageID{}) // time, attempts, id
	maxFrame      = 1 << 30
)

// messageID is the server's id of a message.
type messageID [16]byte

// frame is one of what the server sends.
type frame struct {
	kind    uint32
	text    string  // of a response or an error
	message message // of a message
}

type message struct {
	id       messageID
	stored   time.Time // when it was published
	attempts uint16    // deliveries, this one included
	body     string
}

// readFrame reads a frame.
func readFrame(r *bufio.Reader) (frame, error) {
	head, err := r.Peek(8)
	if err != nil {
		return frame{}, err
	}
	size, f := int64(binary.BigEndian.Uint32(head)), frame{kind: binary.BigEndian.Uint32(head[4:])}
	_, _ = r.Discard(8)
	size -= 4
	if size < 0 || size > maxFrame || f.kind == frameMessage && size < int64(messageHeader) || f.kind > frameMessage {
		return frame{}, errors.New("what it sends is not the protocol of nsqd")
	}
	if f.kind != frameMessage {
		f.text, err = readText(r, int(size))
		return f, err
	}
	fixed, err := r.Peek(messageHeader)
	if err != nil {
		return frame{}, err
	}
	f.message.stored = time.Unix(0, int64(binary.BigEndian.Uint64(fixed)))
	f.message.attempts = binary.BigEndian.Uint16(fixed[8:])
	copy(f.message.id[:], fixed[10:])
	_, _ = r.Discard(messageHeader)
	f.message.body, err = readText(r, int(size)-messageHeader)
	return f, err
}

// readText reads a string. What is short is in the buffer already, and copied
// once; what is long takes memory as it comes.
func readText(r *bufio.Reader, size int) (string, error) {
	if size <= r.Size() {
		b, err := r.Peek(size)
		if err != nil {
			return "", err
		}
		s := string(b)
		_, err = r.Discard(size)
		return s, err
	}
	var s strings.Builder
	_, err := io.CopyN(&s, r, int64(size))
	return s.String(), err
}

// nextIsHere reports whether the next frame has come as a whole.
func nextIsHere(r *bufio.Reader) bool {
	if r.Buffered() < 4 {
		return false
	}
	size, err := r.Peek(4)
	return err == nil && int64(r.Buffered()) >= 4+int64(binary.BigEndian.Uint32(size))
}

// The commands, appended to what is to be sent.

func appendRDY(b []byte, n int) []byte {
	return append(strconv.AppendInt(append(b, "RDY "...), int64(n), 10), '\n')
}

func appendFIN(b []byte, id messageID) []byte {
	return append(append(append(b, "FIN "...), id[:]...), '\n')
}

func appendTouch(b []byte, id messageID) []byte {
	return append(append(append(b, "TOUCH "...), id[:]...), '\n')
}

func appendREQ(b []byte, id messageID, delay time.Duration) []byte {
	b = append(append(append(b, "REQ "...), id[:]...), ' ')
	return append(strconv.AppendInt(b, milliseconds(delay), 10), '\n')
}

func appendSUB(b []byte, topic, channel string) []byte {
	return fmt.Appendf(b, "SUB %s %s\n", topic, channel)
}

func appendPUB(b []byte, topic, body string) []byte {
	return appendSized(append(append(append(b, "PUB "...), topic...), '\n'), body)
}

func appendDPUB(b []byte, topic string, delay time.Duration, body string) []byte {
	b = append(append(append(b, "DPUB "...), topic...), ' ')
	return appendSized(append(strconv.AppendInt(b, milliseconds(delay), 10), '\n'), body)
}

func appendMPUB(b []byte, topic string, bodies []string) []byte {
	b = append(append(append(b, "MPUB "...), topic...), '\n')
	size := 4
	for _, body := range bodies {
		size += 4 + len(body)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = binary.BigEndian.AppendUint32(b, uint32(len(bodies)))
	for _, body := range bodies {
		b = appendSized(b, body)
	}
	return b
}

func appendSized(b []byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// milliseconds rounds up.
func milliseconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Millisecond - time.Nanosecond) / time.Millisecond)
}

// serverError is an error that the server has sent.
type serverError struct {
	code string // E_INVALID and the like
	text string
}

func readError(text string) *serverError {
	code, _, _ := strings.Cut(text, " ")
	return &serverError{code: code, text: text}
}

func (e *serverError) Error() string { return "nsqd says " + e.text }

// Unwrap tells what it means in linda's terms, nil where there is no word for it.
func (e *serverError) Unwrap() error {
	switch e.code {
	case "E_BAD_MESSAGE", "E_BAD_BODY":
		if strings.Contains(e.text, "too big") {
			return linda.ErrTooLarge
		}
	case "E_UNAUTHORIZED", "E_AUTH_FAILED", "E_AUTH_FIRST", "E_AUTH_DISABLED", "E_AUTH_ERROR":
		return linda.ErrDenied
	case "E_MPUB_FAILED": // some of it may be stored
		return linda.ErrUnknown
	}
	return nil
}

// about returns the message that a FIN, REQ or TOUCH failed for. All other
// errors are followed by the end of the connection.
func (e *serverError) about() (id messageID, ok bool) {
	switch e.code {
	case "E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED":
		words := strings.Fields(e.text)
		if len(words) > 2 && len(words[2]) == len(id) {
			copy(id[:], words[2])
		}
		return id, true
	}
	return id, false
}

// maxDefer is the limit that the server names when it refuses a delay.
func (e *serverError) maxDefer() (time.Duration, bool) {
	_, limit, found := strings.Cut(e.text, " out of range 0-")
	n, err := strconv.ParseInt(strings.TrimSpace(limit), 10, 64)
	ok := found && err == nil && n > 0 && strings.Contains(e.text, "DPUB timeout")
	return time.Duration(n) * time.Millisecond, ok
}
