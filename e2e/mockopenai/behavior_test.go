package mockopenai_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/floway/floway/e2e/mockopenai"
)

// open asks for a chat and returns the answer, its body unread.
func open(ctx context.Context, t *testing.T, url, key, model string, stream bool) (*http.Response, error) {
	t.Helper()
	body := `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}]`
	if stream {
		body += `,"stream":true,"stream_options":{"include_usage":true}`
	}
	req, err := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions", strings.NewReader(body+"}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

func read(t *testing.T, url, model string, stream bool) (string, error) {
	t.Helper()
	resp, err := open(t.Context(), t, url, key, model, stream)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestBehaviorOfStreams(t *testing.T) {
	s := start(t)
	plain, err := read(t, s.URL, "mock-chat+words=8", true)
	if err != nil || !strings.HasSuffix(plain, "data: [DONE]\n\n") || strings.Count(plain, `"usage":{`) != 1 {
		t.Fatalf("plain stream: %v\n%s", err, plain)
	}
	chunks := strings.Count(plain, "data: {")
	tests := []struct {
		word   string
		broken bool // the connection, not the stream
		check  func(body string) bool
	}{
		{"cut=3", true, func(b string) bool { return strings.Count(b, "data: {") == 3 }},
		{"end=3", false, func(b string) bool { return strings.Count(b, "data: ") == 3 }},
		{"fail=3", false, func(b string) bool {
			return strings.Count(b, "data: ") == 4 && strings.Contains(b, `data: {"error":{`) && !strings.Contains(b, "data: [DONE]\n")
		}},
		{"nodone", false, func(b string) bool {
			return strings.Count(b, "data: {") == chunks && !strings.Contains(b, "data: [DONE]\n")
		}},
		{"crlf", false, func(b string) bool { return strings.Count(b, "\r\n\r\n") == chunks+1 && !strings.Contains(b, "}\n") }},
		{"comments", false, func(b string) bool { return strings.Count(b, ": keep-alive\n\n") == chunks+1 }},
		{"bare", false, func(b string) bool { return strings.Count(b, "data:{") == chunks }},
		{"pieces=1", false, func(b string) bool { return strings.Count(b, "data: {") == chunks }},
		{"usage=every", false, func(b string) bool { return strings.Count(b, `"usage":{`) == chunks }},
		{"usage=twice", false, func(b string) bool { return strings.Count(b, `"usage":{`) == 2 }},
		{"usage=last", false, func(b string) bool {
			return strings.Count(b, `"usage":{`) == 1 && !strings.Contains(b, `"choices":[]`)
		}},
		{"usage=absent", false, func(b string) bool { return !strings.Contains(b, `"usage":{`) }},
		{"gzip", false, func(b string) bool {
			z, err := gzip.NewReader(strings.NewReader(b))
			if err != nil {
				return false
			}
			raw, err := io.ReadAll(z)
			return err == nil && bytes.HasSuffix(raw, []byte("data: [DONE]\n\n"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.word, func(t *testing.T) {
			body, err := read(t, s.URL, "mock-chat+words=8+"+tt.word, true)
			if (err != nil) != tt.broken {
				t.Errorf("error %v, want one: %v", err, tt.broken)
			}
			if !tt.check(body) {
				t.Errorf("body is\n%s", body)
			}
		})
	}
}

func TestBehaviorOfAnswers(t *testing.T) {
	s := start(t)
	if body, err := read(t, s.URL, "mock-chat+cut=20", false); err == nil || len(body) != 20 {
		t.Errorf("cut: %v after %q", err, body)
	}
	if body, err := read(t, s.URL, "mock-chat+garbage", false); err != nil || json.Valid([]byte(body)) {
		t.Errorf("garbage: %v, %q", err, body)
	}
	if body, err := read(t, s.URL, "mock-chat+usage=absent", false); err != nil || strings.Contains(body, "usage") {
		t.Errorf("usage=absent: %v, %q", err, body)
	}
	resp, err := open(t.Context(), t, s.URL, key, "mock-chat+chunked", false)
	if err != nil || resp.ContentLength != -1 {
		t.Errorf("chunked: %v, length %d", err, resp.ContentLength)
	}
	resp, err = open(t.Context(), t, s.URL, key, "mock-chat+refuse=stream_options.include_usage", true)
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("refuse: %v %v", resp.StatusCode, err)
	}
	if _, err := open(t.Context(), t, s.URL, key, "mock-chat+reset", false); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
	if _, err := open(t.Context(), t, s.URL, key, "mock-chat+silent", false); !errors.Is(err, io.EOF) {
		t.Errorf("silent: %v", err)
	}
	if _, err := open(t.Context(), t, s.URL, key, "mock-chat+nonsense", false); err != nil {
		t.Errorf("nonsense: %v", err)
	}
}

// A rule treats as many requests of its key as it says.
func TestScript(t *testing.T) {
	s := start(t)
	c := mockopenai.Control{URL: s.URL}
	err := c.Script(
		mockopenai.Rule{Key: "k3", Times: 2, Behavior: mockopenai.Behavior{Status: 429, Headers: map[string]string{"Retry-After": "7"}}},
		mockopenai.Rule{Operation: "embeddings", Behavior: mockopenai.Behavior{Status: 503, Body: "<html>", ContentType: "text/html"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, key := range []string{"3", "1", "3", "3"} {
		resp, err := open(t.Context(), t, s.URL, "sk-mock-upstream-"+key, "mock-chat", false)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "7" {
			t.Errorf("Retry-After is %q", resp.Header.Get("Retry-After"))
		}
		got = append(got, resp.StatusCode)
	}
	if want := []int{429, 200, 429, 200}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
		t.Errorf("statuses %v, want %v", got, want)
	}
	resp, body := post(t, s.URL+"/v1/embeddings", key, "application/json", `{"model":"mock-embedding","input":"x"}`)
	if resp.StatusCode != 503 || body != "<html>" || resp.Header.Get("Content-Type") != "text/html" {
		t.Errorf("embeddings: %d %s", resp.StatusCode, body)
	}
}

// Each gated event waits for the acknowledgement of the one before.
func TestGate(t *testing.T) {
	s := start(t)
	c := mockopenai.Control{URL: s.URL}
	resp, err := open(t.Context(), t, s.URL, key, "mock-chat+words=3+gate=g", true)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	for i := range 4 { // the role and three words
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "data: {") {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		r.ReadString('\n')
		if i < 3 {
			if st, _ := c.Stats(); st.Open != 1 {
				t.Fatalf("after event %d the stream is over", i)
			}
			if err := c.Acknowledge("g"); err != nil {
				t.Fatal(err)
			}
		}
	}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// The ledger has every request with what it used and how it ended.
func TestLedger(t *testing.T) {
	var lines bytes.Buffer
	mock := mockopenai.New(mockopenai.Config{Ledger: &lines})
	s := startServer(t, mock)
	c := mockopenai.Control{URL: s.URL}

	var told struct {
		Usage struct {
			Prompt     int64 `json:"prompt_tokens"`
			Completion int64 `json:"completion_tokens"`
		}
	}
	body, err := read(t, s.URL, "mock-chat", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(body), &told); err != nil {
		t.Fatal(err)
	}
	read(t, s.URL, "mock-chat+usage=absent", true)
	read(t, s.URL, "mock-chat+cut=2", true)
	read(t, s.URL, "mock-chat+status=503", false)
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := open(ctx, t, s.URL, key, "mock-chat+hang=2", true)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	io.Copy(io.Discard, resp.Body)
	wait(t, c, 5)

	entries, err := c.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []mockopenai.Outcome
	for i, e := range entries {
		outcomes = append(outcomes, e.Outcome)
		if e.Told != (i == 0) {
			t.Errorf("%s: told is %v", e.Model, e.Told)
		}
	}
	want := []mockopenai.Outcome{mockopenai.Full, mockopenai.Full, mockopenai.Cut, mockopenai.Refused, mockopenai.Gone}
	for i := range want {
		if outcomes[i] != want[i] {
			t.Errorf("outcomes %v, want %v", outcomes, want)
			break
		}
	}
	first := entries[0]
	if first.Tokens.Prompt() != told.Usage.Prompt || first.Tokens.Output != told.Usage.Completion || told.Usage.Completion == 0 {
		t.Errorf("entered %+v, told %+v", first.Tokens, told.Usage)
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != 5 {
		t.Errorf("%d lines of JSON", n)
	}
	st, err := c.Stats()
	if err != nil || st.Requests != 5 || st.Keys["k1"] != 5 || st.Told != first.Tokens || st.Outcomes[mockopenai.Full] != 2 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

// Requests are kept as they came.
func TestRequestsAreKept(t *testing.T) {
	s := start(t)
	c := mockopenai.Control{URL: s.URL}
	const body = ` {"model" : "mock-chat", "messages":[ {"role":"user","content":"h\u00efé"}]}`
	post(t, s.URL+"/v1/chat/completions?a=b", key, "application/json", body)
	seen, err := c.Requests()
	if err != nil || len(seen) != 1 {
		t.Fatalf("%d requests, %v", len(seen), err)
	}
	r := seen[0]
	if string(r.Body) != body || r.URI != "/v1/chat/completions?a=b" || r.Header.Get("Authorization") != "Bearer "+key || r.ContentLength != int64(len(body)) {
		t.Errorf("kept %+v with the body %q", r, r.Body)
	}
}

// Another account does not see a response, nor can it use its reasoning.
func TestAccountsAreApart(t *testing.T) {
	s := start(t)
	_, body := post(t, s.URL+"/v1/responses", key, "application/json", `{"model":"mock-reasoner","input":"hi","include":["reasoning.encrypted_content"]}`)
	var r struct {
		ID     string
		Output []json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	again := `{"model":"mock-reasoner","input":[` + string(r.Output[0]) + `,` + string(r.Output[1]) + `,{"role":"user","content":"go on"}]}`
	for k, want := range map[string]int{key: 200, "sk-mock-upstream-2": 400} {
		if resp, body := post(t, s.URL+"/v1/responses", k, "application/json", again); resp.StatusCode != want {
			t.Errorf("reasoning with %s: %d %s", k, resp.StatusCode, body)
		}
		next := `{"model":"mock-reasoner","input":"hi","previous_response_id":"` + r.ID + `"}`
		if resp, body := post(t, s.URL+"/v1/responses", k, "application/json", next); resp.StatusCode != want {
			t.Errorf("previous response with %s: %d %s", k, resp.StatusCode, body)
		}
	}
}
