package provider

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floway/floway/dialect"
)

func newDemo(t testing.TB, c Config) Upstream {
	t.Helper()
	kind, ok := Lookup("demo")
	if !ok {
		t.Fatal("there is no provider demo")
	}
	u, err := kind.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// demoRequestTo makes a request as the relay does: path and query are those of
// the client, the address is the upstream's.
func demoRequestTo(t testing.TB, ctx context.Context, u Upstream, method, path string, body io.Reader) *http.Request {
	t.Helper()
	path, query, _ := strings.Cut(path, "?")
	call := dialect.Find(method, path)
	if call.Verdict != dialect.Found {
		t.Fatalf("%s %s is no path of ours", method, path)
	}
	at := *u.Address(&call, call.Model)
	at.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, at.String(), body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

type demoResult struct {
	op          dialect.Operation
	status      int
	header      http.Header
	contentType string
	body        string
}

// askDemo posts a request and reads the whole answer.
func askDemo(t testing.TB, path, body string) demoResult {
	t.Helper()
	u := newDemo(t, Config{})
	req := demoRequestTo(t, t.Context(), u, "POST", path, strings.NewReader(body))
	res, err := u.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.ContentLength >= 0 && res.ContentLength != int64(len(got)) {
		t.Errorf("the answer has %d bytes and says %d", len(got), res.ContentLength)
	}
	path, _, _ = strings.Cut(path, "?")
	return demoResult{
		op: dialect.Find("POST", path).Op, status: res.StatusCode,
		header: res.Header, contentType: res.Header.Get("Content-Type"), body: string(got),
	}
}

// object decodes the answer, which must be one JSON object.
func (r demoResult) object(t testing.TB) any {
	t.Helper()
	return decodeJSON(t, r.body)
}

func decodeJSON(t testing.TB, s string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

// at returns what stands in v at a path such as choices.0.text; absent says that
// nothing does.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			inner, ok := in[name]
			if !ok {
				return absent
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(in) {
				return absent
			}
			v = in[i]
		default:
			return absent
		}
	}
	return v
}

const absent = "(absent)"

// expect compares what stands at paths with values, all in JSON.
func expect(t testing.TB, v any, want map[string]string) {
	t.Helper()
	for path, w := range want {
		if w == absent {
			if got := at(v, path); got != absent {
				t.Errorf("%s is %v, want it absent", path, got)
			}
			continue
		}
		if got := string(encode(at(v, path))); got != w {
			t.Errorf("%s is %s, want %s", path, got, w)
		}
	}
}

type sse struct {
	name string
	data string
	json any // nil for [DONE]
}

// events splits a stream, which must be whole events of at most a name and one
// line of data each.
func (r demoResult) events(t testing.TB) (list []sse) {
	t.Helper()
	if r.contentType != "text/event-stream" {
		t.Fatalf("the stream is of type %s: %s", r.contentType, r.body)
	}
	blocks := strings.SplitAfter(r.body, "\n\n")
	if blocks[len(blocks)-1] != "" {
		t.Fatal("the last event is not whole")
	}
	for _, b := range blocks[:len(blocks)-1] {
		var e sse
		lines := strings.Split(strings.TrimSuffix(b, "\n\n"), "\n")
		if name, ok := strings.CutPrefix(lines[0], "event: "); ok {
			e.name, lines = name, lines[1:]
		}
		data, ok := strings.CutPrefix(lines[0], "data: ")
		if !ok || len(lines) != 1 {
			t.Fatalf("this is no event: %q", b)
		}
		if e.data = data; data != "[DONE]" {
			e.json = decodeJSON(t, data)
		}
		list = append(list, e)
	}
	return list
}

func names(events []sse) (list []string) {
	for _, e := range events {
		if len(list) == 0 || list[len(list)-1] != e.name {
			list = append(list, e.name)
		}
	}
	return list
}

const (
	demoText      = "This is demo-small, the offline model that comes with floway. You said: "
	demoTextWords = 12
)

// demoCalls are requests with the same meaning: a system prompt of two words and
// a turn of the user of three.
var demoCalls = []struct {
	name, plainPath, streamPath, body, stream string
	text                                      []string // where the text stands in a plain answer and in an event
	promptWords                               int64
}{
	{
		"chat", "/v1/chat/completions", "/v1/chat/completions",
		`{"model":"demo-small","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Good morning, demo"}]}]%s}`,
		`,"stream":true,"stream_options":{"include_usage":true}`,
		[]string{"choices.0.message.content", "choices.0.delta.content"},
		5,
	},
	{
		"completions", "/v1/completions", "/v1/completions",
		`{"model":"demo-small","prompt":"Good morning, demo","max_tokens":100%s}`,
		`,"stream":true,"stream_options":{"include_usage":true}`,
		[]string{"choices.0.text", "choices.0.text"},
		3,
	},
	{
		"responses", "/v1/responses", "/v1/responses",
		`{"model":"demo-small","instructions":"Be brief.","input":"Good morning, demo"%s}`, `,"stream":true`,
		[]string{"output.0.content.0.text", "delta"},
		5,
	},
	{
		"messages", "/v1/messages", "/v1/messages",
		`{"model":"demo-small","max_tokens":100,"system":[{"type":"text","text":"Be brief."}],"messages":[{"role":"user","content":"Good morning, demo"}]%s}`,
		`,"stream":true`,
		[]string{"content.0.text", "delta.text"},
		5,
	},
	{
		"gemini", "/v1beta/models/demo-small:generateContent", "/v1beta/models/demo-small:streamGenerateContent?alt=sse",
		`{"systemInstruction":{"parts":[{"text":"Be brief."}]},"contents":[{"role":"user","parts":[{"text":"Good morning, demo"}]}]%s}`, ``,
		[]string{"candidates.0.content.parts.0.text", "candidates.0.content.parts.0.text"},
		5,
	},
}

// A plain answer and a stream say the same and cost the same, and floway's own
// meter reads from both what was used.
func TestDemoSaysTheSamePlainAndStreamed(t *testing.T) {
	want := demoText + "Good morning, demo"
	for _, c := range demoCalls {
		t.Run(c.name, func(t *testing.T) {
			plain := askDemo(t, c.plainPath, fmt.Sprintf(c.body, ""))
			if plain.status != 200 || plain.contentType != "application/json" {
				t.Fatalf("%d %s: %s", plain.status, plain.contentType, plain.body)
			}
			if got := at(plain.object(t), c.text[0]); got != want {
				t.Errorf("the plain answer says %v", got)
			}
			streamed := askDemo(t, c.streamPath, fmt.Sprintf(c.body, c.stream))
			var said strings.Builder
			for _, e := range streamed.events(t) {
				if e.name == "" || e.name == "content_block_delta" || e.name == "response.output_text.delta" {
					if piece, ok := at(e.json, c.text[1]).(string); ok && piece != absent {
						said.WriteString(piece)
					}
				}
			}
			if said.String() != want {
				t.Errorf("the stream says %s", said.String())
			}
			for _, r := range []demoResult{plain, streamed} {
				a := meter(t, r)
				if got := a.Tokens(); !a.Reported || got.Input != c.promptWords || got.Output != demoTextWords+3 || got.Anomaly != "" {
					t.Errorf("the meter read %+v", got)
				}
				if !a.Finished || !a.Content || a.Failed || a.Model != "demo-small" || a.ID == "" {
					t.Errorf("the meter saw finished %t, content %t, failed %t, model %q, id %q", a.Finished, a.Content, a.Failed, a.Model, a.ID)
				}
			}
		})
	}
}

// meter reads an answer as the relay does.
func meter(t testing.TB, r demoResult) *dialect.Answer {
	t.Helper()
	var a dialect.Answer
	stream := r.contentType == "text/event-stream"
	a.Reset(r.op, stream, false)
	if !stream {
		a.Feed([]byte(r.body))
		return &a
	}
	if _, used := a.Split([]byte(r.body), false); used != len(r.body) {
		t.Errorf("the meter left %d bytes of the stream", len(r.body)-used)
	}
	return &a
}

func TestDemoAnswersAreDeterministic(t *testing.T) {
	for _, c := range demoCalls {
		body := fmt.Sprintf(c.body, c.stream)
		one, two := askDemo(t, c.streamPath, body), askDemo(t, c.streamPath, body)
		if one.body != two.body {
			t.Errorf("%s: two answers to one request differ", c.name)
		}
		id := func(r demoResult) string { return r.header.Get("X-Request-Id") + r.header.Get("Request-Id") }
		if id(one) == "" || id(one) != id(two) {
			t.Errorf("%s: the request ids are %q and %q", c.name, id(one), id(two))
		}
		other := askDemo(t, c.streamPath, strings.Replace(body, "morning", "evening", 1))
		if id(other) == id(one) {
			t.Errorf("%s: another request has the same id", c.name)
		}
	}
	if id := askDemo(t, "/v1/messages", `{}`).header.Get("Request-Id"); !strings.HasPrefix(id, "req_") {
		t.Errorf("Anthropic's header is %q", id)
	}
}

func TestDemoChatStream(t *testing.T) {
	const body = `{"model":"demo-small","messages":[{"role":"user","content":"hi"}],"stream":true%s}`
	events := askDemo(t, "/v1/chat/completions", fmt.Sprintf(body, `,"stream_options":{"include_usage":true}`)).events(t)
	n := len(events)
	expect(t, events[0].json, map[string]string{
		"object": `"chat.completion.chunk"`, "created": "1790000000", "model": `"demo-small"`, "usage": "null",
		"choices.0.index": "0", "choices.0.delta.role": `"assistant"`, "choices.0.delta.content": `""`, "choices.0.finish_reason": "null",
	})
	expect(t, events[n-3].json, map[string]string{"choices.0.delta": "{}", "choices.0.finish_reason": `"stop"`, "usage": "null"})
	expect(t, events[n-2].json, map[string]string{
		"choices": "[]", "usage.prompt_tokens": "1", "usage.completion_tokens": "13", "usage.total_tokens": "14",
		"usage.prompt_tokens_details.cached_tokens": "0",
	})
	if events[n-1].data != "[DONE]" {
		t.Errorf("the stream ends with %s", events[n-1].data)
	}
	for _, e := range events[:n-1] {
		expect(t, e.json, map[string]string{"id": string(encode(at(events[0].json, "id")))})
		if e.name != "" {
			t.Errorf("a chunk has the name %s", e.name)
		}
	}
	// Who does not ask for usage gets none.
	events = askDemo(t, "/v1/chat/completions", fmt.Sprintf(body, "")).events(t)
	if len(events) != n-1 {
		t.Errorf("without include_usage there are %d events, with it %d", len(events), n)
	}
	for _, e := range events[:n-2] {
		expect(t, e.json, map[string]string{"usage": absent})
	}
}

func TestDemoChatPlain(t *testing.T) {
	r := askDemo(t, "/v1/chat/completions", `{"model":"demo-large","messages":[{"role":"user","content":"a < b & \"c\""}]}`)
	expect(t, r.object(t), map[string]string{
		"object": `"chat.completion"`, "model": `"demo-large"`, "choices.0.finish_reason": `"stop"`,
		"choices.0.message.role":    `"assistant"`,
		"choices.0.message.content": `"This is demo-large, the offline model that comes with floway. You said: a < b & \"c\""`,
		"choices.0.message.refusal": "null", "choices.0.logprobs": "null", "choices.1": absent,
		"usage.completion_tokens_details.reasoning_tokens": "0",
	})
	if strings.Contains(r.body, `\u003c`) {
		t.Error("the answer is escaped as if for HTML")
	}
}

func TestDemoCompletions(t *testing.T) {
	// Each prompt has its choice, and 16 tokens are the default.
	r := askDemo(t, "/v1/completions", `{"model":"demo-small","prompt":["one","a b c d e f g h"]}`)
	expect(t, r.object(t), map[string]string{
		"object":         `"text_completion"`,
		"choices.0.text": `"` + demoText + `one"`, "choices.0.finish_reason": `"stop"`,
		"choices.1.text": `"` + demoText + `a b c d "`, "choices.1.finish_reason": `"length"`, "choices.1.index": "1",
		"usage.prompt_tokens": "9", "usage.completion_tokens": "29",
	})
	for _, prompt := range []string{`[1,2]`, `[[1,2]]`, `["1 2"]`} {
		r := askDemo(t, "/v1/completions", `{"model":"demo-small","prompt":`+prompt+`}`)
		expect(t, r.object(t), map[string]string{"choices.0.text": `"` + demoText + `1 2"`, "usage.prompt_tokens": "2"})
	}
}

func TestDemoResponsesPlain(t *testing.T) {
	r := askDemo(t, "/v1/responses", `{"model":"demo-small","previous_response_id":"resp_1","max_output_tokens":50,
		"input":[{"role":"user","content":[{"type":"input_text","text":"first words"}]},
		{"type":"message","role":"assistant","content":[{"type":"output_text","text":"answer"}]},
		{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
		{"type":"function_call_output","call_id":"c","output":"two words"}]}`)
	expect(t, r.object(t), map[string]string{
		"object": `"response"`, "status": `"completed"`, "error": "null", "incomplete_details": "null", "metadata": "{}",
		"text.format.type": `"text"`, "parallel_tool_calls": "true", "tools": "[]", "tool_choice": `"auto"`,
		"previous_response_id": `"resp_1"`, "max_output_tokens": "50", "store": "false", "reasoning.effort": "null",
		"output.0.type": `"message"`, "output.0.role": `"assistant"`, "output.0.status": `"completed"`,
		"output.0.content.0.type": `"output_text"`, "output.0.content.0.annotations": "[]",
		"output.0.content.0.text":                      `"` + demoText + `first words"`,
		"usage.input_tokens":                           "5",
		"usage.input_tokens_details.cached_tokens":     "0",
		"usage.output_tokens_details.reasoning_tokens": "0", "usage.total_tokens": "19",
	})
}

func TestDemoResponsesStream(t *testing.T) {
	events := askDemo(t, "/v1/responses", `{"model":"demo-small","input":"hi","stream":true}`).events(t)
	grammar := []string{
		"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
		"response.output_text.delta", "response.output_text.done", "response.content_part.done",
		"response.output_item.done", "response.completed",
	}
	if got := names(events); !slices.Equal(got, grammar) {
		t.Errorf("the events are %v", got)
	}
	for i, e := range events {
		expect(t, e.json, map[string]string{"type": string(encode(e.name)), "sequence_number": strconv.Itoa(i)})
	}
	end := events[len(events)-1].json
	item := string(encode(at(end, "response.output.0.id")))
	if !strings.HasPrefix(item, `"msg_`) {
		t.Errorf("the item is called %s", item)
	}
	expect(t, events[0].json, map[string]string{"response.status": `"in_progress"`, "response.output": "[]", "response.usage": "null"})
	expect(t, events[2].json, map[string]string{"output_index": "0", "item.id": item, "item.status": `"in_progress"`, "item.content": "[]"})
	expect(t, events[3].json, map[string]string{"item_id": item, "output_index": "0", "content_index": "0", "part.text": `""`})
	expect(t, events[4].json, map[string]string{"item_id": item, "output_index": "0", "content_index": "0", "delta": `"This "`, "logprobs": "[]"})
	n := len(events)
	expect(t, events[n-4].json, map[string]string{"item_id": item, "text": `"` + demoText + `hi"`})
	expect(t, events[n-3].json, map[string]string{"item_id": item, "part.type": `"output_text"`, "part.text": `"` + demoText + `hi"`})
	expect(t, events[n-2].json, map[string]string{"item": string(encode(at(end, "response.output.0")))})
	expect(t, end, map[string]string{"response.status": `"completed"`, "response.usage.output_tokens": "13"})
}

func TestDemoMessages(t *testing.T) {
	const body = `{"model":"demo-small","max_tokens":%d,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]%s}`
	r := askDemo(t, "/v1/messages", fmt.Sprintf(body, 100, ""))
	expect(t, r.object(t), map[string]string{
		"type": `"message"`, "role": `"assistant"`, "stop_reason": `"end_turn"`, "stop_sequence": "null",
		"content.0.type": `"text"`, "usage.input_tokens": "1", "usage.output_tokens": "13", "usage.cache_read_input_tokens": "0",
	})
	events := askDemo(t, "/v1/messages", fmt.Sprintf(body, 100, `,"stream":true`)).events(t)
	grammar := []string{
		"message_start", "ping", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
	}
	if got := names(events); !slices.Equal(got, grammar) {
		t.Errorf("the events are %v", got)
	}
	for _, e := range events {
		expect(t, e.json, map[string]string{"type": string(encode(e.name))})
	}
	expect(t, events[0].json, map[string]string{
		"message.content": "[]", "message.stop_reason": "null", "message.usage.input_tokens": "1", "message.usage.output_tokens": "0",
	})
	expect(t, events[2].json, map[string]string{"index": "0", "content_block": `{"text":"","type":"text"}`})
	expect(t, events[3].json, map[string]string{"index": "0", "delta": `{"text":"This ","type":"text_delta"}`})
	expect(t, events[len(events)-2].json, map[string]string{
		"delta.stop_reason": `"end_turn"`, "usage.input_tokens": "1", "usage.output_tokens": "13",
	})
	// max_tokens 0 is allowed and gives no block.
	expect(t, askDemo(t, "/v1/messages", fmt.Sprintf(body, 0, "")).object(t), map[string]string{
		"content": "[]", "stop_reason": `"max_tokens"`, "usage.output_tokens": "0",
	})
	events = askDemo(t, "/v1/messages", fmt.Sprintf(body, 0, `,"stream":true`)).events(t)
	if got := names(events); !slices.Equal(got, []string{"message_start", "ping", "message_delta", "message_stop"}) {
		t.Errorf("without a word the events are %v", got)
	}
}

func TestDemoGeminiStream(t *testing.T) {
	const body = `{"contents":[{"parts":[{"text":"hi"}]}]}`
	events := askDemo(t, "/v1beta/models/demo-small:streamGenerateContent?alt=sse", body).events(t)
	if len(events) != demoTextWords+1 {
		t.Fatalf("there are %d events", len(events))
	}
	for i, e := range events {
		finish := absent
		if i == len(events)-1 {
			finish = `"STOP"`
		}
		expect(t, e.json, map[string]string{
			"candidates.0.content.role": `"model"`, "candidates.0.index": "0", "candidates.0.finishReason": finish,
			"usageMetadata.promptTokenCount": "1", "usageMetadata.candidatesTokenCount": strconv.Itoa(i + 1),
			"usageMetadata.totalTokenCount": strconv.Itoa(i + 2), "modelVersion": `"demo-small"`,
		})
		if e.name != "" {
			t.Errorf("an event has the name %s, which Google's SDK would skip", e.name)
		}
	}
	// Without alt=sse the stream is one array of the same objects.
	r := askDemo(t, "/v1beta/models/demo-small:streamGenerateContent", body)
	array, ok := r.object(t).([]any)
	if !ok || r.contentType != "application/json" || len(array) != len(events) {
		t.Fatalf("%s: %s", r.contentType, r.body)
	}
	for i := range array {
		if string(encode(array[i])) != string(encode(events[i].json)) {
			t.Errorf("element %d is %v", i, array[i])
		}
	}
}

func TestDemoGeminiTakesSnakeCase(t *testing.T) {
	r := askDemo(t, "/v1beta/models/demo-small:generateContent", `{
		"system_instruction" : {"parts":[{"text":"Be brief."}]},
		"contents":[{"role":"user","parts":[{"text":"say \"a_b\": \"c_d\""}]}],
		"generation_config":{"max_output_tokens": 14}}`)
	expect(t, r.object(t), map[string]string{
		"candidates.0.content.parts.0.text": `"` + demoText + `say \"a_b\": "`,
		"candidates.0.finishReason":         `"MAX_TOKENS"`,
		"usageMetadata.promptTokenCount":    "5",
	})
	r = askDemo(t, "/v1beta/models/demo-small:generateContent", `{"contents":[{"parts":[{"text":"a_b"},{"text":"c_d"}]}]}`)
	expect(t, r.object(t), map[string]string{"candidates.0.content.parts.0.text": `"` + demoText + `a_b c_d"`})
}

func TestDemoCounts(t *testing.T) {
	for _, c := range []struct{ path, body, want string }{
		{"/v1/messages/count_tokens", `{"model":"demo-small","system":"Be brief.","messages":[{"role":"user","content":"one two three"}]}`, `{"input_tokens":5}`},
		{"/v1/responses/input_tokens", `{"model":"demo-small","instructions":"Be brief.","input":"one two three"}`, `{"input_tokens":5,"object":"response.input_tokens"}`},
		{"/v1beta/models/demo-small:countTokens", `{"contents":[{"parts":[{"text":"one two three"}]}]}`, `{"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}],"totalTokens":3}`},
		{
			"/v1beta/models/demo-small:countTokens", `{"generateContentRequest":{"model":"models/x","systemInstruction":{"parts":[{"text":"Be brief."}]},"contents":[{"parts":[{"text":"one two three"}]}]}}`,
			`{"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}],"totalTokens":5}`,
		},
	} {
		if r := askDemo(t, c.path, c.body); r.status != 200 || r.body != c.want {
			t.Errorf("%s: %d %s", c.path, r.status, r.body)
		}
	}
	r := askDemo(t, "/v1/responses/compact", `{"model":"demo-small","input":"one two three"}`)
	expect(t, r.object(t), map[string]string{
		"object": `"response.compaction"`, "output.0.type": `"compaction"`, "usage.input_tokens": "3", "usage.output_tokens": "1",
	})
}

// A limit cuts the text and is named as the reason, in the dialect's words.
func TestDemoKeepsToTheLimit(t *testing.T) {
	for _, c := range []struct{ path, body, at, want string }{
		{"/v1/chat/completions", `{"model":"demo-small","max_tokens":3,"messages":[{"role":"user","content":"hi"}]}`, "choices.0.finish_reason", `"length"`},
		{"/v1/chat/completions", `{"model":"demo-small","max_completion_tokens":3,"messages":[{"role":"user","content":"hi"}]}`, "choices.0.message.content", `"This is demo-small, "`},
		{"/v1/responses", `{"model":"demo-small","max_output_tokens":3,"input":"hi"}`, "incomplete_details", `{"reason":"max_output_tokens"}`},
		{"/v1/responses", `{"model":"demo-small","max_output_tokens":3,"input":"hi"}`, "output.0.status", `"incomplete"`},
		{"/v1/messages", `{"model":"demo-small","max_tokens":3,"messages":[{"role":"user","content":"hi"}]}`, "stop_reason", `"max_tokens"`},
		{"/v1beta/models/demo-small:generateContent", `{"generationConfig":{"maxOutputTokens":3},"contents":[{"parts":[{"text":"hi"}]}]}`, "candidates.0.finishReason", `"MAX_TOKENS"`},
	} {
		r := askDemo(t, c.path, c.body)
		expect(t, r.object(t), map[string]string{c.at: c.want})
		a := meter(t, r)
		if a.Tokens().Output != 3 {
			t.Errorf("%s: %d tokens", c.path, a.Tokens().Output)
		}
	}
	events := askDemo(t, "/v1/responses", `{"model":"demo-small","max_output_tokens":3,"input":"hi","stream":true}`).events(t)
	end := events[len(events)-1]
	if end.name != "response.incomplete" {
		t.Errorf("the stream ends with %s", end.name)
	}
	expect(t, end.json, map[string]string{"response.status": `"incomplete"`, "response.usage.output_tokens": "3"})
}

func TestDemoCallsForcedTools(t *testing.T) {
	const (
		chat      = `{"model":"demo-small","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"custom","custom":{"name":"x"}},{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}],"tool_choice":%s`
		responses = `{"model":"demo-small","input":"hi","tools":[{"type":"web_search"},{"type":"function","name":"f"},{"type":"function","name":"g"}],"tool_choice":%s`
		messages  = `{"model":"demo-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f"},{"type":"custom","name":"g"}],"tool_choice":%s`
		gemini    = `{"contents":[{"parts":[{"text":"hi"}]}],"tools":[{"googleSearch":{}},{"functionDeclarations":[{"name":"f"},{"name":"g"}]}],"toolConfig":{"functionCallingConfig":%s}`

		geminiPath = "/v1beta/models/demo-small:generateContent"
	)
	for _, c := range []struct{ path, body, choice, at, want string }{
		{"/v1/chat/completions", chat, `"required"`, "choices.0.message.tool_calls.0.function", `{"arguments":"{}","name":"f"}`},
		{"/v1/chat/completions", chat, `"required"`, "choices.0.finish_reason", `"tool_calls"`},
		{"/v1/chat/completions", chat, `{"type":"function","function":{"name":"g"}}`, "choices.0.message.tool_calls.0.function.name", `"g"`},
		{"/v1/chat/completions", chat, `{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"g"}}]}}`, "choices.0.message.tool_calls.0.function.name", `"g"`},
		{"/v1/chat/completions", chat, `"auto"`, "choices.0.message.tool_calls", absent},
		{"/v1/chat/completions", chat, `"none"`, "choices.0.message.tool_calls", absent},
		{"/v1/chat/completions", chat, `null`, "choices.0.message.tool_calls", absent},
		{"/v1/responses", responses, `"required"`, "output.0.name", `"f"`},
		{"/v1/responses", responses, `{"type":"function","name":"g"}`, "output.0.name", `"g"`},
		{"/v1/responses", responses, `{"type":"function","name":"g"}`, "output.0.arguments", `"{}"`},
		{"/v1/responses", responses, `{"type":"function","name":"g"}`, "status", `"completed"`},
		{"/v1/responses", responses, `{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"g"}]}`, "output.0.name", `"g"`},
		{"/v1/messages", messages, `{"type":"any"}`, "content.0.name", `"f"`},
		{"/v1/messages", messages, `{"type":"any"}`, "content.0.input", `{}`},
		{"/v1/messages", messages, `{"type":"tool","name":"g"}`, "content.0.name", `"g"`},
		{"/v1/messages", messages, `{"type":"tool","name":"g"}`, "stop_reason", `"tool_use"`},
		{"/v1/messages", messages, `{"type":"auto"}`, "content.0.type", `"text"`},
		{geminiPath, gemini, `{"mode":"ANY"}`, "candidates.0.content.parts.0.functionCall", `{"args":{},"name":"f"}`},
		{geminiPath, gemini, `{"mode":"ANY","allowedFunctionNames":["g"]}`, "candidates.0.content.parts.0.functionCall.name", `"g"`},
		{geminiPath, gemini, `{"mode":"ANY"}`, "candidates.0.finishReason", `"STOP"`},
		{geminiPath, gemini, `{"mode":"AUTO"}`, "candidates.0.content.parts.0.functionCall", absent},
	} {
		r := askDemo(t, c.path, fmt.Sprintf(c.body, c.choice)+"}")
		if r.status != 200 {
			t.Errorf("%s %s: %s", c.path, c.choice, r.body)
			continue
		}
		expect(t, r.object(t), map[string]string{c.at: c.want})
	}
	for _, c := range []struct{ path, body, choice string }{
		{"/v1/chat/completions", chat, `{"type":"function","function":{"name":"h"}}`},
		{"/v1/responses", responses, `{"type":"function","name":"web_search"}`},
		{"/v1/messages", messages, `{"type":"tool","name":"web_search"}`},
		{geminiPath, gemini, `{"mode":"ANY","allowedFunctionNames":["h"]}`},
	} {
		if r := askDemo(t, c.path, fmt.Sprintf(c.body, c.choice)+"}"); r.status != 400 {
			t.Errorf("%s %s: %d %s", c.path, c.choice, r.status, r.body)
		}
	}

	events := askDemo(t, "/v1/chat/completions", fmt.Sprintf(chat, `"required"`)+`,"stream":true}`).events(t)
	if len(events) != 5 {
		t.Fatalf("%v", events)
	}
	expect(t, events[1].json, map[string]string{"choices.0.delta.tool_calls.0.index": "0", "choices.0.delta.tool_calls.0.function": `{"arguments":"","name":"f"}`})
	expect(t, events[2].json, map[string]string{"choices.0.delta.tool_calls": `[{"function":{"arguments":"{}"},"index":0}]`})
	expect(t, events[3].json, map[string]string{"choices.0.finish_reason": `"tool_calls"`})

	events = askDemo(t, "/v1/responses", fmt.Sprintf(responses, `"required"`)+`,"stream":true}`).events(t)
	if got := names(events); !slices.Equal(got, []string{
		"response.created", "response.in_progress", "response.output_item.added",
		"response.function_call_arguments.delta", "response.function_call_arguments.done",
		"response.output_item.done", "response.completed",
	}) {
		t.Errorf("the events are %v", got)
	}
	expect(t, events[2].json, map[string]string{"item.arguments": `""`, "item.name": `"f"`})
	expect(t, events[6].json, map[string]string{"response.output.0": string(encode(at(events[5].json, "item")))})

	events = askDemo(t, "/v1/messages", fmt.Sprintf(messages, `{"type":"any"}`)+`,"stream":true}`).events(t)
	expect(t, events[2].json, map[string]string{"content_block.input": "{}", "content_block.name": `"f"`})
	expect(t, events[3].json, map[string]string{"delta": `{"partial_json":"{}","type":"input_json_delta"}`})

	events = askDemo(t, strings.Replace(geminiPath, "generate", "streamGenerate", 1)+"?alt=sse", fmt.Sprintf(gemini, `{"mode":"ANY"}`)+`}`).events(t)
	if len(events) != 1 {
		t.Fatalf("%v", events)
	}
	expect(t, events[0].json, map[string]string{"candidates.0.finishReason": `"STOP"`, "usageMetadata.candidatesTokenCount": "2"})
}

func TestDemoEmbeddings(t *testing.T) {
	const body = `{"model":"demo-small","input":["the red apple","the green apple","quite another thing"],"dimensions":64,"encoding_format":%q}`
	floats := askDemo(t, "/v1/embeddings", fmt.Sprintf(body, "float"))
	packed := askDemo(t, "/v1/embeddings", fmt.Sprintf(body, "base64"))
	expect(t, floats.object(t), map[string]string{
		"object": `"list"`, "data.0.object": `"embedding"`, "data.1.index": "1", "data.3": absent,
		"usage": `{"prompt_tokens":9,"total_tokens":9}`,
	})
	var vectors [3][]float64
	for i := range vectors {
		for _, v := range at(floats.object(t), fmt.Sprintf("data.%d.embedding", i)).([]any) {
			vectors[i] = append(vectors[i], v.(float64))
		}
		if l := dot(vectors[i], vectors[i]); len(vectors[i]) != 64 || math.Abs(l-1) > 1e-6 {
			t.Errorf("vector %d has %d numbers and the square %v", i, len(vectors[i]), l)
		}
		raw, err := base64.StdEncoding.DecodeString(at(packed.object(t), fmt.Sprintf("data.%d.embedding", i)).(string))
		if err != nil || len(raw) != 4*64 {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		for j, v := range vectors[i] {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*j:])); got != float32(v) {
				t.Fatalf("number %d of vector %d is %v in base64 and %v in digits", j, i, got, v)
			}
		}
	}
	if near, far := dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2]); near <= far {
		t.Errorf("texts with common words are no closer (%v) than others (%v)", near, far)
	}
	if a := meter(t, floats); a.Tokens().Input != 9 || !a.Reported {
		t.Errorf("the meter read %+v", a.Tokens())
	}
	// Words that cancel each other out, and none at all, have a direction too.
	for _, text := range []string{" ", "\u00a0"} {
		if v := embed(text, 3); v[0] != 1 {
			t.Errorf("%q is at %v", text, v)
		}
	}

	one := askDemo(t, "/v1beta/models/demo-small:embedContent", `{"content":{"parts":[{"text":"the red apple"}]},"outputDimensionality":64}`)
	two := askDemo(t, "/v1beta/models/demo-small:batchEmbedContents", `{"requests":[{"model":"models/demo-small","content":{"parts":[{"text":"the red apple"}]},"output_dimensionality":64},{"content":{"parts":[{"text":"x"}]}}]}`)
	want := string(encode(at(floats.object(t), "data.0.embedding")))
	expect(t, one.object(t), map[string]string{"embedding.values": want})
	expect(t, two.object(t), map[string]string{"embeddings.0.values": want, "embeddings.2": absent})
	if n := len(at(two.object(t), "embeddings.1.values").([]any)); n != demoDimensions {
		t.Errorf("by default a vector has %d numbers", n)
	}
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// What the user said last is said back, a bounded part of it.
func TestDemoEcho(t *testing.T) {
	long := strings.Repeat("ü", 1000)
	for said, want := range map[string]string{
		"a\n\t b  ": "a b",
		"":          "nothing.",
		long:        strings.Repeat("ü", 200) + "…",
		"x" + long:  "x" + strings.Repeat("ü", 199) + "…",
	} {
		if got := echo(said); got != want {
			t.Errorf("%.20q is said back as %q", said, got)
		}
	}
	r := askDemo(t, "/v1/messages", `{"model":"demo-small","max_tokens":99,"messages":[
		{"role":"user","content":"first"},{"role":"assistant","content":"second"},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"third"}]},{"type":"image","source":{"type":"base64","data":"AAAA"}},{"type":"text","text":"fourth"}]}]}`)
	expect(t, r.object(t), map[string]string{"content.0.text": `"` + demoText + `third fourth"`, "usage.input_tokens": "4"})
}

// Whatever is wrong with a request is said in its dialect.
func TestDemoRefusals(t *testing.T) {
	u := newDemo(t, Config{})
	deep := strings.Repeat("[", 20_000)
	for _, c := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"/v1/chat/completions", `{"model":"gpt-x","messages":[{"role":"user","content":"hi"}]}`, 404, "no model"},
		{"/v1/completions", `{"model":"demo-","prompt":"x"}`, 404, "no model"},
		{"/v1/embeddings", `{"model":"demo-huge","input":"x"}`, 404, "no model"},
		{"/v1/responses", `{"model":"gpt-x","input":"hi"}`, 404, "no model"},
		{"/v1/responses/input_tokens", `{"model":"gpt-x","input":"hi"}`, 404, "no model"},
		{"/v1/messages", `{"model":"claude-x","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`, 404, "no model"},
		{"/v1/messages/count_tokens", `{"model":"claude-x","messages":[{"role":"user","content":"hi"}]}`, 404, "no model"},
		{"/v1beta/models/gemini-x:generateContent", `{}`, 404, "no model"},
		{"/v1beta/models/a/b:streamGenerateContent", `{}`, 404, "no model"},
		{"/v1beta/models/gemini-x:countTokens", `{}`, 404, "no model"},
		{"/v1beta/models/gemini-x:embedContent", `{}`, 404, "no model"},

		{"/v1/chat/completions", ``, 400, "not valid JSON"},
		{"/v1/chat/completions", `{"model":"demo-small"`, 400, "not valid JSON"},
		{"/v1/chat/completions", `{"model":"demo-small"} x`, 400, "not valid JSON"},
		{"/v1/chat/completions", `[]`, 400, "must be a JSON object"},
		{"/v1/chat/completions", `null`, 400, "model"},
		{"/v1/chat/completions", `{}`, 400, "model"},
		{"/v1/chat/completions", `{"model":5}`, 400, "model: a number"},
		{"/v1/chat/completions", `{"model":"demo-small"}`, 400, "messages: at least one"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":"hi"}`, 400, "messages: a string"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[5]}`, 400, "number"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":5}]}`, 400, "content"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":[{"text":true}]}]}`, 400, "content"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":` + deep + `}]}`, 400, "not valid JSON"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"},{"role":"chief","content":"x"}]}`, 400, `messages[1].role: "chief"`},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"}],"max_tokens":0}`, 400, "max_tokens"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"}],"max_completion_tokens":-1}`, 400, "max_completion_tokens"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"}],"n":2}`, 400, "one choice"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"}],"stream":"yes"}`, 400, "stream: a string"},
		{"/v1/chat/completions", `{"model":"demo-small","messages":[{"role":"user","content":"x"}],"tool_choice":5}`, 400, "number"},
		{"/v1/completions", `{"model":"demo-small"}`, 400, "prompt"},
		{"/v1/completions", `{"model":"demo-small","prompt":{}}`, 400, "input must be"},
		{"/v1/completions", `{"model":"demo-small","prompt":["a",5]}`, 400, "input must be"},
		{"/v1/completions", `{"model":"demo-small","prompt":[[5,"a"]]}`, 400, "input must be"},
		{"/v1/completions", `{"model":"demo-small","prompt":[` + strings.Repeat(`"a",`, demoMaxPrompts) + `"a"]}`, 400, "at most"},
		{"/v1/embeddings", `{"model":"demo-small","input":[]}`, 400, "a text is missing"},
		{"/v1/embeddings", `{"model":"demo-small","input":["a",""]}`, 400, "a text is empty"},
		{"/v1/embeddings", `{"model":"demo-small","input":"a","dimensions":0}`, 400, "dimensions"},
		{"/v1/embeddings", `{"model":"demo-small","input":"a","dimensions":3073}`, 400, "dimensions"},
		{"/v1/embeddings", `{"model":"demo-small","input":"a","encoding_format":"hex"}`, 400, "encoding_format"},
		{"/v1/embeddings", `{"model":"demo-small","input":[` + strings.Repeat(`"a",`, demoMaxTexts) + `"a"]}`, 400, "at most"},
		{"/v1/embeddings", `{"model":"demo-small","dimensions":3072,"input":[` + strings.Repeat(`"a",`, 400) + `"a"]}`, 400, "too many"},
		{"/v1/responses", `{"model":"demo-small"}`, 400, "input"},
		{"/v1/responses", `{"model":"demo-small","input":5}`, 400, "number"},
		{"/v1/responses", `{"model":"demo-small","input":[{"role":"chief","content":"x"}]}`, 400, "role"},
		{"/v1/responses", `{"model":"demo-small","input":"x","max_output_tokens":0}`, 400, "max_output_tokens"},
		{"/v1/messages", `{"model":"demo-small","messages":[{"role":"user","content":"hi"}]}`, 400, "max_tokens"},
		{"/v1/messages", `{"model":"demo-small","max_tokens":-1,"messages":[{"role":"user","content":"hi"}]}`, 400, "max_tokens"},
		{"/v1/messages", `{"model":"demo-small","max_tokens":1,"messages":[]}`, 400, "messages"},
		{"/v1/messages", `{"model":"demo-small","max_tokens":1,"messages":[{"role":"tool","content":"hi"}]}`, 400, "role"},
		{"/v1beta/models/demo-small:generateContent", `{"contents":[]}`, 400, "contents"},
		{"/v1beta/models/demo-small:generateContent", `{"contents":[{"role":"assistant","parts":[]}]}`, 400, "role"},
		{"/v1beta/models/demo-small:streamGenerateContent", `nonsense`, 400, "not valid JSON"},
		{"/v1beta/models/demo-small:countTokens", `{}`, 400, "contents"},
		{"/v1beta/models/demo-small:embedContent", `{}`, 400, "content"},
		{"/v1beta/models/demo-small:batchEmbedContents", `{}`, 400, "content"},
	} {
		r := askDemo(t, c.path, c.body)
		p := dialect.ReadProblem([]byte(r.body))
		if r.status != c.status || !strings.Contains(p.Message, c.text) || r.contentType != "application/json" {
			t.Errorf("%s %.80s: %d %s", c.path, c.body, r.status, r.body)
		}
		said := map[dialect.Dialect][2]string{
			dialect.Chat:      {p.Type, "invalid_request_error"},
			dialect.Responses: {p.Type, "invalid_request_error"},
			dialect.Messages:  {p.Type, map[int]string{400: "invalid_request_error", 404: "not_found_error"}[c.status]},
			dialect.Gemini:    {p.Status, map[int]string{400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[c.status]},
		}[r.op.Dialect()]
		if said[0] != said[1] {
			t.Errorf("%s: this is not the dialect's form: %s", c.path, r.body)
		}
		if array := strings.HasPrefix(r.body, "["); array != (r.op == dialect.StreamContent) {
			t.Errorf("%s: %s", c.path, r.body)
		}
		want := Plain
		if c.status == 404 {
			want = NoModel
			if d := r.op.Dialect(); (d == dialect.Chat || d == dialect.Responses) && p.Code != "model_not_found" {
				t.Errorf("%s: the code is %q", c.path, p.Code)
			}
		}
		if got := u.Meaning(r.status, &p); got != want {
			t.Errorf("%s: this means %d: %s", c.path, got, r.body)
		}
	}
	// Messages' errors repeat the id of the request.
	r := askDemo(t, "/v1/messages", `{}`)
	expect(t, r.object(t), map[string]string{"type": `"error"`, "request_id": string(encode(r.header.Get("Request-Id")))})
}

func TestDemoKeepsNoResponses(t *testing.T) {
	u := newDemo(t, Config{})
	for method, path := range map[string]string{"GET": "/v1/responses/resp_1/input_items", "DELETE": "/v1/responses/resp_1", "POST": "/v1/responses/resp_1/cancel"} {
		res, err := u.Transport().RoundTrip(demoRequestTo(t, t.Context(), u, method, path, nil))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		p := dialect.ReadProblem(body)
		if res.StatusCode != 404 || u.Meaning(404, &p) != Plain {
			t.Errorf("%s: %d %s", method, res.StatusCode, body)
		}
	}
	// What is not the demo's has an answer too.
	for _, url := range []string{"http://demo.invalid/", "http://demo.invalid/v1/models", "http://demo.invalid/v1/images/generations", "http://demo.invalid/v1/files"} {
		req, _ := http.NewRequest("POST", url, strings.NewReader("{}"))
		res, err := u.Transport().RoundTrip(req)
		if err != nil || res.StatusCode != 404 {
			t.Errorf("%s: %v %v", url, res, err)
		}
	}
}

// endless is a body without an end that knows how much of it was read.
type endless struct {
	read   int
	closed bool
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

func (e *endless) Close() error { e.closed = true; return nil }

func TestDemoReadsABoundedBody(t *testing.T) {
	u := newDemo(t, Config{})
	body := &endless{}
	req := demoRequestTo(t, t.Context(), u, "POST", "/v1/messages", body)
	res, err := u.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(res.Body)
	if res.StatusCode != 413 || dialect.ReadProblem(got).Type != "request_too_large" {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	if body.read > demoMaxBody+1 || !body.closed {
		t.Errorf("%d bytes were read, closed %t", body.read, body.closed)
	}
	whole := append([]byte(`{"model":"demo-small","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`), bytes.Repeat([]byte(" "), demoMaxBody)...)
	if r := askDemo(t, "/v1/messages", string(whole[:demoMaxBody])); r.status != 200 {
		t.Errorf("a body of just the length that is allowed: %d", r.status)
	}
}

type brokenBody struct{ closed bool }

var errBroken = errors.New("the client left")

func (b *brokenBody) Read([]byte) (int, error) { return 0, errBroken }
func (b *brokenBody) Close() error             { b.closed = true; return nil }

func TestDemoEndsWithItsContext(t *testing.T) {
	u := newDemo(t, Config{})
	const body = `{"model":"demo-small","messages":[{"role":"user","content":"hi"}],"stream":true}`
	left := errors.New("left")

	// Before it has begun; the body is closed all the same.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	unread := &endless{}
	if _, err := u.Transport().RoundTrip(demoRequestTo(t, ctx, u, "POST", "/v1/chat/completions", io.NopCloser(strings.NewReader(body)))); !errors.Is(err, left) {
		t.Errorf("a request that was given up had the outcome %v", err)
	}
	if _, err := u.Transport().RoundTrip(demoRequestTo(t, ctx, u, "POST", "/v1/chat/completions", unread)); !errors.Is(err, left) || !unread.closed {
		t.Errorf("the outcome is %v, the body closed: %t", err, unread.closed)
	}
	broken := &brokenBody{}
	if _, err := u.Transport().RoundTrip(demoRequestTo(t, t.Context(), u, "POST", "/v1/chat/completions", broken)); !errors.Is(err, errBroken) || !broken.closed {
		t.Errorf("a broken body had the outcome %v, closed: %t", err, broken.closed)
	}

	// In the middle of a stream.
	ctx, cancel = context.WithCancelCause(t.Context())
	res, err := u.Transport().RoundTrip(demoRequestTo(t, ctx, u, "POST", "/v1/chat/completions", strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if n, err := res.Body.Read(p); n != len(p) || err != nil {
		t.Fatalf("%d %v", n, err)
	}
	cancel(left)
	if n, err := res.Body.Read(p); n != 0 || !errors.Is(err, left) {
		t.Errorf("after the end %d bytes and %v were read", n, err)
	}

	// By closing it.
	res, err = u.Transport().RoundTrip(demoRequestTo(t, t.Context(), u, "POST", "/v1/chat/completions", strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := res.Body.Read(p); n != 0 || err == nil || err == io.EOF {
		t.Errorf("of a closed stream %d bytes and %v were read", n, err)
	}
}

// The small model answers at once, the large one event by event; both without a
// goroutine, which synctest would find.
func TestDemoPace(t *testing.T) {
	const body = `{"model":%q,"max_tokens":50,"messages":[{"role":"user","content":"hi"}],"stream":true}`
	for model, pause := range demoModels {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			events := askDemo(t, "/v1/messages", fmt.Sprintf(body, model)).events(t)
			if took := time.Since(begun); took != time.Duration(len(events)-1)*pause {
				t.Errorf("%s: %d events took %s", model, len(events), took)
			}
		})
	}
	// Given up in the pause, the stream ends there and then.
	synctest.Test(t, func(t *testing.T) {
		u := newDemo(t, Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		res, err := u.Transport().RoundTrip(demoRequestTo(t, ctx, u, "POST", "/v1/messages", strings.NewReader(fmt.Sprintf(body, "demo-large"))))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		begun := time.Now()
		got, err := io.ReadAll(res.Body)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Millisecond {
			t.Errorf("after %s the stream ended with %v", time.Since(begun), err)
		}
		if n := bytes.Count(got, []byte("\n\n")); n != 1 {
			t.Errorf("%d events came", n)
		}
	})
	// A reader with little room gets the same bytes, and no more pauses.
	synctest.Test(t, func(t *testing.T) {
		u := newDemo(t, Config{})
		req := demoRequestTo(t, t.Context(), u, "POST", "/v1/messages", strings.NewReader(fmt.Sprintf(body, "demo-large")))
		res, err := u.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		begun := time.Now()
		var got []byte
		p := make([]byte, 7)
		for {
			n, err := res.Body.Read(p)
			if got = append(got, p[:n]...); err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		whole := askDemo(t, "/v1/messages", fmt.Sprintf(body, "demo-large"))
		if string(got) != whole.body {
			t.Errorf("%s", got)
		}
		if took, half := time.Since(begun), time.Duration(len(whole.events(t))-1)*demoModels["demo-large"]; took != 2*half {
			t.Errorf("both took %s, one was to take %s", took, half)
		}
	})
}

func TestDemoConfig(t *testing.T) {
	kind, _ := Lookup("demo")
	if !kind.Keyless || kind.NeedsURL || len(kind.Options) != 0 {
		t.Errorf("%+v", kind)
	}
	for want, c := range map[string]Config{
		"base_url": {BaseURL: "http://localhost"},
		"host":     {Options: map[string][]string{"host": {"x"}}},
		"images":   {Dialects: []string{"chat", "images"}},
	} {
		if _, err := kind.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	all, some := newDemo(t, Config{}), newDemo(t, Config{Dialects: []string{"chat"}})
	for op := range dialect.Operations() {
		offered := slices.Contains(demoFeatures, op.Feature())
		if all.Speaks(op, "demo-small") != offered || some.Speaks(op, "demo-small") != (op == dialect.ChatCompletions) {
			t.Errorf("%s", op)
		}
	}
	if !all.Family("demo-small") || !all.Family("demo-x") || all.Family("gpt-x") || all.Family("demo") {
		t.Error("the family of demo-* is not known by its name")
	}
	models, err := all.Models(t.Context(), nil)
	if err != nil || len(models) != 2 || models[0].ID != "demo-large" || models[1].ID != "demo-small" || models[0].OwnedBy == "" {
		t.Errorf("%v %v", models, err)
	}
	h := http.Header{}
	c := all.Credential(NewSecret("unused"))
	if err := c.Authorize(&http.Request{Header: h}); err != nil || len(h) != 0 || c.Renew(h) {
		t.Errorf("%v %v", h, err)
	}
}

// No request makes the demo fail: it is answered, or refused for a reason.
func FuzzDemo(f *testing.F) {
	paths := []string{
		"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/responses/compact",
		"/v1/messages", "/v1/messages/count_tokens", "/v1beta/models/demo-small:generateContent",
		"/v1beta/models/demo-small:streamGenerateContent", "/v1beta/models/demo-small:countTokens",
		"/v1beta/models/demo-small:embedContent", "/v1beta/models/demo-small:batchEmbedContents",
	}
	for _, c := range demoCalls {
		f.Add(fmt.Sprintf(c.body, ""))
		f.Add(fmt.Sprintf(c.body, c.stream))
	}
	for _, s := range []string{
		`{"model":"demo-small","input":"x","prompt":[[]],"messages":[{}],"contents":[{}]}`,
		`{"model":"demo-small","input":[null],"prompt":[null],"messages":[null],"contents":[null],"requests":[null]}`,
		`{"model":"demo-small","tools":[null],"tool_choice":{"type":"any"},"messages":null,"input":[[1]]}`,
		"{\"model\":\"demo-small\",\"input\":\"\xff\",\"a_b\" :1}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, p := range paths {
			if r := askDemo(t, p, body); r.status != 200 && r.status != 400 && r.status != 404 {
				t.Errorf("%s: %d %s", p, r.status, r.body)
			}
		}
	})
}
