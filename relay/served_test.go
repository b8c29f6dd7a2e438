package relay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/floway/floway/access"
	"github.com/floway/floway/keypool"
)

// Who serves what, and in which dialects, is what requests find.
func TestServices(t *testing.T) {
	r := mapping(t, func(s *setup) {
		s.upstreamOf("openai", "chat", url1+"/v1", "a", withAlias("nice", "gpt-5"), withCatalog("gpt-5", "both"))
		s.upstreamOf("anthropic", "claude", url1, "b", withModels("claude-*", "own"), withCatalog("claude-x", "hidden"))
		s.upstreamOf("gemini", "gemini", url1, "c", withCatalog("both"))
		s.upstreamOf("openai", "wide", url1+"/v1", "d", withModels("*y"), withCatalog("org/y"))
		s.route("smart", keypool.First, RouteTarget{Upstream: "claude", Model: "claude-x"}, RouteTarget{Model: "nice"}, RouteTarget{Upstream: "chat", Model: "gone"})
	})
	var got []string
	for _, s := range r.Services() {
		native := strings.Join(s.Native, " ")
		if strings.HasPrefix(native, "chat completions") {
			native = "all of chat's"
		}
		got = append(got, fmt.Sprintf("%s: %s %s by %s, %s; %s", s.Model, s.Upstream, s.Sent, s.By, native, strings.Join(s.Translated, " ")))
	}
	want := []string{
		"smart: claude claude-x by route, messages; chat responses gemini",
		"smart: chat gpt-5 by route, all of chat's; messages gemini",
		"smart: chat gone by route, all of chat's; messages gemini",
		"nice: chat gpt-5 by declared, all of chat's; messages gemini",
		"gpt-5: chat gpt-5 by listed, all of chat's; messages gemini",
		"both: chat both by listed, all of chat's; messages gemini",
		"both: gemini both by listed, gemini; chat embeddings responses messages",
		"own: claude own by declared, messages; chat responses gemini",
		"claude-x: claude claude-x by declared, messages; chat responses gemini",
		"org/y: chat org/y by unclaimed, all of chat's; messages gemini",
		"org/y: gemini org/y by unclaimed, gemini; chat embeddings responses messages",
		"org/y: wide org/y by unclaimed, all of chat's; messages gemini",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range r.Services() {
		if r.List(&access.Client{Models: access.Patterns{access.Pattern(s.Model)}}) == nil {
			t.Errorf("%s is not listed", s.Model)
		}
	}
}
