package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/amlun/linda"
)

// The delays: a job goes to the exchange of the highest digit of its delay, in
// units and to the base of four, and from there through one queue for every
// digit that is not zero, where it stays for the time the digit is worth. All
// jobs of a queue stay equally long, so none waits behind another.
//
// The routing key is the queue and then the digits, the lowest first, so that
// it is short where the delay is: the server looks at it word by word, once for
// every exchange on the way.
const (
	delayUnit = 8 * time.Millisecond
	digitBits = 2
	digitMost = 1<<digitBits - 1
	// delayDigits is how many digits there are, of which the highest is 1 at
	// most: the server refuses queues where messages stay longer than 10 years.
	delayDigits = 18
	delayMost   = delayUnit<<((delayDigits-1)*digitBits+1) - time.Second // 8.7 years
)

// ready names the server's queue of the READY jobs. linda's names have no
// colon, so it is nobody else's: the server keeps amq. for itself, also where
// .dead follows amq, and .dead is
// the end of every dead queue.
func (c *config) ready(queue string) string {
	name := c.prefix + queue
	if name == "amq" || strings.HasPrefix(name, "amq.") {
		name = "linda:" + name
	}
	if strings.HasSuffix(name, ".dead") {
		name += ":ready"
	}
	return name
}

// dead names the server's queue of the DEAD jobs.
func (c *config) dead(queue string) string { return linda.DeadQueue(c.ready(queue)) }

// alone names the server's queue of the READY jobs that crashed.
func (c *config) alone(queue string) string { return c.ready(queue) + ":alone" }

func (c *config) delayExchange(digit int) string {
	if digit < 0 {
		return c.delays + ":due"
	}
	return c.delays + ":v1:" + strconv.Itoa(digit)
}

// delayQueue names the queue of a digit where jobs wait that have it.
func (c *config) delayQueue(digit, value int) string {
	return c.delayExchange(digit) + ":" + strconv.Itoa(value)
}

// digits is a delay in units, rounded up, the lowest digit first. The server
// counts in whole milliseconds and may take up to one off at every hop.
func digits(delay time.Duration) []byte {
	for n := uint64((delay + delayUnit - 1) / delayUnit); ; n++ {
		var all []byte
		hops := 0
		for rest := n; rest > 0; rest >>= digitBits {
			digit := byte(rest & digitMost)
			all = append(all, '0'+digit)
			if digit > 0 {
				hops++
			}
		}
		if time.Duration(n)*delayUnit >= delay+time.Duration(hops)*time.Millisecond {
			return all
		}
	}
}

// delayed returns where to publish a job that is to be delayed, and the highest
// digit.
func (c *config) delayed(queue string, delay time.Duration) (exchange, key string, digit int) {
	all := digits(delay)
	digit = len(all) - 1
	key = c.dueKey(queue)
	for _, d := range all {
		key += "." + string(d)
	}
	return c.delayExchange(digit), key, digit
}

// dueKey is the name of a queue as one word of a routing key.
func (c *config) dueKey(queue string) string { return strings.ReplaceAll(c.ready(queue), ".", "/") }

// declared is what a link knows to be on the server. It is made again after
// every reconnect, since the server may have been replaced by an empty one.
type declared struct {
	mu    sync.Mutex
	parts map[string]*part // guarded by mu
}

type part struct {
	done chan struct{} // closed when err is known
	err  error
}

// once has make called until it succeeds, by one goroutine at a time.
func (d *declared) once(ctx context.Context, name string, make func() error) error {
	for {
		d.mu.Lock()
		p, known := d.parts[name]
		if !known {
			p = &part{done: newSignal()}
			if d.parts == nil {
				d.parts = map[string]*part{}
			}
			d.parts[name] = p
		}
		d.mu.Unlock()
		if !known {
			if p.err = make(); p.err != nil {
				d.forget(name)
			}
			close(p.done)
			return p.err
		}
		select {
		case <-p.done:
			if p.err == nil || !errors.Is(p.err, context.Canceled) && !errors.Is(p.err, context.DeadlineExceeded) {
				return p.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newSignal() chan struct{} { return make(chan struct{}) }

func (d *declared) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.parts, name)
}

// declareQueue makes the queues of READY and DEAD jobs, and of those that crashed,
// or takes those that are there.
func (b *broker) declareQueue(ctx context.Context, k *link, queue string) error {
	return k.declared.once(ctx, "queue "+queue, func() error {
		ready, dead := b.config.ready(queue), b.config.dead(queue)
		args := b.queueArgs(k)
		// What the server itself gives up, by a policy say, is dead, not lost.
		args["x-dead-letter-exchange"], args["x-dead-letter-routing-key"] = "", dead
		there, err := b.exists(ctx, k, ready)
		if err != nil {
			return err
		}
		var deadErr, aloneErr error
		var others sync.WaitGroup
		others.Go(func() { deadErr = b.declareOne(ctx, k, dead, b.queueArgs(k)) })
		others.Go(func() { aloneErr = b.declareOne(ctx, k, b.config.alone(queue), args) })
		err = b.declareOne(ctx, k, ready, args)
		others.Wait()
		if err := cmp.Or(err, deadErr, aloneErr); err != nil {
			return err
		}
		return b.ripen(ctx, k, !there)
	})
}

func (b *broker) queueArgs(k *link) amqp.Table {
	if !b.quorum(k) {
		return amqp.Table{"x-queue-type": "classic"}
	}
	args := amqp.Table{"x-queue-type": "quorum"}
	if serverMajor(k) >= 4 { // it drops a message after 20 deliveries otherwise
		args["x-delivery-limit"] = int64(-1)
	}
	return args
}

// quorum reports whether queues are to be replicated ones.
func (b *broker) quorum(k *link) bool {
	if b.config.queueType != "" {
		return b.config.queueType == "quorum"
	}
	major, minor := serverVersion(k)
	return major > 3 || major == 3 && minor >= 8
}

func serverMajor(k *link) int {
	major, _ := serverVersion(k)
	return major
}

func serverVersion(k *link) (major, minor int) {
	version, _ := k.conn.Properties["version"].(string)
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major, minor
}

// declareOne declares a queue. One that is there with other arguments, since
// somebody else has made it, is used as it is.
func (b *broker) declareOne(ctx context.Context, k *link, name string, args amqp.Table) error {
	var other bool
	err := k.on(ctx, "declare queue "+name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		var refused *amqp.Error
		if errors.As(err, &refused) && refused.Code == amqp.PreconditionFailed {
			other, err = true, nil
		}
		return err
	})
	if err == nil && other {
		_, err = b.exists(ctx, k, name)
	}
	return err
}

func (b *broker) exists(ctx context.Context, k *link, name string) (there bool, err error) {
	found := make(chan bool, 1)
	err = k.on(ctx, "look for queue "+name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		var refused *amqp.Error
		missing := errors.As(err, &refused) && refused.Code == amqp.NotFound
		if missing {
			err = nil
		}
		found <- !missing
		return err
	})
	if err != nil {
		return false, err
	}
	return <-found, nil
}

// ripen waits until a server that is killed remembers the quorum queues that were
// made. It writes their names down half a second after the last one, and till then
// forgets with them what they have confirmed.
func (b *broker) ripen(ctx context.Context, k *link, made bool) error {
	if made && b.quorum(k) && !wait(ctx, b.config.ripe) {
		return ctx.Err()
	}
	return nil
}

// declareDelay makes what a delay of so many digits needs, and its way back to
// the queue.
func (b *broker) declareDelay(ctx context.Context, k *link, queue string, highest int) error {
	err := k.declared.once(ctx, "delays", func() error { return k.on(ctx, "declare the delays", b.declareExchanges) })
	if err != nil {
		return err
	}
	errs := make([]error, highest+1)
	var all sync.WaitGroup
	for i := range errs { // together, since the server takes its time for each
		all.Go(func() {
			errs[i] = k.declared.once(ctx, "digit "+strconv.Itoa(i), func() error {
				there, err := b.exists(ctx, k, b.config.delayQueue(i, 1))
				if err == nil {
					err = k.on(ctx, "declare the delays", func(ch *amqp.Channel) error { return b.declareDigit(ch, k, i) })
				}
				return cmp.Or(err, b.ripen(ctx, k, !there))
			})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return k.declared.once(ctx, "due "+queue, func() error {
		return k.on(ctx, "bind queue "+queue, func(ch *amqp.Channel) error {
			return ch.QueueBind(b.config.ready(queue), b.config.dueKey(queue)+".#", b.config.delayExchange(-1), false, nil)
		})
	})
}

// declareExchanges makes those of all digits, and one where delays end, with a
// queue for jobs whose own is no longer there by then. The last step is the
// only one that waits for the server, which takes the steps in turn.
func (b *broker) declareExchanges(ch *amqp.Channel) error {
	lost := b.config.delays + ":unrouted"
	if err := ch.ExchangeDeclare(lost, amqp.ExchangeFanout, true, false, false, true, nil); err != nil {
		return err
	}
	if _, err := ch.QueueDeclare(lost, true, false, false, true, nil); err != nil {
		return err
	}
	if err := ch.QueueBind(lost, "", lost, true, nil); err != nil {
		return err
	}
	for digit := range delayDigits {
		if err := ch.ExchangeDeclare(b.config.delayExchange(digit), amqp.ExchangeTopic, true, false, false, true, nil); err != nil {
			return err
		}
	}
	return ch.ExchangeDeclare(b.config.delayExchange(-1), amqp.ExchangeTopic, true, false, false, false, amqp.Table{"alternate-exchange": lost})
}

// declareDigit makes the queues of a digit, and the ways into them and past
// them.
func (b *broker) declareDigit(ch *amqp.Channel, k *link, digit int) error {
	exchange, below := b.config.delayExchange(digit), b.config.delayExchange(digit-1)
	before := strings.Repeat("*.", digit+1)
	for value := 1; value <= digitMost; value++ {
		if digit == delayDigits-1 && value > 1 {
			break
		}
		args := amqp.Table{
			"x-queue-type":           "classic",
			"x-message-ttl":          int64(delayUnit<<(digit*digitBits)) / int64(time.Millisecond) * int64(value),
			"x-dead-letter-exchange": below,
		}
		if b.quorum(k) { // the hop to the next digit is confirmed too
			args["x-queue-type"] = "quorum"
			args["x-dead-letter-strategy"] = "at-least-once"
			args["x-overflow"] = "reject-publish"
		}
		queue := b.config.delayQueue(digit, value)
		if _, err := ch.QueueDeclare(queue, true, false, false, true, args); err != nil {
			return err
		}
		if err := ch.QueueBind(queue, before+strconv.Itoa(value)+".#", exchange, true, nil); err != nil {
			return err
		}
	}
	return ch.ExchangeBind(below, before+"0.#", exchange, false, nil)
}
