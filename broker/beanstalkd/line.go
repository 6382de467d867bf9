package beanstalkd

import (
	"context"
	"sync"
)

// line is a connection for whatever does not wait in the server, opened when it
// is needed and again after it was lost.
type line struct {
	broker *broker
	turn   chan struct{} // held by who opens it

	mu   sync.Mutex
	open *conn // guarded by mu
}

func newLine(b *broker) *line { return &line{broker: b, turn: make(chan struct{}, 1)} }

func (l *line) conn(ctx context.Context) (*conn, error) {
	if c := l.current(); c != nil {
		return c, nil
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.turn }()
	if c := l.current(); c != nil {
		return c, nil
	}
	c, err := l.broker.dial(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.open = c
	l.mu.Unlock()
	return c, nil
}

func (l *line) current() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil || l.open.lost() {
		return nil
	}
	if l.open.silent(stalled) {
		l.open.retire()
		return nil
	}
	return l.open
}

// do sends commands and waits for the answers.
func (l *line) do(ctx context.Context, cmd *commands) ([]reply, error) {
	c, err := l.conn(ctx)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, cmd, nil)
}
