package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"google.golang.org/genai"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/geminicalls"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/openaicalls"
)

// One name over upstreams of three kinds: whichever of them fails before the first
// content, clients of every SDK get the next one's answer, whole, in their own
// dialect, and the account has every attempt at its own upstream.
func TestMixedRoute(t *testing.T) {
	first, second, third := harness.StartOpenAI(t), harness.StartGemini(t), harness.StartAnthropic(t)
	gateway := harness.StartGateway(t, harness.Config{
		Floway: `
		upstream openai {
			base_url FIRST/v1
			key {env.UPSTREAM_1} as k1
		}
		upstream gemini {
			base_url SECOND
			key {env.UPSTREAM_1} as k1
		}
		upstream anthropic {
			base_url THIRD
			key {env.UPSTREAM_1} as k1
		}
		route smart {
			to openai/mock-chat
			to gemini/mock-chat
			to anthropic/mock-mini
		}` + clients + embedded,
		Vars: map[string]string{"FIRST": first.URL, "SECOND": second.URL, "THIRD": third.URL},
		Env:  environment,
	})
	google, err := geminicalls.Client(t.Context(), gateway.URL, alice)
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]func(stream bool) (string, error){
		"chat": func(stream bool) (string, error) {
			m, err := completion(t.Context(), openaicalls.Client(gateway.URL+"/v1", alice), openai.ChatCompletionNewParams{
				Model: "smart", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Where does the river run?")},
			}, stream)
			if err != nil {
				return "", err
			}
			return m.Message.Content, end(string(m.FinishReason), "stop")
		},
		"messages": func(stream bool) (string, error) {
			m, err := message(t.Context(), anthropiccalls.Client(gateway.URL, alice), anthropiccalls.Ask("smart", "Where does the river run?"), stream)
			if err != nil {
				return "", err
			}
			return m.Content[0].Text, end(string(m.StopReason), "end_turn")
		},
		"gemini": func(stream bool) (string, error) {
			ask := geminicalls.Complete
			if stream {
				ask = geminicalls.Stream
			}
			r, err := ask(t.Context(), google, new(geminicalls.Tape), "smart", geminicalls.Ask("Where does the river run?"), nil)
			if err != nil {
				return "", err
			}
			return r.Text(), end(string(r.Candidates[0].FinishReason), string(genai.FinishReasonStop))
		},
	}
	zero, requests := 0, 0
	for what, failure := range map[string]mock.Behavior{
		"an error status":               {Status: 503},
		"a reset connection":            {Reset: true},
		"nothing":                       {Silent: true},
		"a page of HTML":                {Status: 502, Body: "<html>oops</html>", ContentType: "text/html"},
		"an error before any content":   {Fail: &zero},
		"a stream without any event":    {End: &zero},
		"a connection cut at the start": {Cut: &zero},
	} {
		for client, ask := range clients {
			for _, stream := range []bool{false, true} {
				if !stream && (failure.Fail != nil || failure.End != nil) {
					continue // streams alone have events
				}
				for n, fail := range [][]*harness.Upstream{{}, {first}, {first, second}} {
					t.Run(fmt.Sprintf("%s for %s, stream %v, %d fail", what, client, stream, n), func(t *testing.T) {
						defer func() {
							for _, u := range []*harness.Upstream{first, second, third} {
								u.Clear(t)
							}
							reset(t, gateway, "openai", "gemini")
						}()
						for _, u := range fail {
							if err := u.Script(mock.Rule{Times: 1, Behavior: failure}); err != nil {
								t.Fatal(err)
							}
						}
						requests++
						text, err := ask(stream)
						if err != nil || text == "" {
							t.Fatalf("%q, %v", text, err)
						}
						for i, u := range []*harness.Upstream{first, second, third} {
							entries := u.Quiet(t)
							if want := min(1, max(0, n+1-i)); len(entries) != want {
								t.Fatalf("upstream %d served %d requests, want %d", i+1, len(entries), want)
							}
							if i == n && entries[0].Outcome != mock.Full {
								t.Errorf("the answer ended as %+v", entries[0])
							}
						}
					})
				}
			}
		}
	}
	sums, all := gateway.Usage(t, "upstream")
	if len(sums) != 3 || sums["anthropic"].Attempts == 0 || all.Requests != int64(requests) {
		t.Errorf("the account has %+v", sums)
	}
	if sums["anthropic"].Errors != 0 || sums["anthropic"].Input == 0 || sums["anthropic"].EstimatedAttempts != 0 {
		t.Errorf("of the last upstream the account has %+v", sums["anthropic"])
	}
}

func end(got, want string) error {
	if got != want {
		return fmt.Errorf("the answer ended with %q, want %q", got, want)
	}
	return nil
}

// reset forgets what is known of the upstreams' keys.
func reset(t *testing.T, g *harness.Gateway, upstreams ...string) {
	t.Helper()
	for _, upstream := range upstreams {
		if a := do(t, "POST", g.Admin+"/floway/upstreams/reset?upstream="+upstream+"&key=k1", nil); a.status != 200 || !strings.Contains(string(a.body), "true") {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

// An account at Azure that fails, a seat of Copilot whose month is used up, and one
// at Anthropic: each takes the place of the one before, for the SDKs of both.
func TestMixedAccounts(t *testing.T) {
	first, hub, third := harness.StartAzure(t), harness.StartCopilot(t), harness.StartAnthropic(t)
	gateway := harness.StartGateway(t, harness.Config{
		Floway: `
		upstream azure {
			base_url FIRST
			key {env.UPSTREAM_1} as k1
			models mock-*
		}
		upstream copilot {
			host HUB
			key signin:anna
		}
		upstream anthropic {
			base_url THIRD
			key {env.UPSTREAM_1} as k1
			models mock-mini
		}
		route smart {
			to azure/mock-chat
			to copilot/gpt-5-mock
			to anthropic/mock-mini
		}` + clients + embedded,
		Vars: map[string]string{"FIRST": first.URL, "HUB": hub.URL, "THIRD": third.URL},
		Env:  environment,
	})
	// All of them are asked in turns, with a stream and without.
	serves := func(want string) {
		t.Helper()
		must(t, control(hub).Forget())
		first.Clear(t)
		third.Clear(t)
		for _, stream := range []bool{false, true} {
			if _, err := completion(t.Context(), openaicalls.Client(gateway.URL+"/v1", alice), openai.ChatCompletionNewParams{
				Model: "smart", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
			}, stream); err != nil {
				t.Errorf("%s: chat, stream %v: %v", want, stream, err)
			}
			if _, err := message(t.Context(), anthropiccalls.Client(gateway.URL, alice), anthropiccalls.Ask("smart", "hi"), stream); err != nil {
				t.Errorf("%s: messages, stream %v: %v", want, stream, err)
			}
		}
		served := map[string]int{}
		for name, u := range map[string]*harness.Upstream{"azure": first, "anthropic": third} {
			for _, e := range u.Quiet(t) {
				if e.Outcome == mock.Full {
					served[name]++
				}
			}
		}
		for _, c := range hubStats(t, hub).Calls {
			if c.Status == 0 {
				served["copilot"]++
			}
		}
		if len(served) != 1 || served[want] != 4 {
			t.Errorf("served by %v, want %s", served, want)
		}
	}
	serves("azure")
	if err := first.Script(mock.Rule{Behavior: mock.Behavior{Status: 503}}); err != nil {
		t.Fatal(err)
	}
	serves("anthropic") // nobody has signed in yet
	signIn(t, gateway, hub, "anna", "octo")
	serves("copilot")
	must(t, control(hub).Spend("octo"))
	serves("anthropic")
	if err := first.Script(); err != nil {
		t.Fatal(err)
	}
	reset(t, gateway, "azure")
	serves("azure")
}
