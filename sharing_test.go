package floway

import (
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
