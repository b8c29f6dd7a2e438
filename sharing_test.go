package floway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage/redisstore"
	"github.com/floway/floway/usage/redisstore/redistest"
)

// What a vendor said of a key at one instance is known at another, and so is that
// the key is well again; what only one instance has seen stays with it.
func TestInstancesShareWhatVendorsSay(t *testing.T) {
	server := redistest.Start(t)
	instance := func() (*living, *keypool.Pool, *redisstore.Store) {
		store, err := redisstore.New(redisstore.Config{URL: server.URL()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		l := &living{notices: make(chan keypool.Notice, noticeQueue)}
		l.health = keypool.NewHealth(l.tell)
		return l, keypool.New(keypool.Config{
			Name: "up", Health: l.health,
			Keys: []keypool.Key{{Label: "a", ID: "fingerprint-a"}, {Label: "b", ID: "fingerprint-b"}},
		}), store
	}
	here, mine, store := instance()
	there, theirs, theirStore := instance()

	state := func(p *keypool.Pool, key int) keypool.State { return p.States()[key].State }
	report := func(v keypool.Verdict) {
		t.Helper()
		lease, err := mine.Take(&keypool.Want{Prefer: "fingerprint-a", Last: true})
		if err != nil {
			t.Fatal(err)
		}
		if lease.Label() != "a" {
			t.Fatalf("got key %s", lease.Label())
		}
		lease.Report(v)
		lease.Release()
	}
	exchange := func(since string) string {
		t.Helper()
		for len(here.notices) > 0 {
			if err := tellNotice(t.Context(), store, <-here.notices); err != nil {
				t.Fatal(err)
			}
		}
		version, err := there.listen(t.Context(), theirStore, since)
		if err != nil {
			t.Fatal(err)
		}
		return version
	}

	// Failures are an instance's own affair.
	for i := range 3 {
		report(keypool.Verdict{Class: keypool.Failed, Request: uint64(i + 1)})
	}
	if len(here.notices) != 0 {
		t.Errorf("%d notices of failures", len(here.notices))
	}
	report(keypool.Verdict{Class: keypool.Served})

	until := time.Now().Add(time.Hour).Truncate(time.Second)
	report(keypool.Verdict{Class: keypool.Exhausted, Until: until, Reason: "no balance"})
	version := exchange("")
	got := theirs.States()[0]
	if got.State != keypool.StateExhausted || !got.Until.Equal(until) || got.Reason != "no balance" {
		t.Errorf("the other instance knows %+v", got)
	}
	if s := state(theirs, 1); s != keypool.StateOK {
		t.Errorf("the other key is %s", s)
	}
	if again := exchange(version); again != version {
		t.Errorf("nothing new was said, and the version went from %s to %s", version, again)
	}
	if len(there.notices) != 0 {
		t.Error("what came in is passed on again")
	}

	if err := mine.Reset("a"); err != nil {
		t.Fatal(err)
	}
	exchange(version)
	if s := state(theirs, 0); s != keypool.StateOK {
		t.Errorf("after the key came back: %s", s)
	}
}

// A key that is refused at one instance is not asked at another, and one that is
// reset there serves again at both.
func TestInstancesShareKeys(t *testing.T) {
	server := redistest.Start(t)
	u := newUpstream(t)
	well := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(completion))
	}
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer sk-upstream-0123456789" {
			refusing(401, "invalid_api_key")(w, r)
			return
		}
		well(w, r)
	})
	s := site{block: strings.Replace(u.block("lb_policy first"), "as main", "as main\nkey sk-upstream-second-one as spare", 1) +
		alice + "usage redis " + server.URL() + " {\nlog {dir}\n}"}
	here, there := launch(t, ownGateway(t, t.TempDir()), s), launch(t, ownGateway(t, t.TempDir()), s)
	shows := func(p *process, state string) {
		t.Helper()
		eventually(t, func() error {
			if a := p.ask("GET", "/floway/upstreams"); !strings.Contains(a.body, `"label":"main","state":"`+state+`"`) {
				return fmt.Errorf("want main %s: %s", state, a.body)
			}
			return nil
		})
	}
	here.chat(hello, asAlice)
	shows(there, "invalid")
	u.calls()
	there.chat(hello, asAlice)
	if n := len(u.calls()); n != 1 {
		t.Errorf("%d calls: a key was asked that another instance knows to be refused", n)
	}
	u.answerWith(well)
	if a := there.ask("POST", "/floway/upstreams/reset?upstream=openai&key=main"); a.status != 200 {
		t.Fatalf("reset: %d %s", a.status, a.body)
	}
	shows(here, "ok")
	here.chat(hello, asAlice)
	if calls := u.calls(); len(calls) != 1 || calls[0].header.Get("Authorization") != "Bearer sk-upstream-0123456789" {
		t.Errorf("after the reset: %+v", calls)
	}
}
