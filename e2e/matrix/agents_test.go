package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3/responses"

	"github.com/floway/floway/e2e/mock"
)

// agent is a coding agent: what it sends, byte for byte as far as it matters, and
// what it makes of the answers.
type agent struct {
	name   string
	path   string
	header map[string]string
	// body asks for a model; history are its turns so far, as JSON, after those with
	// which it begins.
	body func(model string, stream bool, history []any) []byte
	// read makes a turn of an answer, with the ids and names of its calls.
	read func(body []byte, stream bool) (turn []any, calls []call, err error)
	// answer are the results of calls, say what the user says next.
	answer func(calls []call) []any
	say    func(text string) []any
	// native is the dialect that it speaks. drops must be named by upstreams of others.
	native int
	drops  []string
}

var agents = []agent{claudeCode, codex}

// agentTools are 24 tools with schemas such as agents have.
func agentTools(make func(i int, name, schema string) string) string {
	var all []string
	for i := range 24 {
		schema := fmt.Sprintf(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"path":{"description":"Where.","type":"string","minLength":1},"limit":{"type":"integer","exclusiveMinimum":0,"maximum":9007199254740991},"mode":{"type":"string","enum":["a","b"],"default":"a"},"todos":{"type":"array","items":{"type":"object","properties":{"content":{"type":"string","minLength":1},"status":{"anyOf":[{"const":"open"},{"const":"done"}]}},"required":["content","status"],"additionalProperties":false}},"extra":{"type":"object","propertyNames":{"type":"string"},"additionalProperties":{}},"uri":{"type":"string","format":"uri","pattern":"^f.*$"},"n%d":{"type":"number"}},"required":["path"],"additionalProperties":false}`, i)
		all = append(all, make(i, fmt.Sprintf("Tool%d", i), schema))
	}
	return "[" + strings.Join(all, ",") + "]"
}

var claudeCode = agent{
	name: "Claude Code", path: "/v1/messages?beta=true", native: msgs,
	header: map[string]string{
		"X-Api-Key": clientKey, "Anthropic-Version": "2023-06-01", "X-App": "cli", "User-Agent": "claude-cli/2.1.197 (external, cli)",
		"Anthropic-Beta":  "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,context-management-2025-06-27,prompt-caching-scope-2026-01-05,mid-conversation-system-2026-04-07,effort-2025-11-24",
		"Accept-Encoding": "gzip, deflate, br, zstd", "X-Claude-Code-Session-Id": "SESSION",
	},
	body: func(model string, stream bool, history []any) []byte {
		turns := append([]any{
			obj{"role": "user", "content": []any{obj{"type": "text", "text": "<system-reminder>It is Monday.</system-reminder>"}, obj{"type": "text", "text": "Fix the bug."}}},
			obj{"role": "system", "content": "The working directory is /src."},
		}, history...)
		body := obj{
			"model": model, "max_tokens": 32000, "messages": turns,
			"system": []any{
				obj{"type": "text", "text": "You are an agent."},
				obj{"type": "text", "text": strings.Repeat("Follow the rules. ", 400), "cache_control": obj{"type": "ephemeral"}},
			},
			"tools": json.RawMessage(agentTools(func(_ int, name, schema string) string {
				return `{"name":"` + name + `","description":"Does it.","input_schema":` + schema + `}`
			})),
			"thinking": obj{"type": "adaptive"}, "output_config": obj{"effort": "high"},
			"context_management": obj{"edits": []any{obj{"type": "clear_thinking_20251015", "keep": "all"}}},
			"metadata":           obj{"user_id": `{"device_id":"d","account_uuid":"","session_id":"s"}`},
		}
		if stream {
			body["stream"] = true
		}
		return mock.Encode(body)
	},
	read: func(body []byte, stream bool) ([]any, []call, error) {
		m := new(anthropic.Message)
		if !stream {
			if err := json.Unmarshal(body, m); err != nil {
				return nil, nil, err
			}
		} else if err := events(body, func(data []byte) error {
			var e anthropic.MessageStreamEventUnion
			return errors.Join(json.Unmarshal(data, &e), m.Accumulate(e))
		}); err != nil {
			return nil, nil, err
		}
		if m.StopReason == "" {
			return nil, nil, fmt.Errorf("the answer has no end: %s", body)
		}
		var calls []call
		for _, b := range m.Content {
			if b.Type == "tool_use" {
				calls = append(calls, call{id: b.ID, name: b.Name})
			}
		}
		return []any{m.ToParam()}, calls, nil
	},
	answer: func(calls []call) []any {
		var blocks []any
		for i, c := range calls {
			b := obj{"type": "tool_result", "tool_use_id": c.id, "content": "done"}
			if i == len(calls)-1 {
				b["cache_control"] = obj{"type": "ephemeral"}
			}
			blocks = append(blocks, b)
		}
		return []any{obj{"role": "user", "content": blocks}}
	},
	say: func(text string) []any {
		return []any{obj{"role": "user", "content": []any{obj{"type": "text", "text": text, "cache_control": obj{"type": "ephemeral"}}}}}
	},
	drops: []string{"context_management"},
}

var codex = agent{
	name: "Codex", path: "/v1/responses", native: resp,
	header: map[string]string{
		"Authorization": "Bearer " + clientKey, "Accept": "text/event-stream", "Originator": "codex_cli_rs", "Session-Id": "SESSION", "Thread-Id": "SESSION",
		"X-Client-Request-Id": "r1", "X-Codex-Turn-Metadata": `{"turn":"` + strings.Repeat("x", 1000) + `"}`, "User-Agent": "codex_cli_rs/0.169.0",
	},
	body: func(model string, stream bool, history []any) []byte {
		message := func(role, text string) any {
			return obj{"type": "message", "role": role, "content": []any{obj{"type": "input_text", "text": text}}}
		}
		tools := strings.TrimSuffix(agentTools(func(_ int, name, schema string) string {
			return `{"type":"function","name":"` + name + `","description":"Does it.","strict":false,"parameters":` + schema + `}`
		}), "]") + `,{"type":"custom","name":"apply_patch","description":"Patches.","format":{"type":"grammar","syntax":"lark","definition":"start: /.+/"}},` +
			`{"type":"namespace","name":"mcp__files","description":"Files.","tools":[{"type":"function","name":"read","description":"Reads.","strict":false,"parameters":` + clock + `}]},` +
			`{"type":"web_search","external_web_access":false}]`
		return mock.Encode(obj{
			"model": model, "stream": stream, "store": false, "include": []string{"reasoning.encrypted_content"}, "tool_choice": "auto", "parallel_tool_calls": true,
			"reasoning": obj{"effort": "medium", "summary": "auto"}, "prompt_cache_key": "SESSION", "client_metadata": obj{"originator": "codex"},
			"instructions": strings.Repeat("Follow the rules. ", 400), "tools": json.RawMessage(tools),
			"input": append([]any{message("developer", "You are an agent."), message("user", "<environment>/src</environment>"), message("user", "Fix the bug.")}, history...),
		})
	},
	read: func(body []byte, stream bool) ([]any, []call, error) {
		var r responses.Response
		if !stream {
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, nil, err
			}
		} else if err := events(body, func(data []byte) error {
			var e responses.ResponseStreamEventUnion
			if err := json.Unmarshal(data, &e); err != nil {
				return err
			}
			if e.Type == "response.completed" {
				r = e.Response
			}
			return nil
		}); err != nil {
			return nil, nil, err
		}
		if r.Status != "completed" {
			return nil, nil, fmt.Errorf("the answer has no end: %s", body)
		}
		var items []any
		var calls []call
		for _, item := range r.Output {
			items = append(items, json.RawMessage(item.RawJSON()))
			if item.Type == "function_call" || item.Type == "custom_tool_call" {
				calls = append(calls, call{item.CallID, item.Name, item.Type})
			}
		}
		return items, calls, nil
	},
	answer: func(calls []call) (items []any) {
		for _, c := range calls {
			items = append(items, obj{"type": c.args + "_output", "call_id": c.id, "output": "done"})
		}
		return items
	},
	say: func(text string) []any {
		return []any{obj{"type": "message", "role": "user", "content": []any{obj{"type": "input_text", "text": text}}}}
	},
	drops: []string{"client_metadata", "tools"},
}

type obj = map[string]any

// events goes through the data of a stream.
func events(body []byte, each func(data []byte) error) error {
	for line := range bytes.Lines(body) {
		if data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data: ")); ok {
			if err := each(data); err != nil {
				return fmt.Errorf("%w: %s", err, data)
			}
		}
	}
	return nil
}

// Agents work on upstreams of all dialects: two turns of the user's, each with
// calls and their results, and reasoning that is replayed.
func (w *world) agents(t *testing.T, g *grid) {
	for _, a := range agents {
		for u := range w.up {
			what := "ok"
			for _, stream := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s on %s stream=%v", a.name, dialects[u], stream), func(t *testing.T) {
					what = "FAIL"
					session := fmt.Sprintf("%s-%d-%v", strings.Fields(a.name)[0], u, stream)
					var history []any
					ask := func(ends string) []call {
						body := bytes.ReplaceAll(a.body(dialects[u]+"/mock-chat+thinking", stream, history), []byte("SESSION"), []byte(session))
						req, err := http.NewRequestWithContext(t.Context(), "POST", w.URL+a.path, bytes.NewReader(body))
						if err != nil {
							t.Fatal(err)
						}
						req.Header.Set("Content-Type", "application/json")
						for name, value := range a.header {
							req.Header.Set(name, strings.ReplaceAll(value, "SESSION", session))
						}
						resp, err := http.DefaultClient.Do(req)
						if err != nil {
							t.Fatal(err)
						}
						defer resp.Body.Close()
						got, err := io.ReadAll(resp.Body)
						entries, requests := w.up[u].asked(t)
						if err != nil || resp.StatusCode != 200 || len(entries) != 1 || entries[0].Status != 200 {
							t.Fatalf("%s %v %s\nledger %+v", resp.Status, err, got, entries)
						}
						for _, field := range a.drops {
							if named := resp.Header.Get("X-Floway-Dropped"); u != a.native && !strings.Contains(named, field) {
								t.Errorf("what was dropped is %q, and not %s", named, field)
							}
						}
						if u != a.native && bytes.Contains(requests[0].Body, []byte("fw1.")) {
							t.Errorf("an envelope reached the upstream: %.2000s", requests[0].Body)
						}
						turn, calls, err := a.read(got, stream)
						if err != nil {
							t.Fatal(err)
						}
						if (len(calls) > 0) != (ends == "calls") {
							t.Fatalf("the answer to %.500s is %s, want %s", body, got, ends)
						}
						history = append(history, turn...)
						return calls
					}
					for _, text := range []string{"Now the tests.", ""} {
						history = append(history, a.answer(ask("calls"))...)
						ask("text")
						if text != "" {
							history = append(history, a.say(text)...)
						}
					}
					if !t.Failed() {
						what = "ok"
					}
				})
			}
			g.set("agent "+a.name, a.native, u, what)
		}
	}
}
