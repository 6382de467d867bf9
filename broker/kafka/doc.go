// Package kafka is linda's broker for Apache Kafka. On 4.2 and newer it works by
// share groups (KIP-932), which hand out records one by one; on older clusters,
// or where the URL says so, by consumer groups (classic mode, below). Import it
// for its URL schemes:
//
//	import _ "github.com/amlun/linda/broker/kafka"
//
//	kafka://[user:password@]host[:port][,host[:port]...][?options]
//	kafka+tls://...
//
// # States
//
// A queue is the topic of its name, and its workers are one share group, named
// linda.<topic>, or one consumer group, named linda.classic:<topic>. Of the
// queues delay and delay.leader the share groups are named linda.share:<topic>,
// since who moves the delayed jobs has groups of the other names.
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
//	mode=auto          share where the cluster can, otherwise classic; or share, or classic
//	group=linda        start of the names of the groups
//	prefix=            start of the names of the topics
//	partitions=12      of a topic that is created
//	replication=       of a topic that is created; the cluster's default
//	create=true        create topics that are not there
//	lock=30s           the lock of a record, within the server's bounds (15 s to 60 s by default);
//	                   in classic mode the session of a process, after which its jobs are others' if it dies
//	window=2000        how far a partition goes on behind a job that is held, in classic mode
//	trim=created       delete the records of done jobs from topics that linda created; or all, or off;
//	                   not in classic mode
//	trim_every=1m      how often; 1s to 1h
//	sasl=plain         or scram-sha-256, scram-sha-512
//	ca=file            certificates to trust, for kafka+tls
//
// # Classic mode
//
// A consumer group gives each partition to one process, and stores for it one
// number, up to which all is done. Jobs are settled in any order all the same:
//
//	reserve       note in the process, and commit how far records were handed out, before a worker gets one
//	delete        note, and commit the low-water mark, up to which all are done
//	lease ends    the process hands the record out again
//	others        as above; accept is delete
//
// What is done beyond the low-water mark, and how far records were handed out,
// is in the metadata of the commit. So a job that is deleted does not come
// again, whatever becomes of those before it; a process that has lost its
// partitions hands out and settles nothing; and of a process that died it is
// known which jobs it held, so that one that kills its process ends dead.
//
// When a partition is to go to another process, its jobs have five seconds to
// end; the others are lost to their workers and written anew, with an attempt
// counted and no crash.
//
// A process that dies holds up those that are to get partitions until its session
// ends; the others work on with what they have. Where processes die more often
// than sessions end, partitions come to rest: shorten lock=, or use share mode.
//
// What is weaker than in share mode: no more processes than partitions work on a
// queue, and a process whose workers are all busy keeps the jobs of its
// partitions from the others. The jobs of a process that dies come back when its
// session ends, not at once. Jobs with the same key start in the order of their
// pushes, as long as they are not released, delayed or lost, and as long as
// there is one worker for a partition: with several they start in that order,
// and run beside one another.
//
// All brokers of a process with the same URL are one member of the group. A
// process that asks for no jobs for 30 s leaves its partitions to the others.
//
// A queue is in one mode at a time: who is in the other waits until the last has
// left, and begins where it ended. After a change from share to classic, some
// jobs that were done last may run again, since the server is late to tell where
// a share group stands.
//
// A server forgets a consumer group that has had no member for
// offsets.retention.minutes, a week by default: the next one begins with the
// first record that is there. Delete what is done from a queue that rests for
// longer, or raise that setting.
//
// # Limits
//
// Jobs come in no promised order. Ready, reserved and delayed jobs cannot be
// counted, looked at or found one by one; the lag of the group is the ready and
// reserved ones together. Unique keys and schedules are not
// supported. Queues whose names differ only in dots and underscores cannot both
// be. The clocks of the processes should agree: a delay is measured by that of
// who pushes and that of who moves.
//
// Topics that are created keep their records until the jobs are done: then they
// are deleted up to where all of linda's share groups are that have the topic.
// In classic mode nothing is deleted: do so up to the start of the group, with
// kafka-delete-records.sh. Topics of others keep what their retention says, which
// has to be longer than any job waits.
package kafka
