package linda

// redisBatch encodes the jobs of a batch while their command is written, so
// that the server reads the first of them while the last are made. Since it
// must be known before the first byte is sent that none is refused, it is for
// jobs without anything special; others are encoded beforehand.
type redisBatch struct {
	stamp int64 // of the next id
	queue string
	class string // that the frame is for
	frame []byte // what is between the id and the arguments
	body  []byte // of the job encoded last
}

// redisBatchLeast is the least number of jobs for which that is worth while.
const redisBatchLeast = 16

// encodeLate returns pushes that encode their jobs when they are written, or
// false where that cannot be.
func (b *redisBroker) encodeLate(jobs []*Job, queue string) (pushes []redisPush, ok bool) {
	if len(jobs) < redisBatchLeast || b.repeat { // which would make other ids
		return nil, false
	}
	batch := &redisBatch{queue: queue}
	pushes = make([]redisPush, len(jobs))
	for i, job := range jobs {
		class := job.Payload.Class
		size, plain := plainSize(job.Payload.Args)
		size += bodySize + len(class)
		if !plain || size > MaxBody || !job.simple() || (i == 0 || class != batch.class) && !validClass(class) {
			return nil, false
		}
		batch.class = class
		pushes[i] = redisPush{delay: job.Delay, job: job, batch: batch, size: size}
	}
	batch.stamp = newStamps(len(jobs))
	return pushes, true
}

// encode returns the body of a job; the next call overwrites it.
func (b *redisBatch) encode(job *Job) ([]byte, error) {
	if job.Payload.Class != b.class || b.frame == nil {
		b.class = job.Payload.Class
		b.frame = appendFrame(append(b.frame[:0], `","n":0}`...), b.queue, b.class)
	}
	body := append(b.body[:0], headerOpen...)
	body = appendUUID(body, stampedUUID(b.stamp))
	b.stamp++
	body = append(body, b.frame...)
	body, plain := appendPlain(body, job.Payload.Args)
	if !plain {
		return nil, ErrBadJob // the program has changed it since it was checked
	}
	b.body = append(body, "}}"...)
	return b.body, nil
}
