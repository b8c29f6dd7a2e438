package harness

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Redis is a redis-server that runs.
type Redis struct {
	// URL is what floway's `usage redis` takes.
	URL  string
	addr string
	args []string
	proc *process
	log  *logbook
}

// StartRedis starts a redis-server that keeps its data in a directory of its
// own.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("these tests need Redis; type: sudo apt-get install redis-server")
	}
	port := strconv.Itoa(FreePort(t))
	r := &Redis{URL: "redis://127.0.0.1:" + port, addr: "127.0.0.1:" + port, log: &logbook{}}
	r.args = []string{"--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"}
	t.Cleanup(func() {
		if !r.proc.ended() {
			r.proc.signal(syscall.SIGTERM)
		}
	})
	r.Start(t)
	return r
}

// Start starts the server again after Kill, with the same data and port.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	var err error
	r.proc, err = launch("redis-server", r.log, nil, nil, "redis-server", r.args...)
	if err != nil {
		t.Fatal(err)
	}
	r.proc.until(t, "ready", func() error {
		conn, err := net.DialTimeout("tcp", r.addr, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		answer := make([]byte, 64)
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		if err == nil && string(answer[:n]) != "+PONG\r\n" {
			err = fmt.Errorf("PING: %q", answer[:n])
		}
		return err
	})
}

// Kill ends the server as a crash would.
func (r *Redis) Kill() { r.proc.signal(syscall.SIGKILL) }
