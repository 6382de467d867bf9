package chaos

import (
	"bufio"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
)

// suffix is that of the names of histories.
const suffix = ".history"

// History is the file to which one process at a time appends its events. What
// it has written survives its death, since each write reaches the system before
// Write returns. It is safe for concurrent use.
type History struct {
	proc uint32
	file *os.File

	mu  sync.Mutex
	buf []byte // guarded by mu
}

// OpenHistory opens the history of a name in a folder, to append events of the
// process proc. The caller closes it.
func OpenHistory(dir, name string, proc uint32) (*History, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+suffix), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	return &History{proc: proc, file: f}, nil
}

// Write appends events in one write, at the present time. The Proc of those
// that have none becomes that of the history. A history that cannot be written
// proves nothing, so Write panics then.
func (h *History) Write(events ...Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = h.buf[:0]
	now := Now()
	for i := range events {
		e := &events[i]
		e.At = now
		if e.Proc == 0 {
			e.Proc = h.proc
		}
		h.buf = e.append(h.buf)
	}
	if _, err := h.file.Write(h.buf); err != nil {
		panic(fmt.Errorf("chaos: history: %w", err))
	}
}

// Close closes the file.
func (h *History) Close() error { return h.file.Close() }

// LastJob returns the highest number of a job among the last events of a
// history, 0 where there is none: the producer that goes on after a dead one
// needs the next.
func LastJob(dir, name string) (uint32, error) {
	const tail = 1 << 20
	f, err := os.Open(filepath.Join(dir, name+suffix))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("chaos: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("chaos: %w", err)
	}
	length := info.Size() / size * size
	start := max(0, length-tail)
	r := reader{from: bufio.NewReader(io.NewSectionReader(f, start, length-start)), name: name}
	var last uint32
	for {
		ok, err := r.next()
		if !ok {
			return last, err
		}
		last = max(last, r.event.Job)
	}
}

// Events reads all histories of a folder as one, in the order of time. After an
// error, which is that of a damaged file, it ends.
func Events(dir string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("chaos: no history in %s", dir)
		}
		if err != nil {
			yield(Event{}, err)
			return
		}
		var all merge
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				yield(Event{}, err)
				return
			}
			defer func() { _ = f.Close() }()
			r := &reader{from: bufio.NewReaderSize(f, 1<<16), name: name}
			if ok, err := r.next(); err != nil {
				yield(Event{}, err)
				return
			} else if ok {
				all = append(all, r)
			}
		}
		heap.Init(&all)
		for len(all) > 0 {
			if !yield(all[0].event, nil) {
				return
			}
			ok, err := all[0].next()
			switch {
			case err != nil:
				yield(Event{}, err)
				return
			case ok:
				heap.Fix(&all, 0)
			default:
				heap.Pop(&all)
			}
		}
	}
}

// reader reads one history.
type reader struct {
	from  *bufio.Reader
	name  string
	event Event
	buf   [size]byte
}

// next reads the next event; it is not ok at the end.
func (r *reader) next() (ok bool, err error) {
	_, err = io.ReadFull(r.from, r.buf[:])
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err == nil {
		r.event, err = decode(r.buf[:])
	}
	if err != nil {
		return false, fmt.Errorf("chaos: %s: %w", r.name, err)
	}
	return true, nil
}

// merge is a heap of readers by the time of their next events.
type merge []*reader

func (m merge) Len() int           { return len(m) }
func (m merge) Less(i, k int) bool { return m[i].event.At < m[k].event.At }
func (m merge) Swap(i, k int)      { m[i], m[k] = m[k], m[i] }
func (m *merge) Push(x any)        { *m = append(*m, x.(*reader)) }
func (m *merge) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}
