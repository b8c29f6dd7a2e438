package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/azure"
	"github.com/openai/openai-go/v3/option"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/calls"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockazure"
	"github.com/floway/floway/e2e/openaicalls"
)

const azureVersion = "2025-04-01-preview"

// azureClient is the SDK's client of a resource of Azure's.
func azureClient(url, key string) *openai.Client {
	c := openai.NewClient(azure.WithEndpoint(url, azureVersion), azure.WithAPIKey(key), azure.WithUnsafeAllowHTTP(), option.WithMaxRetries(0))
	return &c
}

// azureUpstream is a gateway in front of the resource, with these lines in the block.
func azureUpstream(mock *harness.Upstream, lines ...string) harness.Config {
	return harness.Config{
		Floway: `
		upstream azure mock {
			base_url MOCK
			models mock-* prod-* claude-* nowhere
			` + strings.Join(lines, "\n\t\t\t") + `
		}` + clients + `
		usage embedded DIR/usage
		lb_retries 0
`,
		Vars: map[string]string{"MOCK": mock.URL},
		Env:  environment,
	}
}

func seenBy(t *testing.T, mock *harness.Upstream) (visits []mockazure.Visit) {
	t.Helper()
	a := do(t, "GET", mock.URL+"/__seen", nil)
	if err := json.Unmarshal(a.body, &visits); err != nil {
		t.Fatal(err)
	}
	// What the gateway asks on its own account is not of interest.
	return slices.DeleteFunc(visits, func(v mockazure.Visit) bool { return v.Method == "GET" && strings.HasSuffix(v.Path, "/models") })
}

func lastSeen(t *testing.T, mock *harness.Upstream) mockazure.Visit {
	t.Helper()
	all := seenBy(t, mock)
	if len(all) == 0 {
		t.Fatal("the resource received nothing")
	}
	return all[len(all)-1]
}

// Whatever an application does with OpenAI's SDK at a resource of Azure's, on either
// surface, it gets from the gateway what it would get there, and the account has
// what the service has.
func TestAzureSDK(t *testing.T) {
	// What Azure does not have, or in the second list not on the older surface.
	none := []string{"image variation", "moderations", "rerank", "models", "responses input tokens", "responses compact"}
	for name, s := range map[string]struct {
		lines   []string
		client  func(url, key string) *openai.Client
		compact bool
	}{
		"deployments": {[]string{"key {env.UPSTREAM_1} as k1", "api_version " + azureVersion}, azureClient, false},
		"v1": {[]string{"key {env.UPSTREAM_1} as k1"}, func(url, key string) *openai.Client {
			return openaicalls.Client(url+"/openai/v1", key, option.WithQuery("api-version", "preview"))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			mock := harness.StartAzure(t)
			gateway := harness.StartGateway(t, azureUpstream(mock, s.lines...))
			table := slices.DeleteFunc(slices.Clone(openaicalls.All), func(c calls.Call[*openai.Client]) bool {
				return slices.Contains(none, c.Name) && (c.Name != "responses compact" || !s.compact)
			})
			direct, through := s.client(mock.URL, upstreamKey), s.client(gateway.URL, alice)
			// Of what else there is the service does not always tell what it uses.
			chats := slices.DeleteFunc(slices.Clone(table), func(c calls.Call[*openai.Client]) bool { return !strings.HasPrefix(c.Name, "chat") })
			compare(t, chats, direct, through, gateway, mock)
			for _, call := range table[len(chats):] {
				t.Run(call.Name, func(t *testing.T) {
					var want, got calls.Tape
					if err := call.Do(t.Context(), direct, &want); err != nil {
						t.Fatalf("direct: %v", err)
					}
					if err := call.Do(t.Context(), through, &got); err != nil {
						t.Fatalf("through the gateway: %v", err)
					}
					if !slices.Equal(got.Pieces, want.Pieces) {
						t.Errorf("got\n%q\ndirectly\n%q", got.Pieces, want.Pieces)
					}
				})
			}
			for _, v := range seenBy(t, mock) {
				if strings.Contains(v.Query, "api-version="+azureVersion) != (name == "deployments") || v.By != "api-key" && v.By != "bearer key" {
					t.Errorf("the resource saw %s %s?%s by %s", v.Method, v.Path, v.Query, v.By)
				}
			}
			if v := lastSeen(t, mock); v.By != "api-key" {
				t.Errorf("the gateway authenticates by %s", v.By)
			}
		})
	}
}

// Clients of one surface are served by the other, and those of Azure by anything.
func TestAzureSurfacesMix(t *testing.T) {
	mock, plain := harness.StartAzure(t), harness.StartOpenAI(t)
	c := azureUpstream(mock, "key {env.UPSTREAM_1}")
	c.Floway += `
		upstream azure dated {
			base_url MOCK/openai
			api_version 2024-06-01
			key {env.UPSTREAM_2}
			alias house prod-mock-chat
		}
		upstream openai plain {
			base_url PLAIN/v1
			key {env.UPSTREAM_3}
			models mock-mini
		}
`
	c.Vars["PLAIN"] = plain.URL
	gateway := harness.StartGateway(t, c)
	ask := func(client *openai.Client, model string) {
		t.Helper()
		p := openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
		if _, err := client.Chat.Completions.New(t.Context(), p); err != nil {
			t.Fatalf("%s: %v %+v", model, err, lastSeen(t, mock))
		}
		stream := client.Chat.Completions.NewStreaming(t.Context(), p)
		defer stream.Close()
		text := ""
		for stream.Next() {
			for _, c := range stream.Current().Choices {
				text += c.Delta.Content
			}
		}
		if stream.Err() != nil || text == "" {
			t.Fatalf("%s: %q %v", model, text, stream.Err())
		}
	}
	classic, v1 := azureClient(gateway.URL, alice), openaicalls.Client(gateway.URL+"/openai/v1", alice)
	for _, client := range []*openai.Client{classic, v1} {
		ask(client, "prod-mock-chat")
		if v := lastSeen(t, mock); v.Path != "/openai/v1/chat/completions" || v.Query != "" || !strings.Contains(v.Body, `"prod-mock-chat"`) {
			t.Errorf("v1 saw %s?%s %s", v.Path, v.Query, v.Body)
		}
		ask(client, "house")
		if v := lastSeen(t, mock); v.Path != "/openai/deployments/prod-mock-chat/chat/completions" || v.Query != "api-version=2024-06-01" {
			t.Errorf("deployments saw %s?%s", v.Path, v.Query)
		}
		ask(client, "plain/mock-mini")
		if r := plain.Last(t); r.URI != "/v1/chat/completions" {
			t.Errorf("another upstream saw %s", r.URI)
		}
	}
	// The version of 2024-06-01 has neither stream_options nor the newer name of the
	// bound: the first is tried and left out, the second never sent.
	message, err := anthropicThrough(gateway).Messages.New(t.Context(), hello("house"))
	if err != nil || message.Content[0].Text == "" {
		t.Fatal(message, err)
	}
	if v := lastSeen(t, mock); !strings.Contains(v.Body, `"max_tokens":64`) {
		t.Errorf("sent %s", v.Body)
	}
}

func anthropicThrough(g *harness.Gateway) *anthropic.Client {
	return anthropiccalls.Client(g.URL, alice)
}

func hello(model string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(model), MaxTokens: 64,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))},
	}
}

// A client of Messages is served by a deployment: what Azure's filter says between
// the pieces of the answer does not reach it, and models that know only the newer
// name of the bound get it.
func TestAzureTranslated(t *testing.T) {
	mock := harness.StartAzure(t)
	gateway := harness.StartGateway(t, azureUpstream(mock, "key {env.UPSTREAM_1}", "dialects chat"))
	client := anthropicThrough(gateway)
	message, err := client.Messages.New(t.Context(), hello("mock-reasoner"))
	if err != nil || len(message.Content) == 0 || message.Usage.OutputTokens == 0 {
		t.Fatal(message, err)
	}
	if v := lastSeen(t, mock); !strings.Contains(v.Body, `"max_completion_tokens":64`) || strings.Contains(v.Body, `"max_tokens"`) {
		t.Errorf("sent %s", v.Body)
	}
	for _, model := range []string{"prod-mock-chat", "mock-chat+unicode", "mock-chat+usage=last"} {
		var whole anthropic.Message
		stream := client.Messages.NewStreaming(t.Context(), hello(model))
		for stream.Next() {
			if raw := stream.Current().RawJSON(); strings.Contains(raw, "filter") {
				t.Errorf("%s: the client saw %s", model, raw)
			}
			if err := whole.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		stream.Close()
		if stream.Err() != nil || whole.StopReason != "end_turn" || whole.Content[0].Text == "" || whole.Usage.OutputTokens == 0 {
			t.Errorf("%s: %s %v", model, whole.RawJSON(), stream.Err())
		}
	}
}

// Claude has an API of its own there.
func TestAzureClaude(t *testing.T) {
	mock := harness.StartAzure(t)
	gateway := harness.StartGateway(t, azureUpstream(mock, "key {env.UPSTREAM_1}", "api_version "+azureVersion))
	client := anthropicThrough(gateway)
	if _, err := client.Messages.New(t.Context(), hello("claude-mock-chat")); err != nil {
		t.Fatal(err)
	}
	if v := lastSeen(t, mock); v.Path != "/anthropic/v1/messages" || v.By != "x-api-key" || v.Query != "" {
		t.Errorf("the resource saw %s?%s by %s", v.Path, v.Query, v.By)
	}
	stream := client.Messages.NewStreaming(t.Context(), hello("claude-mock-chat"))
	defer stream.Close()
	events := 0
	for stream.Next() {
		events++
	}
	if stream.Err() != nil || events < 5 {
		t.Errorf("%d events, %v", events, stream.Err())
	}
	n, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
		Model: "claude-mock-chat", Messages: hello("").Messages,
	})
	if err != nil || n.InputTokens == 0 {
		t.Error(n, err)
	}
	if v := lastSeen(t, mock); v.Path != "/anthropic/v1/messages/count_tokens" {
		t.Errorf("the resource saw %s", v.Path)
	}
	// A client that speaks no Messages sends no version: that is made up for.
	answer, err := azureClient(gateway.URL, alice).Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "claude-mock-chat", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
	})
	if err != nil || answer.Choices[0].Message.Content == "" || answer.Model != "claude-mock-chat" {
		t.Fatal(answer, err)
	}
	if v := lastSeen(t, mock); v.Path != "/anthropic/v1/messages" {
		t.Errorf("the resource saw %s", v.Path)
	}
}

// What the resource refuses raises the same exception as a direct call, and no other
// account is asked to answer what policy refused.
func TestAzureRefusals(t *testing.T) {
	mock := harness.StartAzure(t)
	c := azureUpstream(mock, "key {env.UPSTREAM_1}", "key {env.UPSTREAM_2}", "api_version "+azureVersion)
	c.Floway = strings.Replace(c.Floway, "lb_retries 0", "lb_retries 3", 1)
	gateway := harness.StartGateway(t, c)
	direct, through := azureClient(mock.URL, upstreamKey), azureClient(gateway.URL, alice)
	for name, p := range map[string]openai.ChatCompletionNewParams{
		"content filter":     {Model: "mock-chat", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(mockazure.Forbidden)}},
		"unknown deployment": {Model: "nowhere", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}},
	} {
		_, err := direct.Chat.Completions.New(t.Context(), p)
		want := exception(t, err)
		_, err = through.Chat.Completions.New(t.Context(), p)
		if got := exception(t, err); got.Status != want.Status || got.Code != want.Code || got.Message != want.Message || got.Param != want.Param {
			t.Errorf("%s: got %+v, directly %+v", name, got, want)
		}
		before := len(seenBy(t, mock))
		stream := through.Chat.Completions.NewStreaming(t.Context(), p)
		for stream.Next() {
		}
		stream.Close()
		if got := exception(t, stream.Err()); got.Code != want.Code {
			t.Errorf("%s, streamed: %+v", name, got)
		}
		if n := len(seenBy(t, mock)) - before; n > 1 && want.Status == 400 {
			t.Errorf("%s: the resource was asked %d times", name, n)
		}
	}
	// Azure's numbers are strings, and its waits are in more than one header.
	if err := mock.Script(limited()); err != nil {
		t.Fatal(err)
	}
	a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", "hi"))
	if after := a.header.Get("Retry-After"); a.status != 429 || after == "" || after > "77" || after < "60" || len(after) != 2 {
		t.Errorf("%d, Retry-After %q: %s", a.status, after, a.body)
	}
	if id := a.header.Get("X-Upstream-Request-Id"); id == "" {
		t.Errorf("the answer has no name of the resource's: %v", a.header)
	}
}

func limited() mock.Rule {
	return mock.Rule{Behavior: mock.Behavior{
		Status: 429, Headers: map[string]string{"Retry-After-Ms": "77000"},
		Body: `{"error":{"code":"429","message":"Requests have exceeded the call rate limit of your current tier. Please retry after 77 seconds."}}`,
	}}
}

// A version that the service does not have, or a key that it does not take: the
// error says so, and others serve.
func TestAzureMisconfigured(t *testing.T) {
	mock := harness.StartAzure(t)
	c := azureUpstream(mock, "key {env.UPSTREAM_1}")
	c.Floway += `
		upstream azure old {
			base_url MOCK
			api_version 2023-01-01
			key {env.UPSTREAM_1}
			alias old-mock mock-chat
		}
		upstream azure wrong {
			base_url MOCK
			key {env.WRONG}
			alias wrong-mock mock-chat
		}
		route either-old {
			to old/mock-chat
			to mock/mock-chat
		}
		route either-wrong {
			to wrong/mock-chat
			to mock/mock-chat
		}
		lb_retries 2
`
	c.Floway = strings.Replace(c.Floway, "lb_retries 0\n", "", 1)
	c.Env = append(slices.Clone(environment), "WRONG=sk-mock-wrong-1")
	gateway := harness.StartGateway(t, c)
	if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("old-mock", "hi")); a.status != 400 || !strings.Contains(string(a.body), "API version not supported") {
		t.Errorf("a version that is not there: %d %s", a.status, a.body)
	}
	if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("wrong-mock", "hi")); a.status != 502 || strings.Contains(string(a.body), "sk-mock") {
		t.Errorf("a key that is wrong: %d %s", a.status, a.body)
	}
	for _, model := range []string{"either-old", "either-wrong"} {
		if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat(model, "hi")); a.status != 200 {
			t.Errorf("%s: %d %s", model, a.status, a.body)
		}
	}
}

// setEntra changes how tokens are given out, and tells how they are.
func setEntra(t *testing.T, mock *harness.Upstream, set *mockazure.Entra) (now mockazure.Entra) {
	t.Helper()
	method, body := "GET", []byte(nil)
	if set != nil {
		method = "POST"
		body, _ = json.Marshal(set)
	}
	if err := json.Unmarshal(do(t, method, mock.URL+"/__entra", body).body, &now); err != nil {
		t.Fatal(err)
	}
	return now
}

// entraUpstream is a gateway that authenticates by the resource's own Entra ID.
func entraUpstream(t *testing.T, mock *harness.Upstream, lines ...string) harness.Config {
	t.Helper()
	e := setEntra(t, mock, nil)
	root := filepath.Join(t.TempDir(), "entra.pem")
	if err := os.WriteFile(root, []byte(e.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	c := azureUpstream(mock, append([]string{"entra " + mockazure.Tenant + " " + mockazure.Client + " {env.ENTRA_SECRET}"}, lines...)...)
	c.Env = append(slices.Clone(environment), "AZURE_AUTHORITY_HOST="+e.URL, "SSL_CERT_FILE="+root, "ENTRA_SECRET="+e.Secret)
	return c
}

// One token serves all requests, on all surfaces; it is exchanged ahead of its end
// and when the service refuses it, and no client notices.
func TestAzureEntra(t *testing.T) {
	mock := harness.StartAzure(t)
	c := entraUpstream(t, mock)
	gateway := harness.StartGateway(t, c)
	client := azureClient(gateway.URL, alice)
	ask := func() error {
		_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
			Model: "mock-chat", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
		})
		return err
	}
	errs := make(chan error, 16)
	for range cap(errs) {
		go func() { errs <- ask() }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := anthropicThrough(gateway).Messages.New(t.Context(), hello("claude-mock-chat")); err != nil {
		t.Fatal(err)
	}
	for _, v := range seenBy(t, mock) {
		if v.By != "token" || v.Token != 1 {
			t.Errorf("%s by %s %d", v.Path, v.By, v.Token)
		}
	}
	if e := setEntra(t, mock, nil); e.Given != 1 {
		t.Errorf("%d tokens were given out", e.Given)
	}
	// All tokens end at once: one more try, with another.
	setEntra(t, mock, &mockazure.Entra{Revoke: true})
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if v := lastSeen(t, mock); v.Token != 2 {
		t.Errorf("afterwards token %d was used", v.Token)
	}
	// A reload keeps what is known.
	c.Floway = strings.Replace(c.Floway, "lb_retries 0", "lb_retries 1", 1)
	if err := gateway.Reload(t, c); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if v := lastSeen(t, mock); v.Token != 2 {
		t.Errorf("after a reload token %d was used", v.Token)
	}
	if strings.Contains(gateway.Log(), "entra~secret") || strings.Contains(gateway.Log(), "sk-mock-entra") {
		t.Error("a secret is in the log")
	}
}

// What the authority's clock says need not be what ours says: a token that seems to
// be over when it comes is used, and not fetched for each request.
func TestAzureEntraClockSkew(t *testing.T) {
	mock := harness.StartAzure(t)
	setEntra(t, mock, &mockazure.Entra{Life: -600})
	gateway := harness.StartGateway(t, entraUpstream(t, mock))
	for range 5 {
		if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", "hi")); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if e := setEntra(t, mock, nil); e.Given != 1 {
		t.Errorf("%d tokens were given out", e.Given)
	}
}

// A secret that has expired, and an authority that cannot be reached: the error says
// whose trouble it is, the log what to do, other upstreams serve, and once it is
// mended this one does too. Nothing at start needs the network.
func TestAzureEntraTroubles(t *testing.T) {
	mock, plain := harness.StartAzure(t), harness.StartOpenAI(t)
	setEntra(t, mock, &mockazure.Entra{Expired: "entra~secret~1"})
	c := entraUpstream(t, mock)
	c.Floway = strings.Replace(c.Floway, "lb_retries 0", "lb_retries 1", 1) + `
		upstream openai plain {
			base_url PLAIN/v1
			key {env.UPSTREAM_3}
			models mock-mini
		}
		route either {
			to mock/mock-chat
			to plain/mock-mini
		}
`
	c.Vars["PLAIN"] = plain.URL
	gateway := harness.StartGateway(t, c)
	ask := func(model string) error {
		_, err := openaicalls.Client(gateway.URL+"/v1", alice).Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
			Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
		})
		return err
	}
	if e := exception(t, ask("mock/mock-chat")); e.Status != 502 || !strings.Contains(e.Message, "no valid credential") || strings.Contains(e.Message, "AADSTS") {
		t.Errorf("an expired secret: %+v", e)
	}
	harness.Eventually(t, func() error {
		if !strings.Contains(gateway.Log(), "AADSTS7000222: The provided client secret keys for app") {
			return errors.New("the log does not tell that the secret has expired")
		}
		return nil
	})
	if state := do(t, "GET", gateway.Admin+"/floway/upstreams", nil); !strings.Contains(string(state.body), "AADSTS7000222") || !strings.Contains(string(state.body), `"label":"entra"`) || strings.Contains(string(state.body), "entra~secret") {
		t.Errorf("the state is %s", state.body)
	}
	if err := ask("either"); err != nil {
		t.Errorf("another upstream: %v", err)
	}
	if err := gateway.Stop(); err != nil {
		t.Fatal(err)
	}
	setEntra(t, mock, &mockazure.Entra{Down: true})
	gateway.Start(t)
	plainHTTP.CloseIdleConnections()
	if e := exception(t, ask("mock/mock-chat")); e.Status != 502 || !strings.Contains(e.Message, "cannot be reached") && !strings.Contains(e.Message, "no valid credential") {
		t.Errorf("an authority that is away: %+v", e)
	}
	if err := ask("either"); err != nil {
		t.Errorf("another upstream: %v", err)
	}
	setEntra(t, mock, &mockazure.Entra{})
	harness.Eventually(t, func() error { return ask("mock/mock-chat") })
}

// The default chain of the identity library: here the environment's.
func TestAzureEntraDefaultChain(t *testing.T) {
	mock := harness.StartAzure(t)
	c := entraUpstream(t, mock)
	c.Floway = strings.Replace(c.Floway, "entra "+mockazure.Tenant+" "+mockazure.Client+" {env.ENTRA_SECRET}", "entra", 1)
	c.Env = append(c.Env, "AZURE_TOKEN_CREDENTIALS=EnvironmentCredential", "AZURE_TENANT_ID="+mockazure.Tenant, "AZURE_CLIENT_ID="+mockazure.Client, "AZURE_CLIENT_SECRET=entra~secret~1")
	// A project takes tokens that were made for Foundry, and none else.
	c.Floway = strings.Replace(c.Floway, "base_url MOCK", "base_url MOCK/api/projects/one", 1)
	gateway := harness.StartGateway(t, c)
	if a := post(t, gateway.URL+"/v1/chat/completions", alice, chat("mock-chat", "hi")); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if v := lastSeen(t, mock); v.Path != "/api/projects/one/openai/v1/chat/completions" || v.By != "token" {
		t.Errorf("the resource saw %s by %s", v.Path, v.By)
	}
}
