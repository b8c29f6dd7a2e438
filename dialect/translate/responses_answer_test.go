package translate

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// responsesAnswer makes ready for an answer of a Responses upstream to a client of
// Responses, which are never translated in earnest: here both sides show.
func responsesAnswer(t testing.TB, stream, events bool, more ...string) *Answer {
	t.Helper()
	body := responsesBody(strings.Join(append(more, fmt.Sprintf(`"stream":%v`, stream)), ","))
	r, err := responsesRead(t, body).Write(dialect.Responses, responsesOptions())
	if err != nil {
		t.Fatal(err)
	}
	return r.Answer(events)
}

// responsesEvents spells events with their names, as the service does.
func responsesEvents(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		var e struct{ Type string }
		json.Unmarshal([]byte(d), &e)
		b.WriteString("event: " + e.Type + "\ndata: " + d + "\n\n")
	}
	return b.String()
}

var responsesTokens = &usage.Tokens{Input: 200, CacheRead: 2000, CacheWrite: 400, Output: 90, Reasoning: 64, ReasoningKnown: true}

// responsesHear decodes a stream and returns the whole answer that it is.
func responsesHear(t testing.TB, stream string) (reply, error) {
	t.Helper()
	a := responsesAnswer(t, false, true)
	a.Events([]byte(stream))
	a.dec.end()
	g := a.enc.(*collector).g
	if a.Problem == nil && !g.ended {
		t.Fatalf("%s\nhas no end", stream)
	}
	return g.reply, a.Problem
}

const responsesUsage = `,"usage":{"input_tokens":18014,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":18011},"output_tokens":120,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":18134}`

// responsesObject is a response object.
func responsesObject(status, output, more string) string {
	return `{"id":"resp_01","object":"response","created_at":1790000000,"status":"` + status + `","model":"gpt-x","error":null,"incomplete_details":null,"output":[` + output + `]` + more + responsesUsage + `}`
}

const (
	rsItem  = `{"id":"rs_01","type":"reasoning","summary":[{"type":"summary_text","text":"short"},{"type":"summary_text","text":"er"}],"encrypted_content":"gAAA"}`
	msgItem = `{"id":"msg_01","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Hi you","annotations":[]}]}`
	fcItem  = `{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"{\"a\":1}","status":"completed"}`
	ctItem  = `{"id":"ctc_01","type":"custom_tool_call","call_id":"call_8","name":"g","input":"free\ntext","status":"completed"}`
)

// responsesFull is a stream with everything in it, by the grammar.
func responsesFull() []string {
	at := func(kind, id string, index int, more string) string {
		return fmt.Sprintf(`{"type":"response.%s","sequence_number":0,"item_id":%q,"output_index":%d,%s}`, kind, id, index, more)
	}
	item := func(kind string, index int, it string) string {
		return fmt.Sprintf(`{"type":"response.output_item.%s","sequence_number":0,"output_index":%d,"item":%s}`, kind, index, it)
	}
	whole := func(kind, status, output string) string {
		return `{"type":"response.` + kind + `","sequence_number":0,"response":` + responsesObject(status, output, "") + `}`
	}
	return []string{
		whole("created", "in_progress", ""), whole("in_progress", "in_progress", ""),
		item("added", 0, `{"id":"rs_01","type":"reasoning","summary":[]}`),
		at("reasoning_summary_part.added", "rs_01", 0, `"summary_index":0,"part":{"type":"summary_text","text":""}`),
		at("reasoning_summary_text.delta", "rs_01", 0, `"summary_index":0,"delta":"sho"`),
		at("reasoning_summary_text.delta", "rs_01", 0, `"summary_index":0,"delta":"rt"`),
		at("reasoning_summary_text.done", "rs_01", 0, `"summary_index":0,"text":"short"`),
		at("reasoning_summary_part.done", "rs_01", 0, `"summary_index":0,"part":{"type":"summary_text","text":"short"}`),
		at("reasoning_summary_part.added", "rs_01", 0, `"summary_index":1,"part":{"type":"summary_text","text":""}`),
		at("reasoning_summary_text.delta", "rs_01", 0, `"summary_index":1,"delta":"er"`),
		at("reasoning_summary_text.done", "rs_01", 0, `"summary_index":1,"text":"er"`),
		item("done", 0, rsItem),
		item("added", 1, `{"id":"msg_01","type":"message","role":"assistant","status":"in_progress","content":[]}`),
		at("content_part.added", "msg_01", 1, `"content_index":0,"part":{"type":"output_text","text":"","annotations":[]}`),
		at("output_text.delta", "msg_01", 1, `"content_index":0,"delta":"Hi","logprobs":[],"obfuscation":"Zm9v"`),
		at("output_text.delta", "msg_01", 1, `"content_index":0,"delta":" you","logprobs":[]`),
		at("output_text.done", "msg_01", 1, `"content_index":0,"text":"Hi you","logprobs":[]`),
		at("content_part.done", "msg_01", 1, `"content_index":0,"part":{"type":"output_text","text":"Hi you","annotations":[]}`),
		item("done", 1, msgItem),
		item("added", 2, `{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"","status":"in_progress"}`),
		item("added", 3, `{"id":"ctc_01","type":"custom_tool_call","call_id":"call_8","name":"g","input":"","status":"in_progress"}`),
		at("function_call_arguments.delta", "fc_01", 2, `"delta":"{\"a\":"`),
		at("custom_tool_call_input.delta", "ctc_01", 3, `"delta":"free\n"`),
		at("function_call_arguments.delta", "fc_01", 2, `"delta":"1}"`),
		at("custom_tool_call_input.delta", "ctc_01", 3, `"delta":"text"`),
		at("function_call_arguments.done", "fc_01", 2, `"name":"f","arguments":"{\"a\":1}"`),
		item("done", 2, fcItem),
		at("custom_tool_call_input.done", "ctc_01", 3, `"input":"free\ntext"`),
		item("done", 3, ctItem),
		whole("completed", "completed", rsItem+","+msgItem+","+fcItem+","+ctItem),
	}
}

var responsesFullReply = reply{
	id: "resp_01", model: "gpt-x", reason: Calls,
	parts: []Part{
		{Kind: Thought, Text: "short\n\ner", State: State{Maker: dialect.Responses, Data: "gAAA", ID: "rs_01"}},
		{Kind: Text, Text: "Hi you"},
		{Kind: Call, Call: &ToolCall{ID: "call_9", Name: "f", Arguments: `{"a":1}`}},
		{Kind: Call, Call: &ToolCall{ID: "call_8", Name: "g", Arguments: "free\ntext", Custom: true}},
	},
}

func sameReply(t testing.TB, what string, got, want reply) {
	t.Helper()
	show := func(r reply) string {
		return fmt.Sprintf("%s %s reason %d\n%s", r.id, r.model, r.reason, spelled(t, r.parts))
	}
	if g, w := show(got), show(want); g != w {
		t.Errorf("%s is heard as\n%s\nnot\n%s", what, g, w)
	}
}

// TestDecodeResponsesVariations: whatever servers leave out or add, the answer is
// the same.
func TestDecodeResponsesVariations(t *testing.T) {
	full := responsesFull()
	keep := func(not ...string) []string {
		return slices.DeleteFunc(slices.Clone(full), func(e string) bool {
			return slices.ContainsFunc(not, func(s string) bool { return strings.Contains(e, `"type":"response.`+s) })
		})
	}
	change := func(pattern, with string) []string {
		out := slices.Clone(full)
		for i := range out {
			out[i] = regexp.MustCompile(pattern).ReplaceAllString(out[i], with)
		}
		return out
	}
	unnamed := regexp.MustCompile(`(?m)^event: .*\n`).ReplaceAllString(responsesEvents(full...), "")
	n := 0
	for name, stream := range map[string]string{
		"as it should be":           responsesEvents(full...),
		"no names":                  unnamed,
		"CR LF":                     strings.ReplaceAll(responsesEvents(full...), "\n", "\r\n"),
		"only created and the last": responsesEvents(full[0], full[len(full)-1]),
		"only the last":             responsesEvents(full[len(full)-1]),
		"no pieces":                 responsesEvents(keep("output_text.delta", "reasoning_summary_text.delta", "function_call_arguments.delta", "custom_tool_call_input.delta")...),
		"no pieces, no texts":       responsesEvents(keep("output_text", "reasoning_summary", "function_call_arguments", "custom_tool_call_input", "content_part")...),
		"nothing is announced":      responsesEvents(keep("output_item.added", "content_part.added")...),
		"nothing is done":           responsesEvents(keep("output_item.done", "content_part.done", "output_text.done", "function_call_arguments.done")...),
		"no numbers":                responsesEvents(change(`"sequence_number":0,`, ``)...),
		"no indices of parts":       responsesEvents(change(`"content_index":0,`, ``)...),
		"no ids":                    responsesEvents(change(`"item_id":"\w+",`, ``)...),
		"nulls":                     responsesEvents(change(`"logprobs":\[\]`, `"logprobs":null,"text":null,"item":null,"part":null,"name":null`)...),
		"pings":                     strings.Join(strings.SplitAfter(responsesEvents(full...), "\n\n"), "event: ping\ndata: x\n\n: comment\n\ndata: {\"type\":\"ping\"}\n\n") + "data: [DONE]\n\n",
		"more after the last":       responsesEvents(append(slices.Clone(full), full[len(full)-1], full[14], `{"type":"error","message":"x"}`)...),
		"arguments are objects":     responsesEvents(change(`"arguments":"\{\\"a\\":1\}"`, `"arguments":{"a":1}`)...),
		"the same index for all":    responsesEvents(change(`"output_index":\d`, `"output_index":0`)...),
		"ever new ids": regexp.MustCompile(`"item_id":"\w+"`).ReplaceAllStringFunc(responsesEvents(full...), func(string) string {
			n++
			return fmt.Sprintf(`"item_id":"x%d"`, n)
		}),
		"the name comes with the arguments": responsesEvents(change(`"call_id":"call_9","name":"f","arguments":""`, `"call_id":"call_9","arguments":""`)...),
		"things that are not known":         strings.Replace(responsesEvents(full...), "event: response.output_item.added", "event: response.new\ndata: {\"type\":\"response.new\",\"output_index\":0,\"delta\":5}\n\nevent: response.output_item.added", 1),
	} {
		got, err := responsesHear(t, stream)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := responsesFullReply
		if name == "nothing is done" { // the seal comes when the thought is long over
			want.parts = append([]Part{{Kind: Thought, Text: "short\n\ner"}}, want.parts[1:]...)
		}
		if strings.HasPrefix(name, "the name") { // so the call begins later
			want.parts = slices.Clone(want.parts)
			slices.Reverse(want.parts[2:])
		}
		sameReply(t, name, got, want)
	}
	// The type only in the line of the name, as Copilot has it.
	bare := regexp.MustCompile(`data: \{"type":"[\w.]+",`).ReplaceAllString(responsesEvents(full...), "data: {")
	got, err := responsesHear(t, bare)
	if err != nil {
		t.Fatal(err)
	}
	sameReply(t, "without types", got, responsesFullReply)

	a := responsesAnswer(t, false, false)
	a.Whole([]byte(responsesObject("completed", rsItem+","+msgItem+","+fcItem+","+ctItem, "")))
	if a.Problem != nil {
		t.Fatal(a.Problem)
	}
	sameReply(t, "the whole", a.enc.(*collector).g.reply, responsesFullReply)
}

// TestDecodeResponsesWhole goes through whole answers.
func TestDecodeResponsesWhole(t *testing.T) {
	refusal := `{"id":"m","type":"message","content":[{"type":"output_text","text":"a"},{"type":"refusal","refusal":"No"},{"type":"output_text","text":"b"}]}`
	for _, tt := range []struct {
		body  string
		want  reply
		broke bool
	}{
		{body: responsesObject("completed", "", ""), want: reply{reason: Stop}},
		{body: responsesObject("completed", refusal, ""), want: reply{reason: Declined, parts: []Part{{Kind: Text, Text: "a"}, {Kind: Refusal, Text: "No"}, {Kind: Text, Text: "b"}}}},
		{body: responsesObject("incomplete", msgItem, `,"incomplete_details":{"reason":"max_output_tokens"}`), want: reply{reason: Length, parts: responsesFullReply.parts[1:2]}},
		{body: responsesObject("incomplete", fcItem, `,"incomplete_details":{"reason":"content_filter"}`), want: reply{reason: Filtered, parts: responsesFullReply.parts[2:3]}},
		{body: responsesObject("incomplete", "", ""), want: reply{reason: Length}},
		{
			body: responsesObject("completed", `{"type":"web_search_call","id":"ws"},{"type":"reasoning","id":"r","summary":[],"content":[{"type":"reasoning_text","text":"t"}]},null,`+msgItem, ""),
			want: reply{reason: Stop, parts: []Part{{Kind: Thought, Text: "t"}, {Kind: Text, Text: "Hi you"}}},
		},
		{ // of a summary and the content of reasoning one is enough
			body: responsesObject("completed", `{"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"s"}],"content":[{"type":"reasoning_text","text":"c"},{"type":"reasoning_text","text":"d"}]}`, ""),
			want: reply{reason: Stop, parts: []Part{{Kind: Thought, Text: "s"}}},
		},
		{ // ids that are missing or repeated
			body: responsesObject("completed", `{"type":"function_call","name":"f","arguments":"{}"},`+fcItem+`,`+fcItem, ""),
			want: reply{reason: Calls, parts: []Part{
				{Kind: Call, Call: &ToolCall{ID: "call_new1", Name: "f", Arguments: "{}"}},
				responsesFullReply.parts[2],
				{Kind: Call, Call: &ToolCall{ID: "call_new2", Name: "f", Arguments: `{"a":1}`}},
			}},
		},
		{ // arguments that are no JSON are the client's to judge
			body: responsesObject("completed", strings.Replace(fcItem, `{\"a\":1}`, `{\"a`, 1), ""),
			want: reply{reason: Calls, parts: []Part{{Kind: Call, Call: &ToolCall{ID: "call_9", Name: "f", Arguments: `{"a`}}}},
		},
		{body: responsesObject("failed", "", ""), broke: true},
		{body: responsesObject("cancelled", "", ""), broke: true},
		{body: responsesObject("in_progress", "", ""), broke: true},
		{body: responsesObject("completed", `{"type":"function_call","call_id":"c","arguments":"{}"}`, ""), broke: true},
		{body: responsesObject("completed", `{"type":"message","content":[{"type":5}]}`, ""), broke: true},
		{body: responsesObject("completed", strings.Repeat(fcItem+",", 512)+fcItem, ""), broke: true},
		{body: responsesObject("completed", strings.Repeat(`{"type":"x"},`, 4096)+`{"type":"x"}`, ""), broke: true},
		{body: `{"status":null}`, broke: true},
		{body: `{"error":{"message":"x"}}`, broke: true},
		{body: `{}`, broke: true},
		{body: `null`, broke: true},
		{body: `[]`, broke: true},
		{body: `<html>`, broke: true},
		{body: responsesObject("completed", "", "")[:40], broke: true},
		{body: responsesObject("completed", "", "") + "x", broke: true},
	} {
		a := responsesAnswer(t, false, false)
		a.Whole([]byte(tt.body))
		if tt.broke != (a.Problem != nil) {
			t.Errorf("%.300s: problem %v", tt.body, a.Problem)
		}
		if !tt.broke {
			tt.want.id, tt.want.model = "resp_01", "gpt-x"
			sameReply(t, tt.body, a.enc.(*collector).g.reply, tt.want)
		}
		if a.End(nil); tt.broke && len(a.Take()) > 0 {
			t.Errorf("%.300s: something is written for what broke", tt.body)
		}
	}
}

// TestDecodeResponsesBroken goes through streams that are no answers.
func TestDecodeResponsesBroken(t *testing.T) {
	full := responsesFull()
	for name, stream := range map[string]string{
		"nothing":               "",
		"cut":                   responsesEvents(full[:len(full)-1]...),
		"failed":                responsesEvents(append(slices.Clone(full[:5]), `{"type":"response.failed","response":`+responsesObject("failed", "", "")+`}`)...),
		"failed in its status":  responsesEvents(`{"type":"response.completed","response":` + responsesObject("failed", "", "") + `}`),
		"cancelled":             responsesEvents(`{"type":"response.cancelled","response":{}}`),
		"an error":              responsesEvents(full[0], `{"type":"error","code":"server_error","message":"x","param":null}`) + responsesEvents(full[len(full)-1]),
		"an error without type": responsesEvents(full[0]) + "data: {\"error\":{\"message\":\"x\"}}\n\n" + responsesEvents(full[len(full)-1]),
		"no JSON":               responsesEvents(full[0]) + "data: {\"type\":\n\n" + responsesEvents(full[len(full)-1]),
		"no object":             responsesEvents(full[0]) + "data: 5\n\n" + responsesEvents(full[len(full)-1]),
		"an item of no kind":    responsesEvents(full[0], `{"type":"response.output_item.added","output_index":0,"item":5}`),
		"an index of no kind":   responsesEvents(full[0], `{"type":"response.output_text.delta","output_index":"0","delta":"x"}`),
		"a call without a name": responsesEvents(full[0], `{"type":"response.function_call_arguments.delta","output_index":0,"delta":"x"}`, `{"type":"response.completed","response":{"status":"completed","output":[]}}`),
	} {
		a := responsesAnswer(t, true, true)
		a.Events([]byte(stream))
		a.End(nil)
		if a.Problem == nil {
			t.Errorf("%s: no problem is seen", name)
		}
		if strings.Contains(string(a.Take()), "response.completed") {
			t.Errorf("%s: the client is told that all is well", name)
		}
	}
}

// responsesWire is one event of a stream that a client gets.
type responsesWire struct {
	Type         string
	Sequence     *int   `json:"sequence_number"`
	ItemID       string `json:"item_id"`
	OutputIndex  *int   `json:"output_index"`
	ContentIndex *int   `json:"content_index"`
	SummaryIndex *int   `json:"summary_index"`
	Delta        *string
	Text         *string
	Refusal      *string
	Arguments    *string
	Input        *string
	Name         string
	Logprobs     []any
	Part         json.RawMessage
	Item         json.RawMessage
	Response     json.RawMessage
	Error        json.RawMessage
}

// responsesGrammar checks a stream by the grammar and the invariants of the API
// and returns the last event and the response in it.
func responsesGrammar(t testing.TB, stream string) (last responsesWire, response map[string]json.RawMessage) {
	t.Helper()
	if !strings.HasSuffix(stream, "\n\n") {
		t.Fatalf("the stream ends inside an event: %q", stream)
	}
	type open struct {
		id, kind, text string
		part           bool
		done           json.RawMessage
		parts          []json.RawMessage
	}
	var items []*open
	over := false
	for n, frame := range strings.Split(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("event %d: %s\n%s\nin\n%s", n, fmt.Sprintf(format, args...), frame, stream)
		}
		name, data, ok := strings.Cut(frame, "\ndata: ")
		var e responsesWire
		if err := json.Unmarshal([]byte(data), &e); err != nil || !ok {
			fail("is not an event: %v", err)
		}
		switch {
		case name != "event: "+e.Type:
			fail("the name is not the type")
		case e.Sequence == nil || *e.Sequence != n:
			fail("the number is wrong")
		case over && e.Type != "error":
			fail("comes after the last")
		case n == 0 && e.Type != "response.created" || n == 1 && e.Type != "response.in_progress":
			fail("is out of order")
		}
		last = e
		var it *open
		switch {
		case e.Type == "response.output_item.added":
			if e.OutputIndex == nil || *e.OutputIndex != len(items) {
				fail("the index is not the next")
			}
			var a struct{ ID, Type string }
			json.Unmarshal(e.Item, &a)
			for _, other := range items {
				if other.id == a.ID || other.done == nil && other.kind != "function_call" && other.kind != "custom_tool_call" {
					fail("another item is open or has the id")
				}
			}
			items = append(items, &open{id: a.ID, kind: a.Type})
			continue
		case e.OutputIndex != nil:
			if *e.OutputIndex >= len(items) {
				fail("nothing was announced")
			}
			if it = items[*e.OutputIndex]; it.done != nil || e.ItemID != "" && e.ItemID != it.id {
				fail("the item is done, or another")
			}
		}
		index := func(p *int) {
			if p == nil || *p != len(it.parts) {
				fail("the index of the part is wrong")
			}
		}
		text := func(p *string) {
			if p == nil || *p != it.text {
				fail("the text is not what the pieces were: %q", it.text)
			}
		}
		switch e.Type {
		case "response.created", "response.in_progress":
			response = responsesSkeleton(t, e.Response, "in_progress", "null")
			if string(response["output"]) != "[]" {
				fail("there is output already")
			}
		case "response.content_part.added", "response.reasoning_summary_part.added":
			if it.part {
				fail("a part is open")
			}
			it.part, it.text = true, ""
		case "response.output_text.delta", "response.refusal.delta", "response.reasoning_summary_text.delta":
			if !it.part {
				fail("no part was announced")
			}
			if it.kind == "message" {
				index(e.ContentIndex)
			} else {
				index(e.SummaryIndex)
			}
			if e.Delta == nil || *e.Delta == "" || e.Type == "response.output_text.delta" && e.Logprobs == nil {
				fail("a member is missing")
			}
			it.text += *e.Delta
		case "response.function_call_arguments.delta", "response.custom_tool_call_input.delta":
			it.text += *e.Delta
		case "response.output_text.done", "response.reasoning_summary_text.done":
			text(e.Text)
		case "response.refusal.done":
			text(e.Refusal)
		case "response.function_call_arguments.done":
			text(e.Arguments)
			if e.Name == "" {
				fail("the name is missing")
			}
		case "response.custom_tool_call_input.done":
			text(e.Input)
		case "response.content_part.done", "response.reasoning_summary_part.done":
			it.part = false
			var p struct{ Text, Refusal string }
			json.Unmarshal(e.Part, &p)
			text(ref(p.Text + p.Refusal))
			it.parts = append(it.parts, e.Part)
		case "response.output_item.done":
			var done struct {
				ID, Status       string
				Content, Summary []json.RawMessage
				Arguments, Input string
			}
			json.Unmarshal(e.Item, &done)
			if done.ID != it.id || it.part {
				fail("the item is another, or a part of it is open")
			}
			if parts := append(done.Content, done.Summary...); len(parts) != len(it.parts) || len(parts) > 0 && spelled(t, parts) != spelled(t, it.parts) {
				fail("the parts are not those that came")
			}
			if it.kind == "function_call" || it.kind == "custom_tool_call" {
				text(ref(done.Arguments + done.Input))
			}
			it.done = e.Item
		case "response.completed", "response.incomplete", "response.failed":
			over = true
			status := strings.TrimPrefix(e.Type, "response.")
			response = responsesSkeleton(t, e.Response, status, "")
			var output []json.RawMessage
			json.Unmarshal(response["output"], &output)
			if len(output) != len(items) {
				fail("the output is not what was announced")
			}
			for i, it := range items {
				if status != "failed" && string(it.done) != string(output[i]) {
					fail("item %d is not what was done:\n%s", i, it.done)
				}
			}
		case "error":
		default:
			fail("is not known")
		}
	}
	return last, response
}

func ref(s string) *string { return &s }

// responsesSkeleton checks that a response object lacks nothing.
func responsesSkeleton(t testing.TB, raw json.RawMessage, status, counts string) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	for _, name := range []string{
		"id", "object", "created_at", "completed_at", "status", "background", "error", "incomplete_details", "instructions", "max_output_tokens",
		"max_tool_calls", "metadata", "model", "output", "parallel_tool_calls", "previous_response_id", "prompt_cache_key", "reasoning",
		"safety_identifier", "service_tier", "store", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "usage", "user",
	} {
		if len(m[name]) == 0 {
			t.Errorf("%s is missing in %s", name, raw)
		}
	}
	if len(m) != 30 {
		t.Errorf("%d members: %s", len(m), raw)
	}
	if string(m["status"]) != `"`+status+`"` || string(m["object"]) != `"response"` || string(m["model"]) != `"m"` || !strings.HasPrefix(string(m["id"]), `"resp_`) {
		t.Errorf("the response is %s", raw)
	}
	if counts != "" && string(m["usage"]) != counts {
		t.Errorf("usage is %s", m["usage"])
	}
	return m
}

const responsesCounts = `{"input_tokens":2600,"input_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400},"output_tokens":90,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":2690}`

// TestResponsesStream: what is decoded and encoded again says the same, however
// its bytes come.
func TestResponsesStream(t *testing.T) {
	stream := responsesEvents(responsesFull()...)
	frames := strings.SplitAfter(stream, "\n\n")
	var first string
	for size := 1; size < len(frames); size++ {
		a := responsesAnswer(t, true, true)
		var out strings.Builder
		for chunk := range slices.Chunk(frames, size) {
			a.Events([]byte(strings.Join(chunk, "")))
			out.Write(a.Take())
		}
		a.End(responsesTokens)
		if a.Problem != nil {
			t.Fatal(a.Problem)
		}
		out.Write(a.Take())
		got := regexp.MustCompile(`"completed_at":\d+`).ReplaceAllString(out.String(), `"completed_at":0`)
		if first == "" {
			first = got
			last, response := responsesGrammar(t, got)
			if last.Type != "response.completed" || string(response["usage"]) != responsesCounts || string(response["id"]) != `"resp_01"` {
				t.Errorf("the end is %s", last.Response)
			}
		} else if got != first {
			t.Fatalf("by %d events at a time it is\n%s\nnot\n%s", size, got, first)
		}
	}
	// The envelope goes back to what it was made of.
	got, err := responsesHear(t, first)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := unseal(got.parts[0].State.Data)
	if !ok || st != (State{Maker: dialect.Responses, Upstream: "up", Data: "gAAA", ID: "rs_01"}) {
		t.Errorf("the envelope holds %+v", st)
	}
	got.parts[0].State, got.model = responsesFullReply.parts[0].State, "gpt-x"
	sameReply(t, "the stream", got, responsesFullReply)
}

// responsesEncode writes events for a client that wants a stream.
func responsesEncode(t testing.TB, events []Event, tokens *usage.Tokens, more ...string) string {
	t.Helper()
	a := responsesAnswer(t, true, true, more...)
	for i := range events {
		a.emit(&events[i])
	}
	a.enc.finish(tokens)
	return string(a.Take())
}

func say(kind EventKind, text string) Event { return Event{Kind: kind, Text: []byte(text)} }

// TestEncodeResponses goes through what can come, by the grammar.
func TestEncodeResponses(t *testing.T) {
	start := Event{Kind: Start, ID: "chatcmpl-1", Model: "other"}
	call := func(n int, id string) Event { return Event{Kind: CallStart, Call: n, ID: id, Name: "f"} }
	args := func(n int, text string) Event { return Event{Kind: CallPiece, Call: n, Text: []byte(text)} }
	end := func(n int) Event { return Event{Kind: CallEnd, Call: n} }
	finish := func(r Reason) Event { return Event{Kind: Finish, Reason: r} }
	sealed := State{Data: "sig"}
	for _, tt := range []struct {
		name   string
		events []Event
		last   string
		output string // without ids
		detail string
	}{
		{name: "nothing", events: []Event{start, finish(Stop)}, output: ``},
		{name: "not even a start", output: ``},
		{
			name: "text", events: []Event{start, say(TextPiece, "H\u00e9"), say(TextPiece, ""), say(TextPiece, "\"\n"), finish(Stop)},
			output: `message completed [output_text Hé"` + "\n" + `]`,
		},
		{
			name: "a character in pieces", events: []Event{start, say(TextPiece, "a\xf0\x9f"), say(TextPiece, "\x98"), say(TextPiece, "\x80b\xe2"), finish(Stop)},
			output: `message completed [output_text a😀b` + "\ufffd" + `]`,
		},
		{
			name:   "blocks are parts of one message, with something in between of two",
			events: []Event{start, say(TextPiece, "a"), {Kind: BlockEnd}, say(TextPiece, "b"), say(RefusalPiece, "No"), say(ThoughtPiece, "hm"), {Kind: BlockEnd}, {Kind: BlockEnd}, say(TextPiece, "c"), finish(Declined)},
			output: `message completed [output_text a, output_text b, refusal No]; reasoning [summary_text hm] fw1.n.dXA..; message completed [output_text c]`,
		},
		{
			name:   "thoughts with and without words are sealed",
			events: []Event{start, say(ThoughtPiece, "h"), say(ThoughtPiece, "m"), {Kind: Sealed, State: sealed}, {Kind: Sealed, State: sealed}, say(ThoughtPiece, "two"), say(TextPiece, "x"), {Kind: Sealed, State: sealed}, finish(Stop)},
			output: `reasoning [summary_text hm] fw1.r.dXA..c2ln; reasoning [] fw1.r.dXA..c2ln; reasoning [summary_text two] fw1.n.dXA..; message completed [output_text x]; reasoning [] fw1.r.dXA..c2ln`,
		},
		{
			name: "calls that overlap", events: []Event{start, say(TextPiece, "x"), call(0, "c0"), call(1, "c1"), args(1, `{"b`), args(0, `{"a":1}`), args(1, `":2}`), end(1), end(0), finish(Calls)},
			output: `message completed [output_text x]; function_call completed c0 f {"a":1}; function_call completed c1 f {"b":2}`,
		},
		{
			name: "calls without arguments, end or id", events: []Event{start, call(0, ""), end(0), call(5, "c5"), {Kind: CallStart, Call: 6, ID: "c6", Name: "g", Custom: true, Space: "ns"}, args(6, "free"), args(9, "x"), end(9), finish(Calls)},
			output: `function_call completed call_new1 f {}; function_call completed c5 f {}; custom_tool_call completed c6 g/ns free`,
		},
		{
			name: "what is sealed in a call stands before it", events: []Event{start, {Kind: CallStart, ID: "c0", Name: "f", State: sealed}, end(0), finish(Calls)},
			output: `reasoning [] fw1.r.dXA.YzA.c2ln; function_call completed c0 f {}`,
		},
		{
			name: "cut at the bound", events: []Event{start, say(TextPiece, "x"), call(0, "c0"), args(0, `{"a`), finish(Length)},
			last: "response.incomplete", detail: `{"reason":"max_output_tokens"}`,
			output: `message completed [output_text x]; function_call incomplete c0 f {"a`,
		},
		{
			name: "no room", events: []Event{start, say(TextPiece, "x"), finish(ContextFull)},
			last: "response.incomplete", detail: `{"reason":"max_output_tokens"}`, output: `message incomplete [output_text x]`,
		},
		{
			name: "filtered", events: []Event{start, finish(Filtered)},
			last: "response.incomplete", detail: `{"reason":"content_filter"}`,
		},
		{name: "stop sequence", events: []Event{start, say(TextPiece, "x"), finish(StopSequence)}, output: `message completed [output_text x]`},
		{name: "paused", events: []Event{start, finish(Paused)}},
		{name: "unknown", events: []Event{start, finish(Unknown)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			last, response := responsesGrammar(t, responsesEncode(t, tt.events, responsesTokens))
			want, detail := "response.completed", "null"
			if tt.last != "" {
				want, detail = tt.last, tt.detail
			}
			if last.Type != want || string(response["incomplete_details"]) != detail || string(response["usage"]) != responsesCounts {
				t.Errorf("it ends with %s %s", last.Type, last.Response)
			}
			if got := responsesOutput(t, response["output"]); got != tt.output {
				t.Errorf("output is\n%s\nnot\n%s", got, tt.output)
			}
			// The same answer as one object.
			a := responsesAnswer(t, false, true)
			for i := range tt.events {
				a.emit(&tt.events[i])
			}
			a.enc.finish(responsesTokens)
			m := responsesSkeleton(t, a.Take(), strings.TrimPrefix(want, "response."), responsesCounts)
			if got, want := responsesOutput(t, m["output"]), tt.output; got != want && !strings.Contains(tt.name, "overlap") {
				t.Errorf("the output of the whole is\n%s\nnot\n%s", got, want)
			}
		})
	}
}

// responsesOutput spells items in short.
func responsesOutput(t testing.TB, raw json.RawMessage) string {
	t.Helper()
	var items []struct {
		ID, Type, Status, Name, Namespace, Arguments, Input string
		CallID                                              string `json:"call_id"`
		Sealed                                              string `json:"encrypted_content"`
		Content, Summary                                    []struct{ Type, Text, Refusal string }
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	prefix := map[string]string{"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}
	var out []string
	for _, it := range items {
		if !strings.HasPrefix(it.ID, prefix[it.Type]) {
			t.Errorf("the id of a %s is %s", it.Type, it.ID)
		}
		s := it.Type
		if it.Status != "" {
			s += " " + it.Status
		}
		if it.CallID != "" {
			if s += " " + it.CallID + " " + it.Name; it.Namespace != "" {
				s += "/" + it.Namespace
			}
			s += " " + it.Arguments + it.Input
		} else {
			var parts []string
			for _, p := range append(it.Content, it.Summary...) {
				parts = append(parts, p.Type+" "+p.Text+p.Refusal)
			}
			s += " [" + strings.Join(parts, ", ") + "]"
		}
		if it.Sealed != "" {
			s += " " + it.Sealed
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// TestEncodeResponsesEcho: answers repeat what was asked.
func TestEncodeResponsesEcho(t *testing.T) {
	out := responsesEncode(
		t, nil, nil, `"instructions":"be","max_output_tokens":99,"metadata":{"a":"b"},"parallel_tool_calls":false,"temperature":0.70,"top_p":0.5`,
		`"tools":[{"type":"function","name":"f","parameters":{"x":1.50}},{"type":"web_search"}],"tool_choice":"required"`,
		`"reasoning":{"effort":"high","summary":null},"text":{"format":{"type":"json_object"}},"user":"u"`,
	)
	_, m := responsesGrammar(t, out)
	for name, want := range map[string]string{
		"instructions": `"be"`, "max_output_tokens": "99", "metadata": `{"a":"b"}`, "parallel_tool_calls": "false", "temperature": "0.70", "top_p": "0.5",
		"tools": `[{"type":"function","name":"f","parameters":{"x":1.50}},{"type":"web_search"}]`, "tool_choice": `"required"`,
		"reasoning": `{"effort":"high","summary":null}`, "text": `{"format":{"type":"json_object"},"verbosity":"medium"}`, "user": `"u"`,
		"usage": "null", "store": "false", "service_tier": `"default"`,
	} {
		if string(m[name]) != want {
			t.Errorf("%s is %s", name, m[name])
		}
	}
	_, m = responsesGrammar(t, responsesEncode(t, nil, &usage.Tokens{Tier: "flex"}))
	if string(m["service_tier"]) != `"flex"` || string(m["text"]) != `{"format":{"type":"text"},"verbosity":"medium"}` || string(m["reasoning"]) != `{"effort":null,"summary":null}` {
		t.Errorf("the least is %s %s %s", m["service_tier"], m["text"], m["reasoning"])
	}
}

// TestEncodeResponsesFails: a stream that breaks off says so in both ways that
// clients look for, and tells nobody that a call is ready.
func TestEncodeResponsesFails(t *testing.T) {
	for _, begun := range []bool{false, true} {
		a := responsesAnswer(t, true, true)
		if begun {
			a.Events([]byte(responsesEvents(responsesFull()[:22]...)))
		}
		a.Fail(&dialect.Error{Fault: dialect.BadUpstream, Message: "it broke"})
		out := string(a.Take())
		last, m := responsesGrammar(t, out)
		if last.Type != "error" || !strings.Contains(string(last.Error), "it broke") {
			t.Errorf("the end is %+v", last)
		}
		if string(m["status"]) != `"failed"` || string(m["error"]) != `{"code":"server_error","message":"it broke"}` {
			t.Errorf("the response is %s %s", m["status"], m["error"])
		}
		if begun != strings.Contains(string(m["output"]), `"status":"incomplete"`) || strings.Count(out, "event: response.output_item.done") > 2 {
			t.Errorf("the output is %s", m["output"])
		}
	}
	for fault, code := range map[dialect.Fault]string{dialect.RateLimited: "rate_limit_exceeded", dialect.QuotaSpent: "insufficient_quota", dialect.Internal: "server_error"} {
		if got := responsesCode(&dialect.Error{Fault: fault}); got != code {
			t.Errorf("the code is %s", got)
		}
	}
	// A call that cannot be read is a failure of the model.
	events := []Event{{Kind: Start}, {Kind: CallStart, ID: "c", Name: "f"}, {Kind: Finish, Reason: BadCall}}
	last, m := responsesGrammar(t, responsesEncode(t, events, responsesTokens))
	if last.Type != "error" || string(m["status"]) != `"failed"` || string(m["usage"]) != responsesCounts {
		t.Errorf("a bad call ends in %s %s", last.Type, m["status"])
	}
	a := responsesAnswer(t, false, true)
	for i := range events {
		a.emit(&events[i])
	}
	a.enc.finish(responsesTokens)
	if m := responsesSkeleton(t, a.Take(), "failed", responsesCounts); string(m["error"]) == "null" {
		t.Error("a bad call has no error")
	}
}

func TestTrap33_StateGoesBackToItsMaker(t *testing.T) {
	for _, up := range []string{"up", "other"} {
		sealed := seal(&State{Maker: dialect.Responses, Upstream: "up", Data: "gAAA", ID: "rs_1"})
		c := responsesRead(t, `{"model":"m","input":[{"type":"reasoning","id":"rs_x","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"`+sealed+`"},{"role":"assistant","content":"x"}]}`)
		o := responsesOptions()
		o.Upstream = up
		r, _ := responsesWrite(t, c, o)
		if own := strings.Contains(string(r.Body), `"id":"rs_1"`) && strings.Contains(string(r.Body), `"encrypted_content":"gAAA"`); own != (up == "up") {
			t.Errorf("%s gets %s", up, r.Body)
		}
		if up == "other" && (strings.Contains(string(r.Body), "hm") || strings.Contains(string(r.Body), "reasoning\"")) {
			t.Errorf("%s gets %s", up, r.Body)
		}
	}
}

// The traps that the grammar covers, one example each.

func TestTrap38_FailureIsNoEmptyTurn(t *testing.T) { TestEncodeResponsesFails(t) }

func TestTrap44_PartsAreAnnounced(t *testing.T) {
	responsesGrammar(t, responsesEncode(t, []Event{{Kind: Start}, say(ThoughtPiece, "a"), say(TextPiece, "b"), say(RefusalPiece, "c"), {Kind: Finish}}, nil))
}

func TestTrap45_ItemIdsAreOfTheirKind(t *testing.T) {
	out := responsesEncode(t, []Event{{Kind: Start, ID: "chatcmpl-77"}, say(TextPiece, "b"), {Kind: CallStart, ID: "c", Name: "f"}, {Kind: Finish}}, nil)
	if _, m := responsesGrammar(t, out); string(m["id"]) != `"resp_77"` || strings.Contains(out, "chatcmpl") {
		t.Errorf("the id is %s", m["id"])
	}
}

func TestTrap46_NothingIsMissing(t *testing.T) {
	_, m := responsesGrammar(t, responsesEncode(t, []Event{{Kind: Start}, {Kind: Finish}}, &usage.Tokens{}))
	if string(m["usage"]) != `{"input_tokens":0,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}` {
		t.Errorf("usage is %s", m["usage"])
	}
}

func TestTrap47_EveryItemHasItsIndex(t *testing.T) {
	events := []Event{{Kind: Start}, say(TextPiece, "b")}
	for i := range 3 {
		events = append(events, Event{Kind: CallStart, Call: i, ID: fmt.Sprint("c", i), Name: "f"})
	}
	_, m := responsesGrammar(t, responsesEncode(t, append(events, Event{Kind: Finish, Reason: Calls}), nil))
	if n := strings.Count(string(m["output"]), `"status"`); n != 4 {
		t.Errorf("%d items: %s", n, m["output"])
	}
}

func TestTrap48_TruncationIsIncomplete(t *testing.T) {
	last, _ := responsesGrammar(t, responsesEncode(t, []Event{{Kind: Start}, say(TextPiece, "b"), {Kind: Finish, Reason: Length}}, nil))
	if last.Type != "response.incomplete" {
		t.Errorf("the end is %s", last.Type)
	}
}

func TestTrap59_AddressesOfAnyKindAreKept(t *testing.T) {
	c := responsesRead(t, `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"gs://a/b.png"}]}]}`)
	if r, _ := responsesWrite(t, c, responsesOptions()); !strings.Contains(string(r.Body), "gs://a/b.png") {
		t.Errorf("written %s", r.Body)
	}
}

// codexBody is like what Codex sends in its second turn: 40 kB, tools in
// namespaces, tools of the service, items replayed.
func codexBody() string {
	var b strings.Builder
	b.WriteString(`{"model":"m","stream":true,"store":false,"include":["reasoning.encrypted_content"],"reasoning":{"effort":"medium","summary":"auto"},"prompt_cache_key":"0199-aa","client_metadata":{"originator":"codex_exec"},"parallel_tool_calls":true,"tool_choice":"auto","text":{"verbosity":"low"},"instructions":"","tools":[`)
	for i := range 12 {
		fmt.Fprintf(&b, `{"type":"function","name":"tool_%d","description":%q,"strict":false,"parameters":{"$schema":"x","type":"object","properties":{"cmd":{"type":"array","items":{"type":"string"}}},"required":["cmd"],"additionalProperties":false}},`, i, strings.Repeat("what it is for ", 100))
	}
	b.WriteString(`{"type":"custom","name":"apply_patch","description":"d","format":{"type":"grammar","syntax":"lark","definition":"start: x"}},`)
	b.WriteString(`{"type":"namespace","name":"mcp__files","description":"d","tools":[{"type":"function","name":"read","description":"d","strict":false,"parameters":{"type":"object","properties":{}}}]},`)
	b.WriteString(`{"type":"web_search","external_web_access":false}],"input":[`)
	fmt.Fprintf(&b, `{"type":"message","role":"developer","content":[{"type":"input_text","text":%q}]},`, strings.Repeat("instructions ", 1500))
	b.WriteString(`{"type":"message","role":"user","content":[{"type":"input_text","text":"<environment/>"}]},{"type":"message","role":"user","content":[{"type":"input_text","text":"List files"}]},`)
	b.WriteString(`{"type":"reasoning","id":"rs_1","summary":[],"content":null,"encrypted_content":"gAAAA"},`)
	b.WriteString(`{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"I look."}],"phase":"commentary"},`)
	b.WriteString(`{"type":"function_call","id":"fc_1","name":"tool_0","arguments":"{\"cmd\":[\"ls\"]}","call_id":"call_1"},{"type":"function_call","name":"read","namespace":"mcp__files","arguments":"{}","call_id":"call_2"},`)
	b.WriteString(`{"type":"custom_tool_call","name":"apply_patch","input":"*** Begin","call_id":"call_3","status":"completed"},{"type":"web_search_call","status":"completed","action":{"type":"search"}},`)
	b.WriteString(`{"type":"function_call_output","call_id":"call_1","output":"a.txt"},{"type":"function_call_output","call_id":"call_2","output":[{"type":"input_text","text":"b"}]},{"type":"custom_tool_call_output","call_id":"call_3","output":"ok"}]}`)
	return b.String()
}

// TestResponsesCodex: what Codex always sends never fails, whoever serves it.
func TestResponsesCodex(t *testing.T) {
	c := responsesRead(t, codexBody())
	if len(c.System) != 1 || len(c.Turns) != 4 || len(c.Tools) != 14 || !c.Reasoning.Sealed {
		t.Errorf("%d instructions, %d turns, %d tools", len(c.System), len(c.Turns), len(c.Tools))
	}
	for _, to := range []dialect.Dialect{dialect.Chat, dialect.Responses, dialect.Messages, dialect.Gemini} {
		r := &Request{c: c, to: to, o: *responsesOptions()}
		if err := r.applyRules(); err != nil {
			t.Errorf("%s: %v", dialectNames[to], err)
		}
		if !slices.Contains(r.Dropped, "client_metadata") || !slices.Contains(r.Dropped, "tools[14]") {
			t.Errorf("%s: dropped %v", dialectNames[to], r.Dropped)
		}
	}
	r, got := responsesWrite(t, c, responsesOptions())
	if r.names.tool("mcp__files_read") != (toolName{"mcp__files", "read", false}) || strings.Count(string(got["tools"]), `"type":"function","name"`) != 13 {
		t.Errorf("tools are %s", got["tools"])
	}
	// The namespace comes back with the call.
	a := r.Answer(true)
	a.Events([]byte(responsesEvents(`{"type":"response.completed","response":` + responsesObject("completed", strings.Replace(fcItem, `"f"`, `"mcp__files_read"`, 1), "") + `}`)))
	a.End(nil)
	_, m := responsesGrammar(t, string(a.Take()))
	if out := responsesOutput(t, m["output"]); out != `function_call completed call_9 read/mcp__files {"a":1}` {
		t.Errorf("the call is %s", out)
	}
}

func FuzzReadResponses(f *testing.F) {
	f.Add(codexBody())
	f.Add(`{"model":"m","input":[{"id":"x"},{"role":"user","content":[{"type":"input_image","image_url":"data:;base64,"}]},null]}`)
	f.Add(`{"model":"m","input":"\ud800","text":{"format":{"type":"json_schema","name":"é","schema":{"a":[1,2]}}},"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]},"tools":[{"type":"function","name":"f"}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		if !json.Valid([]byte(body)) {
			return
		}
		c, err := responsesCall(body)
		if err != nil {
			return
		}
		r, err := c.Write(dialect.Responses, responsesOptions())
		if err != nil {
			return
		}
		if !json.Valid(r.Body) || len(r.Body) > 8*len(body)+4096 {
			t.Errorf("%d bytes: %s", len(r.Body), r.Body)
		}
		a := r.Answer(true)
		a.End(nil)
		a.Take()
	})
}

func FuzzDecodeResponses(f *testing.F) {
	f.Add(responsesEvents(responsesFull()...))
	f.Add(responsesEvents(responsesFull()[29]))
	f.Add("data: {\"type\":\"response.output_text.delta\",\"delta\":\"\\ud800\xff\"}\n\ndata: {\"type\":\"response.completed\",\"response\":null}\n\n")
	f.Fuzz(func(t *testing.T, stream string) {
		a := responsesAnswer(t, true, true)
		a.Events([]byte(stream))
		a.End(responsesTokens)
		if a.Problem != nil {
			a.Fail(&dialect.Error{Message: "it broke"})
		}
		out := a.Take()
		if len(out) > 64*len(stream)+16<<10 {
			t.Fatalf("%d bytes of %d", len(out), len(stream))
		}
		responsesGrammar(t, string(out))

		whole := responsesAnswer(t, false, false)
		whole.Whole([]byte(stream))
		whole.End(nil)
		if out := whole.Take(); len(out) > 0 && !json.Valid(out) {
			t.Errorf("%q", out)
		}
	})
}

func BenchmarkTranslateResponsesRequest(b *testing.B) {
	var items strings.Builder
	for i := range 100 {
		text := strings.Repeat("a line of what was said, \\n and \\\"more\\\" ", 15)
		fmt.Fprintf(&items, `{"role":"user","content":"%s"},{"type":"function_call","call_id":"c%d","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c%d","output":"%s"},`, text, i, i, text)
	}
	body := strings.Replace(codexBody(), `"input":[`, `"input":[`+items.String(), 1)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := responsesCall(body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(dialect.Responses, &Options{Model: "m"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTranslateResponsesChunk(b *testing.B) {
	full := responsesFull()
	a := responsesAnswer(b, true, true)
	a.Events([]byte(responsesEvents(full[:14]...)))
	a.Take()
	chunk := []byte(responsesEvents(full[14]))
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		a.Events(chunk)
		a.Take()
	}
}
