package floway

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// openAIError checks that an answer has the form of OpenAI's errors and returns
// its code.
func openAIError(t *testing.T, a answer) string {
	t.Helper()
	var v struct {
		Error *struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || v.Error == nil || v.Error.Message == "" || v.Error.Type == "" {
		t.Fatalf("not an error as OpenAI has them: status %d, %q", a.status, a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id")
	}
	if v.Error.Code == nil {
		return ""
	}
	return *v.Error.Code
}

func zipped(n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for ; n > 0; n -= len(zeros) {
		z.Write(zeros[:min(n, len(zeros))])
	}
	z.Close()
	return b.String()
}

// Every bad request gets its status in OpenAI's form of errors, and the next good
// one is served as if nothing had been.
func TestBadRequests(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block("models gpt-5 o3") + alice + `
		client past {
			key sk-floway-past-0123456789
			expires 2020-01-01
		}
		client narrow {
			key sk-floway-narrow-0123456789
			models o3
		}`})
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		{"no key", "POST", chatPath, hello, nil, 401, ""},
		{"wrong key", "POST", chatPath, hello, []string{"Authorization: Bearer sk-nobody-0123456789"}, 401, "invalid_api_key"},
		{"expired key", "POST", chatPath, hello, []string{"Authorization: Bearer sk-floway-past-0123456789"}, 401, "invalid_api_key"},
		{"unknown model", "POST", chatPath, helloTo("gpt-17"), []string{asAlice}, 404, "model_not_found"},
		{"model not allowed", "POST", chatPath, hello, []string{"Authorization: Bearer sk-floway-narrow-0123456789"}, 404, "model_not_found"},
		{"empty body", "POST", chatPath, "", []string{asAlice}, 400, ""},
		{"not JSON", "POST", chatPath, "hello", []string{asAlice}, 400, ""},
		{"JSON without a model", "POST", chatPath, `{"messages":[]}`, []string{asAlice}, 400, ""},
		{"model of the wrong type", "POST", chatPath, `{"model":7,"messages":[]}`, []string{asAlice}, 400, ""},
		{"empty model", "POST", chatPath, `{"model":"","messages":[]}`, []string{asAlice}, 400, ""},
		{"65 MiB", "POST", chatPath, `{"model":"` + strings.Repeat("x", 65<<20), []string{asAlice}, 413, ""},
		{"gzip bomb", "POST", chatPath, zipped(80 << 20), []string{asAlice, "Content-Encoding: gzip"}, 413, ""},
		{"not gzip", "POST", chatPath, hello, []string{asAlice, "Content-Encoding: gzip"}, 400, ""},
		{"unknown path", "POST", "/v1/chat/completion", hello, []string{asAlice}, 404, ""},
		{"wrong method", "GET", chatPath, "", []string{asAlice}, 405, ""},
		{"wrong method with body", "PUT", chatPath, hello, []string{asAlice}, 405, ""},
		{"not offered", "POST", "/v1/files", hello, []string{asAlice}, 501, ""},
		{"bad group", "POST", chatPath, hello, []string{asAlice, "X-Floway-Group: a/b"}, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := g.do(c.method, c.path, c.body, c.header...)
			if a.status != c.status {
				t.Fatalf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			if code := openAIError(t, a); c.code != "" && code != c.code {
				t.Errorf("code %q, want %q: %s", code, c.code, a.body)
			}
			if c.status == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if c.status == 401 && a.header.Get("Www-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			if calls := u.calls(); len(calls) > 0 {
				t.Errorf("the upstream was asked: %+v", calls)
			}
			g.chat(hello, asAlice)
			u.calls()
		})
	}
	// Anthropic's clients understand what is wrong also where OpenAI has the same path.
	t.Run("models for Anthropic's clients", func(t *testing.T) {
		a := g.do("GET", "/v1/models", "", "Anthropic-Version: 2023-06-01")
		if a.status != 401 || !strings.HasPrefix(a.body, `{"type":"error","error":{"type":"authentication_error",`) || a.header.Get("Request-Id") == "" {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("broken chunking", func(t *testing.T) {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mod\r\nzz\r\n", chatPath, g.addr, asAlice)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != 400 || !res.Close {
			t.Errorf("status %d, close %v", res.StatusCode, res.Close)
		}
		openAIError(t, answer{res.StatusCode, res.Header, string(body)})
		g.chat(hello, asAlice)
	})
}

// A client is known by its key in every header that SDKs use.
func TestWhereClientKeysMayStand(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block() + alice})
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"bearer", []string{asAlice}, 200},
		{"bearer in small letters", []string{"Authorization: bearer " + aliceKey}, 200},
		{"x-api-key", []string{"x-api-key: " + aliceKey}, 200},
		{"api-key", []string{"api-key: " + aliceKey}, 200},
		{"x-goog-api-key", []string{"x-goog-api-key: " + aliceKey}, 200},
		{"blank ones first", []string{"Authorization: Bearer ", "x-api-key: ", "api-key: " + aliceKey}, 200},
		{"a wrong one first", []string{"Authorization: Bearer dummy", "x-api-key: " + aliceKey}, 200},
		{"basic", []string{"Authorization: Basic " + aliceKey}, 401},
		{"blank", []string{"Authorization: Bearer "}, 401},
		{"cookie", []string{"Cookie: key=" + aliceKey}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := g.do("POST", chatPath, hello, c.header...); a.status != c.status {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		})
	}
	if a := g.do("POST", chatPath+"?key="+aliceKey, hello); a.status != 401 {
		t.Errorf("key in the query of /v1: status %d", a.status)
	}
	if a := g.do("GET", "/v1beta/models?key="+aliceKey, ""); a.status != 200 {
		t.Errorf("key in the query of /v1beta: status %d: %s", a.status, a.body)
	}
	if a := g.do("GET", "/v1beta/models?key=wrong", ""); a.status != 401 || !strings.Contains(a.body, "UNAUTHENTICATED") {
		t.Errorf("wrong key on /v1beta: status %d: %s", a.status, a.body)
	}
}

// What a client says of itself stays here, and what header_up says goes upstream.
func TestWhatGoesUpstream(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block("header_up X-From {http.floway.client}:{http.request.method}", "header_up -OpenAI-Beta") + alice})
	g.chat(hello, asAlice, "x-api-key: "+bobKey, "api-key: "+bobKey, "x-goog-api-key: "+bobKey,
		"Cookie: session=MARKER", "X-Floway-Group: research", "X-Secret: MARKER", "OpenAI-Beta: assistants=v2",
		"X-Forwarded-For: 10.1.2.3", "Proxy-Authorization: Basic MARKER")
	calls := u.calls()
	if len(calls) != 1 {
		t.Fatalf("%d calls", len(calls))
	}
	h := calls[0].header
	for _, name := range []string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie", "X-Floway-Group", "X-Secret", "Openai-Beta", "X-Forwarded-For", "Proxy-Authorization"} {
		if v := h.Values(name); v != nil {
			t.Errorf("%s went upstream: %q", name, v)
		}
	}
	if got := h.Get("Authorization"); got != "Bearer sk-upstream-0123456789" {
		t.Errorf("Authorization %q", got)
	}
	if got := h.Get("X-From"); got != "alice:POST" {
		t.Errorf("header_up: %q", got)
	}
	if calls[0].body != hello {
		t.Errorf("body %s", calls[0].body)
	}
}

func TestGroups(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block() + bob + `
		client alice {
			key ` + aliceKey + `
			group default
			groups research apps:*
		}`})
	for _, c := range []struct {
		key, header string
		status      int
		booked      string
	}{
		{asAlice, "", 200, "default"},
		{asAlice, "research", 200, "research"},
		{asAlice, "apps:one", 200, "apps:one"},
		{asAlice, "default", 200, "default"},
		{asAlice, "other", 403, ""},
		{asAlice, "a/b", 400, ""},
		{asAlice, strings.Repeat("x", 65), 400, ""},
		{asBob, "anything", 200, "anything"},
		{asBob, "", 200, ""},
	} {
		a := g.do("POST", chatPath, hello, c.key, "X-Floway-Group: "+c.header)
		if a.status != c.status {
			t.Errorf("group %q: status %d: %s", c.header, a.status, a.body)
		}
	}
	want := map[string]int{"alice default": 2, "alice research": 1, "alice apps:one": 1, "bob anything": 1, "bob ": 1}
	r := g.usage("by=client,group")
	for _, row := range r.Rows {
		if k := row.Client + " " + row.Group; row.Requests != want[k] {
			t.Errorf("%s: %d requests, want %d", k, row.Requests, want[k])
		}
	}
	if len(r.Rows) != len(want) || r.Sum.Requests != 6 {
		t.Errorf("%+v", r)
	}
}

// Whatever group names a client thinks of, only so many rows grow.
func TestGroupsOfAClientAreBounded(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block() + alice})
	for i := range 105 {
		g.chat(hello, asAlice, fmt.Sprintf("X-Floway-Group: g%d", i))
	}
	r := g.usage("by=group")
	other := 0
	for _, row := range r.Rows {
		if row.Group == "other" {
			other = row.Requests
		}
	}
	if len(r.Rows) != 101 || other != 5 || r.Sum.Requests != 105 {
		t.Errorf("%d rows, %d under other, %d in all", len(r.Rows), other, r.Sum.Requests)
	}
}

func TestAnonymous(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block("models gpt-5 o3") + alice + `
		client past {
			key sk-floway-past-0123456789
			expires 2020-01-01
		}
		client guest {
			models gpt-5
		}
		anonymous guest`})
	g.chat(hello)
	g.chat(hello, "Authorization: Bearer any-key-at-all")
	g.chat(helloTo("o3"), asAlice)
	if a := g.do("POST", chatPath, helloTo("o3")); a.status != 404 {
		t.Errorf("a model that is not the guest's: status %d", a.status)
	}
	if a := g.do("POST", chatPath, hello, "Authorization: Bearer sk-floway-past-0123456789"); a.status != 401 {
		t.Errorf("an expired key: status %d", a.status)
	}
	for _, row := range g.usage("by=client").Rows {
		if want := map[string]int{"guest": 2, "alice": 1}[row.Client]; row.Requests != want {
			t.Errorf("%s: %d requests, want %d", row.Client, row.Requests, want)
		}
	}
	if strings.Contains(g.logged(), "anonymous is on") {
		t.Error("warned although only this machine can call")
	}
}

func TestUsageOff(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block() + alice + "usage off"})
	g.chat(hello, asAlice)
	if a := g.do("GET", "/v1/usage", "", asAlice); a.status != 404 {
		t.Errorf("own usage: status %d: %s", a.status, a.body)
	}
	if a := g.ask("GET", "/floway/usage"); a.status != 404 || !strings.Contains(a.body, "no account is kept") {
		t.Errorf("usage: status %d: %s", a.status, a.body)
	}
	if a := g.ask("GET", "/floway/ledger"); a.body != "{\"ledgers\":[]}\n" {
		t.Errorf("ledger: %s", a.body)
	}
	if a := g.do("GET", "/floway/health", ""); a.status != 200 {
		t.Errorf("health: status %d", a.status)
	}
	if !strings.Contains(g.logged(), "usage is off: no account of requests is kept") {
		t.Error("no warning")
	}
}

// The filter is that of examples/production.
const logFilter = `
		format filter {
			request>headers>X-Api-Key delete
			request>headers>Api-Key delete
			request>headers>X-Goog-Api-Key delete
			request>uri query {
				replace key REDACTED
			}
		}`

// A request's line in the access log tells what became of it, other directives can
// use the same as placeholders, and no log has a secret in it.
func TestLogs(t *testing.T) {
	u := newUpstream(t)
	placeholders := []string{
		"request", "upstream_request", "client", "group", "operation", "model", "upstream", "key", "attempts", "outcome",
		"tokens.input", "tokens.cache_read", "tokens.cache_write", "tokens.output", "tokens.reasoning", "tokens.source", "first_byte",
	}
	var appended strings.Builder
	for _, p := range placeholders {
		fmt.Fprintf(&appended, "log_append p.%s {http.floway.%s}\n", p, p)
	}
	g := start(t, site{log: logFilter, before: appended.String(), block: u.block() + alice + bob})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "req-of-the-upstream")
		streamed(chunkHi, chunkEnd, chunkUsage, done)(w, r)
	})
	a := g.chat(streamOf("gpt-5"), asAlice, "X-Floway-Group: research")
	id := a.header.Get("X-Request-Id")
	var entry map[string]any
	eventually(t, func() error {
		for _, l := range g.lines("msg", "handled request") {
			if l["p.request"] == id {
				entry = l
				return nil
			}
		}
		return fmt.Errorf("no line for %s in\n%s", id, g.logged())
	})
	want := map[string]any{
		"client": "alice", "group": "research", "operation": "chat", "model": "gpt-5", "upstream": "openai", "key": "main",
		"attempts": 1.0, "outcome": "served", "input_tokens": 10.0, "output_tokens": 5.0, "tokens_source": "upstream",
		"upstream_request": "req-of-the-upstream", "request": id,
	}
	fields, _ := entry["floway"].(map[string]any)
	for k, v := range want {
		if fields[k] != v {
			t.Errorf("field floway.%s is %v, want %v", k, fields[k], v)
		}
	}
	for p, v := range map[string]string{
		"client": "alice", "group": "research", "operation": "chat", "model": "gpt-5", "upstream": "openai", "key": "main",
		"attempts": "1", "outcome": "served", "tokens.input": "10", "tokens.output": "5", "tokens.source": "upstream",
		"tokens.cache_read": "0", "tokens.cache_write": "0", "tokens.reasoning": "0", "upstream_request": "req-of-the-upstream",
	} {
		if got := fmt.Sprint(entry["p."+p]); got != v {
			t.Errorf("placeholder {http.floway.%s} is %q, want %q", p, got, v)
		}
	}
	if f := fmt.Sprint(entry["p.first_byte"]); !strings.HasPrefix(f, "0.") || f == "0.000000" {
		t.Errorf("first_byte %q", f)
	}

	// Secrets in every place, through success and failure.
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(401)
		fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s","type":"invalid_request_error","code":"invalid_api_key"}}`, r.Header.Get("Authorization"))
	})
	for _, name := range []string{"Authorization: Bearer ", "x-api-key: ", "api-key: ", "x-goog-api-key: "} {
		if a := g.do("POST", chatPath, hello, name+aliceKey); a.status != 502 || strings.Contains(a.body, "sk-upstream") {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		g.do("POST", chatPath, hello, name+"sk-wrong-0123456789")
	}
	g.do("GET", "/v1beta/models?key="+aliceKey, "")
	g.do("POST", chatPath, "{", asAlice)
	eventually(t, func() error {
		if n := len(g.lines("msg", "handled request")); n < 11 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	for _, secret := range []string{aliceKey, bobKey, "sk-upstream-0123456789", "sk-wrong-0123456789"} {
		if strings.Contains(g.logged(), secret) {
			for line := range strings.Lines(g.logged()) {
				// Caddy itself prints the whole configuration at this level: one
				// more reason for placeholders.
				if strings.Contains(line, secret) && !strings.Contains(line, `"msg":"adjusted config"`) {
					t.Errorf("the log has %s: %s", secret, line)
					break
				}
			}
		}
	}
}

// floway is one handler among others.
func TestBesideOtherHandlers(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{before: `
	encode
	request_body {
		max_size 1KB
	}
	handle_errors {
		respond "page of the site"
	}
	handle /static* {
		respond "static"
	}`, after: `respond "next" 200`, block: u.block() + alice})
	for path, want := range map[string]string{"/": "next", "/static/x": "static", "/v2/chat": "next", "/chat": "next", "/v1": "next", "/floway": "next"} {
		if a := g.do("GET", path, ""); a.status != 200 || a.body != want {
			t.Errorf("GET %s: status %d, %q", path, a.status, a.body)
		}
	}
	if a := g.do("OPTIONS", chatPath, ""); a.status != 200 || a.body != "next" {
		t.Errorf("OPTIONS: status %d, %q", a.status, a.body)
	}
	if a := g.do("GET", "/chat/completions", ""); a.body != "next" {
		t.Errorf("GET without a version: %q", a.body)
	}
	if a := g.do("POST", "/chat/completions", hello, asAlice); a.status != 200 || a.body != completion {
		t.Errorf("POST without a version: status %d, %q", a.status, a.body)
	}
	// The site's page is not appended to errors, and the site's bound is told in
	// the caller's dialect.
	long := strings.Replace(hello, "Hello", strings.Repeat("x", 2000), 1)
	req, _ := http.NewRequest("POST", "http://"+g.addr+chatPath, io.MultiReader(strings.NewReader(long))) // of unknown length
	req.Header.Set("Authorization", "Bearer "+aliceKey)
	res, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 413 {
		t.Errorf("beyond request_body: status %d", res.StatusCode)
	}
	openAIError(t, answer{res.StatusCode, res.Header, string(body)})
	a := g.do("POST", chatPath, hello)
	if a.status != 401 {
		t.Errorf("status %d", a.status)
	}
	openAIError(t, a)
	a = g.do("POST", "/v1/messages", `{"model":"gpt-5"}`)
	if a.status != 401 || !strings.Contains(a.body, `"type":"error"`) || a.header.Get("Request-Id") == "" {
		t.Errorf("Messages: status %d, %s", a.status, a.body)
	}
	u.answerWith(refusing(400, "bad"))
	if a := g.do("POST", chatPath, hello, asAlice); a.status != 400 || !strings.HasPrefix(a.body, `{"error":{"message":"no"`) {
		t.Errorf("the upstream's refusal: status %d, %q", a.status, a.body)
	}
}

// Under encode each event still arrives when it is made.
func TestStreamsUnderEncode(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{before: "encode gzip", block: u.block() + alice})
	seen := make(chan struct{})
	u.answerWith(func(w http.ResponseWriter, r *http.Request) {
		streamed(chunkHi)(w, r)
		<-seen
		streamed(chunkThere, chunkEnd, chunkUsage, done)(w, r)
	})
	req, _ := http.NewRequest("POST", "http://"+g.addr+chatPath, strings.NewReader(streamOf("gpt-5")))
	req.Header.Set("Authorization", "Bearer "+aliceKey)
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := plain.Do(req)
	if err != nil {
		close(seen)
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Encoding"); got != "gzip" {
		t.Errorf("Content-Encoding %q", got)
	}
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		close(seen)
		t.Fatal(err)
	}
	lines := bufio.NewReader(z)
	first, err := lines.ReadString('\n')
	close(seen)
	if err != nil || !strings.Contains(first, `"Hi"`) {
		t.Fatalf("%q, %v", first, err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.HasSuffix(string(rest), done) || strings.Contains(string(rest), "usage") {
		t.Errorf("%q, %v", rest, err)
	}
	if r := g.usage("by=client"); r.Sum.Requests != 1 || r.Sum.Input != 10 || r.Sum.Output != 5 {
		t.Errorf("%+v", r.Sum)
	}
}

func TestHeadAndHealth(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{after: "respond next", block: u.block("models gpt-5") + alice})
	for _, path := range []string{"/v1/models", "/v1/models/gpt-5", "/v1/usage"} {
		a := g.do("HEAD", path, "", asAlice)
		if a.status != 200 || a.body != "" {
			t.Errorf("HEAD %s: status %d, %q", path, a.status, a.body)
		}
		if a := g.do("HEAD", path, ""); a.status != 401 {
			t.Errorf("HEAD %s without a key: status %d", path, a.status)
		}
	}
	if a := g.do("GET", "/floway/health", ""); a.status != 200 || a.body != "ready\n" {
		t.Errorf("health: status %d, %q", a.status, a.body)
	}
	if a := g.do("HEAD", "/floway/health", ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD of health: status %d, %q", a.status, a.body)
	}
	if a := g.do("POST", "/floway/health", "x"); a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST of health: status %d", a.status)
	}
}

// An account that is not open yet, as while the server starts, is told, and
// requests wait for it.
func TestNotReady(t *testing.T) {
	u := newUpstream(t)
	g := start(t, site{block: u.block() + alice})
	h := generations.handlers()[0]
	open := h.account
	h.account = newAccount(open.settings, open.log, open.affinity)
	defer func() { h.account = open }()
	if a := g.do("GET", "/floway/health", ""); a.status != 503 || a.body != "not ready\n" {
		t.Errorf("health: status %d, %q", a.status, a.body)
	}
	answered := make(chan answer)
	go func() {
		a, _ := do("POST", "http://"+g.addr+chatPath, hello, asAlice)
		answered <- a
	}()
	if err := h.account.open(); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.status != 200 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if err := h.account.close(); err != nil {
		t.Fatal(err)
	}
}

// listener is an events handler that tells the tests.
type listener struct{}

var heard = make(chan caddy.Event, 100)

func init() { caddy.RegisterModule(listener{}) }

func (listener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.floway_test", New: func() caddy.Module { return new(listener) }}
}

func (listener) Handle(_ context.Context, e caddy.Event) error {
	heard <- e
	return nil
}

var _ caddyevents.Handler = listener{}

// A key that goes out or comes back is an event of Caddy's.
func TestEvents(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t)
	config, _, err := adapt(g.caddyfile(site{block: u.block() + alice}), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.Replace(config, []byte(`"apps":{`), []byte(`"apps":{"events":{"subscriptions":[{"events":["floway.key_out","floway.key_back"],"handlers":[{"handler":"floway_test"}]}]},`), 1)
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	next := func(name string) map[string]any {
		t.Helper()
		select {
		case e := <-heard:
			if e.Name() != name {
				t.Fatalf("event %s, want %s", e.Name(), name)
			}
			return e.Data
		case <-time.After(patience):
			t.Fatalf("no event %s", name)
		}
		return nil
	}
	u.answerWith(refusing(401, "invalid_api_key"))
	if a := g.do("POST", chatPath, hello, asAlice); a.status != 502 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	data := next("floway.key_out")
	if data["upstream"] != "openai" || data["key"] != "main" || data["state"] != "invalid" {
		t.Errorf("%v", data)
	}
	u.answerWith(nil)
	if a := g.ask("POST", "/floway/upstreams/reset?upstream=openai&key=main"); a.status != 200 {
		t.Errorf("reset: %d %s", a.status, a.body)
	}
	if data := next("floway.key_back"); data["key"] != "main" {
		t.Errorf("%v", data)
	}
	g.chat(hello, asAlice)
	if slices.ContainsFunc(g.lines("msg", "key out"), func(l map[string]any) bool { return l["level"] != "warn" }) || len(g.lines("msg", "key out")) != 1 {
		t.Errorf("%v", g.lines("msg", "key out"))
	}
}
