package relay

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// repeat is a script of n equal answers.
func repeat(n int, answer http.HandlerFunc) []http.HandlerFunc {
	all := make([]http.HandlerFunc, n)
	for i := range all {
		all[i] = answer
	}
	return all
}

// After two attempts at one upstream it is the turn of another target.
func TestTwoAttemptsAtOneUpstream(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2 a3")
	b := s.upstream("b", m.URL, "b1")
	for _, key := range []string{"a1", "a2", "a3"} {
		m.on(key, fails(503, ""))
	}
	g := s.start()
	g.chat().wants(t, 200, "hi")
	if got := m.keys(); got != "a1 a2 b1" {
		t.Error(got)
	}
	if got := g.books.outcomes(); got != "a/a1 refused, a/a2 refused, b/b1 served" {
		t.Error(got)
	}
	wantIdle(t, a, b)
}

// Two targets of a route at one upstream are still one upstream.
func TestTwoTargetsOfOneUpstream(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	s.upstream("b", m.URL, "b1")
	s.route("fast", keypool.First, RouteTarget{Upstream: "a", Model: "x"}, RouteTarget{Upstream: "a", Model: "y"}, RouteTarget{Upstream: "b", Model: "z"})
	m.on("a1", cutOff)
	g := s.start()
	g.post("/v1/chat/completions", `{"model":"fast"}`).wants(t, 200, "hi")
	if got := m.keys(); got != "a1 b1" {
		t.Error(got)
	}
}

func TestRetriesAreBounded(t *testing.T) {
	for retries, want := range map[int]string{0: "a1", 1: "a1 a2", 3: "a1 a2 b1 b2"} {
		s := newSetup(t)
		s.config.Retries = retries
		m := newMock(t)
		s.upstream("a", m.URL, "a1 a2 a3")
		s.upstream("b", m.URL, "b1 b2 b3")
		for _, key := range strings.Fields("a1 a2 a3 b1 b2 b3") {
			m.on(key, repeat(9, fails(500, "code_of_"+key))...)
		}
		g := s.start()
		last := want[len(want)-2:]
		g.chat().wants(t, 500, "code_of_"+last) // the last upstream answer
		if got := m.keys(); got != want {
			t.Errorf("%d retries: %s, want %s", retries, got, want)
		}
	}
}

// More targets than a call has room for by itself.
func TestManyTargets(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 9
	m := newMock(t)
	var want []string
	for i := range 10 {
		key := fmt.Sprint("k", i)
		s.upstream(fmt.Sprint("u", i), m.URL, key, withModels("gpt-5"))
		want = append(want, key)
		if i < 9 {
			m.on(key, cutOff)
		}
	}
	g := s.start()
	g.chat().wants(t, 200, "hi")
	if got := m.keys(); got != strings.Join(want, " ") {
		t.Error(got)
	}
}

// Rotations because of credentials, quotas and limits are no retries.
func TestRotationsAreFree(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "k1 k2 k3 k4 k5 k6 k7 k8 k9")
	for i, answer := range []http.HandlerFunc{
		fails(401, ""), fails(402, ""), fails(429, ""), fails(401, ""), fails(429, "insufficient_quota"), fails(429, ""), fails(429, ""), fails(401, ""),
	} {
		m.on(fmt.Sprint("k", i+1), answer)
	}
	g := s.start()
	res := g.chat()
	res.wants(t, 200, "hi")
	if got := m.keys(); got != "k1 k2 k3 k4 k5 k6 k7 k8 k9" {
		t.Error(got)
	}
	if res.trace.Attempts != 9 || res.trace.Key != "k9" || res.trace.Outcome != usage.Served {
		t.Errorf("%+v", res.trace)
	}
	wantIdle(t, a)
}

// What the client gets when all has failed.
func TestLastAnswer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		a, b   http.HandlerFunc
		status int
		part   string
		after  string
	}{
		{"the last one", fails(500, "first"), fails(503, "second"), 503, `"second"`, ""},
		{"a missing model yields", fails(500, "first"), fails(404, "model_not_found"), 500, `"first"`, ""},
		{"a missing model yields, the other way round", fails(404, "model_not_found"), fails(500, "second"), 500, `"second"`, ""},
		{"missing everywhere", fails(404, "model_not_found"), fails(404, "model_not_found"), 404, "model_not_found", ""},
		{"an answer is better than none", fails(429, "limit", "Retry-After", "7"), cutOff, 429, `"limit"`, "7"},
		{"not there is no better than no answer", cutOff, fails(404, "model_not_found"), 502, "could not be reached", ""},
		{"our credential", fails(401, "invalid_api_key"), says(403, problem("account_deactivated", "sk-b1-secret is bad")), 502, "credential", "600"},
		{"the smallest wait", fails(429, "limit", "Retry-After", "70"), fails(429, "limit", "Retry-After", "40.2"), 429, "limit", "41"},
		{"the smallest wait, of the first", fails(429, "limit", "Retry-After", "40"), fails(429, "limit", "Retry-After", "70"), 429, "limit", "40"},
		{"a wait of a failure passes", fails(500, ""), fails(503, "busy", "Retry-After", "13"), 503, "busy", "13"},
		{"also in another form", fails(500, ""), says(503, "<html>busy", "Content-Type", "text/html", "Retry-After", "13"), 503, "<html>busy", "13"},
		{"redirect", says(302, "", "Location", "http://169.254.169.254/"), says(307, "", "Location", "http://169.254.169.254/"), 502, "redirect", ""},
		{"HTML", fails(500, ""), says(502, "<html><title>Bad Gateway</title>", "Content-Type", "text/html"), 502, `"type":"server_error"`, ""},
		{"empty", fails(500, ""), says(500, ""), 500, `"message":"the upstream refused the request and gave no reason"`, ""},
		{"detail", fails(500, ""), says(500, `{"detail":"out of memory"}`), 500, `"message":"out of memory"`, ""},
		{"10 MB", fails(500, ""), says(500, `{"error":{"code":"x","message":"`+strings.Repeat("y", 10<<20)+`"}}`), 500, `"type":"server_error"`, ""},
		{"a lying length", fails(500, ""), raw("HTTP/1.1 500 Oops\r\nContent-Length: 5000\r\n\r\n{\"error\":{\"code\":\"x\""), 500, `"type":"server_error"`, ""},
		{"an unknown status", fails(500, ""), raw("HTTP/1.1 777 Lucky\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n{\"error\":{\"code\":\"x\"}} "), 502, `"code":"x"`, ""},
		{"529 is Anthropic's", fails(500, ""), fails(529, "busy"), 503, `"busy"`, "1"},
		{"packed", fails(500, ""), packed(500, problem("x", "it was packed")), 500, "it was packed", ""},
		{"error event", fails(500, ""), events(`data: {"error":{"message":"overloaded","type":"overloaded_error"}}` + "\n\n"), 503, "overloaded", "1"},
		{"untold error event", fails(500, ""), events(chunkRole, chunkError), 502, "The server had an error", ""},
		{"cut", cutOff, events(chunkRole), 502, "broke off", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 1
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			b := s.upstream("b", m.URL, "b1")
			s.route("m", keypool.First, RouteTarget{Upstream: "a", Model: "x"}, RouteTarget{Upstream: "b", Model: "x"})
			m.on("a1", repeat(3, tt.a)...)
			m.on("b1", repeat(3, tt.b)...)
			g := s.start()
			res := g.post("/v1/chat/completions", `{"model":"m","stream":true}`)
			res.body = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(res.body)
			res.wants(t, tt.status, tt.part)
			if got := res.header.Get("Retry-After"); got != tt.after {
				t.Errorf("Retry-After %q, want %q", got, tt.after)
			}
			if strings.Contains(res.body, "secret") || res.header.Get("Location") != "" {
				t.Errorf("the answer says too much: %v %s", res.header, res.body)
			}
			if kind := res.header.Get("Content-Type"); kind != "application/json" {
				t.Errorf("Content-Type %s", kind)
			}
			for _, r := range g.books.records() {
				if r.Tokens != (usage.Tokens{}) && r.Source != usage.Unknown {
					t.Errorf("an error costs tokens: %+v", r)
				}
			}
			wantIdle(t, a, b)
		})
	}
}

func packed(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, body)
		_ = z.Close()
	}
}

// A refusal passes with its body as it is, and with nothing of the attempts before.
func TestRefusalPasses(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	m.on("a1", fails(500, "first", "X-Request-Id", "one", "Retry-After", "99", "Openai-Processing-Ms", "1", "Set-Cookie", "a=b", "Content-Disposition", "attachment"))
	body := `{"error":{"message":"No.","type":"invalid_request_error","param":"thread","code":"thread_unsupported_request","details":{"unsupported":["x"]}}}`
	m.on("a2", says(400, body, "X-Request-Id", "two", "Set-Cookie", "a=b", "X-Ratelimit-Remaining-Requests", "3"))
	g := s.start()
	res := g.chat()
	if res.status != 400 || res.body != body {
		t.Errorf("%d %s", res.status, res.body)
	}
	for name, want := range map[string]string{
		"X-Upstream-Request-Id": "two", "Retry-After": "", "Set-Cookie": "", "Openai-Processing-Ms": "",
		"X-Ratelimit-Remaining-Requests": "", "Content-Disposition": "", "Cache-Control": "no-store",
	} {
		if got := res.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if res.trace.UpstreamRequest != "two" || res.trace.Status != 400 || res.trace.Outcome != usage.Refused || res.trace.Attempts != 2 {
		t.Errorf("%+v", res.trace)
	}
	if res.header.Get("X-Request-Id") != res.trace.Request {
		t.Error("the request's id is not the gateway's")
	}
}

// Some upstreams repeat the credential in their errors.
func TestCredentialStaysHere(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	m.on("a1", says(400, problem("bad", "you sent Authorization: Bearer sk-a1-secret")), says(400, "sk-a1-secret?"))
	g := s.start()
	for range 2 {
		res := g.chat()
		res.wants(t, 400, "***")
		if strings.Contains(res.body, "secret") {
			t.Error(res.body)
		}
	}
}

// A dead token that floway fetched is fetched anew once for each key.
func TestTokenIsRenewedOnce(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2")
	renewals := make([]int, 2)
	for i := range a.Credentials {
		a.Credentials[i].Set(token{a.Credentials[i].current(), &renewals[i]})
	}
	m.on("a1", fails(401, ""), fails(401, ""))
	m.on("a2", fails(401, ""))
	g := s.start()
	g.chat().wants(t, 200, "hi")
	if got := m.keys(); got != "a1 a1 a2 a2" {
		t.Error(got)
	}
	if renewals[0] != 1 || renewals[1] != 1 {
		t.Error(renewals)
	}
	if got := states(a); got != "a1 invalid, a2 ok" {
		t.Error(got)
	}
	wantIdle(t, a)
}

type token struct {
	provider.Credential
	renewals *int
}

func (c token) Renew(sent http.Header) bool {
	if sent.Get("Authorization") == "" {
		return false
	}
	*c.renewals++
	return true
}

// An upstream that does not know stream_options is asked once more without, and
// from then on at once, for that model.
func TestWithoutStreamOptions(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2")
	m.on("a1", says(400, `{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}`))
	g := s.start()
	res := g.stream()
	res.wants(t, 200, "[DONE]")
	if got := m.keys(); got != "a1 a1" {
		t.Error(got)
	}
	r := g.books.records()[1]
	if r.Source != usage.Estimated || !r.Estimating || r.Tokens.Output == 0 || r.Tokens.Input == 0 {
		t.Errorf("%+v", r)
	}
	g.stream()
	if calls := m.seen(); len(calls) != 3 || calls[2].body != streamBody {
		t.Errorf("not remembered: %v", m.keys())
	}
	g.post("/v1/chat/completions", `{"model":"other","stream":true}`)
	if calls := m.seen(); !strings.Contains(calls[3].body, "include_usage") {
		t.Error("remembered for another model")
	}
	if got := states(a); got != "a1 ok, a2 ok" {
		t.Error(got)
	}

	// A client that asks by itself gets the answer as it is.
	own := says(400, `{"error":{"message":"Unknown field stream_options","type":"invalid_request_error"}}`)
	m.on("a1", own)
	g.post("/v1/chat/completions", `{"model":"third","stream":true,"stream_options":{"include_usage":true}}`).wants(t, 400, "Unknown field")
	if n := len(m.seen()); n != 5 {
		t.Errorf("%d calls", n)
	}
}

// Reasoning that another account made is left out, once.
func TestWithoutReasoning(t *testing.T) {
	foreign := fails(400, "invalid_encrypted_content")
	body := `{"model":"gpt-5","store":false,"include":["reasoning.encrypted_content"],"input":[{"role":"user","content":"a"},{"type":"reasoning","encrypted_content":"xyz"},{"role":"user","content":"b"}]}`
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	m.on("a1", foreign)
	g := s.start()
	g.post("/v1/responses", body).wants(t, 200, "resp_new")
	calls := m.seen()
	if len(calls) != 2 || calls[0].body != body || strings.Contains(calls[1].body, "xyz") || !strings.Contains(calls[1].body, `"content":"b"`) {
		t.Errorf("%+v", calls)
	}
	m.on("a1", foreign, foreign)
	g.post("/v1/responses", body).wants(t, 400, "invalid_encrypted_content")
	m.on("a1", foreign)
	g.post("/v1/responses", `{"model":"gpt-5","input":"no reasoning in here"}`).wants(t, 400, "invalid_encrypted_content")
	if n := len(m.seen()); n != 5 {
		t.Errorf("%d calls", n)
	}
	if got := states(a); got != "a1 ok" {
		t.Error(got)
	}
	wantIdle(t, a)
}

// Keys that cool are used all the same when nothing better is left.
func TestLastResort(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	b := s.upstream("b", m.URL, "b1")
	s.route("m", keypool.First, RouteTarget{Upstream: "a", Model: "m"}, RouteTarget{Upstream: "b", Model: "m"})
	m.on("a1", repeat(3, fails(500, ""))...)
	g := s.start()
	ask := func(n int) got {
		return g.post("/v1/chat/completions", fmt.Sprintf(`{"model":"m","user":"%d"}`, n))
	}
	for i := range 3 {
		ask(i)
	}
	if got := states(a); got != "a1 cooling" {
		t.Fatal(got)
	}
	ask(4).wants(t, 200, "hi") // of b, which is better
	m.on("b1", fails(429, "limit", "Retry-After", "60"))
	ask(5).wants(t, 200, "hi") // of a: a wait that b named is kept
	if got := m.keys(); got != "a1 a1 a1 b1 b1 a1" {
		t.Error(got)
	}
	wantIdle(t, a, b)
}

// Refused keys are tried by one request every 10 s.
func TestRefusedKeysAreTriedAgain(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	m.on("a1", fails(401, ""), fails(401, ""))
	g := s.start()
	g.chat().wants(t, 502, "credential")
	res := g.chat()
	res.wants(t, 502, "credentials")
	if got := res.header.Get("Retry-After"); got != "600" {
		t.Errorf("Retry-After %q", got)
	}
	if n := len(m.seen()); n != 1 {
		t.Errorf("%d calls", n)
	}
	s.clock.advance(10 * time.Second)
	g.chat().wants(t, 502, "credential")
	g.chat().wants(t, 502, "credential")
	if n := len(m.seen()); n != 2 {
		t.Errorf("%d calls", n)
	}
	s.clock.advance(10 * time.Second)
	g.chat().wants(t, 200, "hi") // somebody mended the key
	if got := states(a); got != "a1 ok" {
		t.Error(got)
	}
}

// Where a limit stands in the way and nobody was asked, the answer is 429.
func TestLimitStandsInTheWay(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	m.on("a1", fails(401, ""))
	m.on("a2", fails(429, "limit", "Retry-After", "30"))
	g := s.start()
	g.chat().wants(t, 429, "limit")
	s.clock.advance(12 * time.Second)
	m.on("a1", fails(401, ""))
	g.chat() // tries a1 as the last resort
	res := g.chat()
	res.wants(t, 429, "every upstream key that could serve this request is over a limit")
	if got := res.header.Get("Retry-After"); got != "18" {
		t.Errorf("Retry-After %q", got)
	}
	if res.trace.Attempts != 0 || res.trace.Status != 429 {
		t.Errorf("%+v", res.trace)
	}
}

// An attempt that cannot be booked is not made, and the one before it is the last.
func TestLedgerRefuses(t *testing.T) {
	for _, from := range []int{1, 2} {
		s := newSetup(t)
		m := newMock(t)
		a := s.upstream("a", m.URL, "a1 a2")
		m.on("a1", fails(500, ""))
		g := s.start()
		g.books.refuses = func(r *usage.Record) error {
			if r.Attempt >= from {
				return errors.New("disk full")
			}
			return nil
		}
		res := g.chat()
		res.wants(t, 503, "accounting_unavailable")
		if res.trace.Attempts != from-1 || len(m.seen()) != from-1 || res.header.Get("Retry-After") == "" {
			t.Errorf("%+v", res.trace)
		}
		wantIdle(t, a)
	}
}

// What each attempt is booked with.
func TestRecords(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1", withAlias("nice", "gpt-5"))
	s.upstream("b", m.URL, "b1", withAlias("nice", "gpt-5-b"))
	s.route("fast", keypool.First, RouteTarget{Upstream: "a", Model: "nice"}, RouteTarget{Upstream: "b", Model: "nice"})
	m.on("a1", cutOff)
	g := s.start()
	res := g.post("/v1/chat/completions", `{"model":"fast","messages":[]}`)
	records := g.books.records()
	if len(records) != 2 {
		t.Fatal(len(records))
	}
	one, two := records[0], records[1]
	if one.Request != res.trace.Request || one.Attempt != 1 || one.Final || one.Outcome != usage.Failed || one.Status != 0 ||
		one.Source != usage.Unknown || one.Tokens.Input == 0 || one.Answered != "" || one.FirstByte != 0 {
		t.Errorf("%+v", one)
	}
	body := `{"model":"gpt-5-b","messages":[]}`
	if two.Client != "alice" || two.Group != "team" || two.Upstream != "b" || two.Key != "b1" || two.Model != "nice" ||
		two.Asked != "fast" || two.Answered != "gpt-5-2026" || two.Operation != "chat" || two.Outcome != usage.Served ||
		two.Status != 200 || !two.Final || two.Source != usage.Upstream || two.Tokens.Input != 9 || two.Tokens.Output != 2 ||
		two.RequestBytes != int64(len(body)) || two.ResponseBytes != int64(len(chatAnswer)) || two.FirstByte <= 0 {
		t.Errorf("%+v", two)
	}
	if got := m.seen()[1].body; got != body {
		t.Errorf("sent %s", got)
	}
	tr := res.trace
	if tr.Model != "fast" || tr.Upstream != "b" || tr.Key != "b1" || tr.Status != 200 || tr.Attempts != 2 ||
		tr.Outcome != usage.Served || tr.Tokens != two.Tokens || tr.Source != usage.Upstream {
		t.Errorf("%+v", tr)
	}
}

// A request that never left costs nothing, and that is known.
func TestNeverSent(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	refused := errors.New("dial: connection refused")
	s.config.NeverSent = func(err error) bool { return errors.Is(err, refused) }
	s.upstream("a", "http://127.0.0.1:1", "a1", withTransport(func(*http.Request) (*http.Response, error) { return nil, refused }))
	g := s.start()
	g.chat().wants(t, 502, "connection refused")
	if r := g.books.records()[0]; r.Outcome != usage.Failed || r.Source != usage.Upstream || r.Tokens != (usage.Tokens{}) || r.RequestBytes != 0 {
		t.Errorf("%+v", r)
	}
}

// The duration of an attempt ends with it, however long the next one waits.
func TestDurationIsTheAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		n := 0
		s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			if n++; n < 4 {
				return nil, errors.New("EOF")
			}
			return respond(200, "application/json", readCloser(chatAnswer)), nil
		}))
		r, books, _ := s.make()
		start := time.Now()
		q := s.run(r, "/v1/chat/completions", chatBody)
		<-q.done
		// 250 ms, doubling, before the same key is used again.
		if got := time.Since(start); got != 4*time.Second+250*time.Millisecond+500*time.Millisecond+time.Second {
			t.Errorf("took %v", got)
		}
		for _, rec := range books.records() {
			if rec.Duration != time.Second {
				t.Errorf("attempt %d took %v", rec.Attempt, rec.Duration)
			}
		}
	})
}

// synctestClock makes the pool live by the bubble's time.
func synctestClock(_ *Upstream, c *keypool.Config) { c.Now = time.Now }

// A client that leaves ends the pause before a further attempt.
func TestClientLeavesInThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		n := 0
		a := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(*http.Request) (*http.Response, error) {
			n++
			return nil, errors.New("EOF")
		}))
		r, books, _ := s.make()
		q := s.run(r, "/v1/chat/completions", chatBody)
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		q.leave()
		<-q.done
		if n != 1 || time.Since(start) != 0 || q.sink.status != statusLeft {
			t.Errorf("%d attempts, %v later, status %d", n, time.Since(start), q.sink.status)
		}
		if got := books.outcomes(); got != "a/a1 failed" || !books.records()[0].Final {
			t.Error(got)
		}
		wantIdle(t, a)
	})
}

// After a first-byte time-out there is one more attempt, however many retries
// are left.
func TestFirstByteTimeout(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  time.Duration
		body string
		want time.Duration
	}{
		{"stream", 0, streamBody, DefaultStreamFirstByte},
		{"plain", 0, chatBody, DefaultPlainFirstByte},
		{"as configured", 3 * time.Second, streamBody, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t)
				s.config.Now = time.Now
				s.config.TryDuration = time.Hour
				n := 0
				a := s.upstream("a", "http://a.example", "a1 a2 a3", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
					n++
					<-req.Context().Done()
					return nil, req.Context().Err()
				}))
				a.FirstByte = tt.set
				r, books, _ := s.make()
				start := time.Now()
				q := s.run(r, "/v1/chat/completions", tt.body)
				<-q.done
				if got := time.Since(start); n != 2 || got != 2*tt.want {
					t.Errorf("%d attempts in %v", n, got)
				}
				if q.sink.status != 504 || !strings.Contains(q.sink.body.String(), "first_byte_timeout") {
					t.Errorf("%d %s", q.sink.status, q.sink.body.String())
				}
				if got := books.outcomes(); got != "a/a1 failed, a/a2 failed" {
					t.Error(got)
				}
				wantIdle(t, a)
			})
		})
	}
}

// No attempt starts after lb_try_duration.
func TestTryDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		s.config.TryDuration, s.config.Retries = 10*time.Second, 100
		n := 0
		s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(*http.Request) (*http.Response, error) {
			n++
			time.Sleep(time.Second)
			return nil, errors.New("EOF")
		}))
		r, _, _ := s.make()
		start := time.Now()
		q := s.run(r, "/v1/chat/completions", chatBody)
		<-q.done
		// 1 s each, and pauses of .25, .5, 1 and 2 s; one of 4 s would be too long.
		if got := time.Since(start); n != 5 || got != 8750*time.Millisecond {
			t.Errorf("%d attempts in %v", n, got)
		}
	})
}

// All keys in use: the request waits, and is served as soon as one is free.
func TestWaitsForAFreeKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		free := make(chan struct{})
		slow := withTransport(func(*http.Request) (*http.Response, error) {
			<-free
			return respond(200, "application/json", readCloser(chatAnswer)), nil
		})
		a := s.upstream("a", "http://a.example", "a1", synctestClock, withMax(1), slow)
		b := s.upstream("b", "http://b.example", "b1", synctestClock, withMax(1), slow)
		r, _, _ := s.make()
		one, two := s.run(r, "/v1/chat/completions", chatBody), s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		three := s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		if three.trace.Attempts != 0 {
			t.Error("did not wait")
		}
		start := time.Now()
		time.Sleep(time.Second)
		close(free)
		<-three.done
		<-one.done
		<-two.done
		if three.sink.status != 200 || time.Since(start) != time.Second {
			t.Errorf("status %d after %v", three.sink.status, time.Since(start))
		}
		wantIdle(t, a, b)
	})
}

// In vain after lb_try_duration, or until the client leaves.
func TestWaitsInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		s.config.TryDuration = time.Minute
		a := s.upstream("a", "http://a.example", "a1", synctestClock, withMax(1), withTransport(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}))
		r, _, _ := s.make()
		one := s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		two, three := s.run(r, "/v1/chat/completions", chatBody), s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		start := time.Now()
		three.leave()
		<-three.done
		if three.sink.status != statusLeft || time.Since(start) != 0 {
			t.Errorf("status %d after %v", three.sink.status, time.Since(start))
		}
		<-two.done
		if two.sink.status != 503 || two.sink.header.Get("Retry-After") == "" || time.Since(start) != time.Minute {
			t.Errorf("status %d after %v", two.sink.status, time.Since(start))
		}
		one.leave()
		<-one.done
		wantIdle(t, a)
	})
}

// Also keys that cool are waited for, when they are all that is left and full.
func TestWaitsForTheLastResort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		s.config.Retries = 0
		fail := true
		free := make(chan struct{})
		a := s.upstream("a", "http://a.example", "a1", synctestClock, withMax(1), withTransport(func(*http.Request) (*http.Response, error) {
			if fail {
				return respond(500, "application/json", readCloser(problem("x", ""))), nil
			}
			<-free
			return respond(200, "application/json", readCloser(chatAnswer)), nil
		}))
		r, _, _ := s.make()
		for i := range 3 {
			<-s.run(r, "/v1/chat/completions", fmt.Sprintf(`{"model":"m","user":"%d"}`, i)).done
		}
		if got := states(a); got != "a1 cooling" {
			t.Fatal(got)
		}
		fail = false
		one := s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		two := s.run(r, "/v1/chat/completions", chatBody)
		synctest.Wait()
		close(free)
		<-one.done
		<-two.done
		if one.sink.status != 200 || two.sink.status != 200 {
			t.Errorf("%d, %d %s", one.sink.status, two.sink.status, two.sink.body.String())
		}
	})
}

// A refusal whose body does not come to its end is not waited for.
func TestRefusalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		n := 0
		a := s.upstream("a", "http://a.example", "a1 a2", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
			if n++; n > 1 {
				return respond(200, "application/json", readCloser(chatAnswer)), nil
			}
			body, w := newTied(req.Context())
			go func() {
				for { // drop by drop
					if _, err := io.WriteString(w, " "); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			return respond(429, "application/json", body), nil
		}))
		r, books, _ := s.make()
		start := time.Now()
		q := s.run(r, "/v1/chat/completions", chatBody)
		<-q.done
		if got := time.Since(start); q.sink.status != 200 || got != refusalTimeout {
			t.Errorf("status %d after %v", q.sink.status, got)
		}
		if got := books.outcomes(); got != "a/a1 refused, a/a2 served" {
			t.Error(got)
		}
		time.Sleep(time.Second) // the writer notices
		wantIdle(t, a)
	})
}

// One request is never at two upstreams at once: what is left of an answer is
// given up before the next attempt.
func TestNeverAtTwoUpstreams(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 20
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2 a3 a4")
	b := s.upstream("b", m.URL, "b1 b2 b3")
	var open, most atomic.Int32
	for _, u := range []*Upstream{a, b} {
		real := u.Transport
		u.Transport = trip(func(req *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), open.Add(1)))
			res, err := real.RoundTrip(req)
			if err != nil {
				open.Add(-1)
				return nil, err
			}
			res.Body = &closes{ReadCloser: res.Body, open: &open}
			return res, nil
		})
	}
	m.on("a1", says(500, strings.Repeat("x", 8<<20)))
	m.on("a2", then(events(chunkRole, chunkError), untilLeft))
	m.on("b1", then(events(chunkRole, chunkError), untilLeft))
	m.on("b2", cutOff)
	g := s.start()
	g.stream().wants(t, 200, "[DONE]")
	if n := len(m.seen()); n != 5 || most.Load() != 1 || open.Load() != 0 {
		t.Errorf("%d attempts, %d at once, %d left open", n, most.Load(), open.Load())
	}
}

type closes struct {
	io.ReadCloser
	once sync.Once
	open *atomic.Int32
}

func (c *closes) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.ReadCloser.Close()
}

// Errors of our own are in the dialect of the caller.
func TestOwnErrors(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1", withModels("gpt-5"))
	g := s.start()
	for path, want := range map[string]string{
		"/v1/chat/completions":             `{"error":{"message":"the model ` + "`nope`" + ` does not exist or this key may not use it","type":"invalid_request_error","param":"model","code":"model_not_found"}}`,
		"/v1/messages":                     `"type":"not_found_error"`,
		"/v1beta/models/nope:embedContent": `"status":"NOT_FOUND"`,
	} {
		res := g.post(path, `{"model":"nope"}`)
		res.wants(t, 404, want)
		if res.trace.Attempts != 0 || res.trace.Outcome != 0 {
			t.Errorf("%+v", res.trace)
		}
	}
	g.post("/v1/chat/completions", `{"model":`).wants(t, 400, "not a valid JSON object")
	g.post("/v1/chat/completions", `{"model":"gpt-5","model":"x"}`).wants(t, 400, `"param":"model"`)
	g.post("/v1/embeddings", ``).wants(t, 400, "no body")
	g.post("/v1/images/edits", `x`, "Content-Type", "text/plain").wants(t, 400, "multipart")
}

// A request that is more than the limit of one account goes where the limits are
// wider; where there is no such place its client hears why, and the keys serve
// the others.
func TestRequestTooLargeForALimit(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 5
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2")
	b := s.upstream("b", m.URL, "b1")
	g := s.start()
	m.on("a1", says(429, tooLargeForLimit))
	g.chat().wants(t, 200, "hi")
	if got := m.keys(); got != "a1 b1" {
		t.Errorf("asked %s", got)
	}

	before := len(m.seen())
	for _, key := range []string{"a1", "a2", "b1"} {
		m.on(key, says(429, tooLargeForLimit, "Retry-After", "30"))
	}
	res := g.chat()
	res.wants(t, 429, "Requested 45000")
	if res.body != tooLargeForLimit {
		t.Errorf("the answer is not the upstream's: %s", res.body)
	}
	if n := len(m.seen()) - before; n != 3 {
		t.Errorf("%d attempts, want each key once", n)
	}
	if got := states(a) + ", " + states(b); got != "a1 ok, a2 ok, b1 ok" {
		t.Error(got)
	}
	g.chat().wants(t, 200, "hi")
	g.chat().wants(t, 200, "hi")
	wantIdle(t, a, b)
}
