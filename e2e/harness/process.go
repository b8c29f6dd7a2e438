package harness

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long the harness waits for anything before it calls it a
// failure. Nothing is measured with it.
const patience = 30 * time.Second

// process is a program that runs.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *logbook
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read it after done
}

// launch starts a program. first, if set, gets what it writes to its standard
// output; otherwise that goes to the log.
func launch(name string, log *logbook, first io.Writer, env []string, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), log: log, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if first != nil {
		p.cmd.Stdout = first
	}
	dieWithParent(p.cmd)
	if err := onStarter(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// starter is the one thread that starts processes: they are told to die with it,
// so it must live as long as the tests.
var starter = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func onStarter(f func() error) error {
	err := make(chan error)
	starter() <- func() { err <- f() }
	return <-err
}

// signal sends a signal and waits for the end. It returns how the process ended.
func (p *process) signal(sig os.Signal) error {
	p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end after %s", p.name, sig)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// until calls ready until it returns no error. It fails the test if the process
// ends, or after patience.
func (p *process) until(t testing.TB, what string, ready func() error) {
	t.Helper()
	if err := p.wait(what, ready); err != nil {
		t.Fatal(err)
	}
}

// wait is until that returns what until fails with.
func (p *process) wait(what string, ready func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		switch {
		case err == nil:
			return nil
		case p.ended():
			return fmt.Errorf("%s ended (%v) before it was %s\n%s", p.name, p.err, what, p.log.tail())
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not %s: %w\n%s", p.name, what, err, p.log.tail())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Eventually calls check until it returns no error, and fails the test with the
// last one after a long time.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// logbook keeps what a process writes.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// tail is the end of the log, for people.
func (l *logbook) tail() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	if n := len(lines) - 60; n > 0 {
		lines = append([]string{fmt.Sprintf("… %d lines …", n)}, lines[n:]...)
	}
	return strings.Join(lines, "\n")
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePort returns a port of the loopback interface that nobody listens at, for
// TCP and UDP, and that was not given out before.
func FreePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = make(map[int]bool)
	}
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		l.Close()
		if err == nil {
			u.Close()
		}
		if err == nil && !ports.given[port] {
			ports.given[port] = true
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
