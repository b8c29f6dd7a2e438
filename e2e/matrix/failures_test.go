package matrix

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
)

// failure is what goes wrong at an upstream before it has answered anything.
type failure struct {
	name string
	how  func(u int) mock.Behavior
	// status is what the client gets, and says a word of the error in its dialect.
	status [4]int
	says   [4]string
	// spends: it is the key's trouble, which is not used again.
	spends bool
}

func status(n int) func(int) mock.Behavior {
	return func(int) mock.Behavior { return mock.Behavior{Status: n} }
}

func all(n int) [4]int { return [4]int{n, n, n, n} }

var tooLong = [4]string{
	`{"error":{"message":"This model's maximum context length is 128000 tokens. However, your messages resulted in 300000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`,
	`{"error":{"message":"Your input exceeds the context window of this model. Please adjust your input and try again.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}`,
	`{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 300000 tokens > 200000 maximum"},"request_id":"req_1"}`,
	`{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}`,
}

var failures = []failure{
	{"400", status(400), all(400), [4]string{"invalid_request_error", "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"}, false},
	{
		"context too long", func(u int) mock.Behavior { return mock.Behavior{Status: 400, Body: tooLong[u]} },
		all(400),
		[4]string{"context_length_exceeded", "context_length_exceeded", "prompt is too long", "exceeds the maximum number of tokens"},
		false,
	},
	{"401: our own trouble", status(401), all(502), [4]string{"server_error", "server_error", "api_error", "UNAVAILABLE"}, true},
	{"403", status(403), all(403), [4]string{"", "", "permission_error", "PERMISSION_DENIED"}, true},
	{"404", status(404), all(404), [4]string{"invalid_request_error", "invalid_request_error", "not_found_error", "NOT_FOUND"}, false},
	{"413", status(413), all(413), [4]string{"invalid_request_error", "invalid_request_error", "request_too_large", ""}, false},
	{
		"429 and when to come back", func(int) mock.Behavior {
			return mock.Behavior{Status: 429, Headers: map[string]string{"Retry-After": "7"}}
		},
		all(429),
		[4]string{"", "", "rate_limit_error", "RESOURCE_EXHAUSTED"},
		true,
	},
	{"500", status(500), all(500), [4]string{"server_error", "server_error", "api_error", "INTERNAL"}, false},
	{"503", status(503), all(503), [4]string{"", "", "", "UNAVAILABLE"}, false},
	{"529", status(529), [4]int{503, 503, 529, 503}, [4]string{"", "", "overloaded_error", "UNAVAILABLE"}, false},
}

// Errors of every kind, as each SDK raises them.
func (w *world) failures(t *testing.T, g *grid, u int) {
	up := w.up[u]
	spent := 0
	for _, f := range failures {
		for c := range dialects {
			for _, stream := range []bool{false, true} {
				what := "ok"
				t.Run(fmt.Sprintf("%s/%s stream=%v", f.name, dialects[c], stream), func(t *testing.T) {
					if err := up.Script(mock.Rule{Times: 1, Behavior: f.how(u)}); err != nil {
						t.Fatal(err)
					}
					name := dialects[u]
					if f.spends {
						name += fmt.Sprintf("-%d", spent)
						spent++
					}
					_, err := askers[c](t.Context(), w.URL, clientKey, name+"/mock-chat", []byte(base[c]), stream)
					up.asked(t)
					want := f.status[c]
					var r *raised
					switch {
					case !errors.As(err, &r) || r.status != want || !strings.Contains(r.text, f.says[c]):
						t.Errorf("raised %v, want %d %s", err, want, f.says[c])
						what = "FAIL"
					case strings.HasPrefix(f.name, "429") && r.header.Get("Retry-After") != "7":
						t.Errorf("the header is %v", r.header)
						what = "FAIL"
					}
				})
				g.set("error "+f.name, c, u, what)
			}
		}
	}
}

// malformed are streams of which one event makes no sense.
var malformed = [4]string{
	`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"word"},"finish_reason":null}]}` + "\n\n" +
		`data: {"choices":[{"delta":` + "\n\n" + `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n",
	"event: response.created\n" + `data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","output":[]}}` + "\n\n" +
		"event: response.output_item.added\n" + `data: {"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"msg_1","type":"message","role":"assistant","content":[]}}` + "\n\n" +
		"event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","sequence_number":2,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"word"}` + "\n\n" +
		"event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","delta":` + "\n\n" +
		"event: response.completed\n" + `data: {"type":"response.completed","sequence_number":3,"response":{"id":"resp_1","object":"response","status":"completed","output":[]}}` + "\n\n",
	"event: message_start\n" + `data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}` + "\n\n" +
		"event: content_block_start\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"word"}}` + "\n\n" +
		"event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_` + "\n\n" +
		"event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n",
	`data: {"candidates":[{"content":{"parts":[{"text":"word"}],"role":"model"},"index":0}]}` + "\r\n\r\n" + `data: {"candidates":[{"content":{"parts":[{"text":` + "\r\n\r\n" +
		`data: {"candidates":[{"content":{"parts":[{"text":"."}],"role":"model"},"finishReason":"STOP","index":0}]}` + "\r\n\r\n",
}

// breaks are answers that do not come to their end.
var breaks = []struct {
	name, words string
	stream      bool
}{
	{"an error in the middle of a stream", "+words=30+fail=9", true},
	{"a stream that is cut", "+words=30+cut=9", true},
	{"a stream cut within characters", "+unicode+words=30+cut=9+pieces=3", true},
	{"a stream without its end", "+words=30+end=9", true},
	{"an event that makes no sense", "", true},
	{"an answer that is cut", "+words=30+cut=40", false},
	{"an answer that is half of one", "+words=30+garbage", false},
}

// Whatever breaks off is an error to every SDK, and none takes it for an answer.
func (w *world) breaks(t *testing.T, g *grid, u int) {
	up := w.up[u]
	for _, b := range breaks {
		for c := range dialects {
			if c == u && strings.HasSuffix(b.words, "garbage") {
				g.set(b.name, c, u, "-") // passes as it is; no SDK can read it
				continue
			}
			what := "ok"
			t.Run(b.name+"/"+dialects[c], func(t *testing.T) {
				if b.words == "" {
					if err := up.Script(mock.Rule{Times: 1, Behavior: mock.Behavior{Status: 200, ContentType: "text/event-stream", Body: malformed[u]}}); err != nil {
						t.Fatal(err)
					}
				}
				a, err := askers[c](t.Context(), w.URL, clientKey, dialects[u]+"/mock-chat"+b.words, []byte(base[c]), b.stream)
				up.asked(t)
				var r *raised
				switch {
				case err == nil:
					t.Errorf("taken for an answer: %+v", a)
					what = "FAIL"
				case !b.stream && (!errors.As(err, &r) || r.status != 502) && c != u:
					t.Errorf("raised %v, want a 502", err)
					what = "FAIL"
				}
			})
			g.set(b.name, c, u, what)
		}
	}
}

// Who gives up ends it at the upstream too.
func (w *world) abort(t *testing.T, g *grid, u int) {
	up := w.up[u]
	for c := range dialects {
		for words, stream := range map[string]bool{"+words=60+hang=9": true, "+hang=-1": false} {
			what := "ok"
			t.Run(fmt.Sprintf("abort/%s stream=%v", dialects[c], stream), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() {
					_, err := askers[c](ctx, w.URL, clientKey, dialects[u]+"/mock-chat"+words, []byte(base[c]), stream)
					ended <- err
				}()
				harness.Eventually(t, func() error {
					if st, err := up.Stats(); err != nil || st.Open != 1 {
						return fmt.Errorf("%d requests are served, %v", st.Open, err)
					}
					return nil
				})
				cancel()
				err := <-ended
				entries, _ := up.asked(t)
				if err == nil || len(entries) != 1 || entries[0].Outcome != mock.Gone {
					t.Errorf("%v; the upstream's ledger is %+v", err, entries)
					what = "FAIL"
				}
			})
			g.set("abort", c, u, what)
		}
	}
}

// Reasoning that one upstream sealed reaches no other: the conversation goes on
// there without it.
func (w *world) foreign(t *testing.T, g *grid) {
	s := scenarios[0]
	for i := range scenarios {
		if scenarios[i].opaque {
			s = scenarios[i]
		}
	}
	for c := range dialects {
		for u := range w.up {
			what := "ok"
			for v := range w.up {
				if v == u {
					continue
				}
				t.Run(fmt.Sprintf("%s from %s to %s", dialects[c], dialects[u], dialects[v]), func(t *testing.T) {
					what = "FAIL"
					body, _ := s.request(c)
					a, err := askers[c](t.Context(), w.URL, clientKey, dialects[u]+"/"+s.model, body, false)
					if err != nil {
						t.Fatal(err)
					}
					w.up[u].asked(t)
					if u != chat && !a.opaque && c != chat {
						t.Fatal("nothing is sealed")
					}
					b, err := askers[c](t.Context(), w.URL, clientKey, dialects[v]+"/"+s.model, answered[c](body, a, s.results), false)
					entries, requests := w.up[v].asked(t)
					if err != nil || b.end != "stop" || len(entries) != 1 {
						t.Fatalf("%v, %+v", err, entries)
					}
					sent := string(requests[0].Body)
					for _, sign := range []string{"fw1.", "ZncxL", `"encrypted_content":"`, `"signature":"`, "redacted_thinking", "reasoning_opaque\":\""} {
						if strings.Contains(sent, sign) {
							t.Fatalf("%s reached the upstream: %.3000s", sign, sent)
						}
					}
					what = "ok"
				})
				g.set("sealed reasoning that goes elsewhere", c, u, what)
			}
		}
	}
}
