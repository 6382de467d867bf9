package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/amlun/linda"
	_ "github.com/amlun/linda/broker/beanstalkd"
	_ "github.com/amlun/linda/broker/kafka"
	_ "github.com/amlun/linda/broker/rabbitmq"
)

// secretForms are URLs that cannot be used, each with a secret at a place where
// one may stand: of user, password, host, port, path, option or fragment.
var secretForms = []string{
	"%[1]s://user:%[2]s@127.0.0.1:99999/0", "%[1]s://%[2]s:x@127.0.0.1:99999", "%[1]s://user:%[2]s@127.0.0.1:port/", "%[1]s://user:%[2]s@[::1",
	"%[1]s://user:%[2]s@h%%zz", "%[1]s://user:%[2]s%%@h", "%[1]s://user:%[2]s\x7f@h", "%[1]s://user:%[2]s@h:1\n", "%[1]s://user:%[2]s/rest@127.0.0.1:99999",
	"%[1]s://user:12/%[2]s@127.0.0.1:99999", "%[1]s://user:?%[2]s@127.0.0.1:99999", "%[1]s://user:#%[2]s@127.0.0.1:99999",
	"%[1]s://user:x@127.0.0.1:99999/0?password=%[2]s", "%[1]s://user:x@127.0.0.1:99999/0?%[2]s=1", "%[1]s://user:x@127.0.0.1:99999/%[2]s",
	"%[1]s://127.0.0.1:99999/0#%[2]s", "%[1]s:user:%[2]s@127.0.0.1", "%[1]s:%[2]s", "%[1]s://user:%[2]s@127.0.0.1:99999?unknown=1",
	"%[1]s://user:%[2]s@127.0.0.1:99999?timeout=%[2]s", "%[1]s://user:%[2]s@127.0.0.1:99999/a/b/c?ca=/no/%[2]s", "no-%[1]s://user:%[2]s@h/", "%[2]s://user@h/",
	" %[1]s://user:%[2]s@h/", "%[1]s://user:%[2]s@h/?a=%%zz%[2]s",
}

// F20: of ten thousand secrets none is in an error, a log line or a printed value,
// as it is, encoded or in part.
func TestNoneOfTenThousandSecretsIsShown(t *testing.T) {
	t.Parallel()
	const secrets = 10_000
	schemes := []string{"redis", "rediss", "redis-sentinel", "redis-cluster", "unix", "beanstalkd", "amqp", "amqps", "kafka", "kafka+tls", "memory"}
	tried, refused := 0, 0
	for n := 0; tried < secrets; n++ {
		scheme, form := schemes[n%len(schemes)], secretForms[n/len(schemes)%len(secretForms)]
		secret := "S3" + rand.Text()[:24]
		url := fmt.Sprintf(form, scheme, secret)
		tried++
		var log strings.Builder
		settings := linda.Settings{Connection: url, Queue: "q", Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		b, err := linda.NewBroker(url)
		if err == nil {
			_ = b.Close()
		} else {
			refused++
		}
		d, err2 := linda.New(settings)
		if err2 == nil {
			_ = d.Close()
		}
		text := shown(err) + shown(err2) + log.String() + fmt.Sprintf("%v %+v %#v", d, d, d)
		for _, form := range formsOf(secret) {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				assert.Fail(t, "a secret is shown", "%s of %s: %s", form, url, text)
				return
			}
		}
	}
	assert.Equal(t, tried, refused, "each of these URLs is an error that could show its secret")
}

// shown is all that can be printed of an error.
func shown(err error) string {
	var b strings.Builder
	for ; err != nil; err = errors.Unwrap(err) {
		fmt.Fprintf(&b, "%v %+v %#v %q %s\n", err, err, err, err, slog.AnyValue(err))
	}
	return b.String()
}

func formsOf(secret string) []string {
	half := len(secret) / 2
	return []string{
		secret, secret[:half], secret[half:], neturl.QueryEscape(secret), hex.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte(secret))[:16], base64.URLEncoding.EncodeToString([]byte("user:" + secret))[8:24],
	}
}
