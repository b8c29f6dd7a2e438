package relay

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/floway/floway/access"
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/keypool"
	"github.com/floway/floway/provider"
	"github.com/floway/floway/usage"
)

const benchChat = `{"model":"gpt-5","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"Say hello to the bench."}],"max_tokens":64}`

const benchAnswer = `{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"gpt-5-2026","choices":[{"index":0,"message":{"role":"assistant","content":"Hello, bench."},"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":5,"total_tokens":29}}`

// BenchmarkServe is the whole way of a request but for the network: the client's
// writer and the upstream's transport are fakes. The transport's own allocations,
// a Response and its body, are in the numbers; BenchmarkFakes measures them.
func BenchmarkServe(b *testing.B) {
	stream := bytes.ReplaceAll([]byte(benchChat), []byte(`"max_tokens":64`), []byte(`"stream":true`))
	events := benchStream(50)
	for _, bench := range []struct {
		name, kind   string
		body, answer []byte
	}{
		{"chat", "application/json", []byte(benchChat), []byte(benchAnswer)},
		{"stream", "text/event-stream", stream, events},
		{"chat200k", "application/json", benchLarge(200 << 10), []byte(benchAnswer)},
	} {
		r := benchRelay(b, bench.kind, bench.answer)
		call := dialect.Find("POST", "/v1/chat/completions")
		client := &access.Client{Name: "bench"}
		run := func(w *benchWriter, in *http.Request, body *benchBody) {
			body.Reset(bench.body)
			clear(w.header)
			trace := Trace{Request: "req_bench"}
			r.Serve(w, in, &call, client, "", &trace)
			if w.status != 200 || trace.Outcome != usage.Served || trace.Tokens.Output != 5 {
				b.Errorf("status %d, %+v", w.status, trace)
			}
		}
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			w, in, body := benchRequest(bench.body)
			for b.Loop() {
				run(w, in, body)
			}
		})
		b.Run(bench.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w, in, body := benchRequest(bench.body)
				for pb.Next() {
					run(w, in, body)
				}
			})
		})
	}
}

// BenchmarkFakes is what the fakes of BenchmarkServe cost by themselves.
func BenchmarkFakes(b *testing.B) {
	t := &benchTransport{header: http.Header{"Content-Type": {"application/json"}}, body: []byte(benchAnswer)}
	_, in, _ := benchRequest(nil)
	b.ReportAllocs()
	for b.Loop() {
		res, _ := t.RoundTrip(in)
		_, _ = io.Copy(io.Discard, res.Body)
	}
}

func benchStream(chunks int) []byte {
	var s bytes.Buffer
	s.WriteString(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}` + "\n\n")
	for range chunks {
		s.WriteString(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"usage":null}` + "\n\n")
	}
	s.WriteString(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n")
	s.WriteString(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[],"usage":{"prompt_tokens":24,"completion_tokens":5,"total_tokens":29}}` + "\n\n")
	s.WriteString("data: [DONE]\n\n")
	return s.Bytes()
}

func benchLarge(size int) []byte {
	return []byte(`{"model":"gpt-5","messages":[{"role":"user","content":"` + string(bytes.Repeat([]byte("word "), size/5)) + `"}]}`)
}

func benchRelay(b *testing.B, kind string, answer []byte) *Relay {
	lookup, _ := provider.Lookup("openai")
	made, err := lookup.New(provider.Config{Name: "openai"})
	if err != nil {
		b.Fatal(err)
	}
	up := &Upstream{
		Name: "openai", Provider: made,
		Transport: &benchTransport{header: http.Header{
			"Content-Type": {kind}, "X-Request-Id": {"req_upstream"}, "Openai-Processing-Ms": {"12"},
		}, body: answer},
	}
	health := keypool.NewHealth(nil)
	var keys []keypool.Key
	for _, label := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		secret := provider.NewSecret("sk-secret-" + label)
		keys = append(keys, keypool.Key{Label: label, ID: secret.ID()})
		credential := new(Credential)
		credential.Set(made.Credential(secret))
		up.Credentials = append(up.Credentials, credential)
		up.KeyIDs = append(up.KeyIDs, secret.ID())
	}
	up.Pool = keypool.New(keypool.Config{Name: "openai", Keys: keys, Health: health})
	r, err := New(Config{
		Upstreams: []*Upstream{up}, Retries: DefaultRetries, TryDuration: DefaultTryDuration,
		MaxBody: DefaultMaxBody, MaxBuffered: DefaultMaxBuffered, Ledger: benchLedger{},
	})
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func benchRequest(body []byte) (*benchWriter, *http.Request, *benchBody) {
	in, _ := http.NewRequest("POST", "/v1/chat/completions", nil)
	src := &benchBody{}
	in.Body, in.ContentLength = src, int64(len(body))
	in.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer x"}, "User-Agent": {"bench"}, "Accept": {"application/json"}}
	return &benchWriter{header: http.Header{}}, in, src
}

type benchBody struct{ bytes.Reader }

func (*benchBody) Close() error { return nil }

type benchWriter struct {
	header http.Header
	status int
}

func (w *benchWriter) Header() http.Header         { return w.header }
func (w *benchWriter) WriteHeader(status int)      { w.status = status }
func (w *benchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *benchWriter) FlushError() error           { return nil }

type benchLedger struct{}

func (benchLedger) Reserve(*usage.Record) error { return nil }
func (benchLedger) Settle(*usage.Record)        {}
func (benchLedger) Progress(*usage.Record)      {}
func (benchLedger) Correct(_, _ *usage.Record)  {}

type benchTransport struct {
	header http.Header
	body   []byte
}

func (t *benchTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	body := new(benchBody)
	body.Reset(t.body)
	n := int64(-1)
	if t.header.Get("Content-Type") == "application/json" {
		n = int64(len(t.body))
	}
	return &http.Response{StatusCode: 200, Header: t.header, Body: body, ContentLength: n, Request: req}, nil
}
