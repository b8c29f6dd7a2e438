package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockopenai"
)

// overTLS is a gateway with everything in front that could hold a stream back:
// an access log, compression, and HTTP/1.1, 2 and 3.
func overTLS(mock *harness.Upstream) harness.Config {
	c := oneKey(mock)
	c.Site = "https://localhost:PORT"
	c.Global = `
	auto_https disable_redirects
	https_port PORT
`
	c.Before = `
	tls internal
	log {
		output file DIR/access.log
	}
	encode {
		minimum_length 1
	}
`
	return c
}

// protocols are clients that speak one version of HTTP each.
func protocols(t *testing.T, roots *x509.CertPool) map[string]*http.Client {
	config := func() *tls.Config { return &tls.Config{RootCAs: roots, ServerName: "localhost"} }
	one := &http.Transport{TLSClientConfig: config(), DisableCompression: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	two := &http.Transport{TLSClientConfig: config(), DisableCompression: true, ForceAttemptHTTP2: true}
	three := &http3.Transport{TLSClientConfig: config(), DisableCompression: true}
	t.Cleanup(func() {
		one.CloseIdleConnections()
		two.CloseIdleConnections()
		three.Close()
	})
	return map[string]*http.Client{"HTTP/1.1": {Transport: one}, "HTTP/2.0": {Transport: two}, "HTTP/3.0": {Transport: three}}
}

// openStream asks for a stream and returns the answer, its body unread.
func openStream(ctx context.Context, t *testing.T, client *http.Client, url, path, body string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// The upstream sends an event only after the client has had the one before: were
// anything held back, the stream would stand still.
func TestNothingIsBuffered(t *testing.T) {
	mock := harness.StartOpenAI(t)
	secure := harness.StartGateway(t, overTLS(mock))
	plain := harness.StartGateway(t, oneKey(mock))
	clients := protocols(t, secure.CertPool(t))
	clients["HTTP/1.1 without TLS"] = plainHTTP

	for protocol, client := range clients {
		for _, encoding := range []string{"identity", "gzip"} {
			for _, operation := range []string{"chat", "chat with usage", "responses"} {
				t.Run(protocol+" "+encoding+" "+operation, func(t *testing.T) {
					t.Parallel()
					url := secure.URL
					if client == plainHTTP {
						url = plain.URL
					}
					gate := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
					model := "mock-chat+words=12+gate=" + gate
					path, body := "/v1/chat/completions", chat(model, "hi", streamed)
					switch operation {
					case "chat with usage":
						body = chat(model, "hi", withUsage)
					case "responses":
						path, body = "/v1/responses", `{"model":"`+model+`","input":"hi","stream":true}`
					}
					ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
					defer cancel()
					resp := openStream(ctx, t, client, url, path, body, "Accept-Encoding", encoding)
					if resp.StatusCode != 200 || !strings.HasPrefix(protocol, resp.Proto) {
						t.Fatalf("%s over %s", resp.Status, resp.Proto)
					}
					var r io.Reader = resp.Body
					if got := resp.Header.Get("Content-Encoding"); got != "" && got != encoding {
						t.Fatalf("content encoding %q", got)
					} else if got == "gzip" {
						z, err := gzip.NewReader(resp.Body)
						if err != nil {
							t.Fatal(err)
						}
						r = z
					} else if encoding == "gzip" && client != plainHTTP {
						t.Error("the site's encode did nothing")
					}
					events, err := acknowledge(mock, gate, r)
					if err != nil {
						t.Fatalf("after %d events: %v", events, err)
					}
					if events < 13 {
						t.Errorf("%d events", events)
					}
				})
			}
		}
	}
}

// acknowledge reads a stream event by event and tells the mock of each.
func acknowledge(mock *harness.Upstream, gate string, r io.Reader) (events int, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.HasPrefix(lines.Bytes(), []byte("data: ")) {
			continue
		}
		events++
		if err := mock.Acknowledge(gate); err != nil {
			return events, err
		}
	}
	return events, lines.Err()
}

// A client that leaves ends the call upstream at once: within a second, whatever
// it speaks and whatever it waits for.
func TestClientLeaves(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, overTLS(mock))
	hang := map[string]string{
		"before the headers":            chat("mock-chat+hang=-1", "hi", streamed),
		"before the headers, no stream": chat("mock-chat+hang=-1", "hi"),
		"before the first event":        chat("mock-chat+hang=0", "hi", streamed),
		"in the middle of a stream":     chat("mock-chat+hang=4+words=20", "hi", streamed),
		"in the middle of an answer":    chat("mock-chat+hang=30", "hi"),
	}
	for protocol, client := range protocols(t, gateway.CertPool(t)) {
		for when, body := range hang {
			t.Run(protocol+" "+when, func(t *testing.T) {
				mock.Clear(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, "POST", gateway.URL+"/v1/chat/completions", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+alice)
				req.Header.Set("Content-Type", "application/json")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					resp, err := client.Do(req)
					if err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}()
				harness.Eventually(t, func() error {
					seen, err := mock.Requests()
					if err == nil && len(seen) == 0 {
						err = fmt.Errorf("the upstream was not asked")
					}
					return err
				})
				left := time.Now()
				cancel()
				<-ended
				var entries []mockopenai.Entry
				harness.Eventually(t, func() error {
					var err error
					entries, err = mock.Ledger()
					if err == nil && len(entries) == 0 {
						err = fmt.Errorf("the upstream still serves a client that has left")
					}
					return err
				})
				e := entries[0]
				if e.Outcome != mockopenai.Gone || len(entries) != 1 {
					t.Errorf("at the upstream: %+v", entries)
				}
				if took := e.Ended.Sub(left); took > time.Second {
					t.Errorf("the upstream call went on for %s", took)
				}
			})
		}
	}
}

// An answer that breaks off looks broken off.
func TestCutAnswersLookCut(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, overTLS(mock))
	tests := []struct {
		name, path, body string
	}{
		{"chat cut", "/v1/chat/completions", chat("mock-chat+words=60+cut=50", "hi", streamed)},
		{"chat ended early", "/v1/chat/completions", chat("mock-chat+words=60+end=50", "hi", streamed)},
		{"chat error event", "/v1/chat/completions", chat("mock-chat+words=60+fail=50", "hi", streamed)},
		{"chat cut inside gzip", "/v1/chat/completions", chat("mock-chat+words=60+cut=50+gzip", "hi", streamed)},
		{"responses cut", "/v1/responses", `{"model":"mock-chat+words=60+cut=50","input":"hi","stream":true}`},
		{"responses ended early", "/v1/responses", `{"model":"mock-chat+words=60+end=50","input":"hi","stream":true}`},
		{"responses failed", "/v1/responses", `{"model":"mock-chat+words=60+fail=50","input":"hi","stream":true}`},
	}
	for protocol, client := range protocols(t, gateway.CertPool(t)) {
		for _, tt := range tests {
			t.Run(protocol+" "+tt.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				body, err := readStream(ctx, t, client, gateway.URL, tt.path, tt.body)
				if ctx.Err() != nil {
					t.Fatal("the answer does not end")
				}
				// A response.failed of the upstream's own is a whole answer, and its end a
				// polite one.
				if err == nil && tt.name != "responses failed" {
					t.Error("the connection was ended politely")
				}
				if strings.Contains(body, "data: [DONE]\n") || strings.Contains(body, "response.completed") || strings.Contains(body, `"finish_reason":"stop"`) {
					t.Errorf("the answer looks whole:\n%s", body)
				}
				if protocol == "HTTP/3.0" {
					return // a stream that is reset there loses what is under way
				}
				if strings.Count(body, "\ndata: ")+1 < 40 {
					t.Errorf("what came before was lost:\n%s", body)
				}
				last := body[strings.LastIndex(strings.TrimRight(body, "\n"), "\n\n")+2:]
				said := strings.HasPrefix(last, `data: {"error":{`)
				if tt.path == "/v1/responses" {
					said = strings.HasPrefix(last, "event: response.failed\n") || strings.HasPrefix(last, "event: error\n")
				}
				if !said {
					t.Errorf("the last event is %q, not the dialect's error", last)
				}
			})
		}
	}
	t.Run("an answer without events", func(t *testing.T) {
		for _, model := range []string{"mock-chat+cut=100+chunked", "mock-chat+cut=100"} {
			resp := openStream(t.Context(), t, plainHTTPS(t, gateway), gateway.URL, "/v1/chat/completions", chat(model, "hi"))
			b, err := io.ReadAll(resp.Body)
			if resp.StatusCode == 200 && err == nil {
				t.Errorf("%s: half an answer as if it were whole: %s", model, b)
			}
		}
	})
}

// readStream asks for a stream and reads it until it ends or breaks.
func readStream(ctx context.Context, t *testing.T, client *http.Client, url, path, body string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

func plainHTTPS(t *testing.T, g *harness.Gateway) *http.Client {
	return protocols(t, g.CertPool(t))["HTTP/2.0"]
}

// What fails before the first content is healed behind the scenes.
func TestFailuresBeforeContentAreHealed(t *testing.T) {
	behaviors := map[string]mockopenai.Behavior{
		"reset":                     {Reset: true},
		"silent":                    {Silent: true},
		"500":                       {Status: 500},
		"502 of a proxy":            {Status: 502, Body: "<html>", ContentType: "text/html"},
		"503":                       {Status: 503},
		"429":                       {Status: 429},
		"quota":                     {Status: 429, Body: `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`},
		"redirect":                  {Status: 307, Headers: map[string]string{"Location": "/v1/models"}},
		"cut before any event":      {Cut: new(0)},
		"cut after the role":        {Cut: new(1)},
		"error as the first event":  {Fail: new(0)},
		"error after the role":      {Fail: new(1)},
		"an end before any content": {End: new(1)},
	}
	for name, how := range behaviors {
		t.Run(name, func(t *testing.T) {
			mock := harness.StartOpenAI(t)
			gateway := harness.StartGateway(t, pool(mock, 2, embedded))
			if err := mock.Script(mockopenai.Rule{Times: 1, Behavior: how}); err != nil {
				t.Fatal(err)
			}
			a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", name, withUsage))
			if a.status != 200 || a.err != nil || !strings.HasSuffix(string(a.body), "data: [DONE]\n\n") || strings.Contains(string(a.body), `"error"`) {
				t.Errorf("%d %v\n%s", a.status, a.err, a.body)
			}
			if n := strings.Count(string(a.body), `"role":"assistant"`); n != 1 {
				t.Errorf("the answer begins %d times", n)
			}
			entries := mock.Quiet(t)
			if len(entries) != 2 || entries[0].Key == entries[1].Key {
				t.Errorf("attempts: %+v", entries)
			}
		})
	}
}

// A request that cannot succeed is not tried again.
func TestOwnFaultsAreNotRetried(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, pool(mock, 3, embedded))
	for _, status := range []int{400, 403, 404, 409, 413, 422} {
		mock.Clear(t)
		if err := mock.Script(mockopenai.Rule{Behavior: mockopenai.Behavior{Status: status}}); err != nil {
			t.Fatal(err)
		}
		a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", fmt.Sprint(status)))
		if n := len(mock.Quiet(t)); a.status != status || n != 1 {
			t.Errorf("%d became %d after %d attempts", status, a.status, n)
		}
	}
}

// An answer is held back for a while as long as it can still be healed. One whose
// content comes just when that time is over must pass like any other.
func TestContentAtTheEndOfTheHold(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	c.Quiet = true
	gateway := harness.StartGateway(t, c)
	var (
		wg   sync.WaitGroup
		cut  atomic.Int64
		last atomic.Value
	)
	for i := range 400 {
		wg.Go(func() {
			// The role comes after half of the time, the content after all of it.
			model := fmt.Sprintf("mock-chat+words=3+slow=%d", 99+i%3)
			a := post(t, gateway.URL+"/v1/chat/completions", alice, chat(model, fmt.Sprint(i), streamed))
			if a.status != 200 || a.err != nil || !strings.HasSuffix(string(a.body), "data: [DONE]\n\n") {
				cut.Add(1)
				last.Store(fmt.Sprintf("%d, %v: %s", a.status, a.err, a.body))
			}
		})
	}
	wg.Wait()
	if n := cut.Load(); n > 0 {
		t.Errorf("%d of 400 healthy answers were cut, one of them: %v", n, last.Load())
	}
}

// When all fails the client gets the last failure, not an empty success.
func TestAllFails(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, routes(mock))
	for _, how := range []mockopenai.Behavior{{Status: 500}, {Status: 503}, {Reset: true}, {Cut: new(0)}, {Status: 429}} {
		for _, body := range []string{chat("ordered", "hi"), chat("split", "hi", streamed)} {
			if err := mock.Script(mockopenai.Rule{Behavior: how}); err != nil {
				t.Fatal(err)
			}
			a := post(t, gateway.URL+"/v1/chat/completions", alice, body)
			if _, err := readError(a.body); err != nil || a.status < 400 || how.Status != 0 && a.status != how.Status {
				t.Errorf("%+v became %d: %v", how, a.status, err)
			}
		}
	}
}

// A field that the gateway added and the upstream does not know is left out, and
// that is remembered.
func TestUpstreamWithoutStreamOptions(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	for i, attempts := range []int{2, 1} {
		mock.Clear(t)
		a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat+refuse=stream_options", "hi", streamed))
		if n := len(mock.Quiet(t)); a.status != 200 || n != attempts || !strings.HasSuffix(string(a.body), "data: [DONE]\n\n") {
			t.Errorf("request %d: %d after %d attempts, want %d\n%s", i, a.status, n, attempts, a.body)
		}
	}
	// What the client itself wanted is its own fault.
	a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat+refuse=stream_options.include_obfuscation", "hi", `,"stream":true,"stream_options":{"include_obfuscation":true}`))
	if e, err := readError(a.body); a.status != 400 || err != nil || e.Param == nil || *e.Param != "stream_options.include_obfuscation" {
		t.Errorf("%d %s", a.status, a.body)
	}
}
