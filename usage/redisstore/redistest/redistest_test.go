//go:build unix

package redistest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	s := Start(t, Persistent())
	s.Do("SET", "a", "1")
	s.Kill()
	s.Restart()
	if got := s.Do("GET", "a"); got != "1" {
		t.Errorf("after a kill the key holds %q", got)
	}
	s.Do("SET", "a", "2")
	s.Stop()
	files := s.Files()
	s.Restart()
	s.Do("SET", "a", "3")
	s.Stop()
	s.Restore(files)
	s.Restart()
	if got := s.Do("GET", "a"); got != "2" {
		t.Errorf("after a restore the key holds %q", got)
	}

	forgetful := Start(t)
	forgetful.Do("SET", "a", "1")
	forgetful.Kill()
	forgetful.Restart()
	if got := forgetful.Do("GET", "a"); got != "" {
		t.Errorf("a server that keeps nothing has %q", got)
	}
}

// TestDeath lets a process that started a server die without cleaning up.
func TestDeath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can tie a process to another one")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerOfADyingProcess$")
	cmd.Env = append(os.Environ(), "REDISTEST_DIE=yes")
	out, err := cmd.Output()
	addr, _, _ := strings.Cut(string(out), "\n")
	if err == nil || !strings.Contains(addr, ":") {
		t.Fatalf("%s, %v", out, err)
	}
	for range 1000 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		// The connection breaks when the server dies.
		conn.SetDeadline(time.Now().Add(patience))
		_, err = io.Copy(io.Discard, conn)
		conn.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			do(addr, []string{"SHUTDOWN", "NOSAVE"})
			break
		}
	}
	t.Errorf("the server at %s outlives its test", addr)
}

func TestServerOfADyingProcess(t *testing.T) {
	if os.Getenv("REDISTEST_DIE") == "" {
		t.Skip("part of TestDeath")
	}
	s := Start(t)
	fmt.Println(s.Addr)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestNotInstalled sees that a test fails, and says in one line what to type.
func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", "")
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Start(r)
	}()
	<-done
	if !strings.Contains(r.said, "apt-get install") || strings.Contains(r.said, "\n") {
		t.Errorf("without redis-server a test says %q", r.said)
	}
}

// recorder is a test that only notes why it failed.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatal(args ...any) {
	r.said = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
