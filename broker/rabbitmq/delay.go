package rabbitmq

import (
	"context"
	"math/bits"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
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

// delayed returns where to publish a job that is to be delayed, and where it is
// going to stay.
func (c *config) delayed(queue string, delay time.Duration) (exchange, key string, in stays) {
	all := digits(delay)
	key = c.dueKey(queue)
	for i, d := range all {
		key += "." + string(d)
		if d > '0' {
			in |= stay(i, int(d-'0'))
		}
	}
	return c.delayExchange(len(all) - 1), key, in
}

// stays is a set of queues where jobs wait, a bit for each.
type stays uint64

// everyStay holds all queues that there may be.
const everyStay stays = 1<<((delayDigits-1)*digitMost+1) - 1

func stay(digit, value int) stays { return 1 << (digit*digitMost + value - 1) }

// each calls f with the digit and the value of each queue.
func (s stays) each(f func(digit, value int)) {
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		n := bits.TrailingZeros64(rest)
		f(n/digitMost, n%digitMost+1)
	}
}

// highest is the highest digit of the queues.
func (s stays) highest() int { return (bits.Len64(uint64(s)) - 1) / digitMost }

// dueKey is the name of a queue as one word of a routing key.
func (c *config) dueKey(queue string) string { return strings.ReplaceAll(c.ready(queue), ".", "/") }

// declareDelays makes what delays need that stay in some queues, and in none of a
// higher digit. The other queues up to that digit are made behind the caller's
// back: the next delays need others of them, and should not wait for each.
func (b *broker) declareDelays(ctx context.Context, k *link, needed stays) error {
	err := k.declared.once(ctx, "the delays", func(ctx context.Context) (ripe time.Time, err error) {
		return ripe, k.on(ctx, "declare the delays", b.declareExchanges)
	})
	if err != nil {
		return err
	}
	for _, p := range b.beginStays(k, needed) {
		if err := k.declared.await(ctx, p); err != nil {
			return err
		}
	}
	highest := needed.highest() // the others not before, or the server puts off to write these down
	k.declared.begin("all delays up to digit "+strconv.Itoa(highest), func(context.Context) (ripe time.Time, err error) {
		b.beginStays(k, everyStay&(stay(highest+1, 1)-1))
		return ripe, nil
	})
	return nil
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
		exchange, below := b.config.delayExchange(digit), b.config.delayExchange(digit-1)
		if err := ch.ExchangeDeclare(exchange, amqp.ExchangeTopic, true, false, false, true, nil); err != nil {
			return err
		}
		if digit == 0 {
			err := ch.ExchangeDeclare(below, amqp.ExchangeTopic, true, false, false, true, amqp.Table{"alternate-exchange": lost})
			if err != nil {
				return err
			}
		}
		// The way past a digit that is zero.
		if err := ch.ExchangeBind(below, strings.Repeat("*.", digit+1)+"0.#", exchange, digit < delayDigits-1, nil); err != nil {
			return err
		}
	}
	return nil
}

// beginStays has the queues made where jobs stay, and the ways into them, all at
// the same time, since the server takes its time for each.
func (b *broker) beginStays(k *link, in stays) (parts []*part) {
	in.each(func(digit, value int) {
		queue := b.config.delayQueue(digit, value)
		parts = append(parts, k.declared.begin("queue "+queue, func(ctx context.Context) (ripe time.Time, err error) {
			there, err := b.exists(ctx, k, queue)
			if err == nil {
				err = k.on(ctx, "declare queue "+queue, func(ch *amqp.Channel) error { return b.declareStay(ch, k, digit, value) })
			}
			if !there {
				ripe = b.ripe(k)
			}
			return ripe, err
		}))
	})
	return parts
}

func (b *broker) declareStay(ch *amqp.Channel, k *link, digit, value int) error {
	exchange, below := b.config.delayExchange(digit), b.config.delayExchange(digit-1)
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
	return ch.QueueBind(queue, strings.Repeat("*.", digit+1)+strconv.Itoa(value)+".#", exchange, false, nil)
}

// declareDue makes the way from the end of the delays to a queue.
func (b *broker) declareDue(ctx context.Context, k *link, queue string) error {
	return k.declared.once(ctx, "due "+queue, func(ctx context.Context) (ripe time.Time, err error) {
		return ripe, k.on(ctx, "bind queue "+queue, func(ch *amqp.Channel) error {
			return ch.QueueBind(b.config.ready(queue), b.config.dueKey(queue)+".#", b.config.delayExchange(-1), false, nil)
		})
	})
}
