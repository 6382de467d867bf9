package nsq

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/amlun/linda"
)

// gatherTimeout is after how long the server hands out again what was gathered
// by a process that died over it.
const gatherTimeout = 10 * time.Second

// gathering is messages that were taken out of a topic to be looked at, each of
// which is then finished or put back.
type gathering struct {
	broker *broker
	topic  string
	hands  []*hand
	all    []*gathered // the longest there first
}

// gathered is one of them.
type gathered struct {
	message
	hand *hand
	done bool // it is to be finished, else put back
}

// hand is the connection to one server.
type hand struct {
	server *server
	conn   *conn
	rdy    int
	got    []*gathered
	more   chan []message
	closed chan struct{} // closed when the server has done all it was told

	batch []message // of the goroutine that reads
}

// gather takes up to max messages out of a topic, all that there are if they
// are not more.
func (b *broker) gather(ctx context.Context, topic string, max int) (*gathering, error) {
	g := &gathering{broker: b, topic: topic}
	for _, s := range b.all() {
		if len(g.all) >= max {
			break
		}
		h, err := g.open(ctx, s)
		if err == nil {
			err = g.fill(ctx, h, max-len(g.all))
		}
		if err != nil {
			g.end(ctx)
			return nil, b.closedOr(err)
		}
	}
	slices.SortStableFunc(g.all, func(a, b *gathered) int { return cmp.Compare(a.stored.UnixNano(), b.stored.UnixNano()) })
	return g, nil
}

func (g *gathering) open(ctx context.Context, s *server) (*hand, error) {
	c, err := s.dial(ctx, min(gatherTimeout, s.known().maxMsgTimeout))
	if err != nil {
		return nil, err
	}
	if err := c.subscribe(ctx, g.topic, g.broker.config.channel); err != nil {
		_ = c.net.Close()
		return nil, s.explain("subscribe to topic "+g.topic, err)
	}
	s.isDeclared(g.topic)
	h := &hand{server: s, conn: c, more: make(chan []message), closed: make(chan struct{})}
	if !g.broker.beginConn(c, h) {
		_ = c.net.Close()
		return nil, linda.ErrClosed
	}
	g.hands = append(g.hands, h)
	return h, nil
}

// fill takes messages until there are enough, or no more.
func (g *gathering) fill(ctx context.Context, h *hand, max int) error {
	h.rdy = min(max, h.server.known().maxRdy)
	if err := h.conn.send(func(out []byte) []byte { return appendRDY(out, h.rdy) }); err != nil {
		return err
	}
	look := time.NewTimer(glance)
	defer look.Stop()
	for times := 0; len(h.got) < h.rdy && times < 2; {
		select {
		case batch := <-h.more:
			for _, m := range batch {
				one := &gathered{message: m, hand: h}
				h.got, g.all = append(h.got, one), append(g.all, one)
			}
			times = 0
		case <-h.conn.gone:
			return h.server.explain("look at topic "+g.topic, h.conn.why())
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			empty, err := h.isEmpty(ctx, g.topic)
			switch {
			case err != nil:
				return err
			case empty:
				times++
			default:
				times = 0
			}
			look.Reset(lookEvery)
		}
	}
	return nil
}

// isEmpty reports whether the server has no more messages to send.
func (h *hand) isEmpty(ctx context.Context, topic string) (bool, error) {
	if h.server.web == "" {
		sleep(ctx, longGlance)
		return true, ctx.Err()
	}
	depth, c, err := h.server.topicStats(ctx, topic)
	return c.Paused || depth+c.Depth == 0 && c.sees(client{id: h.conn.id, rdy: h.rdy, held: len(h.got)}), err
}

// end finishes and puts back what was gathered, and waits until the servers
// have done so.
func (g *gathering) end(ctx context.Context) {
	for _, h := range g.hands {
		_ = h.conn.send(func(out []byte) []byte {
			out = appendRDY(out, 0)
			for _, m := range h.got {
				if m.done {
					out = appendFIN(out, m.id)
				} else {
					out = appendREQ(out, m.id, 0)
				}
			}
			return append(out, "CLS\n"...)
		})
	}
	for _, h := range g.hands {
		select {
		case <-h.closed:
		case <-h.conn.gone:
		case <-ctx.Done():
		}
		h.conn.fail(errClosing)
	}
}

func (h *hand) response(text string) {
	if text == "CLOSE_WAIT" {
		close(h.closed)
	}
}

func (h *hand) refused(err *serverError) {
	if _, late := err.about(); !late {
		h.conn.fail(err)
	}
}

func (h *hand) message(m message) { h.batch = append(h.batch, m) }

func (h *hand) paused() {
	if len(h.batch) == 0 {
		return
	}
	batch := h.batch
	h.batch = nil
	select {
	case h.more <- batch:
	case <-h.conn.gone:
	}
}

func (h *hand) ended(error) {}
