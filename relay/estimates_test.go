package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/estimate"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/ledger"
	"github.com/floway/floway/usage/storetest"
)

// estimated waits until everything is estimated and returns what was corrected.
func (g *gateway) estimated() []usage.Record {
	g.t.Helper()
	if err := g.relay.Estimates.Wait(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	g.books.mu.Lock()
	defer g.books.mu.Unlock()
	return g.books.fixed
}

const (
	fox      = "The quick brown fox jumps over the lazy dog, and nobody counts how often."
	foxChat  = `{"model":"gpt-5","messages":[{"role":"system","content":"Be terse."},{"role":"user","content":"` + fox + `"}]}`
	foxFlow  = `{"model":"gpt-5","stream":true,"messages":[{"role":"system","content":"Be terse."},{"role":"user","content":"` + fox + `"}]}`
	foxInput = `{"model":"gpt-5","input":"` + fox + `"`
	foxAsk   = `{"model":"gpt-5","max_tokens":9,"stream":true,"system":"Be terse.","messages":[{"role":"user","content":"` + fox + `"}]}`
)

// words are chunks that say the fox's sentence in pieces, and what they say.
func words() (chunks []string) {
	for _, w := range strings.SplitAfter(fox, " ") {
		chunks = append(chunks, strings.Replace(chunkWord, "word", w, 1))
	}
	return chunks
}

// message is an event of Messages.
func message(kind, data string) string {
	return "event: " + kind + "\ndata: {\"type\":\"" + kind + `"` + data + "}\n\n"
}

// What the upstream did not count is settled at once by bytes, and then corrected
// to the tokenizer's count of the texts.
func TestEstimates(t *testing.T) {
	count := func(text string) int64 { return estimate.Count("gpt-5", text) }
	prompt := 3 + 4 + count("Be terse.") + 4 + count(fox) // as dialect.PromptTexts counts frames
	half := strings.Join(strings.SplitAfter(fox, " ")[:6], "")
	started := message("message_start", `,"message":{"id":"msg_1","model":"claude-x","content":[],"usage":{"input_tokens":77,"cache_read_input_tokens":5,"output_tokens":1}}`)
	said := message("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"`+half+`"}`)
	withUsage := func(u string) string {
		return strings.Replace(chatAnswer, `"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}`, `"usage":`+u, 1)
	}
	plain := strings.Replace(chatAnswer, `"content":"hi"`, `"content":"`+fox+`"`, 1)
	for _, tt := range []struct {
		name, path, body string
		answer           http.HandlerFunc
		leave            bool // the client leaves when it has seen the answer so far
		outcome          usage.Outcome
		want             usage.Tokens
		partial          bool
	}{
		{
			name: "a stream without usage", path: "/v1/chat/completions", body: foxFlow,
			answer:  events(append(append([]string{chunkRole}, words()...), chunkFinish, chunkDone)...),
			outcome: usage.Served, want: usage.Tokens{Input: prompt, Output: count(fox)},
		},
		{
			name: "the client leaves", path: "/v1/chat/completions", body: foxFlow, leave: true,
			answer:  then(events(append([]string{chunkRole}, words()[:6]...)...), untilLeft),
			outcome: usage.Left, want: usage.Tokens{Input: prompt, Output: count(half)},
		},
		{
			name: "a stream that is cut", path: "/v1/chat/completions", body: foxFlow,
			answer:  then(events(append([]string{chunkRole}, words()[:6]...)...), cutOff),
			outcome: usage.Cut, want: usage.Tokens{Input: prompt, Output: count(half)},
		},
		{
			name: "a plain answer without usage", path: "/v1/chat/completions", body: foxChat,
			answer:  says(200, strings.Replace(plain, `"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}`, `"usage":null`, 1)),
			outcome: usage.Served, want: usage.Tokens{Input: prompt, Output: count(fox)},
		},
		{
			name: "Messages: the client leaves", path: "/v1/messages", body: foxAsk, leave: true,
			answer:  then(events(started, message("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`), said), untilLeft),
			outcome: usage.Left, want: usage.Tokens{Input: 77, CacheRead: 5, Output: count(half)}, partial: true,
		},
		{
			name: "Messages: cut", path: "/v1/messages", body: foxAsk,
			answer:  then(events(started, said), cutOff),
			outcome: usage.Cut, want: usage.Tokens{Input: 77, CacheRead: 5, Output: count(half)}, partial: true,
		},
		{
			name: "cut, and more was reported than came", path: "/v1/messages", body: foxAsk,
			answer:  then(events(strings.Replace(started, `"output_tokens":1`, `"output_tokens":500`, 1), said), cutOff),
			outcome: usage.Cut, want: usage.Tokens{Input: 77, CacheRead: 5, Output: 500}, partial: true,
		},
		{
			name: "embeddings without usage", path: "/v1/embeddings", body: foxInput + "}",
			answer:  says(200, `{"object":"list","data":[{"embedding":[0.1,0.2]}]}`),
			outcome: usage.Served, want: usage.Tokens{Input: count(fox)},
		},
		{
			name: "a response in the background", path: "/v1/responses", body: foxInput + `,"background":true}`,
			answer:  says(200, `{"id":"resp_1","object":"response","status":"queued","background":true,"model":"gpt-5","output":[],"usage":null}`),
			outcome: usage.Served, want: usage.Tokens{Input: 3 + 4 + count(fox)},
		},
		{
			name: "all of the usage is absurd", path: "/v1/chat/completions", body: foxChat,
			answer:  says(200, withUsage(`{"prompt_tokens":-5,"completion_tokens":4e15}`)),
			outcome: usage.Served, want: usage.Tokens{Input: prompt, Output: count("hi"), Anomaly: "a count is negative or absurd"},
		},
		{
			name: "the prompt's count is negative", path: "/v1/chat/completions", body: foxChat,
			answer:  says(200, withUsage(`{"prompt_tokens":-5,"completion_tokens":2}`)),
			outcome: usage.Served, want: usage.Tokens{Input: prompt, Output: 2, Anomaly: "a count is negative or absurd"}, partial: true,
		},
		{
			name: "the answer's count is absurd, in a stream", path: "/v1/chat/completions", body: foxFlow,
			answer: events(append(append([]string{chunkRole}, words()...), chunkFinish,
				strings.Replace(chunkUsage, `"completion_tokens":2`, `"completion_tokens":-1`, 1), chunkDone)...),
			outcome: usage.Served, want: usage.Tokens{Input: 9, Output: count(fox), Anomaly: "a count is negative or absurd"}, partial: true,
		},
		{
			name: "Messages: absurd", path: "/v1/messages", body: foxAsk,
			answer: events(strings.Replace(started, `"input_tokens":77,"cache_read_input_tokens":5`, `"input_tokens":-77`, 1), said,
				message("message_delta", `,"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":12}`), message("message_stop", "")),
			outcome: usage.Served, want: usage.Tokens{Input: prompt, Output: 12, Anomaly: "a count is negative or absurd"}, partial: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			speaksAll(t, s.upstream("a", m.URL, "a1"), m.URL)
			m.on("a1", tt.answer)
			s.config.Retries = 0
			var told []usage.Record
			s.config.Estimated = func(r *usage.Record) { told = append(told, *r) }
			g := s.start()
			if tt.leave {
				g.leaves(tt.path, tt.body, strings.Fields(half)[5])
			} else {
				g.post(tt.path, tt.body)
			}
			fixed := g.estimated()
			was := g.books.records()[0]
			if was.Outcome != tt.outcome || was.Source != usage.Estimated || !was.Estimating || was.Partial != tt.partial {
				t.Errorf("settled as %+v", was)
			}
			if was.Tokens.Anomaly != tt.want.Anomaly {
				t.Errorf("anomaly %q, want %q", was.Tokens.Anomaly, tt.want.Anomaly)
			}
			if len(fixed) != 1 || len(told) != 1 || told[0] != fixed[0] {
				t.Fatalf("corrected to %+v, told %+v", fixed, told)
			}
			if now := fixed[0]; now.Tokens != tt.want || now.Estimating || now.Source != usage.Estimated {
				t.Errorf("corrected to %+v, want %+v", now, tt.want)
			}
		})
	}
}

// speaksAll makes an upstream one that offers Messages, too.
func speaksAll(t *testing.T, u *Upstream, baseURL string) {
	t.Helper()
	kind, _ := provider.Lookup("openai")
	made, err := kind.New(provider.Config{Name: u.Name, BaseURL: baseURL, Dialects: []string{"chat", "responses", "messages", "embeddings"}})
	if err != nil {
		t.Fatal(err)
	}
	u.Provider = made
}

// leaves sends a request and goes away when the answer has come so far.
func (g *gateway) leaves(path, body, until string) {
	g.t.Helper()
	ctx, leave := context.WithCancel(g.t.Context())
	defer leave()
	res, err := g.server.Client().Do(g.request(path, body).WithContext(ctx))
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	var seen strings.Builder
	for buf := make([]byte, 256); !strings.Contains(seen.String(), until); {
		n, err := res.Body.Read(buf)
		if seen.Write(buf[:n]); err != nil {
			g.t.Fatalf("%v behind %q", err, seen.String())
		}
	}
	leave()
	<-g.traces
}

// Attempts that were counted, refused, or that nobody can know of, need no
// estimate and hold no texts.
func TestNothingToEstimate(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"counted":            nil,
		"refused":            fails(400, "no"),
		"no answer":          cutOff,
		"an error":           events(chunkError),
		"cut before content": events(chunkRole),
	} {
		s := newSetup(t)
		s.config.Retries = 0
		m := newMock(t)
		s.upstream("a", m.URL, "a1")
		m.on("a1", answer)
		g := s.start()
		g.stream()
		if fixed := g.estimated(); len(fixed) != 0 || g.books.records()[0].Estimating {
			t.Errorf("%s: %+v, %+v", name, g.books.records(), fixed)
		}
	}
}

// gated is a ledger whose corrections wait.
type gated struct {
	*books
	gate chan struct{}
}

func (g gated) Correct(was, now *usage.Record) {
	<-g.gate
	g.books.Correct(was, now)
}

// behindGate starts a gateway whose corrections wait until open is called.
func behindGate(t *testing.T, s *setup) (g *gateway, open func()) {
	g = s.start()
	gate := make(chan struct{})
	g.relay.Ledger = gated{g.books, gate}
	opened := false
	open = func() {
		if !opened {
			opened = true
			close(gate)
		}
	}
	t.Cleanup(open)
	return g, open
}

// The memory of a large body is not used again before it was read for its
// estimate, and then it is.
func TestEstimateHoldsTheBody(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g, open := behindGate(t, s)
	body := func(word string) string {
		return `{"model":"gpt-5","messages":[{"role":"user","content":"` + strings.Repeat(word+" ", 100<<10/(len(word)+1)) + `"}]}`
	}
	m.on("a1", says(200, `{"choices":[]}`), says(200, `{"choices":[]}`))
	g.post("/v1/chat/completions", chatBody) // its correction holds the others up
	g.post("/v1/chat/completions", body("antidisestablishmentarianism"))
	for range 20 { // these have usage, and let go of their bodies
		g.post("/v1/chat/completions", body("a"))
	}
	open()
	fixed := g.estimated()
	want := CountPrompt("gpt-5", dialect.ChatCompletions, []byte(body("antidisestablishmentarianism")))
	if len(fixed) != 2 || fixed[1].Tokens.Input != want {
		t.Errorf("%+v, want %d tokens of input", fixed, want)
	}
}

// When too much waits, attempts keep their count by bytes, are not marked as
// estimating, and are counted.
func TestTooManyEstimates(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g, open := behindGate(t, s)
	silent := says(200, `{"choices":[]}`)
	m.on("a1", silent, silent, nil, silent)
	g.post("/v1/chat/completions", chatBody)
	full := maxTexts - g.relay.Estimates.texts.held.Load()
	g.relay.Estimates.texts.hold(full, maxTexts)
	g.post("/v1/chat/completions", chatBody).wants(t, 200, "choices")
	g.stream().wants(t, 200, "[DONE]") // transcripts find no room and do without
	g.relay.Estimates.texts.Shrink(int(full))
	g.post("/v1/chat/completions", chatBody)
	open()
	if fixed := g.estimated(); len(fixed) != 2 {
		t.Errorf("%d corrections, want 2", len(fixed))
	}
	recs := g.books.records()
	if r := recs[1]; r.Estimating || r.Source != usage.Estimated || r.Tokens.Input == 0 || r.Tokens.Output == 0 {
		t.Errorf("%+v", r)
	}
	if !recs[0].Estimating || !recs[3].Estimating || g.relay.Estimates.Skipped() != 1 {
		t.Errorf("%+v, %d skipped", recs, g.relay.Estimates.Skipped())
	}
}

// Nobody waits for ever for estimates that do not come.
func TestWaitForEstimatesEnds(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	g, open := behindGate(t, s)
	m.on("a1", says(200, `{"choices":[]}`))
	g.post("/v1/chat/completions", chatBody)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.relay.Estimates.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	open()
	if fixed := g.estimated(); len(fixed) != 1 {
		t.Errorf("%+v", fixed)
	}
}

// An estimate that breaks costs nobody more than its precision.
func TestEstimatePanics(t *testing.T) {
	b := newBooks(t)
	was := usage.Record{Request: "req_1", Attempt: 1, Client: "alice", Upstream: "a", Key: "k", Model: "m", Start: time.Now()}
	if err := b.Reserve(&was); err != nil {
		t.Fatal(err)
	}
	was.Outcome, was.Final, was.Source, was.Estimating, was.Tokens.Input = usage.Served, true, usage.Estimated, true, 7
	b.Settle(&was)
	e := new(Estimates)
	e.admit(100)
	e.add(&estimation{was: was, ledger: b, log: zap.NewNop(), op: 255, bytes: 100, body: []byte(chatBody), input: true})
	if err := e.Wait(t.Context()); err != nil || e.Skipped() != 1 || e.texts.held.Load() != 0 {
		t.Errorf("%v, %d skipped, %d bytes held", err, e.Skipped(), e.texts.held.Load())
	}
	if len(b.fixed) != 1 || b.fixed[0].Tokens.Input != 7 || b.fixed[0].Estimating {
		t.Errorf("%+v", b.fixed)
	}
}

// Streams that last tell the ledger how far they are, every 10 s at most, so that
// a crash leaves that.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		up, transport := newSilence("text/event-stream")
		s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, books, _ := s.make()
		q := s.run(r, "/v1/chat/completions", foxFlow)
		w := <-up.write
		start := time.Now()
		say := func(pieces ...string) {
			_, _ = io.WriteString(w, strings.Join(pieces, ""))
			synctest.Wait()
		}
		say(chunkRole, chunkWord)
		for range 35 * 4 { // a chunk every quarter of a second
			time.Sleep(250 * time.Millisecond)
			say(chunkWord)
		}
		say(chunkFinish, chunkUsage, chunkDone)
		_ = w.Close()
		<-q.done
		var at []string
		last := int64(0)
		for _, n := range books.noted {
			at = append(at, fmt.Sprint(n.Duration))
			if n.Outcome != 0 || n.Tokens.Input == 0 || n.Tokens.Output <= last || n.ResponseBytes == 0 {
				t.Errorf("%+v", n)
			}
			last = n.Tokens.Output
		}
		if got := strings.Join(at, " "); got != "10s 20s 30s" {
			t.Errorf("progress at %s of a stream of %v", got, time.Since(start))
		}
		if rec := books.records()[0]; rec.Tokens.Output != 2 || rec.Source != usage.Upstream {
			t.Errorf("%+v", rec)
		}
	})
}

// The reserve carries an estimate of the prompt, which a crash leaves; nothing of it
// stays in what is settled without tokens.
func TestReserveEstimates(t *testing.T) {
	s := newSetup(t)
	m := newMock(t)
	s.upstream("a", m.URL, "a1")
	m.on("a1", fails(400, "no"))
	g := s.start()
	var reserved []usage.Tokens
	g.books.refuses = func(r *usage.Record) error { reserved = append(reserved, r.Tokens); return nil }
	g.chat()
	if len(reserved) != 1 || reserved[0].Input != int64(len(chatBody)+3)/4 {
		t.Errorf("reserved with %+v", reserved)
	}
	if r := g.books.records()[0]; r.Tokens != (usage.Tokens{}) {
		t.Errorf("settled with %+v", r.Tokens)
	}
}

// crashed opens what a process leaves that dies now, and returns what the account
// then comes to: the sums of the store, which are those of the log.
func crashed(t *testing.T, dir string) usage.Counts {
	t.Helper()
	left := t.TempDir()
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ledger.Config{Dir: left, Store: storetest.NewMemory(), SegmentBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := l.Verify(t.Context())
	if err != nil || !v.Equal() || v.Unsure {
		t.Fatalf("%+v, %v", v, err)
	}
	return v.Store
}

// late is a ledger whose corrections wait.
type late struct {
	*ledger.Ledger
	gate chan struct{}
}

func (l late) Correct(was, now *usage.Record) {
	<-l.gate
	l.Ledger.Correct(was, now)
}

// Whenever the process dies, an attempt is in the account once: by its bytes, by the
// tokenizer, or as unknown with what was known of it last.
func TestCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t)
		s.config.Now = time.Now
		dir := t.TempDir()
		real, err := ledger.Open(ledger.Config{Dir: dir, Store: storetest.NewMemory(), SegmentBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer real.Close(t.Context())
		up, transport := newSilence("text/event-stream")
		s.upstream("a", "http://a.example", "a1", synctestClock, transport)
		r, _, _ := s.make()
		gate := make(chan struct{})
		r.Ledger = late{real, gate}
		say := func(w *io.PipeWriter, pieces ...string) {
			_, _ = io.WriteString(w, strings.Join(pieces, ""))
			synctest.Wait()
		}
		wants := func(when string, want usage.Counts) {
			t.Helper()
			got := crashed(t, dir)
			for _, f := range []usage.Field{
				usage.Attempts, usage.Requests, usage.EstimatedAttempts, usage.InputTokens, usage.OutputTokens,
				usage.UnknownAttempts, usage.UnknownInputTokens, usage.UnknownOutputTokens,
			} {
				if got[f] != want[f] {
					t.Errorf("%s: %v is %d, want %d", when, f, got[f], want[f])
				}
			}
		}

		q := s.run(r, "/v1/chat/completions", foxFlow)
		w := <-up.write
		input, output := estimate.Count("gpt-5", "Be terse.")+estimate.Count("gpt-5", fox)+11, estimate.Count("gpt-5", fox+"The ")
		byBytes := int64(len(foxFlow)+3) / 4
		synctest.Wait()
		wants("reserved", usage.Counts{usage.Requests: 1, usage.UnknownAttempts: 1, usage.UnknownInputTokens: byBytes})
		say(w, append([]string{chunkRole}, words()...)...)
		time.Sleep(11 * time.Second)
		say(w, words()[0])
		wants("in the middle", usage.Counts{
			usage.Requests: 1, usage.UnknownAttempts: 1, usage.UnknownInputTokens: byBytes,
			usage.UnknownOutputTokens: int64(len(words())) + 1, // not less than one for an event
		})
		say(w, chunkFinish, chunkDone)
		_ = w.Close()
		<-q.done
		synctest.Wait()
		settled := usage.Counts{
			usage.Attempts: 1, usage.Requests: 1, usage.EstimatedAttempts: 1,
			usage.InputTokens: byBytes, usage.OutputTokens: q.trace.Tokens.Output,
		}
		wants("before the estimate", settled)
		close(gate)
		if err := r.Estimates.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		settled[usage.InputTokens], settled[usage.OutputTokens] = input, output
		wants("behind it", settled)
	})
}
