package translate

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/dialect"
)

// responsesCall reads a body as package dialect does before it is translated.
func responsesCall(body string) (*Conversation, error) {
	req := &dialect.Request{Call: dialect.Call{Op: dialect.CreateResponse}, Body: []byte(body), ContentType: "application/json"}
	if err := req.Read(); err != nil {
		return nil, err
	}
	return Read(req)
}

func responsesRead(t testing.TB, body string) *Conversation {
	t.Helper()
	c, err := responsesCall(body)
	if err != nil {
		t.Fatalf("%s\nis not read: %v", body, err)
	}
	return c
}

func responsesOptions() *Options {
	n := 0
	return &Options{
		Upstream: "up", Model: "upstream-model", Now: time.Unix(1790000000, 0),
		NewID: func() string { n++; return fmt.Sprint("new", n) },
	}
}

// responsesWrite writes a conversation and returns the body's members.
func responsesWrite(t testing.TB, c *Conversation, o *Options) (*Request, map[string]json.RawMessage) {
	t.Helper()
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Write(dialect.Responses, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Op != dialect.CreateResponse && !(c.Counting && r.Op == dialect.CountResponse) {
		t.Errorf("the operation is %v", r.Op)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(r.Body, &m); err != nil {
		t.Fatalf("%s: %v", r.Body, err)
	}
	return r, m
}

// responsesBody puts members around an input.
func responsesBody(more string) string {
	if !strings.Contains(more, `"input":`) {
		more = `"input":"Hi",` + more
	}
	return `{"model":"m",` + strings.TrimSuffix(more, ",") + `}`
}

func saidBy(role Role, field string, parts ...Part) Turn {
	return Turn{Role: role, Parts: parts, Field: field}
}

func textAt(text, field string) Part { return Part{Kind: Text, Text: text, Field: field} }

// TestReadResponsesInput goes through the forms of the input.
func TestReadResponsesInput(t *testing.T) {
	sealed := seal(&State{Maker: dialect.Messages, Upstream: "up", Data: "sig"})
	ofCall := seal(&State{Maker: dialect.Gemini, Upstream: "up", Data: "sig", ID: "c1"})
	for _, tt := range []struct {
		name, body string
		system     []Part
		turns      []Turn
	}{
		{name: "a text", body: `{"model":"m","input":"Hi"}`, turns: []Turn{saidBy(User, "input", textAt("Hi", "input"))}},
		{
			name: "instructions stand before all else", body: `{"model":"m","input":[{"role":"developer","content":"two"},{"type":"message","role":"system","content":[{"type":"input_text","text":"three"}]},{"role":"user","content":"Hi"},{"role":"developer","content":"late"}],"instructions":"one"}`,
			system: []Part{textAt("one", "instructions"), textAt("two", "input[0].content"), textAt("three", "input[1].content[0]")},
			turns: []Turn{
				saidBy(User, "input[2]", textAt("Hi", "input[2].content")),
				saidBy(System, "input[3]", textAt("late", "input[3].content")),
			},
		},
		{
			name: "what the user says",
			body: `{"model":"m","input":[{"type":"message","role":"user","content":[
				{"type":"input_text","text":"a\u00e9"},
				{"type":"input_image","image_url":"data:image/png;base64,QUJD","detail":"high"},
				{"type":"input_image","image_url":"https://x/y.png","detail":"auto"},
				{"type":"input_image","image_url":"gs://x/y.png"},
				{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,QUJD"},
				{"type":"input_file","file_data":"QUJD"},
				{"type":"input_file","file_url":"https://x/y.pdf"},
				{"type":"input_audio","input_audio":{"data":"QUJD","format":"mp3"}}]}]}`,
			turns: []Turn{saidBy(
				User, "input[0]",
				textAt("aé", "input[0].content[0]"),
				Part{Kind: Image, Field: "input[0].content[1]", Media: &Media{Type: "image/png", Data: "QUJD", Detail: "high"}},
				Part{Kind: Image, Field: "input[0].content[2]", Media: &Media{URL: "https://x/y.png", Detail: "auto"}},
				Part{Kind: Image, Field: "input[0].content[3]", Media: &Media{URL: "gs://x/y.png"}},
				Part{Kind: File, Field: "input[0].content[4]", Media: &Media{Type: "application/pdf", Data: "QUJD", Name: "a.pdf"}},
				Part{Kind: File, Field: "input[0].content[5]", Media: &Media{Type: "application/pdf", Data: "QUJD"}},
				Part{Kind: File, Field: "input[0].content[6]", Media: &Media{URL: "https://x/y.pdf"}},
				Part{Kind: Audio, Field: "input[0].content[7]", Media: &Media{Type: "audio/mpeg", Data: "QUJD"}},
			)},
		},
		{
			name: "what an assistant did is one turn, and its results another",
			body: `{"model":"m","input":[{"role":"user","content":"Hi"},
				{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"a"},{"type":"summary_text","text":"b"}],"content":null,"encrypted_content":"gAAA"},
				{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Yes","annotations":[]},{"type":"refusal","refusal":"No"}]},
				{"type":"function_call","id":"fc_1","call_id":"c1","name":"f","namespace":"ns","arguments":"{}","status":"completed"},
				{"type":"custom_tool_call","call_id":"c2","name":"g","input":"free"},
				{"type":"custom_tool_call_output","call_id":"c2","output":[{"type":"input_text","text":"two"},{"type":"input_image","image_url":"https://x"}]},
				{"type":"function_call_output","call_id":"c1","output":"one"}]}`,
			turns: []Turn{
				saidBy(User, "input[0]", textAt("Hi", "input[0].content")),
				saidBy(
					Assistant, "input[1]",
					Part{Kind: Thought, Text: "a\n\nb", State: State{Maker: dialect.Responses, Data: "gAAA", ID: "rs_1"}, Field: "input[1]"},
					textAt("Yes", "input[2].content[0]"),
					Part{Kind: Refusal, Text: "No", Field: "input[2].content[1]"},
					Part{Kind: Call, Call: &ToolCall{ID: "c1", Name: "f", Space: "ns", Arguments: "{}"}, Field: "input[3]"},
					Part{Kind: Call, Call: &ToolCall{ID: "c2", Name: "g", Arguments: "free", Custom: true}, Field: "input[4]"},
				),
				saidBy(
					User, "input[5]",
					Part{Kind: Result, Field: "input[5]", Result: &ToolResult{ID: "c2", Name: "g", Custom: true, Parts: []Part{
						textAt("two", "input[5].output[0]"), {Kind: Image, Media: &Media{URL: "https://x"}, Field: "input[5].output[1]"},
					}}},
					Part{Kind: Result, Field: "input[6]", Result: &ToolResult{ID: "c1", Name: "f", Parts: []Part{textAt("one", "input[6].output")}}},
				),
			},
		},
		{
			name: "reasoning of other services stands in envelopes",
			body: `{"model":"m","input":[
				{"type":"reasoning","id":"rs_new1","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"` + sealed + `"},
				{"type":"reasoning","id":"rs_new2","summary":[],"encrypted_content":"` + ofCall + `"},
				{"type":"reasoning","id":"rs_new3","summary":[]},
				{"type":"reasoning","id":"rs_new4","summary":[],"encrypted_content":"fw1.damaged"},
				{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"}]}`,
			turns: []Turn{saidBy(
				Assistant, "input[0]",
				Part{Kind: Thought, Text: "hm", State: State{Maker: dialect.Messages, Data: "sig", Upstream: "up"}, Field: "input[0]"},
				Part{Kind: Call, Call: &ToolCall{ID: "c1", Name: "f", Arguments: "{}"}, State: State{Maker: dialect.Gemini, Data: "sig", Upstream: "up"}, Field: "input[4]"},
			)},
		},
		{
			name: "the content of reasoning is more than its summary",
			body: `{"model":"m","input":[{"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"s"}],"content":[{"type":"reasoning_text","text":"c"}]},{"role":"assistant","content":"x"}]}`,
			turns: []Turn{saidBy(
				Assistant, "input[0]",
				Part{Kind: Thought, Text: "c", Field: "input[0]"}, textAt("x", "input[1].content"),
			)},
		},
		{
			name: "what the service's tools did goes, with its results",
			body: `{"model":"m","input":[{"type":"web_search_call","id":"ws_1","status":"completed"},{"type":"compaction","encrypted_content":"x"},
				{"type":"local_shell_call","call_id":"c9","action":{}},{"type":"function_call_output","call_id":"c9","output":"x"},{"role":"user","content":"Hi"}]}`,
			turns: []Turn{saidBy(User, "input[4]", textAt("Hi", "input[4].content"))},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := responsesRead(t, tt.body)
			if !reflect.DeepEqual(c.System, tt.system) {
				t.Errorf("system is\n%+v", c.System)
			}
			if got, want := spelled(t, c.Turns), spelled(t, tt.turns); got != want {
				t.Errorf("turns are\n%s\nnot\n%s", got, want)
			}
		})
	}
}

func spelled(t testing.TB, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestReadResponsesFields goes through the other members.
func TestReadResponsesFields(t *testing.T) {
	c := responsesRead(t, `{"model":"m","input":"Hi","stream":true,"max_output_tokens":64.0,"temperature":0.70,"top_p":1e0,
		"top_logprobs":3,"include":["reasoning.encrypted_content","message.output_text.logprobs"],"store":false,"background":false,
		"previous_response_id":null,"conversation":null,"truncation":"disabled","metadata":{"a":"b"},"user":"u","safety_identifier":"s",
		"service_tier":"flex","prompt_cache_key":"k","parallel_tool_calls":false,"reasoning":{"effort":"high","summary":"detailed"},
		"text":{"verbosity":"low","format":{"type":"json_schema","name":"n","description":"d","schema":{"type":"object","x":1.50},"strict":true}},
		"tools":[{"type":"function","name":"f","description":"d","parameters":{"b":1,"a":2},"strict":null},
			{"type":"custom","name":"g","format":{"type":"text"}},
			{"type":"custom","name":"h","format":{"type":"grammar","syntax":"lark","definition":"x"}},
			{"type":"namespace","tools":[{"type":"function","name":"f","parameters":null}],"name":"ns"}],
		"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"f"},{"type":"custom","name":"g"}]}}`)
	yes, no := true, false
	c.size, c.used, c.uses, c.Echo, c.Turns = 0, nil, [features]uint8{}, nil, nil
	want := &Conversation{
		From: dialect.Responses, Asked: "m", Stream: true, MaxTokens: 64, Temperature: "0.70", TopP: "1e0", LogProbs: true, TopLogProbs: 3,
		Store: &no, Metadata: []byte(`{"a":"b"}`), EndUser: "s", Tier: "flex", CacheKey: "k", Serial: true, Verbosity: "low",
		Reasoning: Reasoning{Effort: "high", Visible: true, Summary: "detailed", Sealed: true, Field: "reasoning"},
		Format:    Format{Kind: SchemaFormat, Name: "n", Description: "d", Schema: []byte(`{"type":"object","x":1.50}`), Strict: &yes, Field: "text.format"},
		Tools: []Tool{
			{Name: "f", Description: "d", Schema: []byte(`{"b":1,"a":2}`), Field: "tools[0]"},
			{Name: "g", Custom: true, Field: "tools[1]"},
			{Name: "h", Custom: true, Grammar: []byte(`{"type":"grammar","syntax":"lark","definition":"x"}`), Field: "tools[2]"},
			{Name: "f", Space: "ns", Field: "tools[3].tools[0]"},
		},
		Choice: Choice{Mode: Required, Only: []string{"f", "g"}, Field: "tool_choice"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("read\n%s\nnot\n%s", spelled(t, c), spelled(t, want))
	}
}

// TestReadResponsesPolicy checks what is refused and what is named, per upstream.
func TestReadResponsesPolicy(t *testing.T) {
	const f = `"tools":[{"type":"function","name":"f"},{"type":"web_search"}]`
	for _, tt := range []struct {
		more    string
		to      dialect.Dialect
		refused string // the field
		dropped string
	}{
		{more: `"previous_response_id":"resp_1"`, refused: "previous_response_id"},
		{more: `"conversation":{"id":"c"}`, refused: "conversation"},
		{more: `"prompt":{"id":"p"}`, refused: "prompt"},
		{more: `"background":true`, refused: "background"},
		{more: `"input":[{"type":"item_reference","id":"msg_1"}]`, refused: "input[0]"},
		{more: `"input":[{"id":"msg_1"}]`, refused: "input[0]"},
		{more: `"moderation":{"model":"x"}`, refused: "moderation"},
		{more: `"moderation":{"model":"x"}`, to: dialect.Messages, refused: "moderation"},
		{more: `"input":[{"role":"user","content":[{"type":"input_image","file_id":"file_1"}]}]`, refused: "input[0].content[0]"},
		{more: `"store":true`, dropped: "store"},
		{more: `"store":false,"background":false,"conversation":null`},
		{more: `"truncation":"auto"`, to: dialect.Messages, dropped: "truncation"},
		{more: `"client_metadata":{"a":"b"}`, dropped: "client_metadata"},
		{more: `"include":["web_search_call.results"]`, dropped: "include[0]"},
		{more: `"reasoning":{"effort":"low","context":"auto","new":1}`, dropped: "reasoning.context,reasoning.new"},
		{more: `"new":1,"text":{"new":1},"stream_options":{"include_obfuscation":false,"new":1}`, dropped: "new,text.new,stream_options.new"},
		{more: `"input":[{"role":"user","new":1,"content":[{"type":"input_text","text":"Hi","new":1}]}]`, dropped: "input[0].new,input[0].content[0].new"},
		{more: `"input":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[{"type":"url_citation"}]}]}]`, dropped: "input[1].content[0].annotations"},
		{more: `"input":[{"type":"ghost"},{"role":"user","content":"Hi"}]`, dropped: "input[0]"},
		{more: `"prompt_cache_retention":"24h","prompt_cache_options":{}`, to: dialect.Messages, dropped: "prompt_cache_retention,prompt_cache_options"},
		{more: `"user":"u","top_logprobs":2`, to: dialect.Chat, refused: "top_logprobs"},
		{more: `"context_management":[{"type":"compaction"}]`, dropped: "context_management"},
		{more: f, dropped: "tools[1]"},
		{more: f + `,"tool_choice":"required"`, dropped: "tools[1]"},
		{more: f + `,"tool_choice":{"type":"web_search"}`, refused: "tool_choice"},
		{more: f + `,"tool_choice":{"type":"mcp","server_label":"x"}`, refused: "tool_choice"},
		{more: f + `,"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"web_search"}]}`, refused: "tool_choice"},
		{more: f + `,"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"web_search"}]}`, dropped: "tools[1]"},
		{more: `"tools":[{"type":"web_search"}],"tool_choice":"required"`, refused: "tool_choice"},
		{more: `"tools":[{"type":"web_search"}],"tool_choice":"auto"`, dropped: "tools[0]"},
		{more: `"tools":[{"type":"namespace","name":"n","tools":[{"type":"function","name":"f"},{"type":"new"}]}]`, to: dialect.Chat, dropped: "tools[0],tools[0].tools[1]"},
	} {
		c := responsesRead(t, responsesBody(tt.more))
		r := &Request{c: c, to: tt.to, o: *responsesOptions()}
		err := r.applyRules()
		if tt.refused != "" {
			var b *dialect.BadRequest
			if !errors.As(err, &b) || b.Param != tt.refused || !strings.Contains(b.Message, tt.refused) {
				t.Errorf("%s: the error is %+v", tt.more, err)
			}
			continue
		}
		if got := strings.Join(r.Dropped, ","); err != nil || got != tt.dropped {
			t.Errorf("%s: dropped %q, error %v", tt.more, got, err)
		}
	}
	// Of the tools that are left, none was allowed.
	c := responsesRead(t, responsesBody(f+`,"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"web_search"}]}`))
	if c.Choice.Mode != None || len(c.Choice.Only) > 0 {
		t.Errorf("the choice is %+v", c.Choice)
	}
	// However many fields are advice, what is refused behind them is found.
	c = responsesRead(t, responsesBody(`"input":[`+strings.Repeat(`{"type":"web_search_call"},`, 2000)+`{"id":"msg_1"}]`))
	if err := (&Request{c: c, to: dialect.Chat}).applyRules(); err == nil {
		t.Error("a reference behind many calls is not refused")
	}
}

// TestReadResponsesBad goes through requests that are wrong.
func TestReadResponsesBad(t *testing.T) {
	item := func(it string) string { return `"input":[` + it + `]` }
	part := func(p string) string { return item(`{"role":"user","content":[` + p + `]}`) }
	for _, tt := range []struct{ more, field string }{
		{`"input":null`, "input"},
		{`"input":5`, "input"},
		{`"input":{}`, "input"},
		{item(`5`), "input[0]"},
		{item(`{}`), "input[0].role"},
		{item(`{"role":"robot","content":"x"}`), "input[0].role"},
		{item(`{"role":"user"}`), "input[0].content"},
		{item(`{"role":"user","content":5}`), "input[0].content"},
		{part(`{"text":"x"}`), "input[0].content[0].type"},
		{part(`{"type":"hologram"}`), "input[0].content[0].type"},
		{part(`{"type":"input_text"}`), "input[0].content[0].text"},
		{part(`{"type":"input_text","text":5}`), "input[0].content[0].text"},
		{part(`{"type":"refusal","refusal":"x"}`), "input[0].content[0]"},
		{part(`{"type":"input_image"}`), "input[0].content[0].image_url"},
		{part(`{"type":"input_image","image_url":{"url":"x"}}`), "input[0].content[0].image_url"},
		{part(`{"type":"input_image","image_url":"data:text/plain,x"}`), "input[0].content[0]"},
		{part(`{"type":"input_file","filename":"x"}`), "input[0].content[0].file_data"},
		{part(`{"type":"input_audio","input_audio":null}`), "input[0].content[0].input_audio.data"},
		{item(`{"role":"assistant","content":[{"type":"input_image","image_url":"https://x"}]}`), "input[0].content[0]"},
		{item(`{"role":"system","content":[{"type":"input_file","file_data":"QUJD"}]}`), "input[0].content[0]"},
		{item(`{"type":"function_call","name":"f","arguments":"{}"}`), "input[0].call_id"},
		{item(`{"type":"function_call","call_id":"c","arguments":"{}"}`), "input[0].name"},
		{item(`{"type":"function_call","call_id":"c","name":"f"}`), "input[0].arguments"},
		{item(`{"type":"function_call","call_id":"c","name":"f","arguments":{}}`), "input[0].arguments"},
		{item(`{"type":"custom_tool_call","call_id":"c","name":"f"}`), "input[0].input"},
		{item(`{"type":"function_call_output","output":"x"}`), "input[0].call_id"},
		{item(`{"type":"function_call_output","call_id":"c"}`), "input[0].output"},
		{item(`{"type":"function_call_output","call_id":"c","output":"x"}`), "input[0]"},
		{item(`{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"role":"user","content":"x"}`), ""},
		{item(`{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":[{"type":"input_audio","input_audio":{"data":"QUJD"}}]}`), "input[1].output[0]"},
		{item(`{"type":"reasoning","summary":"x"}`), "input[0].summary"},
		{`"max_output_tokens":0`, "max_output_tokens"},
		{`"max_output_tokens":1.5`, "max_output_tokens"},
		{`"temperature":"1"`, "temperature"},
		{`"truncation":"some"`, "truncation"},
		{`"metadata":[]`, "metadata"},
		{`"reasoning":"high"`, "reasoning"},
		{`"reasoning":{"effort":"huge"}`, "reasoning.effort"},
		{`"text":{"format":{"type":"xml"}}`, "text.format.type"},
		{`"text":{"format":{"type":"json_schema","name":"n"}}`, "text.format.schema"},
		{`"text":{"format":{"type":"json_schema","schema":{}}}`, "text.format.name"},
		{`"tools":{}`, "tools"},
		{`"tools":[{"name":"f"}]`, "tools[0].type"},
		{`"tools":[{"type":"function"}]`, "tools[0].name"},
		{`"tools":[{"type":"function","name":"f","parameters":"x"}]`, "tools[0].parameters"},
		{`"tools":[{"type":"namespace","tools":[]}]`, "tools[0].name"},
		{`"tool_choice":"always"`, "tool_choice"},
		{`"tool_choice":{"type":"function"}`, "tool_choice.name"},
		{`"tool_choice":{"type":"function","name":"f"}`, "tool_choice"},
		{`"tool_choice":{"type":"allowed_tools","mode":"none","tools":[]}`, "tool_choice.mode"},
		{`"tool_choice":{"type":"allowed_tools","mode":"auto"}`, "tool_choice.tools"},
		{`"tool_choice":{"name":"f"}`, "tool_choice.type"},
		{`"parallel_tool_calls":"no"`, "parallel_tool_calls"},
	} {
		_, err := responsesCall(responsesBody(tt.more))
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != tt.field || b.Message == "" {
			t.Errorf("%s: the error is %+v", tt.more, err)
		}
	}
	if _, err := responsesCall(`{"model":"m"}`); err == nil {
		t.Error("a request without input is read")
	}
}

// TestWriteResponses goes through what is written, one matter at a time.
func TestWriteResponses(t *testing.T) {
	yes := true
	long := strings.Repeat("k", 65)
	hashed := func(key string) string { return fmt.Sprintf("\"%x\"", sha256.Sum256([]byte(key))) }
	user := saidBy(User, "", textAt("Hi", ""))
	thought := func(up string) Part {
		return Part{Kind: Thought, Text: "hm", State: State{Maker: dialect.Responses, Upstream: up, Data: "gAAA", ID: "rs_1"}}
	}
	call := func(id string) Part {
		return Part{Kind: Call, Call: &ToolCall{ID: id, Name: "f", Arguments: `{"a": 1}`}}
	}
	result := func(id string, failed bool, parts ...Part) Part {
		return Part{Kind: Result, Result: &ToolResult{ID: id, Failed: failed, Parts: parts}}
	}
	const hi = `{"type":"message","role":"user","content":[{"type":"input_text","text":"Hi"}]}`
	const reasons = `{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"gAAA"}`
	const called = `{"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\": 1}"}`
	schema := []byte(`{"type":"object","properties":{"b":{"type":"string"}},"required":["b"],"additionalProperties":false}`)
	for _, tt := range []struct {
		name    string
		model   string
		c       Conversation
		want    map[string]string // members; "" for none
		dropped string
	}{
		{
			name: "the least",
			c:    Conversation{Turns: []Turn{user}},
			want: map[string]string{
				"model": `"upstream-model"`, "input": `[` + hi + `]`, "store": "false", "stream": "", "include": "", "reasoning": "",
				"instructions": "", "max_output_tokens": "", "tools": "", "tool_choice": "", "text": "",
			},
		},
		{
			name: "one instruction",
			c:    Conversation{System: []Part{textAt("", ""), textAt("be", "")}, Turns: []Turn{user}},
			want: map[string]string{"instructions": `"be"`, "input": `[` + hi + `]`},
		},
		{
			name: "several are an item, in the middle they are the developer's",
			c:    Conversation{System: []Part{textAt("a", ""), textAt("b", "")}, Turns: []Turn{user, saidBy(System, "", textAt("c", ""))}},
			want: map[string]string{"instructions": "", "input": `[{"type":"message","role":"system","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},` + hi + `,{"type":"message","role":"developer","content":[{"type":"input_text","text":"c"}]}]`},
		},
		{
			name: "instructions alone are input",
			c:    Conversation{System: []Part{textAt("a", "")}},
			want: map[string]string{"instructions": "", "input": `[{"type":"message","role":"system","content":[{"type":"input_text","text":"a"}]}]`},
		},
		{
			name: "a format of JSON is spoken of in the input",
			c:    Conversation{System: []Part{textAt("Use JSON", "")}, Turns: []Turn{user}, Format: Format{Kind: JSONFormat}},
			want: map[string]string{"instructions": "", "text": `{"format":{"type":"json_object"}}`, "input": `[{"type":"message","role":"system","content":[{"type":"input_text","text":"Use JSON"}]},` + hi + `]`},
		},
		{
			name: "the user's parts",
			c: Conversation{Turns: []Turn{saidBy(
				User, "", textAt("", ""), textAt("x", ""),
				Part{Kind: Image, Media: &Media{Type: "image/jpeg", Data: "QUJD", Detail: "low"}}, Part{Kind: Image, Media: &Media{URL: "https://x"}},
				Part{Kind: File, Media: &Media{Type: "application/pdf", Data: "QUJD"}}, Part{Kind: File, Media: &Media{Data: "QUJD", Name: "a.pdf"}},
				Part{Kind: File, Media: &Media{URL: "https://y"}}, Part{Kind: File, Media: &Media{Plain: "plain"}},
				Part{Kind: Audio, Media: &Media{Type: "audio/mpeg", Data: "QUJD"}},
			)}},
			want: map[string]string{"input": `[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"},` +
				`{"type":"input_image","image_url":"data:image/jpeg;base64,QUJD","detail":"low"},{"type":"input_image","image_url":"https://x"},` +
				`{"type":"input_file","filename":"document.pdf","file_data":"data:application/pdf;base64,QUJD"},{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,QUJD"},` +
				`{"type":"input_file","file_url":"https://y"},{"type":"input_text","text":"plain"},{"type":"input_audio","input_audio":{"data":"QUJD","format":"mp3"}}]}]`},
		},
		{
			name: "calls, results, reasoning that its maker may see",
			c: Conversation{Turns: []Turn{
				user, saidBy(Assistant, "", thought("up"), textAt("Yes", ""), Part{Kind: Refusal, Text: "No"}, thought("up"), call("c1"), call("a:b")),
				saidBy(User, "", result("c1", false, textAt("one", "")), result("a:b", true, textAt("two", ""), Part{Kind: Image, Media: &Media{URL: "https://x"}}), textAt("Hi", "")),
			}},
			want: map[string]string{"input": `[` + hi + `,` + reasons + `,{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Yes"},{"type":"refusal","refusal":"No"}]},` + reasons + `,` + called + `,` +
				strings.Replace(called, "c1", "fwid_YTpi", 1) + `,{"type":"function_call_output","call_id":"c1","output":"one"},` +
				`{"type":"function_call_output","call_id":"fwid_YTpi","output":[{"type":"input_text","text":"Error: "},{"type":"input_text","text":"two"},{"type":"input_image","image_url":"https://x"}]},` + hi + `]`},
		},
		{
			name: "reasoning of others, or with nothing behind it, goes",
			c: Conversation{Turns: []Turn{
				user, saidBy(
					Assistant, "", thought("other"), thought(""), Part{Kind: Thought, Text: "hm"}, Part{Kind: Thought, State: State{Maker: dialect.Messages, Upstream: "up", Data: "x"}},
					textAt("Yes", ""), thought("up"),
				), user,
			}},
			want: map[string]string{"input": `[` + hi + `,{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Yes"}]},` + hi + `]`},
		},
		{
			name: "results without words, results that failed, calls without arguments, tools with free text",
			c: Conversation{Turns: []Turn{
				user, saidBy(Assistant, "", Part{Kind: Call, Call: &ToolCall{ID: "c1", Name: "f"}}, call("c2"), Part{Kind: Call, Call: &ToolCall{ID: "c3", Name: "g", Arguments: "free", Custom: true}}),
				saidBy(User, "", result("c1", false), result("c2", true), result("c3", false, textAt("x", ""))),
			}},
			want: map[string]string{"input": `[` + hi + `,{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},` + strings.Replace(called, "c1", "c2", 1) +
				`,{"type":"custom_tool_call","call_id":"c3","name":"g","input":"free"},{"type":"function_call_output","call_id":"c1","output":""},` +
				`{"type":"function_call_output","call_id":"c2","output":"Error: "},{"type":"custom_tool_call_output","call_id":"c3","output":"x"}]`},
		},
		{
			name: "tools say that they are not strict",
			c: Conversation{Turns: []Turn{user}, Tools: []Tool{
				{Name: "z", Description: "d", Schema: schema, Strict: &yes},
				{Name: "a", Schema: []byte(`{"type":"object"}`)},
				{Name: "n"},
				{Name: "e", Schema: []byte(` { } `)},
				{Name: "p", Schema: []byte(`{"properties":{}}`)},
				{Name: "r", Schema: []byte(`{"$ref":"#/x"}`)},
				{Name: "a b", Schema: schema},
				{Name: "f", Space: "ns", Schema: schema},
				{Name: "c", Custom: true},
				{Name: "g", Custom: true, Grammar: []byte(`{"type":"grammar","grammar":{"syntax":"lark","definition":"x"}}`)},
				{Name: "h", Custom: true, Grammar: []byte(`{"type":"grammar","syntax":"regex","definition":"x"}`)},
			}, Serial: true, Choice: Choice{Mode: Auto}},
			want: map[string]string{
				"tools": `[{"type":"function","name":"z","description":"d","parameters":` + string(schema) + `,"strict":true},` +
					`{"type":"function","name":"a","parameters":{"properties":{},"type":"object"},"strict":false},` +
					`{"type":"function","name":"n","parameters":{"type":"object","properties":{}},"strict":false},` +
					`{"type":"function","name":"e","parameters":{"type":"object","properties":{}},"strict":false},` +
					`{"type":"function","name":"p","parameters":{"type":"object","properties":{}},"strict":false},` +
					`{"type":"function","name":"r","parameters":{"type":"object","$ref":"#/x"},"strict":false},` +
					`{"type":"function","name":"a_b_d2fab795","parameters":` + string(schema) + `,"strict":false},` +
					`{"type":"function","name":"ns_f","parameters":` + string(schema) + `,"strict":false},` +
					`{"type":"custom","name":"c"},{"type":"custom","name":"g","format":{"type":"grammar","syntax":"lark","definition":"x"}},` +
					`{"type":"custom","name":"h","format":{"type":"grammar","syntax":"regex","definition":"x"}}]`,
				"tool_choice": `"auto"`, "parallel_tool_calls": "false",
			},
		},
		{
			name: "no tools, no choice",
			c:    Conversation{Turns: []Turn{user}, Serial: true, Choice: Choice{Mode: Auto}},
			want: map[string]string{"tools": "", "tool_choice": "", "parallel_tool_calls": ""},
		},
		{
			name: "one tool is forced", c: Conversation{Turns: []Turn{user}, Tools: []Tool{{Name: "f"}, {Name: "g", Custom: true}}, Choice: Choice{Mode: Required, Only: []string{"g"}}},
			want: map[string]string{"tool_choice": `{"type":"custom","name":"g"}`},
		},
		{
			name: "some are allowed", c: Conversation{Turns: []Turn{user}, Tools: []Tool{{Name: "f"}, {Name: "g", Custom: true}}, Choice: Choice{Mode: Required, Only: []string{"g", "f"}}},
			want: map[string]string{"tool_choice": `{"type":"allowed_tools","mode":"required","tools":[{"type":"custom","name":"g"},{"type":"function","name":"f"}]}`},
		},
		{
			name: "one is allowed", c: Conversation{Turns: []Turn{user}, Tools: []Tool{{Name: "f"}}, Choice: Choice{Mode: Auto, Only: []string{"f"}}},
			want: map[string]string{"tool_choice": `{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}`},
		},
		{
			name: "formats", c: Conversation{From: dialect.Messages, Turns: []Turn{user}, Format: Format{Kind: SchemaFormat, Schema: schema}, Verbosity: "low"},
			want: map[string]string{"text": `{"format":{"type":"json_schema","name":"response","schema":` + string(schema) + `,"strict":true},"verbosity":"low"}`},
		},
		{
			name: "formats that OpenAI does not take as strict", c: Conversation{From: dialect.Gemini, Turns: []Turn{user}, Format: Format{Kind: SchemaFormat, Schema: []byte(`{"type":"object"}`)}},
			want: map[string]string{"text": `{"format":{"type":"json_schema","name":"response","schema":{"type":"object"},"strict":false}}`},
		},
		{
			name: "formats of chat are strict if it says so", c: Conversation{From: dialect.Chat, Turns: []Turn{user}, Format: Format{Kind: SchemaFormat, Name: "n", Description: "d", Schema: schema}},
			want: map[string]string{"text": `{"format":{"type":"json_schema","name":"n","description":"d","schema":` + string(schema) + `,"strict":false}}`},
		},
		{
			name: "effort", c: Conversation{Turns: []Turn{user}, Reasoning: Reasoning{Effort: "xhigh", Visible: true}, Stream: true},
			want: map[string]string{"reasoning": `{"effort":"xhigh","summary":"auto"}`, "include": `["reasoning.encrypted_content"]`, "stream": "true"},
		},
		{
			name: "budget", c: Conversation{Turns: []Turn{user}, Reasoning: Reasoning{Budget: 9000, Visible: true, Summary: "detailed"}},
			want: map[string]string{"reasoning": `{"effort":"medium","summary":"detailed"}`},
		},
		{
			name: "no effort", c: Conversation{Turns: []Turn{user}, Reasoning: Reasoning{Effort: "none"}},
			want: map[string]string{"reasoning": `{"effort":"none"}`, "include": ""},
		},
		{
			name: "reasoning that is kept by a client of a model that may not reason", c: Conversation{Turns: []Turn{user}, Reasoning: Reasoning{Sealed: true}},
			want: map[string]string{"reasoning": "", "include": ""},
		},
		{
			name: "reasoning that is kept", model: "gpt-5.2", c: Conversation{Turns: []Turn{user}, Reasoning: Reasoning{Sealed: true}},
			want: map[string]string{"reasoning": "", "include": `["reasoning.encrypted_content"]`},
		},
		{
			name: "numbers", model: "vendor/gpt-4.1-mini", c: Conversation{From: dialect.Messages, Turns: []Turn{user}, MaxTokens: 3, Temperature: "0.70", TopP: "1"},
			want:    map[string]string{"max_output_tokens": "16", "temperature": "0.70", "top_p": "1"},
			dropped: "max_tokens",
		},
		{
			name: "numbers that a reasoning model does not take", model: "gpt-5-mini", c: Conversation{From: dialect.Messages, Turns: []Turn{user}, MaxTokens: 300, Temperature: "1", TopP: "1"},
			want:    map[string]string{"max_output_tokens": "300", "temperature": "", "top_p": ""},
			dropped: "temperature,top_p",
		},
		{
			name: "what names the caller", c: Conversation{From: dialect.Messages, Turns: []Turn{user}, EndUser: `{"u":1}`, CacheKey: long, Tier: "standard_only", Metadata: []byte(`{"a":"b"}`)},
			want: map[string]string{
				"safety_identifier": hashed(`{"u":1}`), "prompt_cache_key": hashed(long),
				"service_tier": `"default"`, "metadata": `{"a":"b"}`,
			},
		},
		{
			name: "a tier of another service", c: Conversation{Turns: []Turn{user}, Tier: "strange"},
			want:    map[string]string{"service_tier": ""},
			dropped: "service_tier",
		},
		{
			name: "counting", c: Conversation{Counting: true, Stream: true, Turns: []Turn{user}, MaxTokens: 5, Temperature: "1", Tools: []Tool{{Name: "f"}}, Reasoning: Reasoning{Effort: "low"}, Tier: "flex", EndUser: "u"},
			want: map[string]string{
				"input": `[` + hi + `]`, "reasoning": `{"effort":"low"}`, "store": "", "stream": "", "max_output_tokens": "", "temperature": "",
				"include": "", "service_tier": "", "safety_identifier": "",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := responsesOptions()
			if tt.model != "" {
				o.Model = tt.model
			}
			if tt.c.Temperature != "" {
				tt.c.use(temperature, "temperature")
				tt.c.use(topP, "top_p")
			}
			if tt.c.Tier != "" {
				tt.c.use(serviceTier, "service_tier")
			}
			r, got := responsesWrite(t, &tt.c, o)
			for name, want := range tt.want {
				if string(got[name]) != want {
					t.Errorf("%s is\n%s\nnot\n%s", name, got[name], want)
				}
			}
			if dropped := strings.Join(r.Dropped, ","); dropped != tt.dropped {
				t.Errorf("dropped %s", dropped)
			}
		})
	}
}

// TestWriteResponsesRefuses: content is never left out in silence.
func TestWriteResponsesRefuses(t *testing.T) {
	at := func(p Part) Part { p.Field = "here"; return p }
	for _, turn := range []Turn{
		saidBy(Assistant, "", at(Part{Kind: Image, Media: &Media{URL: "https://x"}})),
		saidBy(User, "", at(Part{Kind: Video, Media: &Media{Data: "QUJD"}})),
		saidBy(User, "", at(Part{Kind: Audio, Media: &Media{Type: "audio/flac", Data: "QUJD"}})),
		saidBy(User, "", at(Part{Kind: Image, Media: &Media{ID: "file_1"}})),
	} {
		c := &Conversation{Turns: []Turn{turn}}
		_, err := c.Write(dialect.Responses, responsesOptions())
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != "here" {
			t.Errorf("%+v: the error is %+v", turn.Parts[0], err)
		}
	}
}

func TestTrap37_ReasoningToModelsThatDoNot(t *testing.T) {
	for model, want := range map[string]bool{"gpt-4o": false, "openai/gpt-4.1-mini": false, "gpt-5-chat-latest": false, "gpt-5.2": true, "o3": true, "my-model": true} {
		o := responsesOptions()
		o.Model = model
		c := &Conversation{From: dialect.Messages, Turns: []Turn{saidBy(User, "", textAt("Hi", ""))}, Reasoning: Reasoning{Effort: "high", Visible: true, Sealed: true, Field: "thinking"}}
		r, got := responsesWrite(t, c, o)
		if _, sent := got["reasoning"]; sent != want {
			t.Errorf("%s: %s", model, r.Body)
		}
		if _, sent := got["include"]; sent != want {
			t.Errorf("%s: %s", model, r.Body)
		}
		if named := strings.Join(r.Dropped, ","); (named == "thinking") == want {
			t.Errorf("%s: dropped %s", model, named)
		}
	}
}

func TestTrap34_ReasoningNeedsIdAndSeal(t *testing.T) {
	for _, st := range []State{{Maker: dialect.Responses, Upstream: "up", ID: "rs_1"}, {Maker: dialect.Responses, Upstream: "up", Data: "gAAA"}} {
		c := &Conversation{Turns: []Turn{saidBy(User, "", textAt("Hi", "")), saidBy(Assistant, "", Part{Kind: Thought, Text: "hm", State: st}, textAt("x", ""))}}
		if r, _ := responsesWrite(t, c, responsesOptions()); bytes.Contains(r.Body, []byte("reasoning")) {
			t.Errorf("half a reasoning item is sent: %s", r.Body)
		}
	}
	// Nulls in a reasoning item are nothing.
	responsesRead(t, `{"model":"m","input":[{"type":"reasoning","id":"rs_1","summary":null,"content":null,"encrypted_content":null,"status":null},{"role":"user","content":"x"}]}`)
}

// TestResponsesRoundTrip: what is read is written as it was, as far as it is known.
func TestResponsesRoundTrip(t *testing.T) {
	sealed := seal(&State{Maker: dialect.Responses, Upstream: "up", Data: "gAAA", ID: "rs_1"})
	body := `{"model":"upstream-model","instructions":"be","input":[` +
		`{"type":"message","role":"user","content":[{"type":"input_text","text":"Hi \"é\" \ud83d\ude00"},{"type":"input_image","image_url":"data:image/png;base64,QUJD","detail":"high"}]},` +
		`{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"` + sealed + `"},` +
		`{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Yes"}]},` +
		`{"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\": 1.0}"},` +
		`{"type":"function_call_output","call_id":"c1","output":"one"},` +
		`{"type":"message","role":"developer","content":[{"type":"input_text","text":"now"}]}],` +
		`"tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object","properties":{"z":{"default":1.50},"a":{}}},"strict":true},` +
		`{"type":"custom","name":"g","format":{"type":"grammar","syntax":"lark","definition":"x"}}],` +
		`"tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false,` +
		`"text":{"format":{"type":"json_schema","name":"n","description":"d","schema":{"type":"object"},"strict":true},"verbosity":"low"},` +
		`"reasoning":{"effort":"high","summary":"auto"},"max_output_tokens":64,"temperature":0.70,"top_p":1.0,` +
		`"include":["reasoning.encrypted_content"],"service_tier":"flex","metadata":{"a":"b"},` +
		`"safety_identifier":"s","prompt_cache_key":"k","store":false,"stream":true}`
	c := responsesRead(t, body)
	for range 2 { // a conversation may be written again
		r, err := c.Write(dialect.Responses, responsesOptions())
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(strings.Replace(body, sealed, "gAAA", 1), `\ud83d\ude00`, "😀", 1)
		if string(r.Body) != want {
			t.Errorf("written\n%s\nnot\n%s", r.Body, want)
		}
		if len(r.Dropped) > 0 {
			t.Errorf("dropped %v", r.Dropped)
		}
	}
}
