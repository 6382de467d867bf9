// Package rabbitmq is the broker for RabbitMQ 3.8 and newer, by the client
// amqp091-go. Import it for its URL schemes:
//
//	import _ "github.com/amlun/linda/broker/rabbitmq"
//
//	amqp[s]://[user:password@]host[:port],...[/vhost][?options]
//
// Several hosts are nodes of one cluster, tried in turn.
//
// How the states map to the server:
//
//	READY     queue <name>, durable and by default a quorum queue; a job that
//	          crashed is in queue <name>:alone, and fetched alone
//	DELAYED   queues linda:delay:v1:<digit>:<value>, shared by all queues: a job
//	          goes through one for each digit of its delay, and leaves it by
//	          the queue's time-to-live; no plugin is needed
//	RESERVED  a delivery that is not acknowledged; linda ends it by a reject
//	DEAD      queue <name>.dead
//
//	push      publish, mandatory and persistent; awaits the confirm
//	delete    ack, many in one where nothing between them is open
//	release   publish the renewed body, await the confirm, then ack; with a
//	          delay likewise
//	bury      the same, to the queue of the dead
//	kick      get from the dead, publish, await the confirm, ack
//	fetch     consume, with a prefetch of what was asked for, or is settled in
//	          40 ms; what came and was not taken within a quarter of a second
//	          goes back
//
// A queue whose name begins with amq. or ends in .dead is <name> with linda:
// before it or :ready behind it on the server. A queue that somebody else has
// declared is used as it is.
//
// Options:
//
//	queue_type        quorum or classic; by default quorum where the server has it
//	prefix            begins the names of all queues
//	delay_prefix      begins the names for delays; linda:delay by default
//	prefetch          how many jobs of a queue one broker holds at most; 4000
//	consumer_timeout  the server's consumer_timeout; 30m. No reservation lasts
//	                  longer than five sixths of it, touched or not
//	new_queue_wait    1.5s, or a number of milliseconds: how long whoever makes a
//	                  quorum queue waits before it uses it; a server that is killed
//	                  sooner forgets it, and the jobs in it
//	heartbeat         10s, or a number of seconds
//	connection_timeout  5s, or a number of milliseconds
//	cacertfile, certfile, keyfile, server_name_indication  for amqps://
//
// What it cannot do: unique keys, schedules, listing queues, and showing or
// counting what is not READY or DEAD. Orders are not promised.
package rabbitmq
