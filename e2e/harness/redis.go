package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Redis is a redis-server that runs.
type Redis struct {
	// URL is what floway's `usage redis` takes.
	URL string
	// Addr is its address, Dir the directory with its data.
	Addr, Dir string
	args      []string
	proc      *process
	log       *logbook
}

// StartRedis starts a redis-server that keeps its data in a directory of its
// own. args are further arguments, which win over
// the harness's.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("these tests need Redis; type: sudo apt-get install redis-server")
	}
	port := strconv.Itoa(FreePort(t))
	r := &Redis{URL: "redis://127.0.0.1:" + port, Addr: "127.0.0.1:" + port, Dir: t.TempDir(), log: &logbook{}}
	r.args = []string{"--port", port, "--bind", "127.0.0.1", "--dir", r.Dir, "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"}
	r.args = append(r.args, args...)
	t.Cleanup(func() {
		if !r.proc.ended() {
			r.proc.signal(syscall.SIGTERM)
		}
	})
	r.Start(t)
	return r
}

// Start starts the server again after Kill or Stop, with the same data and port.
// args are further arguments for this time.
func (r *Redis) Start(t testing.TB, args ...string) {
	t.Helper()
	var err error
	r.proc, err = launch("redis-server", r.log, nil, nil, "redis-server", append(r.args[:len(r.args):len(r.args)], args...)...)
	if err != nil {
		t.Fatal(err)
	}
	r.proc.until(t, "ready", func() error {
		conn, err := net.DialTimeout("tcp", r.Addr, time.Second)
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
		// A server that wants a password is there as well.
		if err == nil && string(answer[:n]) != "+PONG\r\n" && !bytes.HasPrefix(answer, []byte("-NOAUTH")) {
			err = fmt.Errorf("PING: %q", answer[:n])
		}
		return err
	})
}

// Stop ends the server politely: its data is on the disk then.
func (r *Redis) Stop() { r.proc.signal(syscall.SIGTERM) }

// Signal sends a signal and does not wait for anything.
func (r *Redis) Signal(sig os.Signal) error { return r.proc.cmd.Process.Signal(sig) }

// Kill ends the server as a crash would.
func (r *Redis) Kill() { r.proc.signal(syscall.SIGKILL) }
