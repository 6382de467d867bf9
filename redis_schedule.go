package linda

import (
	"context"
	_ "embed"
	"time"
)

var (
	//go:embed lua/tick.lua
	tickLua    string
	tickScript = newRedisScript(tickLua)
)

// redisSchedule is where the last ticks of a queue's schedules are, beside its
// states: a hash from the names of the schedules.
const redisSchedule State = "schedule"

func (b *redisBroker) Tick(ctx context.Context, queue string, ticks []Tick) ([]Ticked, time.Time, error) {
	if err := b.check(ctx, queue); err != nil {
		return nil, time.Time{}, err
	}
	bodies, err := encodeTicks(ctx, queue, ticks)
	if err != nil {
		return nil, time.Time{}, err
	}
	done := make([]Ticked, 0, len(ticks))
	for {
		n := redisChunk(bodies, func(body []byte) int { return len(body) })
		some, now, err := b.tick(ctx, queue, ticks[:n], bodies[:n])
		if err != nil {
			return nil, time.Time{}, err
		}
		done = append(done, some...)
		if ticks, bodies = ticks[n:], bodies[n:]; len(ticks) == 0 {
			return done, now, nil
		}
	}
}

// tick runs the script once.
func (b *redisBroker) tick(ctx context.Context, queue string, ticks []Tick, bodies [][]byte) ([]Ticked, time.Time, error) {
	args := make([]any, 0, 7*len(ticks))
	for i, t := range ticks {
		if t.Job == nil {
			args = append(args, t.Schedule, 0, t.Spec, "", "", "", 0)
		} else {
			args = append(args, t.Schedule, t.At.UnixMilli(), t.Spec, bodies[i],
				t.Job.UniqueKey, BodyID(string(bodies[i])), milliseconds(t.Job.UniqueTTL))
		}
	}
	keys := []string{queue, b.key(queue, redisSchedule), b.key(queue, redisUnique)}
	reply, err := runRedis(ctx, b.adder(queue), tickScript, keys, args...).Int64Slice()
	if err != nil {
		return nil, time.Time{}, redisError(err)
	}
	done := make([]Ticked, len(ticks))
	for i := range done {
		done[i].Pushed = reply[2*i+1] == 1
		if last := reply[2*i+2]; last >= 0 {
			done[i].Last = time.UnixMilli(last)
		}
	}
	return done, time.UnixMilli(reply[0]), nil
}
