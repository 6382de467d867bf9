package linda

import (
	"context"
	"time"
)

// memorySchedule is what a queue remembers of a schedule.
type memorySchedule struct {
	last time.Time
	spec string
}

func (b *memoryBroker) Tick(ctx context.Context, queue string, ticks []Tick) ([]Ticked, time.Time, error) {
	bodies, err := encodeTicks(ctx, queue, ticks)
	if err != nil {
		return nil, time.Time{}, err
	}
	q, unlock, err := b.use(ctx, queue)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer unlock()
	now := time.Now()
	done := make([]Ticked, len(ticks))
	for i, t := range ticks {
		done[i].Pushed = q.tick(queue, t, bodies[i], now)
		done[i].Last = q.schedules[t.Schedule].last
	}
	return done, now, nil
}

// tick pushes the job of a tick unless it is early, or was pushed already.
func (q *memoryQueue) tick(queue string, t Tick, body []byte, now time.Time) (pushed bool) {
	s, known := q.schedules[t.Schedule]
	switch {
	case t.Job == nil && known && (s.spec == t.Spec || s.last.After(now)):
		s.spec = t.Spec
	case t.Job == nil:
		s = memorySchedule{last: now, spec: t.Spec}
	case t.At.After(now) || known && !t.At.After(s.last):
		return false
	default:
		s = memorySchedule{last: t.At, spec: t.Spec}
		if t.Job.UniqueKey == "" || q.lockKey(queue, body, t.Job) == nil {
			q.add(&memoryJob{body: string(body)}, 0)
			pushed = true
		}
	}
	q.schedules[t.Schedule] = s
	return pushed
}

// encodeTicks checks ticks and encodes their jobs, before any I/O.
func encodeTicks(ctx context.Context, queue string, ticks []Tick) ([][]byte, error) {
	if err := CheckName(queue); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(ticks))
	for i, t := range ticks {
		if err := CheckName(t.Schedule); err != nil {
			return nil, err
		}
		if t.Job == nil {
			continue
		}
		body, err := Encode(t.Job, queue)
		if err != nil {
			return nil, err
		}
		bodies[i] = body
	}
	return bodies, nil
}
