package nsq

import (
	"bufio"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
	"github.com/amlun/linda/internal/nsqdtest"
)

func TestConformanceOfNsqd(t *testing.T) {
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-max-msg-size=4194304", "-queue-scan-selection-count=1000"))
	t.Log("this is nsqd")
	conform(t, server.URL, server.Addr)
}

// TestConformanceOfAScriptedServer is for where there is no nsqd.
func TestConformanceOfAScriptedServer(t *testing.T) {
	server := nsqdtest.Start(t, nsqdtest.Limits{MaxMsgSize: 4 << 20})
	t.Log("this is no nsqd, but a server in the process")
	conform(t, server.URL(), server.Addr)
}

func conform(t *testing.T, url, addr string) {
	brokertest.Run(t, brokertest.Harness{
		Open:    func(t testing.TB) linda.Broker { return open(t, url) },
		RawPush: func(t testing.TB, queue string, body []byte) error { return rawPush(t, addr, queue, body) },
		Slack:   15 * time.Second, // Peek, Kick and Pop take several exchanges
	})
}

func open(t testing.TB, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}

// rawPush publishes a body as any client would.
func rawPush(t testing.TB, addr, topic string, body []byte) error {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write(appendPUB([]byte(magic), topic, string(body)))
	require.NoError(t, err)
	f, err := readFrame(bufio.NewReader(c))
	require.NoError(t, err)
	if f.kind == frameError {
		return errors.New(f.text)
	}
	return nil
}
