// Package e2e tests linda as its users run it: worker processes on a real
// server, killed, stopped and started while jobs come in.
package e2e
