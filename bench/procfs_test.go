package main

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 4 4 0 -1 4194560 3021 0 2 0 250 75 9 9 20 0 7 0 88321 2703433728 20311 18446744073709551615"
	for _, name := range []string{"(caddy)", "(a b)", "(x) R 1 2 (y)"} {
		if got, err := parseStat("1234 " + name + tail); err != nil || got != 3250*time.Millisecond {
			t.Errorf("%s: %v, %v; want 3.25s", name, got, err)
		}
	}
	for _, bad := range []string{"", "1234 (caddy", "1234 (caddy) S 1 4 4", "1 (c) S 1 4 4 0 -1 4 3 0 2 0 x 75", "1 (c) S 1 4 4 0 -1 4 3 0 2 0 75 x"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: taken as %v", bad, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const text = "Name:\tcaddy\nVmPeak:\t 1264604 kB\nVmHWM:\t   59392 kB\nVmRSS:\t   50000 kB\n"
	if got, err := parseStatus(text); err != nil || got != 59392<<10 {
		t.Errorf("%d, %v", got, err)
	}
	for _, bad := range []string{"", "Name:\tcaddy\n", "VmHWM:\t12 MB\n", "VmHWM:\tx kB\n"} {
		if got, err := parseStatus(bad); err == nil {
			t.Errorf("%q: taken as %d", bad, got)
		}
	}
}

func TestParsePS(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"  0:03.25  59392\n": 3250 * time.Millisecond,
		"00:01:02  59392":    62 * time.Second,
		"1-00:00:01  59392":  24*time.Hour + time.Second,
		" 100:00.50 59392":   100*time.Minute + 500*time.Millisecond,
	} {
		if cpu, rss, err := parsePS(line); err != nil || cpu != want || rss != 59392<<10 {
			t.Errorf("%q: %v, %d, %v; want %v", line, cpu, rss, err, want)
		}
	}
	for _, bad := range []string{"", "0:01", "0:x 1", "x-0:01 1", "0:01 x", "0:-1 1"} {
		if cpu, rss, err := parsePS(bad); err == nil {
			t.Errorf("%q: taken as %v, %d", bad, cpu, rss)
		}
	}
}

// TestMetersOfThisProcess reads the real files, where there are any.
func TestMetersOfThisProcess(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no ps on Windows")
	}
	if _, err := cpuTime(os.Getpid()); err != nil {
		t.Error(err)
	}
	if n, err := peakMemory(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("peak memory %d, %v", n, err)
	}
}
