package brokerurl

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"": "localhost:7", "h": "h:7", "h:1": "h:1", ":1": "localhost:1", "[::1]": "[::1]:7", "[::1]:65535": "[::1]:65535", "127.0.0.1": "127.0.0.1:7",
		"h:0": "", "h:65536": "", "h:x": "", "::1": "", "h]": "", "[::1": "",
	} {
		addr, err := Host(Local(host), 7)
		assert.Equal(t, want == "", err != nil, host)
		assert.Equal(t, want, addr, host)
		if want != "" {
			addrs, err := Hosts(host, 7)
			require.NoError(t, err)
			assert.Equal(t, []string{want}, addrs)
		}
	}
	addrs, err := Hosts("a,b:1", 7)
	require.NoError(t, err)
	assert.Equal(t, []string{"a:7", "b:1"}, addrs)
	for _, list := range []string{"a,", ",a", "a,,b", "a,:1", "a,h:0"} {
		_, err := Hosts(list, 7)
		assert.Error(t, err, list)
	}
	for _, host := range []string{"", ":1"} {
		_, err := Host(host, 7)
		assert.EqualError(t, err, "a host is missing")
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	var (
		text, choice string
		number       int16
		wait         time.Duration
		on           bool
	)
	read := func(query string) error {
		return Options(query, map[string]Reader{
			"text": Text(&text, func(s string) bool { return s != "odd" }), "choice": OneOf(&choice, "a", "b"),
			"number": Number(&number, 2, 300), "wait": Duration(&wait, time.Second, time.Minute), "on": Bool(&on),
		})
	}
	require.NoError(t, read(""))
	require.NoError(t, read("text=t%26&choice=b&number=300&wait=1m&on=true"))
	assert.Equal(t, []any{"t&", "b", int16(300), time.Minute, true}, []any{text, choice, number, wait, on})
	for query, reason := range map[string]string{
		"text=":             "option text has a wrong value",
		"text=odd":          "option text has a wrong value",
		"choice=c":          "option choice has a wrong value",
		"number=1":          "option number has a wrong value",
		"number=301":        "option number has a wrong value",
		"number=65538":      "option number has a wrong value", // 2 of 16 bits
		"number=x":          "option number has a wrong value",
		"wait=999ms":        "option wait has a wrong value",
		"wait=61s":          "option wait has a wrong value",
		"wait=1":            "option wait has a wrong value",
		"on=perhaps":        "option on has a wrong value",
		"text=a&text=b":     "option text is there twice",
		"colour=red":        "unknown option colour",
		"text=%zz":          "the options do not parse",
		"text=a&secr3t":     "unknown option",
		"text=a&S3cret=x":   "unknown option",
		"sec%72et@host=1=2": "unknown option",
	} {
		assert.EqualError(t, read(query), reason, query)
	}
}

func TestFilesOfTLS(t *testing.T) {
	t.Parallel()
	assert.True(t, TLS{}.None())
	assert.False(t, TLS{Key: "k"}.None())
	c, err := TLS{ServerName: "name"}.Config()
	require.NoError(t, err)
	assert.Equal(t, "name", c.ServerName)
	assert.Nil(t, c.RootCAs, "the system's")
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for reason, files := range map[string]TLS{
		"the file of the authority cannot be read":       {CA: empty + "not"},
		"the file of the authority holds no certificate": {CA: empty},
		"the files of certificate and key are no pair":   {Cert: empty},
	} {
		_, err := files.Config()
		assert.EqualError(t, err, reason)
	}
}
