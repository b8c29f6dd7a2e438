package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// measure is one of the things that a round measures.
type measure int

const (
	cpuPerAnswer     measure = iota // seconds of user and system time of the server's process
	answersPerSecond                // of all connections
	latency50                       // seconds from the request's first byte to the answer's last
	latency99
	firstByteAdded50 // seconds to the first content, less what the upstream itself took
	firstByteAdded99
	chunkLag50 // seconds from the upstream's write of a chunk to its arrival
	chunkLag99
	allocationsPerAnswer     // objects allocated by the server
	peakRSS                  // bytes
	loadBusy                 // share of the CPUs of load, mock and Redis in use
	measures             int = iota
)

// measurement is one round of one system. What could not be measured is NaN.
type measurement [measures]float64

var measureNames = [measures]string{
	"CPU per answer", "answers per second", "latency p50", "latency p99", "first byte added p50", "first byte added p99",
	"chunk lag p50", "chunk lag p99", "allocations per answer", "peak RSS", "load side busy",
}

func (m measure) String() string { return measureNames[m] }

func (m measure) format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case m == answersPerSecond || m == allocationsPerAnswer:
		return fmt.Sprintf("%.0f", v)
	case m == peakRSS:
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case m == loadBusy:
		return fmt.Sprintf("%.0f %%", v*100)
	case v < 1e-3:
		return fmt.Sprintf("%.0f µs", v*1e6)
	default:
		return fmt.Sprintf("%.2f ms", v*1e3)
	}
}

// percentile is the smallest of sorted values that p percent of them do not
// exceed, in seconds; NaN if there are none.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	i := int(math.Ceil(p/100*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)].Seconds()
}

// median is the middle of the values, or the mean of the two in the middle; NaN
// if there are none or one of them is.
func median(values []float64) float64 {
	if len(values) == 0 || slices.ContainsFunc(values, math.IsNaN) {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratio is the median of one system's values over another's of the same round,
// with the lowest and the highest.
type ratio struct{ median, low, high float64 }

func ratios(of, to []measurement, m measure) ratio {
	var all []float64
	for i := range min(len(of), len(to)) {
		if to[i][m] == 0 {
			return ratio{math.NaN(), math.NaN(), math.NaN()}
		}
		all = append(all, of[i][m]/to[i][m])
	}
	r := ratio{median: median(all), low: math.NaN(), high: math.NaN()}
	if !math.IsNaN(r.median) {
		r.low, r.high = slices.Min(all), slices.Max(all)
	}
	return r
}

// beyond is what exceeds the other system's measure, for one in so many requests.
func (r ratio) beyond(each int) ratio {
	n := float64(each)
	return ratio{(r.median - 1) * n, (r.low - 1) * n, (r.high - 1) * n}
}

func column(rounds []measurement, m measure) []float64 {
	values := make([]float64, len(rounds))
	for i := range rounds {
		values[i] = rounds[i][m]
	}
	return values
}

// report prints what a scenario gave: for the first system its medians, for the
// others medians, and ratios to the first in the same rounds. It reports whether
// every system answered rightly and counted rightly.
func report(w io.Writer, s *scenario, systems []*system) bool {
	fmt.Fprintf(w, "\n%s: %s; %d connections\n\n", s.name, s.about, s.conns)
	ok := true
	var sound []*system
	for _, sys := range systems {
		if sys.failed == nil {
			sound = append(sound, sys)
			continue
		}
		ok = false
		fmt.Fprintf(w, "  FAILED %s: %v\n", sys.name, sys.failed)
	}
	if len(sound) == 0 {
		return ok
	}
	if !ok {
		fmt.Fprintln(w)
	}
	base := sound[0]
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\t%s\t", base.name)
	for _, sys := range sound[1:] {
		fmt.Fprintf(tw, "%s\t/ %s\tspread\t", sys.name, base.name)
	}
	fmt.Fprintln(tw)
	for m := range measure(measures) {
		if !slices.ContainsFunc(sound, func(sys *system) bool { return !math.IsNaN(median(column(sys.rounds, m))) }) {
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t", m, m.format(median(column(base.rounds, m))))
		for _, sys := range sound[1:] {
			fmt.Fprintf(tw, "%s\t", m.format(median(column(sys.rounds, m))))
			if r := ratios(sys.rounds, base.rounds, m); math.IsNaN(r.median) || m == loadBusy {
				fmt.Fprint(tw, "\t\t")
			} else {
				fmt.Fprintf(tw, "%.2f\t%.2f–%.2f\t", r.median, r.low, r.high)
			}
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	reportTargets(w, s, sound)
	return ok
}

// reportTargets says of every promise that can be judged whether it was kept.
func reportTargets(w io.Writer, s *scenario, systems []*system) {
	find := func(name string) *system {
		i := slices.IndexFunc(systems, func(s *system) bool { return s.name == name })
		if i < 0 {
			return nil
		}
		return systems[i]
	}
	var lines strings.Builder
	for _, t := range s.targets {
		of, to := find(t.system), find(t.base)
		if of == nil || to == nil {
			continue
		}
		r := ratios(of.rounds, to.rounds, t.measure)
		if t.each > 0 {
			r = r.beyond(t.each)
		}
		got := r.median
		sign, met := "≥", got >= t.bound
		if t.most {
			sign, met = "≤", got <= t.bound
		}
		verdict := "MISSED"
		if met {
			verdict = "met"
		}
		if t.each > 0 {
			fmt.Fprintf(&lines, "  target: extra %s of %s for each request made again %s %.2f of %s's: %.2f (%.2f–%.2f), %s\n",
				t.measure, t.system, sign, t.bound, t.base, got, r.low, r.high, verdict)
			continue
		}
		fmt.Fprintf(&lines, "  target: %s of %s %s %.2f of %s's: %.2f, %s\n", t.measure, t.system, sign, t.bound, t.base, got, verdict)
	}
	if lines.Len() > 0 {
		fmt.Fprintf(w, "\n%s", lines.String())
	}
}
