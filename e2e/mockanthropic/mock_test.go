package mockanthropic_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockanthropic"
)

const key = "sk-mock-upstream-1"

func start(t *testing.T) mock.Control {
	t.Helper()
	s := mockanthropic.New(mock.Config{})
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return mock.Control{URL: server.URL}
}

func post(t *testing.T, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", key)
	req.Header.Set("Anthropic-Version", "2023-06-01")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, "BROKEN"
	}
	return resp.StatusCode, string(b)
}

// The official SDK understands every answer, and equal questions get equal bytes.
func TestOfficialSDK(t *testing.T) {
	client := anthropiccalls.Client(start(t).URL, key)
	for _, call := range anthropiccalls.All {
		t.Run(call.Name, func(t *testing.T) {
			var once, again anthropiccalls.Tape
			for _, tape := range []*anthropiccalls.Tape{&once, &again} {
				if err := call.Do(t.Context(), client, tape); err != nil {
					t.Fatal(err)
				}
			}
			if len(once.Pieces) == 0 || !slices.Equal(once.Pieces, again.Pieces) {
				t.Errorf("%d pieces, then %d; they differ", len(once.Pieces), len(again.Pieces))
			}
		})
	}
}

// What the real service refuses is refused.
func TestRefusals(t *testing.T) {
	c := start(t)
	const hi = `{"role":"user","content":"hi"}`
	msgs := func(more ...string) string {
		return `{"model":"mock-chat","max_tokens":2000,"messages":[` + strings.Join(append([]string{hi}, more...), ",") + `]}`
	}
	with := func(members string) string { return strings.Replace(msgs(), "{", "{"+members+",", 1) }
	const call = `{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"f","input":{}}]}`
	tool := func(members string) string {
		return `"tools":[{"name":"f","input_schema":{"type":"object"}` + members + `}]`
	}
	for _, tt := range []struct {
		name, body string
		header     []string
		want       string
	}{
		{"no key", msgs(), []string{"X-Api-Key", ""}, "x-api-key header is required"},
		{"wrong key", msgs(), []string{"X-Api-Key", "x"}, "invalid x-api-key"},
		{"no version", msgs(), []string{"Anthropic-Version", ""}, "anthropic-version: header is required"},
		{"wrong version", msgs(), []string{"Anthropic-Version", "2024-01-01"}, "is not a valid version"},
		{"unknown beta", msgs(), []string{"Anthropic-Beta", "effort-2025-11-24, x-2020-01-01"}, "Unexpected value(s) `x-2020-01-01`"},
		{"unknown model", strings.Replace(msgs(), "mock-chat", "gpt-5", 1), nil, "model: gpt-5"},
		{"unknown field", with(`"reasoning_effort":"low"`), nil, "reasoning_effort: Extra inputs are not permitted"},
		{"unknown field inside", msgs(`{"role":"user","content":[{"type":"text","text":"a","foo":1}]}`), nil, "messages.1.content.0.foo: Extra inputs"},
		{"field twice", with(`"model":"mock-chat"`), nil, "stands in one object twice"},
		{"no max_tokens", strings.Replace(msgs(), `"max_tokens":2000,`, "", 1), nil, "max_tokens: Field required"},
		{"max_tokens of the wrong type", strings.Replace(msgs(), `2000`, `"2000"`, 1), nil, "max_tokens: Input should be an integer"},
		{"no messages", `{"model":"mock-chat","max_tokens":1,"messages":[]}`, nil, "at least one message"},
		{"wrong role", msgs(`{"role":"tool","content":"x"}`), nil, "messages.1.role: Input should be"},
		{"begins with the assistant", `{"model":"mock-chat","max_tokens":1,"messages":[{"role":"assistant","content":"x"}]}`, nil, `must use the "user" role`},
		{"system in the middle without its beta", msgs(`{"role":"system","content":"x"}`), nil, "role 'system'"},
		{"system first", `{"model":"mock-chat","max_tokens":1,"messages":[{"role":"system","content":"x"}]}`, []string{"Anthropic-Beta", "mid-conversation-system-2026-04-07"}, `must use the "user" role`},
		{"empty content", msgs(`{"role":"user","content":""}`), nil, "non-empty content"},
		{"empty text", msgs(`{"role":"user","content":[{"type":"text","text":""}]}`), nil, "text content blocks must be non-empty"},
		{"trailing blank", msgs(`{"role":"assistant","content":"x "}`), nil, "trailing whitespace"},
		{"unanswered call", msgs(call, hi), nil, "without `tool_result` blocks immediately after: toolu_1"},
		{"call at the end", msgs(call), nil, "without `tool_result` blocks immediately after: toolu_1"},
		{"result without a call", msgs(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_9"}]}`), nil, "unexpected `tool_use_id`"},
		{"result behind text", msgs(call, `{"role":"user","content":[{"type":"text","text":"a"},{"type":"tool_result","tool_use_id":"toolu_1"}]}`), nil, "must come before other content"},
		{"result in the wrong turn", msgs(`{"role":"assistant","content":[{"type":"tool_result","tool_use_id":"toolu_1"}]}`), nil, "can only be in `user` messages"},
		{"bad call id", msgs(strings.Replace(call, "toolu_1", "a|b", 1)), nil, "tool_use.id: String should match"},
		{"calls with one id", msgs(call, `{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1"}]}`, call, `{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1"}]}`), nil, "ids must be unique"},
		{"arguments as text", msgs(strings.Replace(call, `"input":{}`, `"input":"{}"`, 1)), nil, "input: Input should be an object"},
		{"forged thinking", msgs(`{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"EqQB"}]}`, hi), nil, "Invalid `signature` in `thinking` block"},
		{"thinking of another service", msgs(`{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"`+mock.Seal("gemini", "", "a")+`"}]}`, hi), nil, "Invalid `signature`"},
		{"changed thinking", msgs(`{"role":"assistant","content":[{"type":"thinking","thinking":"b","signature":"`+mock.Seal("anthropic", "", "a")+`"}]}`, hi), nil, "Invalid `signature`"},
		{"forged redacted thinking", msgs(`{"role":"assistant","content":[{"type":"redacted_thinking","data":"eA=="}]}`, hi), nil, "Invalid `data`"},
		{"thinking without room", with(`"thinking":{"type":"enabled","budget_tokens":2000}`), nil, "must be greater than `thinking.budget_tokens`"},
		{"thinking too small", with(`"thinking":{"type":"enabled","budget_tokens":10}`), nil, "greater than or equal to 1024"},
		{"thinking and a forced tool", with(`"thinking":{"type":"adaptive"},"tool_choice":{"type":"any"},` + tool("")), nil, "may not be enabled when tool_choice forces"},
		{"thinking and temperature", with(`"thinking":{"type":"adaptive"},"temperature":0.5`), nil, "may only be set to 1"},
		{"thinking lost in a tool loop", strings.Replace(msgs(call, `{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1"}]}`), "{", `{"thinking":{"type":"enabled","budget_tokens":1024},`, 1), nil, "Expected `thinking` or `redacted_thinking`"},
		{"temperature by the new version", with(`"temperature":1`), []string{"Anthropic-Version", "2026-10-21"}, "temperature: Extra inputs are not permitted"},
		{"top_k by the new version", with(`"top_k":1`), []string{"Anthropic-Version", "2026-10-21"}, "top_k: Extra inputs"},
		{"temperature too high", with(`"temperature":1.5`), nil, "temperature: range"},
		{"tool without a schema", with(`"tools":[{"name":"f"}]`), nil, "tools.0.input_schema: Field required"},
		{"tool of another dialect", with(`"tools":[{"type":"function","function":{"name":"f"}}]`), nil, "Input tag 'function'"},
		{"tool with another schema", with(`"tools":[{"name":"f","input_schema":{"type":"string"}}]`), nil, "input_schema.type: Input should be 'object'"},
		{"tool with a bad name", with(strings.Replace(tool(""), `"f"`, `"a b"`, 1)), nil, "String should match pattern"},
		{"tool with a foreign word", with(tool(`,"parameters":{}`)), nil, "tools.0.parameters: Extra inputs"},
		{"choice without tools", with(`"tool_choice":{"type":"auto"}`), nil, "only be specified while providing tools"},
		{"choice of another dialect", with(`"tool_choice":"auto",` + tool("")), nil, "tool_choice: Input should be an object"},
		{"choice of no tool", with(`"tool_choice":{"type":"tool","name":"g"},` + tool("")), nil, "Tool 'g' not found"},
		{"five cache marks", with(`"system":[` + strings.TrimSuffix(strings.Repeat(`{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},`, 5), ",") + `]`), nil, "Found 5"},
		{"image that is none", msgs(`{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"***"}}]}`), nil, "not valid base64"},
		{"image of another kind", msgs(`{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/tiff","data":"aGk="}}]}`), nil, "media_type: Input should be"},
		{"context management without its beta", with(`"context_management":{"edits":[]}`), nil, "context_management: Extra inputs"},
		{"a thread", with(`"thread":{"type":"create"}`), []string{"Anthropic-Beta", "message-threads-2026-08-12"}, `"error_code":"thread_unsupported_request"`},
		{"open schema", with(`"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{}}}}`), nil, "'additionalProperties' must be explicitly set to false"},
		{"empty stop sequence", with(`"stop_sequences":[" "]`), nil, "non-whitespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := post(t, c.URL+"/v1/messages", tt.body, tt.header...)
			var e struct {
				Error struct{ Type, Message string }
			}
			if json.Unmarshal([]byte(body), &e); status < 400 || !strings.Contains(e.Error.Message+body, tt.want) || e.Error.Type == "" {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	if status, body := post(t, c.URL+"/v1/messages/count_tokens", msgs()); status != 400 || !strings.Contains(body, "max_tokens: Extra inputs") {
		t.Errorf("a count with max_tokens: %d %s", status, body)
	}
	if status, body := post(t, c.URL+"/v1/messages", msgs(), "X-Api-Key", "", "Authorization", "Bearer "+key); status != 200 {
		t.Errorf("a bearer token: %d %s", status, body)
	}
}

// The words of a model's name do what they say.
func TestBehavior(t *testing.T) {
	c := start(t)
	ask := func(words string) (int, string) {
		return post(t, c.URL+"/v1/messages", `{"model":"mock-chat+words=20`+words+`","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}`)
	}
	_, whole := ask("")
	if strings.Count(whole, "event: ") != strings.Count(whole, "\ndata: {") || !strings.HasSuffix(whole, "data: {\"type\":\"message_stop\"}\n\n") {
		t.Errorf("%s", whole)
	}
	for words, check := range map[string]func(status int, body string) bool{
		"+cut=5": func(_ int, b string) bool { return b == "BROKEN" },
		"+end=5": func(_ int, b string) bool { return strings.Count(b, "event: ") == 5 },
		"+fail=5": func(_ int, b string) bool {
			return strings.Contains(b, "event: error\n") && !strings.Contains(b, "message_stop")
		},
		"+usage=absent": func(_ int, b string) bool { return !strings.Contains(b, `"usage"`) },
		"+usage=twice":  func(_ int, b string) bool { return strings.Count(b, "event: message_delta") == 2 },
		"+status=529":   func(s int, b string) bool { return s == 529 && strings.Contains(b, "overloaded_error") },
		"+pieces=1":     func(s int, b string) bool { return s == 200 },
	} {
		if status, body := ask(words); !check(status, body) {
			t.Errorf("%s: %d %s", words, status, body)
		}
	}
	entries, err := c.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if e.Outcome == mock.Full && e.Told {
			n++
			if e.Key != "k1" || e.Tokens.Prompt() == 0 || e.Tokens.Output != 20 || e.Operation != "messages" || !e.Stream {
				t.Errorf("%+v", e)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d whole answers in %s", n, fmt.Sprint(entries))
	}
}
