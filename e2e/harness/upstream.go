package harness

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/floway/floway/e2e/mockopenai"
)

// Upstream is a mock upstream that runs.
type Upstream struct {
	mockopenai.Control
	// LedgerFile has its ledger, a line of JSON for each request.
	LedgerFile string
	proc       *process
}

// StartOpenAI starts a mock of OpenAI's API.
func StartOpenAI(t testing.TB) *Upstream {
	t.Helper()
	path, err := mockOpenAI()
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{LedgerFile: filepath.Join(t.TempDir(), "ledger")}
	r, w := io.Pipe()
	u.proc, err = launch("mockopenai", &logbook{}, w, nil, path, "-ledger", u.LedgerFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.proc.signal(syscall.SIGTERM)
		if t.Failed() && u.proc.log.String() != "" {
			t.Logf("the mock's log:\n%s", u.proc.log.tail())
		}
	})
	address := make(chan string, 1)
	go func() {
		line := bufio.NewScanner(r)
		if line.Scan() {
			address <- line.Text()
		}
		io.Copy(io.Discard, r)
	}()
	select {
	case a := <-address:
		u.URL = "http://" + a
	case <-u.proc.done:
		t.Fatalf("mockopenai ended: %v\n%s", u.proc.err, u.proc.log.tail())
	case <-time.After(patience):
		t.Fatal("mockopenai does not say where it listens")
	}
	return u
}

// Quiet waits until the upstream serves nothing, and returns its ledger.
func (u *Upstream) Quiet(t testing.TB) []mockopenai.Entry {
	t.Helper()
	Eventually(t, func() error {
		st, err := u.Stats()
		if err == nil && st.Open > 0 {
			err = fmt.Errorf("the upstream still serves %d requests", st.Open)
		}
		return err
	})
	entries, err := u.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// Clear waits until the upstream serves nothing, and empties its ledger and its
// list of requests.
func (u *Upstream) Clear(t testing.TB) {
	t.Helper()
	u.Quiet(t)
	if err := u.Forget(); err != nil {
		t.Fatal(err)
	}
}

// Last returns the last request that the upstream received, as it came.
func (u *Upstream) Last(t testing.TB) mockopenai.Request {
	t.Helper()
	seen, err := u.Requests()
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 {
		t.Fatal("the upstream received nothing")
	}
	return seen[len(seen)-1]
}
