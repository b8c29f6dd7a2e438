package translate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// messageRequest is a request of a client of Messages, served by an upstream that
// speaks it too: which never happens, and tests both sides at once.
func messageRequest(stream bool) *Request {
	c := &Conversation{From: dialect.Messages, Asked: "public", Stream: stream, Reasoning: Reasoning{Visible: true, Sealed: true}}
	return &Request{c: c, to: dialect.Messages, o: *messageOptions("claude-x")}
}

// sse spells events, each with its type as its name.
func sse(events ...string) []byte {
	var out bytes.Buffer
	for _, e := range events {
		var typed struct{ Type string }
		_ = json.Unmarshal([]byte(e), &typed)
		fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", typed.Type, e)
	}
	return out.Bytes()
}

// answered lets an answer go through and returns what the client gets.
func answered(r *Request, upstream []byte, t *usage.Tokens) ([]byte, error) {
	a := r.Answer(true)
	a.Events(upstream)
	a.End(t)
	return bytes.Clone(a.Take()), a.Problem
}

// readMessageStream is a strict reader of streams: it returns the message that they
// spell.
func readMessageStream(t testing.TB, out []byte) map[string]any {
	t.Helper()
	var message map[string]any
	var content []map[string]any
	open, stopped, ended := false, false, false
	dialect.EachEvent(out, func(name, data []byte) {
		var e struct {
			Type         string
			Index        int
			Message      map[string]any
			ContentBlock map[string]any `json:"content_block"`
			Delta        map[string]any
			Usage        map[string]any
		}
		if err := json.Unmarshal(data, &e); err != nil || e.Type != string(name) {
			t.Fatalf("event %s: %v in %s", name, err, data)
		}
		wrong := stopped || (message == nil) != (e.Type == "message_start")
		switch e.Type {
		case "message_start":
			message = e.Message
			wrong = wrong || len(message["content"].([]any)) > 0
		case "content_block_start":
			wrong = wrong || open || ended || e.Index != len(content) || e.ContentBlock["type"] == "text" && e.ContentBlock["text"] != ""
			open, content = true, append(content, e.ContentBlock)
			if in, ok := e.ContentBlock["input"]; ok {
				wrong = wrong || len(in.(map[string]any)) > 0
				e.ContentBlock["input"] = ""
			}
		case "content_block_delta":
			if wrong = wrong || !open || e.Index != len(content)-1; wrong {
				break
			}
			b := content[e.Index]
			member := map[any]string{"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature", "input_json_delta": "partial_json"}[e.Delta["type"]]
			piece := e.Delta[member].(string)
			if member == "partial_json" {
				member = "input"
			}
			had, ok := b[member].(string)
			wrong = !ok || piece == "" || member == "thinking" && b["signature"] != ""
			b[member] = had + piece
		case "content_block_stop":
			wrong = wrong || !open || e.Index != len(content)-1
			open = false
			if in, ok := content[len(content)-1]["input"].(string); ok {
				content[len(content)-1]["input"] = json.RawMessage(in)
				wrong = wrong || !json.Valid([]byte(in))
			}
		case "message_delta":
			wrong = wrong || open || ended
			ended = true
			for k, v := range e.Delta {
				message[k] = v
			}
			for k, v := range e.Usage {
				message["usage"].(map[string]any)[k] = v
			}
		case "message_stop":
			wrong = wrong || !ended
			stopped = true
		default:
			wrong = true
		}
		if wrong {
			t.Fatalf("%s is out of place in\n%s", data, out)
		}
	})
	if !stopped {
		t.Fatalf("no end in\n%s", out)
	}
	if content == nil {
		content = []map[string]any{}
	}
	message["content"] = content
	return message
}

// contentOf is what a stream's content comes to, as JSON.
func contentOf(t testing.TB, out []byte) string {
	t.Helper()
	content, err := json.Marshal(readMessageStream(t, out)["content"])
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// partsOf is what an answer's events come to.
func partsOf(t *testing.T, upstream []byte) (*reply, error) {
	t.Helper()
	a := messageRequest(false).Answer(true)
	c := &collector{a: a}
	a.enc = c
	a.Events(upstream)
	if a.Problem == nil {
		a.dec.end()
	}
	return &c.g.reply, a.Problem
}

const (
	opens  = `{"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"output_tokens":2}}}`
	shuts  = `{"type":"message_stop"}`
	turned = `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":57}}`
)

// wireStream is the example of the wire page, and more.
func wireStream() []byte {
	return sse(
		opens,
		`{"type":"ping"}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me see"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"xyz"}}`,
		`{"type":"content_block_stop","index":1}`,
		`{"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"Gr\u00fc\u00dfe \ud83d\ude00 \"a\"\n"}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"und Ende"}}`,
		`{"type":"content_block_stop","index":2}`,
		`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_01","name":"f","input":{}}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":":1}"}}`,
		`{"type":"content_block_stop","index":3}`,
		`{"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"toolu_02","name":"g","input":{}}}`,
		`{"type":"content_block_stop","index":4}`,
		`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"output_tokens":57}}`,
		shuts,
	)
}

func wireContent() string {
	sealed := func(s State) string {
		s.Maker, s.Upstream = dialect.Messages, "up"
		return seal(&s)
	}
	return `[{"type":"thinking","thinking":"Let me see","signature":"` + sealed(State{Data: "EqQB"}) + `"},
	{"type":"redacted_thinking","data":"` + sealed(State{Data: "xyz", Redacted: true}) + `"},
	{"type":"text","text":"Grüße 😀 \"a\"\nund Ende"},
	{"type":"tool_use","id":"toolu_01","name":"f","input":{"a":1}},
	{"type":"tool_use","id":"toolu_02","name":"g","input":{}}]`
}

func TestMessagesStreamAgain(t *testing.T) {
	used := &usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1000, CacheWrite1h: 200, Output: 340, Reasoning: 210, ReasoningKnown: true}
	out, err := answered(messageRequest(true), wireStream(), used)
	if err != nil {
		t.Fatal(err)
	}
	message := readMessageStream(t, out)
	content, _ := json.Marshal(message["content"])
	messagesEqual(t, "content", content, wireContent())
	delete(message, "content")
	messagesEqual(t, "message", message, `{"id":"msg_01","type":"message","role":"assistant","model":"public","container":null,"diagnostics":null,"stop_reason":"tool_use","stop_sequence":null,"stop_details":null,
	"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"output_tokens":340,"output_tokens_details":{"thinking_tokens":210},
	"server_tool_use":null,"cache_creation":null,"service_tier":null,"speed":null,"inference_geo":null}}`)
	if !bytes.HasPrefix(out, []byte("event: message_start\ndata: {\"type\":\"message_start\",")) || bytes.Contains(out, []byte("ping")) || bytes.Contains(out, []byte("[DONE]")) {
		t.Errorf("got %s", out)
	}
	// Some clients add the counts of the two events.
	if !bytes.Contains(out, []byte(`"output_tokens":0`)) || bytes.Count(out, []byte(`"output_tokens":`)) != 2 {
		t.Errorf("got %s", out)
	}
}

// Wherever the upstream cut its text, and whatever pieces of the stream arrive
// together, the message is the same.
func TestMessagesStreamInAnyPieces(t *testing.T) {
	want, err := answered(messageRequest(true), wireStream(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, split := range []int{1, 2, 3, 7} {
		a := messageRequest(true).Answer(true)
		var out []byte
		send := func(e []byte) {
			a.Events(e)
			out = append(out, a.Take()...)
		}
		dialect.EachEvent(wireStream(), func(name, data []byte) {
			var e struct {
				Type  string         `json:"type"`
				Index int            `json:"index"`
				Delta map[string]any `json:"delta"`
			}
			_ = json.Unmarshal(data, &e)
			if e.Type != "content_block_delta" {
				send(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data))
				return
			}
			for member, v := range e.Delta {
				if member == "type" {
					continue
				}
				runes := []rune(v.(string))
				for len(runes) > 0 {
					n := min(split, len(runes))
					e.Delta[member] = string(runes[:n])
					runes = runes[n:]
					piece, _ := json.Marshal(e)
					send(fmt.Appendf(nil, "data: %s\r\n\r\n", piece)) // without the name
				}
			}
		})
		a.End(nil)
		out = append(out, a.Take()...)
		if a.Problem != nil {
			t.Fatal(a.Problem)
		}
		if got, want := contentOf(t, out), contentOf(t, want); got != want {
			t.Errorf("in pieces of %d: %s, want %s", split, got, want)
		}
	}
}

// What servers were seen to send, or might.
func TestDecodeMessages(t *testing.T) {
	text := func(s string) Part { return Part{Kind: Text, Text: s} }
	call := func(id, name, args string) Part {
		return Part{Kind: Call, Call: &ToolCall{ID: id, Name: name, Arguments: args}}
	}
	start := func(i int, block string) string {
		return fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":%s}`, i, block)
	}
	delta := func(i int, kind, member, piece string) string {
		return fmt.Sprintf(`{"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":%q}}`, i, kind, member, piece)
	}
	stop := func(i int) string { return fmt.Sprintf(`{"type":"content_block_stop","index":%d}`, i) }
	for name, tt := range map[string]struct {
		events []string
		parts  []Part
		reason Reason
	}{
		"nothing":             {[]string{opens, turned, shuts}, nil, Stop},
		"no reason":           {[]string{opens, shuts}, nil, Unknown},
		"unknown reason":      {[]string{opens, `{"type":"message_delta","delta":{"stop_reason":"compaction"}}`, shuts}, nil, Unknown},
		"no start":            {[]string{start(0, `{"type":"text","text":"a"}`), stop(0), turned, shuts}, []Part{text("a")}, Stop},
		"two starts":          {[]string{opens, opens, start(0, `{"type":"text","text":""}`), delta(0, "text_delta", "text", "a"), stop(0), turned, shuts}, []Part{text("a")}, Stop},
		"text in start":       {[]string{opens, start(0, `{"type":"text","text":"a"}`), delta(0, "text_delta", "text", "b"), stop(0), turned, shuts}, []Part{text("ab")}, Stop},
		"delta alone":         {[]string{opens, delta(5, "text_delta", "text", "a"), turned, shuts}, []Part{text("a")}, Stop},
		"two texts":           {[]string{opens, start(0, `{"type":"text"}`), delta(0, "text_delta", "text", "a"), stop(0), start(1, `{"type":"text"}`), delta(1, "text_delta", "text", "b"), stop(1), turned, shuts}, []Part{text("a"), text("b")}, Stop},
		"nulls":               {[]string{opens, `{"type":"content_block_start","index":null,"content_block":{"type":"text","text":null,"citations":null}}`, `{"type":"content_block_delta","index":null,"delta":null}`, `{"type":"content_block_delta","delta":{"type":"text_delta","text":null}}`, `{"type":"content_block_stop"}`, `{"type":"message_delta","delta":null,"usage":null}`, turned, shuts}, nil, Stop},
		"no index":            {[]string{opens, `{"type":"content_block_start","content_block":{"type":"tool_use","id":"a","name":"f"}}`, `{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{}"}}`, `{"type":"content_block_stop"}`, turned, shuts}, []Part{call("a", "f", "{}")}, Calls},
		"type last":           {[]string{opens, `{"index":0,"content_block":{"text":"","type":"text"},"type":"content_block_start"}`, `{"delta":{"text":"a\"b","type":"text_delta"},"index":0,"type":"content_block_delta"}`, turned, shuts}, []Part{text(`a"b`)}, Stop},
		"no stops":            {[]string{opens, start(0, `{"type":"thinking","thinking":"","signature":"S"}`), delta(0, "thinking_delta", "thinking", "t"), start(1, `{"type":"tool_use","id":"a","name":"f","input":{}}`), delta(1, "input_json_delta", "partial_json", `{"x":1}`), turned, shuts}, []Part{{Kind: Thought, Text: "t"}, call("a", "f", `{"x":1}`), {Kind: Thought, State: State{Maker: dialect.Messages, Data: "S"}}}, Calls},
		"index again":         {[]string{opens, start(0, `{"type":"tool_use","id":"a","name":"f","input":{}}`), start(0, `{"type":"tool_use","id":"b","name":"g","input":{}}`), delta(0, "input_json_delta", "partial_json", `{"x":1}`), stop(0), turned, shuts}, []Part{call("a", "f", "{}"), call("b", "g", `{"x":1}`)}, Calls},
		"ids":                 {[]string{opens, start(0, `{"type":"tool_use","name":"f","input":{}}`), stop(0), start(1, `{"type":"tool_use","id":"a","name":"f","input":{}}`), stop(1), start(2, `{"type":"tool_use","id":"a","name":"f","input":{}}`), stop(2), turned, shuts}, []Part{call("toolu_new", "f", "{}"), call("a", "f", "{}"), call("toolu_new", "f", "{}")}, Calls},
		"whole input":         {[]string{opens, start(0, `{"type":"tool_use","id":"a","name":"f","input":{ "x": 1.0 }}`), stop(0), turned, shuts}, []Part{call("a", "f", `{"x":1.0}`)}, Calls},
		"not JSON":            {[]string{opens, start(0, `{"type":"tool_use","id":"a","name":"f","input":{}}`), delta(0, "input_json_delta", "partial_json", `{"x"`), stop(0), `{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}`, shuts}, []Part{call("a", "f", `{"x"`)}, Length},
		"side by side":        {[]string{opens, start(0, `{"type":"tool_use","id":"a","name":"f","input":{}}`), start(1, `{"type":"tool_use","id":"b","name":"g","input":{}}`), delta(0, "input_json_delta", "partial_json", `{"x"`), delta(1, "input_json_delta", "partial_json", `{"y"`), delta(0, "input_json_delta", "partial_json", `:1}`), delta(1, "input_json_delta", "partial_json", `:2}`), stop(1), stop(0), turned, shuts}, []Part{call("a", "f", `{"x":1}`), call("b", "g", `{"y":2}`)}, Calls},
		"signature pieces":    {[]string{opens, start(0, `{"type":"thinking","thinking":"","signature":""}`), delta(0, "signature_delta", "signature", "S1"), delta(0, "signature_delta", "signature", "S2"), stop(0), turned, shuts}, []Part{{Kind: Thought, State: State{Maker: dialect.Messages, Data: "S1S2"}}}, Stop},
		"unsigned":            {[]string{opens, start(0, `{"type":"thinking","thinking":""}`), delta(0, "thinking_delta", "thinking", "a"), stop(0), start(1, `{"type":"thinking","thinking":""}`), delta(1, "thinking_delta", "thinking", "b"), stop(1), turned, shuts}, []Part{{Kind: Thought, Text: "a"}, {Kind: Thought, Text: "b"}}, Stop},
		"the service's":       {[]string{opens, start(0, `{"type":"server_tool_use","id":"s","name":"web_search","input":{}}`), delta(0, "input_json_delta", "partial_json", `{}`), stop(0), start(1, `{"type":"web_search_tool_result","tool_use_id":"s","content":[{"type":"x"}]}`), stop(1), start(2, `{"type":"text","text":""}`), delta(2, "citations_delta", "citation", "c"), delta(2, "text_delta", "text", "a"), stop(2), turned, shuts}, []Part{text("a")}, Stop},
		"the service's alone": {[]string{opens, start(0, `{"type":"server_tool_use","id":"s","name":"web_search","input":{}}`), stop(0), `{"type":"message_delta","delta":{"stop_reason":"tool_use"}}`, shuts}, nil, Stop},
		"paused":              {[]string{opens, `{"type":"message_delta","delta":{"stop_reason":"pause_turn"}}`, shuts}, nil, Paused},
		"stop sequence":       {[]string{opens, `{"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"END"}}`, shuts}, nil, StopSequence},
		"full":                {[]string{opens, `{"type":"message_delta","delta":{"stop_reason":"model_context_window_exceeded"}}`, shuts}, nil, ContextFull},
		"refusal":             {[]string{opens, start(0, `{"type":"text","text":"I"}`), stop(0), `{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"cyber","explanation":"Not that."}}}`, shuts}, []Part{text("I"), {Kind: Refusal, Text: "Not that."}}, Filtered},
		"silent refusal":      {[]string{opens, `{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"explanation":null}}}`, shuts}, nil, Filtered},
		"two deltas":          {[]string{opens, turned, `{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}`, `{"type":"message_delta","delta":{"stop_reason":null}}`, shuts}, nil, Length},
		"after the end":       {[]string{opens, turned, shuts, opens, start(0, `{"type":"text","text":"x"}`)}, nil, Stop},
		"unknown events":      {[]string{opens, `{"type":"new_event","x":[1]}`, `[DONE]`, turned, shuts}, nil, Stop},
	} {
		got, err := partsOf(t, sse(tt.events...))
		if err != nil || !reflect.DeepEqual(got.parts, tt.parts) || got.reason != tt.reason {
			t.Errorf("%s: %+v, %d, %v; want %+v, %d", name, got.parts, got.reason, err, tt.parts, tt.reason)
		}
		if name == "stop sequence" && got.stopSequence != "END" {
			t.Errorf("%s: %q", name, got.stopSequence)
		}
		if _, err := answered(messageRequest(true), sse(tt.events...), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What makes no sense is broken, and never silence or a well-formed end.
func TestDecodeMessagesBroken(t *testing.T) {
	for name, events := range map[string][]string{
		"no end":             {opens, turned},
		"empty":              {},
		"error":              {opens, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, shuts},
		"no JSON":            {opens, `{"type":"content_block_delta","index":0,"delta":{`},
		"no object":          {opens, `[1]`},
		"wrong delta":        {opens, `{"type":"content_block_delta","index":0,"delta":"x"}`},
		"wrong text":         {opens, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":{}}}`},
		"wrong index":        {opens, `{"type":"content_block_delta","index":"0","delta":{}}`},
		"arguments alone":    {opens, `{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}`},
		"call without name":  {opens, `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","input":{}}}`},
		"input that is none": {opens, `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{"a" 1}}}`},
	} {
		for _, stream := range []bool{true, false} {
			out, err := answered(messageRequest(stream), sse(events...), nil)
			if err == nil || bytes.Contains(out, []byte("message_stop")) || !stream && len(out) > 0 {
				t.Errorf("%s: %v with %s", name, err, out)
			}
		}
	}
	many := []string{opens}
	for i := range maxCalls + 1 {
		many = append(many, fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":{"type":"tool_use","id":"t%d","name":"f","input":{}}}`, i, i), fmt.Sprintf(`{"type":"content_block_stop","index":%d}`, i))
	}
	if _, err := answered(messageRequest(true), sse(append(many, turned, shuts)...), nil); err == nil {
		t.Error("there is no bound on calls")
	}
}

func TestDecodeMessagesWhole(t *testing.T) {
	for name, tt := range map[string]struct {
		body  string
		parts string // as a client of Messages sees them; empty if the answer is broken
		why   string
	}{
		"wire example": {
			`{"id":"msg_01","type":"message","role":"assistant","model":"claude-x","container":null,"diagnostics":null,
			 "content":[{"type":"thinking","thinking":"…","signature":"EqQB"},{"type":"redacted_thinking","data":"xyz"},{"type":"text","text":"Looking.","citations":null},
			  {"type":"tool_use","id":"toolu_01","name":"f","input":{"a":1.0},"caller":{"type":"direct"}}],
			 "stop_reason":"tool_use","stop_sequence":null,"stop_details":null,"usage":{"input_tokens":21,"output_tokens":340}}`,
			`[{"type":"thinking","thinking":"…","signature":"` + seal(&State{Maker: dialect.Messages, Upstream: "up", Data: "EqQB"}) + `"},
			{"type":"redacted_thinking","data":"` + seal(&State{Maker: dialect.Messages, Upstream: "up", Data: "xyz", Redacted: true}) + `"},
			{"type":"text","text":"Looking.","citations":null},{"type":"tool_use","id":"toolu_01","name":"f","input":{"a":1.0},"caller":{"type":"direct"}}]`,
			"tool_use",
		},
		"empty":             {`{"type":"message","content":[],"stop_reason":"end_turn"}`, `[]`, "end_turn"},
		"null content":      {`{"type":"message","content":null,"stop_reason":"max_tokens"}`, `[]`, "max_tokens"},
		"no reason":         {`{"content":[{"type":"text","text":"a"},{"type":"text","text":""}]}`, `[{"type":"text","text":"a","citations":null}]`, "end_turn"},
		"input as text":     {`{"content":[{"type":"tool_use","id":"a","name":"f","input":"{\"x\":1}"}],"stop_reason":"end_turn"}`, `[{"type":"tool_use","id":"a","name":"f","input":{"x":1},"caller":{"type":"direct"}}]`, "tool_use"},
		"null input":        {`{"content":[{"type":"tool_use","id":"a","name":"f","input":null}],"stop_reason":"tool_use"}`, `[{"type":"tool_use","id":"a","name":"f","input":{},"caller":{"type":"direct"}}]`, "tool_use"},
		"refusal":           {`{"content":[],"stop_reason":"refusal","stop_details":{"type":"refusal","category":null,"explanation":"No."}}`, `[{"type":"text","text":"No.","citations":null}]`, "refusal"},
		"members reversed":  {`{"stop_reason":"stop_sequence","stop_sequence":"X","content":[{"text":"a","type":"text"}]}`, `[{"type":"text","text":"a","citations":null}]`, "stop_sequence"},
		"cut off arguments": {`{"content":[{"type":"tool_use","id":"a","name":"f","input":"{\"x\""}],"stop_reason":"max_tokens"}`, `[{"type":"tool_use","id":"a","name":"f","input":{},"caller":{"type":"direct"}}]`, "max_tokens"},
		"wrong arguments":   {`{"content":[{"type":"tool_use","id":"a","name":"f","input":"{\"x\""}],"stop_reason":"tool_use"}`, "", ""},
		"list of arguments": {`{"content":[{"type":"tool_use","id":"a","name":"f","input":[1]}],"stop_reason":"tool_use"}`, "", ""},
		"no object":         {`[]`, "", ""},
		"no message":        {`{"hello":"world"}`, "", ""},
		"error":             {`{"type":"error","error":{"type":"api_error","message":"m"}}`, "", ""},
		"text for content":  {`{"content":"hi","stop_reason":"end_turn"}`, "", ""},
		"block of text":     {`{"content":["hi"],"stop_reason":"end_turn"}`, "", ""},
		"cut":               {`{"content":[{"type":"text","text":"a"}`, "", ""},
		"call without name": {`{"content":[{"type":"tool_use","id":"a","input":{}}]}`, "", ""},
	} {
		a := messageRequest(false).Answer(false)
		a.Whole([]byte(tt.body))
		a.End(&usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1000, CacheWrite1h: 200, Output: 340})
		out := a.Take()
		if tt.parts == "" {
			if a.Problem == nil || len(out) > 0 {
				t.Errorf("%s: %v with %s", name, a.Problem, out)
			}
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(out, &got); err != nil || a.Problem != nil {
			t.Errorf("%s: %v, %v in %s", name, err, a.Problem, out)
			continue
		}
		messagesEqual(t, name, got["content"], tt.parts)
		if got["stop_reason"] != tt.why || got["model"] != "public" || (got["stop_details"] != nil) != (tt.why == "refusal") || (got["stop_sequence"] != nil) != (tt.why == "stop_sequence") {
			t.Errorf("%s: %s", name, out)
		}
		if name == "wire example" {
			messagesEqual(t, "usage", got["usage"], `{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":340,"output_tokens_details":null,"server_tool_use":null,"service_tier":null,"speed":null,"inference_geo":null}`)
		}
	}
}

// Tools with free text, namespaces and names that the dialect does not take come
// back as the client knows them.
func TestDecodeMessagesToolNames(t *testing.T) {
	r := messageRequest(false)
	r.c.Tools = []Tool{{Name: "patch", Custom: true}, {Name: "read", Space: "fs"}, {Name: "a.b"}}
	r.c.Turns = userSays(dialect.Responses, "hi").Turns
	if err := r.writeMessages(); err != nil {
		t.Fatal(err)
	}
	a := r.Answer(true)
	c := &collector{a: a}
	a.enc = c
	renamed := r.names.send(toolName{name: "a.b"}, messagesName)
	a.Events(sse(opens,
		`{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"1","name":"patch","input":{}}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"input\":\"*** Be"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"gin\\n\"}"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"2","name":"fs_read","input":{}}}`,
		`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"3","name":"`+renamed+`","input":{}}}`,
		turned, shuts))
	a.dec.end()
	want := []ToolCall{{ID: "1", Name: "patch", Custom: true, Arguments: "*** Begin\n"}, {ID: "2", Name: "read", Space: "fs", Arguments: "{}"}, {ID: "3", Name: "a.b", Arguments: "{}"}}
	for i, p := range c.g.parts {
		if *p.Call != want[i] {
			t.Errorf("got %+v, want %+v", *p.Call, want[i])
		}
	}
	if len(c.g.parts) != 3 || a.Problem != nil {
		t.Errorf("%d parts, %v", len(c.g.parts), a.Problem)
	}
}

// encoded is what a client gets of events.
func encoded(r *Request, used *usage.Tokens, events ...Event) ([]byte, error) {
	a := r.Answer(true)
	for i := range events {
		a.emit(&events[i])
	}
	if a.Problem == nil {
		a.enc.finish(used)
	}
	return a.Take(), a.Problem
}

func callStart(n int, id, name string) Event {
	return Event{Kind: CallStart, Call: n, ID: id, Name: name}
}

func callPiece(n int, s string) Event { return Event{Kind: CallPiece, Call: n, Text: []byte(s)} }
func callEnd(n int) Event             { return Event{Kind: CallEnd, Call: n} }
func textPiece(s string) Event        { return Event{Kind: TextPiece, Text: []byte(s)} }
func thoughtPiece(s string) Event     { return Event{Kind: ThoughtPiece, Text: []byte(s)} }

func TestEncodeMessages(t *testing.T) {
	start, done := Event{Kind: Start, ID: "chatcmpl-7"}, Event{Kind: Finish, Reason: Calls}
	state := State{Data: "sig"}
	envelope := seal(&State{Maker: dialect.Gemini, Upstream: "up", Data: "sig"})
	for name, tt := range map[string]struct {
		events []Event
		want   string
	}{
		"nothing":             {[]Event{start, done}, `[]`},
		"no start":            {[]Event{textPiece("a"), done}, `[{"type":"text","text":"a"}]`},
		"empty pieces":        {[]Event{start, textPiece(""), thoughtPiece(""), callStart(0, "a", "f"), callPiece(0, ""), callPiece(0, "{}"), callEnd(0), textPiece(""), done}, `[{"type":"tool_use","id":"a","name":"f","input":{}}]`},
		"text and refusal":    {[]Event{start, textPiece("a"), {Kind: RefusalPiece, Text: []byte("b")}, {Kind: BlockEnd}, textPiece("c"), done}, `[{"type":"text","text":"ab"},{"type":"text","text":"c"}]`},
		"thought, text":       {[]Event{start, thoughtPiece("t"), textPiece("a"), thoughtPiece("u"), done}, `[{"type":"thinking","thinking":"t","signature":"fw1.n.dXA.."},{"type":"text","text":"a"},{"type":"thinking","thinking":"u","signature":"fw1.n.dXA.."}]`},
		"sealed":              {[]Event{start, thoughtPiece("t"), {Kind: Sealed, State: state}, {Kind: Sealed, State: state}, textPiece("a"), done}, `[{"type":"thinking","thinking":"t","signature":"` + envelope + `"},{"type":"thinking","thinking":"","signature":"` + envelope + `"},{"type":"text","text":"a"}]`},
		"call's own state":    {[]Event{start, textPiece("a"), {Kind: CallStart, Call: 0, ID: "a", Name: "f", State: state}, callPiece(0, "{}"), callEnd(0), {Kind: CallStart, Call: 1, ID: "b", Name: "f"}, callPiece(1, "{}"), callEnd(1), done}, `[{"type":"text","text":"a"},{"type":"thinking","thinking":"","signature":"` + envelope + `"},{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"tool_use","id":"b","name":"f","input":{}}]`},
		"states side by side": {[]Event{start, {Kind: CallStart, Call: 0, ID: "a", Name: "f", State: state}, {Kind: CallStart, Call: 1, ID: "b", Name: "f", State: state}, callPiece(1, "{}"), callPiece(0, "{}"), callEnd(0), callEnd(1), done}, `[{"type":"thinking","thinking":"","signature":"` + envelope + `"},{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"thinking","thinking":"","signature":"` + envelope + `"},{"type":"tool_use","id":"b","name":"f","input":{}}]`},
		"calls side by side":  {[]Event{start, callStart(0, "a", "f"), callStart(1, "b", "g"), callPiece(1, `{"y"`), callPiece(0, `{"x"`), callPiece(1, `:2}`), callPiece(0, `:1}`), callEnd(1), callEnd(0), done}, `[{"type":"tool_use","id":"a","name":"f","input":{"x":1}},{"type":"tool_use","id":"b","name":"g","input":{"y":2}}]`},
		"second goes on":      {[]Event{start, callStart(0, "a", "f"), callStart(1, "b", "g"), callStart(2, "c", "h"), callPiece(2, `{}`), callPiece(1, `{"y"`), callPiece(0, `{}`), callEnd(0), callPiece(1, `:2}`), callEnd(1), callEnd(2), done}, `[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"tool_use","id":"b","name":"g","input":{"y":2}},{"type":"tool_use","id":"c","name":"h","input":{}}]`},
		"never ended":         {[]Event{start, callStart(0, "a", "f"), callStart(1, "b", "g"), callPiece(1, `{"y":2}`), callPiece(0, `{"x":1}`), done}, `[{"type":"tool_use","id":"a","name":"f","input":{"x":1}},{"type":"tool_use","id":"b","name":"g","input":{"y":2}}]`},
		"text beside a call":  {[]Event{start, callStart(0, "a", "f"), textPiece("b"), callPiece(0, `{}`), textPiece("c"), thoughtPiece("t"), {Kind: Sealed, State: state}, callEnd(0), textPiece("d"), done}, `[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"text","text":"bc"},{"type":"thinking","thinking":"t","signature":"` + envelope + `"},{"type":"text","text":"d"}]`},
		"text goes on":        {[]Event{start, callStart(0, "a", "f"), textPiece("b"), callPiece(0, `{}`), callEnd(0), textPiece("c"), done}, `[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"text","text":"bc"}]`},
		"free text":           {[]Event{start, {Kind: CallStart, ID: "a", Name: "f", Custom: true}, callPiece(0, `x"`), callPiece(0, "y"), callEnd(0), done}, `[{"type":"tool_use","id":"a","name":"f","input":{"input":"x\"y"}}]`},
		"wild id":             {[]Event{start, callStart(0, "functions.f:0", "f"), callPiece(0, `{}`), callEnd(0), done}, `[{"type":"tool_use","id":"` + safeID("functions.f:0", 64) + `","name":"f","input":{}}]`},
		"unknown call":        {[]Event{start, callPiece(3, `{}`), callEnd(3), done}, `[]`},
	} {
		r := messageRequest(true)
		r.to = dialect.Gemini
		out, err := encoded(r, nil, tt.events...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		messagesEqual(t, name, []byte(contentOf(t, out)), tt.want)
	}
}

// The first of several calls flows while the others wait.
func TestTrap17_FirstOfParallelCallsFlows(t *testing.T) {
	a := messageRequest(true).Answer(true)
	give := func(events ...Event) string {
		for i := range events {
			a.emit(&events[i])
		}
		return string(a.Take())
	}
	give(Event{Kind: Start})
	if got := give(callStart(0, "a", "f"), callPiece(0, `{"x"`)); !strings.Contains(got, `"partial_json":"{\"x\""`) {
		t.Errorf("the first call does not flow: %s", got)
	}
	if got := give(callStart(1, "b", "g"), callPiece(1, `{}`), callEnd(1)); got != "" {
		t.Errorf("the second call does not wait: %s", got)
	}
	if got := give(callPiece(0, `:1}`)); !strings.Contains(got, `":1}"`) {
		t.Errorf("the first call does not flow on: %s", got)
	}
	if got := give(callEnd(0)); strings.Count(got, "content_block_stop\n") != 2 || !strings.Contains(got, `"id":"b","name":"g","input":{}`) {
		t.Errorf("the second call does not follow: %s", got)
	}
}

// What waits is bounded.
func TestEncodeMessagesBound(t *testing.T) {
	piece := strings.Repeat("x", 1<<20)
	events := []Event{{Kind: Start}, callStart(0, "a", "f"), callStart(1, "b", "g")}
	for range 17 {
		events = append(events, callPiece(1, piece))
	}
	if out, err := encoded(messageRequest(true), nil, events...); err == nil || len(out) > 4<<10 {
		t.Errorf("%v with %d bytes", err, len(out))
	}
	events = []Event{{Kind: Start}, callStart(0, "a", "f")}
	for range 17 {
		events = append(events, callPiece(0, piece))
	}
	if _, err := encoded(messageRequest(true), nil, append(events, Event{Kind: Finish})...); err != nil {
		t.Error(err) // the relay bounds what flows
	}
}

// Clients that do not ask for thoughts find the answer where they look for it: in
// the first block.
func TestEncodeMessagesShowsThoughtsToWhoAsks(t *testing.T) {
	events := []Event{
		{Kind: Start},
		thoughtPiece("t"),
		{Kind: Sealed, State: State{Data: "s"}},
		textPiece("a"),
		{Kind: CallStart, ID: "c", Name: "f", State: State{Data: "own"}},
		callPiece(0, "{}"), callEnd(0),
		{Kind: Finish, Reason: Calls},
	}
	seen := func(s string) string { return seal(&State{Maker: dialect.Gemini, Upstream: "up", Data: s}) }
	answer := `{"type":"text","text":"a"},{"type":"thinking","thinking":"","signature":"` + seen("own") + `"},{"type":"tool_use","id":"c","name":"f","input":{}}]`
	for want, asked := range map[string]Reasoning{
		`[` + answer: {},
		`[{"type":"thinking","thinking":"","signature":"` + seen("s") + `"},` + answer:  {Sealed: true},
		`[{"type":"thinking","thinking":"t","signature":"` + seen("s") + `"},` + answer: {Sealed: true, Visible: true},
		`[{"type":"thinking","thinking":"t","signature":"fw1.n.dXA.."},` + answer:       {Visible: true},
	} {
		for _, stream := range []bool{true, false} {
			r := messageRequest(stream)
			r.to, r.c.Reasoning = dialect.Gemini, asked
			out, err := encoded(r, nil, events...)
			if err != nil {
				t.Fatal(err)
			}
			if stream {
				messagesEqual(t, "stream", []byte(contentOf(t, out)), want)
				continue
			}
			var got struct{ Content json.RawMessage }
			_ = json.Unmarshal(out, &got)
			whole := strings.NewReplacer(`"text":"a"`, `"text":"a","citations":null`, `"input":{}`, `"input":{},"caller":{"type":"direct"}`).Replace(want)
			messagesEqual(t, "whole", []byte(got.Content), whole)
		}
	}
}

func TestEncodeMessagesReasons(t *testing.T) {
	for reason, want := range map[Reason]string{
		Stop: "end_turn", StopSequence: "stop_sequence", Calls: "tool_use", Length: "max_tokens", ContextFull: "model_context_window_exceeded",
		Filtered: "refusal", Declined: "refusal", Paused: "pause_turn", BadCall: "end_turn", Unknown: "end_turn",
	} {
		out, err := encoded(messageRequest(true), nil, Event{Kind: Start}, Event{Kind: Finish, Reason: reason, StopSequence: "X"})
		if err != nil {
			t.Fatal(err)
		}
		message := readMessageStream(t, out)
		if message["stop_reason"] != want || (message["stop_sequence"] == "X") != (reason == StopSequence) || (message["stop_details"] != nil) != (want == "refusal") {
			t.Errorf("%d: %s", reason, out)
		}
	}
}

func TestEncodeMessagesFails(t *testing.T) {
	a := messageRequest(true).Answer(true)
	a.emit(&Event{Kind: Start})
	a.emit(&Event{Kind: TextPiece, Text: []byte("half")})
	a.Fail(&dialect.Error{Fault: dialect.Unavailable, Message: "Overloaded", Request: "req_1"})
	out := string(a.Take())
	if !strings.HasSuffix(out, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"},\"request_id\":\"req_1\"}\n\n") || strings.Contains(out, "message_stop") {
		t.Errorf("got %s", out)
	}
}

func TestTrap16_SeveralCallsKeepApart(t *testing.T) {
	got, err := partsOf(t, wireStream())
	if err != nil || len(got.parts) != 5 || got.parts[3].Call.ID != "toolu_01" || got.parts[4].Call.Arguments != "{}" || got.parts[3].Call.Arguments != `{"a":1}` {
		t.Errorf("%+v, %v", got.parts, err)
	}
}

func TestTrap18_ArgumentsThatComeWithTheName(t *testing.T) {
	out, err := encoded(messageRequest(true), nil, Event{Kind: Start}, textPiece("a"), callStart(0, "a", "f"), callPiece(0, `{"x":1}`), callStart(1, "b", "g"), callPiece(1, `{"y":2}`), Event{Kind: Finish, Reason: Calls})
	if err != nil {
		t.Fatal(err)
	}
	messagesEqual(t, "content", []byte(contentOf(t, out)), `[{"type":"text","text":"a"},{"type":"tool_use","id":"a","name":"f","input":{"x":1}},{"type":"tool_use","id":"b","name":"g","input":{"y":2}}]`)
}

func TestTrap19_NoEmptyTextBlockBeforeACall(t *testing.T) {
	out, err := encoded(messageRequest(true), nil, Event{Kind: Start}, textPiece(""), Event{Kind: BlockEnd}, callStart(0, "a", "f"), callPiece(0, ""), callPiece(0, "{}"), callEnd(0), Event{Kind: Finish, Reason: Calls})
	if err != nil || bytes.Contains(out, []byte(`"type":"text"`)) || bytes.Contains(out, []byte(`"partial_json":""`)) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTrap22_InterleavedFragmentsStayInTheirBlocks(t *testing.T) {
	var events []Event
	events = append(events, Event{Kind: Start}, callStart(0, "a", "f"), callStart(1, "b", "g"))
	for _, c := range `{"key":"value"}` {
		events = append(events, callPiece(0, string(c)), callPiece(1, string(c)))
	}
	out, err := encoded(messageRequest(true), nil, append(events, callEnd(0), callEnd(1), Event{Kind: Finish, Reason: Calls})...)
	if err != nil {
		t.Fatal(err)
	}
	messagesEqual(t, "content", []byte(contentOf(t, out)), `[{"type":"tool_use","id":"a","name":"f","input":{"key":"value"}},{"type":"tool_use","id":"b","name":"g","input":{"key":"value"}}]`)
}

func TestTrap39_StreamWithoutMessageStopIsBroken(t *testing.T) {
	whole := wireStream()
	cut := whole[:bytes.Index(whole, []byte("event: message_stop"))]
	if out, err := answered(messageRequest(true), cut, nil); err == nil || bytes.Contains(out, []byte("message_delta")) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTrap42_MessageStartOnce(t *testing.T) {
	out, err := answered(messageRequest(true), sse(opens, opens, turned, shuts), nil)
	if err != nil || bytes.Count(out, []byte("event: message_start")) != 1 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTrap07_CachedInputIsNotInInputTokens(t *testing.T) {
	// The fourth vector of the table of usages: a Responses upstream.
	out, err := encoded(messageRequest(true), &usage.Tokens{Input: 200, CacheRead: 2000, CacheWrite: 400, Output: 90, Reasoning: 64, ReasoningKnown: true}, Event{Kind: Start}, Event{Kind: Finish})
	if err != nil {
		t.Fatal(err)
	}
	got := readMessageStream(t, out)["usage"].(map[string]any)
	if got["input_tokens"] != 200. || got["cache_read_input_tokens"] != 2000. || got["cache_creation_input_tokens"] != 400. || got["output_tokens"] != 90. {
		t.Errorf("got %v", got)
	}
}

// A signature goes through a client and back, and only to its maker.
func TestTrap30_SignatureOfACallComesBack(t *testing.T) {
	r := messageRequest(false)
	r.to, r.c.Reasoning = dialect.Gemini, Reasoning{}
	out, err := encoded(r, nil, Event{Kind: Start}, Event{Kind: CallStart, ID: "call:1", Name: "f", State: State{Data: "CiQ"}}, callPiece(0, `{}`), callEnd(0), Event{Kind: Finish, Reason: Calls})
	if err != nil {
		t.Fatal(err)
	}
	var reply struct{ Content json.RawMessage }
	if err := json.Unmarshal(out, &reply); err != nil {
		t.Fatal(err)
	}
	c := readMessage(t, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":`+string(reply.Content)+`},{"role":"user","content":[{"type":"tool_result","tool_use_id":"`+safeID("call:1", 64)+`"}]}]}`)
	p := c.Turns[1].Parts[0]
	if len(c.Turns[1].Parts) != 1 || p.Call.ID != "call:1" || p.State != (State{Maker: dialect.Gemini, Upstream: "up", Data: "CiQ"}) {
		t.Errorf("got %+v", c.Turns[1].Parts)
	}
}

func FuzzDecodeMessages(f *testing.F) {
	f.Add(wireStream(), true)
	f.Add([]byte(`{"content":[{"type":"tool_use","id":"a","name":"f","input":"{}"}],"stop_reason":"tool_use"}`), false)
	f.Add(sse(opens, `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}`, `{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"x"}}`, turned, shuts), true)
	f.Fuzz(func(t *testing.T, in []byte, events bool) {
		for _, stream := range []bool{true, false} {
			a := messageRequest(stream).Answer(events)
			if events {
				a.Events(in)
			} else {
				a.Whole(in)
			}
			a.End(nil)
			out := a.Take()
			if len(out) > 64*len(in)+4096 {
				t.Fatalf("%d bytes of %d", len(out), len(in))
			}
			if a.Problem != nil {
				continue
			}
			if !stream {
				if !json.Valid(out) {
					t.Fatalf("no JSON: %s", out)
				}
				continue
			}
			dialect.EachEvent(out, func(_, data []byte) {
				if !json.Valid(data) {
					t.Fatalf("no JSON: %s", data)
				}
			})
		}
	})
}

func BenchmarkTranslateMessagesChunk(b *testing.B) {
	chunk := sse(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" and some \"words\"\n"}}`)
	a := messageRequest(true).Answer(true)
	a.Events(sse(opens, `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`))
	a.Take()
	b.ReportAllocs()
	for b.Loop() {
		a.Events(chunk)
		if len(a.Take()) == 0 {
			b.Fatal(a.Problem)
		}
	}
}
