package relay

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
)

// A credential that cannot be made ready says whose fault that is: the key rests,
// the next one serves, and nothing is sent for it.
func TestCredentialErrors(t *testing.T) {
	until := newClock().Now().Add(time.Hour)
	for _, c := range []struct {
		err   provider.CredentialError
		state string
		alone string // what the client hears where there is no other key
		code  int
	}{
		{provider.CredentialError{Meaning: provider.BadCredential, Reason: "not signed in"}, "a1 invalid, a2 ok", "its operator has to sign in", 502},
		{provider.CredentialError{Meaning: provider.QuotaSpent, Reason: "spent", Until: until}, "a1 exhausted, a2 ok", "over a limit", 429},
		{provider.CredentialError{Meaning: provider.AccountLimit, Reason: "slow down", Until: until}, "a1 limited, a2 ok", "over a limit", 429},
		{provider.CredentialError{Reason: "the token service is away"}, "a1 ok, a2 ok", "authenticates the gateway", 502},
	} {
		s := newSetup(t)
		m := newMock(t)
		a := s.upstream("a", m.URL, "a1 a2")
		a.Credentials[0].Set(brokenToken{&c.err})
		g := s.start()
		g.chat().wants(t, 200, "hi")
		if got := states(a); got != c.state || m.keys() != "a2" {
			t.Errorf("%s: %s after %s", c.err.Reason, got, m.keys())
		}
		if k := a.Pool.States()[0]; c.state != "a1 ok, a2 ok" && (k.Reason != c.err.Reason || !c.err.Until.IsZero() && !k.Until.Equal(until)) {
			t.Errorf("%+v", k)
		}
		wantIdle(t, a)

		s = newSetup(t)
		s.config.Retries = 0
		a = s.upstream("a", m.URL, "a1")
		a.Credentials[0].Set(brokenToken{&c.err})
		s.start().chat().wants(t, c.code, c.alone)
	}
}

type brokenToken struct{ err error }

func (b brokenToken) Authorize(*http.Request) error { return b.err }
func (brokenToken) Renew(http.Header) bool          { return false }

// An account may have an address of its own, tells when its quota begins anew, and
// learns from the headers of answers.
func TestAccounts(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", "http://nowhere.invalid", "a1 a2", withPolicy(keypool.First))
	reset := s.clock.Now().Add(20 * 24 * time.Hour)
	first := &movedAccount{Credential: a.Credentials[0].current(), to: m.URL, reset: reset}
	second := &movedAccount{Credential: a.Credentials[1].current(), to: m.URL}
	a.Credentials[0].Set(first)
	a.Credentials[1].Set(second)
	m.on("a1", fails(402, "quota_exceeded", "Retry-After", "30", "X-Left", "0"))
	m.on("a2", says(200, chatAnswer, "X-Left", "7"))
	g := s.start()
	g.chat().wants(t, 200, "hi")
	if got := states(a); got != "a1 exhausted, a2 ok" || !a.Pool.States()[0].Until.Equal(reset) {
		t.Errorf("%s, until %s", got, a.Pool.States()[0].Until)
	}
	if first.left != "0" || second.left != "7" {
		t.Errorf("observed %q and %q", first.left, second.left)
	}
	// Where another quota has something left it is about this model alone.
	if err := a.Pool.Reset(""); err != nil {
		t.Fatal(err)
	}
	first.rest = true
	m.on("a1", fails(402, "quota_exceeded"))
	g.chat().wants(t, 200, "hi")
	g.chat().wants(t, 200, "hi")
	if k := a.Pool.States()[0]; k.State != keypool.StateOK || len(k.Models) != 1 || k.Models[0].Model != "gpt-5" || k.Models[0].State != keypool.StateExhausted || !k.Models[0].Until.Equal(reset) {
		t.Errorf("%+v", k)
	}
	if got := m.keys(); got != "a1 a2 a1 a2 a2" {
		t.Error(got)
	}
	g.post("/v1/chat/completions", `{"model":"other","messages":[]}`).wants(t, 200, "hi")
	if got := m.keys(); got != "a1 a2 a1 a2 a2 a1" {
		t.Error(got)
	}
	if _, err := a.Check(t.Context(), 1); err == nil || second.left != "" {
		t.Errorf("%v, observed %q", err, second.left) // the mock's answer is no list, and has no such header
	}
}

type movedAccount struct {
	provider.Credential
	to, left string
	reset    time.Time
	rest     bool
}

func (m *movedAccount) Authorize(req *http.Request) error {
	to := *req.URL
	to.Host, req.Host = strings.TrimPrefix(m.to, "http://"), ""
	req.URL = &to
	return m.Credential.Authorize(req)
}

func (m *movedAccount) Forget()                      {}
func (m *movedAccount) Observe(h http.Header)        { m.left = h.Get("X-Left") }
func (m *movedAccount) Spent() (time.Time, bool)     { return m.reset, m.rest }
func (m *movedAccount) State() provider.AccountState { return provider.AccountState{} }

// A body is fitted to the service that it goes to, and to no other; what the
// provider says of it in the header yields to header_up.
func TestTailoredBodies(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.config.Retries = 5
	s.upstream("plain", m.URL, "p1", withModels("gpt-5"))
	b := s.upstream("fitted", m.URL, "f1 f2", withModels("gpt-5"), func(u *Upstream, _ *keypool.Config) { u.Provider = fitting{u.Provider} })
	s.upstream("last", m.URL, "l1", withModels("gpt-5"))
	b.EditHeader = func(_ *http.Request, h http.Header) { h.Set("X-Edited", h.Get("X-Last")+"!") }
	for _, key := range []string{"p1", "f1", "f2"} {
		m.on(key, fails(500, ""))
	}
	g := s.start()
	const body = `{"model":"gpt-5","messages":["hi"]}`
	if b.sent("public-gpt-5") != "gpt-5" || b.sent("gpt-5") != "gpt-5" {
		t.Error("the upstream's own names are not asked for")
	}
	g.post("/v1/chat/completions", body).wants(t, 200, "hi")
	want := map[string]string{"p1": body, "f1": `{"fit":1,"model":"gpt-5","messages":["hi"]}`, "l1": body}
	want["f2"] = want["f1"]
	calls := m.seen()
	if m.keys() != "p1 f1 f2 l1" {
		t.Error(m.keys())
	}
	for _, call := range calls {
		if call.body != want[call.key] {
			t.Errorf("%s got %s", call.key, call.body)
		}
		last, edited := call.header.Get("X-Last"), call.header.Get("X-Edited")
		if fitted := call.key[0] == 'f'; fitted != (last == "chat 43") || fitted != (edited == "chat 43!") {
			t.Errorf("%s got the header %v", call.key, call.header)
		}
	}
}

// fitting is a provider with wishes.
type fitting struct{ provider.Upstream }

func (fitting) OwnName(name string) string { return strings.TrimPrefix(name, "public-") }

func (fitting) Fit(_ dialect.Operation, body []byte) []byte {
	return append([]byte(`{"fit":1,`), body[1:]...)
}

func (fitting) Describe(op dialect.Operation, body []byte, h http.Header) {
	h.Set("X-Last", fmt.Sprint(op, " ", len(body)))
}

// A provider that decides by its list hears of each that is fetched, and of the
// last one when it is made anew.
func TestLearners(t *testing.T) {
	s := newSetup(t)
	var learned []string
	learn := func(u *Upstream, _ *keypool.Config) { u.Provider = learning{u.Provider, &learned} }
	u := s.upstream("a", "http://a.example", "a1", learn, withTransport(func(*http.Request) (*http.Response, error) {
		return respond(200, "application/json", readCloser(`{"data":[{"id":"one"},{"id":"two"}]}`)), nil
	}))
	u.Catalog = new(Catalog)
	r, _, _ := s.make()
	if len(learned) > 0 {
		t.Errorf("it heard of a list that nobody has: %q", learned)
	}
	if err := r.fetchCatalog(context.Background(), u); err != nil {
		t.Fatal(err)
	}
	if u.Catalog.find("two").ID != "two" || u.Catalog.find("three").ID != "" {
		t.Error("models are not found")
	}
	if _, err := New(r.Config); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(learned, " "); got != "one two one two" {
		t.Error(got)
	}
}

type learning struct {
	provider.Upstream
	learned *[]string
}

func (l learning) Learn(models []provider.Model) {
	for _, m := range models {
		*l.learned = append(*l.learned, m.ID)
	}
}

// Whoever has reason to think that the list has changed need not wait for it, and
// header_up is heeded for lists as for requests.
func TestRediscover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		var seen []string
		u := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
			seen = append(seen, req.Header.Get("X-Edited"))
			return respond(200, "application/json", readCloser(`{"data":[{"id":"one"}]}`)), nil
		}))
		u.Catalog = new(Catalog)
		u.EditHeader = func(_ *http.Request, h http.Header) { h.Set("X-Edited", "yes") }
		r, _, _ := s.make()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Discover(ctx)
		}()
		synctest.Wait()
		u.Rediscover()
		u.Rediscover()
		synctest.Wait()
		u.Rediscover()
		synctest.Wait()
		if n := len(seen); n < 3 || n > 4 || seen[0] != "yes" || seen[n-1] != "yes" {
			t.Errorf("asked with %q", seen)
		}
		cancel()
		<-done
	})
}
