package nsq

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

func TestURLs(t *testing.T) {
	t.Parallel()
	read := func(url string) (*config, error) {
		u, err := neturl.Parse(url)
		require.NoError(t, err)
		return readURL(u)
	}
	c, err := read("nsq://a,b:1?lookupd=l,http://m:5&channel=c&msg_timeout=30s&max_in_flight=7&auth_secret=s")
	require.NoError(t, err)
	assert.Equal(t, []string{"a:4150", "b:1"}, c.hosts)
	assert.Equal(t, []string{"http://a:4151", "http://b:2"}, c.http)
	assert.Equal(t, []string{"http://l:4161", "http://m:5"}, c.lookupd)
	assert.Equal(t, "c", c.channel)
	assert.Equal(t, 30*time.Second, c.msgTimeout)
	assert.Equal(t, 7, c.maxInFlight)
	c, err = read("nsq+tls://a?http=https://a:1")
	require.NoError(t, err)
	assert.NotNil(t, c.tls)
	assert.Equal(t, []string{"https://a:1"}, c.http)
	for _, wrong := range []string{
		"nsq://", "nsq://:4150", "nsq://a,", "nsq://a:0", "nsq://a:70000", "nsq://a/path", "nsq://a#x", "nsq://u:p@a", "nsq://a?unknown=1",
		"nsq://a?channel=", "nsq://a?channel=a&channel=b", "nsq://a?msg_timeout=1", "nsq://a?msg_timeout=10ms", "nsq://a?http=x,y",
		"nsq://a?lookupd=", "nsq://a?ca=x", "nsq://a?max_in_flight=0", "nsq+tls://a?ca=/nowhere", "nsq+tls://a?cert=x",
	} {
		_, err := read(wrong)
		assert.ErrorIs(t, err, linda.ErrBadURL, wrong)
		assert.NotContains(t, err.Error(), "u:p")
	}
}

func TestServersAreFoundByNsqlookupd(t *testing.T) {
	t.Parallel()
	lookupd := brokerd.Run(t, brokerd.Nsqlookupd)
	other := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-lookupd-tcp-address="+lookupd.Addr))
	own := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-lookupd-tcp-address="+lookupd.Addr))
	require.NoError(t, opened(t, other.URL).Push(job("other"), "q"))
	b := opened(t, own.URL+"&lookupd="+strings.TrimPrefix(lookupd.URL, "http://"))
	require.NoError(t, b.Push(job("own"), "q"))
	got := make(map[string]int)
	for _, j := range fetch(t, b, 2, time.Minute) {
		got[j.Payload.Class]++
		require.NoError(t, b.Delete("q", j))
	}
	assert.Equal(t, map[string]int{"own": 1, "other": 1}, got)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-tls-cert="+cert, "-tls-key="+key, "-tls-required=tcp-https", "-tls-min-version=tls1.2"))
	_, web, _ := strings.Cut(server.URL, "?")
	b := opened(t, "nsq+tls://"+server.Addr+"?"+web+"&ca="+neturl.QueryEscape(cert))
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", fetch(t, b, 1, time.Minute)[0]))
	_, err := linda.NewBroker("nsq+tls://" + server.Addr)
	assert.ErrorContains(t, err, "certificate", "of an unknown authority")
	plain, err := linda.NewBroker(server.URL)
	if err == nil { // it is only refused what it asks for
		err = plain.Push(job("job"), "q")
		assert.NoError(t, plain.Close())
	}
	assert.Error(t, err)
}

// certificate makes one for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &private.PublicKey, private)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, key
}

func TestAuth(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3tOfTheTest"
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("secret") != secret {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ttl": 60, "identity": "t", "authorizations": []any{
			map[string]any{"topic": "^(q|_dl.q)$", "channels": []string{".*"}, "permissions": []string{"subscribe", "publish"}},
		}})
	}))
	t.Cleanup(auth.Close)
	server := brokerd.Run(t, brokerd.Nsqd, brokerd.Args("-auth-http-address="+strings.TrimPrefix(auth.URL, "http://")))
	b := opened(t, server.URL+"&auth_secret="+secret)
	require.NoError(t, b.Push(job("job"), "q"))
	require.NoError(t, b.Delete("q", fetch(t, b, 1, time.Minute)[0]))
	assert.ErrorIs(t, b.Push(job("job"), strconv.Itoa(1)), linda.ErrDenied, "a queue that it may not use")
	for _, url := range []string{server.URL, server.URL + "&auth_secret=wrongSecretOfTheTest"} {
		_, err := linda.NewBroker(url)
		assert.ErrorIs(t, err, linda.ErrDenied)
		assert.NotContains(t, err.Error(), "wrongSecret")
	}
}
