//go:build unix

package linda

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAConnectionThatLooksReadsAsAnyOther(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, while := range []int64{0, 1} {
		own, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		server, err := l.Accept()
		require.NoError(t, err)
		var looks atomic.Int64
		looks.Store(while)
		c := looking(own, &looks)
		require.IsType(t, new(lookingConn), c)

		p := make([]byte, 3)
		_, err = server.Write([]byte("first"))
		require.NoError(t, err)
		for _, want := range []string{"fir", "st"} {
			n, err := c.Read(p)
			require.NoError(t, err)
			assert.Equal(t, want, string(p[:n]))
		}
		time.AfterFunc(10*redisLookFor, func() { _, _ = server.Write([]byte("2nd")) })
		n, err := c.Read(p)
		require.NoError(t, err)
		assert.Equal(t, "2nd", string(p[:n]))

		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err = c.Read(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = c.Read(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		require.NoError(t, server.Close())
		_, err = c.Read(p)
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
		_, err = c.Read(p)
		require.ErrorIs(t, err, net.ErrClosed)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	assert.Equal(t, a, looking(a, nil), "it has no file")
}
