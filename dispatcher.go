package linda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Dispatcher polls the jobs of one queue or several and dispatches them to workers, which
// run the handlers registered for their classes. It also pushes jobs, so a
// program that only produces uses it without Run. Its methods are safe for
// concurrent use; several Dispatchers live side by side in one process.
type Dispatcher struct {
	mu         sync.Mutex
	settings   Settings           // guarded by mu, as all below
	backend    *backend           // nil: not open
	handlers   map[string]Handler // by class
	middleware []Middleware
	schedules  []*schedule
	limits     []Limit
	gate       gate
	stop       context.CancelFunc // of the Run under way, nil if none is
	stopped    chan struct{}      // closed when that Run has returned
}

// New checks the settings, opens the broker and returns a Dispatcher on it. The
// caller closes it. The error names every fault of the settings.
func New(s Settings) (*Dispatcher, error) {
	d := &Dispatcher{handlers: make(map[string]Handler)}
	if err := d.open(s); err != nil {
		return nil, err
	}
	return d, nil
}

// open does nothing where the Dispatcher is open already.
func (d *Dispatcher) open(s Settings) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.backend != nil {
		return nil
	}
	s = s.withDefaults()
	if err := s.validate(); err != nil {
		return err
	}
	b := s.Broker
	if b == nil {
		var err error
		if b, err = NewBroker(s.Connection); err != nil {
			return err
		}
	}
	d.settings, d.backend = s, newBackend(b, s.interval())
	return nil
}

// Handle registers the handler of a class; the last one registered counts. A
// Run that is under way keeps those it started with. It panics if the class is
// empty or the handler nil.
func (d *Dispatcher) Handle(class string, h Handler) {
	if f, isFunc := h.(HandlerFunc); class == "" || h == nil || isFunc && f == nil {
		panic("linda: Handle needs a class and a handler")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handlers[class] = h
}

// HandleFunc is Handle of a function.
func (d *Dispatcher) HandleFunc(class string, run func(ctx context.Context, job *Job) error) {
	d.Handle(class, HandlerFunc(run))
}

// Use adds middleware around every handler, whenever registered: the first one
// added is the outermost.
func (d *Dispatcher) Use(middleware ...Middleware) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.middleware = append(d.middleware, middleware...)
}

// Broker returns the broker the Dispatcher works on, nil once it is closed.
func (d *Dispatcher) Broker() Broker {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.backend == nil {
		return nil
	}
	return d.backend.Broker
}

// Push adds a job to its queue, or to Settings.Queue if it names none, and
// returns once the broker has it. The job is not changed; pushing it again
// makes another job. The error wraps ErrBadJob, ErrTooLarge, ErrBadName or
// ErrDelayTooLong where the job cannot be taken, is a [*DuplicateError] where
// its UniqueKey is held, and wraps ErrUnknown where the broker may have taken
// it all the same.
func (d *Dispatcher) Push(ctx context.Context, job *Job) error {
	return unbatch(d.PushBatch(ctx, []*Job{job}))
}

// Later is Push of a job that becomes ready after delay, never earlier.
func (d *Dispatcher) Later(ctx context.Context, delay time.Duration, job *Job) error {
	later := *job
	later.Delay = delay
	return d.Push(ctx, &later)
}

// PushBatch pushes many jobs at once, much faster than one by one. It returns
// by the deadline of ctx, or within 5 s if there is none. A job that
// cannot be encoded keeps the whole batch from being pushed; the error is a
// [*BatchError] where the broker took some of the jobs and not the others.
func (d *Dispatcher) PushBatch(ctx context.Context, jobs []*Job) error {
	d.mu.Lock()
	backend, queue := d.backend, d.settings.Queue
	d.mu.Unlock()
	switch {
	case backend == nil:
		return ErrClosed
	case slices.Contains(jobs, nil):
		return fmt.Errorf("%w: nil", ErrBadJob)
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callLimit)
		defer cancel()
	}
	if len(jobs) == 0 {
		return nil
	}
	first := jobs[0].Queue
	if !slices.ContainsFunc(jobs, func(job *Job) bool { return job.Queue != first }) {
		return backend.push(ctx, cmp.Or(first, queue), jobs)
	}
	groups := groupByQueue(jobs, queue)
	for _, g := range groups { // nothing is pushed unless all can be
		if _, err := EncodeBatch(ctx, g.queue, g.jobs); err != nil {
			return err
		}
	}
	errs := make([]error, len(jobs))
	for _, g := range groups {
		for i, err := range EachError(backend.push(ctx, g.queue, g.jobs), len(g.jobs)) {
			errs[g.index[i]] = err
		}
	}
	return Batch(errs)
}

// group is the part of a batch that goes to one queue.
type group struct {
	queue string
	jobs  []*Job
	index []int // of each job in the batch
}

func groupByQueue(jobs []*Job, byDefault string) []*group {
	var groups []*group
	byQueue := make(map[string]*group, 1)
	for i, job := range jobs {
		queue := job.Queue
		if queue == "" {
			queue = byDefault
		}
		g := byQueue[queue]
		if g == nil {
			g = &group{queue: queue}
			byQueue[queue] = g
			groups = append(groups, g)
		}
		g.jobs, g.index = append(g.jobs, job), append(g.index, i)
	}
	return groups
}

// Run works on the queues until ctx ends, and then stops: it pops no more, hands
// back the jobs that have not started, waits up to Settings.Grace for running
// handlers, ends their contexts, and settles what is done. It returns nil after
// a stop that left nothing behind, else a [*StopError]. No failure of the
// broker ends it. Only one Run of a Dispatcher can be under way.
func (d *Dispatcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, stopped, err := d.start(ctx, cancel)
	if err != nil {
		return err
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.stop = nil
		close(stopped)
	}()
	return r.run()
}

var errRunning = errors.New("linda: Run is already under way")

// start registers a Run, with the handlers as they are now.
func (d *Dispatcher) start(ctx context.Context, stop context.CancelFunc) (*run, chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.backend == nil {
		return nil, nil, ErrClosed
	}
	if d.stop != nil {
		return nil, nil, errRunning
	}
	if len(d.schedules) > 0 && d.backend.ticker == nil {
		return nil, nil, errNoTicker
	}
	if len(d.limits) > 0 && d.backend.limiter == nil {
		return nil, nil, errNoLimiter
	}
	d.stop, d.stopped = stop, make(chan struct{})
	handlers := maps.Clone(d.handlers)
	for class, h := range handlers {
		for _, wrap := range slices.Backward(d.middleware) {
			h = wrap(h)
		}
		handlers[class] = h
	}
	r := newRun(ctx, d.settings, *d.backend, &d.gate, handlers)
	r.schedules = slices.Clone(d.schedules)
	r.lobby = newLobby(r, d.limits)
	return r, d.stopped, nil
}

// Close stops Run, waits for it, and closes the broker unless it was handed in
// by Settings.Broker. Calling it twice is harmless. A handler must not call it,
// since it waits for the handler.
func (d *Dispatcher) Close() error {
	d.mu.Lock()
	backend, given := d.backend, d.settings.Broker != nil
	stop, stopped := d.stop, d.stopped
	d.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	d.mu.Lock()
	last := d.backend == backend // nobody else closed it meanwhile
	if last {
		d.backend = nil
	}
	d.mu.Unlock()
	if backend == nil || given || !last {
		return nil
	}
	return backend.Close()
}

// StopError reports that Run ended before everything was in order. Nothing is
// lost: the jobs run again when their reservations end.
type StopError struct {
	Running   []string // ids of jobs whose handlers have not returned
	Unsettled int      // finished jobs that the broker was not told of
}

func (e *StopError) Error() string {
	return fmt.Sprintf("linda: stopped with %d handlers still running and %d finished jobs not settled", len(e.Running), e.Unsettled)
}
