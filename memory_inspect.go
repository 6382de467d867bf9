package linda

import (
	"cmp"
	"context"
	"slices"
)

func (b *memoryBroker) Stats(ctx context.Context, queue string) (Stats, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return Stats{}, err
	}
	defer unlock()
	return Stats{
		Ready: int64(q.ready.len()), Delayed: int64(len(q.delayed)),
		Reserved: int64(len(q.reserved)), Dead: int64(len(q.dead)),
	}, nil
}

func (b *memoryBroker) Peek(ctx context.Context, queue string, state State, max int) ([]*Job, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return nil, err
	}
	defer unlock()
	held, err := q.in(state)
	if err != nil {
		return nil, err
	}
	jobs := make([]*Job, min(len(held), bounded(max)))
	for i := range jobs {
		jobs[i] = held[i].show(queue)
	}
	return jobs, nil
}

func (b *memoryBroker) Find(ctx context.Context, queue, id string) (*Job, State, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	if m, state := q.find(id); m != nil {
		return m.show(queue), state, nil
	}
	return nil, "", nil
}

func (b *memoryBroker) Remove(ctx context.Context, queue, id string) (bool, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return false, err
	}
	defer unlock()
	m, state := q.find(id)
	if m == nil {
		return false, nil
	}
	if state == Reserved {
		return false, ErrReserved
	}
	q.remove(m, state)
	q.unlockKey(m.show(queue))
	return true, nil
}

func (b *memoryBroker) Kick(ctx context.Context, queue string, max int) (int, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return 0, err
	}
	defer unlock()
	n := min(len(q.dead), bounded(max))
	for _, m := range q.dead[:n] {
		m.body = KickedBody(queue, m.body)
		q.add(m, 0)
	}
	q.dead = slices.Delete(q.dead, 0, n)
	return n, nil
}

func (b *memoryBroker) Purge(ctx context.Context, queue string, state State) (int, error) {
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return 0, err
	}
	defer unlock()
	return q.purge(state)
}

func (b *memoryBroker) Queues(ctx context.Context) ([]string, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	names := make([]string, 0, len(b.store.queues))
	for name, q := range b.store.queues {
		if q.jobs() > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names, nil
}
