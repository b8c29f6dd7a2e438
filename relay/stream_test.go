package relay

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

// An answer passes byte for byte, but for the usage that the client did not ask for.
func TestStreamPasses(t *testing.T) {
	for _, tt := range []struct {
		name, body, want, sent string
	}{
		{
			"usage hidden", streamBody, chunkRole + chunkWord + chunkFinish + chunkDone,
			`{"stream_options":{"include_usage":true},` + streamBody[1:],
		},
		{
			"usage asked for", `{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}`,
			chunkRole + chunkWord + chunkFinish + chunkUsage + chunkDone, `{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			m.on("a1", then(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Request-Id", "up") },
				events(chunkRole, chunkWord, chunkFinish, chunkUsage, chunkDone)))
			g := s.start()
			res := g.post("/v1/chat/completions", tt.body)
			if res.status != 200 || res.body != tt.want || res.err != nil {
				t.Errorf("%d %v %s", res.status, res.err, res.body)
			}
			for name, want := range map[string]string{
				"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no",
				"X-Upstream-Request-Id": "up",
			} {
				if got := res.header.Get(name); got != want {
					t.Errorf("%s: %q", name, got)
				}
			}
			if got := m.seen()[0].body; got != tt.sent {
				t.Errorf("sent %s", got)
			}
			if r := g.books.records()[0]; r.Outcome != usage.Served || r.Tokens.Output != 2 || r.Source != usage.Upstream || r.Partial {
				t.Errorf("%+v", r)
			}
			wantIdle(t, a)
		})
	}
}

// How streams end. body is what the client gets in the end, broken whether the
// connection broke under it.
func TestStreamEnds(t *testing.T) {
	huge := `data: {"id":"chatcmpl-2","choices":[{"index":0,"delta":{"content":"` + strings.Repeat("x", 300<<10) + `"}}]}` + "\n\n"
	cut := `data: {"error":{"message":"the upstream broke off in the middle of the answer","type":"server_error","param":null,"code":"upstream_error"}}` + "\n\n"
	for _, tt := range []struct {
		name    string
		answer  http.HandlerFunc
		body    string
		broken  bool
		healed  bool // by the next key
		outcome usage.Outcome
		source  usage.Source
	}{
		{
			name: "well", answer: events(chunkRole, chunkWord, chunkFinish, chunkUsage, chunkDone),
			body: chunkRole + chunkWord + chunkFinish + chunkDone, outcome: usage.Served, source: usage.Upstream,
		},
		{
			name: "without [DONE]", answer: events(chunkRole, chunkWord, chunkFinish, chunkUsage),
			body: chunkRole + chunkWord + chunkFinish, outcome: usage.Served, source: usage.Upstream,
		},
		{
			name: "without usage", answer: events(chunkRole, chunkWord, chunkFinish, chunkDone),
			body: chunkRole + chunkWord + chunkFinish + chunkDone, outcome: usage.Served, source: usage.Estimated,
		},
		{
			name: "without the last blank line", answer: events(chunkRole, chunkWord, chunkFinish, "data: [DONE]"),
			body: chunkRole + chunkWord + chunkFinish + "data: [DONE]", outcome: usage.Served, source: usage.Estimated,
		},
		{
			name: "clean end without a reason", answer: events(chunkRole, chunkWord),
			body: chunkRole + chunkWord + cut, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "cut behind content", answer: then(events(chunkRole, chunkWord), cutOff),
			body: chunkRole + chunkWord + cut, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "cut in the middle of an event", answer: then(events(chunkRole, chunkWord, chunkWord[:40]), cutOff),
			body: chunkRole + chunkWord + cut, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "cut in the middle of a huge event", answer: then(events(chunkRole, chunkWord, huge[:250<<10]), cutOff),
			body: chunkRole + chunkWord + huge[:250<<10] + "\n\n" + cut, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "cut behind the usage", answer: then(events(chunkRole, chunkWord, chunkUsage), cutOff),
			body: chunkRole + chunkWord + cut, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "cut behind [DONE]", answer: then(events(chunkRole, chunkWord, chunkFinish, chunkUsage, chunkDone), cutOff),
			body: chunkRole + chunkWord + chunkFinish + chunkDone, outcome: usage.Served, source: usage.Upstream,
		},
		{
			name: "error event behind content", answer: events(chunkRole, chunkWord, chunkError),
			body: chunkRole + chunkWord + chunkError, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{
			name: "error event and a cut", answer: then(events(chunkRole, chunkWord, chunkError), cutOff),
			body: chunkRole + chunkWord + chunkError, broken: true, outcome: usage.Cut, source: usage.Estimated,
		},
		{name: "cut before content", answer: then(events(chunkRole), cutOff), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "cut in the first event", answer: then(events(chunkRole[:50]), cutOff), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "comments and a cut", answer: then(events(": hello\n\n", ": hello\n\n"), cutOff), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "nothing", answer: events(), healed: true, outcome: usage.Cut, source: usage.Unknown},
		{name: "error event before content", answer: events(chunkRole, chunkError), healed: true, outcome: usage.Refused, source: usage.Upstream},
		{name: "error event at once", answer: events(chunkError), healed: true, outcome: usage.Refused, source: usage.Upstream},
		{
			name: "huge event", answer: events(chunkRole, huge, chunkFinish, chunkUsage, chunkDone),
			body: chunkRole + huge + chunkFinish + chunkDone, outcome: usage.Served, source: usage.Upstream,
		},
		{
			name: "packed", answer: packedEvents(chunkRole, chunkWord, chunkFinish, chunkUsage, chunkDone),
			body: chunkRole + chunkWord + chunkFinish + chunkDone, outcome: usage.Served, source: usage.Upstream,
		},
		{
			name: "with CR LF and comments", answer: events(": hi\r\n\r\n", crlf(chunkRole), crlf(chunkWord), ": hi\r\n\r\n", crlf(chunkFinish), crlf(chunkUsage), crlf(chunkDone)),
			body: ": hi\r\n\r\n" + crlf(chunkRole+chunkWord) + ": hi\r\n\r\n" + crlf(chunkFinish+chunkDone), outcome: usage.Served, source: usage.Upstream,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			s.config.Retries = 1
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1 a2")
			m.on("a1", tt.answer)
			m.on("a2", events("data: [DONE]\n\n"))
			g := s.start()
			res := g.stream()
			if tt.healed {
				tt.body = "data: [DONE]\n\n"
			}
			if res.status != 200 || res.body != tt.body {
				t.Errorf("%d %.600s\nwant %.600s", res.status, res.body, tt.body)
			}
			if broken := errors.Is(res.err, io.ErrUnexpectedEOF); broken != tt.broken {
				t.Errorf("end: %v", res.err)
			}
			r := g.books.records()[0]
			if r.Outcome != tt.outcome || r.Source != tt.source || r.Final == tt.healed {
				t.Errorf("%+v", r)
			}
			if tt.source == usage.Estimated && (r.Tokens.Input == 0 || r.Tokens.Output == 0 || !r.Estimating || r.Partial != (tt.name == "cut behind the usage")) {
				t.Errorf("%+v", r)
			}
			if tt.source == usage.Unknown && r.Tokens.Input == 0 {
				t.Errorf("%+v", r)
			}
			wantIdle(t, a)
		})
	}
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func packedEvents(pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "Text/Event-Stream; charset=utf-8")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		for _, p := range pieces {
			_, _ = io.WriteString(z, p)
			_ = z.Flush()
			_ = http.NewResponseController(w).Flush()
		}
		_ = z.Close()
	}
}

// The errors of other dialects' streams.
func TestStreamEndsInDialect(t *testing.T) {
	created := "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_7\",\"model\":\"gpt-5-2026\"},\"sequence_number\":0}\n\n"
	delta := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"word\",\"sequence_number\":1}\n\n"
	failed := "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"id\":\"resp_7\",\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"oops\"},\"usage\":{\"input_tokens\":9,\"output_tokens\":4,\"total_tokens\":13}},\"sequence_number\":2}\n\n"
	s := newSetup(t)
	s.config.Retries = 0
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g := s.start()
	ask := func(answer http.HandlerFunc) got {
		m.on("a1", answer)
		return g.post("/v1/responses", `{"model":"gpt-5","stream":true,"input":"hi"}`)
	}
	res := ask(then(events(created, delta), cutOff))
	if !strings.HasPrefix(res.body, created+delta+"event: error\ndata: {\"type\":\"error\"") || !strings.Contains(res.body, `"sequence_number":2`) || res.err == nil {
		t.Errorf("%v %s", res.err, res.body)
	}
	// response.failed is an end of its own, which a direct call would have too.
	if res = ask(events(created, delta, failed)); res.body != created+delta+failed || res.err != nil {
		t.Errorf("%v %s", res.err, res.body)
	}
	if r := g.books.records()[1]; r.Outcome != usage.Cut || r.Tokens.Output != 4 || r.Source != usage.Upstream {
		t.Errorf("%+v", r)
	}
	ask(events(created, failed)).wants(t, 502, `"message":"oops"`)
	ask(events(created, strings.Replace(failed, "server_error", "rate_limit_exceeded", 1))).wants(t, 429, `"message":"oops"`)
}

// A stream of an operation whose streams have no end of their own.
func TestStreamWithoutEnds(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	body := "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n"
	m.on("a1", events(body))
	g := s.start()
	res := g.post("/v1/audio/speech", `{"model":"tts-1","input":"hi","stream_format":"sse"}`)
	if res.body != body || res.err != nil {
		t.Errorf("%v %s", res.err, res.body)
	}
	if r := g.books.records()[0]; r.Outcome != usage.Served || r.Tokens.Output != 0 || r.Source != usage.Estimated {
		t.Errorf("%+v", r)
	}
}

// Each event is with the client before the upstream sends the next.
func TestEventsAreFlushed(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	arrived := make(chan struct{})
	m.on("a1", func(w http.ResponseWriter, r *http.Request) {
		events(chunkRole, chunkWord)(w, r)
		for range 5 {
			<-arrived
			events(chunkWord)(w, r)
		}
		<-arrived
		events(chunkFinish, chunkDone)(w, r)
	})
	g := s.start()
	res, err := g.server.Client().Do(g.request("/v1/chat/completions", streamBody))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	words := 0
	for lines.Scan() {
		if strings.Contains(lines.Text(), "word") {
			words++
			arrived <- struct{}{}
		}
	}
	if words != 6 {
		t.Errorf("%d words", words)
	}
	<-g.traces
}

// A client that leaves takes the upstream's call with it, and what was seen is
// booked as an estimate.
func TestClientLeaves(t *testing.T) {
	for _, when := range []string{"before the header", "before content", "behind content", "behind the usage"} {
		t.Run(when, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			a := s.upstream("a", m.URL, "a1")
			asked, ended := make(chan struct{}), make(chan struct{})
			m.on("a1", func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				switch when {
				case "before content":
					events(chunkRole)(w, r)
				case "behind content":
					events(chunkRole, chunkWord)(w, r)
				case "behind the usage":
					events(chunkRole, chunkWord, chunkUsage, chunkWord)(w, r)
				}
				close(asked)
				<-r.Context().Done()
			})
			g := s.start()
			ctx, leave := context.WithCancel(t.Context())
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				res, err := g.server.Client().Do(g.request("/v1/chat/completions", streamBody).WithContext(ctx))
				if err == nil {
					_, _ = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
			}()
			<-asked
			leave()
			<-answered
			<-ended // else the test hangs
			trace := <-g.traces
			r := g.books.records()[0]
			if r.Outcome != usage.Left || !r.Final || r.Tokens.Input == 0 || trace.Outcome != usage.Left {
				t.Errorf("%+v", r)
			}
			if got := states(a); got != "a1 ok" {
				t.Error(got)
			}
			wantIdle(t, a)
		})
	}
}

// silence is an upstream without a network whose answer the test writes.
type silence struct {
	asked chan *http.Request
	write chan *io.PipeWriter
}

func newSilence(kind string) (*silence, option) {
	s := &silence{make(chan *http.Request, 10), make(chan *io.PipeWriter, 10)}
	return s, withTransport(func(req *http.Request) (*http.Response, error) {
		body, w := newTied(req.Context())
		s.asked <- req
		s.write <- w
		return respond(200, kind, body), nil
	})
}

// What comes before content is held back, 200 ms at most.
func TestHoldIsBounded(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/json"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t)
			s.config.Now = time.Now
			up, transport := newSilence(kind)
			first, rest := chunkRole, chunkWord+chunkFinish+chunkDone
			if kind == "application/json" {
				first, rest = chatAnswer[:20], chatAnswer[20:]
			}
			a := s.upstream("a", "http://a.example", "a1", synctestClock, transport)
			r, books, _ := s.make()
			q := s.run(r, "/v1/chat/completions", streamBody)
			w := <-up.write
			_, _ = io.WriteString(w, first)
			time.Sleep(maxHold - 1)
			synctest.Wait()
			if status, text := q.sink.text(); status != 0 || text != "" {
				t.Errorf("%s: %d %s before its time", kind, status, text)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if status, text := q.sink.text(); status != 200 || text != first {
				t.Errorf("%s: %d %s after 200 ms", kind, status, text)
			}
			_, _ = io.WriteString(w, rest)
			_ = w.Close()
			<-q.done
			if got := q.sink.body.String(); got != first+rest || q.aborted {
				t.Errorf("%s: %s", kind, got)
			}
			if rec := books.records()[0]; rec.FirstByte == 0 || rec.Outcome != usage.Served || rec.ResponseBytes != int64(len(first+rest)) {
				t.Errorf("%+v", rec)
			}
			wantIdle(t, a)
		})
	}
}

// Also the header alone is not held longer.
func TestHeaderIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("text/event-stream")
		s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, _, _ := s.make()
		q := s.run(r, "/v1/chat/completions", streamBody)
		w := <-up.write
		time.Sleep(maxHold)
		synctest.Wait()
		if status, _ := q.sink.text(); status != 200 {
			t.Errorf("status %d", status)
		}
		// From here on nothing is healed.
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
		<-q.done
		if !q.aborted || q.trace.Attempts != 1 || !strings.Contains(q.sink.body.String(), "broke off") {
			t.Errorf("%+v %s", q.trace, q.sink.body.String())
		}
	})
}

// Content ends the holding at once, as does too much of what is none.
func TestContentIsNotHeld(t *testing.T) {
	for _, first := range []string{chunkRole + chunkWord, strings.Repeat(": nothing to say\n\n", 4000)} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t)
			s.config.Now = time.Now
			up, transport := newSilence("text/event-stream")
			s.upstream("a", "http://a.example", "a1", synctestClock, transport)
			r, _, _ := s.make()
			start := time.Now()
			q := s.run(r, "/v1/chat/completions", streamBody)
			w := <-up.write
			_, _ = io.WriteString(w, first)
			synctest.Wait()
			if status, text := q.sink.text(); status != 200 || !strings.HasPrefix(first, text) || len(text) < len(first)/2 || time.Since(start) != 0 {
				t.Errorf("%d %d of %d bytes", status, len(text), len(first))
			}
			_, _ = io.WriteString(w, chunkWord+chunkFinish+chunkDone)
			_ = w.Close()
			<-q.done
			if !strings.HasSuffix(q.sink.body.String(), chunkDone) {
				t.Error("incomplete")
			}
		})
	}
}

// The timer and the end of a failed answer meet: whoever is first decides, and
// the client sees one answer or the other. Under the race detector.
func TestHoldMeetsFailure(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t)
			s.config.Now = time.Now
			n := 0
			s.upstream("a", "http://a.example", "a1 a2", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
				body, w := newTied(req.Context())
				if n++; n == 1 {
					go func() {
						_, _ = io.WriteString(w, chunkRole)
						time.Sleep(maxHold) // until the timer rings
						_, _ = io.WriteString(w, chunkError)
						_ = w.Close()
					}()
				} else {
					go func() {
						_, _ = io.WriteString(w, chunkRole+chunkWord+chunkFinish+chunkDone)
						_ = w.Close()
					}()
				}
				return respond(200, "text/event-stream", body), nil
			}))
			r, _, _ := s.make()
			q := s.run(r, "/v1/chat/completions", streamBody)
			<-q.done
			switch got := q.sink.body.String(); {
			case q.aborted && got == chunkRole+chunkError && n == 1:
			case !q.aborted && got == chunkRole+chunkWord+chunkFinish+chunkDone && n == 2:
			default:
				t.Errorf("%d attempts, aborted %v: %s", n, q.aborted, got)
			}
		})
	}
}

// Once a failed answer is given up, the timer comes too late: it must not commit
// what another key is to heal.
func TestTimerComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		n := 0
		a := s.upstream("a", "http://a.example", "a1 a2", synctestClock, withTransport(func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return respond(200, "text/event-stream", readCloser(chunkRole+chunkError)), nil
			}
			return respond(200, "text/event-stream", readCloser(chunkRole+chunkWord+chunkFinish+chunkDone)), nil
		}))
		a.Provider = ponders{a.Provider}
		r, _, _ := s.make()
		q := s.run(r, "/v1/chat/completions", streamBody)
		<-q.done
		if got := q.sink.body.String(); q.aborted || got != chunkRole+chunkWord+chunkFinish+chunkDone {
			t.Errorf("aborted %v: %s", q.aborted, got)
		}
	})
}

// ponders is a provider that takes its time to say what a refusal means.
type ponders struct{ provider.Upstream }

func (p ponders) Meaning(status int, problem *dialect.Problem) provider.Meaning {
	time.Sleep(2 * maxHold)
	return p.Upstream.Meaning(status, problem)
}

// Silence in the middle of a stream.
func TestIdleTimeout(t *testing.T) {
	for _, idle := range []time.Duration{0, 100 * time.Millisecond, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t)
			s.config.Now = time.Now
			up, transport := newSilence("text/event-stream")
			a := s.upstream("a", "http://a.example", "a1", synctestClock, transport)
			a.Idle = idle
			if idle == 0 {
				idle = DefaultIdle
			}
			r, books, _ := s.make()
			q := s.run(r, "/v1/chat/completions", streamBody)
			w := <-up.write
			for range 3 { // each piece sets the time back
				_, _ = io.WriteString(w, chunkWord)
				time.Sleep(idle - 1)
			}
			_, _ = io.WriteString(w, chunkWord)
			synctest.Wait()
			start := time.Now()
			<-q.done
			if got := time.Since(start); got != idle {
				t.Errorf("cut after %v, want %v", got, idle)
			}
			if !q.aborted || !strings.Contains(q.sink.body.String(), "fell silent") {
				t.Errorf("aborted %v, %s", q.aborted, q.sink.body.String())
			}
			if rec := books.records()[0]; rec.Outcome != usage.Cut {
				t.Errorf("%+v", rec)
			}
			wantIdle(t, a)
		})
	}
}

// Time that a slow client takes is not held against the upstream.
func TestSlowClientIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("text/event-stream")
		a := s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		a.Idle = time.Second
		r, _, _ := s.make()
		q := s.run(r, "/v1/chat/completions", streamBody)
		q.sink.delay = 3 * time.Second // each flush
		w := <-up.write
		_, _ = io.WriteString(w, chunkWord)
		_, _ = io.WriteString(w, chunkWord+chunkFinish+chunkDone)
		_ = w.Close()
		<-q.done
		if q.aborted || !strings.HasSuffix(q.sink.body.String(), chunkDone) {
			t.Error(q.sink.body.String())
		}
	})
}

// An upstream that does not end its stream behind the last event.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("text/event-stream")
		a := s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, books, _ := s.make()
		q := s.run(r, "/v1/chat/completions", streamBody)
		w := <-up.write
		start := time.Now()
		_, _ = io.WriteString(w, chunkRole+chunkWord+chunkFinish+chunkUsage+chunkDone)
		synctest.Wait()
		if _, text := q.sink.text(); !strings.HasSuffix(text, chunkDone) {
			t.Errorf("the end is not with the client: %s", text)
		}
		if got := books.outcomes(); got != "a/a1 served" { // already
			t.Error(got)
		}
		// What it says now does not win it time.
		noticed := make(chan struct{})
		go func() {
			defer close(noticed)
			for {
				time.Sleep(time.Second / 3)
				if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
					return
				}
			}
		}()
		<-q.done
		if got := time.Since(start); got != lingering || q.aborted {
			t.Errorf("ended after %v, aborted %v", got, q.aborted)
		}
		<-noticed
		wantIdle(t, a)
	})
}

// The account is written before the client can see the end of an answer.
func TestSettledBeforeTheEnd(t *testing.T) {
	for _, tt := range []struct {
		kind   string
		length int64
		pieces []string
		end    string // what must not be seen before
	}{
		{"text/event-stream", -1, []string{chunkRole + chunkWord, chunkFinish, chunkUsage, chunkDone}, chunkDone},
		{"text/event-stream", -1, []string{chunkRole + chunkWord + chunkFinish + chunkUsage + chunkDone}, chunkDone},
		{"application/json", int64(len(chatAnswer)), []string{chatAnswer[:50], chatAnswer[50:]}, chatAnswer[50:]},
		{"audio/mpeg", 6, []string{"abc", "def"}, "def"},
	} {
		s := newSetup(t)
		s.upstream("a", "http://a.example", "a1", withTransport(func(*http.Request) (*http.Response, error) {
			var parts []io.Reader
			for _, p := range tt.pieces {
				parts = append(parts, strings.NewReader(p))
			}
			res := respond(200, tt.kind, io.NopCloser(io.MultiReader(parts...)))
			res.ContentLength = tt.length
			return res, nil
		}))
		r, books, _ := s.make()
		call, in, _ := inMemory("/v1/chat/completions", streamBody)
		w := &watches{sink: newSink()}
		w.look = func(text string) {
			if settled := len(books.records()) == 1; settled != strings.HasSuffix(text, tt.end) {
				t.Errorf("%s: settled %v when the client has %q", tt.kind, settled, text)
			}
		}
		r.Serve(w, in, call, s.client, "", &Trace{Request: "r"})
		if got := w.body.String(); !strings.HasSuffix(got, tt.end) {
			t.Error(got)
		}
	}
}

type watches struct {
	*sink
	look func(text string)
}

func (w *watches) Write(p []byte) (int, error) {
	n, err := w.sink.Write(p)
	w.look(w.body.String())
	return n, err
}

// A client that leaves while nothing was worth sending yet.
func TestClientLeavesInThePreamble(t *testing.T) {
	for _, status := range []int{200, 500} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t)
			s.config.Now = time.Now
			var w *io.PipeWriter
			a := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
				body, pipe := newTied(req.Context())
				w = pipe
				return respond(status, "text/event-stream", body), nil
			}))
			r, books, _ := s.make()
			q := s.run(r, "/v1/chat/completions", streamBody)
			synctest.Wait()
			_, _ = io.WriteString(w, chunkRole)
			synctest.Wait()
			q.leave()
			<-q.done
			if rec := books.records()[0]; rec.Outcome != usage.Left || !rec.Final || q.sink.status != statusLeft || q.trace.Attempts != 1 {
				t.Errorf("status %d, %+v", q.sink.status, rec)
			}
			if got := states(a); got != "a1 ok" {
				t.Error(got)
			}
			wantIdle(t, a)
		})
	}
}

// The same over HTTP/2 on both sides: events at once, a cut that looks cut, and a
// client's leave that reaches the upstream.
func TestHTTP2(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	up := httptest.NewUnstartedServer(m)
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	a := s.upstream("a", up.URL, "a1 a2", func(u *Upstream, _ *keypool.Config) {
		u.Transport = up.Client().Transport
		t.Cleanup(up.Client().CloseIdleConnections)
	})
	g := s.start()
	front := httptest.NewUnstartedServer(g)
	front.EnableHTTP2 = true
	front.StartTLS()
	g.server.Close()
	g.server = front
	if res := g.stream(); res.err != nil || res.body != chunkRole+chunkWord+chunkFinish+chunkDone {
		t.Errorf("%v %s", res.err, res.body)
	}
	m.on("a1", fails(500, ""))
	g.chat().wants(t, 200, "hi")
	m.on("a1", then(events(chunkRole, chunkWord), cutOff))
	if res := g.stream(); res.err == nil || !strings.HasPrefix(res.body, chunkRole+chunkWord) {
		t.Errorf("%v %s", res.err, res.body)
	}
	ended := make(chan struct{})
	m.on("a1", func(w http.ResponseWriter, r *http.Request) {
		events(chunkRole, chunkWord)(w, r)
		<-r.Context().Done()
		close(ended)
	})
	res, err := front.Client().Do(g.request("/v1/chat/completions", streamBody))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, len(chunkRole+chunkWord))); err != nil || res.ProtoMajor != 2 {
		t.Error(res.Proto, err)
	}
	_ = res.Body.Close()
	<-ended
	<-g.traces
	if got := g.books.outcomes(); got != "a/a1 served, a/a1 refused, a/a2 served, a/a1 cut, a/a1 left" {
		t.Error(got)
	}
	wantIdle(t, a)
}

// A client that cannot be written to has left.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("text/event-stream")
		a := s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, books, _ := s.make()
		q := s.run(r, "/v1/chat/completions", streamBody)
		q.sink.err = errors.New("broken pipe")
		w := <-up.write
		_, _ = io.WriteString(w, chunkRole+chunkWord)
		<-q.done
		if _, err := io.WriteString(w, chunkWord); err == nil {
			t.Error("the upstream's call goes on")
		}
		if rec := books.records()[0]; rec.Outcome != usage.Left || rec.Source != usage.Estimated || rec.Tokens.Output == 0 {
			t.Errorf("%+v", rec)
		}
		wantIdle(t, a)
	})
}

// Also when only the last piece cannot be written: what was settled stays.
func TestLastWriteFails(t *testing.T) {
	for kind, answer := range map[string]string{"application/json": chatAnswer, "text/event-stream": chunkRole + chunkWord + chunkFinish + chunkUsage + chunkDone} {
		s := newSetup(t)
		a := s.upstream("a", "http://a.example", "a1", withTransport(func(*http.Request) (*http.Response, error) {
			return respond(200, kind, readCloser(answer)), nil
		}))
		r, books, _ := s.make()
		call, in, _ := inMemory("/v1/chat/completions", streamBody)
		w, trace := newSink(), Trace{Request: "r"}
		w.err = errors.New("broken pipe")
		func() {
			defer func() { _ = recover() }()
			r.Serve(w, in, call, s.client, "", &trace)
		}()
		if rec := books.records()[0]; rec.Outcome != usage.Served || rec.Tokens.Output != 2 || trace.Outcome != usage.Served {
			t.Errorf("%+v", rec)
		}
		wantIdle(t, a)
	}
}

// The key is reported to serve with the first content, not at the answer's end:
// others may be waiting to know. A cut after that is held against nobody.
func TestServedWithFirstContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now, s.config.Retries = time.Now, 0
		var w *io.PipeWriter
		n := 0
		a := s.upstream("a", "http://a.example", "a1", synctestClock, withTransport(func(req *http.Request) (*http.Response, error) {
			if n++; n <= 3 {
				return nil, errors.New("EOF")
			}
			body, pipe := newTied(req.Context())
			w = pipe
			return respond(200, "text/event-stream", body), nil
		}))
		r, _, _ := s.make()
		for i := range 3 {
			<-s.run(r, "/v1/chat/completions", fmt.Sprintf(`{"model":"m","user":"%d"}`, i)).done
		}
		if got := states(a); got != "a1 unreachable" {
			t.Fatal(got)
		}
		q := s.run(r, "/v1/chat/completions", streamBody)
		synctest.Wait()
		_, _ = io.WriteString(w, chunkRole)
		synctest.Wait()
		if got := states(a); got == "a1 ok" {
			t.Error("healed before content")
		}
		_, _ = io.WriteString(w, chunkWord)
		synctest.Wait()
		if got := states(a); got != "a1 ok" {
			t.Errorf("%s after content", got)
		}
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
		<-q.done
		if k := a.Pool.States()[0]; k.LastError != keypool.Unreachable {
			t.Errorf("blamed for a cut after content: %v", k.LastError)
		}
	})
}

// A panic on the way (a writer of somebody else's) leaks nothing.
func TestPanicLeaksNothing(t *testing.T) {
	for _, at := range []string{"transport", "writer"} {
		s := newSetup(t)
		a := s.upstream("a", "http://a.example", "a1", withTransport(func(*http.Request) (*http.Response, error) {
			if at == "transport" {
				panic("oops")
			}
			return respond(200, "application/json", readCloser(chatAnswer)), nil
		}))
		r, books, _ := s.make()
		call, in, _ := inMemory("/v1/chat/completions", chatBody)
		func() {
			defer func() { _ = recover() }()
			r.Serve(panics{newSink()}, in, call, s.client, "", &Trace{Request: "r"})
		}()
		if got := books.outcomes(); at == "transport" && got != "a/a1 left" || at == "writer" && got != "a/a1 served" {
			t.Errorf("%s: %s", at, got)
		}
		if r.buffered.Load() != 0 {
			t.Error("the body is still counted")
		}
		wantIdle(t, a)
	}
}

type panics struct{ *sink }

func (panics) Write([]byte) (int, error) { panic("oops") }

// Thousands of requests of all kinds at once: nothing leaks, nothing is mixed up.
func TestManyAtOnce(t *testing.T) {
	s := newSetup(t)
	s.config.Now = time.Now
	m := newMock(t)
	a := s.upstream("a", m.URL, "a1 a2 a3 a4", synctestClock, withMax(8), withPolicy(keypool.RoundRobin))
	b := s.upstream("b", m.URL, "b1", synctestClock)
	for _, key := range []string{"a1", "a2", "a3", "a4", "b1"} {
		var script []http.HandlerFunc
		for range 20 {
			script = append(script, fails(500, ""), nil, events(chunkRole, chunkError), nil, then(events(chunkRole, chunkWord), cutOff), nil, nil, cutOff, fails(400, ""), nil)
		}
		m.on(key, script...)
	}
	s.route("m", keypool.RoundRobin, RouteTarget{Upstream: "a", Model: "m"}, RouteTarget{Upstream: "b", Model: "m"})
	g := s.start()
	done := make(chan error)
	const clients, requests = 8, 50
	for c := range clients {
		go func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range requests {
				body := fmt.Sprintf(`{"model":"m","stream":%v,"messages":[{"role":"user","content":"%d %d"}]}`, i%2 == 0, c, i)
				res, err := client.Post(g.server.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
				if err != nil {
					done <- err
					return
				}
				text, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err == nil && res.StatusCode == 200 && !strings.Contains(string(text), `"stop"`) {
					done <- fmt.Errorf("half an answer with a polite end: %s", text)
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for range clients * requests {
		<-g.traces
	}
	if g.relay.buffered.Load() != 0 {
		t.Errorf("%d bytes of bodies are still counted", g.relay.buffered.Load())
	}
	wantIdle(t, a, b)
}
