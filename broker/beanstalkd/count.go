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
	r.pri = uint64(field(stats, "pri"))
	r.native = field(stats, "reserves") - field(stats, "releases") - field(stats, "buries")
	r.counted = true
	r.plain = r.native == 1 && field(stats, "reserves") == 1 && field(stats, "kicks") == 0 && field(stats, "delay") == 0
	r.age = time.Duration(field(stats, "age")) * time.Second
	r.sure(sent.Add(time.Duration(field(stats, "time-left")) * time.Second))
}

// learn reads the time to run from what stats-job tells.
func (r *reservation) learn(stats string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ttr, r.known = time.Duration(field(stats, "ttr"))*time.Second, true
}

// runs returns the time to run, and whether the server has told it.
func (r *reservation) runs() (ttr time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ttr, r.known
}

// peace is what a server tells of everything by which it takes jobs back that
// were not handed back to it: reservations that ran out, and connections that
// closed. As long as it is the same, none was.
type peace struct {
	server           string
	timeouts, closed int64
}

func readPeace(stats string) peace {
	return peace{
		server:   textField(stats, "id"),
		timeouts: field(stats, "job-timeouts"),
		closed:   field(stats, "total-connections") - field(stats, "current-connections"),
	}
}

// row is the jobs that one exchange has reserved, in the order of their
// reservations.
type row struct {
	jobs  []*reservation
	sent  time.Time // the exchange
	quiet bool      // the server took no job back since before it
}

// split parts a row into the jobs to ask about, and those of whose deliveries
// the answers will tell as well.
//
// Jobs of one priority leave a tube by their ids. So where the first job and the
// last were never anything but ready before, have the same priority, and were
// both there when the row began, then those between, whose ids lie between
// theirs, have never left it either: else they would have done so after the
// first. And none of them came back in the meantime.
func (w row) split() (ask, between []*reservation) {
	n := len(w.jobs)
	if !w.quiet || n <= few {
		return w.jobs, nil
	}
	first, last := w.jobs[0], w.jobs[n-1]
	ask = []*reservation{first, last}
	for _, r := range w.jobs[1 : n-1] {
		if first.id < r.id && r.id < last.id {
			between = append(between, r)
		} else {
			ask = append(ask, r)
		}
	}
	return ask, between
}

// proven reports whether the answers about the first and the last of a row, read
// at a time, show that those between were delivered once.
func (w row) proven(read time.Time) bool {
	first, last := w.jobs[0], w.jobs[len(w.jobs)-1]
	return first.plain && last.plain && first.pri == last.pri && last.age >= read.Sub(w.sent)
}

// assume takes over that a job was delivered once. Its time to run is asked for
// when it matters: should its handler take long, or the job be put again.
func (r *reservation) assume(pri uint64, sent time.Time) {
	r.ttr = shortest
	r.pri, r.native, r.counted = pri, 1, true
	r.sure(sent.Add(shortest))
}
