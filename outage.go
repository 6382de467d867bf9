package linda

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// outage reports a broker that does not answer once, not at every try, nor for
// each of the engine's parts.
type outage struct {
	log   *slog.Logger
	queue string
	down  atomic.Int32 // the calls that fail
	over  atomic.Int64 // unix ns of the end of the last outage
}

// The calls that can fail, each on its own.
const (
	fetching int32 = 1 << iota
	settlingJobs
	touching
	ticking
	limiting
)

func (o *outage) has(call int32) bool { return o.down.Load()&call != 0 }

// begins tells that a call has failed. One that was sent before the end of the
// last outage has only now noticed that.
func (o *outage) begins(call int32, sent time.Time, err error) {
	if o.has(call) || sent.UnixNano() < o.over.Load() {
		return
	}
	if o.down.Or(call) == 0 {
		o.log.LogAttrs(context.Background(), slog.LevelError, "linda: broker does not do as asked; trying again",
			slog.String("queue", o.queue), slog.String("err", clip(err.Error())))
	}
}

// ends tells that a call has succeeded.
func (o *outage) ends(call int32) {
	if o.has(call) && o.down.And(^call) == call {
		o.over.Store(time.Now().UnixNano())
		o.log.LogAttrs(context.Background(), slog.LevelInfo, "linda: broker answers again", slog.String("queue", o.queue))
	}
}
