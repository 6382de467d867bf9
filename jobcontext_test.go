package linda

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestHandlersContextIsLikeOneOfPackageContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	reason := errors.New("reason")
	for name, begin := range map[string]func(c *jobContext, parent context.Context){
		"asked before":      func(c *jobContext, parent context.Context) { c.begin(parent, new(Job), 0); c.Done() },
		"asked later":       func(c *jobContext, parent context.Context) { c.begin(parent, new(Job), 0) },
		"with a time limit": func(c *jobContext, parent context.Context) { c.begin(parent, new(Job), time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			parent, endParent := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
			var own, parents jobContext
			begin(&own, parent)
			begin(&parents, parent)
			assert.NoError(t, own.why())
			own.end(reason)
			own.end(nil) // changes nothing
			assert.Equal(t, reason, own.why())
			child, cancel := context.WithCancel(&own)
			defer cancel()
			for _, ctx := range []context.Context{&own, child} {
				<-ctx.Done()
				assert.Equal(t, context.Canceled, ctx.Err())
				assert.Equal(t, reason, context.Cause(ctx))
				assert.Equal(t, "value", ctx.Value(key{}))
				assert.Same(t, own.job, FromContext(ctx))
			}
			endParent(ErrStopping)
			assert.Equal(t, ErrStopping, parents.why())
			assert.Equal(t, ErrStopping, context.Cause(&parents))
			assert.Equal(t, reason, context.Cause(&own), "the first cause stands")
		})
	}
}

func TestTimeLimitBeginsWithTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c jobContext
		c.begin(t.Context(), new(Job), time.Minute)
		began := time.Now()
		time.Sleep(20 * time.Second) // nobody has asked so far
		until, limited := c.Deadline()
		assert.True(t, limited)
		assert.Equal(t, began.Add(time.Minute), until)
		<-c.Done()
		assert.Equal(t, time.Minute, time.Since(began))
		assert.Equal(t, context.DeadlineExceeded, c.Err())
		assert.Equal(t, ErrTimeLimit, c.why())
	})
}

func TestHandlersContextEndsForAllWhoAskMeanwhile(t *testing.T) {
	t.Parallel()
	for range 200 {
		var c jobContext
		c.begin(t.Context(), new(Job), 0)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { <-c.Done() })
		}
		c.end(ErrLeaseLost)
		all.Wait()
	}
}
