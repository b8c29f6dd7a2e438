package floway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests run the program itself: it is built once.

var program struct {
	sync.Once
	path string
	err  error
}

func caddyPath(t testing.TB) string {
	t.Helper()
	program.Do(func() {
		program.path = filepath.Join(os.Getenv("XDG_DATA_HOME"), "caddy-with-floway")
		out, err := exec.Command("go", "build", "-o", program.path, "./cmd/caddy").CombinedOutput()
		if err != nil {
			program.err = fmt.Errorf("go build ./cmd/caddy: %w: %s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

// caddyProgram runs the program to its end and returns what it printed.
func caddyProgram(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return caddyProgramWith(t, "", args...)
}

func caddyProgramWith(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	path := caddyPath(t) // building it is not timed
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func writeConfig(t testing.TB, caddyfile string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a server of its own.
type process struct {
	*gateway
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when it has ended
}

// launch starts a server and waits until it is ready or has ended.
func launch(t testing.TB, g *gateway, s site) *process {
	t.Helper()
	p := &process{gateway: g, out: new(output), done: make(chan struct{})}
	p.cmd = exec.Command(caddyPath(t), "run", "--config", writeConfig(t, g.caddyfile(s)))
	p.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir())
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	eventually(t, func() error {
		select {
		case <-p.done:
			return nil
		default:
		}
		if a, err := do("GET", "http://"+g.addr+"/floway/health", ""); err != nil || a.status != 200 {
			return fmt.Errorf("not ready: %v, %d: %s", err, a.status, p.out)
		}
		return nil
	})
	return p
}

// end asks the process to end, and waits until it has.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return errors.New("the process does not end")
	}
}

func ownGateway(t testing.TB, dir string) *gateway {
	return &gateway{t: t, addr: freeAddr(t), admin: freeAddr(t), dir: dir, logs: filepath.Join(t.TempDir(), "log")}
}

// A ledger belongs to one process; a second is told so, and the first is not
// harmed. At SIGTERM what was counted is delivered.
func TestTwoProcessesOneLedger(t *testing.T) {
	u := newUpstream(t)
	dir := t.TempDir()
	s := site{block: u.block() + alice}
	first := launch(t, ownGateway(t, dir), s)
	first.chat(hello, asAlice)
	second := launch(t, ownGateway(t, dir), s)
	select {
	case <-second.done:
	default:
		t.Fatal("a second process took the same ledger")
	}
	if second.cmd.ProcessState.ExitCode() == 0 {
		t.Error("the second process ended with success")
	}
	said := second.out.String() + second.logged()
	if !strings.Contains(said, dir) || !strings.Contains(said, "process") {
		t.Errorf("the second process said: %s", said)
	}
	first.chat(hello, asAlice)
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	if code := first.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, first.logged())
	}
	// A third finds the sums in the store before it has delivered anything.
	third := launch(t, ownGateway(t, dir), s)
	if r := third.usage("by=client"); r.Sum.Requests != 2 || r.Sum.Output != 10 {
		t.Errorf("%+v", r.Sum)
	}
	if a := third.ask("GET", "/floway/ledger"); strings.Contains(a.body, "unknown_reserves\":1") {
		t.Errorf("%s", a.body)
	}
	if err := third.end(); err != nil {
		t.Fatal(err)
	}
}
