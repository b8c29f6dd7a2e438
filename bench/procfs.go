package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/<pid>/stat. Linux gives it as 100 a
// second on every architecture that Go runs on.
const clockTick = time.Second / 100

// parseStat returns the CPU time, user and system together, that a process has
// used according to the text of its /proc/<pid>/stat.
func parseStat(text string) (time.Duration, error) {
	// The second field is the program's name in parentheses and may hold
	// anything, parentheses and spaces included.
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return 0, fmt.Errorf("no program name in %.100q", text)
	}
	fields := strings.Fields(text[end+1:]) // from the third on
	if len(fields) < 13 {
		return 0, fmt.Errorf("only %d fields after the name in %.100q", len(fields), text)
	}
	user, err := strconv.ParseUint(fields[11], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("utime: %w", err)
	}
	system, err := strconv.ParseUint(fields[12], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("stime: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// parseStatus returns the most memory in bytes that a process has had resident,
// according to the text of its /proc/<pid>/status.
func parseStatus(text string) (int64, error) {
	for line := range strings.Lines(text) {
		value, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		value, ok = strings.CutSuffix(strings.TrimSpace(value), " kB")
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 53)
		if !ok || err != nil {
			return 0, fmt.Errorf("bad line %q", line)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("no line VmHWM")
}

// parsePS reads one line of `ps -o time=,rss=`: CPU time as [[d-]h:]m:s[.cc] and
// resident memory in KiB, returned in bytes.
func parsePS(line string) (cpu time.Duration, rss int64, err error) {
	fields := strings.Fields(line)
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("ps answered %.100q", line)
	}
	clock, days := fields[0], 0
	if d, rest, ok := strings.Cut(clock, "-"); ok {
		clock = rest
		if days, err = strconv.Atoi(d); err != nil {
			return 0, 0, fmt.Errorf("ps answered %.100q", line)
		}
	}
	var seconds float64
	for part := range strings.SplitSeq(clock, ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil || n < 0 {
			return 0, 0, fmt.Errorf("ps answered %.100q", line)
		}
		seconds = seconds*60 + n
	}
	if rss, err = strconv.ParseInt(fields[1], 10, 53); err != nil {
		return 0, 0, fmt.Errorf("ps answered %.100q", line)
	}
	cpu = time.Duration(days)*24*time.Hour + time.Duration(seconds*float64(time.Second)).Round(time.Millisecond)
	return cpu, rss << 10, nil
}
