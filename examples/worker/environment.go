package main

import (
	"cmp"
	"log"
	"os"
	"strconv"
)

// connection and delay, in seconds, can be set from outside: for another
// broker, or for not having to wait a minute.
var (
	connection = cmp.Or(os.Getenv("LINDA_CONNECTION"), "redis://localhost:6379/")
	delay      = seconds("LINDA_DELAY", 60)
)

func seconds(name string, byDefault int64) int64 {
	value := os.Getenv(name)
	if value == "" {
		return byDefault
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return n
}
