// Package beanstalkd lets linda keep its queues in beanstalkd, 1.12 or newer.
// Import it for its URL schemes, beanstalkd:// and beanstalk://:
//
//	import _ "github.com/amlun/linda/broker/beanstalkd"
//
// A queue is the tube of its name.
//
//	state     how a job comes there
//	READY     put; release, where it is handed back unstarted
//	DELAYED   put with a delay, in whole seconds, rounded up
//	RESERVED  reserve-with-timeout; touched as long as its reservation lasts
//	DEAD      a copy with the reason is put, reserved and buried
//
// The server cannot change a body, so a job that is to bear new bookkeeping is
// put again, and once the server has confirmed that, the old one is deleted.
//
// The options of the URL are ttr, the time to run of what is put (60s unless
// given, whole seconds, 3s or more); pri, its priority (1024); and conns, how
// many connections a broker opens at most so that one can wait (64).
//
// It speaks the protocol itself. The usual client, go-beanstalk, has neither
// deadlines nor contexts, and a reserve that waits holds up every later command
// of its connection; here commands of any number of goroutines share one.
package beanstalkd
