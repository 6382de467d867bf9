// Command bench measures linda beside github.com/hibiken/asynq and beside a
// bare loop on go-redis, on one redis-server that it starts, and writes what it
// found into docs/performance.md and docs/performance.svg.
//
//	go run .         # all of it, in a few minutes
//	go run . -tiny   # a few jobs of each kind, nothing is written: does it still work?
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amlun/linda/internal/brokerd"
)

// errNone says that a contestant has no such thing.
var errNone = errors.New("bench: it has none")

func main() {
	tiny := flag.Bool("tiny", false, "run a few jobs of each kind and write nothing")
	rounds := flag.Int("rounds", 5, "how many rounds to take the medians of")
	only := flag.String("only", "", "measure only what has this in its name, and write nothing")
	profile := flag.String("profile", "", "measure only linda, write its CPU profile to this file and nothing else")
	docs := flag.String("docs", "../docs", "folder of performance.md and performance.svg")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{tiny: *tiny, rounds: *rounds, only: *only, profile: *profile, table: new(table)}
	if *tiny {
		b.rounds = 1
	}
	if *tiny || *only != "" || *profile != "" {
		*docs = ""
	}
	if err := b.benchmark(ctx, *docs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// benchmark measures on a server of its own and writes into the folder docs, if
// one is given.
func (b *bench) benchmark(ctx context.Context, docs string) (err error) {
	server, err := brokerd.Start(ctx, brokerd.Redis, brokerd.Args("--appendonly", "no"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	b.admin = redis.NewClient(&redis.Options{Addr: server.Addr})
	defer b.admin.Close()
	openers := []opener{openLinda, openAsynq, openBare}
	if b.profile != "" {
		openers = openers[:1]
		stop, err := profileTo(b.profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	for _, open := range openers {
		c, err := open(server.Addr)
		if err != nil {
			return err
		}
		defer c.close()
		b.contestants = append(b.contestants, c)
		b.table.names = append(b.table.names, c.name())
	}
	began := time.Now()
	if err := b.measure(ctx); err != nil {
		return err
	}
	about := fmt.Sprintf("Medians of %d rounds, %d CPUs for server and client together, %s, redis-server %s without persistence.",
		b.rounds, runtime.NumCPU(), runtime.Version(), b.redisVersion(ctx))
	fmt.Printf("%s\n\n%s\n%v\n", about, b.table.markdown(), time.Since(began).Round(time.Second))
	if docs == "" {
		return nil
	}
	return writeDocs(docs, about, b.table)
}

// profileTo writes a CPU profile until stop is called.
func profileTo(file string) (stop func(), err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
