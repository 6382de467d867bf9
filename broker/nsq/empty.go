package nsq

import "context"

// isEmpty waits until no server has a job that it could send, or until that has
// taken long: what a busy server sends later is for the next Fetch.
func (t *tap) isEmpty(ctx context.Context) error {
	if !sleep(ctx, glance) {
		return ctx.Err()
	}
	if len(t.broker.config.http) == 0 {
		sleep(ctx, longGlance)
		return ctx.Err()
	}
	empty, err := t.looksEmpty(ctx) // this one as long as it takes: the server may be gone
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, mostGlance)
	defer cancel()
	for before := false; sleep(soon, lookEvery); {
		if empty && before { // a message that was on its way into the channel is there by now
			return nil
		}
		before = empty
		if empty, err = t.looksEmpty(soon); err != nil && soon.Err() == nil {
			return err
		}
	}
	return ctx.Err()
}

// looksEmpty asks every server whether it has something to send.
func (t *tap) looksEmpty(ctx context.Context) (bool, error) {
	t.mu.Lock()
	feeds := t.feeds
	t.mu.Unlock()
	for _, f := range feeds {
		t.mu.Lock()
		down := f.conn == nil && f.down != nil
		k, open := f.client()
		t.mu.Unlock()
		if down {
			continue
		}
		if !open {
			return false, nil
		}
		depth, c, err := f.server.topicStats(ctx, t.topic)
		if err != nil {
			return false, err
		}
		if !c.Paused && (depth+c.Depth > 0 || !c.sees(k)) {
			return false, nil
		}
	}
	return true, nil
}

// client is what the feed's connection knows of itself. It needs the mutex of
// the tap.
func (f *feed) client() (client, bool) {
	if f.conn == nil {
		return client{}, false
	}
	return client{id: f.conn.id, rdy: f.rdy, held: len(f.held), told: f.told - f.refusal}, true
}
