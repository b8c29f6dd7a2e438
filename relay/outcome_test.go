package relay

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/dialect"
)

// What each form of answer means. The verdict is seen in the state of the key,
// what comes next in the keys that were asked, in order: a1 and a2 are those of
// the upstream asked first, b1 that of the other.
func TestVerdicts(t *testing.T) {
	const limit = "rate_limit_exceeded"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		keys   string // that were asked
		a1     string // its state afterwards
		wait   time.Duration
		status int // of the client's answer
	}{
		// 401 always, 403 and 400 where they mean the credential.
		{name: "401", answer: fails(401, "invalid_api_key"), keys: "a1 a2", a1: "invalid", wait: 10 * time.Minute},
		{name: "401 without a reason", answer: says(401, ""), keys: "a1 a2", a1: "invalid", wait: 10 * time.Minute},
		{name: "403 of the credential", answer: fails(403, "account_deactivated"), keys: "a1 a2", a1: "invalid", wait: 10 * time.Minute},
		{name: "400 of the credential", answer: fails(400, "invalid_api_key"), keys: "a1 a2", a1: "invalid", wait: 10 * time.Minute},

		// 402; 429 or 400 with a code of quota.
		{name: "402", answer: fails(402, "payment"), keys: "a1 a2", a1: "exhausted", wait: 10 * time.Minute},
		{name: "429 of the quota", answer: fails(429, "insufficient_quota"), keys: "a1 a2", a1: "exhausted", wait: 10 * time.Minute},
		{name: "400 of the quota", answer: fails(400, "billing_hard_limit_reached"), keys: "a1 a2", a1: "exhausted", wait: 10 * time.Minute},
		{name: "402 with a wait", answer: fails(402, "payment", "Retry-After", "172800"), keys: "a1 a2", a1: "exhausted", wait: 48 * time.Hour},

		// 429, for as long as the upstream says.
		{name: "429", answer: fails(429, limit), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "429 HTML", answer: says(429, "<html>slow down", "Content-Type", "text/html"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "429 of the account", answer: says(429, problem(limit, "Limit reached, organization-wide")), keys: "a1 a2", a1: "limited", wait: 5 * time.Second},
		{name: "Retry-After", answer: fails(429, limit, "Retry-After", "7"), keys: "a1 a2", a1: "model limited", wait: 7 * time.Second},
		{name: "Retry-After, fraction", answer: fails(429, limit, "Retry-After", " 0.5 "), keys: "a1 a2", a1: "model limited", wait: 500 * time.Millisecond},
		{name: "Retry-After, date", answer: fails(429, limit, "Retry-After", "Sun, 22 Nov 2026 12:01:30 GMT"), keys: "a1 a2", a1: "model limited", wait: 90 * time.Second},
		{name: "Retry-After, past date", answer: fails(429, limit, "Retry-After", "Sun, 22 Nov 2026 11:59:00 GMT"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, negative", answer: fails(429, limit, "Retry-After", "-3"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, zero", answer: fails(429, limit, "Retry-After", "0"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, huge", answer: fails(429, limit, "Retry-After", "99999999999999999999"), keys: "a1 a2", a1: "model limited", wait: 24 * time.Hour},
		{name: "Retry-After, far date", answer: fails(429, limit, "Retry-After", "Wed, 22 Nov 2139 12:00:00 GMT"), keys: "a1 a2", a1: "model limited", wait: 24 * time.Hour},
		{name: "Retry-After, garbage", answer: fails(429, limit, "Retry-After", "soon"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, NaN", answer: fails(429, limit, "Retry-After", "NaN"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, Inf", answer: fails(429, limit, "Retry-After", "Inf"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "Retry-After, 1e400", answer: fails(429, limit, "Retry-After", "1e400"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "retry-after-ms", answer: fails(429, limit, "Retry-After-Ms", "1500.5", "Retry-After", "9"), keys: "a1 a2", a1: "model limited", wait: 1500500 * time.Microsecond},
		{name: "retry-after-ms, zero", answer: fails(429, limit, "Retry-After-Ms", "0", "Retry-After", "9"), keys: "a1 a2", a1: "model limited", wait: 9 * time.Second},
		{name: "x-ms-retry-after-ms", answer: fails(429, limit, "X-Ms-Retry-After-Ms", "250"), keys: "a1 a2", a1: "model limited", wait: 250 * time.Millisecond},
		{name: "RetryInfo", answer: says(429, `{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.Help"},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22.5s"}]}}`), keys: "a1 a2", a1: "model limited", wait: 22500 * time.Millisecond},
		{name: "RetryInfo, negative", answer: says(429, `{"error":{"message":"quota","details":[{"retryDelay":"-5s"}]}}`), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "reset, duration", answer: fails(429, limit, "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "6m0s"), keys: "a1 a2", a1: "model limited", wait: 6 * time.Minute},
		{name: "reset, the longer of two", answer: fails(429, limit, "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "12ms", "X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "30s"), keys: "a1 a2", a1: "model limited", wait: 30 * time.Second},
		{name: "reset, something is left", answer: fails(429, limit, "X-Ratelimit-Remaining-Requests", "7", "X-Ratelimit-Reset-Requests", "6m0s"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "reset, RFC 3339", answer: fails(429, limit, "Anthropic-Ratelimit-Tokens-Remaining", "0", "Anthropic-Ratelimit-Tokens-Reset", "2026-11-22T12:00:42Z"), keys: "a1 a2", a1: "model limited", wait: 42 * time.Second},
		{name: "reset, seconds", answer: fails(429, limit, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "17"), keys: "a1 a2", a1: "model limited", wait: 17 * time.Second},
		{name: "reset, epoch", answer: fails(429, limit, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1795348860"), keys: "a1 a2", a1: "model limited", wait: time.Minute},
		{name: "reset, epoch in milliseconds", answer: fails(429, limit, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1795348860500"), keys: "a1 a2", a1: "model limited", wait: 60500 * time.Millisecond},
		{name: "reset, garbage", answer: fails(429, limit, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "never"), keys: "a1 a2", a1: "model limited", wait: 5 * time.Second},
		{name: "text of OpenAI", answer: says(429, problem(limit, "Limit 3. Please try again in 1.2s. Visit us.")), keys: "a1 a2", a1: "model limited", wait: 1200 * time.Millisecond},
		{name: "text of Azure", answer: says(429, problem(limit, "Please retry after 6 seconds.")), keys: "a1 a2", a1: "model limited", wait: 6 * time.Second},
		{name: "header before text", answer: says(429, problem(limit, "try again in 1h"), "Retry-After", "3"), keys: "a1 a2", a1: "model limited", wait: 3 * time.Second},

		// Failures: another key.
		{name: "408", answer: fails(408, ""), keys: "a1 a2", a1: "ok"},
		{name: "500", answer: fails(500, ""), keys: "a1 a2", a1: "ok"},
		{name: "502", answer: says(502, "<html>Bad Gateway</html>"), keys: "a1 a2", a1: "ok"},
		{name: "503", answer: fails(503, ""), keys: "a1 a2", a1: "ok"},
		{name: "504", answer: fails(504, ""), keys: "a1 a2", a1: "ok"},
		{name: "524", answer: fails(524, ""), keys: "a1 a2", a1: "ok"},
		{name: "529", answer: fails(529, ""), keys: "a1 a2", a1: "ok"},
		{name: "301", answer: says(301, "", "Location", "https://elsewhere.example"), keys: "a1 a2", a1: "ok"},
		{name: "304", answer: says(304, ""), keys: "a1 a2", a1: "ok"},
		{name: "an odd status", answer: raw("HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n"), keys: "a1 a2", a1: "ok"},
		{name: "cut before content", answer: raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"id\":"), keys: "a1 a2", a1: "ok"},
		{name: "nothing at all", answer: says(200, ""), keys: "a1 a2", a1: "ok"},

		// No answer: another upstream.
		{name: "cut before the header", answer: cutOff, keys: "a1 b1", a1: "ok"},
		{name: "not HTTP", answer: raw("what?\r\n\r\n"), keys: "a1 b1", a1: "ok"},

		// The model is not there.
		{name: "404 of the model", answer: fails(404, "model_not_found"), keys: "a1 b1", a1: "model model_off", wait: 10 * time.Minute},
		{name: "404 in words", answer: says(404, `{"error":{"message":"The model gpt-5 was not found"}}`), keys: "a1 b1", a1: "model model_off", wait: 10 * time.Minute},
		{name: "404 of Ollama", answer: says(404, `{"error":"model 'gpt-5' not found"}`), keys: "a1 b1", a1: "model model_off", wait: 10 * time.Minute},
		{name: "403 of the model", answer: says(403, problem("", "Project p does not have access to model gpt-5")), keys: "a1 b1", a1: "model model_off", wait: 10 * time.Minute},

		// The request alone is more than the limit: it may be less than another's.
		{name: "429 of one request", answer: says(429, tooLargeForLimit, "Retry-After", "30"), keys: "a1 b1", a1: "ok"},
		{name: "200 with an error of one request", answer: says(200, tooLargeForLimit), keys: "a1 b1", a1: "ok"},
		{name: "413 of one request", answer: says(413, tooLargeForLimit), keys: "a1 b1", a1: "ok"},

		// The client's own fault.
		{name: "400", answer: fails(400, "unsupported_parameter"), keys: "a1", a1: "ok", status: 400},
		{name: "403 moderation", answer: fails(403, "content_policy_violation"), keys: "a1", a1: "ok", status: 403},
		{name: "403", answer: fails(403, "whatever"), keys: "a1", a1: "ok", status: 403},
		{name: "404", answer: fails(404, "no_such_thing"), keys: "a1", a1: "ok", status: 404},
		{name: "404 that speaks of a model", answer: says(404, problem("", "model response not found")), keys: "a1", a1: "ok", status: 404},
		{name: "409", answer: fails(409, ""), keys: "a1", a1: "ok", status: 409},
		{name: "413", answer: fails(413, ""), keys: "a1", a1: "ok", status: 413},
		{name: "418", answer: fails(418, ""), keys: "a1", a1: "ok", status: 418},
		{name: "422", answer: fails(422, ""), keys: "a1", a1: "ok", status: 422},
		{name: "501", answer: fails(501, ""), keys: "a1", a1: "ok", status: 501},

		// Errors inside an answer of success mean what they would as answers.
		{name: "200 with an error", answer: says(200, problem("", "oops")), keys: "a1 a2", a1: "ok"},
		{name: "200 with a limit", answer: says(200, problem("429", "slow down, try again in 4s")), keys: "a1 a2", a1: "model limited", wait: 4 * time.Second},
		{name: "200 with a bad request", answer: says(200, `{"error":{"message":"no","type":"invalid_request_error"}}`), keys: "a1", a1: "ok", status: 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1 a2")
			b := s.upstream("b", m.URL, "b1")
			m.on("a1", tt.answer)
			g := s.start()
			res := g.chat()
			status := tt.status
			if status == 0 {
				status = 200
			}
			res.wants(t, status, "")
			if got := m.keys(); got != tt.keys {
				t.Errorf("keys asked: %s, want %s", got, tt.keys)
			}
			state, wait := stateOf(a, s.clock.Now())
			if state != tt.a1 || wait != tt.wait {
				t.Errorf("key is %s for %v, want %s for %v", state, wait, tt.a1, tt.wait)
			}
			if res.trace.Attempts != len(strings.Fields(tt.keys)) {
				t.Errorf("%d attempts in the trace", res.trace.Attempts)
			}
			wantIdle(t, a, b)
		})
	}
}

// stateOf returns the state of an upstream's first key, alone or for a model.
func stateOf(u *Upstream, now time.Time) (state string, wait time.Duration) {
	k := u.Pool.States()[0]
	if len(k.Models) > 0 {
		return "model " + k.Models[0].State.String(), k.Models[0].Until.Sub(now)
	}
	if k.Until.IsZero() {
		return k.State.String(), 0
	}
	return k.State.String(), k.Until.Sub(now)
}

// Failures of three different requests in a row put a key out, and upstreams
// that cannot be reached; the same body sent again counts once.
func TestThreeDifferentRequests(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		same   bool
		want   string
	}{
		{"failures", fails(500, ""), false, "cooling"},
		{"failures of one body", fails(500, ""), true, "ok"},
		{"unreachable", cutOff, false, "unreachable"},
		{"unreachable for one body", cutOff, true, "ok"},
		{"cut before content", events(chunkRole), false, "cooling"},
		{"error event", events(chunkError), false, "cooling"},
		{"client's own faults", fails(400, ""), false, "ok"},
		{"client's own faults in the stream", events(`data: {"error":{"message":"bad","type":"BadRequestError","code":400}}` + "\n\n"), false, "ok"},
		{"limits", fails(429, "rate_limit_exceeded", "Retry-After", "1"), false, "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 0
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			g := s.start()
			for i := range 3 {
				m.on("a1", tt.answer)
				n := i
				if tt.same {
					n = 0
				}
				g.post("/v1/chat/completions", fmt.Sprintf(`{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"%d"}]}`, n))
				s.clock.advance(2 * time.Second)
			}
			if got := a.Pool.States()[0].State.String(); got != tt.want {
				t.Errorf("key is %s, want %s", got, tt.want)
			}
			wantIdle(t, a)
		})
	}
}

// Another answer between them ends the row.
func TestRowEnds(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	m.on("a1", fails(500, ""), fails(500, ""), fails(400, ""), fails(500, ""), fails(500, ""))
	g := s.start()
	for i := range 5 {
		g.post("/v1/chat/completions", fmt.Sprintf(`{"model":"gpt-5","messages":[%d]}`, i))
	}
	if got := states(a); got != "a1 ok" {
		t.Error(got)
	}
}

func TestWaitsAreBounded(t *testing.T) {
	now := newClock().Now()
	for _, v := range []string{"1e308", "1e30", "9223372037", "4e9"} {
		h := http.Header{"Retry-After": {v}}
		if got := waitNamed(h, &dialect.Problem{}, now, maxLimitWait); got != now.Add(24*time.Hour) {
			t.Errorf("%s: %v", v, got)
		}
		h = http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {v}}
		if got := waitNamed(h, &dialect.Problem{}, now, maxQuotaWait); got.Sub(now) > 31*24*time.Hour {
			t.Errorf("reset %s: %v", v, got)
		}
	}
}

// The one line of a failed attempt names neither addresses nor secrets.
func TestDescribe(t *testing.T) {
	for text, want := range map[string]string{
		`Post "http://10.0.0.7:8080/v1?key=sk-x": dial tcp 10.0.0.7:8080: connect: connection refused`: "connection refused",
		`lookup internal.example: no such host`:                                                        "no such host",
		`http: server closed idle connection`:                                                          "no answer",
		`read tcp 10.0.0.7: i/o timeout`:                                                               "timeout",
	} {
		if got := describe(errors.New(text)); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestFailedAttemptsAreLogged(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	m.on("a1", says(429, problem("rate_limit_exceeded", "key sk-a1-secret is over its limit"), "Retry-After", "30"))
	m.on("a2", cutOff)
	g := s.start()
	g.chat()
	lines := g.logs.FilterMessage("attempt failed").All()
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	first := lines[0].ContextMap()
	if first["upstream"] != "a" || first["key"] != "a1" || first["class"] != "limited" || first["wait"] != 30*time.Second {
		t.Errorf("%v", first)
	}
	for _, l := range lines {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "secret") || strings.Contains(text, "127.0.0.1") {
			t.Errorf("the log says too much: %s", text)
		}
	}
}
