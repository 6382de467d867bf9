package main

import (
	"context"
	"sync"
	"time"
)

// visit has one more worker join and leave by turns until ctx ends, as at
// deployments, so that the broker divides the work anew each time. That is no
// fault: it excuses nothing.
func (h *harness) visit(ctx context.Context) *sync.WaitGroup {
	var visits sync.WaitGroup
	every := h.target.visits
	if every == 0 {
		return &visits
	}
	visits.Go(func() {
		for rest(ctx, every) {
			s := h.open(h.visitor)
			visits.Go(func() {
				rest(ctx, every)
				s.close(30 * time.Second) // the server may be away; the next one comes in time
			})
			rest(ctx, every)
		}
	})
	return &visits
}
