package linda

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"slices"
	"time"
)

// Broker is what a queue service must offer so that linda can run on it. The
// nine methods are enough; a broker that can do more says so by implementing
// [Fetcher], [MultiFetcher], [BatchPusher], [Settler], [Toucher], [Inspector],
// [Uniquer], [Ticker], [Limiter], [Pauser] or [Guarantor], and linda emulates
// what is missing.
//
// Times are whole seconds; a negative delay means no delay. A broker is safe
// for concurrent use. None of the methods takes a context, so each returns
// within five seconds whatever the server does.
type Broker interface {
	// Connect opens the service at url and checks that it answers.
	Connect(url *neturl.URL) error
	// Close ends every call that is under way and frees what Connect opened.
	// Calling it twice is harmless; every later call returns ErrClosed.
	Close() error
	// MigrateExpiredJobs moves the jobs whose delay or reservation has ended
	// to READY. Brokers whose server does so by itself have nothing to do.
	MigrateExpiredJobs(queue string)
	// Pop reserves the oldest ready job for timeout seconds. It does not wait:
	// an empty queue gives nil, nil. With a timeout of 0 the job is deleted at
	// once (at most once).
	Pop(queue string, timeout int64) (*Job, error)
	// Delete ends a job that was popped. A job that is not reserved, or no
	// longer, gives ErrNotReserved and leaves everybody's jobs alone.
	Delete(queue string, job *Job) error
	// Release makes a popped job READY again.
	Release(queue string, job *Job) error
	// ReleaseWithDelay makes a popped job DELAYED for delay seconds.
	ReleaseWithDelay(queue string, job *Job, delay int64) error
	// Push adds a job. Once it returns nil the broker has the job; an error
	// that wraps ErrUnknown means it may have it. The job is not changed, and
	// pushing it again makes another job.
	Push(job *Job, queue string) error
	// Later adds a job that becomes READY after delay seconds, never earlier.
	Later(delay int64, job *Job, queue string) error
}

// Fetcher is a [Broker] that can wait for jobs and reserve several at once.
// Without it linda calls Pop every Settings.IntervalFloat seconds.
type Fetcher interface {
	// Fetch reserves up to max jobs for lease, and waits until there is at
	// least one or ctx ends. Jobs that were reserved when ctx ended are still
	// returned. A lease of 0 deletes the jobs at once. A body that is not a
	// job is returned with [Job.Err] set, for the caller to bury.
	Fetch(ctx context.Context, queue string, max int, lease time.Duration) ([]*Job, error)
}

// MultiFetcher is a [Fetcher] that can wait for jobs of several queues at once.
// Without it linda looks at one queue after the other, and where all are empty
// waits for each by a Fetch of its own.
type MultiFetcher interface {
	// FetchAny is Fetch on several queues, none of them named twice: it
	// reserves up to max jobs altogether, as many as there are of the first
	// queue, then of the next, and waits until there is at least one in any of
	// them. The receipt of each job names its queue. The error is a
	// [*BatchError] with an entry for each queue where some failed and others
	// not; jobs of the others are returned with it, and it does not wait then.
	FetchAny(ctx context.Context, queues []string, max int, lease time.Duration) ([]*Job, error)
}

// Pauser is a [Broker] that can pause a queue for all processes, until it is
// resumed by any of them. It remembers that as long as it does the jobs.
// [Dispatcher.Pause] does so for one process, on every broker.
type Pauser interface {
	// Pause keeps the jobs of a queue from being handed out, by Fetch, FetchAny
	// and Pop. Jobs that are handed out already can be settled and touched, and
	// new ones pushed. A fetch waits on a paused queue as on an empty one.
	// Pausing twice is pausing once.
	Pause(ctx context.Context, queue string) error
	// Resume ends Pause. Fetches that wait notice it within two seconds.
	Resume(ctx context.Context, queue string) error
	// Paused reports whether a queue is paused.
	Paused(ctx context.Context, queue string) (bool, error)
}

// BatchPusher is a [Broker] that takes many jobs in one exchange, each with
// its own Job.Delay. Without it linda pushes them one by one.
type BatchPusher interface {
	// PushBatch adds the jobs. The error is a [*BatchError] where some were
	// taken and others not.
	PushBatch(ctx context.Context, queue string, jobs []*Job) error
}

// Settler is a [Broker] that ends many reservations in one exchange and has a
// DEAD state. Without it linda uses Delete and Release, and buries a job by
// pushing it to the queue named by [DeadQueue].
type Settler interface {
	// Settle carries out the settlements. The error is a [*BatchError] where
	// some were carried out and others not.
	Settle(ctx context.Context, queue string, batch []Settlement) error
}

// Toucher is a [Broker] that can prolong reservations. Without it a handler's
// context ends with the reservation it started with.
type Toucher interface {
	// Touch makes the reservations of jobs end lease from now. The error is a
	// [*BatchError] where some of them are no longer held.
	Touch(ctx context.Context, queue string, lease time.Duration, jobs []*Job) error
}

// Inspector is a [Broker] that shows and mends its queues. The work of every
// exchange with the server is bounded, whatever the length of the queue.
type Inspector interface {
	// Stats counts the jobs of a queue.
	Stats(ctx context.Context, queue string) (Stats, error)
	// Peek returns up to max jobs in a state, the next in line first, without
	// reserving them. At most 1,000 are returned.
	Peek(ctx context.Context, queue string, state State, max int) ([]*Job, error)
	// Find returns the job with an id, and its state; nil where the queue does
	// not hold it. It looks through the whole queue, in bounded exchanges, and
	// may miss a job that moves meanwhile. Jobs of other programs have no id
	// before their first delivery.
	Find(ctx context.Context, queue, id string) (*Job, State, error)
	// Remove deletes the job with an id, in whatever state, and reports whether
	// there was one. A RESERVED job belongs to a worker and gives ErrReserved.
	Remove(ctx context.Context, queue, id string) (bool, error)
	// Kick moves up to max dead jobs to READY, the longest dead first, with
	// their attempts set back to none, and returns how many it moved.
	Kick(ctx context.Context, queue string, max int) (int, error)
	// Purge removes every job in a state and returns how many there were.
	// RESERVED jobs belong to a worker and give ErrReserved.
	Purge(ctx context.Context, queue string, state State) (int, error)
	// Queues lists the queues that hold at least one job, sorted.
	Queues(ctx context.Context) ([]string, error)
}

// Uniquer is a [Broker] that refuses a job whose Job.UniqueKey is taken.
// Without it pushing a job with a key gives an error that wraps
// [errors.ErrUnsupported].
type Uniquer interface {
	// PushUnique adds the job unless its key is held by another job of the
	// queue; then it returns a [*DuplicateError]. The key is free again when
	// the job is done or dead, or when Job.UniqueTTL ends. Push, Later and
	// PushBatch of such a broker honour the key as well.
	PushUnique(ctx context.Context, queue string, job *Job) error
}

// Ticker is a [Broker] that remembers which ticks of a schedule were pushed,
// so that each is pushed once by whatever number of processes. Without it
// [Dispatcher.Schedule] gives an error that wraps [errors.ErrUnsupported].
type Ticker interface {
	// Tick adds the job of each tick whose time has come on the broker's
	// clock, unless this tick of the schedule or a later one was pushed
	// before, by anybody, and remembers it as the last one; both happen or
	// neither does. A tick whose job has a unique key that is held is
	// remembered, its job not added. Job.Delay counts for nothing.
	//
	// A tick without a job begins its schedule: where none of that name is
	// known, or one with another spec, now is remembered as its last tick.
	//
	// It returns what became of the ticks, one by one, and the broker's clock,
	// also for no ticks at all. After an error some may have been pushed; to
	// ask again is safe.
	Tick(ctx context.Context, queue string, ticks []Tick) (done []Ticked, now time.Time, err error)
}

// Tick is one moment of a schedule, in whole milliseconds, with its job.
type Tick struct {
	Schedule string // its name, within the queue; see CheckName
	Spec     string // any text without a line break; when it changes, the schedule begins anew
	At       time.Time
	Job      *Job // nil: begin the schedule
}

// Ticked is what became of a [Tick].
type Ticked struct {
	Pushed bool      // this call added the job
	Last   time.Time // the schedule's last tick, as it is remembered now; zero if it is not known
}

// Limiter is a [Broker] that counts slots, for all processes together. Without
// it [Dispatcher.Limit] gives an error that wraps [errors.ErrUnsupported].
//
// A limit is any text of 1 to 300 bytes; a holder is any text that its owner
// alone uses. A slot is free again when it is given back, or when its time ends
// on the broker's clock, whatever has become of its owner.
type Limiter interface {
	// TakeSlots takes slots of a limit, one for each holder, in their order, as
	// long as fewer than most are taken, each for hold from now. It returns how
	// many holders have theirs: the first so many. A holder that has one already
	// keeps it, for hold from now, so to ask again after an error is safe. Where
	// not all have one, free tells in how long the first of those that are taken
	// ends by itself.
	TakeSlots(ctx context.Context, limit string, most int, hold time.Duration, holders []string) (taken int, free time.Duration, err error)
	// RenewSlots makes the slots of holders end hold from now. The error is a
	// [*BatchError] with ErrNotReserved for those that have none any more.
	RenewSlots(ctx context.Context, limit string, hold time.Duration, holders []string) error
	// FreeSlots gives slots back. Holders that have none count for nothing.
	FreeSlots(ctx context.Context, limit string, holders []string) error
}

// Guarantor is a [Broker] that tells what it promises.
type Guarantor interface {
	Guarantees() Guarantees
}

// State is where a job is in its life.
type State string

// The states of a job.
const (
	Ready    State = "ready"
	Delayed  State = "delayed"
	Reserved State = "reserved"
	Dead     State = "dead"
)

// states lists all of them, in the order in which a job is looked for.
var states = []State{Ready, Delayed, Reserved, Dead}

// Stats counts the jobs of one queue by state. A count that the broker cannot
// give is -1.
type Stats struct {
	Ready, Delayed, Reserved, Dead int64
}

// Guarantees is what a broker promises, as data, so that a program can refuse
// one that is too weak and a test can hold it to its word.
type Guarantees struct {
	LeaseMin, LeaseMax time.Duration // shortest and longest reservation; a LeaseMax of 0 means no limit
	DelayMax           time.Duration // longest delay
	DelayResolution    time.Duration // delays are rounded up to a multiple of it
	DelayDurable       bool          // delays survive a restart of the server
	Durable            bool          // jobs survive the process that pushed them
	AttemptsExact      bool          // every delivery is counted, also across a crash
	ConfirmedPush      bool          // Push returns after the server has taken the job
	ConfirmedDelete    bool          // Delete returns after the server has removed it
	Ordered            bool          // jobs that were never released come out in the order they were pushed
	BodyMax            int           // longest body in bytes
	Stats              []State       // states that Stats can count
	Notes              []string      // what an operator should know besides
}

// Errors that every broker returns, to be tested with errors.Is.
var (
	// ErrNotReserved means that the job is not reserved by the caller: it was
	// never popped, was popped elsewhere, is settled already, or its
	// reservation ended.
	ErrNotReserved = errors.New("linda: job is not reserved")
	// ErrLeaseLost is the ErrNotReserved of a job that was reserved by the
	// caller until its reservation ended. It is also the context.Cause of a
	// handler whose reservation is lost.
	ErrLeaseLost error = leaseLostError{}
	// ErrUnknown means that the broker may or may not have done what it was
	// asked: the request may have left, the answer did not come.
	ErrUnknown = errors.New("linda: outcome unknown")
	// ErrTooLarge means that a job is larger than linda or the broker takes.
	ErrTooLarge = errors.New("linda: job too large")
	// ErrDelayTooLong means that a delay is longer than the broker can hold.
	ErrDelayTooLong = errors.New("linda: delay too long")
	// ErrBadName means that the name of a queue, or of a schedule, is not one
	// that every broker takes: a letter or digit, then up to 59 letters,
	// digits, dots, underscores or hyphens.
	ErrBadName = errors.New("linda: bad name")
	// ErrBadJob means that a job cannot be encoded, or a body is not a job.
	ErrBadJob = errors.New("linda: bad job")
	// ErrBadSpec means that the spec of a schedule cannot be read.
	ErrBadSpec = errors.New("linda: bad schedule spec")
	// ErrBadURL means that a connection URL is wrong.
	ErrBadURL = errors.New("linda: bad connection URL")
	// ErrDenied means that the service does not let this user in, or does not
	// let it do what was asked: the password or the user's rights are wrong.
	// Nothing was done, and trying again does not help.
	ErrDenied = errors.New("linda: denied")
	// ErrFull means that the service has no room for the job. Nothing was
	// done; it may have room later.
	ErrFull = errors.New("linda: broker is full")
	// ErrReserved means that a job cannot be removed, or the RESERVED jobs of a
	// queue not be purged, since a worker holds them.
	ErrReserved = errors.New("linda: job is reserved: a worker holds it")
	// ErrClosed means that the broker or the dispatcher is closed.
	ErrClosed = errors.New("linda: closed")
)

type leaseLostError struct{}

func (leaseLostError) Error() string        { return "linda: reservation lost" }
func (leaseLostError) Is(target error) bool { return target == ErrNotReserved }

// DuplicateError reports that a job with the same key is already there.
type DuplicateError struct {
	Queue, Key string
	ID         string // of the job that holds the key
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("linda: queue %s: a job with this unique key is there already: %s", e.Queue, e.ID)
}

// BatchError reports that a call did part of its work. Errs has one entry per
// item of the batch, in its order, nil for those that were done.
type BatchError struct {
	Errs []error
}

func (e *BatchError) Error() string {
	bad := e.Unwrap()
	return fmt.Sprintf("%d of %d not done; the first: %v", len(bad), len(e.Errs), bad[0])
}

// Unwrap returns the entries that are not nil.
func (e *BatchError) Unwrap() []error {
	return slices.DeleteFunc(slices.Clone(e.Errs), func(err error) bool { return err == nil })
}

// Batch returns errs as the error of a batch call: nil if no entry is an
// error, else a [*BatchError].
func Batch(errs []error) error {
	if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return &BatchError{Errs: errs}
	}
	return nil
}

// EachError spreads the error of a batch call over its n items: the i-th is
// that of item i, whether some failed or all.
func EachError(err error, n int) []error {
	var batch *BatchError
	if errors.As(err, &batch) && len(batch.Errs) == n {
		return batch.Errs
	}
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// As finds a capability of a broker: it reports whether b, or a broker that b
// wraps by a method Unwrap() Broker, implements T, and returns it.
func As[T any](b Broker) (T, bool) {
	for b != nil {
		if t, ok := b.(T); ok {
			return t, true
		}
		wrapper, ok := b.(interface{ Unwrap() Broker })
		if !ok {
			break
		}
		b = wrapper.Unwrap()
	}
	var none T
	return none, false
}

// CheckName returns an error that wraps [ErrBadName] unless name is a queue
// name that every broker takes. Brokers call it before any I/O.
func CheckName(name string) error {
	ok := len(name) >= 1 && len(name) <= 60 && alphanumeric(name[0])
	for i := 1; ok && i < len(name); i++ {
		c := name[i]
		ok = alphanumeric(c) || c == '.' || c == '_' || c == '-'
	}
	if ok {
		return nil
	}
	return fmt.Errorf("%w: %.64q", ErrBadName, name)
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// DeadQueue names the queue that holds the dead jobs of a queue on brokers
// that have no DEAD state of their own.
func DeadQueue(queue string) string { return queue + ".dead" }
