package main

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1)*time.Second)
	}
	for _, c := range []struct {
		sorted []time.Duration
		p      float64
		want   float64
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{hundred, 0.5, 1},
		{hundred, 99.1, 100},
		{hundred[:1], 50, 1},
		{hundred[:1], 99, 1},
		{hundred[:2], 50, 1},
		{hundred[:3], 50, 2},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("%v%% of %d: %v, want %v", c.p, len(c.sorted), got, c.want)
		}
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMedian(t *testing.T) {
	values := []float64{5, 1, 4}
	if got := median(values); got != 4 {
		t.Errorf("median %v, want 4", got)
	}
	if values[0] != 5 {
		t.Error("median sorted what it was given")
	}
	if got := median([]float64{4, 1, 5, 2}); got != 3 {
		t.Errorf("median %v, want 3", got)
	}
	for _, values := range [][]float64{nil, {1, math.NaN(), 2}} {
		if got := median(values); !math.IsNaN(got) {
			t.Errorf("median of %v: %v", values, got)
		}
	}
}

// rounds makes measurements that hold one measure.
func rounds(m measure, values ...float64) []measurement {
	var all []measurement
	for _, v := range values {
		var one measurement
		for i := range one {
			one[i] = math.NaN()
		}
		one[m] = v
		all = append(all, one)
	}
	return all
}

func TestRatios(t *testing.T) {
	// The ratio is taken round by round: a slow minute of the machine, here the
	// second round, hits both and goes away.
	got := ratios(rounds(latency50, 1, 20, 4), rounds(latency50, 2, 40, 4), latency50)
	if got != (ratio{0.5, 0.5, 1}) {
		t.Errorf("%+v", got)
	}
	if got := ratios(rounds(latency50, 1), rounds(latency50, 0), latency50); !math.IsNaN(got.median) {
		t.Errorf("ratio to zero: %+v", got)
	}
	if got := ratios(nil, nil, latency50); !math.IsNaN(got.median) {
		t.Errorf("ratio of nothing: %+v", got)
	}
}

func TestReport(t *testing.T) {
	s := &scenario{name: "small", conns: 3, targets: []target{atMost(cpuPerAnswer, 0.70), atLeast(answersPerSecond, 1.4)}}
	base := &system{kind: &kind{name: "caddy"}, rounds: rounds(cpuPerAnswer, 100e-6, 200e-6, 120e-6)}
	other := &system{kind: &kind{name: "floway"}, rounds: rounds(cpuPerAnswer, 50e-6, 120e-6, 66e-6)}
	var out strings.Builder
	if !report(&out, s, []*system{base, other}) {
		t.Error("reported as failed")
	}
	for _, want := range []string{"120 µs", "66 µs", "0.55", "0.50–0.60", "≤ 0.70 of caddy's: 0.55, met", "answers per second of floway ≥ 1.40 of caddy's: NaN, MISSED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	out.Reset()
	other.failed = errors.New("lost a chunk")
	if report(&out, s, []*system{base, other}) {
		t.Error("a failure was reported as success")
	}
	if !strings.Contains(out.String(), "FAILED floway: lost a chunk") || strings.Contains(out.String(), "66 µs") {
		t.Errorf("report of a failure:\n%s", &out)
	}
}

func TestFindScenarios(t *testing.T) {
	if got, err := findScenarios("quick"); err != nil || len(got) != len(quick) {
		t.Errorf("%d scenarios, %v", len(got), err)
	}
	if got, err := findScenarios("all"); err != nil || len(got) != len(scenarios) {
		t.Errorf("%d scenarios, %v", len(got), err)
	}
	for _, bad := range []string{"", "smal", "small,small", "small,"} {
		if _, err := findScenarios(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestReportOfRetries(t *testing.T) {
	s := &scenario{name: "retry", targets: []target{{"floway-500", "floway", cpuPerAnswer, true, 0.70, 4}}}
	base := &system{kind: &kind{name: "floway"}, rounds: rounds(cpuPerAnswer, 100e-6, 100e-6, 100e-6)}
	other := &system{kind: &kind{name: "floway-500"}, rounds: rounds(cpuPerAnswer, 115e-6, 110e-6, 120e-6)}
	var out strings.Builder
	report(&out, s, []*system{base, other})
	if want := "for each request made again ≤ 0.70 of floway's: 0.60 (0.40–0.80), met"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in\n%s", want, &out)
	}
}
