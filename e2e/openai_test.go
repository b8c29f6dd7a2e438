package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockopenai"
	"github.com/floway/floway/e2e/openaicalls"
)

const upstreamKey = "sk-mock-upstream-1"

// Whatever an application does with OpenAI's SDK, it gets from the gateway what
// it would get from the upstream.
func TestOpenAISDK(t *testing.T) {
	mock := harness.StartOpenAI(t)
	c := oneKey(mock)
	// Without names of its own an upstream serves what it lists.
	c.Floway = strings.Replace(c.Floway, "models *\n", "\n", 1)
	gateway := harness.StartGateway(t, c)
	direct := openaicalls.Client(mock.URL+"/v1", upstreamKey)
	through := openaicalls.Client(gateway.URL+"/v1", alice)
	harness.Eventually(t, func() error {
		a := do(t, "GET", gateway.URL+"/v1/models/mock-chat", nil, "Authorization", "Bearer "+alice)
		if a.status != 200 {
			return fmt.Errorf("the upstream's list was not fetched: %d %s", a.status, a.body)
		}
		return nil
	})
	for _, call := range openaicalls.All {
		t.Run(call.Name, func(t *testing.T) {
			var want, got openaicalls.Tape
			if err := call.Do(t.Context(), direct, &want); err != nil {
				t.Fatalf("direct: %v", err)
			}
			if err := call.Do(t.Context(), through, &got); err != nil {
				var e *openai.Error
				if errors.As(err, &e) {
					err = fmt.Errorf("%w: %s", err, e.RawJSON())
				}
				t.Fatalf("through the gateway: %v", err)
			}
			if len(got.Pieces) != len(want.Pieces) {
				t.Errorf("got %d pieces, directly %d", len(got.Pieces), len(want.Pieces))
			}
			for i := range min(len(got.Pieces), len(want.Pieces)) {
				if got.Pieces[i] != want.Pieces[i] {
					t.Errorf("piece %d is\n%q\ndirectly\n%q", i, got.Pieces[i], want.Pieces[i])
					break
				}
			}
		})
	}
}

// An application that gives a call up ends it at the upstream too.
func TestOpenAISDKGivesUp(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	ctx, cancel := context.WithCancel(t.Context())
	stream := openaicalls.Client(gateway.URL+"/v1", alice).Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model: "mock-chat+words=20+hang=6", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
	})
	defer stream.Close()
	for range 6 {
		if !stream.Next() {
			t.Fatalf("the stream ended: %v", stream.Err())
		}
	}
	cancel()
	if stream.Next() || !errors.Is(stream.Err(), context.Canceled) {
		t.Errorf("after the end: %v", stream.Err())
	}
	if entries := mock.Quiet(t); len(entries) != 1 || entries[0].Outcome != mockopenai.Gone || entries[0].Events != 6 {
		t.Errorf("at the upstream: %+v", entries)
	}
}

// sdkError is what of an SDK's exception an application acts on.
type sdkError struct {
	Status                     int
	Code, Message, Param, Type string
}

func exception(t *testing.T, err error) sdkError {
	t.Helper()
	var e *openai.Error
	if !errors.As(err, &e) {
		t.Fatalf("the SDK raised no exception of its own: %v", err)
	}
	return sdkError{e.StatusCode, e.Code, e.Message, e.Param, e.Type}
}

// An error status of the upstream raises the same exception as a direct call,
// streamed or not.
func TestOpenAIErrors(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	direct := openaicalls.Client(mock.URL+"/v1", upstreamKey)
	through := openaicalls.Client(gateway.URL+"/v1", alice)
	for _, status := range []int{400, 403, 404, 409, 422, 429, 500, 503} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d stream=%v", status, stream), func(t *testing.T) {
				// The model is one of its own: what is refused for it does not
				// keep the key from the others.
				p := openai.ChatCompletionNewParams{
					Model:    fmt.Sprintf("mock-chat+status=%d+words=%d", status, 1+len(t.Name())),
					Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
				}
				ask := func(c *openai.Client) error {
					if !stream {
						_, err := c.Chat.Completions.New(t.Context(), p)
						return err
					}
					s := c.Chat.Completions.NewStreaming(t.Context(), p)
					defer s.Close()
					for s.Next() {
					}
					return s.Err()
				}
				want := exception(t, ask(direct))
				if want.Status != status {
					t.Fatalf("direct: %+v", want)
				}
				if got := exception(t, ask(through)); got != want {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		}
	}
	t.Run("refused by the upstream's own rules", func(t *testing.T) {
		p := openai.ChatCompletionNewParams{Model: "mock-chat", Temperature: openai.Float(3), Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
		_, err := direct.Chat.Completions.New(t.Context(), p)
		want := exception(t, err)
		_, err = through.Chat.Completions.New(t.Context(), p)
		if got := exception(t, err); got != want || got.Param != "temperature" {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// A credential of ours that is refused is our trouble: the client must not throw
// its own key away.
func TestRefusedCredentialIs502(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	if err := mock.Script(mockopenai.Rule{Behavior: mockopenai.Behavior{Status: 401}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := openaicalls.Client(gateway.URL+"/v1", alice).Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
			Model: "mock-chat", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
		})
		if got := exception(t, err); got.Status != 502 || got.Type != "server_error" {
			t.Errorf("got %+v", got)
		}
	}
}

// An upstream that names a wait is believed, and the client is told.
func TestRetryAfterReachesTheClient(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	if err := mock.Script(mockopenai.Rule{Behavior: mockopenai.Behavior{Status: 429, Headers: map[string]string{"Retry-After": "77"}}}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", "hi"))
		after, err := strconv.Atoi(a.header.Get("Retry-After"))
		if a.status != 429 || err != nil || after < 60 || after > 77 {
			t.Errorf("request %d: %d, Retry-After %q", i, a.status, a.header.Get("Retry-After"))
		}
		if e, err := readError(a.body); err != nil || e.Code == nil || *e.Code != "rate_limit_exceeded" {
			t.Errorf("request %d: %s, %v", i, a.body, err)
		}
	}
	if n := len(mock.Quiet(t)); n != 1 {
		t.Errorf("the upstream was asked %d times within the wait that it named", n)
	}
}

// Whatever an upstream writes with an error status, the client reads an error in
// its dialect, with that status.
func TestStrangeErrorBodies(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	bodies := map[string]string{
		"html":           "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>",
		"text":           "upstream connect error or disconnect/reset before headers",
		"array":          `[{"error":{"message":"in an array","code":9}}]`,
		"message":        `{"message":"just a message"}`,
		"detail":         `{"detail":"just a detail"}`,
		"string":         `{"error":"just a string"}`,
		"empty":          ` `,
		"broken":         `{"error":{"message":"cut he`,
		"null":           `null`,
		"missing fields": `{"error":{"message":"only a message"}}`,
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			for _, status := range []int{400, 503} {
				if err := mock.Script(mockopenai.Rule{Behavior: mockopenai.Behavior{Status: status, Body: body, ContentType: "text/html"}}); err != nil {
					t.Fatal(err)
				}
				a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", name))
				if _, err := readError(a.body); err != nil || a.status != status {
					t.Errorf("%d became %d: %v", status, a.status, err)
				}
				if got := a.header.Get("Content-Type"); got != "application/json" {
					t.Errorf("content type %q", got)
				}
			}
		})
	}
}

// An error that repeats our key is not passed on as it is.
func TestErrorsTellNoSecrets(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, oneKey(mock))
	for _, status := range []int{400, 403, 429, 500, 401} {
		body := fmt.Sprintf(`{"error":{"message":"Incorrect API key provided: %s. See https://api.example.com/?key=%s","type":"invalid_request_error","param":null,"code":"x"}}`, upstreamKey, upstreamKey)
		if err := mock.Script(mockopenai.Rule{Behavior: mockopenai.Behavior{Status: status, Body: body}}); err != nil {
			t.Fatal(err)
		}
		a := post(t, gateway.URL+"/v1/chat/completions", alice, chat(fmt.Sprintf("mock-chat+words=%d", status), "hi"))
		if _, err := readError(a.body); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		for _, secret := range []string{upstreamKey, alice, mock.URL} {
			if strings.Contains(fmt.Sprint(a.header, string(a.body)), secret) {
				t.Errorf("%d: %s is in the answer\n%v\n%s", status, secret, a.header, a.body)
			}
		}
	}
}

// A conversation whose state lies with one account of several stays there: what
// goes on from a response, and what brings its reasoning back.
func TestConversationsStayWithTheirKey(t *testing.T) {
	mock := harness.StartOpenAI(t)
	gateway := harness.StartGateway(t, pool(mock, 5, embedded))
	client := openaicalls.Client(gateway.URL+"/v1", alice)
	for _, call := range openaicalls.All {
		if !strings.HasPrefix(call.Name, "responses") {
			continue
		}
		for range 3 {
			if err := call.Do(t.Context(), client, new(openaicalls.Tape)); err != nil {
				t.Errorf("%s: %v", call.Name, err)
			}
		}
	}
	keys := by(mock.Quiet(t), func(e *mockopenai.Entry) string { return e.Key })
	if len(keys) != 5 {
		t.Errorf("the pool was used so: %v", keys)
	}
}

// The gateway knows whose a response is: after a stop, after a crash, and when
// somebody else asks for it.
func TestResponsesHaveOwners(t *testing.T) {
	for store, usage := range stores(t) {
		t.Run(store, func(t *testing.T) {
			mock := harness.StartOpenAI(t)
			c := pool(mock, 5, usage())
			c.Floway = strings.Replace(c.Floway, "models mock-mini", "models mock-chat", 1)
			gateway := harness.StartGateway(t, c)
			var ids []string
			for i := range 10 {
				a := post(t, gateway.URL+"/v1/responses", alice, fmt.Sprintf(`{"model":"mock-chat","input":"number %d"}`, i))
				var r struct{ ID string }
				if err := json.Unmarshal(a.body, &r); err != nil || a.status != 200 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				ids = append(ids, r.ID)
			}
			check := func(when string) {
				t.Helper()
				plainHTTP.CloseIdleConnections() // the other end may be gone
				wrong, example := 0, ""
				for _, id := range ids {
					for key, want := range map[string]int{alice: 200, bob: 404} {
						next := fmt.Sprintf(`{"model":"mock-chat","input":"go on","previous_response_id":%q}`, id)
						on := post(t, gateway.URL+"/v1/responses", key, next)
						read := do(t, "GET", gateway.URL+"/v1/responses/"+id, nil, "Authorization", "Bearer "+key)
						if on.status != want || read.status != want {
							wrong++
							example = fmt.Sprintf("%s goes on: %d, reads: %d, want %d: %s", key, on.status, read.status, want, on.body)
						}
					}
				}
				if wrong > 0 {
					t.Errorf("%s: %d of %d wrong: %s", when, wrong, 2*len(ids), example)
				}
			}
			check("at once")
			c.Floway += "\n\t\tlb_retries 2\n"
			if err := gateway.Reload(t, c); err != nil {
				t.Fatal(err)
			}
			check("after a reload")
			if err := gateway.Stop(); err != nil {
				t.Error(err)
			}
			gateway.Start(t)
			check("after a stop")
			gateway.Kill()
			gateway.Start(t)
			check("after a crash")
		})
	}
}
