package rabbitmq_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestTLSWorksAndChecksBothSides(t *testing.T) {
	server := brokerd.Run(t, brokerd.RabbitMQTLS)
	b := opened(t, server.URL)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", one(t, b, "q")))

	for what, change := range map[string]func(url.Values){
		"an authority that is not known":  func(o url.Values) { o.Del("cacertfile") },
		"no certificate of the client":    func(o url.Values) { o.Del("certfile"); o.Del("keyfile") },
		"a certificate for somebody else": func(o url.Values) { o.Set("server_name_indication", "else.example") },
	} {
		u, err := url.Parse(server.URL)
		require.NoError(t, err)
		options := u.Query()
		change(options)
		u.RawQuery = options.Encode()
		_, err = linda.NewBroker(u.String())
		assert.Error(t, err, what)
	}
	plain, err := url.Parse(server.URL)
	require.NoError(t, err)
	plain.Scheme, plain.RawQuery = "amqp", ""
	_, err = linda.NewBroker(plain.String())
	assert.Error(t, err, "no TLS at all")
}
