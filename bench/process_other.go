//go:build !linux

package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// cpuSet stands for no wish: there is no way to choose CPUs here.
type cpuSet struct{}

func splitCPUs() (test, load cpuSet, ok bool) { return }

func pinSelf(cpuSet) error { return nil }

func startOn(cmd *exec.Cmd, _ cpuSet) error { return cmd.Start() }

// cpuTime is the CPU time that a process has used, user and system.
func cpuTime(pid int) (time.Duration, error) {
	cpu, _, err := ps(pid)
	return cpu, err
}

// peakMemory is what a process has resident now: its peak is not to be had here.
func peakMemory(pid int) (int64, error) {
	_, rss, err := ps(pid)
	return rss, err
}

func forgetPeak(int) error { return nil }

func ps(pid int) (time.Duration, int64, error) {
	out, err := exec.Command("ps", "-o", "time=,rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("ps: %w", err)
	}
	return parsePS(string(out))
}
