package main

import (
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// cpuSet is a set of CPUs as the kernel takes it. The zero set stands for no
// wish.
type cpuSet [16]uint64

func (s *cpuSet) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// splitCPUs divides the CPUs that this process may use: the last one for the
// system under test, all others for load and mock. ok is false where there is
// but one.
func splitCPUs() (test, load cpuSet, ok bool) {
	if err := affinity(syscall.SYS_SCHED_GETAFFINITY, 0, &load); err != nil || load.count() < 2 {
		return cpuSet{}, cpuSet{}, false
	}
	for i := len(load) - 1; ; i-- {
		if load[i] != 0 {
			last := uint64(1) << (bits.Len64(load[i]) - 1)
			test[i], load[i] = last, load[i]&^last
			return test, load, true
		}
	}
}

// pinSelf holds all threads of this process on set.
func pinSelf(set cpuSet) error {
	// A thread that starts meanwhile has the set of the one that starts it, so
	// the second pass finds any that came too late for the first.
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := affinity(syscall.SYS_SCHED_SETAFFINITY, tid, &set); err != nil && err != syscall.ESRCH {
				return fmt.Errorf("set affinity: %w", err)
			}
		}
	}
	runtime.GOMAXPROCS(set.count())
	return nil
}

// startOn starts cmd on set, or anywhere if it is the zero set. The kernel ends
// the child should this process die.
func startOn(cmd *exec.Cmd, set cpuSet) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if set.count() == 0 {
		return cmd.Start()
	}
	// A child inherits the set of the thread that forks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old cpuSet
	if err := affinity(syscall.SYS_SCHED_GETAFFINITY, 0, &old); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	if err := affinity(syscall.SYS_SCHED_SETAFFINITY, 0, &set); err != nil {
		return fmt.Errorf("set affinity: %w", err)
	}
	err := cmd.Start()
	if back := affinity(syscall.SYS_SCHED_SETAFFINITY, 0, &old); err == nil && back != nil {
		err = fmt.Errorf("set affinity back: %w", back)
	}
	return err
}

func affinity(call uintptr, tid int, set *cpuSet) error {
	_, _, errno := syscall.RawSyscall(call, uintptr(tid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	if errno != 0 {
		return errno
	}
	return nil
}

// cpuTime is the CPU time that a process has used, user and system.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseStat(string(text))
}

// peakMemory is the most memory in bytes that a process has had resident since
// forgetPeak.
func peakMemory(pid int) (int64, error) {
	text, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0, err
	}
	return parseStatus(string(text))
}

// forgetPeak makes what is resident now the peak of a process.
func forgetPeak(pid int) error {
	return os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0)
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
