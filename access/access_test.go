package access

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"gpt-5", "gpt-5", true},
		{"gpt-5", "gpt-5-mini", false},
		{"gpt-5", "GPT-5", false},
		{"*", "", true},
		{"*", "meta-llama/Llama-4", true},
		{"gpt-*", "gpt-", true},
		{"gpt-*", "gp", false},
		{"*-mini", "gpt-5-mini", true},
		{"*-mini", "-min", false},
		{"a*b", "ab", true},
		{"a*a", "a", false},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "aXcYb", false},
		{"*a*", "bab", true},
		{"a**b", "ab", true},
		{"ab*ba", "aba", false},
		{"[ab]?", "[ab]?", true},
		{"[ab]?", "a1", false},
	} {
		if got := Pattern(tt.pattern).Match(tt.name); got != tt.want {
			t.Errorf("%q matches %q: %v", tt.pattern, tt.name, got)
		}
	}
}

func TestPatternIsNotExponential(t *testing.T) {
	p := Pattern(strings.Repeat("a*", 500) + "b")
	if p.Match(strings.Repeat("a", 5000)) {
		t.Error("it matches without the last letter")
	}
}

func TestTag(t *testing.T) {
	c := &Client{Name: "alice", Group: "team", Groups: Patterns{"team", "web-*"}}
	for _, tt := range []struct {
		header, want string
		err          error
	}{
		{"", "team", nil},
		{" team ", "team", nil},
		{"web-shop", "web-shop", nil},
		{"other-team", "", ErrGroup},
		{"web shop", "", ErrGroupForm},
		{strings.Repeat("x", 65), "", ErrGroupForm},
		{"web-é", "", ErrGroupForm},
	} {
		got, err := c.Tag(tt.header, now)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%q: %q, %v", tt.header, got, err)
		}
	}
}

func TestTagBoundsGroupsADay(t *testing.T) {
	c := &Client{Name: "alice", Groups: Patterns{"*", "spelled"}}
	tag := func(group string, at time.Time) string {
		t.Helper()
		got, err := c.Tag(group, at)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for i := range maxGroups {
		if g := fmt.Sprintf("g%d", i); tag(g, now) != g {
			t.Fatalf("group %d is booked under another name", i)
		}
	}
	if got := tag("one-more", now); got != OtherGroup {
		t.Errorf("beyond the bound: %q", got)
	}
	if got := tag("g7", now); got != "g7" {
		t.Errorf("a known one: %q", got)
	}
	if got := tag("spelled", now); got != "spelled" {
		t.Errorf("one that the file spells: %q", got)
	}
	if got := tag("one-more", now.Add(24*time.Hour)); got != "one-more" {
		t.Errorf("on the next day: %q", got)
	}
}

func TestIdentify(t *testing.T) {
	cs := NewClients()
	alice, bob := &Client{Name: "alice"}, &Client{Name: "bob", Expires: now.Add(-time.Second)}
	guest := &Client{Name: "guest"}
	for _, err := range []error{
		cs.Add(alice, DigestOf("sk-alice-1"), DigestOf("sk-alice-2")), cs.Add(bob, DigestOf("sk-bob-0001")), cs.Add(guest),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	many := h()
	for i := range 20 {
		many.Add("X-Api-Key", fmt.Sprintf("wrong-%d", i))
	}
	many.Add("X-Api-Key", "sk-alice-1")
	for _, tt := range []struct {
		name   string
		header http.Header
		query  string
		want   *Client
		err    error
	}{
		{"nothing", h(), "", nil, ErrNoKey},
		{"bearer", h("Authorization", "Bearer sk-alice-1"), "", alice, nil},
		{"bearer in lower case, blanks", h("Authorization", "bearer   sk-alice-2 "), "", alice, nil},
		{"another scheme", h("Authorization", "Basic sk-alice-1"), "", nil, ErrNoKey},
		{"x-api-key", h("X-Api-Key", "sk-alice-1"), "", alice, nil},
		{"api-key", h("Api-Key", "sk-alice-1"), "", alice, nil},
		{"x-goog-api-key", h("X-Goog-Api-Key", "sk-alice-1"), "", alice, nil},
		{"query", h(), "sk-alice-1", alice, nil},
		{"blank ones are skipped", h("Authorization", "Bearer ", "X-Api-Key", "", "Api-Key", "sk-alice-1"), "", alice, nil},
		{"the first valid one wins", h("Authorization", "Bearer wrong-key", "X-Api-Key", "sk-alice-1"), "", alice, nil},
		{"unknown", h("X-Api-Key", "sk-nobody"), "", nil, ErrUnknownKey},
		{"expired", h("X-Api-Key", "sk-bob-0001"), "", nil, ErrExpired},
		{"expired among unknown ones", h("Authorization", "Bearer wrong-key", "X-Api-Key", "sk-bob-0001"), "", nil, ErrExpired},
		{"no more than a few are looked up", many, "", nil, ErrUnknownKey},
	} {
		got, err := cs.Identify(tt.header, tt.query, now)
		if got != tt.want || err != tt.err {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}

	if err := cs.SetAnonymous("guest"); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]*Client{"": guest, "sk-nobody": guest, "sk-alice-1": alice, "sk-bob-0001": nil} {
		if got, _ := cs.Identify(h("X-Api-Key", key), "", now); got != want {
			t.Errorf("with anonymous, %q: %v", key, got)
		}
	}
}

func TestClientsRefuse(t *testing.T) {
	cs := NewClients()
	key := DigestOf("sk-shared-key")
	if err := cs.Add(&Client{Name: "alice"}, key); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"same name":     cs.Add(&Client{Name: "alice"}),
		"same key":      cs.Add(&Client{Name: "bob"}, key),
		"key twice":     cs.Add(&Client{Name: "carol"}, DigestOf("sk-c"), DigestOf("sk-c")),
		"unknown guest": cs.SetAnonymous("nobody"),
		"guest's keys":  cs.SetAnonymous("alice"),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		if err != nil && strings.Contains(err.Error(), "sk-") {
			t.Errorf("%s: the error repeats a key: %v", what, err)
		}
	}
}

func TestMay(t *testing.T) {
	c := &Client{Models: Patterns{"gpt-*"}, Upstreams: []string{"eu"}}
	if !c.MayUse("eu") || c.MayUse("us") || !new(Client).MayUse("us") {
		t.Error("upstreams")
	}
	if !c.MayAsk("gpt-5", "gpt-5") || !c.MayAsk("eu/gpt-5", "gpt-5") || c.MayAsk("o9", "o9") || !new(Client).MayAsk("x", "x") {
		t.Error("models")
	}
}

func TestParseDigest(t *testing.T) {
	d := DigestOf("sk-key")
	got, err := ParseDigest(fmt.Sprintf("%x", d))
	if err != nil || got != d {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "abc", strings.Repeat("g", 64), strings.Repeat("a", 66)} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}
