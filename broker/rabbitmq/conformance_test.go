package rabbitmq_test

import (
	"strconv"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/rabbitmq"
	"github.com/amlun/linda/brokertest"
	"github.com/amlun/linda/internal/brokerd"
)

func TestConformance(t *testing.T) {
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) {
			server := brokerd.Run(t, brokerd.RabbitMQ)
			// Each case has queues of its own, and the server is not killed.
			url := server.URL + "?new_queue_wait=0&queue_type=" + kind
			raw := dial(t, server.URL)
			var turn sync.Mutex
			brokertest.Run(t, brokertest.Harness{
				Open: func(t testing.TB) linda.Broker { return open(t, url) },
				RawPush: func(t testing.TB, queue string, body []byte) error {
					declared := open(t, url) // a producer in another language finds the queue there
					defer declared.Close()
					if _, err := declared.(linda.Inspector).Kick(t.Context(), queue, 0); err != nil {
						t.Fatalf("Kick to make the queue: %v", err)
					}
					turn.Lock()
					defer turn.Unlock()
					return rawPush(raw, queue, body)
				},
			})
		})
	}
}

func open(t testing.TB, url string) linda.Broker {
	t.Helper()
	b, err := linda.NewBroker(url)
	require.NoError(t, err)
	return b
}

func dial(t testing.TB, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, ch.Confirm(false))
	return ch
}

func rawPush(ch *amqp.Channel, queue string, body []byte) error {
	confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent})
	if err == nil && !confirm.Wait() {
		err = strconv.ErrRange
	}
	return err
}
