package nsqdtest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// client is one connection to the server.
type client struct {
	server *Server
	net    net.Conn
	reader *bufio.Reader

	id         string
	msgTimeout time.Duration
	heartbeat  time.Duration

	// guarded by the mutex of the server
	channel            *channel
	rdy, inFlight      int
	finished, requeued uint64

	out  sync.Mutex
	buf  []byte // guarded by out
	gone bool   // guarded by out
	wake chan struct{}
}

func newClient(s *Server, nc net.Conn) *client {
	return &client{
		server: s, net: nc, reader: bufio.NewReader(nc), wake: make(chan struct{}, 1),
		msgTimeout: time.Minute, heartbeat: 30 * time.Second,
	}
}

// send adds a frame to what is to be written.
func (c *client) send(kind uint32, data []byte) {
	c.out.Lock()
	defer c.out.Unlock()
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(data)+4))
	c.buf = append(binary.BigEndian.AppendUint32(c.buf, kind), data...)
	c.tell()
}

func (c *client) tell() {
	select {
	case c.wake <- struct{}{}:
	default: // it is being told already
	}
}

func (c *client) write() {
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	last := time.Now()
	for {
		select {
		case <-c.wake:
		case <-beat.C:
			if time.Since(last) > c.heartbeat/2 {
				last = time.Now()
				c.send(0, []byte("_heartbeat_"))
			}
		}
		c.out.Lock()
		data, gone := c.buf, c.gone
		c.buf = nil
		c.out.Unlock()
		if _, err := c.net.Write(data); err != nil || gone {
			_ = c.net.Close()
			return
		}
	}
}

// read carries out the commands, one after the other, until one is refused for
// good. What was in flight stays so until its time is over.
func (c *client) read() {
	defer c.leave()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(c.reader, magic); err != nil || string(magic) != "  V2" {
		return
	}
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return
		}
		answer, fatal, failed := c.carryOut(strings.Fields(line))
		switch {
		case fatal != "":
			c.send(1, []byte(fatal))
			return
		case failed != "":
			c.send(1, []byte(failed))
		case answer != "":
			c.send(0, []byte(answer))
		}
	}
}

func (c *client) leave() {
	s := c.server
	s.mu.Lock()
	delete(s.conns, c)
	if c.channel != nil {
		c.channel.clients = slices.DeleteFunc(c.channel.clients, func(o *client) bool { return o == c })
	}
	s.mu.Unlock()
	c.out.Lock()
	c.gone = true
	c.out.Unlock()
	c.tell()
}

// carryOut returns an answer, or an error with which the connection ends, or one
// after which it goes on.
func (c *client) carryOut(words []string) (answer, fatal, failed string) {
	words = append(words, "", "", "")
	switch words[0] {
	case "NOP":
	case "IDENTIFY":
		answer, fatal = c.identify()
	case "SUB":
		answer, fatal = c.subscribe(words[1], words[2])
	case "PUB", "DPUB", "MPUB":
		answer, fatal = c.publish(words[0], words[1], words[2])
	case "CLS":
		answer = "CLOSE_WAIT"
		c.ready("0")
	case "RDY":
		fatal = c.ready(words[1])
	case "FIN", "REQ", "TOUCH":
		failed = c.end(words[0], words[1], words[2])
	default:
		fatal = "E_INVALID invalid command " + words[0]
	}
	return answer, fatal, failed
}

func (c *client) sized(most int) ([]byte, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(c.reader, size); err != nil {
		return nil, err
	}
	n := int(int32(binary.BigEndian.Uint32(size)))
	switch {
	case n <= 0:
		return nil, fmt.Errorf("invalid message body size %d", n)
	case n > most:
		return nil, fmt.Errorf("message too big %d > %d", n, most)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(c.reader, body)
	return body, err
}

func (c *client) identify() (answer, fatal string) {
	body, err := c.sized(1 << 20)
	if err != nil {
		return "", "E_BAD_BODY IDENTIFY " + err.Error()
	}
	var who struct {
		ID         string `json:"client_id"`
		Heartbeat  int64  `json:"heartbeat_interval"`
		MsgTimeout int64  `json:"msg_timeout"`
	}
	if err := json.Unmarshal(body, &who); err != nil {
		return "", "E_BAD_BODY IDENTIFY failed to decode JSON body"
	}
	limit := c.server.limits.MaxMsgTimeout
	if d := time.Duration(who.MsgTimeout) * time.Millisecond; d != 0 {
		if d < time.Second || d > limit {
			return "", fmt.Sprintf("E_BAD_BODY IDENTIFY msg timeout (%d) is invalid", who.MsgTimeout)
		}
		c.msgTimeout = d
	}
	if who.Heartbeat > 0 {
		c.heartbeat = time.Duration(who.Heartbeat) * time.Millisecond
	}
	c.id = who.ID
	hello, _ := json.Marshal(map[string]any{
		"version": "scripted", "max_rdy_count": 2500, "max_msg_timeout": limit.Milliseconds(), "msg_timeout": c.msgTimeout.Milliseconds(),
	})
	return string(hello), ""
}

var validName = regexp.MustCompile(`^[.a-zA-Z0-9_-]{1,64}$`)

func (c *client) subscribe(topic, channel string) (answer, fatal string) {
	if !validName.MatchString(topic) || !validName.MatchString(channel) {
		return "", "E_BAD_TOPIC SUB topic name is not valid"
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.channel != nil {
		return "", "E_INVALID cannot SUB in current state"
	}
	c.channel = c.server.topic(topic).channel(channel)
	c.channel.clients = append(c.channel.clients, c)
	return "OK", ""
}

func (c *client) publish(command, topic, wait string) (answer, fatal string) {
	s := c.server
	if !validName.MatchString(topic) {
		return "", fmt.Sprintf("E_BAD_TOPIC %s topic name %q is not valid", command, topic)
	}
	if command == "MPUB" {
		return c.publishMany(topic)
	}
	ms, _ := strconv.ParseInt(wait, 10, 64)
	delay := time.Duration(ms) * time.Millisecond
	if delay < 0 || delay > s.limits.MaxReqTimeout {
		return "", fmt.Sprintf("E_INVALID DPUB timeout %d out of range 0-%d", ms, s.limits.MaxReqTimeout.Milliseconds())
	}
	body, err := c.sized(s.limits.MaxMsgSize)
	if err != nil {
		return "", fmt.Sprintf("E_BAD_MESSAGE %s %v", command, err)
	}
	s.publish(topic, delay, body)
	return "OK", ""
}

func (c *client) publishMany(topic string) (answer, fatal string) {
	head := make([]byte, 8) // the size of all, and how many they are
	if _, err := io.ReadFull(c.reader, head); err != nil {
		return "", "E_BAD_BODY MPUB failed to read body size"
	}
	bodies := make([][]byte, 0, 16)
	for range binary.BigEndian.Uint32(head[4:]) {
		body, err := c.sized(c.server.limits.MaxMsgSize)
		if err != nil {
			return "", "E_BAD_MESSAGE MPUB " + err.Error()
		}
		bodies = append(bodies, body)
	}
	c.server.publish(topic, 0, bodies...)
	return "OK", ""
}

func (c *client) ready(count string) (fatal string) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 2500 {
		return fmt.Sprintf("E_INVALID RDY count %s out of range 0-2500", count)
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.channel == nil {
		return "E_INVALID cannot RDY in current state"
	}
	c.rdy = n
	c.channel.pump()
	return ""
}

// end carries out FIN, REQ or TOUCH. Like nsqd it knows a delivery by the message
// and the connection, and not which one it is.
func (c *client) end(command, text, wait string) (failed string) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	var id [16]byte
	copy(id[:], text)
	var m *message
	if c.channel != nil {
		m = c.channel.inFlight[id]
	}
	switch {
	case m == nil:
		return fmt.Sprintf("E_%s_FAILED %s %s failed ID not in flight", command, command, text)
	case m.owner != c:
		return fmt.Sprintf("E_%s_FAILED %s %s failed client does not own message", command, command, text)
	}
	if command == "TOUCH" {
		m.until = time.Now().Add(c.msgTimeout)
		if last := m.delivered.Add(s.limits.MaxMsgTimeout); last.Before(m.until) {
			m.until = last
		}
		return ""
	}
	delete(c.channel.inFlight, id)
	c.inFlight--
	if command == "FIN" {
		c.finished++
		c.channel.pump()
		return ""
	}
	c.requeued++
	ms, _ := strconv.ParseInt(wait, 10, 64)
	m.wait = min(time.Duration(ms)*time.Millisecond, s.limits.MaxReqTimeout)
	c.channel.put(m)
	c.channel.pump()
	return ""
}
