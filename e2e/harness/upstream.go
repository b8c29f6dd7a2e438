package harness

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/floway/floway/e2e/mock"
)

// Upstream is a mock upstream that runs.
type Upstream struct {
	mock.Control
	// LedgerFile has its ledger, a line of JSON for each request.
	LedgerFile string
	proc       *process
}

// StartOpenAI starts a mock of OpenAI's API.
func StartOpenAI(t testing.TB) *Upstream { t.Helper(); return startUpstream(t, "mockopenai") }

// StartVendor starts a mock of a compatible service: see mockopenai.Vendors.
func StartVendor(t testing.TB, vendor string) *Upstream {
	t.Helper()
	return startUpstream(t, "mockopenai", "-vendor", vendor)
}

// StartAnthropic starts a mock of Anthropic's API.
func StartAnthropic(t testing.TB) *Upstream { t.Helper(); return startUpstream(t, "mockanthropic") }

// StartGemini starts a mock of Google's Gemini API.
func StartGemini(t testing.TB) *Upstream { t.Helper(); return startUpstream(t, "mockgemini") }

// StartCopilot starts a mock of GitHub Copilot and of GitHub.
func StartCopilot(t testing.TB) *Upstream { t.Helper(); return startUpstream(t, "mockcopilot") }

// StartAzure starts a mock of a resource of Azure's.
func StartAzure(t testing.TB) *Upstream { t.Helper(); return startUpstream(t, "mockazure") }

func startUpstream(t testing.TB, name string, args ...string) *Upstream {
	t.Helper()
	path, err := mocks[name]()
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{LedgerFile: filepath.Join(t.TempDir(), "ledger")}
	r, w := io.Pipe()
	u.proc, err = launch(name, &logbook{}, w, nil, path, append(args, "-ledger", u.LedgerFile)...)
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
		t.Fatalf("%s ended: %v\n%s", name, u.proc.err, u.proc.log.tail())
	case <-time.After(patience):
		t.Fatalf("%s does not say where it listens", name)
	}
	return u
}

// Quiet waits until the upstream serves nothing, and returns its ledger.
func (u *Upstream) Quiet(t testing.TB) []mock.Entry {
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
func (u *Upstream) Last(t testing.TB) mock.Request {
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
