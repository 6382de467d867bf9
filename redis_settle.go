package linda

import (
	"context"
	"slices"
	"time"
)

func (b *redisBroker) Settle(ctx context.Context, queue string, batch []Settlement) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	errs := make([]error, len(batch))
	receipts := make([]*Receipt, 0, len(batch))
	index := make([]int, 0, len(batch)) // of each receipt in the batch
	args := settleArgs{args: make([]any, 0, 2+len(batch))}
	soonest := maxDelay
	for i := range batch {
		s := &batch[i]
		r, err := s.Begin(b, queue)
		if err != nil {
			errs[i] = err
			continue
		}
		receipts, index = append(receipts, r), append(index, i)
		args.add(s, r)
		if s.Op == OpRelease && s.Delay > 0 {
			soonest = min(soonest, s.Delay)
		}
	}
	if len(receipts) == 0 {
		return Batch(errs)
	}
	missed, err := b.run(ctx, settleScript, b.keys(queue), args.args...).Int64Slice()
	err = redisError(err)
	for n, r := range receipts {
		own := err
		if err == nil && slices.Contains(missed, int64(n+1)) {
			own = ErrNotReserved
		}
		errs[index[n]] = r.End(own)
	}
	b.dueIn(queue, soonest)
	return Batch(errs)
}

// settleArgs are the arguments of settle.lua.
type settleArgs struct {
	args    []any
	deletes *int // how many members at the end of args are to be deleted; nil: it ends otherwise
}

func (a *settleArgs) add(s *Settlement, r *Receipt) {
	member := r.Token()
	if r.Gone() {
		member = ""
	}
	if s.Op == OpDelete {
		if a.deletes == nil {
			a.deletes = new(int)
			a.args = append(a.args, "d", a.deletes)
		}
		*a.deletes++
		a.args = append(a.args, member)
	} else {
		a.deletes = nil
		a.args = appendMove(a.args, s, member)
	}
	if s.Job.UniqueKey != "" && s.Op != OpRelease {
		a.deletes = nil
		a.args = append(a.args, "u", s.Job.ID, s.Job.UniqueKey)
	}
}

// appendMove appends a settlement that puts its job somewhere else.
func appendMove(args []any, s *Settlement, member any) []any {
	switch {
	case s.Op == OpBury:
		return append(args, "b", member, s.Body())
	case s.Unstarted && s.Delay <= 0:
		return append(args, "f", member, s.Body())
	default:
		return append(args, "r", member, s.Body(), milliseconds(s.Delay))
	}
}

func (b *redisBroker) Touch(ctx context.Context, queue string, lease time.Duration, jobs []*Job) error {
	if err := b.check(ctx, queue); err != nil {
		return err
	}
	errs := make([]error, len(jobs))
	var receipts []*Receipt
	var index []int
	args := []any{milliseconds(lease)}
	for i, job := range jobs {
		r, err := job.Receipt(b, queue)
		if err != nil {
			errs[i] = err
		} else if !r.Gone() {
			receipts, index = append(receipts, r), append(index, i)
			args = append(args, r.Token())
		}
	}
	if len(receipts) == 0 {
		return Batch(errs)
	}
	sent := time.Now()
	missed, err := b.run(ctx, touchScript, []string{b.key(queue, Reserved)}, args...).Int64Slice()
	if err != nil {
		return redisError(err)
	}
	for n, r := range receipts {
		if !slices.Contains(missed, int64(n+1)) {
			r.Extend(sent.Add(lease))
			continue
		}
		errs[index[n]] = ErrNotReserved
		if r.Lose() {
			errs[index[n]] = ErrLeaseLost
		}
	}
	return Batch(errs)
}
