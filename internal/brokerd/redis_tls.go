package brokerd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// RedisTLS is Redis that speaks TLS only, with a certificate for 127.0.0.1 that is its own authority: cert.pem and
// key.pem in its folder. It asks clients for one of the same authority, so the URL names these files.
var RedisTLS = Kind{
	name:    "redis",
	binary:  "redis-server",
	ports:   1,
	command: redisTLSCommand,
	ready:   redisTLSReady,
	url:     redisTLSURL,
}

// RedisUnix is Redis that listens on the socket redis.sock in its folder only.
var RedisUnix = Kind{
	name:   "redis",
	binary: "redis-server",
	ports:  1, // which it leaves alone
	command: func(ctx context.Context, s setup) (*exec.Cmd, error) {
		return redisCommandWith(ctx, s, "--port", "0", "--unixsocket", socketOf(s))
	},
	ready: func(ctx context.Context, s setup, pid int) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socketOf(s))
		if err != nil {
			return err
		}
		return redisReadyOn(ctx, conn, s, pid)
	},
	url: func(s setup) string { return "unix://" + filepath.ToSlash(socketOf(s)) },
}

func certOf(s setup) string   { return filepath.Join(s.dir, "cert.pem") }
func keyOf(s setup) string    { return filepath.Join(s.dir, "key.pem") }
func socketOf(s setup) string { return filepath.Join(s.dir, "redis.sock") }

func redisTLSCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	if _, err := os.Stat(certOf(s)); err != nil {
		if err := makeCertificate(certOf(s), keyOf(s)); err != nil {
			return nil, err
		}
	}
	return redisCommandWith(ctx, s, redisTLSArgs(s)...)
}

func redisTLSArgs(s setup) []string {
	return []string{"--port", "0", "--tls-port", strconv.Itoa(s.ports[0]),
		"--tls-cert-file", certOf(s), "--tls-key-file", keyOf(s), "--tls-ca-cert-file", certOf(s)}
}

func redisTLSReady(ctx context.Context, s setup, pid int) error {
	config, err := testTLSConfig(s, certOf(s))
	if err != nil {
		return err
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return err
	}
	return redisReadyOn(ctx, conn, s, pid)
}

func redisTLSURL(s setup) string {
	options := url.Values{"ca": {certOf(s)}, "cert": {certOf(s)}, "key": {keyOf(s)}}
	return "rediss://" + s.addr() + "/?" + options.Encode()
}

func testTLSConfig(s setup, authorityFile string) (*tls.Config, error) {
	var texts [3][]byte
	for i, file := range []string{certOf(s), keyOf(s), authorityFile} {
		var err error
		if texts[i], err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	return testTLSConfigOf(texts[0], texts[1], texts[2])
}

// testTLSConfigOf is that of a client by the texts of its files.
func testTLSConfigOf(cert, key, authorityText []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(authorityText)
	return &tls.Config{
		ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
		RootCAs: authority, Certificates: []tls.Certificate{pair},
	}, nil
}

// makeCertificate writes a certificate for 127.0.0.1 that is good for a day, for servers and clients, and its own
// authority.
func makeCertificate(certFile, keyFile string) error {
	cert, key, err := newCertificateFiles()
	if err != nil {
		return err
	}
	return writeFiles(certFile, keyFile, cert, key)
}

// newCertificateFiles returns what makeCertificate writes.
func newCertificateFiles() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	certificate := newCertificate()
	return sign(certificate, certificate, private, private)
}

// makeSignedCertificate writes the like, with an authority of its own in caFile.
func makeSignedCertificate(caFile, certFile, keyFile string) error {
	if err := makeCertificate(caFile, keyFile); err != nil {
		return err
	}
	authority, err := tls.LoadX509KeyPair(caFile, keyFile)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	certificate := newCertificate()
	certificate.IsCA, certificate.KeyUsage = false, x509.KeyUsageDigitalSignature
	certificate.Subject.CommonName = "linda test server"
	cert, private, err := sign(certificate, authority.Leaf, key, authority.PrivateKey)
	if err != nil {
		return err
	}
	return writeFiles(certFile, keyFile, cert, private)
}

func newCertificate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "linda test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
}

// sign returns a certificate and its key as the texts of their files.
func sign(certificate, by *x509.Certificate, key *ecdsa.PrivateKey, byKey any) (cert, private []byte, err error) {
	der, err := x509.CreateCertificate(rand.Reader, certificate, by, &key.PublicKey, byKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

func writeFiles(certFile, keyFile string, cert, key []byte) error {
	if err := errors.Join(os.WriteFile(keyFile, key, 0o600), os.WriteFile(certFile, cert, 0o600)); err != nil {
		return fmt.Errorf("brokerd: %w", err)
	}
	return nil
}
