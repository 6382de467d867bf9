package linda

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	neturl "net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var badNames = []string{
	"", " ", "a:b", "a:reserved", "{x}", "}", "a b", "a\n", "a\r\n", "a\r\nput 0 0 60 4\r\nevil", "\x00", "a\x00", "é", "aé",
	"\u202ea", "..", ".a", "/", "a/b", "%", "-x", "_x", "amq*", "#ephemeral", "a\"", `a\`, "a\xff",
	strings.Repeat("a", 61), strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("a", 200), strings.Repeat("a", 256),
}

func TestNameIsOneThatEveryBrokerTakes(t *testing.T) {
	for _, name := range []string{"a", "0", "Z", "a.b_c-d", "a..", "mail.dead", "amq.x", strings.Repeat("a", 60)} {
		assert.NoError(t, CheckName(name), name)
	}
	for _, name := range badNames {
		err := CheckName(name)
		assert.ErrorIs(t, err, ErrBadName, "%q", name)
		assert.Less(t, len(err.Error()), 300)
		assert.NotContains(t, err.Error(), "\n")
	}
}

func TestBadNameIsRefusedByEveryCall(t *testing.T) {
	d := opened(t, Settings{})
	b := d.Broker()
	job := &Job{Payload: Payload{Class: "C"}}
	for _, name := range badNames {
		_, err := b.Pop(name, 60)
		for _, err := range []error{
			err, b.Push(job, name), b.Later(1, job, name), b.Delete(name, job), b.Release(name, job), b.ReleaseWithDelay(name, job, 1),
		} {
			assert.ErrorIs(t, err, ErrBadName, "%q", name)
		}
		b.MigrateExpiredJobs(name)
		if name != "" { // the default queue
			assert.ErrorIs(t, d.Push(t.Context(), &Job{Queue: name, Payload: job.Payload}), ErrBadName)
		}
	}
}

func TestSchemeIsRegisteredOnce(t *testing.T) {
	open := func() Broker { return newMemoryBroker() }
	assert.PanicsWithValue(t, "linda: RegisterBroker called twice for scheme memory", func() { RegisterBroker("memory", open) })
	assert.Panics(t, func() { RegisterBroker("", open) })
	assert.Panics(t, func() { RegisterBroker("nothing", nil) })
	_, err := NewBroker("nothing://")
	assert.ErrorIs(t, err, ErrBadURL, "a call that panicked registered nothing")
}

// fakeBroker is what the tests register: its Connect fails with err.
type fakeBroker struct {
	Broker
	err    error
	url    *neturl.URL
	closed bool
}

func (b *fakeBroker) Connect(url *neturl.URL) error { b.url = url; return b.err }
func (b *fakeBroker) Close() error                  { b.closed = true; return nil }

// register makes a scheme known for the duration of a test.
func register(t *testing.T, scheme string, open func() Broker) {
	RegisterBroker(scheme, open)
	t.Cleanup(func() {
		registry.Lock()
		defer registry.Unlock()
		delete(registry.byScheme, scheme)
	})
}

func TestEachNewBrokerIsOneOfItsOwn(t *testing.T) {
	register(t, "fake", func() Broker { return new(fakeBroker) })
	a, err := NewBroker("fake://host/path?x=1")
	require.NoError(t, err)
	b, err := NewBroker("fake://host/path?x=1")
	require.NoError(t, err)
	assert.NotSame(t, a, b)
	assert.Equal(t, "host", a.(*fakeBroker).url.Host)
}

func TestBrokerThatDoesNotConnectIsClosed(t *testing.T) {
	fake := &fakeBroker{err: io.ErrUnexpectedEOF}
	register(t, "fake", func() Broker { return fake })
	b, err := NewBroker("fake://")
	assert.Nil(t, b)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.True(t, fake.closed)
}

func TestUnknownSchemeHintsAtTheMissingImport(t *testing.T) {
	for url, hint := range map[string]string{
		"kafka://h:9092":     `import _ "github.com/amlun/linda/broker/kafka"`,
		"kafka+tls://h:9092": `import _ "github.com/amlun/linda/broker/kafka"`,
		"amqp://h/":          `import _ "github.com/amlun/linda/broker/rabbitmq"`,
		"beanstalkd://h":     `import _ "github.com/amlun/linda/broker/beanstalkd"`,
		"nsq://h":            `import _ "github.com/amlun/linda/broker/nsq"`,
		"postgres://h":       "known: memory://",
		"":                   "known: memory://",
	} {
		_, err := NewBroker(url)
		require.ErrorIs(t, err, ErrBadURL, url)
		assert.ErrorContains(t, err, hint)
		assert.ErrorContains(t, err, "forgotten import")
	}
}

func TestErrorsOfNewBrokerShowNoSecret(t *testing.T) {
	const secret = "hunter2Secret"
	for _, scheme := range []string{"memory", "redis", "rediss", "kafka", "amqps", "postgres", "re dis", ""} {
		for _, rest := range []string{
			"//user:%s@127.0.0.1:1/", "//%s:x@127.0.0.1:1", "//%s@127.0.0.1:1/0", "//u:%s@127.0.0.1:99999", "//u:%s@127.0.0.1:port/",
			"//u:%s@[::1", "//u:%s@h%%zz", "//u:%s%%@h", "//u:%s\x7f@h", "//u:%s@h:1\n", "//u:%s/rest@127.0.0.1:1", "//u:12/%s@127.0.0.1:1",
			"//u:?%s@127.0.0.1:1", "//:?%s@127.0.0.1:1", "//u:#%s@127.0.0.1:1", "//127.0.0.1:1/0?password=%s", "//127.0.0.1:1/%s",
			"//127.0.0.1:1/0#%s", "user:%s@127.0.0.1", "%s", ":%s", "//u:%s@",
		} {
			url := scheme + ":" + fmt.Sprintf(rest, secret)
			b, err := NewBroker(url)
			if err == nil {
				_ = b.Close()
				continue
			}
			for err := err; err != nil; err = errors.Unwrap(err) {
				text := fmt.Sprintf("%s %+v %#v %q", err, err, err, err)
				assert.NotContains(t, text, secret, url)
				assert.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte(secret)), url)
			}
		}
	}
}

func TestMemoryTakesANameAndNothingElse(t *testing.T) {
	for _, url := range []string{
		"memory://?x=1", "memory://u@n", "memory://u:p@n", "memory://n:1", "memory://n/path", "memory:n", "memory://n#x",
	} {
		_, err := NewBroker(url)
		assert.ErrorIs(t, err, ErrBadURL, url)
	}
	for _, url := range []string{"memory://", "memory:///", "memory://name", "MEMORY://name/"} {
		b, err := NewBroker(url)
		require.NoError(t, err, url)
		require.NoError(t, b.Close())
	}
}

// wrapper hides the capabilities of the broker it wraps.
type wrapper struct{ inner Broker }

func (w wrapper) Unwrap() Broker { return w.inner }

// nineMethods is a broker that wraps another one.
type nineMethods struct {
	Broker
	wrapper
}

func TestAsFindsWhatABrokerOrOneItWrapsCanDo(t *testing.T) {
	memory := &memoryBroker{}
	_, ok := As[Settler](memory)
	assert.True(t, ok)

	wrapped := nineMethods{memory, wrapper{nineMethods{memory, wrapper{memory}}}}
	_, direct := any(wrapped).(Settler)
	require.False(t, direct)
	settler, ok := As[Settler](wrapped)
	assert.True(t, ok)
	assert.Same(t, memory, settler)

	_, ok = As[interface{ Nothing() }](wrapped)
	assert.False(t, ok)
	_, ok = As[Settler](nineMethods{memory, wrapper{nil}})
	assert.False(t, ok, "a broker that wraps nothing")
	_, ok = As[Settler](nil)
	assert.False(t, ok)
}

func TestBatchErrorHasOneEntryPerItem(t *testing.T) {
	assert.NoError(t, Batch(nil))
	assert.NoError(t, Batch(make([]error, 3)))
	err := Batch([]error{nil, io.EOF, ErrUnknown})
	assert.EqualError(t, err, "2 of 3 not done; the first: EOF")
	assert.ErrorIs(t, err, io.EOF)
	assert.ErrorIs(t, err, ErrUnknown)
	assert.NotErrorIs(t, err, ErrClosed)

	assert.Equal(t, []error{nil, io.EOF, ErrUnknown}, EachError(fmt.Errorf("push: %w", err), 3))
	assert.Equal(t, []error{io.EOF, io.EOF}, EachError(io.EOF, 2))
	assert.Equal(t, []error{nil, nil}, EachError(nil, 2))
	assert.Equal(t, []error{err, err}, EachError(err, 2), "an error of another batch")
}

func TestLostLeaseIsNotReserved(t *testing.T) {
	assert.ErrorIs(t, ErrLeaseLost, ErrNotReserved)
	assert.NotErrorIs(t, ErrNotReserved, ErrLeaseLost)
	assert.ErrorIs(t, fmt.Errorf("x: %w", ErrLeaseLost), ErrLeaseLost)
}

func TestDuplicateErrorLeavesTheKeyOut(t *testing.T) {
	err := &DuplicateError{Queue: "q", Key: "a@b.c", ID: "x"}
	assert.EqualError(t, err, "linda: queue q: a job with this unique key is there already: x")
}
