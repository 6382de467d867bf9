package main

// rootMutants are those of the root package and what it is built on. The first are those of the first linda, the next those
// that other libraries have had.
var rootMutants = []mutant{
	{name: "delete-marshals-again", file: "redis_settle.go", at: onRedis, test: conforms("exact-arguments|foreign-bodies|push-pop-delete"),
		old: `	member := r.Token()
	if r.Gone() {`, new: `	var member any = s.Body()
	if r.Gone() {`},
	{name: "body-is-the-identity", file: "lua/fetch.lua", at: onRedis, test: conforms("bad-bodies-fetch|bad-bodies-released"),
		old: `last and body or apart(body, nonce .. '.' .. reserved + got)`, new: `body`},
	{name: "crashed-go-in-a-batch", file: "lua/fetch.lua", at: onRedis, test: "RedisHandsOutAloneWhatCrashed",
		old: `if alone and reserved + got > 0 then break end`, new: ``},
	{name: "equal-bodies-collapse", file: "lua/fetch.lua", at: onRedis, test: "RedisReservesEqualBodiesApart",
		old: `if i >= from and (seen[result[i]] or not added[result[i]]) then`, new: `if false then`},
	{name: "settle-without-a-token", file: "memory_queue.go", at: engine,
		old: `if !ok || t.job.deliveries != t.delivery || !q.holds(t.job) {`, new: `if !ok || !q.holds(t.job) {`},
	{name: "redis-reservation-keeps-its-text", file: "lua/fetch.lua", at: onRedis, test: conforms("stale-settle|lease-expiry|late-settle"),
		old: `string.format('%d', n + 1) .. sub(body, last + 1)`, new: `string.format('%d', n) .. sub(body, last + 1)`},
	{name: "error-ends-the-poller", file: "poller.go", at: engine,
		old: `		if r.polling.Err() != nil {
			late = batch`, new: `		if lanes[0].outage.has(fetching) {
			return
		}
		if r.polling.Err() != nil {
			late = batch`},
	{name: "panic-is-success", file: "worker.go", at: engine,
		old: `			err = r.recovered(ctx, dl, v)`, new: `			_ = r.recovered(ctx, dl, v)`},
	{name: "panic-kills-the-process", file: "worker.go", at: engine,
		old: `if v := recover(); v != nil {`, new: `if v := any(nil); v != nil {`},
	{name: "quit-drops-what-was-fetched", file: "poller.go", at: []stage{unit, simulated},
		old: `			late = batch
			return`, new: `			return`},
	{name: "quit-drops-what-waits", file: "poller.go", at: atUnits,
		old: `slices.Backward(append(back, late...))`, new: `slices.Backward(late)`},
	{name: "done-before-it-runs", file: "worker.go", at: engine,
		old: `	r.running[slot].Store(dl)
	defer func() {`, new: `	r.running[slot].Store(dl)
	_ = r.backend.settler.Settle(context.Background(), dl.lane.queue, []Settlement{{Job: dl.job, Op: OpDelete}})
	defer func() {`},
	{name: "stop-cancels-settlements", file: "settler.go", at: []stage{unit}, test: "Stop",
		old: `ctx, cancel := context.WithTimeout(ctx, settleLimit)`, new: `ctx, cancel := context.WithTimeout(s.polling, settleLimit)`},
	{name: "settles-once-only", file: "settler.go", at: engine,
		old: `		res.unsure = res.unsure || errors.Is(err, ErrUnknown) || errors.Is(err, context.DeadlineExceeded)
		return false`, new: `		s.close(res, err)`},
	{name: "settle-has-no-limit", file: "settler.go", at: engine,
		old: `ctx, cancel := context.WithTimeout(ctx, settleLimit)`, new: `ctx, cancel := context.WithTimeout(ctx, settleLimit*1000)`},
	{name: "touch-revives-the-lost", file: "lua/touch.lua", at: onRedis, test: conforms("stale-settle|touch-settled|late-settle"),
		old: `if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then`, new: `if redis.call('ZREM', KEYS[1], ARGV[i]) >= 0 then`},
	{name: "memory-touch-revives-the-lost", file: "broker_memory.go", at: engine,
		old: `		if m := q.heldBy(r); m != nil {
			q.reserve(m, until)`, new: `		if t, _ := r.Token().(memoryToken); q.holds(t.job) {
			m := t.job
			q.reserve(m, until)`},
	{name: "unknown-class-again-at-once", file: "worker.go", at: atUnits,
		old: `return fmt.Errorf("%w %.64q", ErrUnknownClass, dl.class)`, new: `return Snooze(0)`},
	{name: "delays-are-short", file: "memory_queue.go", at: engine,
		old: `m.due = time.Now().Add(delay)`, new: `m.due = time.Now().Add(delay - delay/10)`},
	{name: "redis-delays-are-short", file: "lua/push.lua", at: onRedis, test: conforms("later|no-delay|sub-second-delay"),
		old: `now + ARGV[i] / 1000)`, new: `now + ARGV[i] / 1100)`},
	{name: "redis-retries-are-early", file: "lua/settle.lua", at: onRedis, test: conforms("release-with-delay|sub-second-release"),
		old: `now + ARGV[i + 3] / 1000)`, new: `now + ARGV[i + 3] / 1100)`},
	{name: "crash-is-not-counted", file: "job.go", at: atUnits,
		old: `max(0, int(j.head.Deliveries-1-j.head.Settled))`, new: `0 * int(j.head.Deliveries-1-j.head.Settled)`},
	{name: "batch-goes-on-behind-a-bad-job", file: "redis_batch.go", at: onRedis, test: "AnOddJobInABatch",
		old: `		b.err = err
		return nil, err
`, new: `		return []byte("{}"), nil
`},
	{name: "batch-that-is-broken-off-is-unknown", file: "redis_batch.go", at: onRedis, test: "AnOddJobInABatch",
		old: `		err = batch.err
`, new: ``},
	{name: "batch-of-several-commands-is-not-looked-at", file: "redis_batch.go", at: onRedis, test: "AnOddJobInABatch|ALargeBatch",
		old: `		each = plainJobs(jobs, 1)
`, new: ``},
	{name: "server-times-out-never", file: "redis_url.go", at: []stage{redis, sweep}, test: "RedisCallsReturnThoughTheServerHangs",
		old: `c.ContextTimeoutEnabled = true`, new: `c.ContextTimeoutEnabled, c.ReadTimeout = false, -1`},
	{name: "commands-are-sent-again", file: "redis_command.go", at: []stage{sweep, redis},
		old: `func (onceCmd) NoRetry() bool { return true }`, new: `func (onceCmd) NoRetry() bool { return false }`},
	{name: "unknown-is-refused", file: "redis_command.go", at: []stage{sweep, redis},
		old: `return fmt.Errorf("linda: redis: %w: %w", ErrUnknown, err)`, new: `return fmt.Errorf("linda: redis: %w", err)`},

	// The keeper.
	{name: "keeper-comes-late", file: "keeper.go", at: engine,
		old: `soon := time.Now().Add(k.lease - k.lease/3)`, new: `soon := time.Now().Add(k.lease / 25)`},
	{name: "keeper-never-ends-contexts", file: "keeper.go", at: engine,
		old: `Until().Add(-k.lease/10)) {`, new: `Until().Add(k.lease)) {`},
	{name: "keeper-forgets-the-older", file: "keeper.go", at: engine,
		old: `k.held = append(k.held, batch...)`, new: `k.held = slices.Clone(batch)`},
	{name: "keeper-ignores-the-lost", file: "keeper.go", at: atUnits,
		old: `			held[i].lose()`, new: `			_ = held`},
	{name: "keeper-has-one-try", file: "keeper.go", at: engine,
		old: `				k.touchDue(ctx, held)
				idle <- struct{}{}`, new: `				k.touchDue(ctx, held)`},
	{name: "touch-blocks-the-keeper", file: "keeper.go", at: atUnits,
		old: `			underWay.Go(func() {`, new: `			func(f func()) { f() }(func() {`},

	// The settler.
	{name: "settler-drops-in-an-outage", file: "settler.go", at: engine,
		old: `		s.open = append(s.open, s.batch...)`, new: `		_ = s.open`},
	{name: "settler-drops-what-failed", file: "settler.go", at: engine,
		old: `	s.open = append(open, failed...) //`, new: `	s.open = open //`},
	{name: "settler-mixes-up-errors", file: "settler.go", at: engine,
		old: `res := tried[len(tried)-1-i]; s.final`, new: `res := tried[i]; s.final`},
	{name: "settler-turns-the-order", file: "settler.go", at: atUnits,
		old: `settlements[last-i] = res.settle`, new: `settlements[i+0*last] = res.settle`},
	{name: "settler-never-closes", file: "settler.go", at: atUnits,
		old: `	res.dl.done.Store(true)`, new: `	_ = res.dl`},
	{name: "one-bad-settlement-holds-up-all", file: "settler.go", at: atUnits,
		old: `	half := len(rest) / 2
`, new: `	if half := 0; half == 0 {
		return rest
	}
	half := len(rest) / 2
`},

	// Workers, and what they decide.
	{name: "goexit-ends-the-worker", file: "worker.go", at: engine,
		old: `		if !returned {`, new: `		if !returned && false {`},
	{name: "one-attempt-too-many", file: "handler.go", at: engine,
		old: `limit > 0 && failures >= limit`, new: `limit > 0 && failures > limit`},
	{name: "snooze-is-an-attempt", file: "handler.go", at: atUnits,
		old: `delay: max(o.delay, 0), snoozed: true}`, new: `delay: max(o.delay, 0)}`},
	{name: "discard-is-tried-again", file: "handler.go", at: engine,
		old: `	case special && o.kind == discard:`, new: `	case special && o.kind == discard && false:`},
	{name: "stop-is-a-failure", file: "handler.go", at: atUnits,
		old: `	case interrupted(err, cause):`, new: `	case interrupted(err, cause) && false:`},
	{name: "retry-in-is-ignored", file: "handler.go", at: atUnits,
		old: `		delay = o.delay
`, new: `		_ = o.delay
`},
	{name: "retries-at-once", file: "handler.go", at: atUnits,
		old: `op: OpRelease, delay: max(delay, 0), reason: reason}`, new: `op: OpRelease, delay: 0 * delay, reason: reason}`},
	{name: "poison-runs-once-more", file: "handler.go", at: atUnits,
		old: `	case job.Crashes() >= p.maxCrashes:`, new: `	case job.Crashes() > p.maxCrashes:`},
	{name: "bad-body-runs", file: "handler.go", at: atUnits,
		old: `	case job.Err() != nil:`, new: `	case job.Err() != nil && false:`},
	{name: "lost-jobs-run", file: "worker.go", at: atUnits,
		old: `	if dl.lost() {`, new: `	if false {`},
	{name: "context-outlives-the-reservation", file: "jobcontext.go", at: atUnits,
		old: `	if c.cancel != nil {`, new: `	if false {`},
	{name: "context-of-who-asks-late-lives-on", file: "jobcontext.go", at: atUnits,
		old: `	if c.ended {
		c.cancel(c.cause)`, new: `	if false {
		c.cancel(c.cause)`},
	{name: "no-time-limit", file: "jobcontext.go", at: atUnits,
		old: `	if c.limit > 0 {`, new: `	if c.limit > 1<<60 {`},
	{name: "room-is-never-free", file: "worker.go", at: engine,
		old: `	r.send(res)
	r.load.free()`, new: `	r.send(res)`},
	{name: "prefetch-for-ever", file: "load.go", at: atUnits,
		old: `	if late := l.late.Swap(false); !late && !idle {`, new: `	if late := l.late.Swap(false); !late || !idle || true {`},
	{name: "paused-queue-is-served", file: "lanes.go", at: atUnits,
		old: `return l.rest.After(now) || r.gate.shut(l.queue)`, new: `return l.rest.After(now)`},
	{name: "no-rest-after-a-failure", file: "lanes.go", at: atUnits,
		old: `		l.rest = time.Now().Add(l.trouble.next())
		return`, new: `		return`},

	// Receipts and the bookkeeping.
	{name: "unknown-outcome-is-lost", file: "receipt.go", at: atUnits,
		old: `	case r.unsure && time.Now().Before(r.until):
		r.state, err = settled, nil`, new: `	case false:`},
	{name: "unknown-outcome-is-done", file: "receipt.go", at: engine,
		old: `		r.state = held
		r.unsure`, new: `		r.state = settled
		r.unsure`},
	{name: "receipt-is-good-twice", file: "receipt.go", at: atUnits,
		old: `	if err := r.state.err(); err != nil {
		return nil, err
	}
	r.state = settling`, new: `	r.state = settling`},
	{name: "receipt-is-good-on-any-queue", file: "receipt.go", at: atUnits,
		old: `r != nil && r.broker == b && r.queue == queue`, new: `r != nil && r.broker == b`},
	{name: "failures-are-not-counted", file: "header.go", at: engine,
		old: `		h.Failures++
`, new: ``},
	{name: "unstarted-clears-crashes", file: "header.go", at: atUnits,
		old: `		h.Settled++ //`, new: `		h.Settled = h.Deliveries //`},
	{name: "unstarted-is-an-attempt", file: "header.go", at: atUnits,
		old: `		h.Uncounted++
`, new: ``},
	{name: "members-of-a-newer-linda-go", file: "header.go", at: atUnits,
		old: `	b = append(b, h.newer...)
`, new: ``},
	{name: "arguments-are-escaped", file: "envelope.go", at: atUnits,
		old: `enc.SetEscapeHTML(false)`, new: `enc.SetEscapeHTML(true)`},
	{name: "pushed-copy-keeps-its-id", file: "envelope.go", at: atUnits,
		old: `	if again {
		h.ID = ""`, new: `	if again {
		_ = h.ID`},

	// The memory broker.
	{name: "reservations-end-early", file: "memory_queue.go", at: engine,
		old: `!(*h)[0].due.After(now) {`, new: `!(*h)[0].due.After(now.Add(time.Second)) {`},
	{name: "buried-is-gone", file: "memory_queue.go", at: engine,
		old: `		q.dead = append(q.dead, m)`, new: `		_ = m`},
	{name: "delay-of-a-release-is-ignored", file: "memory_queue.go", at: engine,
		old: `		q.add(m, s.Delay)
`, new: `		q.add(m, 0)
`},
	{name: "memory-delivery-is-not-counted", file: "broker_memory.go", at: engine,
		old: `		m.deliveries++
`, new: ``},
	{name: "memory-wakes-nobody", file: "memory_queue.go", at: atUnits,
		old: `		q.ready.pushBack(m)
	}
	q.notify()`, new: `		q.ready.pushBack(m)
	}`},

	// The scripts.
	{name: "settle-without-a-reservation", file: "lua/settle.lua", at: onRedis, test: conforms("stale-settle|late-settle|double-settle"),
		old: `call('ZREM', reserved, member) == 1
`, new: `call('ZREM', reserved, member) >= 0
`},
	{name: "deleted-without-a-reservation", file: "lua/settle.lua", at: onRedis, test: conforms("stale-settle|late-settle|double-settle"),
		old: `call('ZREM', reserved, ARGV[at]) == 1
`, new: `call('ZREM', reserved, ARGV[at]) >= 0
`},
	{name: "the-wrong-job-was-lost", file: "lua/settle.lua", at: onRedis, test: conforms("settle-with-lost"),
		old: `      if not held then missed[#missed + 1] = count end`, new: `      if not held then missed[#missed + 1] = 1 end`},
	{name: "redis-buried-is-gone", file: "lua/settle.lua", at: onRedis, test: conforms("bury"),
		old: `add(KEYS[4], string.format('%.6f', now), ARGV[i + 2])`, new: `held = true`},
	{name: "heads-in-reverse", file: "lua/settle.lua", at: onRedis, test: conforms("unstarted-to-head"),
		old: `for n = #heads, 1, -1 do`, new: `for n = 1, #heads do`},
	{name: "fetched-stay-ready", file: "lua/fetch.lua", at: onRedis, test: conforms("push-pop-delete|fetch-several"),
		old: `    redis.call('LTRIM', ready, got, -1)
`, new: ``},
	{name: "redis-pause-is-ignored", file: "lua/fetch.lua", at: onRedis, test: conforms("pause"),
		old: `if redis.call('EXISTS', paused) == 1 then`, new: `if false then`},
	{name: "key-without-limit-is-free", file: "lua/unique.lua", at: onRedis, test: conforms("unique|unique-kept"),
		old: `if till == 0 or till > now then`, new: `if till > now then`},
	{name: "kick-copies", file: "lua/kick.lua", at: onRedis, test: conforms("kick|kick-fenced"),
		old: `if redis.call('ZREM', KEYS[2], ARGV[i]) == 1 then`, new: `if redis.call('ZSCORE', KEYS[2], ARGV[i]) then`},
	{name: "tick-comes-twice", file: "lua/tick.lua", at: onRedis, test: conforms("tick|tick-race"),
		old: `last < at and at <= now then`, new: `last <= at and at <= now then`},
	{name: "tick-comes-early", file: "lua/tick.lua", at: onRedis, test: conforms("tick-early"),
		old: `last < at and at <= now then`, new: `last < at then`},

	// Schedules, and reservations that linda keeps.
	{name: "missed-ticks-are-forgotten", file: "producer.go", at: engine,
		old: `			e.pass(d.Last)`, new: `			e.pass(now)`},
	{name: "error-ends-schedules", file: "producer.go", at: engine,
		old: `			wait = pause.next()
`, new: `			_ = pause
			return
`},
	{name: "kept-lease-ends-unnoticed", file: "internal/lease/lease.go", at: []stage{leases},
		old: `if ends && e.receipt.Lose() {`, new: `if ends {`},
	{name: "kept-lease-is-renewed-once", file: "internal/lease/lease.go", at: []stage{leases},
		old: `			e.renewAt = now.Add(k.options.Every)
		}`, new: `			e.renewAt = now.Add(1000 * k.options.Every)
		}`},
}
