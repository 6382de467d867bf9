package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo starts a server that sends back what it gets, and notes how much each
// connection brought.
type echo struct {
	addr string
	wg   sync.WaitGroup

	mu  sync.Mutex
	got []int64 // guarded by mu: bytes of connections that have ended
}

func newEcho(t *testing.T) *echo {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &echo{addr: l.Addr().String()}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() {
				defer func() { _ = c.Close() }()
				var all bytes.Buffer
				_, _ = io.Copy(c, io.TeeReader(c, &all))
				s.mu.Lock()
				defer s.mu.Unlock()
				s.got = append(s.got, int64(all.Len()))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.wg.Wait()
	})
	return s
}

func start(t *testing.T, plan func(int) []Fault) (*Proxy, *echo) {
	s := newEcho(t)
	p, err := Start(s.addr, plan)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p, s
}

func dial(t *testing.T, p *Proxy) net.Conn {
	c, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

// roundTrip sends bytes and reads them back.
func roundTrip(c net.Conn, n int) error {
	sent := bytes.Repeat([]byte("linda"), n/5+1)[:n]
	if _, err := c.Write(sent); err != nil {
		return err
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes came back")
	}
	return nil
}

func always(f Fault) func(int) []Fault { return func(int) []Fault { return []Fault{f} } }

func TestProxyForwards(t *testing.T) {
	t.Parallel()
	p, _ := start(t, nil)
	for range 3 {
		c := dial(t, p)
		require.NoError(t, roundTrip(c, 100_000))
	}
	assert.Len(t, p.Conns(), 3)
	assert.Zero(t, p.Resets())
}

func TestCutIsExactToTheByte(t *testing.T) {
	t.Parallel()
	for _, after := range []int64{1, 2, 9, 10} {
		p, s := start(t, always(Fault{Kind: Close, Dir: Up, After: after}))
		c := dial(t, p)
		require.Error(t, roundTrip(c, 20))
		require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.got) == 1 }, 5*time.Second, time.Millisecond)
		assert.Equal(t, after, s.got[0], "what the server got")

		p, _ = start(t, always(Fault{Kind: Close, Dir: Down, After: after}))
		c = dial(t, p)
		_, err := c.Write(make([]byte, 20))
		require.NoError(t, err)
		answer, err := io.ReadAll(c)
		require.NoError(t, err, "the end is a FIN")
		assert.Len(t, answer, int(after), "what the client got")
	}
}

func TestCutAtTheLastByteNeedsNoFurtherOne(t *testing.T) {
	t.Parallel()
	p, _ := start(t, always(Fault{Kind: Close, Dir: Down, After: 5}))
	c := dial(t, p)
	require.NoError(t, roundTrip(c, 5))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestOnlyWhatAFaultHasEndedIsACut(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Reset, Close} {
		p, _ := start(t, nil)
		own, spoiled := dial(t, p), dial(t, p)
		require.NoError(t, roundTrip(own, 10))
		require.NoError(t, roundTrip(spoiled, 10))
		require.NoError(t, own.Close())
		require.Eventually(t, func() bool { return len(p.Conns()) == 1 }, 5*time.Second, time.Millisecond)
		assert.Zero(t, p.Cuts())
		require.True(t, p.Inject(p.Conns()[0], Fault{Kind: kind, Dir: Up, After: 5}))
		require.Error(t, roundTrip(spoiled, 10))
		assert.Equal(t, 1, p.Cuts(), "it is counted before anybody sees it")
	}
}

func TestResetIsAnRST(t *testing.T) {
	t.Parallel()
	p, _ := start(t, nil)
	c := dial(t, p)
	require.NoError(t, roundTrip(c, 10))
	require.True(t, p.Inject(p.Conns()[0], Fault{Kind: Reset}))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Eventually(t, func() bool { return p.Resets() == 1 && len(p.Conns()) == 0 }, 5*time.Second, time.Millisecond)
	assert.False(t, p.Inject(0, Fault{Kind: Reset}), "it is not there any more")
}

func TestCutHappensAtTheLatestWithin(t *testing.T) {
	t.Parallel()
	p, _ := start(t, always(Fault{Kind: Reset, Dir: Up, After: 1 << 40, Within: 50 * time.Millisecond}))
	c := dial(t, p)
	require.NoError(t, roundTrip(c, 10))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestOtherFaultsAreTakenBackAfterWithin(t *testing.T) {
	t.Parallel()
	p, _ := start(t, always(Fault{Kind: Hole, Dir: Up, After: 10, Within: time.Millisecond}))
	c := dial(t, p)
	require.NoError(t, roundTrip(c, 5))
	time.Sleep(5 * time.Millisecond)
	require.NoError(t, roundTrip(c, 20))
}

func TestHoleLetsNothingThroughForAWhile(t *testing.T) {
	t.Parallel()
	const hole = 200 * time.Millisecond
	for _, dir := range []Direction{Up, Down} {
		p, _ := start(t, always(Fault{Kind: Hole, Dir: dir, After: 3, For: hole}))
		c := dial(t, p)
		began := time.Now()
		require.NoError(t, roundTrip(c, 3))
		assert.Less(t, time.Since(began), hole)
		require.NoError(t, roundTrip(c, 10), "and then everything")
		assert.GreaterOrEqual(t, time.Since(began), hole)
	}
}

func TestHealEndsWhatLasts(t *testing.T) {
	t.Parallel()
	p, _ := start(t, always(Fault{Kind: Hole, Dir: Up}))
	c := dial(t, p)
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err, "it does not end by itself")
	p.Heal()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
}

func TestDelayAndSlicesKeepEveryByte(t *testing.T) {
	t.Parallel()
	p, _ := start(t, func(int) []Fault {
		return []Fault{{Kind: Slice, Dir: Up}, {Kind: Slice, Dir: Down, After: 7}, {Kind: Delay, Dir: Down, Late: time.Millisecond}}
	})
	c := dial(t, p)
	began := time.Now()
	require.NoError(t, roundTrip(c, 1000))
	assert.Greater(t, time.Since(began), 100*time.Millisecond, "125 slices or more, each late")
}

func TestServerThatIsDownEndsTheConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	p, err := Start(addr, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	c, err := net.Dial("tcp", p.Addr)
	if err == nil { // else it was ended that soon
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Read(make([]byte, 1))
	}
	require.Error(t, err)
	var timeout net.Error
	assert.False(t, errors.As(err, &timeout) && timeout.Timeout())
}

func TestAProxyIsToldItsServerAfterItsClients(t *testing.T) {
	s := newEcho(t)
	p, err := Start("", nil)
	require.NoError(t, err)
	defer p.Close()
	early, err := net.Dial("tcp", p.Addr)
	if err == nil { // the reset may come first
		defer early.Close()
		_, err = early.Read(make([]byte, 1))
	}
	require.Error(t, err, "there is no server yet")
	p.Forward(s.addr)
	c, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("green"))
	require.NoError(t, err)
	back := make([]byte, 5)
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	require.Equal(t, "green", string(back))
}
