package translate

import (
	"testing"

	"github.com/floway/floway/dialect"
)

func TestNative(t *testing.T) {
	env := seal(&State{Maker: dialect.Gemini, Data: "x", Upstream: "other"})
	for name, c := range map[string]struct {
		op       dialect.Operation
		in, want string
	}{
		"chat": {
			dialect.ChatCompletions,
			`{"model":"m","messages":[{"role":"assistant","content":null,"reasoning_opaque":"` + env + `","tool_calls":[{"id":"a__` + env + `","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b"}]},{"role":"tool","tool_call_id":"a__` + env + `","content":"fw1."},{"role":"user","content":"talks of fw1. things"}]}`,
			`{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b"}]},{"role":"tool","tool_call_id":"a","content":"fw1."},{"role":"user","content":"talks of fw1. things"}]}`,
		},
		"responses": {
			dialect.CreateResponse,
			`{"input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"` + env + `"},{"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":"gAAA"},{"role":"user","content":"fw1."}],"model":"m"}`,
			`{"input":[{"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":"gAAA"},{"role":"user","content":"fw1."}],"model":"m"}`,
		},
		"messages": {
			dialect.CreateMessage,
			`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"fw1."},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"` + env + `"},{"type":"text","text":"fw1. a"},{"type":"redacted_thinking","data":"` + env + `"}]},{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"` + env + `"}]}]}`,
			`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"fw1."},{"role":"assistant","content":[{"type":"text","text":"fw1. a"}]}]}`,
		},
		"gemini": {
			dialect.GenerateContent,
			`{"contents":[{"role":"model","parts":[{"text":"","thought":true,"thoughtSignature":"` + env + `"},{"functionCall":{"name":"f"},"thought_signature":"` + env + `"},{"text":"fw1."}]}]}`,
			`{"contents":[{"role":"model","parts":[{"functionCall":{"name":"f"},"thought_signature":"skip_thought_signature_validator"},{"text":"fw1."}]}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &dialect.Request{Call: dialect.Call{Op: c.op, Dialect: c.op.Dialect()}, Body: []byte(c.in)}
			body, changed := Native(r)
			if !changed {
				t.Fatal("nothing was changed")
			}
			sameJSON(t, string(body), c.want)
			r.Body = body
			if _, changed := Native(r); changed {
				t.Error("there was something left to change")
			}
		})
	}
	plain := &dialect.Request{Call: dialect.Call{Op: dialect.ChatCompletions}, Body: []byte(`{"messages":[{"role":"user","content":"fw1."}]}`)}
	if body, changed := Native(plain); changed || &body[0] != &plain.Body[0] {
		t.Error("a body without envelopes was changed")
	}
}
