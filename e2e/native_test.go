package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"google.golang.org/genai"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/calls"
	"github.com/floway/floway/e2e/geminicalls"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
)

// native is a gateway in front of a vendor's own service with a single key, for
// clients of that vendor.
func native(provider string, mock *harness.Upstream) harness.Config {
	c := oneKey(mock)
	c.Floway = strings.NewReplacer("upstream openai mock", "upstream "+provider+" mock", "MOCK/v1", "MOCK").Replace(c.Floway)
	return c
}

// startNative starts one, and waits until it knows what the service lists.
func startNative(t *testing.T, provider string, mock *harness.Upstream) *harness.Gateway {
	t.Helper()
	g := harness.StartGateway(t, native(provider, mock))
	harness.Eventually(t, func() error {
		if a := do(t, "GET", g.URL+"/v1/models/mock-mini", nil, "Authorization", "Bearer "+alice); a.status != 200 {
			return fmt.Errorf("the upstream's list was not fetched: %d %s", a.status, a.body)
		}
		return nil
	})
	return g
}

func geminiClient(t *testing.T, url, key string) *genai.Client {
	t.Helper()
	c, err := geminicalls.Client(t.Context(), url, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// compare makes all calls of a table to the service and through the gateway. What
// came back must be the same, and the account must have what the service has, to
// the token: cumulative usage, cache reads, both kinds of cache writes, thoughts,
// prompts of tools.
func compare[Client any](t *testing.T, table []calls.Call[Client], direct, through Client, g *harness.Gateway, mock *harness.Upstream) {
	want := make([]calls.Tape, len(table))
	for i, call := range table {
		if err := call.Do(t.Context(), direct, &want[i]); err != nil {
			t.Fatalf("%s, direct: %v", call.Name, err)
		}
	}
	mock.Clear(t)
	again := func(untold bool) {
		for i, call := range table {
			if (call.Name == "embeddings") != untold { // of these the service does not tell what they use
				continue
			}
			t.Run(call.Name, func(t *testing.T) {
				var got calls.Tape
				if err := call.Do(t.Context(), through, &got); err != nil {
					t.Fatalf("through the gateway: %v", err)
				}
				if len(got.Pieces) != len(want[i].Pieces) {
					t.Errorf("got %d pieces, directly %d", len(got.Pieces), len(want[i].Pieces))
				}
				for j := range min(len(got.Pieces), len(want[i].Pieces)) {
					if got.Pieces[j] != want[i].Pieces[j] {
						t.Fatalf("piece %d is\n%q\ndirectly\n%q", j, got.Pieces[j], want[i].Pieces[j])
					}
				}
			})
		}
	}
	again(false)
	entries := mock.Quiet(t)
	checkCounts(t, g, mock, len(entries))
	var kinds harness.Counts
	for _, c := range told(entries, func(e *mockEntry) string { return e.Model }) {
		kinds.CacheRead += c.CacheRead
		kinds.CacheWrite += c.CacheWrite
		kinds.CacheWrite1h += c.CacheWrite1h
		kinds.Reasoning += c.Reasoning
	}
	if kinds.CacheRead == 0 || kinds.Reasoning == 0 {
		t.Errorf("the calls use not all kinds of tokens: %+v", kinds)
	}
	again(true)
}

type mockEntry = mock.Entry

// Whatever an application does with Anthropic's SDK, it gets from the gateway what
// it would get from the service.
func TestAnthropicSDK(t *testing.T) {
	mock := harness.StartAnthropic(t)
	gateway := startNative(t, "anthropic", mock)
	compare(t, anthropiccalls.All, anthropiccalls.Client(mock.URL, upstreamKey), anthropiccalls.Client(gateway.URL, alice), gateway, mock)
	_, sum := gateway.Usage(t, "model")
	if sum.CacheWrite == 0 || sum.CacheWrite1h == 0 {
		t.Errorf("the calls wrote to one kind of cache only: %+v", sum)
	}
}

// Likewise with Google's.
func TestGeminiSDK(t *testing.T) {
	mock := harness.StartGemini(t)
	gateway := startNative(t, "gemini", mock)
	compare(t, geminicalls.All, geminiClient(t, mock.URL, upstreamKey), geminiClient(t, gateway.URL, alice), gateway, mock)
	harness.Eventually(t, func() error {
		if _, sum := gateway.Usage(t, "model"); sum.EstimatedAttempts != 2 {
			return fmt.Errorf("%d attempts are estimated, want the two that embed", sum.EstimatedAttempts)
		}
		return nil
	})
}

// An error status of the service raises the same exception as a direct call,
// streamed or not, with the same body.
func TestAnthropicErrors(t *testing.T) {
	mock := harness.StartAnthropic(t)
	gateway := startNative(t, "anthropic", mock)
	type exception struct {
		Status    int
		Type, Raw string
	}
	for _, status := range []int{400, 403, 404, 409, 413, 422, 429, 500, 503, 504, 529, 402} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d stream=%v", status, stream), func(t *testing.T) {
				ask := func(url, key string) (e exception) {
					c := anthropiccalls.Client(url, key)
					p := anthropiccalls.Ask(fmt.Sprintf("mock-chat+status=%d+words=%d", status, 1+len(t.Name())), "hi")
					var err error
					if stream {
						_, err = anthropiccalls.Stream(t.Context(), c, new(calls.Tape), p)
					} else {
						_, err = anthropiccalls.Complete(t.Context(), c, new(calls.Tape), p)
					}
					var raised *anthropic.Error
					if !errors.As(err, &raised) {
						t.Fatalf("the SDK raised no exception of its own: %v", err)
					}
					return exception{raised.StatusCode, string(raised.Type()), raised.RawJSON()}
				}
				if status == 402 && stream {
					return // the key rests by now
				}
				want := ask(mock.URL, upstreamKey)
				if got := ask(gateway.URL, alice); got != want || want.Status != status {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		}
	}
}

func TestGeminiErrors(t *testing.T) {
	mock := harness.StartGemini(t)
	gateway := startNative(t, "gemini", mock)
	direct, through := geminiClient(t, mock.URL, upstreamKey), geminiClient(t, gateway.URL, alice)
	for _, status := range []int{400, 403, 404, 409, 429, 500, 503, 504} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d stream=%v", status, stream), func(t *testing.T) {
				ask := func(c *genai.Client) string {
					way := geminicalls.Complete
					if stream {
						way = geminicalls.Stream
					}
					_, err := way(t.Context(), c, new(calls.Tape), fmt.Sprintf("mock-chat+status=%d+words=%d", status, 1+len(t.Name())), geminicalls.Ask("hi"), nil)
					var raised genai.APIError
					if !errors.As(err, &raised) || raised.Code != status {
						t.Fatalf("the SDK raised %v", err)
					}
					return fmt.Sprintf("%d %s %s %v", raised.Code, raised.Status, raised.Message, raised.Details)
				}
				want := ask(direct)
				if got := ask(through); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}

// A credential of ours that is refused is our trouble, in every dialect.
func TestNativeRefusedCredentialIs502(t *testing.T) {
	for provider, start := range map[string]func(testing.TB) *harness.Upstream{"anthropic": harness.StartAnthropic, "gemini": harness.StartGemini} {
		mock := start(t)
		c := native(provider, mock)
		c.Floway = strings.Replace(c.Floway, "{env.UPSTREAM_1}", "{env.ALICE}x", 1) // one that the service does not know
		gateway := harness.StartGateway(t, c)
		var err error
		if provider == "anthropic" {
			_, err = anthropiccalls.Complete(t.Context(), anthropiccalls.Client(gateway.URL, alice), new(calls.Tape), anthropiccalls.Ask("mock-chat", "hi"))
			var raised *anthropic.Error
			if !errors.As(err, &raised) || raised.StatusCode != 502 || raised.Type() != "api_error" {
				t.Errorf("%s: %v", provider, err)
			}
			continue
		}
		_, err = geminicalls.Complete(t.Context(), geminiClient(t, gateway.URL, alice), new(calls.Tape), "mock-chat", geminicalls.Ask("hi"), nil)
		var raised genai.APIError
		if !errors.As(err, &raised) || raised.Code != 502 || raised.Status != "UNAVAILABLE" {
			t.Errorf("%s: %v", provider, err)
		}
	}
}

// What ends in the middle is no end for the SDK: an error of the service passes as
// it is, a cut and an early end become one.
func TestNativeStreamsThatEndEarly(t *testing.T) {
	type service struct {
		start func(testing.TB) *harness.Upstream
		ask   func(url, key, model string) error
	}
	for provider, s := range map[string]service{
		"anthropic": {harness.StartAnthropic, func(url, key, model string) error {
			_, err := anthropiccalls.Stream(t.Context(), anthropiccalls.Client(url, key), new(calls.Tape), anthropiccalls.Ask(model, "hi"))
			return err
		}},
		"gemini": {harness.StartGemini, func(url, key, model string) error {
			_, err := geminicalls.Stream(t.Context(), geminiClient(t, url, key), new(calls.Tape), model, geminicalls.Ask("hi"), nil)
			return err
		}},
	} {
		mock := s.start(t)
		gateway := harness.StartGateway(t, native(provider, mock))
		for _, words := range []string{"+fail=9", "+cut=9", "+end=9", "+cut=9+pieces=3", "+fail=9+gzip"} {
			t.Run(provider+words, func(t *testing.T) {
				model := "mock-chat+words=30" + words
				err := s.ask(gateway.URL, alice, model)
				if err == nil {
					t.Fatal("the SDK takes a part of an answer for the whole")
				}
				if strings.Contains(words, "fail") {
					// What stands before the body is the address and the id of the request.
					said := func(err error) string { return err.Error()[max(strings.Index(err.Error(), "{"), 0):] }
					if want := s.ask(mock.URL, upstreamKey, model); want == nil || said(err) != said(want) {
						t.Errorf("got %v, directly %v", err, want)
					}
				}
			})
		}
		t.Run(provider+" whole", func(t *testing.T) {
			if err := s.ask(gateway.URL, alice, "mock-chat+words=30"); err != nil {
				t.Error(err)
			}
		})
	}
}

// An application that gives a call up ends it at the service too. What was told by
// then stays in the account, the rest is estimated.
func TestNativeSDKGivesUp(t *testing.T) {
	t.Run("anthropic", func(t *testing.T) {
		mock := harness.StartAnthropic(t)
		gateway := harness.StartGateway(t, native("anthropic", mock))
		ctx, cancel := context.WithCancel(t.Context())
		s := anthropiccalls.Client(gateway.URL, alice).Messages.NewStreaming(ctx, anthropiccalls.Ask("mock-chat+cached+hang=9", "hi"))
		defer s.Close()
		for range 8 { // the SDK drops the ping
			if !s.Next() {
				t.Fatal(s.Err())
			}
		}
		cancel()
		if s.Next() || !errors.Is(s.Err(), context.Canceled) {
			t.Errorf("after the end: %v", s.Err())
		}
		left(t, gateway, mock, func(c harness.Counts) bool {
			return c.CacheRead == 3000 && c.CacheWrite == 1000 && c.CacheWrite1h == 200 && c.EstimatedAttempts == 1
		})
	})
	t.Run("gemini", func(t *testing.T) {
		mock := harness.StartGemini(t)
		gateway := harness.StartGateway(t, native("gemini", mock))
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		for _, err := range geminiClient(t, gateway.URL, alice).Models.GenerateContentStream(ctx, "mock-chat+cached+hang=6", geminicalls.Ask("hi"), nil) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("after the end: %v", err)
				}
				break
			}
			if n++; n == 6 {
				cancel()
			}
		}
		cancel()
		left(t, gateway, mock, func(c harness.Counts) bool { return c.CacheRead == 3000 && c.EstimatedAttempts == 1 })
	})
}

func left(t *testing.T, g *harness.Gateway, mock *harness.Upstream, ok func(harness.Counts) bool) {
	t.Helper()
	if entries := mock.Quiet(t); len(entries) != 1 || entries[0].Outcome != mockGone {
		t.Errorf("at the upstream: %+v", entries)
	}
	harness.Eventually(t, func() error {
		_, sum := g.Usage(t, "key")
		if sum.Attempts != 1 || !ok(sum) || sum.Output == 0 {
			return fmt.Errorf("in the account: %+v", sum)
		}
		return nil
	})
}

const mockGone = mock.Gone

// nativeBodies are questions to both services, with the paths at which they are
// asked; MODEL stands for the model.
var nativeBodies = map[string][]struct{ name, path, body string }{
	"anthropic": {
		{"plain", "/v1/messages", `{"messages":[{"role":"user","content":"h\u0069"}] , "max_tokens":1e2,"model":"MODEL"}`},
		{"stream", "/v1/messages?beta=true", `{ "stream":true,"max_tokens":100,"messages":[{"role":"user","content":"h\u0069"}],"model":"MODEL" }`},
		{"count", "/v1/messages/count_tokens?beta=true", `{"model":"MODEL","messages":[{"role":"user","content":"é"}]}`},
	},
	"gemini": {
		{"plain", "/v1beta/models/MODEL:generateContent", `{"contents":[{"parts":[{"text":"h\u0069"}] }], "generation_config":{"max_output_tokens":100}}`},
		{"events", "/v1beta/models/MODEL:streamGenerateContent?alt=sse", `{"contents":[{"parts":[{"text":"h\u0069"}] }]}`},
		{"array", "/v1beta/models/MODEL:streamGenerateContent", `{"contents":[{"parts":[{"text":"h\u0069"}] }]}`},
		{"count", "/v1beta/models/MODEL:countTokens", `{"generateContentRequest":{"model":"models/MODEL","contents":[{"parts":[{"text":"é"}]}]}}`},
		{"embedding", "/v1beta/models/MODEL:embedContent?$alt=json", `{"content":{"parts":[{"text":"h\u0069"}]} }`},
		{"embeddings", "/v1beta/models/MODEL:batchEmbedContents", `{"requests":[{"model":"models/MODEL","content":{"parts":[{"text":"h\u0069"}]} }]}`},
	},
}

// Requests arrive and answers come back byte for byte: in one piece or a byte at a
// time, packed or not, with whatever line ends. Nothing of ours or of the client's
// credentials is in the wrong place.
func TestNativeBytes(t *testing.T) {
	for provider, start := range map[string]func(testing.TB) *harness.Upstream{"anthropic": harness.StartAnthropic, "gemini": harness.StartGemini} {
		mock := start(t)
		gateway := harness.StartGateway(t, native(provider, mock))
		credential := map[string]string{"anthropic": "X-Api-Key", "gemini": "X-Goog-Api-Key"}[provider]
		for _, b := range nativeBodies[provider] {
			for _, words := range []string{"", "+gzip", "+chunked", "+pieces=1", "+pieces=7", "+crlf", "+comments", "+bare", "+unicode", "+usage=absent", "+usage=twice", "+refusal", "+filter", "+length", "+status=400", "+status=503"} {
				if b.name == "count" && words == "+status=503" {
					continue // where nobody counts, the gateway estimates
				}
				t.Run(provider+" "+b.name+words, func(t *testing.T) {
					path, body := strings.Replace(b.path, "MODEL", "mock-chat"+words, 1), strings.ReplaceAll(strings.Replace(b.body, "1e2", "100", 1), "MODEL", "mock-chat"+words)
					headers := []string{"Content-Type", "application/json", "Anthropic-Version", "2026-10-21", "Anthropic-Beta", "effort-2025-11-24,claude-code-20250219"}
					want := do(t, "POST", mock.URL+path, []byte(body), append(headers, credential, upstreamKey)...)
					if want.header.Get("Content-Encoding") == "gzip" {
						want.body = gunzip(t, want.body)
					}
					through := path
					if provider == "gemini" {
						through += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + "key=" + alice
						headers = slices.Clip(headers)
					} else {
						headers = append(headers, "Authorization", "Bearer "+alice)
					}
					got := do(t, "POST", gateway.URL+through, []byte(body), headers...)
					if got.status != want.status || got.err != nil || !bytes.Equal(got.body, want.body) {
						t.Errorf("%d %v\n%q\ndirectly %d\n%q", got.status, got.err, got.body, want.status, want.body)
					}
					if g, w := got.header.Get("Content-Type"), want.header.Get("Content-Type"); g != w {
						t.Errorf("content type %q, directly %q", g, w)
					}
					r := mock.Last(t)
					if string(r.Body) != body || r.URI != path {
						t.Errorf("the upstream received %s\n%q\nsent was %s\n%q", r.URI, r.Body, path, body)
					}
					if provider == "anthropic" && (r.Header.Get("Anthropic-Version") != "2026-10-21" || r.Header.Get("Anthropic-Beta") != "effort-2025-11-24,claude-code-20250219") {
						t.Errorf("version %q, betas %q", r.Header.Get("Anthropic-Version"), r.Header.Get("Anthropic-Beta"))
					}
					if r.Header.Get(credential) != upstreamKey || r.Header.Get("Authorization") != "" || strings.Contains(fmt.Sprint(r), alice) {
						t.Errorf("the upstream received %v", r.Header)
					}
					for name, values := range got.header {
						if all := strings.Join(values, " "); strings.Contains(all, upstreamKey) || name == "Set-Cookie" || strings.HasPrefix(name, "Anthropic-") {
							t.Errorf("%s came down: %q", name, values)
						}
					}
				})
			}
		}
	}
}

// A stream that is an array ends, when it is cut, in an element that says so and in
// a broken connection.
func TestGeminiArrayThatIsCut(t *testing.T) {
	mock := harness.StartGemini(t)
	gateway := harness.StartGateway(t, native("gemini", mock))
	for _, words := range []string{"+cut=5", "+end=5", "+fail=5"} {
		a := do(t, "POST", gateway.URL+"/v1beta/models/mock-chat+words=30"+words+":streamGenerateContent", []byte(`{"contents":[{"parts":[{"text":"hi"}]}]}`), "X-Goog-Api-Key", alice)
		elements := bytes.Count(a.body, []byte(`"text"`))
		if a.status != 200 || a.err == nil || elements != 5 || !bytes.Contains(a.body, []byte(`{"error":{"code":50`)) {
			t.Errorf("%s: %d %v, %d elements\n%s", words, a.status, a.err, elements, a.body)
		}
	}
}

// The details of a refusal reach the caller: Anthropic's SDK goes on without a
// thread only if it finds them.
func TestAnthropicErrorDetails(t *testing.T) {
	mock := harness.StartAnthropic(t)
	gateway := harness.StartGateway(t, native("anthropic", mock))
	const body = `{"model":"mock-chat","max_tokens":9,"thread":{"type":"create"},"messages":[{"role":"user","content":"hi"}]}`
	a := do(t, "POST", gateway.URL+"/v1/messages", []byte(body), "X-Api-Key", alice, "Anthropic-Version", "2026-10-21", "Anthropic-Beta", "message-threads-2026-08-12")
	if a.status != 400 || !bytes.Contains(a.body, []byte(`"details":{"error_code":"thread_unsupported_request","unsupported":["thread"]}`)) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a.header.Get("Request-Id") == "" || a.header.Get("Request-Id") == a.header.Get("X-Upstream-Request-Id") {
		t.Errorf("%v", a.header)
	}
}

// A turn with calls of tools and its answer, as Claude Code sends them: system turns
// inside, cache marks, adaptive thinking, context management.
func TestClaudeCodeOnAnthropic(t *testing.T) {
	mock := harness.StartAnthropic(t)
	gateway := harness.StartGateway(t, native("anthropic", mock))
	tools := make([]string, 24)
	for i := range tools {
		tools[i] = fmt.Sprintf(`{"name":"Tool%d","description":%q,"input_schema":{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"a":{"type":"string","pattern":"^x"},"b":{"anyOf":[{"const":1},{"type":"null"}]}},"required":["a"],"additionalProperties":false}}`, i, strings.Repeat("words ", 400))
	}
	head := `{"model":"mock-chat","max_tokens":32000,"stream":STREAM,"thinking":{"type":"adaptive"},"output_config":{"effort":"high"},"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"metadata":{"user_id":"{\"device_id\":\"x\"}"},` +
		`"system":[{"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral"}}],"tools":[` + strings.Join(tools, ",") + `],"messages":[{"role":"user","content":[{"type":"text","text":"List the files."}]},{"role":"system","content":"Today is a day."}`
	headers := []string{"X-Api-Key", alice, "Content-Type", "application/json", "Anthropic-Version", "2023-06-01", "X-App", "cli", "Anthropic-Beta", "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,context-management-2025-06-27,prompt-caching-scope-2026-01-05,mid-conversation-system-2026-04-07,effort-2025-11-24"}
	for _, stream := range []string{"false", "true"} {
		first := strings.Replace(head, "STREAM", stream, 1) + "]}"
		a := do(t, "POST", gateway.URL+"/v1/messages?beta=true", []byte(first), headers...)
		if a.status != 200 || len(first) < 50_000 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		// The answer goes back as it came, with the results of the calls.
		whole := do(t, "POST", gateway.URL+"/v1/messages?beta=true", []byte(strings.Replace(first, `"stream":true`, `"stream":false`, 1)), headers...)
		content, ok := strings.CutPrefix(string(whole.body[bytes.Index(whole.body, []byte(`"content":`)):]), `"content":`)
		content, _, _ = strings.Cut(content, `,"stop_reason"`)
		if !ok || !strings.Contains(content, `"signature"`) || strings.Count(content, `"tool_use"`) != 2 {
			t.Fatalf("%s", whole.body)
		}
		var results []string
		for _, piece := range strings.Split(content, `"id":"`)[1:] {
			id, _, _ := strings.Cut(piece, `"`)
			results = append(results, `{"type":"tool_result","tool_use_id":"`+id+`","content":"done"}`)
		}
		second := strings.Replace(head, "STREAM", stream, 1) + `,{"role":"assistant","content":` + content + `},{"role":"user","content":[` + strings.Join(results, ",") + `]}]}`
		b := do(t, "POST", gateway.URL+"/v1/messages?beta=true", []byte(second), headers...)
		if b.status != 200 || b.err != nil || !bytes.Contains(b.body, []byte("end_turn")) {
			t.Errorf("%d %v %s", b.status, b.err, b.body)
		}
	}
}

// A listing is in its caller's shape, whichever service stands behind.
func TestListingsInTheCallersShape(t *testing.T) {
	for provider, start := range map[string]func(testing.TB) *harness.Upstream{"anthropic": harness.StartAnthropic, "gemini": harness.StartGemini, "openai": harness.StartOpenAI} {
		mock := start(t)
		gateway := startNative(t, provider, mock)
		var names []string
		for m, err := range geminiClient(t, gateway.URL, alice).Models.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, strings.TrimPrefix(m.Name, "models/"))
		}
		if !slices.Contains(names, "mock-chat") {
			t.Errorf("%s: Google's SDK sees %v", provider, names)
		}
		all := anthropiccalls.Client(gateway.URL, alice).Models.ListAutoPaging(t.Context(), anthropic.ModelListParams{Limit: anthropic.Int(2)})
		var again []string
		for all.Next() {
			again = append(again, all.Current().ID)
		}
		if all.Err() != nil || !slices.Equal(again, names) {
			t.Errorf("%s: Anthropic's SDK sees %v, %v", provider, again, all.Err())
		}
		a := do(t, "GET", gateway.URL+"/v1/models", nil, "Authorization", "Bearer "+alice)
		if n := bytes.Count(a.body, []byte(`"object":"model"`)); n != len(names) {
			t.Errorf("%s: OpenAI's listing is %s", provider, a.body)
		}
	}
}

// Whoever asks whether somebody is there is answered at once, by the site.
func TestHeadOfTheRoot(t *testing.T) {
	mock := harness.StartAnthropic(t)
	gateway := harness.StartGateway(t, native("anthropic", mock))
	resp, err := http.DefaultClient.Head(gateway.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 0 || resp.StatusCode >= 500 || len(mock.Quiet(t)) > 0 {
		t.Errorf("%s %q %v", resp.Status, b, err)
	}
}
