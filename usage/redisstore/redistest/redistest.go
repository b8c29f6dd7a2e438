//go:build unix

// Package redistest runs real Redis servers for tests: each on a free port of the
// loopback, in a directory of its own, gone when its test ends.
package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to become ready or to end. It is only
// there to end a hung test.
const patience = 30 * time.Second

// Option is something that a server is started with.
type Option func(*Server)

// Persistent makes the server keep an append-only file that is flushed with every
// command, so that Kill loses nothing. Without it a Kill loses everything.
func Persistent() Option { return Args("--appendonly", "yes", "--appendfsync", "always") }

// Args are further arguments of the server.
func Args(args ...string) Option {
	return func(s *Server) { s.args = append(s.args, args...) }
}

// Sentinel makes the server a sentinel that alone decides over one master, which it
// calls name. It takes no other options.
func Sentinel(name string, master *Server) Option {
	return func(s *Server) {
		host, port, _ := net.SplitHostPort(master.Addr)
		s.sentinel = fmt.Sprintf("sentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %s 300\nsentinel failover-timeout %s 3000\n",
			name, host, port, name, name)
	}
}

// Server is one Redis server. Its methods fail the test if they cannot do what
// they say. They are for the test's own goroutine.
type Server struct {
	// Addr is host and port, the same after each restart. Dir is the server's
	// working directory, where its files are.
	Addr, Dir string

	t        testing.TB
	args     []string
	sentinel string // its configuration, if it is one
	cmd      *exec.Cmd
	exited   chan struct{}
	output   *tail
}

// Start starts a server and waits until it takes commands. It is killed when the
// test ends. Where there is no redis-server the test fails and says what to type.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := &Server{t: t, Dir: t.TempDir()}
	for _, o := range options {
		o(s)
	}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
	})
	for range 5 {
		s.Addr = freeAddr(t)
		if s.start() {
			return s
		}
		// Somebody else may have got the port in between.
		if !strings.Contains(s.output.String(), "bind") {
			break
		}
	}
	t.Fatalf("redis-server did not start:\n%s", s.output)
	return nil
}

// URL is the server's address as a redis:// URL, without credentials.
func (s *Server) URL() string {
	return (&url.URL{Scheme: "redis", Host: s.Addr}).String()
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	s.t.Helper()
	s.running()
	s.kill()
}

// Stop asks the server to end, as an operator does, and waits for it.
func (s *Server) Stop() {
	s.t.Helper()
	s.running()
	s.signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		s.cmd = nil
	case <-time.After(patience):
		s.t.Fatalf("redis-server does not stop:\n%s", s.output)
	}
}

// Restart starts the server again after Kill or Stop, at the same address and in
// the same directory.
func (s *Server) Restart() {
	s.t.Helper()
	if s.cmd != nil {
		s.t.Fatal("redistest: the server is still running")
	}
	if !s.start() {
		s.t.Fatalf("redis-server did not start again:\n%s", s.output)
	}
}

// Freeze makes the server hang: connections stay open and are accepted by the
// system, nothing is answered. Thaw ends it.
func (s *Server) Freeze() {
	s.t.Helper()
	s.running()
	s.signal(syscall.SIGSTOP)
}

// Thaw ends a Freeze.
func (s *Server) Thaw() {
	s.t.Helper()
	s.running()
	s.signal(syscall.SIGCONT)
}

// Do sends one command and returns the answer: a status or bulk string, an integer
// in decimal, the items of an array one a line, "" for nil. An error answer fails
// the test.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	answer, err := do(s.Addr, args)
	if err != nil {
		s.t.Fatalf("redis: %s: %v", strings.Join(args, " "), err)
	}
	return answer
}

func (s *Server) running() {
	s.t.Helper()
	if s.cmd == nil {
		s.t.Fatal("redistest: the server is not running")
	}
}

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("redistest: signal %v: %v", sig, err)
	}
}

func (s *Server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// start runs the server and says whether it became ready.
func (s *Server) start() bool {
	s.t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatal("this test needs redis-server; on Debian and Ubuntu type: sudo apt-get install -y redis-server")
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{
		"--bind", host, "--port", port, "--dir", s.Dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "",
	}, s.args...)
	if s.sentinel != "" {
		// A sentinel writes to its configuration.
		name := filepath.Join(s.Dir, "sentinel.conf")
		config := fmt.Sprintf("bind %s\nport %s\ndir %s\n%s", host, port, s.Dir, s.sentinel)
		if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
			s.t.Fatal(err)
		}
		args = []string{name, "--sentinel"}
	}

	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	leash(cmd)
	s.output = new(tail)

	output := s.output
	started, ready, exited := make(chan error), make(chan bool, 1), make(chan struct{})
	go func() {
		// The leash hangs on this thread: it must last as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		if started <- err; err != nil {
			return
		}
		lines := bufio.NewScanner(io.TeeReader(out, output))
		for lines.Scan() {
			// Servers and sentinels say different words.
			if l := lines.Text(); strings.Contains(l, "Ready to accept connections") || strings.Contains(l, "Sentinel ID is") {
				select {
				case ready <- true:
				default:
				}
			}
		}
		cmd.Wait()
		select {
		case ready <- false:
		default:
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}

	s.cmd, s.exited = cmd, exited
	select {
	case ok := <-ready:
		if !ok {
			s.cmd = nil
		}
		return ok
	case <-time.After(patience):
		s.kill()
		return false
	}
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr)
		l.Close()
		// A cluster's bus takes the port 10000 above.
		if addr.Port+10000 < 1<<16 {
			return addr.String()
		}
	}
	t.Fatal("redistest: no free port")
	return ""
}

// do speaks just enough of Redis's protocol for Do, so that this package needs no
// client and depends on none.
func do(addr string, args []string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))

	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		return "", err
	}
	return readAnswer(bufio.NewReader(conn))
}

func readAnswer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	kind, line := line[0], line[1:]
	switch kind {
	case '+', ':':
		return line, nil
	case '-':
		return "", fmt.Errorf("%s", line)
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 0 {
		return "", err
	}
	if kind == '$' {
		text := make([]byte, n+2)
		_, err := io.ReadFull(r, text)
		return string(text[:n]), err
	}
	items := make([]string, n)
	for i := range items {
		if items[i], err = readAnswer(r); err != nil {
			return "", err
		}
	}
	return strings.Join(items, "\n"), nil
}

// Files copies the server's files, for Restore. The server must not be running.
func (s *Server) Files() map[string][]byte {
	s.t.Helper()
	if s.cmd != nil {
		s.t.Fatal("redistest: the server's files are in use")
	}
	files := make(map[string][]byte)
	err := filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.Dir, path)
		if err != nil {
			return err
		}
		files[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// Restore puts the server's files back to what they were, as restoring a backup
// or a failover that lost writes does. The server must not be running.
func (s *Server) Restore(files map[string][]byte) {
	s.t.Helper()
	s.Files()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.Dir, e.Name())); err != nil {
			s.t.Fatal(err)
		}
	}
	for name, content := range files {
		path := filepath.Join(s.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// tail keeps what a server says.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b.Len() > 1<<16 {
		t.b.Reset()
	}
	return t.b.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
