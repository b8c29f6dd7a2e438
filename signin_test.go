package floway

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/relay"
)

// drawer is a storage with one sign-in in it, or none.
type drawer struct {
	provider.Storage
	since time.Time
	err   error
}

func (d *drawer) Load(context.Context, string) ([]byte, error) {
	switch {
	case d.err != nil:
		return nil, d.err
	case d.since.IsZero():
		return nil, fs.ErrNotExist
	}
	return json.Marshal(map[string]any{"github_token": "ghu_mock_alice", "host": "github.com", "login": "alice", "since": d.since})
}

// forgetful counts how often it was told that its account has changed.
type forgetful struct {
	provider.Account
	n int
}

func (f *forgetful) Forget() { f.n++ }

// Sign-ins and sign-outs that other processes make are seen in the storage: the key
// is then as if nothing were known of it. What stays the same, or cannot be read,
// changes nothing.
func TestSeatsAreWatched(t *testing.T) {
	account := &forgetful{}
	credential := new(relay.Credential)
	credential.Set(account)
	pool := keypool.New(keypool.Config{Name: "copilot", Keys: []keypool.Key{{Label: "team", Weight: 1, ID: "x"}}})
	up := &relay.Upstream{Name: "copilot", Pool: pool, Credentials: []*relay.Credential{credential}}
	in := &drawer{}
	s := &seat{name: "team", upstream: up, label: "team", signIns: &provider.SignIns{Storage: in}}
	h := &Handler{logger: zap.NewNop(), seats: []*seat{s}}
	refuse := func() {
		lease, err := pool.Take(&keypool.Want{Last: true})
		if err != nil {
			t.Fatal(err)
		}
		lease.Report(keypool.Verdict{Class: keypool.Invalid, Reason: "not signed in"})
		lease.Release()
	}
	look := func(what string, first bool, renewed int, invalid bool) {
		t.Helper()
		h.lookAtSeat(t.Context(), s, first)
		if account.n != renewed || s.invalid() != invalid {
			t.Errorf("%s: renewed %d times, want %d; invalid %v", what, account.n, renewed, s.invalid())
		}
	}
	look("nobody has signed in", true, 0, false)
	refuse()
	look("nobody has signed in yet", false, 0, true)
	in.since = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	look("somebody has signed in", false, 1, false)
	look("nothing is new", false, 1, false)
	refuse()
	look("GitHub refuses the sign-in", false, 1, true)
	in.since = in.since.Add(time.Hour)
	look("signed in anew", false, 2, false)
	in.err = errors.New("the storage is away")
	look("the storage is away", false, 2, false)
	in.err, in.since = nil, time.Time{}
	look("signed out", false, 3, false)

	// A seat that was signed in all the time is left alone at the start, unless it was
	// refused before the first look.
	in.since = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s.known, s.since = false, time.Time{}
	look("at the start", true, 3, false)
	s.known, s.since = false, time.Time{}
	refuse()
	look("at the start, refused", true, 4, false)
}

// The command finds the host of a seat in any configuration.
func TestConfiguredHost(t *testing.T) {
	var config any
	if err := json.Unmarshal([]byte(`{"apps":{"http":{"servers":{"a":{"routes":[{"handle":[{"handler":"floway","upstreams":[
		{"provider":"openai","keys":[{"secret":"x"}],"options":{"host":["no"]}},
		{"provider":"copilot","keys":[{"secret":"signin:alice"}]},
		{"provider":"copilot","keys":[{"secret":"y"},{"secret":"signin:octo"}],"options":{"host":["octo.ghe.com"]}}]}]}]}}}}}`), &config); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"signin:octo": "octo.ghe.com", "signin:alice": "", "signin:none": ""} {
		if got := configuredHost(config, key); got != want {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// What is known of accounts is shown beside their keys.
func TestAccountsAreShown(t *testing.T) {
	reset := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	var b strings.Builder
	err := printUpstreams(&b, []upstreamReport{{Name: "copilot", Keys: []keyReport{{Label: "anna", State: "ok", Account: &accountReport{
		SignIn: "anna", Login: "octo", Trouble: "the storage takes no tokens",
		Quotas: []quotaReport{{Name: "chat", Unlimited: true}, {Name: "premium_interactions", Entitled: 300, Reset: &reset}, {Name: "spare", Entitled: 50, Left: 12.5, Overage: true}},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"quota premium interactions  spent", "0 of 300 left", clock(&reset), "without limit", "12.5 of 50 left, more may be used at a price", "the storage takes no tokens"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

// A server without a seat at Copilot answers questions about sign-ins all the same,
// and a sign-in that GitHub does not begin is an error in words.
func TestLoginRefusals(t *testing.T) {
	hub := newUpstream(t)
	hub.answerWith(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	g := start(t, site{block: "upstream demo\n" + alice})
	if a := g.ask("GET", "/floway/login/copilot"); a.status != 200 || !strings.Contains(a.body, `{"seats":[],"logins":[]}`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, c := range []struct {
		method, path string
		status       int
		part         string
	}{
		{"POST", "?name=anna&host=" + hub.URL, 502, "status 503, and no code"},
		{"POST", "?name=anna&host=http://hub.example", 502, "speaks without TLS"},
		{"POST", "?name=a%2Fb", 400, "1 to 32 of the characters"},
		{"POST", "", 400, "1 to 32 of the characters"},
		{"DELETE", "?name=anna", 404, "not signed in"},
		{"POST", "/cancel?name=anna", 404, "under way"},
		{"GET", "?nmae=anna", 400, "unknown parameter"},
		{"PUT", "?name=anna", 405, "use GET, POST or DELETE"},
	} {
		if a := g.ask(c.method, "/floway/login/copilot"+c.path); a.status != c.status || !strings.Contains(a.body, c.part) {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
}
