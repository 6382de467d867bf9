package beanstalkd

import "time"

// few is how many jobs of one row are asked about one by one: proving that they
// are new would take as many questions.
const few = 4

// shortest is the shortest time to run that the server knows.
const shortest = time.Second

// know reads what stats-job, sent at a time, tells about a reserved job.
//
// Each reservation that a settlement ended by release or bury is accounted for
// in the body or is none that counts; what is left are deliveries.
func (r *reservation) know(stats string, sent time.Time) {
	r.learn(stats)
	r.native = field(stats, "reserves") - field(stats, "releases") - field(stats, "buries")
	r.counted = true
	r.plain = r.native == 1 && field(stats, "reserves") == 1 && field(stats, "kicks") == 0 && field(stats, "delay") == 0
	r.sure(sent.Add(time.Duration(field(stats, "time-left")) * time.Second))
}

// learn reads the priority and the time to run from what stats-job tells.
func (r *reservation) learn(stats string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pri = uint64(field(stats, "pri"))
	r.ttr, r.known = time.Duration(field(stats, "ttr"))*time.Second, true
}

// traits returns the priority and the time to run, and whether the server has
// told them.
func (r *reservation) traits() (pri uint64, ttr time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pri, r.ttr, r.known
}

// peace is what a server tells of everything by which jobs become READY that
// were reserved: reservations that ran out, connections that closed, releases
// and kicks. As long as it is the same, none was.
type peace struct {
	server                            string
	timeouts, closed, released, kicks int64
}

func readPeace(stats string) peace {
	return peace{
		server:   textField(stats, "id"),
		timeouts: field(stats, "job-timeouts"),
		closed:   field(stats, "total-connections") - field(stats, "current-connections"),
		released: field(stats, "cmd-release"),
		kicks:    field(stats, "cmd-kick"),
	}
}

// row is the jobs that one exchange has reserved, in the order of their
// reservations.
type row struct {
	jobs  []*reservation
	sent  time.Time // the exchange
	quiet bool      // no job came back since before it
}

// vouched is a job that has never been reserved before if its head has not.
type vouched struct{ job, head *reservation }

// split parts a row into the jobs to ask about, and those that the answers tell
// of as well.
//
// A head that was never anything but ready was there to be reserved from its put
// on. Whatever is reserved before it is more urgent, or of its priority and of a
// lower id. A job of a higher id was put later. So had it been reserved before,
// it is more urgent than the head; and then it was not ready when the head was
// reserved in this row, and became so since: which is not so, as none came back.
func (w row) split() (ask []*reservation, rest []vouched) {
	if !w.quiet || len(w.jobs) <= few {
		return w.jobs, nil
	}
	var head *reservation
	for _, r := range w.jobs {
		if head == nil || r.id < head.id {
			head = r
			ask = append(ask, r)
		} else {
			rest = append(rest, vouched{job: r, head: head})
		}
	}
	return ask, rest
}

// assume takes over that a job was delivered once, by an exchange sent at a
// time. Its priority and time to run are asked for when they matter: should its
// handler take long, or the job be put or released again.
func (r *reservation) assume(sent time.Time) {
	r.ttr = shortest
	r.native, r.counted = 1, true
	r.sure(sent.Add(shortest))
}
