// Package kafka is linda's broker for Apache Kafka 4.2 and newer, whose share
// groups (KIP-932) hand out records one by one. Import it for its URL schemes:
//
//	import _ "github.com/amlun/linda/broker/kafka"
//
//	kafka://[user:password@]host[:port][,host[:port]...][?options]
//	kafka+tls://...
//
// # States
//
// A queue is the topic of its name, and its workers are one share group, named
// linda.<topic>.
//
//	push          produce to <queue>, acks=all, idempotent
//	later         produce to a tier of _linda.delay.*; at its time, in a transaction, to the next or to <queue>,
//	              by one of the processes that fetch jobs
//	reserve       acquire; the lock is renewed at a third of its time for as long as the reservation lasts
//	delete        accept
//	release       produce to <queue> or to a tier, then accept
//	lease ends    release of the share group: the server counts a delivery
//	bury          produce to _<queue>.dead, then accept
//	kick          produce to <queue>, then delete the records from _<queue>.dead
//
// A record that the server hands out for the second time is not given to a
// worker: it is written to the end of its queue with its deliveries counted,
// and then accepted. So a job stays far from the number of deliveries after
// which the server drops a record (5 by default).
//
// # Options
//
//	group=linda        start of the names of the groups
//	prefix=            start of the names of the topics
//	partitions=12      of a topic that is created
//	replication=       of a topic that is created; the cluster's default
//	create=true        create topics that are not there
//	lock=30s           the lock of a record, within the server's bounds (15 s to 60 s by default)
//	mode=auto          or share; there is no other mode yet
//	trim=created       delete the records of done jobs from topics that linda created; or all, or off
//	trim_every=1m      how often; 1s to 1h
//	sasl=plain         or scram-sha-256, scram-sha-512
//	ca=file            certificates to trust, for kafka+tls
//
// # Limits
//
// Jobs come in no promised order. Ready, reserved and delayed jobs cannot be
// counted, looked at or found one by one; the lag of the share group is the
// ready and reserved ones together. Unique keys and schedules are not
// supported. Queues whose names differ only in dots and underscores cannot both
// be. The clocks of the processes should agree: a delay is measured by that of
// who pushes and that of who moves.
//
// Topics that are created keep their records until the jobs are done: then they
// are deleted up to where all of linda's share groups are that have the topic.
// Topics of others keep what their retention says, which has to be longer than
// any job waits.
package kafka
