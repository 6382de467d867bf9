package main

var onNSQ = []stage{nsq}

// nsqMutants are those of NSQ.
var nsqMutants = []mutant{
	{name: "nsq-early-jobs-are-run", file: "broker/nsq/tap.go", at: onNSQ, test: "TestConformanceOfNsqd/^(sub-second-delay|sub-second-release|long-delay|later)$",
		old: `if due := d.job.Due(); due.After(now) {`, new: `if due := d.job.Due(); due.After(now.Add(time.Hour)) {`},
	{name: "nsq-due-times-are-forgotten", file: "broker/nsq/push.go", at: onNSQ, test: "TestADelayIsNeverCutShortByARestart",
		old: `	p.body = linda.DueBody(p.body, p.due)
`, new: ``},
	{name: "nsq-removes-before-it-stores", file: "broker/nsq/settle.go", at: []stage{sweep}, test: "Cut.*/nsq/(retry|release)$",
		old: `	errs := b.post(ctx, posts)
`, new: `	for _, e := range copied {
		if d := e.delivery; d != nil {
			d.feed.tap.end([]*delivery{d}, d.feed.tap.finish)
			e.delivery = nil
		}
	}
	errs := b.post(ctx, posts)
`},
	{name: "nsq-copies-and-keeps", file: "broker/nsq/settle.go", at: onNSQ, test: "TestConformanceOfNsqd/^(release|release-with-delay|attempts|settle-every-way)$",
		old: `			done = append(done, e)
		}
	}
	finish(ctx, done)`, new: `			e.end(nil)
		}
	}
	finish(ctx, done)`},
	{name: "nsq-settles-what-was-taken-back", file: "broker/nsq/tap.go", at: onNSQ, test: "TestWhatTheServerHasTakenBack",
		old: `	if !d.over && d.stale(now) {`, new: `	if !d.over && d.stale(now.Add(-time.Hour)) {`,
		also: []edit{{"broker/nsq/tap.go", `			old.over = true
			replaced = append(replaced, old)
`, ``}}},
	{name: "nsq-keeps-what-a-cut-took", file: "broker/nsq/feed.go", at: onNSQ, test: "TestJobsOfAConnectionThatBreaks",
		old: `	for _, d := range held {
		d.over = true
	}
	gone := func(d *delivery) bool { return held[d.id] == d }`, new: `	gone := func(d *delivery) bool { return held == nil }`},
	{name: "nsq-settles-twice", file: "broker/nsq/settle.go", at: onNSQ, test: "TestASettlementThatIsTriedAgain",
		old: `	if o := d.outcome; o != nil && !o.failed() {`, new: `	if o := d.outcome; o != nil && false {`},
	{name: "nsq-crashes-are-not-counted", file: "broker/nsq/tap.go", at: onNSQ, test: "TestConformanceOfNsqd/^(crashes|attempts)$",
		old: `past: int64(m.attempts) - 1,`, new: `past: 0,`},
	{name: "nsq-never-touches", file: "broker/nsq/keep.go", at: onNSQ, test: "TestJobsOfAKilledWorkerRunAgain",
		old: `		case now.Sub(d.touched) >= f.timeout/3:`, new: `		case now.Sub(d.touched) >= 100*f.timeout:`},
	{name: "nsq-dead-come-back", file: "broker/nsq/settle.go", at: onNSQ, test: "TestConformanceOfNsqd/^(bury|bury-long-reason|settle-every-way)$",
		old: `		p.topic = dead(queue)
`, new: `		p.topic = ready(queue)
`},
	{name: "nsq-giving-back-is-an-attempt", file: "broker/nsq/keep.go", at: onNSQ, test: "TestWhatNobodyTakesGoesBack",
		old: `Op: linda.OpRelease, Unstarted: true}`, new: `Op: linda.OpRelease}`},
	{name: "nsq-unknown-is-refused", file: "broker/nsq/outlet.go", at: []stage{sweep}, test: "Cut.*/nsq/push_again$",
		old: `			e.end(o.server.explain("publish", fmt.Errorf("%w: %w", linda.ErrUnknown, err)))`, new: `			e.end(o.server.explain("publish", err))`},
}
