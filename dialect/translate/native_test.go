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
			`{"model":"m","messages":[{"role":"assistant","content":null,"reasoning_content":"hm","reasoning_opaque":"` + env + `","tool_calls":[{"id":"a__` + env + `","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b"}]},{"role":"tool","tool_call_id":"a__` + env + `","content":"fw1."},{"role":"user","content":"talks of fw1. things"}]}`,
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
			body, changed := Native(r, false)
			if !changed {
				t.Fatal("nothing was changed")
			}
			sameJSON(t, string(body), c.want)
			r.Body = body
			if _, changed := Native(r, false); changed {
				t.Error("there was something left to change")
			}
		})
	}
	plain := &dialect.Request{Call: dialect.Call{Op: dialect.ChatCompletions}, Body: []byte(`{"messages":[{"role":"user","content":"fw1."}]}`)}
	if body, changed := Native(plain, false); changed || &body[0] != &plain.Body[0] {
		t.Error("a body without envelopes was changed")
	}
}

// Whoever answers calls that came without thoughts cannot think on: the service
// would refuse it.
func TestNativeCannotThink(t *testing.T) {
	const (
		thinks  = `,"thinking":{"type":"enabled","budget_tokens":2000}`
		result  = `,{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"1"}]}`
		call    = `{"type":"tool_use","id":"a","name":"f","input":{}}`
		foreign = `{"type":"thinking","thinking":"","signature":"fw1.n.dXA.."},`
		own     = `{"type":"thinking","thinking":"","signature":"c2ln"},`
	)
	body := func(more, blocks, last string) string {
		return `{"model":"m","max_tokens":9000` + more + `,"messages":[{"role":"user","content":"go"},{"role":"assistant","content":[` + blocks + `]}` + last + `]}`
	}
	for name, c := range map[string]struct {
		in, want string
		mixed    bool
	}{
		"thoughts of another":                {body(thinks, foreign+call, result), body("", call, result), false},
		"no thoughts":                        {body(thinks, call, result), body("", call, result), true},
		"no thoughts, and all are its own":   {body(thinks, call, result), body(thinks, call, result), false},
		"its own thoughts":                   {body(thinks, own+call, result), body(thinks, own+call, result), true},
		"the model decides":                  {body(`,"thinking":{"type":"adaptive"}`, call, result), body(`,"thinking":{"type":"adaptive"}`, call, result), true},
		"nothing is answered":                {body(thinks, call, `,{"role":"user","content":"budget_tokens"}`), body(thinks, call, `,{"role":"user","content":"budget_tokens"}`), true},
		"thoughts of another, none answered": {body(thinks, foreign+`{"type":"text","text":"a"}`, `,{"role":"user","content":"b"}`), body(thinks, `{"type":"text","text":"a"}`, `,{"role":"user","content":"b"}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &dialect.Request{Call: dialect.Call{Op: dialect.CreateMessage, Dialect: dialect.Messages}, Body: []byte(c.in)}
			body, changed := Native(r, c.mixed)
			sameJSON(t, string(body), c.want)
			if changed != (c.in != c.want) {
				t.Errorf("changed is %v", changed)
			}
		})
	}
}
