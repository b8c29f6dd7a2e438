package relay

import (
	"net/http"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

const (
	claudeBody   = `{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"h\u0069"}]}`
	claudeAnswer = `{"id":"msg_1","type":"message","role":"assistant","model":"claude-x-2026","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":340,"output_tokens_details":{"thinking_tokens":210}}}`

	claudeStart = `event: message_start
data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":2}}}

event: ping
data: {"type":"ping"}

`
	claudeText = `event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}

`
	claudeEnd = `event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":null,"output_tokens":57}}

event: message_stop
data: {"type":"message_stop"}

`
	geminiBody   = `{"contents":[{"role":"user","parts":[{"text":"h\u0069"}]}]}`
	geminiAnswer = `{"candidates":[{"content":{"role":"model","parts":[{"text":"hi"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":151,"candidatesTokenCount":1089,"toolUsePromptTokenCount":18329,"thoughtsTokenCount":1120,"totalTokenCount":20689},"modelVersion":"gemini-x-001","responseId":"r1"}`

	geminiFirst = `{"candidates":[{"content":{"role":"model","parts":[{"text":"h"}]},"index":0}],"usageMetadata":{"promptTokenCount":10,"totalTokenCount":10},"modelVersion":"gemini-x-001","responseId":"r1"}`
	geminiLast  = `{"candidates":[{"content":{"role":"model","parts":[{"text":"i"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":2,"totalTokenCount":12},"modelVersion":"gemini-x-001","responseId":"r1"}`
	geminiBusy  = `{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}`
)

const (
	messagesPath = "/v1/messages"
	generatePath = "/v1beta/models/gemini-x:generateContent"
	streamPath   = "/v1beta/models/gemini-x:streamGenerateContent"
)

// Between equal dialects nothing of a request changes but the credential, and what
// tells the service how to read it goes with it.
func TestNativeRequests(t *testing.T) {
	for _, tt := range []struct {
		name, vendor, path, body string
		header                   []string
		at, query, sent          string
		want                     map[string]string
	}{
		{
			"a version is there by default", "anthropic", messagesPath, claudeBody, nil, "/v1/messages", "", claudeBody,
			map[string]string{"Anthropic-Version": "2023-06-01", "X-Api-Key": "sk-a1-secret", "Authorization": "", "Anthropic-Beta": ""},
		},
		{
			"the caller's version and betas stay", "anthropic", messagesPath + "?beta=true", claudeBody,
			[]string{"Anthropic-Version", "2026-10-21", "Anthropic-Beta", "a-2026-01-01,b-2026-01-01", "Authorization", "Bearer sk-client", "X-Api-Key", "sk-client"},
			"/v1/messages", "beta=true", claudeBody,
			map[string]string{"Anthropic-Version": "2026-10-21", "Anthropic-Beta": "a-2026-01-01,b-2026-01-01", "X-Api-Key": "sk-a1-secret", "Authorization": ""},
		},
		{
			"tokens are counted", "anthropic", "/v1/messages/count_tokens?beta=true", `{"messages":[] , "model":"claude-x"}`, nil,
			"/v1/messages/count_tokens", "beta=true", `{"messages":[] , "model":"claude-x"}`, nil,
		},
		{
			"an alias", "anthropic", messagesPath, strings.Replace(claudeBody, "claude-x", "mine", 1), nil, "/v1/messages", "", strings.Replace(claudeBody, "claude-x", "claude-y", 1), nil,
		},
		{
			"the key of a query stays here", "gemini", generatePath + "?key=sk-client&$alt=json", geminiBody, nil,
			"/v1beta/models/gemini-x:generateContent", "$alt=json", geminiBody,
			map[string]string{"X-Goog-Api-Key": "sk-a1-secret", "Authorization": ""},
		},
		{
			"events are asked for", "gemini", streamPath + "?alt=sse&key=sk-client", geminiBody,
			[]string{"X-Goog-Api-Key", "sk-client"},
			"/v1beta/models/gemini-x:streamGenerateContent", "alt=sse", geminiBody,
			map[string]string{"X-Goog-Api-Key": "sk-a1-secret"},
		},
		{
			"an alias in the path", "gemini", "/v1beta/models/mine:countTokens", `{"generateContentRequest":{"model":"models/mine","contents":[]}}`, nil,
			"/v1beta/models/claude-y:countTokens", "", `{"generateContentRequest":{"model":"models/claude-y","contents":[]}}`, nil,
		},
		{
			"many embeddings", "gemini", "/v1beta/models/mine:batchEmbedContents", `{"requests":[{"model":"models/mine","content":{}},{"model":"models/mine","content":{}}]}`, nil,
			"/v1beta/models/claude-y:batchEmbedContents", "", `{"requests":[{"model":"models/claude-y","content":{}},{"model":"models/claude-y","content":{}}]}`, nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			s.upstreamOf(tt.vendor, "a", m.URL, "a1", withAlias("mine", "claude-y"))
			g := s.start()
			g.post(tt.path, tt.body, tt.header...)
			sent := m.seen()[0]
			if sent.path != tt.at || sent.query != tt.query || sent.body != tt.sent {
				t.Errorf("sent %s?%s %s", sent.path, sent.query, sent.body)
			}
			for name, want := range tt.want {
				if got := sent.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			for name, values := range sent.header {
				if strings.Contains(strings.Join(values, " "), "sk-client") {
					t.Errorf("%s went up: %q", name, values)
				}
			}
		})
	}
}

// What the services answer passes byte for byte and is counted as they mean it:
// cumulative usage, both kinds of cache writes, thoughts, prompts of tools.
func TestNativeAnswers(t *testing.T) {
	thought := func(u usage.Tokens, n int64) usage.Tokens {
		u.Reasoning, u.ReasoningKnown = n, true
		return u
	}
	sse := func(objects ...string) string { return "data: " + strings.Join(objects, "\r\n\r\ndata: ") + "\r\n\r\n" }
	for _, tt := range []struct {
		name, vendor, path, body, answer string
		tokens                           usage.Tokens
	}{
		{"a message", "anthropic", messagesPath, claudeBody, claudeAnswer, thought(usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1000, CacheWrite1h: 200, Output: 340}, 210)},
		{
			"a stream of one", "anthropic", messagesPath, strings.Replace(claudeBody, "{", `{"stream":true,`, 1), claudeStart + claudeText + claudeEnd,
			usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1000, CacheWrite1h: 200, Output: 57},
		},
		{
			"its counts at the end stand for those at the beginning", "anthropic", messagesPath, strings.Replace(claudeBody, "{", `{"stream":true,`, 1),
			strings.Replace(claudeStart, `"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":2}`, `"usage":{"input_tokens":25,"output_tokens":1}`, 1) +
				claudeText + strings.Replace(claudeEnd, `"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":null,"output_tokens":57}`, `"usage":{"input_tokens":10682,"cache_read_input_tokens":0,"output_tokens":510}`, 1),
			usage.Tokens{Input: 10682, Output: 510},
		},
		{"counted tokens cost nothing", "anthropic", "/v1/messages/count_tokens", claudeBody, `{"input_tokens":12}`, usage.Tokens{}},
		{"generated content", "gemini", generatePath, geminiBody, geminiAnswer, thought(usage.Tokens{Input: 18480, ToolPrompt: 18329, Output: 2209}, 1120)},
		{"a stream of events", "gemini", streamPath + "?alt=sse", geminiBody, sse(geminiFirst, geminiLast), usage.Tokens{Input: 10, Output: 2}},
		{"a stream in an array", "gemini", streamPath, geminiBody, "[" + geminiFirst + "\n,\r\n" + geminiLast + "\n]\n", usage.Tokens{Input: 10, Output: 2}},
		{
			"a stream without content", "gemini", streamPath, geminiBody, `[{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":10,"totalTokenCount":10}}]`,
			usage.Tokens{Input: 10},
		},
		{"content from the cache", "gemini", generatePath, geminiBody, strings.Replace(geminiLast, `"candidatesTokenCount"`, `"cachedContentTokenCount":8,"candidatesTokenCount"`, 1), usage.Tokens{Input: 2, CacheRead: 8, Output: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []string{"pieces", "whole"} {
				s := newSetup(t)
				m := newMock(t)
				s.upstreamOf(tt.vendor, "a", m.URL, "a1")
				m.on("a1", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json; charset=UTF-8")
					if strings.Contains(tt.answer, "data: ") {
						w.Header().Set("Content-Type", "text/event-stream")
					}
					for piece := range strings.SplitAfterSeq(tt.answer, map[string]string{"pieces": "\n", "whole": "\x00"}[kind]) {
						_, _ = w.Write([]byte(piece))
						_ = http.NewResponseController(w).Flush()
					}
				})
				g := s.start()
				got := g.post(tt.path, tt.body)
				if got.status != 200 || got.err != nil || got.body != tt.answer {
					t.Errorf("%s: %d %v\n%s\nwant\n%s", kind, got.status, got.err, got.body, tt.answer)
				}
				if r := g.books.records()[0]; r.Tokens != tt.tokens || r.Source != usage.Upstream || r.Outcome != usage.Served {
					t.Errorf("%s: counted %s %s %+v, want %+v", kind, r.Outcome, r.Source, r.Tokens, tt.tokens)
				}
			}
		})
	}
}

// How a Gemini stream ends that is an array, when it does not end well.
func TestGeminiArrayEnds(t *testing.T) {
	const cut = `{"error":{"code":502,"message":"the upstream broke off in the middle of the answer","status":"UNAVAILABLE"}}]`
	well := "[" + geminiFirst + "\n,\n" + geminiLast + "\n]"
	for _, tt := range []struct {
		name    string
		answer  http.HandlerFunc
		body    string
		broken  bool
		outcome usage.Outcome
		source  usage.Source
	}{
		{"well", pieces("[" + geminiFirst + "\n,\n" + geminiLast + "\n]"), well, false, usage.Served, usage.Upstream},
		{"cut behind an element", then(pieces("["+geminiFirst), cutOff), "[" + geminiFirst + "," + cut, true, usage.Cut, usage.Estimated},
		{"cut behind a comma", then(pieces("["+geminiFirst, "\n,\n"), cutOff), "[" + geminiFirst + "\n,\n" + cut, true, usage.Cut, usage.Estimated},
		{"cut inside an element", then(pieces("["+geminiFirst, ","+geminiLast[:50]), cutOff), "[" + geminiFirst + "," + geminiLast[:50], true, usage.Cut, usage.Estimated},
		{"an end without a bracket", pieces("["+geminiFirst, ",\n"), "[" + geminiFirst + ",\n" + cut, true, usage.Cut, usage.Estimated},
		{"no bracket behind the last element", pieces("["+geminiFirst, ","+geminiLast), "[" + geminiFirst + "," + geminiLast + "," + cut, true, usage.Cut, usage.Upstream},
		{"an error in the middle", then(pieces("["+geminiFirst, "\n,\n"+geminiBusy), untilLeft), "[" + geminiFirst + "\n,\n" + geminiBusy, true, usage.Cut, usage.Estimated},
		{"an error at the end", pieces("[" + geminiFirst + "\n,\n" + geminiBusy + "]"), "[" + geminiFirst + "\n,\n" + geminiBusy + "]", true, usage.Cut, usage.Estimated},
		{"cut before an element: healed", then(pieces("["), cutOff), well, false, usage.Cut, usage.Unknown},
		{"an error at once: healed", pieces("[" + geminiBusy + "]"), well, false, usage.Refused, usage.Upstream},
		{"an error status: healed", says(503, "["+geminiBusy+"]"), well, false, usage.Refused, usage.Upstream},
		{"refused", says(400, `[{"error":{"code":400,"message":"x","status":"INVALID_ARGUMENT"}}]`), `[{"error":{"code":400,"message":"x","status":"INVALID_ARGUMENT"}}]`, false, usage.Refused, usage.Upstream},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			a := s.upstreamOf("gemini", "a", m.URL, "a1 a2")
			m.on("a1", tt.answer)
			m.on("a2", pieces(well))
			g := s.start()
			got := g.post(streamPath, geminiBody)
			if got.body != tt.body || (got.err != nil) != tt.broken {
				t.Errorf("%d %v\n%s\nwant\n%s", got.status, got.err, got.body, tt.body)
			}
			if r := g.books.records()[0]; r.Outcome != tt.outcome || r.Source != tt.source {
				t.Errorf("booked %s %s %+v", r.Outcome, r.Source, r.Tokens)
			}
			wantIdle(t, a)
		})
	}
}

// A stream of Anthropic's that breaks off ends in its own error event, and keeps
// the counts that the upstream had given by then.
func TestMessagesStreamEnds(t *testing.T) {
	stream := strings.Replace(claudeBody, "{", `{"stream":true,`, 1)
	const overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\",\"details\":null},\"request_id\":\"req_01\"}\n\n"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		body   string
	}{
		{"cut", then(events(claudeStart, claudeText), cutOff), claudeStart + claudeText + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\","},
		{"ended early", events(claudeStart, claudeText), claudeStart + claudeText + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\","},
		{"an error event", events(claudeStart, claudeText, overloaded), claudeStart + claudeText + overloaded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			s.upstreamOf("anthropic", "a", m.URL, "a1")
			m.on("a1", tt.answer)
			g := s.start()
			got := g.post(messagesPath, stream)
			if !strings.HasPrefix(got.body, tt.body) || got.err == nil {
				t.Errorf("%v\n%s\nwant\n%s", got.err, got.body, tt.body)
			}
			r := g.books.records()[0]
			if r.Outcome != usage.Cut || r.Source != usage.Estimated || !r.Partial || r.Tokens.Input != 21 || r.Tokens.CacheRead != 5000 || r.Tokens.CacheWrite != 1000 || r.Tokens.CacheWrite1h != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Refusals of the caller's own dialect pass as they are, details and all.
func TestNativeRefusals(t *testing.T) {
	const threads = `{"type":"error","error":{"type":"invalid_request_error","message":"threads are not supported","details":{"error_code":"thread_unsupported_request","unsupported":["thread"]}},"request_id":"req_9"}`
	const busy = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_9"}`
	for _, tt := range []struct {
		vendor, path, body string
		status             int
		answer             string
		want               int
		wantBody, class    string
	}{
		{"anthropic", messagesPath, claudeBody, 400, threads, 400, threads, "a1 ok"},
		{"anthropic", messagesPath, claudeBody, 529, busy, 529, busy, "a1 ok"},
		{"anthropic", messagesPath, claudeBody, 400, `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}`, 400, "", "a1 exhausted"},
		{"anthropic", messagesPath, claudeBody, 404, `{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}`, 404, "", "a1 ok, a1:claude-x model_off"},
		{"anthropic", messagesPath, claudeBody, 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`, 502, `{"type":"error","error":{"type":"api_error",`, "a1 invalid"},
		{"gemini", generatePath, geminiBody, 400, `{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}`, 502, `{"error":{"code":502,`, "a1 invalid"},
		{"gemini", generatePath, geminiBody, 429, `{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"RequestsPerDayPerProject"}]}]}}`, 429, "", "a1 exhausted"},
		{"gemini", generatePath, geminiBody, 429, `{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"22s"}]}}`, 429, "", "a1 ok, a1:gemini-x limited"},
		{"gemini", generatePath, geminiBody, 404, `{"error":{"code":404,"message":"models/gemini-x is not found for API version v1beta","status":"NOT_FOUND"}}`, 404, "", "a1 ok, a1:gemini-x model_off"},
	} {
		t.Run(tt.vendor+" "+tt.answer[:min(len(tt.answer), 120)], func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 0
			m := newMock(t)
			a := s.upstreamOf(tt.vendor, "a", m.URL, "a1")
			m.on("a1", says(tt.status, tt.answer))
			g := s.start()
			got := g.post(tt.path, tt.body)
			if tt.wantBody == "" {
				tt.wantBody = tt.answer
			}
			if got.status != tt.want || !strings.HasPrefix(got.body, tt.wantBody) {
				t.Errorf("%d %s", got.status, got.body)
			}
			if got := states(a); got != tt.class {
				t.Errorf("the key is %s, want %s", got, tt.class)
			}
			if tt.class == "a1 ok, a1:gemini-x limited" && got.header.Get("Retry-After") != "22" {
				t.Errorf("Retry-After %q", got.header.Get("Retry-After"))
			}
		})
	}
}

// What a program reads in an error reaches it: without it the tool loop of
// Anthropic's SDK gives up where it could go on.
func TestDetailsOfABadRequestReachTheClient(t *testing.T) {
	e := malformed(&dialect.BadRequest{Param: "thread", Message: "no threads", Details: []byte(`{"error_code":"x"}`)})
	if body := string(e.Body(dialect.Messages)); !strings.Contains(body, `"details":{"error_code":"x"}`) {
		t.Errorf("the client gets %s", body)
	}
}
