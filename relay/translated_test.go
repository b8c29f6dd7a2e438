package relay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

const messagesStream = `{"model":"gpt-5","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`

// chatServer adds a compatible server, of which only Chat Completions is known.
func chatServer(s *setup, name, url, labels string, options ...option) *Upstream {
	return s.upstreamOf("openai", name, url+"/v1", labels, options...)
}

// A client of Messages is served by a server of Chat Completions: it sees its own
// dialect and the name that it asked for, and the account what the upstream used.
func TestTranslated(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	chatServer(s, "a", m.URL, "a1", withAlias("claude-x", "gpt-5"))
	g := s.start()
	a := g.post("/v1/messages?beta=true", `{"model":"claude-x","max_tokens":9,"top_k":3,"messages":[{"role":"user","content":"hi"}]}`,
		"Anthropic-Version", "2023-06-01", "Anthropic-Beta", "x", "X-Api-Key", "sk-client")
	a.wants(t, 200, `"content":[{"type":"text","text":"hi"`)
	if !strings.Contains(a.body, `"model":"claude-x"`) || !strings.Contains(a.body, `"stop_reason":"end_turn"`) {
		t.Errorf("the answer is %s", a.body)
	}
	if h := a.header; h.Get("X-Floway-Dropped") != "top_k" || h.Get("Content-Type") != "application/json" ||
		h.Get("Content-Length") != fmt.Sprint(len(a.body)) || h.Get("Cache-Control") != "no-store" {
		t.Errorf("the header is %v", h)
	}
	sent := m.seen()[0]
	if sent.path != "/v1/chat/completions" || sent.query != "" || sent.header.Get("Anthropic-Beta") != "" || sent.header.Get("Anthropic-Version") != "" ||
		sent.header.Get("Content-Type") != "application/json" || strings.Contains(sent.body, "top_k") || !strings.Contains(sent.body, `"model":"gpt-5"`) {
		t.Errorf("sent %+v", sent)
	}
	stream := g.post("/v1/messages", strings.Replace(messagesStream, "gpt-5", "claude-x", 1))
	stream.wants(t, 200, "event: message_stop\n")
	if stream.header.Get("Content-Type") != "text/event-stream" || !strings.Contains(stream.body, `"input_tokens":9`) || !strings.Contains(stream.body, `"text":"word"`) {
		t.Errorf("the stream is %v %s", stream.header, stream.body)
	}
	if sent := m.seen()[1]; !strings.Contains(sent.body, `"include_usage":true`) {
		t.Errorf("usage was not asked for: %s", sent.body)
	}
	for _, r := range g.books.records() {
		if want := (usage.Tokens{Input: 9, Output: 2}); r.Tokens != want || r.Source != usage.Upstream || r.Outcome != usage.Served ||
			r.Operation != "messages" || r.Asked != "claude-x" || r.Answered != "gpt-5-2026" {
			t.Errorf("booked %+v", r)
		}
	}
	wantIdle(t, s.config.Upstreams...)
}

// One route over upstreams of different dialects fails over before the first
// content, and the client does not notice.
func TestFailoverAcrossDialects(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{
		"a refusal":            fails(500, "server_error"),
		"an error in a stream": events(chunkRole, chunkError),
		"a stream that is cut": then(events(chunkRole), cutOff),
		"nonsense":             events(`data: {"choices":[{"delta":` + "\n\n"),
		"a page of HTML":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			chat, claude := newMock(t), newMock(t)
			chatServer(s, "a", chat.URL, "a1")
			s.upstreamOf("anthropic", "b", claude.URL, "b1")
			s.route("smart", keypool.First, RouteTarget{Upstream: "a", Model: "gpt-5"}, RouteTarget{Upstream: "b", Model: "claude-x"})
			chat.on("a1", first)
			claude.on("b1", events(claudeStart, claudeText, claudeEnd))
			g := s.start()
			a := g.post("/v1beta/models/smart:streamGenerateContent?alt=sse", geminiBody)
			a.wants(t, 200, `"text":"hi"`)
			if strings.Count(a.body, `"finishReason":"STOP"`) != 1 || !strings.Contains(a.body, `"promptTokenCount":6221`) {
				t.Errorf("the answer is %s", a.body)
			}
			if sent := claude.seen()[0]; sent.path != "/v1/messages" || sent.query != "" || sent.header.Get("Anthropic-Version") != "2023-06-01" {
				t.Errorf("sent %+v", sent)
			}
			if got := g.books.outcomes(); !strings.HasSuffix(got, "b/b1 served") || len(g.books.records()) != 2 {
				t.Errorf("booked %s", got)
			}
		})
	}
}

// A provider says what requests that are translated for its models have to mind.
func TestQuirksOfTranslatedRequests(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	chatServer(s, "plain", m.URL, "p1", withModels("plain"))
	chatServer(s, "odd", m.URL, "o1", withAlias("odd", "prod"), func(u *Upstream, _ *keypool.Config) { u.Provider = odd{u.Provider} })
	g := s.start()
	const body = `{"model":%q,"max_tokens":9,"metadata":{"user_id":"u"},"messages":[{"role":"user","content":"hi"}]}`
	g.post("/v1/messages", fmt.Sprintf(body, "plain")).wants(t, 200, `"text":"hi"`)
	g.post("/v1/messages", fmt.Sprintf(body, "odd")).wants(t, 200, `"text":"hi"`)
	plain, odd := m.seen()[0].body, m.seen()[1].body
	if !strings.Contains(plain, `"max_tokens":9`) || !strings.Contains(plain, `"user":`) && !strings.Contains(plain, `"safety_identifier":`) {
		t.Errorf("sent %s", plain)
	}
	if !strings.Contains(odd, `"most of prod":9`) || strings.Contains(odd, `"user":`) || strings.Contains(odd, `"safety_identifier":`) {
		t.Errorf("sent %s", odd)
	}
}

// odd is a provider with quirks.
type odd struct{ provider.Upstream }

func (odd) Quirks(model string) provider.Quirks {
	return provider.Quirks{MaxTokensName: "most of " + model, Omit: []string{"user", "safety_identifier"}}
}

// What a target cannot express another may; if none can, it is the client's error
// and names the field.
func TestInexpressible(t *testing.T) {
	s := newSetup(t)
	claude, chat := newMock(t), newMock(t)
	s.upstreamOf("anthropic", "b", claude.URL, "b1 b2")
	chatServer(s, "a", chat.URL, "a1", withModels("gpt-5"))
	s.route("both", keypool.First, RouteTarget{Upstream: "b", Model: "claude-x"}, RouteTarget{Upstream: "a", Model: "gpt-5"})
	g := s.start()
	body := `{"model":"%s","logit_bias":{"1":2},"messages":[{"role":"user","content":"hi"}]}`
	g.post("/v1/chat/completions", fmt.Sprintf(body, "both")).wants(t, 200, `"content":"hi"`)
	a := g.post("/v1/chat/completions", fmt.Sprintf(body, "b/claude-x"))
	a.wants(t, 400, `"param":"logit_bias"`)
	if n := len(claude.seen()); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if got := g.books.outcomes(); got != "a/a1 served" {
		t.Errorf("booked %s", got)
	}
	if got := states(s.config.Upstreams[0]); got != "b1 ok, b2 ok" {
		t.Errorf("the keys are %s", got)
	}
	wantIdle(t, s.config.Upstreams...)
}

// Behind the first content nothing is healed: the dialect's error event, and a
// broken connection.
func TestTranslatedStreamsThatBreak(t *testing.T) {
	seen := make(chan struct{}, 1) // the client has some of the answer
	for name, tt := range map[string]struct {
		answer  http.HandlerFunc
		part    string
		outcome usage.Outcome
	}{
		"an error event": {events(chunkRole, chunkWord, chunkError), `"message":"The server had an error"`, usage.Cut},
		"a cut":          {then(events(chunkRole, chunkWord), cutOff), `broke off`, usage.Cut},
		"an early end":   {events(chunkRole, chunkWord), `broke off`, usage.Cut},
		"nonsense":       {then(events(chunkRole, chunkWord), waits(seen), events(`data: {"choices":[{"delta":`+"\n\n", chunkFinish, chunkDone)), `cannot be understood`, usage.Cut},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			chatServer(s, "a", m.URL, "a1")
			m.on("a1", tt.answer)
			g := s.start()
			res, err := g.server.Client().Do(g.request("/v1/messages", messagesStream))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			first := make([]byte, 1)
			_, _ = res.Body.Read(first)
			if name == "nonsense" {
				seen <- struct{}{}
			}
			rest, err := io.ReadAll(res.Body)
			a := got{body: string(first) + string(rest), err: err, trace: <-g.traces}
			if a.err == nil || !strings.Contains(a.body, "event: error\n") || !strings.Contains(a.body, tt.part) || strings.Contains(a.body, "message_stop") {
				t.Errorf("%v %s", a.err, a.body)
			}
			if !strings.Contains(a.body, `"text":"word"`) {
				t.Errorf("what came before is lost: %s", a.body)
			}
			if r := g.books.records()[0]; r.Outcome != tt.outcome {
				t.Errorf("booked %+v", r)
			}
			wantIdle(t, s.config.Upstreams...)
		})
	}
}

// waits answers nothing until there is something in the channel.
func waits(c chan struct{}) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) { <-c } }

// Events may be far longer than what passes between equal dialects is held.
func TestTranslatedLongEvents(t *testing.T) {
	long := strings.Repeat("long text, ", 50_000)
	s := newSetup(t)
	m := newMock(t)
	chatServer(s, "a", m.URL, "a1")
	m.on("a1", events(chunkRole, strings.Replace(chunkWord, "word", long, 1), chunkFinish, chunkUsage, chunkDone),
		says(200, strings.Replace(chatAnswer, `"hi"`, `"`+long+`"`, 1)))
	g := s.start()
	g.post("/v1/messages", messagesStream).wants(t, 200, long)
	g.post("/v1/messages", strings.Replace(messagesStream, `"stream":true,`, "", 1)).wants(t, 200, long)
}

// Refusals are told in the client's dialect, with words that its agents know.
func TestTranslatedRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		status       int
		want         int
		part         string
	}{
		{"too long", problem("context_length_exceeded", "This model's maximum context length is 9 tokens"), 400, 400, `"type":"invalid_request_error","message":"prompt is too long: This model's maximum`},
		{"a fault of the request", problem("bad_value", "no good"), 400, 400, `"type":"invalid_request_error","message":"no good"`},
		{"a limit", problem("rate_limit_exceeded", "slow down"), 429, 429, `"type":"rate_limit_error"`},
		{"a credential of ours", problem("invalid_api_key", "wrong key"), 401, 502, `"type":"api_error"`},
		{"overload", problem("overloaded", "busy"), 503, 503, `"type":"overloaded_error"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 0
			m := newMock(t)
			chatServer(s, "a", m.URL, "a1")
			m.on("a1", says(tt.status, tt.answer))
			g := s.start()
			a := g.post("/v1/messages", messagesStream)
			a.wants(t, tt.want, tt.part)
			var e struct{ Type string }
			if json.Unmarshal([]byte(a.body), &e) != nil || e.Type != "error" {
				t.Errorf("no error of Messages: %s", a.body)
			}
		})
	}
}

// Tokens are counted by the upstream if it can, through its dialect if it has
// another, else here; nothing of it is booked as tokens.
func TestCountTokens(t *testing.T) {
	const body = `{"model":"m","messages":[{"role":"user","content":"hello world"}]}`
	s := newSetup(t)
	m := newMock(t)
	s.upstreamOf("gemini", "g", m.URL, "g1", withModels("m"))
	m.on("g1", says(200, `{"totalTokens":7}`), fails(500, "x"), fails(500, "x"), fails(500, "x"), fails(500, "x"))
	g := s.start()
	a := g.post("/v1/messages/count_tokens", body)
	a.wants(t, 200, `{"input_tokens":7}`)
	if a.header.Get("X-Floway-Estimated") != "" {
		t.Error("the upstream's count is called an estimate")
	}
	if sent := m.seen()[0]; sent.path != "/v1beta/models/m:countTokens" || !strings.Contains(sent.body, `"generateContentRequest":{"model":"models/m"`) {
		t.Errorf("sent %+v", sent)
	}

	s = newSetup(t)
	m = newMock(t)
	chatServer(s, "a", m.URL, "a1", withModels("m"))
	g = s.start()
	for _, path := range []string{"/v1/messages/count_tokens", "/v1beta/models/m:countTokens"} {
		ask := body
		if strings.Contains(path, "v1beta") {
			ask = `{"contents":[{"parts":[{"text":"hello world"}]}]}`
		}
		a = g.post(path, ask)
		var n struct {
			Messages int64 `json:"input_tokens"`
			Gemini   int64 `json:"totalTokens"`
		}
		if err := json.Unmarshal([]byte(a.body), &n); err != nil || a.status != 200 || n.Messages+n.Gemini < 2 || n.Messages+n.Gemini > 20 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if a.header.Get("X-Floway-Estimated") != "input_tokens" {
			t.Errorf("%s: the header is %v", path, a.header)
		}
	}
	if n := len(m.seen()); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}

	// A server that has the dialect but not this call of it.
	m.on("a1", says(404, `{"detail":"Not Found"}`))
	a = g.post("/v1/responses/input_tokens", `{"model":"m","input":"hello world"}`)
	a.wants(t, 200, `"input_tokens":`)
	if a.header.Get("X-Floway-Estimated") != "input_tokens" {
		t.Errorf("the header is %v", a.header)
	}
	for _, r := range g.books.records() {
		if r.Tokens.Total() != 0 {
			t.Errorf("booked %+v", r)
		}
	}
	g.post("/v1/messages/count_tokens", strings.Replace(body, `"m"`, `"nobody/x"`, 1)).wants(t, 404, "")
}

func TestTranslatedEmbeddings(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstreamOf("gemini", "g", m.URL, "g1", withModels("embed"))
	m.on("g1", says(200, `{"embeddings":[{"values":[1,-2.5]}]}`))
	g := s.start()
	a := g.post("/v1/embeddings", `{"model":"embed","input":"some words to embed","encoding_format":"base64"}`)
	a.wants(t, 200, `"embedding":"AACAPwAAIMA="`)
	if sent := m.seen()[0]; sent.path != "/v1beta/models/embed:batchEmbedContents" {
		t.Errorf("sent %+v", sent)
	}
	if r := g.books.records()[0]; r.Source != usage.Estimated || r.Tokens.Input == 0 || r.Tokens.Output != 0 {
		t.Errorf("booked %+v", r)
	}
}

// Reasoning that an upstream of another dialect sealed does not reach one of the
// client's own, to which it would be a forgery.
func TestSealsStayHere(t *testing.T) {
	s := newSetup(t)
	claude, gem := newMock(t), newMock(t)
	s.upstreamOf("anthropic", "b", claude.URL, "b1", withModels("claude-x"))
	s.upstreamOf("gemini", "g", gem.URL, "g1", withModels("gemini-x"))
	gem.on("g1", says(200, `{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}},"thoughtSignature":"c2ln"}]},"finishReason":"STOP"}]}`))
	claude.on("b1", says(200, claudeAnswer))
	g := s.start()
	const ask = `{"model":"%s","max_tokens":9,"messages":[{"role":"user","content":"go"}%s]}`
	var first struct{ Content json.RawMessage }
	a := g.post("/v1/messages", fmt.Sprintf(ask, "gemini-x", ""))
	if err := json.Unmarshal([]byte(a.body), &first); err != nil || !strings.Contains(a.body, "fw1.") {
		t.Fatalf("%v %s", err, a.body)
	}
	var call struct{ ID string }
	var blocks []json.RawMessage
	_ = json.Unmarshal(first.Content, &blocks)
	_ = json.Unmarshal(blocks[len(blocks)-1], &call)
	more := `,{"role":"assistant","content":` + string(first.Content) + `},{"role":"user","content":[{"type":"tool_result","tool_use_id":"` + call.ID + `","content":"1"}]}`
	g.post("/v1/messages", fmt.Sprintf(ask, "claude-x", more)).wants(t, 200, "hi")
	if sent := claude.seen()[0].body; strings.Contains(sent, "fw1.") || strings.Contains(sent, "thinking") || !strings.Contains(sent, `"tool_use"`) {
		t.Errorf("Anthropic got %s", sent)
	}
	gem.on("g1", says(200, geminiAnswer))
	g.post("/v1/messages", fmt.Sprintf(ask, "gemini-x", more)).wants(t, 200, "hi")
	if sent := gem.seen()[1].body; !strings.Contains(sent, `"thoughtSignature":"c2ln"`) {
		t.Errorf("Google got %s", sent)
	}
}
