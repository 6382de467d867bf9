package brokerd

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNsqdKeepsWhatItHasOverARestart(t *testing.T) {
	t.Parallel()
	s := Run(t, Nsqd)
	command := func(text string) string {
		conn, err := net.Dial("tcp", s.Addr)
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "  V2"+text)
		require.NoError(t, err)
		r := bufio.NewReader(conn)
		head := make([]byte, 8)
		for {
			_, err = io.ReadFull(r, head)
			require.NoError(t, err)
			body := make([]byte, binary.BigEndian.Uint32(head)-4)
			_, err = io.ReadFull(r, body)
			require.NoError(t, err)
			if text[0] == 'P' || head[7] == 2 { // the answer, or a message
				return string(body)
			}
		}
	}
	require.Equal(t, "OK", command("PUB q\n\x00\x00\x00\x04body"))
	require.NoError(t, s.Restart(t.Context()))
	message := command("SUB q linda\nRDY 1\n")
	require.Equal(t, "body", message[len(message)-4:])
}
