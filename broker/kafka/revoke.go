package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/amlun/linda"
)

// revoked is called before the group gives partitions to others. They hand out
// nothing more; their jobs have some time to end; those that do not are lost to
// their workers and written anew, as released; and what is done is stored.
func (t *tenure) revoked(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	parts := t.these(topics)
	if len(parts) == 0 {
		return
	}
	t.m.mu.Lock()
	for _, p := range parts {
		p.closing = true
	}
	t.m.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.m.b.ctx, settleFor) // at Close there is nothing to wait for
	t.awaitSettled(ctx, parts)
	cancel()
	ctx, cancel = context.WithTimeout(context.WithoutCancel(t.m.b.ctx), storeFor)
	defer cancel()
	t.writeAnew(ctx, parts)
	t.store(ctx, parts)
	t.lose(parts)
}

// awaitSettled waits until nothing is handed out any more.
func (t *tenure) awaitSettled(ctx context.Context, parts []*partition) {
	for {
		t.m.mu.Lock()
		open := 0
		for _, p := range parts {
			open += len(p.out)
		}
		changed := t.m.changed
		t.m.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// writeAnew ends what is still handed out, and writes its jobs to the end of
// the queue. It was not their fault: the run counts as an attempt, and not as a
// crash, as it would if the next process found the record handed out. What no
// worker was given though the group was told so does not count at all.
func (t *tenure) writeAnew(ctx context.Context, parts []*partition) {
	var open []*delivery
	t.m.mu.Lock()
	for _, p := range parts {
		for offset, d := range p.out {
			if !p.water.isDone(offset) {
				d.over = true
				open = append(open, d)
			}
		}
		for _, d := range p.again {
			d.over = true
			open = append(open, d)
		}
	}
	t.m.mu.Unlock()
	if len(open) == 0 {
		return
	}
	t.m.loseEnded()
	records := make([]*kgo.Record, len(open))
	for i, d := range open {
		again := linda.Settlement{Job: d.job(""), Op: linda.OpRelease, Unstarted: !d.given}
		records[i] = &kgo.Record{Topic: t.topic.name, Key: d.key, Value: []byte(again.Body())}
	}
	errs := t.m.b.produce(ctx, "fetch", records)
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	for i, d := range open {
		if errs[i] == nil {
			d.origin.(*partition).water.settle(d.place.offset)
		}
	}
}

// store waits until what is done is committed. Of a partition that was not begun
// nothing is known yet: a commit of that would have all of its jobs run again.
func (t *tenure) store(ctx context.Context, parts []*partition) {
	answers := make(chan error, len(parts))
	begun := 0
	t.m.mu.Lock()
	for _, p := range parts {
		if p.begun {
			begun++
			p.promise(nil, func(err error) { answers <- err })
		}
	}
	t.m.mu.Unlock()
	for range begun {
		select {
		case <-answers:
		case <-ctx.Done():
			return
		}
	}
}
