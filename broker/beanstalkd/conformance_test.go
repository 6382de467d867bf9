package beanstalkd

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

func TestConformance(t *testing.T) {
	server := brokerd.Run(t, brokerd.Beanstalkd)
	brokertest.Run(t, brokertest.Harness{
		Open: func(t testing.TB) linda.Broker { return open(t, server.URL) },
		RawPush: func(t testing.TB, queue string, body []byte) error {
			answer := ask(t, server.Addr, fmt.Sprintf("use %s\r\nput 1024 0 60 %d\r\n%s\r\n", queue, len(body), body), 2)
			if !strings.HasPrefix(answer[1], "INSERTED") {
				return errors.New(answer[1])
			}
			return nil
		},
		Skew: 5 * time.Millisecond, // the server goes by a clock that may be set
	})
}

func open(t testing.TB, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}

// ask sends commands as any client would, and returns the first lines of the answers.
func ask(t testing.TB, addr, commands string, answers int) []string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write([]byte(commands))
	require.NoError(t, err)
	r := bufio.NewReader(c)
	lines := make([]string, answers)
	for i := range lines {
		answer, err := readReply(r)
		require.NoError(t, err)
		lines[i] = strings.TrimSpace(fmt.Sprint(answer.word, " ", answer.id, " ", answer.data))
	}
	return lines
}
