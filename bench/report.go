package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// better tells which numbers of a row are the good ones.
type better int

const (
	higher better = iota
	lower
)

// table holds what was measured: of each row and contestant, one value a round.
type table struct {
	names []string // of the contestants
	rows  []*row
}

type row struct {
	name, unit string
	better     better
	values     map[string][]float64 // by contestant
}

func (t *table) add(name, unit string, better better, c contestant, value float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{name: name, unit: unit, better: better, values: make(map[string][]float64)})
	}
	r := t.rows[i]
	r.values[c.name()] = append(r.values[c.name()], value)
}

func (t *table) rate(name string, c contestant, count int, took time.Duration) {
	t.add(name, "jobs/s", higher, c, float64(count)/took.Seconds())
}

func (t *table) quantiles(name string, c contestant, d []time.Duration) {
	slices.Sort(d)
	for _, q := range []struct {
		name  string
		index int
	}{{"p50", len(d) / 2}, {"p99", len(d) * 99 / 100}, {"max", len(d) - 1}} {
		t.add(name+", "+q.name, "ms", lower, c, d[q.index].Seconds()*1000)
	}
}

// median returns the middle one of a contestant's values, NaN if it has none.
func (r *row) median(name string) float64 {
	values := slices.Sorted(slices.Values(r.values[name]))
	if len(values) == 0 {
		return math.NaN()
	}
	return values[len(values)/2]
}

// ratio tells how many times better the first contestant is than another.
func (r *row) ratio(first, other string) float64 {
	if r.better == lower {
		return r.median(other) / r.median(first)
	}
	return r.median(first) / r.median(other)
}

// markdown returns the table: the medians, and how many times better the first
// contestant is than each other.
func (t *table) markdown() string {
	var b strings.Builder
	b.WriteString("| |")
	for _, name := range t.names {
		fmt.Fprintf(&b, " %s |", name)
	}
	for _, name := range t.names[1:] {
		fmt.Fprintf(&b, " against %s |", name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", 2*len(t.names)-1) + "\n")
	for _, r := range t.rows {
		b.WriteString("| " + strings.TrimSuffix(r.name+" ("+r.unit+")", " ()") + " |")
		for _, name := range t.names {
			b.WriteString(" " + figure(r.median(name)) + " |")
		}
		for _, name := range t.names[1:] {
			b.WriteString(" " + strings.TrimSuffix(figure(r.ratio(t.names[0], name))+" x", "- x") + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// figure writes a number with three digits that count, or a dash for none.
func figure(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v >= 1000:
		step := math.Pow(10, math.Floor(math.Log10(v))-2)
		text := fmt.Sprintf("%.0f", math.Round(v/step)*step)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// What stands between these lines of performance.md is replaced by each run.
const (
	tableBegin = "<!-- table: written by make bench -->\n"
	tableEnd   = "<!-- end of table -->\n"
)

func writeDocs(folder, about string, t *table) error {
	file := filepath.Join(folder, "performance.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(text), tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		return errors.New(file + " has no place for the table")
	}
	page := before + tableBegin + "\n" + about + "\n\n" + t.markdown() + "\n" + tableEnd + after
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "performance.svg"), []byte(t.svg()), 0o644)
}

// svg draws the rates, as bars on a logarithmic scale.
func (t *table) svg() string {
	const (
		left, top, right = 270, 40, 90
		width, bar, gap  = 820, 14, 14
	)
	colours := []string{"#1f77b4", "#d62728", "#7f7f7f"}
	var rates []*row
	most := 10.0
	for _, r := range t.rows {
		if r.unit == "jobs/s" {
			rates = append(rates, r)
			for _, name := range t.names {
				if v := r.median(name); v > most { // not where there is none
					most = v
				}
			}
		}
	}
	decades := math.Ceil(math.Log10(most))
	scale := float64(width-left-right) / (decades - 2)
	x := func(v float64) float64 { return left + (math.Log10(v)-2)*scale }
	height := top + len(rates)*(len(t.names)*bar+gap) + 30
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for i, name := range t.names {
		fmt.Fprintf(&b, `<rect x="%d" y="12" width="12" height="12" fill="%s"/><text x="%d" y="22">%s</text>`+"\n", left+i*90, colours[i], left+i*90+18, name)
	}
	for d := 2.0; d <= decades; d++ {
		v := math.Pow(10, d)
		fmt.Fprintf(&b, `<path d="M%.0f %d V%d" stroke="#ddd"/><text x="%.0f" y="%d" text-anchor="middle">%s</text>`+"\n", x(v), top, height-25, x(v), height-10, figure(v))
	}
	for i, r := range rates {
		y := top + 6 + i*(len(t.names)*bar+gap)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-10, y+len(t.names)*bar/2+4, r.name)
		for k, name := range t.names {
			v := r.median(name)
			if math.IsNaN(v) || v < 100 {
				continue
			}
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="11">%s</text>`+"\n",
				left, y+k*bar, x(v)-left, bar-2, colours[k], x(v)+4, y+k*bar+10, figure(v))
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
