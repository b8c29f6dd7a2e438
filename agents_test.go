package floway

import (
	"strings"
	"testing"
)

// What Claude Code and Codex send first, with the headers that they were seen to
// send: what is not an API's belongs to the site, what is is served.
func TestAgentsStartUp(t *testing.T) {
	claude := []string{
		"User-Agent: claude-cli/2.1.197 (external, cli)", "X-App: cli", "X-Claude-Code-Session-Id: 0b8a6b1e-1f0e-4b5e-9a53-6d0e7a2b1c11",
		"Accept: application/json", "Accept-Encoding: gzip, deflate, br, zstd", "Anthropic-Version: 2023-06-01", "Anthropic-Dangerous-Direct-Browser-Access: true",
		"Anthropic-Beta: claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,context-management-2025-06-27,prompt-caching-scope-2026-01-05,mid-conversation-system-2026-04-07,effort-2025-11-24",
		"X-Stainless-Arch: x64", "X-Stainless-Lang: js", "X-Stainless-Retry-Count: 0", "X-Stainless-Timeout: 600",
	}
	codex := []string{
		"User-Agent: codex_exec/0.169.0 (Linux)", "Originator: codex_exec", "Accept: text/event-stream",
		"Session-Id: 019ab", "Thread-Id: 019ab", "X-Client-Request-Id: 019ab", "X-Codex-Turn-Metadata: {\"turn\":\"" + strings.Repeat("x", 1000) + "\"}",
	}
	with := func(header []string, more ...string) []string { return append(more, header...) }
	const message = `{"model":"demo-small","max_tokens":32000,"stream":true,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"hi"},{"role":"system","content":"Be brief."}],"metadata":{"user_id":"{}"},"output_config":{"effort":"high"}}`
	const response = `{"model":"demo-small","stream":true,"store":false,"include":["reasoning.encrypted_content"],"input":[{"type":"message","role":"developer","content":[{"type":"input_text","text":"Be brief."}]},{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}]}`

	g := start(t, site{after: "respond 404", block: "upstream demo\n" + alice})
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		part                     string
	}{
		{"claude code looks whether somebody is there", "HEAD", "/", "", claude, 404, ""},
		{"codex likewise", "HEAD", "/", "", codex, 404, ""},
		{"claude code asks", "POST", "/v1/messages?beta=true", message, with(claude, "X-Api-Key: "+aliceKey), 200, "event: message_stop"},
		{"with a token instead of a key", "POST", "/v1/messages?beta=true", message, with(claude, asAlice), 200, "event: message_stop"},
		{"codex asks", "POST", "/v1/responses", response, with(codex, asAlice), 200, "event: response.completed"},
		{"claude code lists models", "GET", "/v1/models?limit=1000", "", with(claude, "X-Api-Key: "+aliceKey), 200, `"has_more":false`},
		{"without a key", "POST", "/v1/messages?beta=true", message, claude, 401, `"authentication_error"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := g.do(c.method, c.path, c.body, c.header...); a.status != c.status || !strings.Contains(a.body, c.part) {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		})
	}
	// A site without a handler behind floway's answers too.
	g = start(t, site{block: "upstream demo\n" + alice})
	if a := g.do("HEAD", "/", "", claude...); a.status != 200 || a.body != "" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}
