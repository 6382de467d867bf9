// Command mutants shows that the tests find bugs: it puts each of a table of
// bugs into a copy of the module, runs the tests that should notice, and writes
// docs/mutants.md.
//
//	go run ./internal/mutants            all of them, two at a time
//	go run ./internal/mutants NAME ...   some, whose rows are renewed
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
)

func main() {
	parallel := flag.Int("parallel", 2, "how many at once")
	list := flag.String("o", "docs/mutants.md", "where to write the result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *parallel, *list, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, parallel int, list string, names []string) error {
	todo, err := chosen(names)
	if err != nil {
		return err
	}
	l, err := newLab(".")
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.control(ctx, parallel, todo); err != nil {
		return err
	}
	results := each(parallel, todo, func(m mutant) result {
		r := l.try(ctx, m)
		fmt.Println(r)
		return r
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	rows := readRows(list)
	bad := 0
	for _, r := range results {
		if r.outcome != caught && r.why == "" {
			bad++
		}
		if r.outcome == caught || r.outcome == survived || rows[r.name].name == "" {
			rows[r.name] = r.row()
		}
	}
	if err := os.WriteFile(list, document(rows), 0o644); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d were not caught", bad)
	}
	return nil
}

// chosen returns the mutants of these names, all if there are none.
func chosen(names []string) ([]mutant, error) {
	if len(names) == 0 {
		return mutants, nil
	}
	var todo []mutant
	for _, name := range names {
		i := slices.IndexFunc(mutants, func(m mutant) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no mutant %s", name)
		}
		todo = append(todo, mutants[i])
	}
	return todo, nil
}

// each calls f for each of a row, some at once, and returns the results in the
// order of the row.
func each[T, R any](parallel int, row []T, f func(T) R) []R {
	results := make([]R, len(row))
	next := make(chan int)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for i := range next {
				results[i] = f(row[i])
			}
		})
	}
	for i := range row {
		next <- i
	}
	close(next)
	workers.Wait()
	return results
}
