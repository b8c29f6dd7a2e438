package relay

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/keypool"
	"github.com/floway/floway/usage"
)

var whole = strconv.Itoa(len(chatAnswer))

// Answers that are no event streams.
func TestPlainAnswers(t *testing.T) {
	large := `{"id":"x","model":"gpt-5-2026","choices":[{"message":{"content":"` + strings.Repeat("word ", 60_000) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}`
	const header = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for _, tt := range []struct {
		name    string
		answer  http.HandlerFunc
		body    string
		length  string
		broken  bool
		healed  bool
		outcome usage.Outcome
		source  usage.Source
	}{
		{name: "of known length", answer: says(200, chatAnswer), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "chunked", answer: pieces(chatAnswer[:10], chatAnswer[10:100], chatAnswer[100:]), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "until the connection ends", answer: raw("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + chatAnswer), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "packed", answer: packed(200, chatAnswer), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "large", answer: says(200, large, "Content-Length", strconv.Itoa(len(large))), body: large, length: strconv.Itoa(len(large)), outcome: usage.Served, source: usage.Upstream},
		{name: "large and chunked", answer: pieces(large[:100], large[100:]), body: large, outcome: usage.Served, source: usage.Upstream},
		{name: "large and packed", answer: packed(200, large), body: large, outcome: usage.Served, source: usage.Upstream},
		{name: "behind early hints", answer: hints(says(200, chatAnswer)), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "202", answer: says(202, chatAnswer), body: chatAnswer, length: whole, outcome: usage.Served, source: usage.Upstream},
		{name: "204", answer: says(204, ""), outcome: usage.Served, source: usage.Estimated},
		{name: "no JSON", answer: says(200, "hello", "Content-Type", "text/plain"), body: "hello", length: "5", outcome: usage.Served, source: usage.Estimated},
		{name: "a list", answer: says(200, `[{"a":1},`), body: `[{"a":1},`, length: "9", outcome: usage.Served, source: usage.Estimated},
		{name: "without usage", answer: says(200, `{"choices":[]}`), body: `{"choices":[]}`, length: "14", outcome: usage.Served, source: usage.Estimated},

		{name: "cut before its length", answer: raw(header + "Content-Length: " + whole + "\r\n\r\n" + chatAnswer[:100]), healed: true, outcome: usage.Cut, source: usage.Estimated},
		{name: "cut in a chunk", answer: raw(header + "Transfer-Encoding: chunked\r\n\r\n80\r\n" + chatAnswer[:100]), healed: true, outcome: usage.Cut, source: usage.Estimated},
		{name: "cut between chunks", answer: then(pieces(chatAnswer[:100]), cutOff), healed: true, outcome: usage.Cut, source: usage.Estimated},
		{name: "cut, and only its JSON tells", answer: raw("HTTP/1.0 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\r\n" + chatAnswer[:100]), healed: true, outcome: usage.Cut, source: usage.Estimated},
		{name: "nothing", answer: says(200, ""), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "broken packing", answer: says(200, "this is not gzip at all", "Content-Encoding", "gzip"), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "an error in its place", answer: says(200, problem("", "oops")), healed: true, outcome: usage.Refused, source: usage.Upstream},

		{name: "cut when it flows", answer: then(pieces(large[:200<<10]), cutOff), body: large[:200<<10], broken: true, outcome: usage.Cut, source: usage.Estimated},
		{name: "cut when it flows, of known length", answer: raw(header + "Content-Length: " + strconv.Itoa(len(large)) + "\r\n\r\n" + large[:200<<10]), body: large[:200<<10], length: strconv.Itoa(len(large)), broken: true, outcome: usage.Cut, source: usage.Estimated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 1
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1 a2")
			m.on("a1", tt.answer)
			g := s.start()
			res := g.chat()
			if tt.healed {
				tt.body, tt.length = chatAnswer, whole
			}
			if res.body != tt.body || res.header.Get("Content-Length") != tt.length {
				t.Errorf("%d, length %q, %.300s", len(res.body), res.header.Get("Content-Length"), res.body)
			}
			if (res.err != nil) != tt.broken {
				t.Errorf("end: %v", res.err)
			}
			r := g.books.records()[0]
			if r.Outcome != tt.outcome || r.Source != tt.source || r.Final == tt.healed {
				t.Errorf("%+v", r)
			}
			if tt.source == usage.Upstream && tt.outcome == usage.Served && r.Tokens.Output != 2 {
				t.Errorf("%+v", r)
			}
			wantIdle(t, a)
		})
	}
}

// pieces answers with JSON in chunks.
func pieces(parts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for _, p := range parts {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

func hints(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del("Link")
		answer(w, r)
	}
}

// Sound and images are flushed as they come, and their size says nothing of tokens.
func TestBinaryFlows(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	heard := make(chan struct{})
	sound := bytes.Repeat([]byte{0, 0, 1, 0xff}, 1000)
	m.on("a1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "audio/mpeg")
		for range 3 {
			_, _ = w.Write(sound)
			_ = http.NewResponseController(w).Flush()
			<-heard
		}
	})
	g := s.start()
	res, err := g.server.Client().Do(g.request("/v1/audio/speech", `{"model":"tts-1","input":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 3 {
		p := make([]byte, len(sound))
		if _, err := io.ReadFull(res.Body, p); err != nil || !bytes.Equal(p, sound) {
			t.Fatal(err)
		}
		heard <- struct{}{}
	}
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Error(rest, err)
	}
	<-g.traces
	if r := g.books.records()[0]; r.Tokens.Output != 0 || r.Source != usage.Estimated || r.ResponseBytes != 12000 {
		t.Errorf("%+v", r)
	}
	if res.Header.Get("Content-Type") != "audio/mpeg" {
		t.Error(res.Header)
	}
}

// A JSON array is one of Google's streams: its pieces are not gathered.
func TestArrayFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("application/json")
		s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, _, _ := s.make()
		start := time.Now()
		q := s.run(r, "/v1/chat/completions", chatBody)
		w := <-up.write
		_, _ = io.WriteString(w, `[{"candidates":[]}`)
		synctest.Wait()
		if _, text := q.sink.text(); text != `[{"candidates":[]}` || time.Since(start) != 0 {
			t.Errorf("held: %q", text)
		}
		_, _ = io.WriteString(w, "]")
		_ = w.Close()
		<-q.done
	})
}

// Nothing of an attempt that failed is seen in the answer.
func TestHeadersOfTheFirstDoNotLeak(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	m.on("a1", then(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("X-Request-Id", "one")
		h.Set("Openai-Version", "one")
		h.Set("Content-Disposition", "attachment")
		h.Set("Cache-Control", "public")
	}, events(chunkRole), cutOff))
	g := s.start()
	res := g.chat()
	res.wants(t, 200, "hi")
	for name, want := range map[string]string{
		"X-Upstream-Request-Id": "", "Openai-Version": "", "Content-Disposition": "", "Cache-Control": "no-store",
		"X-Accel-Buffering": "", "Content-Type": "application/json", "Retry-After": "",
	} {
		if got := res.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What passes of headers in both directions, and what does not.
func TestHeaders(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	a.EditHeader = func(in *http.Request, h http.Header) { h.Set("X-From", in.Header.Get("X-Me")) }
	m.on("a1", says(200, chatAnswer,
		"X-Request-Id", "up", "Cache-Control", "private", "Openai-Processing-Ms", "12", "X-Should-Retry", "false",
		"X-Ratelimit-Limit-Requests", "10", "Set-Cookie", "a=b", "Server", "nginx", "Connection", "keep-alive", "Trailer", "X"))
	g := s.start()
	res := g.post("/v1/chat/completions?beta=true&key=sk-client&ke%79=sk-client&%6Bey=sk-client&a=%20b", chatBody,
		"Authorization", "Bearer sk-client", "X-Api-Key", "sk-client", "Api-Key", "sk-client", "X-Goog-Api-Key", "sk-client",
		"Cookie", "a=b", "X-Floway-Group", "team", "Accept", "application/json", "Accept-Encoding", "br", "Openai-Beta", "x=1",
		"Openai-Organization", "org", "X-Stainless-Lang", "go", "User-Agent", "client", "Idempotency-Key", "once", "Traceparent", "00",
		"X-Me", "me", "Connection", "Authorization")
	res.wants(t, 200, "hi")
	sent := m.seen()[0]
	if sent.query != "beta=true&a=%20b" || sent.path != "/v1/chat/completions" || sent.method != "POST" || sent.body != chatBody {
		t.Errorf("%+v", sent)
	}
	delete(sent.header, "Content-Length")
	want := http.Header{
		"Authorization": {"Bearer sk-a1-secret"}, "Content-Type": {"application/json"}, "Accept": {"application/json"},
		"Openai-Beta": {"x=1"}, "Idempotency-Key": {"once"}, "User-Agent": {"floway"}, "X-From": {"me"},
	}
	for name := range sent.header {
		if sent.header.Get(name) != want.Get(name) {
			t.Errorf("sent %s: %v", name, sent.header[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not sent: %v", want)
	}
	timing := res.header.Get("Server-Timing")
	if !strings.HasPrefix(timing, "upstream;dur=0.000, gateway;dur=0.000") { // the clock stands still
		t.Error(timing)
	}
	res.header.Del("Date")
	res.header.Del("Server-Timing")
	down := http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {whole}, "Cache-Control": {"private"}, "Openai-Processing-Ms": {"12"},
		"X-Should-Retry": {"false"}, "X-Upstream-Request-Id": {"up"}, "X-Request-Id": {res.trace.Request},
	}
	for name := range res.header {
		if res.header.Get(name) != down.Get(name) {
			t.Errorf("got %s: %v", name, res.header[name])
		}
		delete(down, name)
	}
	if len(down) > 0 {
		t.Errorf("not there: %v", down)
	}
}

// The client's credential stays here, however its name is spelled, and so does the
// version that Azure's clients name.
func TestUpstreamQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"": "", "beta=true": "beta=true", "key=x": "", "%6bey=x": "", "k%65y=x": "", "alt=sse&key=x&a=b": "alt=sse&a=b",
		"monkey=1&key=x": "monkey=1", "key": "", "a=%zz": "a=%zz", "%zz=a": "", "keys=1": "keys=1", "a=key=b": "a=key=b", "a=%20": "a=%20",
		"api-version=2024-10-21": "", "include=x&%61pi-version=v": "include=x", "my-api-version=1": "my-api-version=1",
	} {
		if got := upstreamQuery(raw); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

// The transport does not send a request again by itself, not even one with a key
// of idempotency: the account would know nothing of it.
func TestNoHiddenAttempts(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	m.on("a1", nil, cutOff) // the first leaves a connection to be used again
	g := s.start()
	g.chat().wants(t, 200, "hi")
	res := g.post("/v1/chat/completions", chatBody, "Idempotency-Key", "once")
	res.wants(t, 200, "hi")
	if n := len(m.seen()); n != 3 || res.trace.Attempts != 2 || len(g.books.records()) != 3 {
		t.Errorf("%d calls, %d attempts", n, res.trace.Attempts)
	}
	// Nor one that the configuration gives such a key.
	a.EditHeader = func(_ *http.Request, h http.Header) {
		h.Set("X-Idempotency-Key", "twice")
		h.Set("Host", "elsewhere.example")
	}
	m.on("a1", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "elsewhere.example" || r.Header.Get("X-Idempotency-Key") != "twice" {
			t.Errorf("%s %v", r.Host, r.Header)
		}
		panic(http.ErrAbortHandler)
	})
	if res := g.chat(); res.trace.Attempts != 2 || len(m.seen()) != 5 {
		t.Errorf("%d calls, %d attempts", len(m.seen()), res.trace.Attempts)
	}
}

// The body is sent in one piece, of known length, and the same for each attempt.
func TestBodyIsTheSame(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1 a2")
	s.upstream("b", m.URL, "b1", withAlias("gpt-5", "other"))
	s.route("gpt-5", keypool.First, RouteTarget{Upstream: "a", Model: "gpt-5"}, RouteTarget{Upstream: "b", Model: "gpt-5"})
	body := "{ \"messages\" : [1.0, 12345678901234567890, \"\\u00e9\"],\r\n\t\"model\":\"gpt-5\", \"x\":null }\n"
	for _, key := range []string{"a1", "a2"} {
		m.on(key, fails(500, ""))
	}
	g := s.start()
	g.post("/v1/chat/completions", body).wants(t, 200, "hi")
	calls := m.seen()
	if calls[0].body != body || calls[1].body != body || calls[2].body != strings.Replace(body, "gpt-5", "other", 1) {
		t.Errorf("%q", calls)
	}
	for _, c := range calls {
		if c.header.Get("Content-Length") != strconv.Itoa(len(c.body)) {
			t.Errorf("%v", c.header)
		}
	}
}

// An error of making the request ready is an attempt that was not sent.
func TestAuthorizeFails(t *testing.T) {
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1")
	a.Credentials[0].Set(noToken{})
	g := s.start()
	g.chat().wants(t, 502, "could not be reached")
	if r := g.books.records()[0]; r.Outcome != usage.Failed || r.Source != usage.Upstream || len(m.seen()) != 0 {
		t.Errorf("%+v", r)
	}
	wantIdle(t, a)
}

type noToken struct{}

func (noToken) Authorize(*http.Request) error { return errors.New("no such host") }
func (noToken) Renew(http.Header) bool        { return false }
