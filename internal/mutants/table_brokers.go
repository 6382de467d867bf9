package main

import "slices"

// brokerMutants are those of the brokers in packages of their own.
var brokerMutants = slices.Concat(beanstalkMutants, rabbitMutants, kafkaMutants, classicMutants, nsqMutants)

var (
	onBeanstalk = []stage{beanstalk}
	onRabbit    = []stage{rabbit}
	onKafka     = []stage{kafka}
)

var beanstalkMutants = []mutant{
	{name: "beanstalkd-settles-by-id-alone", file: "broker/beanstalkd/conn.go", at: onBeanstalk, test: "AnEarlierReservationOfTheSameConnection",
		old: `return !c.lost() && c.reserved(r.id) == r }`, new: `return !c.lost() }`,
		also: []edit{{"broker/beanstalkd/fetch.go", `return old.conn == c && old.id == r.id })`, `return false })`}}},
	{name: "beanstalkd-settles-on-any-connection", file: "broker/beanstalkd/settle.go", at: onBeanstalk, test: "SparesTheNewJobOfTheSameID",
		old: `		c := e.r.conn
		if !c.holds(e.r) {`, new: `		c := b.puts.current()
		if c == nil {`,
		also: []edit{{"broker/beanstalkd/broker.go", `		return r.conn == c
`, `		return false
`}}},
	{name: "beanstalkd-copies-and-keeps", file: "broker/beanstalkd/settle.go", at: onBeanstalk, test: "TestConformance/(release-with-delay|attempts|settle-every-way)",
		old: `			cmd.add("delete", e.r.id)
`, new: `			cmd.add("release", e.r.id, e.r.pri, 0)
`},
	{name: "beanstalkd-deletes-before-it-copies", file: "broker/beanstalkd/settle.go", at: []stage{sweep}, test: "Cut.*/beanstalkd/(retry|release)$",
		old: `	b.copyAll(queue, endings)
	b.finish(endings)
`, new: `	for _, e := range endings {
		if e.body != "" {
			e.copy = 1 << 60
		}
	}
	b.finish(endings)
	b.copyAll(queue, endings)
`},
	{name: "beanstalkd-dead-come-back", file: "broker/beanstalkd/settle.go", at: onBeanstalk, test: "TestConformance/(bury|settle-every-way)",
		old: `			buried = append(buried, e)
		}
	}
	if cmd.n == 0 {`, new: `			buried = append(buried, e)
		}
	}
	if cmd.n >= 0 {`},
	{name: "beanstalkd-retry-is-lost-in-drain-mode", file: "broker/beanstalkd/settle.go", at: onBeanstalk, test: "AServerThatDrains",
		old: `case e.r != nil && !e.lapse && (`, new: `case false && (`},
	{name: "beanstalkd-delays-are-cut-off", file: "broker/beanstalkd/push.go", at: onBeanstalk, test: "TestConformance/(sub-second-delay|sub-second-release)",
		old: `	if d%time.Second > 0 {
		n++
	}
`, new: ``},
	{name: "beanstalkd-crashes-are-not-counted", file: "broker/beanstalkd/count.go", at: onBeanstalk, test: "JobsOfAKilledWorker|TestConformance/(crashes|attempts)",
		old: `r.native = field(stats, "reserves") - field(stats, "releases") - field(stats, "buries")`, new: `r.native = 1`},
	{name: "beanstalkd-a-row-is-all-new", file: "broker/beanstalkd/fetch.go", at: onBeanstalk, test: "OnlyWhatComesBehindAJobOfALowerID",
		old: `		if v.head.plain {`, new: `		if true {`},
	{name: "beanstalkd-late-jobs-are-nobodys", file: "broker/beanstalkd/wait.go", at: onBeanstalk, test: "TestConformance/(fetch-ends|close-during-calls|fetch-woken-each)",
		old: `	if len(t.wants) == 0 {
		t.broker.giveBack(c, []*reservation{job})
`, new: `	if len(t.wants) == 0 {
`},
	{name: "beanstalkd-waits-for-ever", file: "broker/beanstalkd/conn.go", at: onBeanstalk, test: "EveryCallReturnsWhileTheServerHangs$",
		old: `	case <-ctx.Done():
		if x.leave(late) {`, new: `	case <-c.gone:
		if x.leave(late) {`},
	{name: "beanstalkd-never-touches", file: "broker/beanstalkd/keep.go", at: onBeanstalk, test: "TimeToRunOfASecond|TimeToRunIsOneSecond",
		old: `if !r.touching && (`, new: `if false && (`},
	{name: "beanstalkd-mixes-up-answers", file: "broker/beanstalkd/conn.go", at: onBeanstalk, test: "TestConformance/(fetch-ends|ended-context|many-workers)|EveryCallReturnsWhileTheServerHangs$",
		old: `	x.late = func(x *exchange) {
`, new: `	x.want++
	x.late = func(x *exchange) {
`},
	{name: "beanstalkd-unknown-is-refused", file: "broker/beanstalkd/conn.go", at: []stage{sweep}, test: "Cut.*/beanstalkd/push_again$",
		old: `	unknown := fmt.Errorf("%w: %w", linda.ErrUnknown, c.err)`, new: `	unknown := c.err`},
}

var rabbitMutants = []mutant{
	{name: "rabbitmq-unroutable-is-ok", file: "broker/rabbitmq/outlet.go", at: onRabbit, test: "AQueueThatIsDeletedIsMadeAgain",
		old: `m.key, true, false, amqp`, new: `m.key, false, false, amqp`},
	{name: "rabbitmq-awaits-no-confirm", file: "broker/rabbitmq/outlet.go", at: onRabbit, test: "EveryCallReturnsWhileTheServerIsStopped",
		old: `	select {
	case <-s.done:
		return s.errs
	case <-ctx.Done():
	}
	o.mu.Lock()`, new: `	if s.left >= 0 {
		return make([]error, len(messages))
	}
	o.mu.Lock()`},
	{name: "rabbitmq-removes-before-it-stores", file: "broker/rabbitmq/settle.go", at: []stage{sweep}, test: "Cut.*/rabbitmq/retry$",
		old: `	b.repost(ctx, queue, batch)
`, new: `	defer b.repost(ctx, queue, batch)
`},
	{name: "rabbitmq-keeps-what-a-cut-took", file: "broker/rabbitmq/settle.go", at: onRabbit, test: "ACutConnectionLosesReservations",
		old: `		case !s.receipt.Gone() && s.delivery.tap.broken():
			s.err = linda.ErrLeaseLost
`, new: ``,
		also: []edit{
			{"broker/rabbitmq/broker.go", `return d.tap == o.tap })`, `return false })`},
			{"broker/rabbitmq/ack.go", `	if t.closed {
		return deliveries
	}
`, `	if t.closed {
		return nil
	}
`},
		}},
	{name: "rabbitmq-gets-many-jobs-on-a-channel", file: "broker/rabbitmq/get.go", at: onRabbit, test: "ARestartForgetsNoJob",
		old: `	return newDelivery(p, &m, lone), nil
`, new: `	t.mu.Lock()
	t.spare = append(t.spare, p)
	t.mu.Unlock()
	return newDelivery(p, &m, lone), nil
`},
	{name: "rabbitmq-sends-in-advance-whatever-the-pace", file: "broker/rabbitmq/flow.go", at: onRabbit, test: "NoJobIsSentInAdvance",
		old: `return min(t.pace.within(flowFor, now), t.most)`, new: `return t.most`},
	{name: "rabbitmq-never-adds-a-flow", file: "broker/rabbitmq/flow.go", at: onRabbit, test: "AFlowIsAdded",
		old: `	case t.soon(now) >= 2*total:
`, new: `	case false:
`},
	{name: "rabbitmq-acknowledges-past-a-gap", file: "broker/rabbitmq/tags.go", at: onRabbit, test: "TagsAreAcknowledgedTogether",
		old: `		if tag > t.all {`, new: `		if tag > t.all && false {`},
	{name: "rabbitmq-delays-are-short", file: "broker/rabbitmq/delay.go", at: onRabbit, test: "DigitsAreNeverLess",
		old: `>= delay+time.Duration(hops)*time.Millisecond`, new: `>= delay`},
	{name: "rabbitmq-dead-and-ready-share-a-name", file: "broker/rabbitmq/topology.go", at: onRabbit, test: "NoTwoQueuesShareAName",
		old: `		name += ":ready"
`, new: ``},
	{name: "rabbitmq-alarm-goes-unnoticed", file: "broker/rabbitmq/outlet.go", at: onRabbit, test: "AMemoryAlarmStops",
		old: `	case active && o.blocked == nil:`, new: `	case active && o.blocked == nil && false:`},
	{name: "rabbitmq-crashes-are-not-counted", file: "broker/rabbitmq/tap.go", at: onRabbit, test: "JobsOfAKilledWorker",
		old: `	case int64:
		d.past = n
`, new: `	case int64:
		return d
`},
	{name: "rabbitmq-close-waits-for-a-server-that-is-stopped", file: "broker/rabbitmq/line.go", at: onRabbit, test: "CloseDoesNotWait",
		old: `cut := time.AfterFunc(limit,`, new: `cut := time.AfterFunc(1000*limit,`},
	{name: "rabbitmq-dead-are-gone", file: "broker/rabbitmq/settle.go", at: onRabbit, test: "TestConformance/quorum/(bury|settle-every-way)",
		old: `		return &post{body: []byte(s.Body()), dead: true}
`, new: `		return nil
`},
	{name: "rabbitmq-unknown-is-refused", file: "broker/rabbitmq/outlet.go", at: []stage{sweep}, test: "Cut.*/rabbitmq/push_again$",
		old: `fmt.Errorf("%w: linda/rabbitmq: the connection broke before the server confirmed", linda.ErrUnknown)`,
		new: `errors.New("linda/rabbitmq: the connection broke before the server confirmed")`},
}

var kafkaMutants = []mutant{
	{name: "kafka-delays-are-short", file: "broker/kafka/push.go", at: onKafka, test: "TestConformance/^(later|no-delay)$",
		old: `(delay+time.Millisecond-1)/time.Millisecond)`, new: `delay/2/time.Millisecond)`},
	{name: "kafka-crashes-are-not-counted", file: "broker/kafka/fetch.go", at: onKafka, test: "TestConformance/^(crashes|attempts)$",
		old: `	job.Redelivered(int64(d.count))
`, new: ``},
	{name: "kafka-accepts-what-is-not-its-own", file: "broker/kafka/settle.go", at: onKafka, test: "TestConformance/^(late-settle|stale-settle)$",
		old: `!e.receipt.Gone() && left <= 0 {`, new: `!e.receipt.Gone() && left <= -time.Hour {`,
		why: "a second defence: a reservation that has ended is renewed before its job is written anew, which is refused"},
	{name: "kafka-begins-at-the-end", file: "broker/kafka/start.go", at: onKafka, test: "TestConformance/^(push-pop-delete|fifo)$",
		old: `	if err != nil {
		return err
	}
	done, err := b.leftByClassic(ctx, t)
`, new: `	if err != nil || len(starts) >= 0 {
		return err
	}
	done, err := b.leftByClassic(ctx, t)
`,
		also: []edit{{"broker/kafka/member.go", `"share.auto.offset.reset":       "earliest",`, `"share.auto.offset.reset": "latest",`}}},
	{name: "kafka-confirmed-late-is-lost", file: "broker/kafka/settle.go", at: onKafka, test: "TestASettlementThatWasConfirmedLateIsDone",
		old: `if e.err != nil && e.delivery.origin.lost(e.delivery) {`, new: `if e.err != nil {`},
	{name: "kafka-removes-before-it-stores", file: "broker/kafka/settle.go", at: []stage{sweep}, test: "Cut.*/kafka/retry$",
		old: `	b.write(ctx, endings)
	b.accept(ctx, endings)
`, new: `	b.accept(ctx, endings)
	b.write(ctx, endings)
`},
	{name: "kafka-unknown-is-refused", file: "broker/kafka/push.go", at: []stage{sweep}, test: "Cut.*/kafka/push_again$",
		old: `	return fmt.Errorf("linda/kafka: %s: %w: %w", what, linda.ErrUnknown, err)
}`, new: `	return fmt.Errorf("linda/kafka: %s: %w", what, err)
}`,
		also: []edit{{"broker/kafka/push.go", `errs[i] = fmt.Errorf("linda/kafka: %s: %w: %w", what, linda.ErrUnknown, ctx.Err())`,
			`errs[i] = fmt.Errorf("linda/kafka: %s: %w", what, ctx.Err())`}}},
	{name: "kafka-retries-are-not-written", file: "broker/kafka/settle.go", at: onKafka, test: "TestConformance/^(release|release-with-delay|settle-every-way)$",
		old: `		if e.err == nil && e.record != nil {`, new: `		if e.err == nil && e.record != nil && e.settlement.Op != linda.OpRelease {`},
}

// classicMutants are those of Kafka's classic mode.
var classicMutants = []mutant{
	{name: "kafka-classic-commits-past-a-gap", file: "broker/kafka/water.go", at: onKafka, test: "TestTheLowWaterNeverPasses|TestAJobThatRanWhenItsProcessWasKilled",
		old: `	if from <= w.low && len(w.done) == 0 {`, new: `	if len(w.done) == 0 {`},
	{name: "kafka-classic-settles-what-is-somebody-elses", file: "broker/kafka/partition.go", at: onKafka, test: "TestAMemberThatWasPutOut",
		old: `	if d.over {
		return 0, true
	}
	return m.b.config.lock`, new: `	if false {
		return 0, true
	}
	return m.b.config.lock`,
		also: []edit{{"broker/kafka/partition.go", `	case over:
		v.done(linda.ErrNotReserved)`, `	case over:
		_ = linda.ErrNotReserved
		v.done(nil)`}}},
	{name: "kafka-classic-window-has-no-end", file: "broker/kafka/partition.go", at: onKafka, test: "TestAJobThatIsHeldHoldsUpItsPartition",
		old: `	return len(p.records) == 0 || p.records[0].Offset < p.water.low+int64(p.t.m.b.config.window)`, new: `	return true`},
	{name: "kafka-classic-crashes-are-not-counted", file: "broker/kafka/partition.go", at: onKafka, test: "TestAJobThatKillsItsProcess",
		old: `		if r.Offset < p.before {
			d.count = 2
		}
`, new: ``},
	{name: "kafka-classic-moves-without-its-jobs", file: "broker/kafka/revoke.go", at: onKafka, test: "TestInClassicModeMembersThatComeAndGo",
		old: `	t.awaitSettled(ctx, parts)
	cancel()
	ctx, cancel = context.WithTimeout(context.WithoutCancel(t.m.b.ctx), storeFor)
	defer cancel()
	t.writeAnew(ctx, parts)
	t.store(ctx, parts)
`, new: `	_ = ctx
	cancel()
`},
	{name: "kafka-classic-commit-goes-as-another-member", file: "broker/kafka/tenure.go", at: onKafka, test: "TestAMemberThatWasPutOut",
		old: `	if member != t.member || generation < 0 {
		t.end(errNewMember)
		return "", -1
	}
`, new: ``,
		why: "a second defence: the client takes the partitions of a member that was put out from this process before it is another"},
}
