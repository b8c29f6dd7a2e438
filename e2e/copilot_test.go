package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockcopilot"
	"github.com/floway/floway/e2e/openaicalls"
)

// seats is a gateway in front of the mock of Copilot with those key lines.
func seats(hub *harness.Upstream, keys ...string) harness.Config {
	return harness.Config{
		Floway: "\n\t\tupstream copilot {\n\t\t\thost HUB\n\t\t\t" + strings.Join(keys, "\n\t\t\t") + "\n\t\t}" + clients + embedded,
		Vars:   map[string]string{"HUB": hub.URL},
		Env:    environment,
	}
}

func control(hub *harness.Upstream) mockcopilot.Control { return mockcopilot.Control{URL: hub.URL} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stats returns what happened at GitHub and Copilot.
func hubStats(t *testing.T, hub *harness.Upstream) mockcopilot.Stats {
	t.Helper()
	st, err := control(hub).Stats()
	must(t, err)
	return st
}

// login is what the admin endpoint says of a sign-in.
type login struct {
	State, Error, Login string
	Code                string `json:"user_code"`
	URL                 string `json:"verification_uri"`
}

// signIn signs a seat in by the admin endpoint, as that account.
func signIn(t *testing.T, g *harness.Gateway, hub *harness.Upstream, name, account string) {
	t.Helper()
	a := do(t, "POST", g.Admin+"/floway/login/copilot?name="+name, nil)
	var l login
	if err := json.Unmarshal(a.body, &l); a.status != 200 || err != nil || l.Code != "ABCD-1234" || l.URL == "" || l.State != "pending" {
		t.Fatalf("%d: %s", a.status, a.body)
	}
	must(t, control(hub).Approve(account))
	if l := loginEnds(t, g, name); l.State != "done" || l.Login != account {
		t.Fatalf("%+v", l)
	}
}

// loginEnds waits until a sign-in has ended.
func loginEnds(t *testing.T, g *harness.Gateway, name string) (l login) {
	t.Helper()
	harness.Eventually(t, func() error {
		a := do(t, "GET", g.Admin+"/floway/login/copilot?name="+name, nil)
		var list struct{ Logins []login }
		if err := json.Unmarshal(a.body, &list); err != nil || len(list.Logins) != 1 || list.Logins[0].State == "pending" {
			return fmt.Errorf("the sign-in has not ended: %s", a.body)
		}
		l = list.Logins[0]
		return nil
	})
	return l
}

// key is a key as the admin endpoint shows it.
type shownKey struct {
	Label, State, Reason string
	Until                *time.Time
	Models               []struct {
		Model, State string
		Until        *time.Time
	}
	Account struct {
		Trouble, Login string
		SignIn         string     `json:"sign_in"`
		TokenUntil     *time.Time `json:"token_until"`
		Quotas         []struct {
			Name  string
			Left  float64
			Reset *time.Time
		}
	}
}

func shownKeys(t *testing.T, g *harness.Gateway) map[string]shownKey {
	t.Helper()
	a := do(t, "GET", g.Admin+"/floway/upstreams", nil)
	var list struct{ Upstreams []struct{ Keys []shownKey } }
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.Upstreams) != 1 {
		t.Fatalf("%v: %s", err, a.body)
	}
	keys := map[string]shownKey{}
	for _, k := range list.Upstreams[0].Keys {
		keys[k.Label] = k
	}
	return keys
}

// refusals are what Copilot refused.
func refusals(st mockcopilot.Stats) (all []string) {
	for _, c := range st.Calls {
		if c.Status != 0 {
			all = append(all, fmt.Sprintf("%s %s %d %s: %s", c.Account, c.Path, c.Status, c.Refusal, c.Body))
		}
	}
	return all
}

// A seat is signed in by the command beside a server that runs, in GitHub's own time;
// it serves at once, and no longer when it is signed out.
func TestCopilotSignIn(t *testing.T) {
	hub := harness.StartCopilot(t)
	g := harness.StartGateway(t, seats(hub, "key signin:team"))
	ask := func() answer {
		return post(t, g.URL+"/v1/chat/completions", alice, chat("gpt-mock-mini", "hi"))
	}
	if a := ask(); a.status != 502 || !strings.Contains(string(a.body), "its operator has to sign in") {
		t.Fatalf("not signed in: %d %s", a.status, a.body)
	}
	if k := shownKeys(t, g)["key1"]; k.State != "invalid" || !strings.Contains(k.Reason, "caddy floway login copilot team") {
		t.Errorf("%+v", k)
	}
	command := func(seen func(string), args ...string) (string, error) {
		return g.Run(t, seen, append([]string{"floway", "login", "copilot", "--address", g.AdminAddress()}, args...)...)
	}
	for verdict, want := range map[string]string{"access_denied": "denied", "expired_token": "expired"} {
		must(t, control(hub).Steer(mockcopilot.Steer{Polls: []string{"authorization_pending", verdict}}))
		if out, err := command(nil, "team"); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", verdict, err, out)
		}
	}
	out, err := g.Interrupt(t, func(out string) bool { return strings.Contains(out, "ABCD-1234") },
		"floway", "login", "copilot", "team", "--address", g.AdminAddress())
	if err == nil || !strings.Contains(out, "given up; nothing was kept") {
		t.Errorf("given up: %v\n%s", err, out)
	}
	must(t, control(hub).Seat("lone", mockcopilot.Seat{NoAccess: true}))
	approved := func(account string) func(string) {
		return func(out string) {
			if strings.Contains(out, "ABCD-1234") {
				must(t, control(hub).Approve(account))
			}
		}
	}
	if out, err := command(approved("lone"), "team"); err == nil || !strings.Contains(out, "no access to Copilot: No access to GitHub Copilot found for lone.") {
		t.Errorf("without a seat: %v\n%s", err, out)
	}
	if out, err := command(nil); err != nil || !strings.Contains(out, "No seat is signed in") {
		t.Errorf("%v\n%s", err, out)
	}
	if a := ask(); a.status != 502 {
		t.Errorf("after sign-ins that failed: %d %s", a.status, a.body)
	}
	must(t, control(hub).Steer(mockcopilot.Steer{Polls: []string{"authorization_pending", "slow_down"}}))
	out, err = command(approved("octo"), "team")
	if err != nil || !strings.Contains(out, "/login/device") || !strings.Contains(out, "team is signed in as octo") || !strings.Contains(out, "\n    key signin:team\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(out, "_mock_") {
		t.Errorf("a token is shown:\n%s", out)
	}
	if st := hubStats(t, hub); st.TooSoon > 0 {
		t.Errorf("GitHub was asked too soon %d times", st.TooSoon)
	}
	if k := shownKeys(t, g)["key1"]; k.State != "ok" {
		t.Errorf("the server has not told its key: %+v", k)
	}
	if a := ask(); a.status != 200 {
		t.Fatalf("signed in: %d %s", a.status, a.body)
	}
	if k := shownKeys(t, g)["key1"]; k.State != "ok" || k.Account.Login != "octo" || k.Account.SignIn != "team" || k.Account.TokenUntil == nil {
		t.Errorf("%+v", k)
	}
	if out, err := command(nil); err != nil || !strings.Contains(out, "team") || !strings.Contains(out, "octo") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, path := range []string{"/floway/upstreams", "/floway/login/copilot", "/config/"} {
		if a := do(t, "GET", g.Admin+path, nil); a.status != 200 || strings.Contains(string(a.body), "_mock_") || strings.Contains(string(a.body), "tid=") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// A restart, even while GitHub is away, needs nobody: the token is in the storage.
	must(t, g.Stop())
	must(t, control(hub).Steer(mockcopilot.Steer{FailExchanges: 1000}))
	g.Start(t)
	if a := ask(); a.status != 200 {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	must(t, control(hub).Steer(mockcopilot.Steer{}))
	if out, err := command(nil, "team", "--sign-out"); err != nil || !strings.Contains(out, "team is signed out") {
		t.Errorf("%v\n%s", err, out)
	}
	if a := ask(); a.status != 502 {
		t.Errorf("signed out: %d %s", a.status, a.body)
	}
	if out, err := command(nil, "team", "--sign-out"); err == nil || !strings.Contains(out, "not signed in") {
		t.Errorf("%v\n%s", err, out)
	}
	for path, want := range map[string]int{"?name=a/b": 400, "?name=x&what=y": 400, "": 400} {
		if a := do(t, "POST", g.Admin+"/floway/login/copilot"+path, nil); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := do(t, "PUT", g.Admin+"/floway/login/copilot?name=x", nil); a.status != 405 || a.header.Get("Allow") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Without a server the command works on the storage of the configuration.
func TestCopilotSignInWithoutServer(t *testing.T) {
	hub := harness.StartCopilot(t)
	c := seats(hub, "key signin:team")
	c.Global = "\tstorage file_system DIR/shelf"
	g := harness.StartGateway(t, c)
	must(t, g.Stop())
	file := filepath.Join(g.Dir, "Caddyfile")
	out, err := g.Run(t, func(out string) {
		if strings.Contains(out, "ABCD-1234") {
			must(t, control(hub).Approve("mona"))
		}
	}, "floway", "login", "copilot", "team", "--config", file)
	if err != nil || !strings.Contains(out, "team is signed in as mona") || !strings.Contains(out, "using the storage of "+file) {
		t.Fatalf("%v\n%s", err, out)
	}
	files, _ := filepath.Glob(filepath.Join(g.Dir, "shelf/floway/copilot/*/team.json"))
	if len(files) != 2 {
		t.Fatalf("in the storage: %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v %v", f, info.Mode(), err)
		}
	}
	g.Start(t)
	if a := post(t, g.URL+"/v1/chat/completions", alice, chat("gpt-mock-mini", "hi")); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if st := hubStats(t, hub); st.Exchanges["mona"] != 1 {
		t.Errorf("%d exchanges", st.Exchanges["mona"])
	}
}

// The official SDKs through the gateway to Copilot, each in the dialect that the model
// is offered in or in another one; the service refuses nothing.
func TestCopilotSDKs(t *testing.T) {
	hub := harness.StartCopilot(t)
	g := harness.StartGateway(t, seats(hub, "key ghp_mock_octo"))
	harness.Eventually(t, func() error {
		if a := do(t, "GET", g.URL+"/v1/models/mock-codex", nil, "Authorization", "Bearer "+alice); a.status != 200 {
			return fmt.Errorf("the list was not fetched: %d %s", a.status, a.body)
		}
		return nil
	})
	if a := do(t, "GET", g.URL+"/v1/models/gpt-mock-off", nil, "Authorization", "Bearer "+alice); a.status != 404 {
		t.Errorf("a model that is not allowed: %d", a.status)
	}
	openAI := openaicalls.Client(g.URL+"/v1", alice)
	claude := anthropiccalls.Client(g.URL, alice)
	image := openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:image/png;base64,iVBORw0KGgo="})
	tool := openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "clock", Parameters: map[string]any{"type": "object", "properties": map[string]any{}}})
	completion := func(model string, messages ...openai.ChatCompletionMessageParamUnion) func() error {
		return func() error {
			r, err := openAI.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: model, Messages: messages, Store: openai.Bool(true)})
			if err == nil && (len(r.Choices) == 0 || r.Choices[0].Message.Content == "" || r.Usage.TotalTokens == 0) {
				err = errors.New("an empty answer: " + r.RawJSON())
			}
			return err
		}
	}
	hi := openai.UserMessage("hi")
	call := openai.ChatCompletionMessageParamUnion{OfAssistant: &openai.ChatCompletionAssistantMessageParam{
		ToolCalls: []openai.ChatCompletionMessageToolCallUnionParam{{OfFunction: &openai.ChatCompletionMessageFunctionToolCallParam{
			ID: "call_1", Function: openai.ChatCompletionMessageFunctionToolCallFunctionParam{Name: "clock", Arguments: "{}"},
		}}},
	}}
	message := func(model string, change func(*anthropic.MessageNewParams), options ...anthropicoption.RequestOption) func() error {
		return func() error {
			p := anthropiccalls.Ask(model, "hi")
			if change != nil {
				change(&p)
			}
			r, err := claude.Messages.New(t.Context(), p, options...)
			if err == nil && (len(r.Content) == 0 || r.Usage.OutputTokens == 0) {
				err = errors.New("an empty answer: " + r.RawJSON())
			}
			return err
		}
	}
	for _, c := range []struct {
		name      string
		do        func() error
		path      string
		initiator string
		vision    bool
	}{
		{"chat", completion("gpt-mock-mini", hi), "/chat/completions", "user", false},
		{"chat after a tool", func() error {
			_, err := openAI.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
				Model: "gpt-mock-mini", Tools: []openai.ChatCompletionToolUnionParam{tool},
				Messages: []openai.ChatCompletionMessageParamUnion{hi, call, openai.ToolMessage("noon", "call_1")},
			})
			return err
		}, "/chat/completions", "agent", false},
		{"chat with an image", completion("gpt-5-mock", openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{openai.TextContentPart("What?"), image})), "/chat/completions", "user", true},
		{"chat stream", func() error {
			s := openAI.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: "gpt-5-mock", Messages: []openai.ChatCompletionMessageParamUnion{hi}})
			defer s.Close()
			var acc openai.ChatCompletionAccumulator
			for s.Next() {
				acc.AddChunk(s.Current())
			}
			if s.Err() == nil && (len(acc.Choices) == 0 || acc.Choices[0].Message.Content == "") {
				return errors.New("an empty stream")
			}
			return s.Err()
		}, "/chat/completions", "user", false},
		{"chat of a model that speaks responses only", completion("mock-codex", hi), "/responses", "user", false},
		{"responses", func() error {
			r, err := openAI.Responses.New(t.Context(), responses.ResponseNewParams{
				Model: "gpt-5-mock", Store: openai.Bool(true), ServiceTier: "auto",
				Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hi")},
			})
			if err == nil && r.OutputText() == "" {
				err = errors.New("an empty answer: " + r.RawJSON())
			}
			return err
		}, "/responses", "user", false},
		{"responses stream", func() error {
			s := openAI.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{
				Model: "mock-codex", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hi")},
			})
			defer s.Close()
			done := false
			for s.Next() {
				done = done || s.Current().Type == "response.completed"
			}
			if s.Err() == nil && !done {
				return errors.New("the stream has no end")
			}
			return s.Err()
		}, "/responses", "user", false},
		{"embeddings of one text", func() error {
			r, err := openAI.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
				Model: "text-embedding-mock", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("hi")},
			})
			if err == nil && len(r.Data) != 1 {
				err = errors.New("no embedding: " + r.RawJSON())
			}
			return err
		}, "/embeddings", "user", false},
		{"messages", message("claude-mock-4.5", nil), "/v1/messages", "user", false},
		{"messages by another spelling", message("claude-mock-4-5-20260929", nil), "/v1/messages", "user", false},
		{"messages with betas and marks", message("claude-mock-4.5", func(p *anthropic.MessageNewParams) {
			p.System = []anthropic.TextBlockParam{{Text: "Be brief.", CacheControl: anthropic.CacheControlEphemeralParam{TTL: anthropic.CacheControlEphemeralTTLTTL1h}}}
			p.Messages = []anthropic.MessageParam{
				anthropic.NewUserMessage(anthropic.NewTextBlock("hi")),
				{Role: "assistant", Content: []anthropic.ContentBlockParamUnion{anthropic.NewToolUseBlock("toolu_1", map[string]any{}, "clock")}},
				anthropic.NewUserMessage(anthropic.NewToolResultBlock("toolu_1", "noon", false)),
			}
			p.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "clock", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{}}}}}
		}, anthropicoption.WithHeader("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14,context-1m-2025-08-07")), "/v1/messages", "agent", false},
		{"messages with an image", message("claude-mock-4.5", func(p *anthropic.MessageNewParams) {
			p.Messages = []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewImageBlockBase64("image/png", "iVBORw0KGgo="))}
		}), "/v1/messages", "user", true},
		{"messages stream", func() error {
			s := claude.Messages.NewStreaming(t.Context(), anthropiccalls.Ask("claude-mock-reasoner", "hi"))
			defer s.Close()
			var m anthropic.Message
			for s.Next() {
				if err := m.Accumulate(s.Current()); err != nil {
					return err
				}
			}
			if s.Err() == nil && len(m.Content) == 0 {
				return errors.New("an empty stream")
			}
			return s.Err()
		}, "/v1/messages", "user", false},
		{"tokens counted", func() error {
			r, err := claude.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
				Model: "claude-mock-4.5", Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))},
			})
			if err == nil && r.InputTokens == 0 {
				err = errors.New("no tokens")
			}
			return err
		}, "/v1/messages/count_tokens", "user", false},
		{"messages of a model that speaks chat only", message("gpt-mock-mini", nil), "/chat/completions", "user", false},
		{"messages of a model that speaks responses only", message("mock-codex", nil), "/responses", "user", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, control(hub).Forget())
			if err := c.do(); err != nil {
				t.Errorf("%v; refused: %v", err, refusals(hubStats(t, hub)))
			}
			calls := hubStats(t, hub).Calls
			if len(calls) != 1 || calls[0].Status != 0 || calls[0].Account != "octo" || calls[0].Path != c.path || calls[0].Initiator != c.initiator || calls[0].Vision != c.vision {
				t.Errorf("%+v", calls)
			}
		})
	}
	st := hubStats(t, hub)
	if len(st.Exchanges) > 0 {
		t.Errorf("more than one token: %v", st.Exchanges) // the first was before
	}
	rows, sum := g.Usage(t, "upstream")
	if rows["copilot"].Requests != 16 || sum.Errors != 0 || sum.Output == 0 {
		t.Errorf("%+v", rows)
	}
	// What is about versions yields to the configuration, for its list of models too.
	// What is known of the seat outlives the reload.
	c := seats(hub, "key ghp_mock_octo", "header_up Editor-Version vscode/9.9.9")
	must(t, g.Reload(t, c))
	must(t, control(hub).Forget())
	must(t, completion("gpt-mock-mini", hi)())
	if st := hubStats(t, hub); st.Calls[0].Editor != "vscode/9.9.9" || len(st.Exchanges) > 0 {
		t.Errorf("%+v", st)
	}
}

// A token's life: got anew before its end without anybody noticing, after its early
// death with one refused request, and not at all once the account is gone; then the
// other seat serves. A clock that is wrong by hours changes nothing.
func TestCopilotTokenLife(t *testing.T) {
	hub := harness.StartCopilot(t)
	must(t, control(hub).Steer(mockcopilot.Steer{RefreshIn: mockcopilot.Duration(time.Second), Skew: mockcopilot.Duration(-5 * time.Hour), FailExchanges: 1}))
	g := harness.StartGateway(t, seats(hub, "lb_policy first", "key ghp_mock_octo as first", "key ghp_mock_mona as second", "key ghp_mock_hubot as third", "models *"))
	ask := func() {
		t.Helper()
		if a := post(t, g.URL+"/v1/chat/completions", alice, chat("gpt-mock-mini", "hi")); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	harness.Eventually(t, func() error {
		ask()
		if st := hubStats(t, hub); st.Exchanges["octo"] < 2 {
			return errors.New("the token was not refreshed")
		}
		return nil
	})
	if refused := refusals(hubStats(t, hub)); refused != nil {
		t.Errorf("refused: %v", refused)
	}
	must(t, control(hub).Steer(mockcopilot.Steer{Skew: mockcopilot.Duration(7 * time.Hour)}))
	harness.Eventually(t, func() error { // until a token that lives long is there
		ask()
		if k := shownKeys(t, g)["first"]; k.Account.TokenUntil == nil || time.Until(*k.Account.TokenUntil) < 25*time.Minute {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
	harness.Eventually(t, func() error { // and every fetch has ended
		before := hubStats(t, hub).Exchanges["octo"]
		ask()
		ask()
		if hubStats(t, hub).Exchanges["octo"] != before {
			return errors.New("tokens are still fetched")
		}
		return nil
	})
	must(t, control(hub).Forget())
	must(t, control(hub).Kill("octo"))
	ask()
	ask()
	st := hubStats(t, hub)
	if len(refusals(st)) != 1 || len(st.Calls) != 3 || st.Exchanges["octo"] != 1 || st.Exchanges["mona"] != 0 {
		t.Errorf("after the token's death: %+v", st)
	}
	must(t, control(hub).Forget())
	must(t, control(hub).Seat("octo", mockcopilot.Seat{Revoked: true}))
	for range 3 {
		ask()
	}
	st = hubStats(t, hub)
	if len(refusals(st)) != 1 || st.Calls[0].Account != "octo" || len(st.Calls) != 4 || st.Exchanges["mona"] > 1 {
		t.Errorf("after the account's end: %+v", st)
	}
	// Where the token was not just exchanged, GitHub is asked for another and says why.
	must(t, control(hub).Forget())
	must(t, control(hub).Seat("mona", mockcopilot.Seat{Revoked: true}))
	ask()
	st = hubStats(t, hub)
	if len(refusals(st)) != 1 || st.Calls[0].Account != "mona" || len(st.Calls) != 2 || st.RefusedExchanges != 1 {
		t.Errorf("after the second account's end: %+v", st)
	}
	k := shownKeys(t, g)
	if k["first"].State != "invalid" || k["first"].Until == nil || k["second"].State != "invalid" || !strings.Contains(k["second"].Reason, "revoked") || k["third"].State != "ok" {
		t.Errorf("%+v", k)
	}
}

// Two instances with one storage are one seat at GitHub: signed in at one, it serves
// at the other without a restart, and both live on the same token.
func TestCopilotInstances(t *testing.T) {
	hub := harness.StartCopilot(t)
	shelf := t.TempDir()
	c := seats(hub, "lb_policy first", "key signin:team as team", "key ghp_mock_mona as spare", "models *")
	c.Global = "\tstorage file_system " + shelf
	one, two := harness.StartGateway(t, c), harness.StartGateway(t, c)
	ask := func(g *harness.Gateway) answer {
		return post(t, g.URL+"/v1/chat/completions", alice, chat("gpt-mock-mini", "hi"))
	}
	if a := ask(two); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if k := shownKeys(t, two)["team"]; k.State != "invalid" {
		t.Fatalf("%+v", k)
	}
	signIn(t, one, hub, "team", "hubot")
	if a := ask(one); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	harness.Eventually(t, func() error {
		if k := shownKeys(t, two)["team"]; k.State != "ok" {
			return fmt.Errorf("the other instance does not know of the sign-in: %+v", k)
		}
		return nil
	})
	must(t, control(hub).Forget())
	for _, g := range []*harness.Gateway{one, two} {
		if a := ask(g); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if st := hubStats(t, hub); len(st.Exchanges) > 0 || len(st.Calls) != 2 || st.Calls[0].Account != "hubot" || st.Calls[1].Account != "hubot" {
		t.Errorf("%+v", st)
	}
	must(t, control(hub).Kill("hubot"))
	for range 2 {
		for _, g := range []*harness.Gateway{one, two} {
			if a := ask(g); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
	}
	if st := hubStats(t, hub); st.Exchanges["hubot"] != 1 || len(refusals(st)) != 2 {
		t.Errorf("after the token's death: %+v", st)
	}
}

// Several seats are one pool, with exact shares. One whose premium requests are used
// up rests until the next month for the models that cost them, and one that has
// nothing left altogether; the others go on.
func TestCopilotPool(t *testing.T) {
	hub := harness.StartCopilot(t)
	g := harness.StartGateway(t, seats(hub, "key ghp_mock_octo as octo weight 3", "key ghp_mock_mona as mona", "models *"))
	ask := func(n int, model string) map[string]int {
		t.Helper()
		must(t, control(hub).Forget())
		for i := range n {
			if a := post(t, g.URL+"/v1/responses", alice, fmt.Sprintf(`{"model":%q,"input":"%d"}`, model, i)); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		served := map[string]int{}
		for _, c := range hubStats(t, hub).Calls {
			if c.Status == 0 {
				served[c.Account]++
			}
		}
		return served
	}
	if got := ask(40, "gpt-5-mock"); got["octo"] != 30 || got["mona"] != 10 {
		t.Errorf("shares are %v", got)
	}
	must(t, control(hub).Spend("octo"))
	if got := ask(12, "gpt-5-mock"); got["mona"] != 12 {
		t.Errorf("after octo's month: %v", got)
	}
	if refused := refusals(hubStats(t, hub)); len(refused) != 1 {
		t.Errorf("refused: %v", refused)
	}
	next := time.Date(time.Now().UTC().Year(), time.Now().UTC().Month()+1, 1, 0, 0, 0, 0, time.UTC)
	k := shownKeys(t, g)
	if m := k["octo"].Models; k["octo"].State != "ok" || len(m) != 1 || m[0].Model != "gpt-5-mock" || m[0].State != "exhausted" || m[0].Until == nil || !m[0].Until.Equal(next) || k["mona"].State != "ok" {
		t.Errorf("%+v", k)
	}
	if got := ask(8, "gpt-mock-mini"); got["octo"] < 6 || got["mona"] < 1 { // it had stood back
		t.Errorf("of what costs nothing: %v", got)
	}
	quota := map[string]float64{}
	for _, q := range k["octo"].Account.Quotas {
		quota[q.Name] = q.Left
	}
	if left, ok := quota["premium_interactions"]; !ok || left != 0 {
		t.Errorf("%+v", k["octo"].Account)
	}
	out, err := g.Run(t, nil, "floway", "upstreams", "--address", g.AdminAddress())
	if err != nil || !strings.Contains(out, "exhausted") || !strings.Contains(out, "quota premium interactions") || !strings.Contains(out, "0 of 1000 left") || !strings.Contains(out, next.Local().Format(time.DateTime)) {
		t.Errorf("%v\n%s", err, out)
	}
	must(t, control(hub).Seat("octo", mockcopilot.Seat{NoChat: true}))
	if got := ask(8, "gpt-mock-mini"); got["mona"] != 8 || len(refusals(hubStats(t, hub))) != 1 {
		t.Errorf("after all of octo's: %v", got)
	}
	if k := shownKeys(t, g); k["octo"].State != "exhausted" || k["octo"].Until == nil || !k["octo"].Until.Equal(next) || k["mona"].State != "ok" {
		t.Errorf("%+v", k)
	}
}
