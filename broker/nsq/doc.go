// Package nsq is the broker for NSQ: nsqd 1.0 and newer. Import it for its URL
// schemes:
//
//	import _ "github.com/amlun/linda/broker/nsq"
//
//	nsq://host[:port][,host[:port]...][?options]
//	nsq+tls://...
//
// Several hosts are nsqds of their own: jobs are fetched from all of them, and
// pushed to the first that answers.
//
// How the states map to the server:
//
//	READY     topic <queue>, channel linda
//	DELAYED   a deferred message of it; the time when it is due is in the body
//	RESERVED  a message in flight, touched as long as its reservation lasts
//	DEAD      topic _dl.<queue>, channel linda
//
//	push      PUB, or MPUB together with what others push; with a delay DPUB.
//	          The channel is made first, so that the clock of a delay runs
//	delete    FIN
//	release   the renewed body is published, and once that is confirmed FIN;
//	          likewise with a delay
//	bury      the same, to the topic of the dead
//	lapse     REQ, which the server counts
//	fetch     SUB, and a RDY of what was asked for; what came and was not asked
//	          for within a quarter of a second goes back
//
// A message that comes before it is due, as all do after a restart of the
// server, waits here for half a second at most, or else is put back; it is
// never handed out early. So does one whose delay is longer than the server's
// max-req-timeout on its way. The time is that of the machine that pushed the
// job, so the clocks of producers and workers must agree.
//
// Options:
//
//	channel          linda
//	lookupd          host:port of nsqlookupds, where to look for more nsqds to
//	                 fetch from, every 15 s; separated by commas
//	http             host:port of the nsqds' HTTP, in the order of the hosts; by
//	                 default the port behind that of TCP. off: there is none
//	msg_timeout      60s: how long the server waits for a sign of life before it
//	                 hands out a job again. A shorter reservation shortens it
//	max_msg_timeout  the server's, which it tells: no reservation lasts longer,
//	                 touched or not
//	max_req_timeout  the server's, asked for over HTTP; 1h where it is not known
//	max_msg_size     the server's, asked for over HTTP; 1048576 where not known
//	max_in_flight    2000: how many jobs of a queue one broker holds at most
//	heartbeat_interval  10s
//	connect_timeout  5s
//	auth_secret      for an nsqd with an auth server
//	ca, cert, key, server_name  for nsq+tls://
//
// What it cannot do: unique keys, schedules, and showing or purging what is
// delayed or reserved. Orders are not promised.
//
// It speaks the protocol itself; docs/design.md tells why.
package nsq
