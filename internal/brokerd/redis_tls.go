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
	ready: func(ctx context.Context, s setup, pid int) error {
		config, err := testTLSConfig(s, certOf(s))
		if err != nil {
			return err
		}
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.addr())
		if err != nil {
			return err
		}
		return redisReadyOn(ctx, conn, s, pid)
	},
	url: func(s setup) string {
		options := url.Values{"ca": {certOf(s)}, "cert": {certOf(s)}, "key": {keyOf(s)}}
		return "rediss://" + s.addr() + "/?" + options.Encode()
	},
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
	return redisCommandWith(ctx, s, "--port", "0", "--tls-port", strconv.Itoa(s.ports[0]),
		"--tls-cert-file", certOf(s), "--tls-key-file", keyOf(s), "--tls-ca-cert-file", certOf(s))
}

func testTLSConfig(s setup, authorityFile string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certOf(s), keyOf(s))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(authorityFile)
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(text)
	return &tls.Config{
		ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
		RootCAs: authority, Certificates: []tls.Certificate{pair},
	}, nil
}

// makeCertificate writes a certificate for 127.0.0.1 that is good for a day, for servers and clients, and its own
// authority.
func makeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	certificate := newCertificate()
	return writeSigned(certFile, keyFile, certificate, certificate, key, key)
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
	return writeSigned(certFile, keyFile, certificate, authority.Leaf, key, authority.PrivateKey)
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

func writeSigned(certFile, keyFile string, certificate, by *x509.Certificate, key *ecdsa.PrivateKey, byKey any) error {
	der, err := x509.CreateCertificate(rand.Reader, certificate, by, &key.PublicKey, byKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyFile, "PRIVATE KEY", private); err != nil {
		return err
	}
	return writePEM(certFile, "CERTIFICATE", der)
}

func writePEM(file, kind string, der []byte) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("brokerd: %w", err)
	}
	return nil
}
