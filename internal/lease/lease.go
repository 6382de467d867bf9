// Package lease keeps the reservations of brokers whose server knows none of
// the asked length: it renews a delivery natively for as long as its
// reservation lasts, and gives it back when that ends.
package lease

import (
	"container/heap"
	"sync"
	"time"

	"github.com/amlun/linda"
)

// Options is how a [Keeper] reaches the server. Both functions are called one
// at a time, from a goroutine of the keeper's own; they must not wait for the
// server longer than a reservation can spare, and may call the keeper.
type Options[T comparable] struct {
	// Every is how often a delivery is renewed; 0 where the server needs no
	// sign of life.
	Every time.Duration
	// Renew prolongs deliveries on the server. One that cannot be it may give
	// to [Keeper.Lose].
	Renew func(deliveries []T)
	// Return gives deliveries back to the server. Their reservations have
	// ended, and their receipts tell so already.
	Return func(deliveries []T)
}

// Keeper looks after the deliveries that a broker has handed out. Create one
// with [New]; it is safe for concurrent use.
type Keeper[T comparable] struct {
	options Options[T]
	changed chan struct{} // told when the first entry is another
	closing chan struct{}
	ended   chan struct{}
	once    sync.Once // closes closing

	mu      sync.Mutex
	entries map[T]*entry[T] // guarded by mu
	queue   entries[T]      // guarded by mu: a heap, the next to look at first
}

// settlingFor is when to look again at a reservation whose time is over while
// its job is being settled.
const settlingFor = 100 * time.Millisecond

// entry is one delivery. Touching its job only moves the end of the receipt,
// which is looked at when the time for the old one has come.
type entry[T comparable] struct {
	delivery T
	receipt  *linda.Receipt
	renewAt  time.Time
	lookAt   time.Time
	index    int // in the heap
}

// New starts a keeper, which the caller closes.
func New[T comparable](options Options[T]) *Keeper[T] {
	k := &Keeper[T]{
		options: options,
		changed: make(chan struct{}, 1),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		entries: make(map[T]*entry[T]),
	}
	go k.keep()
	return k
}

// Close ends the keeper and waits until it calls nothing any more. What it held
// stays with the server. It must not be called from Renew or Return.
func (k *Keeper[T]) Close() {
	k.once.Do(func() { close(k.closing) })
	<-k.ended
}

// Hold looks after a delivery that was handed out by a receipt, until it is
// dropped or lost, or the receipt's time is over.
func (k *Keeper[T]) Hold(delivery T, receipt *linda.Receipt) {
	e := &entry[T]{delivery: delivery, receipt: receipt}
	if k.options.Every > 0 {
		e.renewAt = time.Now().Add(k.options.Every)
	}
	e.lookAt = k.nextLook(e)
	k.mu.Lock()
	k.entries[delivery] = e
	heap.Push(&k.queue, e)
	first := e.index == 0
	k.mu.Unlock()
	if first {
		k.look()
	}
}

// Drop forgets a delivery that was settled, or whose settlement has an unknown
// outcome, and reports whether it was held.
func (k *Keeper[T]) Drop(delivery T) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.drop(delivery) != nil
}

// Held returns how many deliveries the keeper looks after.
func (k *Keeper[T]) Held() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries)
}

// Lose forgets the deliveries that match, and ends their reservations: the
// connection to which they belonged is gone, and the server has them back.
func (k *Keeper[T]) Lose(match func(delivery T) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for delivery, e := range k.entries {
		if match(delivery) {
			k.drop(delivery)
			e.receipt.Lose()
		}
	}
}

// drop needs mu.
func (k *Keeper[T]) drop(delivery T) *entry[T] {
	e := k.entries[delivery]
	if e != nil {
		delete(k.entries, delivery)
		heap.Remove(&k.queue, e.index)
	}
	return e
}

func (k *Keeper[T]) nextLook(e *entry[T]) time.Time {
	until := e.receipt.Until()
	if k.options.Every > 0 && e.renewAt.Before(until) {
		return e.renewAt
	}
	return until
}

func (k *Keeper[T]) look() {
	select {
	case k.changed <- struct{}{}:
	default: // it is being told already
	}
}

func (k *Keeper[T]) keep() {
	defer close(k.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-k.closing:
			return
		case <-k.changed:
		case <-timer.C:
		}
		renew, over, next := k.due(time.Now())
		if len(renew) > 0 {
			k.options.Renew(renew)
		}
		if len(over) > 0 {
			k.options.Return(over)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// due takes out of the keeper the deliveries whose reservations are over, and
// returns them with those that are to be renewed now, and when to look again;
// the zero time where nothing is held.
//
// A job that is being settled while its time ends is left to the settlement,
// which drops it, or fails: then the reservation is over after all.
func (k *Keeper[T]) due(now time.Time) (renew, over []T, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.queue) > 0 && !k.queue[0].lookAt.After(now) {
		e := k.queue[0]
		ends := !e.receipt.Until().After(now)
		if ends && e.receipt.Lose() {
			k.drop(e.delivery)
			over = append(over, e.delivery)
			continue
		}
		if k.options.Every > 0 && !e.renewAt.After(now) {
			renew = append(renew, e.delivery)
			e.renewAt = now.Add(k.options.Every)
		}
		e.lookAt = k.nextLook(e)
		if ends {
			e.lookAt = now.Add(settlingFor)
		}
		heap.Fix(&k.queue, 0)
	}
	if len(k.queue) > 0 {
		next = k.queue[0].lookAt
	}
	return renew, over, next
}

// entries is a heap by lookAt.
type entries[T comparable] []*entry[T]

func (q entries[T]) Len() int           { return len(q) }
func (q entries[T]) Less(i, j int) bool { return q[i].lookAt.Before(q[j].lookAt) }
func (q entries[T]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *entries[T]) Push(x any) {
	e := x.(*entry[T])
	e.index = len(*q)
	*q = append(*q, e)
}

func (q *entries[T]) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
