package dialect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/usage"
)

// marks are what an Answer says in the end.
type marks struct {
	Content, Finished, Terminal, Failed, Reported bool
	Problem                                       Problem
	Model, ID                                     string
	Events                                        int
	Bytes                                         int64
	Tokens                                        usage.Tokens
}

func marksOf(a *Answer) marks {
	return marks{a.Content, a.Finished, a.Terminal, a.Failed, a.Reported, a.Problem, a.Model, a.ID, a.Events, a.Bytes, a.Tokens()}
}

// through passes a stream through an Answer the way a gateway does: read into a
// window, forward what is ready, move the rest to the front, use the memory
// again. The pieces read end at the cuts.
func through(a *Answer, stream []byte, size, most int, cuts ...int) (forwarded []byte) {
	window := make([]byte, size)
	n, at := 0, 0
	for _, cut := range append(cuts, len(stream)) {
		for at < cut {
			m := copy(window[n:], stream[at:cut])
			n, at = n+m, at+m
			ready, used := a.Split(window[:n], n == len(window) && n >= most)
			forwarded = append(forwarded, ready...)
			copy(window, window[used:n])
			for i := n - used; i < n; i++ {
				window[i] = '#' // old memory holds nothing of use
			}
			if n -= used; n == len(window) {
				window = append(make([]byte, 0, min(4*n, most)), window...)
				window = window[:cap(window)]
			}
		}
	}
	if a.Rest(window[:n]) {
		forwarded = append(forwarded, window[:n]...)
	}
	return forwarded
}

// stream is an event stream of an upstream and what is to be seen in it.
type stream struct {
	name string
	op   Operation
	text string
	// content numbers the first event with content, from 0 and comments
	// included; -1 if there is none.
	content int
	// hidden is what a client does not get who did not ask for usage.
	hidden string
	want   marks
}

// events joins the data of events without names.
func events(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		b.WriteString("data: " + d + "\n\n")
	}
	return b.String()
}

// named joins the data of events whose name is that of their type.
func named(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		_, kind, _ := strings.Cut(d, `"type":"`)
		kind, _, _ = strings.Cut(kind, `"`)
		b.WriteString("event: " + kind + "\ndata: " + d + "\n\n")
	}
	return b.String()
}

func chunk(choices, more string) string {
	return `{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":` + choices + more + `}`
}

func delta(d string) string {
	return chunk(`[{"index":0,"delta":`+d+`,"finish_reason":null}]`, `,"usage":null`)
}

var (
	roleOnly = delta(`{"role":"assistant","content":""}`)
	hello    = delta(`{"content":"Hello"}`)
	stop     = chunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, `,"usage":null`)
	counted  = `,"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}`
	onlyUse  = chunk(`[]`, counted)

	chatMarks = marks{
		Content: true, Finished: true, Terminal: true, Reported: true, Model: "gpt-x", ID: "chatcmpl-b2",
		Tokens: usage.Tokens{Input: 12, Output: 9},
	}
)

// with changes a copy of the marks.
func with(m marks, change func(m *marks)) marks {
	change(&m)
	return m
}

var streams = []stream{
	{
		name: "chat tool calls", op: ChatCompletions, content: 1, hidden: onlyUse, want: chatMarks,
		text: events(
			roleOnly,
			delta(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}`),
			delta(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}`),
			delta(`{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":"{}"}}]}`),
			delta(`{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}`),
			chunk(`[{"index":0,"delta":{},"finish_reason":"tool_calls"}]`, `,"usage":null`),
			onlyUse, "[DONE]"),
	},
	{
		name: "chat text", op: ChatCompletions, content: 1, hidden: onlyUse, want: chatMarks,
		text: events(roleOnly, hello, delta(`{"content":" \"usage\":{\"prompt_tokens\":5} wörld\u2028 \n\n"}`), delta("{\"content\":\"\u2028\u2029\u0085\v [DONE]\"}"), stop, onlyUse, "[DONE]"),
	},
	{
		name: "chat without usage", op: ChatCompletions, content: 1,
		want: with(chatMarks, func(m *marks) { m.Reported, m.Tokens = false, usage.Tokens{} }),
		text: events(roleOnly, hello, stop, "[DONE]"),
	},
	{
		name: "chat with a service tier", op: ChatCompletions, content: 0, hidden: chunk(`[]`, `,"service_tier":"priority"`+counted),
		want: with(chatMarks, func(m *marks) { m.Tokens.Tier = "priority" }),
		text: events(hello, stop, chunk(`[]`, `,"service_tier":"priority"`+counted), "[DONE]"),
	},
	{
		name: "chat of the default tier", op: ChatCompletions, content: 0, want: chatMarks, hidden: chunk(`[]`, `,"service_tier":"default"`+counted),
		text: events(hello, stop, chunk(`[]`, `,"service_tier":"default"`+counted), "[DONE]"),
	},
	{
		name: "chat usage with an empty choice", op: ChatCompletions, content: 0, want: chatMarks, hidden: chunk(`[{"index":0}]`, counted),
		text: events(hello, stop, chunk(`[{"index":0}]`, counted), "[DONE]"),
	},
	{
		name: "chat usage with an empty delta", op: ChatCompletions, content: 0, want: chatMarks, hidden: chunk(`[{"index":0,"delta":{},"finish_reason":null}]`, counted),
		text: events(hello, stop, chunk(`[{"index":0,"delta":{},"finish_reason":null}]`, counted), "[DONE]"),
	},
	{
		name: "chat usage without choices", op: ChatCompletions, content: 0, want: chatMarks, hidden: `{"usage":{"prompt_tokens":12,"completion_tokens":9}}`,
		text: events(hello, stop, `{"usage":{"prompt_tokens":12,"completion_tokens":9}}`, "[DONE]"),
	},
	{
		name: "chat usage on the last content chunk", op: ChatCompletions, content: 0, want: chatMarks,
		text: events(hello, chunk(`[{"index":0,"delta":{"content":"!"},"finish_reason":"stop"}]`, counted), "[DONE]"),
	},
	{
		name: "chat usage on the chunk with the role", op: ChatCompletions, content: 1, want: chatMarks,
		text: events(chunk(`[{"index":0,"delta":{"role":"assistant","content":""}}]`, `,"usage":{"prompt_tokens":12,"completion_tokens":0,"total_tokens":12}`),
			chunk(`[{"index":0,"delta":{"content":"x"},"finish_reason":"length"}]`, counted), "[DONE]"),
	},
	{
		name: "chat usage on every chunk: the last counts", op: ChatCompletions, content: 0, want: chatMarks, hidden: onlyUse,
		text: events(
			chunk(`[{"index":0,"delta":{"content":"a"}}]`, `,"usage":{"prompt_tokens":12,"completion_tokens":1,"total_tokens":13}`),
			chunk(`[{"index":0,"delta":{"content":"b"}}]`, `,"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}`),
			chunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, `,"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`),
			onlyUse, "[DONE]"),
	},
	{
		name: "chat two choices, the second finishes", op: ChatCompletions, content: 0, want: chatMarks, hidden: onlyUse,
		text: events(hello, chunk(`[{"index":0,"delta":{"content":"a"},"finish_reason":null},{"index":1,"delta":{},"finish_reason":"stop"}]`, ""), onlyUse) + "data: [DONE]\n\n",
	},
	{
		name: "chat of Azure", op: ChatCompletions, content: 2, hidden: onlyUse, want: chatMarks,
		text: events(
			`{"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}`,
			roleOnly, hello,
			`{"choices":[{"index":0,"finish_reason":null,"content_filter_results":{"error":{"code":"x"}},"content_filter_offsets":{"check_offset":1,"start_offset":1,"end_offset":9}}],"id":"","model":""}`,
			stop, onlyUse, "[DONE]"),
	},
	{
		name: "chat reasoning of DeepSeek", op: ChatCompletions, content: 1, want: with(chatMarks, func(m *marks) { m.Reported, m.Tokens = false, usage.Tokens{} }),
		text: ": keep-alive\n\n" + events(delta(`{"role":"assistant","content":null,"reasoning_content":"Hmm"}`), delta(`{"content":"Hi"}`), stop, "[DONE]"),
	},
	{
		name: "chat reasoning of vLLM", op: ChatCompletions, content: 1, want: with(chatMarks, func(m *marks) { m.Reported, m.Tokens = false, usage.Tokens{} }),
		text: events(delta(`{"role":"assistant","content":"","reasoning":"","tool_calls":[]}`), delta(`{"reasoning":"Hmm"}`), stop, "[DONE]"),
	},
	{
		name: "chat reasoning of Copilot", op: ChatCompletions, content: 0, want: with(chatMarks, func(m *marks) { m.Reported, m.Tokens = false, usage.Tokens{} }),
		text: events(delta(`{"reasoning_text":"Hmm","reasoning_opaque":"x"}`), stop, "[DONE]"),
	},
	{
		name: "chat thinking of Mistral", op: ChatCompletions, content: 0, hidden: "", want: chatMarks,
		text: events(delta(`{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hmm"}]}]}`), chunk(`[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]`, counted), "[DONE]"),
	},
	{
		name: "chat refusal", op: ChatCompletions, content: 1, want: with(chatMarks, func(m *marks) { m.Reported, m.Tokens = false, usage.Tokens{} }),
		text: events(roleOnly, delta(`{"refusal":"No."}`), stop, "[DONE]"),
	},
	{
		name: "chat empty answer", op: ChatCompletions, content: 1, hidden: onlyUse, want: chatMarks,
		text: events(roleOnly, stop, onlyUse, "[DONE]"),
	},
	{
		name: "chat usage of Groq", op: ChatCompletions, content: 0, want: chatMarks,
		text: events(hello, chunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, `,"x_groq":{"id":"req","usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21,"queue_time":0.1}}`), "[DONE]"),
	},
	{
		name: "chat keep-alives of OpenRouter", op: ChatCompletions, content: 3, hidden: onlyUse, want: chatMarks,
		text: ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n: a\n: b\n\n" + events(hello, stop) + ": data: {\"usage\":1}\n\n" + events(onlyUse, "[DONE]"),
	},
	{
		name: "chat blank lines and empty data", op: ChatCompletions, content: 4, hidden: onlyUse, want: chatMarks,
		text: "\n\n\ndata:\n\n" + events(hello, stop, onlyUse, "[DONE]"),
	},
	{
		name: "chat data without a blank, other fields", op: ChatCompletions, content: 1, hidden: onlyUse, want: chatMarks,
		text: "data:" + roleOnly + "\n\nid: 7\nretry: 100\ndata:" + hello + "\nfoo\n\ndata:" + stop + "\n\ndata: " + onlyUse + "\n\ndata:[DONE]\n\n",
	},
	{
		name: "chat data in several lines", op: ChatCompletions, content: 0, hidden: `{"choices":[],` + "\ndata: " + `"usage":` + "\ndata:" + `{"prompt_tokens":12,"completion_tokens":9}}`, want: chatMarks,
		text: "data: " + hello[:40] + "\ndata: " + hello[40:] + "\n\n" + events(stop, `{"choices":[],`+"\ndata: "+`"usage":`+"\ndata:"+`{"prompt_tokens":12,"completion_tokens":9}}`) + "data: [DONE]\n\n",
	},
	{
		name: "chat choices of another kind", op: ChatCompletions, content: 1, want: chatMarks,
		text: events(chunk(`{"delta":{"content":"x"}}`, counted), stop, "[DONE]"),
	},
	{
		name: "chat error before content", op: ChatCompletions, content: -1,
		want: marks{Failed: true, Terminal: true, Problem: Problem{Type: "server_error", Message: "The server had an error"}, Model: "gpt-x", ID: "chatcmpl-b2"},
		text: events(roleOnly, `{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}`),
	},
	{
		name: "chat error of OpenRouter in the middle", op: ChatCompletions, content: 0,
		want: with(chatMarks, func(m *marks) {
			m.Finished, m.Failed, m.Problem = false, true, Problem{Code: "502", Message: "Provider disconnected"}
		}),
		text: events(hello, chunk(`[{"index":0,"delta":{"content":""},"finish_reason":"error"}]`, `,"error":{"code":502,"message":"Provider disconnected","metadata":{}}`+counted)),
	},
	{
		name: "chat error as a text", op: ChatCompletions, content: 0,
		want: marks{Content: true, Failed: true, Terminal: true, Model: "gpt-x", ID: "chatcmpl-b2", Problem: Problem{Message: "boom"}},
		text: events(hello, `{"error":"boom"}`),
	},
	{
		name: "chat nothing wrong", op: ChatCompletions, content: 0, want: chatMarks, hidden: onlyUse,
		text: events(chunk(`[{"index":0,"delta":{"content":"x"}}]`, `,"error":null`), chunk(`[{"index":0,"delta":{},"finish_reason":"stop"}]`, `,"error":{}`), chunk(`[]`, `,"error":false`), onlyUse, "[DONE]"),
	},
	{
		name: "chat cut", op: ChatCompletions, content: 1, want: marks{Content: true, Model: "gpt-x", ID: "chatcmpl-b2"},
		text: events(roleOnly, hello),
	},
	{
		name: "completions", op: Completions, content: 1, want: with(chatMarks, func(m *marks) { m.Model, m.ID = "i", "cmpl-1" }), hidden: `{"id":"cmpl-1","model":"i","choices":[]` + counted + `}`,
		text: events(`{"id":"cmpl-1","model":"i","choices":[{"index":0,"text":"","finish_reason":null}]}`, `{"id":"cmpl-1","model":"i","choices":[{"index":0,"text":"a","finish_reason":null}]}`,
			`{"id":"cmpl-1","model":"i","choices":[{"index":0,"text":"","finish_reason":"length"}]}`, `{"id":"cmpl-1","model":"i","choices":[]`+counted+`}`, "[DONE]"),
	},

	{
		name: "completions with usage on the last text", op: Completions, content: 0, want: with(chatMarks, func(m *marks) { m.Model, m.ID = "", "" }),
		text: events(`{"choices":[{"index":0,"text":"a","finish_reason":null}]`+counted+`}`, `{"choices":[{"index":0,"text":"","finish_reason":"stop"}]`+counted+`}`, "[DONE]"),
	},

	{
		name: "responses", op: CreateResponse, content: 4, want: responsesMarks,
		text: named(created, strings.Replace(created, "created", "in_progress", 1),
			`{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_01","type":"reasoning","summary":[]}}`,
			`{"type":"response.reasoning_summary_part.added","item_id":"rs_01","summary_index":0,"part":{"type":"summary_text","text":""}}`,
			`{"type":"response.reasoning_summary_text.delta","item_id":"rs_01","summary_index":0,"delta":"Hm"}`,
			`{"type":"response.output_text.delta","delta":"\"usage\":{\"input_tokens\":1}"}`,
			completed),
	},
	{
		name: "responses function call", op: CreateResponse, content: 1, want: responsesMarks,
		text: named(created,
			`{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"","status":"in_progress"}}`,
			`{"type":"response.function_call_arguments.delta","sequence_number":3,"item_id":"fc_01","output_index":0,"delta":"{\"a\":1}"}`,
			`{"type":"response.function_call_arguments.done","sequence_number":4,"item_id":"fc_01","output_index":0,"name":"f","arguments":"{\"a\":1}"}`,
			`{"type":"response.output_item.done","sequence_number":5,"output_index":0,"item":{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"{\"a\":1}","status":"completed"}}`,
			completed),
	},
	{
		name: "responses message", op: CreateResponse, content: 3, want: responsesMarks,
		text: named(created, `{"type":"response.output_item.added","item":{"id":"msg_01","type":"message","content":[]}}`,
			`{"type":"response.content_part.added","part":{"type":"output_text","text":""}}`, `{"type":"response.output_text.delta","delta":"Hi"}`, completed),
	},
	{
		name: "responses with types only in the data", op: CreateResponse, content: 2, want: responsesMarks,
		text: events(created, `{"type":"response.content_part.added","part":{}}`, `{"type":"response.output_text.delta","delta":"Hi"}`, completed),
	},
	{
		name: "responses with types only in the names", op: CreateResponse, content: 2, want: responsesMarks,
		text: "event: response.created\ndata: " + strings.Replace(created, `"type":"response.created",`, "", 1) + "\n\nevent: ping\ndata: {}\n\n" +
			"event: response.output_text.delta\ndata: {\"delta\":\"Hi\"}\n\nevent: response.completed\ndata: " + strings.Replace(completed, `"type":"response.completed",`, "", 1) + "\n\n",
	},
	{
		name: "responses all named message", op: CreateResponse, content: 1, want: responsesMarks,
		text: "event: message\n" + strings.ReplaceAll(events(created, `{"type":"response.output_text.delta","delta":"Hi"}`, completed), "\n\n", "\n\nevent: message\n") + ": \n\n",
	},
	{
		name: "responses created and completed alone", op: CreateResponse, content: 1, want: responsesMarks,
		text: named(created, completed) + "data: [DONE]\n\n",
	},
	{
		name: "responses incomplete", op: CreateResponse, content: 1, want: responsesMarks,
		text: named(created, strings.ReplaceAll(completed, "completed", "incomplete")),
	},
	{
		name: "responses cancelled", op: CreateResponse, content: 1, want: responsesMarks,
		text: named(created, strings.ReplaceAll(completed, "completed", "cancelled")),
	},
	{
		name: "responses failed", op: CreateResponse, content: -1,
		want: marks{Failed: true, Finished: true, Terminal: true, Model: "gpt-x", ID: "resp_01", Problem: Problem{Code: "rate_limit_exceeded", Message: "Slow down"}},
		text: named(created, `{"type":"response.failed","response":{"id":"resp_01","status":"failed","error":{"code":"rate_limit_exceeded","message":"Slow down"},"usage":null}}`),
	},
	{
		name: "responses failed after it used something", op: CreateResponse, content: 1,
		want: with(responsesMarks, func(m *marks) { m.Failed, m.Problem = true, Problem{Code: "server_error", Message: "Oh"} }),
		text: named(created, `{"type":"response.output_text.delta","delta":"Hi"}`,
			strings.Replace(strings.ReplaceAll(completed, "completed", "failed"), `"error":null`, `"error":{"code":"server_error","message":"Oh"}`, 1)),
	},
	{
		name: "responses error", op: CreateResponse, content: -1,
		want: marks{Failed: true, Terminal: true, Model: "gpt-x", ID: "resp_01", Problem: Problem{Code: "server_error", Message: "Oh", Param: "p"}},
		text: named(created, `{"type":"error","code":"server_error","message":"Oh","param":"p","sequence_number":1}`),
	},
	{
		name: "responses nested error", op: CreateResponse, content: -1,
		want: marks{Failed: true, Terminal: true, Problem: Problem{Type: "invalid_request_error", Code: "c", Message: "Oh"}},
		text: named(`{"type":"error","error":{"type":"invalid_request_error","code":"c","message":"Oh"}}`),
	},
	{
		name: "responses error without a type", op: CreateResponse, content: -1,
		want: marks{Failed: true, Terminal: true, Problem: Problem{Message: "Oh"}},
		text: events(`{"error":{"message":"Oh"}}`),
	},

	{
		name: "messages", op: CreateMessage, content: 2,
		want: messagesMarks,
		text: named(messageStart, `{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me see"}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}`,
			`{"type":"content_block_stop","index":0}`,
			`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_01","name":"f","input":{}}}`,
			`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}`,
			`{"type":"content_block_stop","index":1}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages tool first", op: CreateMessage, content: 2, want: messagesMarks,
		text: named(messageStart, `{"type": "ping"}`[:0]+`{"type":"ping"}`, `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_01","name":"f","input":{}}}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages redacted thinking", op: CreateMessage, content: 1, want: messagesMarks,
		text: named(messageStart, `{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"x"}}`, `{"type":"content_block_stop","index":0}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages text in the block's start", op: CreateMessage, content: 1, want: messagesMarks,
		text: named(messageStart, `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hi"}}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages empty text", op: CreateMessage, content: 3, want: messagesMarks,
		text: named(messageStart, `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`, `{"type":"content_block_stop","index":0}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages without event names", op: CreateMessage, content: 2, want: messagesMarks,
		text: events(messageStart, `{"type":"ping"}`, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages two deltas", op: CreateMessage, content: 1, want: messagesMarks,
		text: named(messageStart, `{"type":"message_delta","delta":{},"usage":{"output_tokens":20}}`, messageDelta, `{"type":"message_stop"}`),
	},
	{
		name: "messages overloaded", op: CreateMessage, content: -1,
		want: with(messagesMarks, func(m *marks) {
			m.Content, m.Finished, m.Failed = false, false, true
			m.Problem = Problem{Type: "overloaded_error", Message: "Overloaded", Details: []byte("null")}
			m.Tokens.Output = 2
		}),
		text: named(messageStart, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded","details":null},"request_id":"req_01"}`),
	},
	{
		name: "messages error of another form", op: CreateMessage, content: -1,
		want: marks{Failed: true, Terminal: true, Problem: Problem{Code: "500", Message: "Oh"}},
		text: events(`{"error":{"message":"Oh","code":500}}`),
	},
	{
		name: "messages cut", op: CreateMessage, content: 1,
		want: with(messagesMarks, func(m *marks) { m.Finished, m.Terminal, m.Tokens.Output = false, false, 2 }),
		text: named(messageStart, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}`),
	},

	{
		name: "gemini", op: StreamContent, content: 0,
		want: marks{
			Content: true, Finished: true, Reported: true, Model: "gemini-x", ID: "r1",
			Tokens: usage.Tokens{Input: 107, Output: 179, Reasoning: 148, ReasoningKnown: true},
		},
		text: events(
			`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"name":"f","args":{"finishReason":"STOP"}},"thoughtSignature":"CiQ"}]},"index":0}],"usageMetadata":{"trafficType":"ON_DEMAND"},"modelVersion":"gemini-x","responseId":"r1"}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"","thoughtSignature":"AY8"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":107,"candidatesTokenCount":31,"thoughtsTokenCount":148,"totalTokenCount":286},"modelVersion":"gemini-x","responseId":"r1"}`),
	},
	{
		name: "gemini cut", op: StreamContent, content: 1,
		want: marks{Content: true, Reported: true, Model: "gemini-x", Tokens: usage.Tokens{Input: 107, Tier: "flex"}},
		text: events(`{"usageMetadata":{"promptTokenCount":107,"totalTokenCount":107,"serviceTier":"FLEX"},"modelVersion":"gemini-x"}`,
			`{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"finishReason":"STOP"}}}]}}],"promptFeedback":{}}`),
	},
	{
		name: "gemini refused", op: StreamContent, content: 0,
		want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 5}},
		text: events(`{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":5,"totalTokenCount":5}}`),
	},
	{
		name: "gemini counts in the middle, absent later", op: StreamContent, content: 0,
		want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 2, CacheRead: 8, Output: 5}},
		text: events(`{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":8,"candidatesTokenCount":1,"totalTokenCount":11}}`,
			`{"candidates":[{"content":{"parts":[{"text":"b"}]}}],"usageMetadata":{"candidatesTokenCount":5,"totalTokenCount":15}}`,
			`{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{}}`),
	},
	{
		name: "gemini error", op: StreamContent, content: 0,
		want: marks{Content: true, Failed: true, Terminal: true, Problem: Problem{Code: "503", Message: "Overloaded", Status: "UNAVAILABLE"}},
		text: events(`{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}`, `{"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}`),
	},

	{
		name: "images", op: ImageGenerations, content: 0,
		want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 50, InImage: 10, Output: 50}},
		text: named(`{"type":"image_generation.partial_image","partial_image_index":0,"b64_json":"aGk="}`,
			`{"type":"image_generation.completed","b64_json":"aGk=","usage":{"input_tokens":50,"output_tokens":50,"total_tokens":100,"input_tokens_details":{"text_tokens":40,"image_tokens":10}}}`),
	},
	{
		name: "transcription", op: Transcriptions, content: 0,
		want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 14, InAudio: 14, Output: 45}},
		text: events(`{"type":"transcript.text.delta","delta":"I"}`,
			`{"type":"transcript.text.done","text":"I","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}`),
	},
	{
		name: "speech fails", op: Speech, content: 0,
		want: marks{Content: true, Failed: true, Terminal: true, Problem: Problem{Message: "Oh"}},
		text: events(`{"type":"speech.audio.delta","audio":"aGk="}`, `{"type":"error","error":{"message":"Oh"}}`),
	},
	{
		name: "stored response", op: StoredResponse, content: 0,
		want: marks{Content: true, Finished: true, Terminal: true},
		text: named(`{"type":"response.output_text.delta","delta":"Hi"}`, completed),
	},
}

const (
	created   = `{"type":"response.created","response":{"id":"resp_01","object":"response","status":"in_progress","model":"gpt-x","error":null,"usage":null,"tools":[{"usage":{"input_tokens":1}}]},"sequence_number":0}`
	completed = `{"type":"response.completed","response":{"id":"resp_01","object":"response","status":"completed","model":"gpt-x","error":null,"service_tier":"flex","output":[{"usage":{"input_tokens":9}}],` +
		`"usage":{"input_tokens":18014,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":18011},"output_tokens":120,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":18134},"metadata":{"z":"after usage"}},"sequence_number":9}`

	messageStart = `{"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1200,"ephemeral_1h_input_tokens":0},"output_tokens":2,"service_tier":"standard"}}}`
	messageDelta = `{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"output_tokens":57}}`
)

var (
	responsesMarks = marks{
		Content: true, Finished: true, Terminal: true, Reported: true, Model: "gpt-x", ID: "resp_01",
		Tokens: usage.Tokens{Input: 3, CacheWrite: 18011, Output: 120, Reasoning: 80, ReasoningKnown: true, Tier: "flex"},
	}
	messagesMarks = marks{
		Content: true, Finished: true, Terminal: true, Reported: true, Model: "claude-x", ID: "msg_01",
		Tokens: usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1200, Output: 57},
	}
)

// dataOf counts the events and the bytes of their data, in a way of its own.
func dataOf(text string) (n int, size int64) {
	for event := range strings.SplitSeq(text, "\n\n") {
		var data []string
		for line := range strings.SplitSeq(event, "\n") {
			if d, ok := strings.CutPrefix(line, "data:"); ok {
				data = append(data, strings.TrimPrefix(d, " "))
			}
		}
		if d := strings.Join(data, "\n"); d != "" {
			n++
			size += int64(len(d))
		}
	}
	return n, size
}

func TestStreams(t *testing.T) {
	for _, s := range streams {
		t.Run(s.name, func(t *testing.T) {
			want := s.want
			want.Events, want.Bytes = dataOf(s.text)
			var a Answer
			a.Reset(s.op, true, false)
			if got := string(through(&a, []byte(s.text), 4<<10, MaxEvent)); got != s.text {
				t.Errorf("forwarded %q", got)
			}
			if got := marksOf(&a); !reflect.DeepEqual(got, want) {
				t.Errorf("\n got %+v\nwant %+v", got, want)
			}
			if a.Unfinished() {
				t.Error("unfinished")
			}

			visible := s.text
			if s.hidden != "" {
				visible = strings.Replace(s.text, "data: "+s.hidden+"\n\n", "", 1)
				if visible == s.text {
					t.Fatal("what is to be hidden is not in the stream")
				}
			}
			a.Reset(s.op, true, true)
			if got := string(through(&a, []byte(s.text), 4<<10, MaxEvent)); got != visible {
				t.Errorf("to those who did not ask it forwards\n%s\nwant\n%s", got, visible)
			}
			if got := marksOf(&a); !reflect.DeepEqual(got, want) {
				t.Errorf("when it hides usage\n got %+v\nwant %+v", got, want)
			}
		})
	}
}

// The first event with content is the point of no return.
func TestStreamsFirstContent(t *testing.T) {
	for _, s := range streams {
		var a Answer
		a.Reset(s.op, true, true)
		at, n := -1, 0
		for event := range strings.SplitAfterSeq(s.text, "\n\n") {
			a.Split([]byte(event), false)
			if a.Content {
				at = n
				break
			}
			n++
		}
		want := s.content
		if s.name == "chat blank lines and empty data" {
			want = 2 // the blank lines above it make one piece here
		}
		if at != want {
			t.Errorf("%s: event %d has the first content, want %d", s.name, at, want)
		}
	}
}

// endings are the ways in which the lines of a stream may end, and those of its
// blank lines.
var endings = [][2]string{{"\n", "\n"}, {"\r\n", "\r\n"}, {"\r", "\r"}, {"\r\n", "\n"}, {"\n", "\r\n"}, {"\n", "\r"}, {"\r\n", "\r"}}

func endedBy(ending [2]string, text string) []byte {
	text = strings.ReplaceAll(text, "\n\n", "\x00")
	text = strings.ReplaceAll(text, "\n", ending[0])
	return []byte(strings.ReplaceAll(text, "\x00", ending[0]+ending[1]))
}

func TestStreamsAreTheSameForAnyCut(t *testing.T) {
	for _, s := range streams {
		for _, ending := range endings {
			text := endedBy(ending, s.text)
			for _, hide := range []bool{false, true} {
				if hide && s.hidden == "" {
					continue // TestStreams does that
				}
				var a Answer
				run := func(size int, cuts ...int) (string, marks, int64) {
					a.Reset(s.op, true, hide)
					out := string(through(&a, text, size, MaxEvent, cuts...))
					return out, marksOf(&a), a.EstimateOutput()
				}
				want, wantMarks, wantEstimate := run(MaxEvent)
				if !hide && want != string(text) {
					t.Fatalf("%s, %q: forwarded %q", s.name, ending, want)
				}
				wantMarks.Events, wantMarks.Bytes = dataOf(s.text)
				check := func(size int, cuts ...int) {
					t.Helper()
					got, gotMarks, estimate := run(size, cuts...)
					if got != want || !reflect.DeepEqual(gotMarks, wantMarks) || estimate != wantEstimate {
						t.Fatalf("%s, %q, hide %v, window %d, cut at %v:\n got %q\nwant %q\n got %+v %d\nwant %+v %d",
							s.name, ending, hide, size, cuts, got, want, gotMarks, estimate, wantMarks, wantEstimate)
					}
				}
				check(1, everyByte(text)...)
				for cut := 0; cut < len(text); cut += 1 + len(text)/50 {
					check(4<<10, cut)
				}
				for seed := range uint64(4) {
					check(64, randomCuts(text, seed)...)
				}
			}
		}
	}
}

// Events that do not fit the window pass as they come, and are read all the same.
func TestStreamsThroughSmallWindows(t *testing.T) {
	for _, s := range streams {
		for _, ending := range endings {
			text := endedBy(ending, s.text)
			want := s.want
			want.Events, want.Bytes = dataOf(s.text)
			for _, most := range []int{24, 31, 64, 150, 500} {
				for seed := range uint64(4) {
					cuts := randomCuts(text, seed)
					if seed == 0 {
						cuts = everyByte(text)
					}
					var a Answer
					a.Reset(s.op, true, false)
					got := string(through(&a, text, min(most, 16), most, cuts...))
					if got != string(text) {
						t.Fatalf("%s, %q, window %d, cut at %v: forwarded\n%q, want\n%q", s.name, ending, most, cuts, got, text)
					}
					if got := marksOf(&a); !reflect.DeepEqual(got, want) {
						t.Fatalf("%s, %q, window %d, cut at %v:\n got %+v\nwant %+v", s.name, ending, most, cuts, got, want)
					}
					if a.Unfinished() {
						t.Fatalf("%s, %q, window %d: unfinished", s.name, ending, most)
					}
				}
			}
		}
	}
}

func TestStreamsOfLongEvents(t *testing.T) {
	long := strings.Repeat("aGVsbG8gd29ybGQh", 20<<10) // 320 KB
	for _, s := range []stream{
		{
			name: "responses", op: CreateResponse, want: responsesMarks,
			text: named(strings.Replace(created, `"tools"`, `"instructions":"`+long+`","tools"`, 1), strings.Replace(completed, `"usage"`, `"text":["`+long+`"],"usage"`, 1)),
		},
		{
			name: "images", op: ImageGenerations, want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 1, Output: 2}},
			text: named(`{"type":"image_generation.partial_image","b64_json":"`+long+`"}`, `{"type":"image_generation.completed","b64_json":"`+long+`","usage":{"input_tokens":1,"output_tokens":2}}`),
		},
		{
			name: "gemini", op: StreamContent, want: marks{Content: true, Finished: true, Reported: true, Tokens: usage.Tokens{Input: 3, Output: 4}},
			text: events(`{"candidates":[{"content":{"parts":[{"inlineData":{"data":"` + long + `"}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}`),
		},
		{
			name: "gemini that goes on", op: StreamContent, want: marks{Content: true},
			text: events(`{"candidates":[{"content":{"parts":[{"inlineData":{"data":"` + long + `"}}]}}]}`),
		},
		{
			name: "chat", op: ChatCompletions, want: chatMarks,
			text: events(roleOnly, delta(`{"audio":{"data":"`+long+`"}}`), stop, onlyUse, "[DONE]"),
		},
		{name: "comment", op: ChatCompletions, want: chatMarks, text: ": " + long + "\n\n" + events(hello, stop, onlyUse, "[DONE]")},
		{name: "name", op: CreateResponse, want: responsesMarks, text: "event: " + long + "\ndata: " + created + "\n\n" + named(completed)},
	} {
		want := s.want
		want.Events, want.Bytes = dataOf(s.text)
		for _, size := range []int{1, 13, 4 << 10, MaxEvent, len(s.text)} {
			var cuts []int
			for at := size; at < len(s.text); at += size {
				cuts = append(cuts, at)
			}
			if size < 1<<10 {
				cuts = append(cuts[:0:0], cuts[:min(len(cuts), 100)]...)
			}
			var a Answer
			a.Reset(s.op, true, false)
			if got := through(&a, []byte(s.text), 4<<10, MaxEvent, cuts...); string(got) != s.text {
				t.Errorf("%s in pieces of %d: %d bytes forwarded, want %d", s.name, size, len(got), len(s.text))
			}
			if got := marksOf(&a); !reflect.DeepEqual(got, want) {
				t.Errorf("%s in pieces of %d:\n got %+v\nwant %+v", s.name, size, got, want)
			}
			if cap(a.m.held) > maxValue || cap(a.joined) > MaxEvent {
				t.Errorf("%s: %d and %d bytes are held", s.name, cap(a.m.held), cap(a.joined))
			}
		}
	}
}

// A long event that is the preamble only is not content.
func TestStreamLongPreambleIsNoContent(t *testing.T) {
	var a Answer
	a.Reset(CreateResponse, true, false)
	text := named(strings.Replace(created, `"tools"`, `"instructions":"`+strings.Repeat("x", 2*MaxEvent)+`","tools"`, 1))
	through(&a, []byte(text), 4<<10, MaxEvent)
	if a.Content || a.ID != "resp_01" || a.Events != 1 {
		t.Errorf("got %+v", marksOf(&a))
	}
}

// Behind a stream that broke off stands whatever the gateway adds to it: it must
// not grow together with what came.
func TestStreamThatBreaksOff(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		forwarded  string
		unfinished bool
		check      func(m marks) bool
	}{
		{"in the data", events(hello) + "data: " + stop[:60], events(hello), false, func(m marks) bool { return !m.Finished && m.Events == 1 }},
		{"in the usage", events(hello) + "data: " + onlyUse[:len(onlyUse)-1], events(hello), false, func(m marks) bool { return !m.Reported }},
		{"in a field's name", events(hello) + "dat", events(hello), false, func(m marks) bool { return m.Events == 1 }},
		{"in a comment", events(hello) + ": OPENROUTER", events(hello), false, func(m marks) bool { return m.Events == 1 }},
		{"behind a name", events(hello) + "event: x\n", events(hello), false, func(m marks) bool { return m.Events == 1 }},
		{"in [DONE]", events(hello) + "data: [DON", events(hello), false, func(m marks) bool { return !m.Terminal }},
		{"behind the data", events(hello) + "data: " + stop, events(hello) + "data: " + stop, true, func(m marks) bool { return m.Finished }},
		{"behind the line", events(hello) + "data: " + stop + "\n", events(hello) + "data: " + stop + "\n", true, func(m marks) bool { return m.Finished }},
		{"behind the line's CR", events(hello) + "data: " + stop + "\r", events(hello) + "data: " + stop + "\r", true, func(m marks) bool { return m.Finished }},
		{"behind a blank line's CR", events(hello) + "data: " + stop + "\r\n\r", events(hello) + "data: " + stop + "\r\n\r", false, func(m marks) bool { return m.Finished }},
		{"behind a comment's CR", events(hello) + ": x\r\r", events(hello) + ": x\r\r", false, func(m marks) bool { return m.Events == 1 }},
		{"behind [DONE]", events(hello, stop) + "data: [DONE]", events(hello, stop) + "data: [DONE]", true, func(m marks) bool { return m.Terminal }},
		{"behind data in lines", "data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"x\"}}]}\n", "data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"x\"}}]}\n", true, func(m marks) bool { return m.Content }},
		{"at the end", events(hello), events(hello), false, func(m marks) bool { return m.Events == 1 }},
		{"at once", "", "", false, func(m marks) bool { return m.Events == 0 && !m.Content }},
	} {
		for _, cuts := range [][]int{nil, everyByte([]byte(tt.text))} {
			var a Answer
			a.Reset(ChatCompletions, true, false)
			got := string(through(&a, []byte(tt.text), 4<<10, MaxEvent, cuts...))
			if got != tt.forwarded || a.Unfinished() != tt.unfinished || !tt.check(marksOf(&a)) {
				t.Errorf("%s: forwarded %q, unfinished %v, %+v", tt.name, got, a.Unfinished(), marksOf(&a))
			}
		}
	}
	// A usage chunk whose blank line is missing is hidden like any other.
	var a Answer
	a.Reset(ChatCompletions, true, true)
	if got := string(through(&a, []byte(events(hello, stop)+"data: "+onlyUse), 4<<10, MaxEvent)); got != events(hello, stop) || !a.Reported || a.Unfinished() {
		t.Errorf("forwarded %q, %+v", got, marksOf(&a))
	}
	// In the middle of an event of which a part is already on its way.
	a.Reset(ChatCompletions, true, false)
	text := "data: " + delta(`{"content":"`+strings.Repeat("x", 3*MaxEvent)+`"}`)
	if got := string(through(&a, []byte(text[:2*MaxEvent]), 4<<10, MaxEvent)); got != text[:2*MaxEvent] || !a.Unfinished() || a.Content || a.Events != 0 {
		t.Errorf("unfinished %v, %+v", a.Unfinished(), marksOf(&a))
	}
	a.Reset(ChatCompletions, true, false)
	if got := string(through(&a, []byte(text), 4<<10, MaxEvent)); got != text || !a.Unfinished() || !a.Content || a.Events != 1 {
		t.Errorf("unfinished %v, %+v", a.Unfinished(), marksOf(&a))
	}
}

func TestAnswerReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		op   Operation
		body string
		want marks
	}{
		{
			"chat", ChatCompletions, `{"id":"chatcmpl-a1","object":"chat.completion","created":1790000000,"model":"gpt-x-2026-06-01",
 "choices":[{"index":0,"finish_reason":"tool_calls","logprobs":null,"message":{"role":"assistant","content":null,"usage":{"prompt_tokens":1},"tool_calls":[{"id":"call_7","type":"function","function":{"name":"get_temp","arguments":"{\"city\":\"Oslo\"}"}}]}}],
 "service_tier":"default","usage":{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690,"prompt_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400,"audio_tokens":0},
 "completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}`,
			marks{Model: "gpt-x-2026-06-01", ID: "chatcmpl-a1", Reported: true, Tokens: usage.Tokens{Input: 200, CacheRead: 2000, CacheWrite: 400, Output: 90, Reasoning: 64, ReasoningKnown: true}},
		},
		{
			"responses", CreateResponse, `{"id":"resp_01","status":"completed","model":"gpt-x","error":null,"output":[{"id":"rs_01"}],"service_tier":"priority","usage":{"input_tokens":18014,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":18011},"output_tokens":120,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":18134}}`,
			marks{Model: "gpt-x", ID: "resp_01", Reported: true, Tokens: usage.Tokens{Input: 3, CacheWrite: 18011, Output: 120, Reasoning: 80, ReasoningKnown: true, Tier: "priority"}},
		},
		{
			"responses that failed", CreateResponse, `{"id":"resp_01","status":"failed","error":{"code":"server_error","message":"Oh"},"usage":null}`,
			marks{ID: "resp_01", Failed: true, Problem: Problem{Code: "server_error", Message: "Oh"}},
		},
		{
			"compaction", CompactResponse, `{"id":"resp_02","object":"response.compaction","output":[],"usage":{"input_tokens":5,"output_tokens":6,"total_tokens":11}}`,
			marks{ID: "resp_02", Reported: true, Tokens: usage.Tokens{Input: 5, Output: 6}},
		},
		{
			"messages", CreateMessage, `{"id":"msg_01","type":"message","model":"claude-x","content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}],"usage":{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,
 "cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":340,"output_tokens_details":{"thinking_tokens":210},"server_tool_use":{"web_search_requests":1},"service_tier":"standard","speed":null}}`,
			marks{Model: "claude-x", ID: "msg_01", Reported: true, Tokens: usage.Tokens{Input: 21, CacheRead: 5000, CacheWrite: 1000, CacheWrite1h: 200, Output: 340, Reasoning: 210, ReasoningKnown: true}},
		},
		{
			"gemini", GenerateContent, `{"candidates":[{"content":{"role":"model","parts":[{"text":"Hmm","thought":true},{"text":"42"}]},"finishReason":"STOP"}],"promptFeedback":{},"modelVersion":"gemini-x","responseId":"r1",
 "usageMetadata":{"promptTokenCount":151,"candidatesTokenCount":1089,"toolUsePromptTokenCount":18329,"thoughtsTokenCount":1120,"cachedContentTokenCount":0,"totalTokenCount":20689}}`,
			marks{Model: "gemini-x", ID: "r1", Reported: true, Tokens: usage.Tokens{Input: 18480, ToolPrompt: 18329, Output: 2209, Reasoning: 1120, ReasoningKnown: true}},
		},
		{
			"embeddings", Embeddings, `{"object":"list","data":[{"embedding":"AAAA"}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}`,
			marks{Model: "e", Reported: true, Tokens: usage.Tokens{Input: 8}},
		},
		{"rerank", Rerank, `{"id":"x","results":[],"usage":{"total_tokens":38}}`, marks{ID: "x", Reported: true, Tokens: usage.Tokens{Input: 38}}},
		{
			"images with usage", ImageGenerations, `{"created":1,"data":[{"b64_json":"a"}],"usage":{"input_tokens":50,"output_tokens":60,"total_tokens":110,"input_tokens_details":{"text_tokens":40,"image_tokens":10},"output_tokens_details":{"image_tokens":60}}}`,
			marks{Reported: true, Tokens: usage.Tokens{Input: 50, InImage: 10, Output: 60, OutImage: 60}},
		},
		{"images by the piece", ImageEdits, `{"created":1,"data":[{"url":"https://a/{b}","x":{}},{"url":"c"}, {"url":"d"}]}`, marks{Reported: true, Tokens: usage.Tokens{Images: 3}}},
		{"no images", ImageGenerations, `{"created":1,"data":[]}`, marks{}},
		{"audio by the length", Transcriptions, `{"text":"hi","usage":{"type":"duration","seconds":7.5}}`, marks{Reported: true, Tokens: usage.Tokens{AudioMillis: 7500}}},
		{"count", CountMessage, `{"input_tokens":2095}`, marks{}},
		{"stored", StoredResponse, `{"id":"resp_01","model":"gpt-x","usage":{"input_tokens":5,"output_tokens":6}}`, marks{}},
		{"no usage", ChatCompletions, `{"id":"x","choices":[]}`, marks{ID: "x"}},
		{"usage null", ChatCompletions, `{"id":"x","usage":null,"error":null}`, marks{ID: "x"}},
		{"keep-alives in front", ChatCompletions, "\n\n \r\n\n" + `{"id":"x","usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n", marks{ID: "x", Reported: true, Tokens: usage.Tokens{Input: 1, Output: 2}}},
		{"something behind it", ChatCompletions, `{"id":"x","usage":{"prompt_tokens":1,"completion_tokens":2}} {"usage":{"prompt_tokens":7}}`, marks{ID: "x", Reported: true, Tokens: usage.Tokens{Input: 1, Output: 2}}},
		{
			"a long answer with its usage in front", ChatCompletions, `{"id":"x","model":"m","usage":{"prompt_tokens":1,"completion_tokens":2},"choices":["` + strings.Repeat("{x\\\"", 40<<10) + `"]}`,
			marks{ID: "x", Model: "m", Reported: true, Tokens: usage.Tokens{Input: 1, Output: 2}},
		},
		{"many images", ImageGenerations, `{"data":[{"b64_json":"` + strings.Repeat("x", 100<<10) + `"},{"b64_json":"` + strings.Repeat("y", 100<<10) + `"}]}`, marks{Reported: true, Tokens: usage.Tokens{Images: 2}}},
	} {
		data := []byte(tt.body)
		want := tt.want
		want.Content, want.Finished, want.Bytes = true, true, int64(len(data))
		for seed := range uint64(12) {
			var cuts []int
			switch {
			case seed == 1 && len(data) < 64<<10:
				cuts = everyByte(data)
			case seed > 1:
				cuts = randomCuts(data, seed)
			}
			var a Answer
			a.Reset(tt.op, false, false)
			feedAnswer(&a, data, cuts...)
			if got := marksOf(&a); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, cut at %v:\n got %+v\nwant %+v", tt.name, cuts, got, want)
			}
		}
	}
}

// feedAnswer feeds pieces that all have the same memory.
func feedAnswer(a *Answer, data []byte, cuts ...int) {
	piece := make([]byte, len(data))
	at := 0
	for _, cut := range append(cuts, len(data)) {
		for i := range piece {
			piece[i] = '#'
		}
		n := copy(piece, data[at:cut])
		a.Feed(piece[:n])
		at = cut
	}
}

func TestAnswerThatIsNoJSON(t *testing.T) {
	for _, body := range []string{"WEBVTT\n\n00:01 --> 00:02\nhi", "ID3\x00\x01{\"usage\":{}}", "hello", `"text"`, `[{"usage":{"prompt_tokens":1}}]`} {
		var a Answer
		a.Reset(Transcriptions, false, false)
		feedAnswer(&a, []byte(body), 1, 2)
		if want := (marks{Content: true, Bytes: int64(len(body))}); !reflect.DeepEqual(marksOf(&a), want) {
			t.Errorf("%q: got %+v", body, marksOf(&a))
		}
	}
	for _, body := range []string{"", " \n\r\n\t"} {
		var a Answer
		a.Reset(ChatCompletions, false, false)
		a.Feed([]byte(body))
		if a.Content || a.Finished || a.Bytes != int64(len(body)) {
			t.Errorf("%q: got %+v", body, marksOf(&a))
		}
	}
	var a Answer
	a.Reset(ChatCompletions, false, false)
	a.Feed([]byte(`{"id":"x","usage":{"prompt_tokens":1}`))
	if a.Finished || a.Reported {
		t.Errorf("half an answer: got %+v", marksOf(&a))
	}
}

// Gemini streams one JSON array to those who do not ask for events.
func TestAnswerGeminiArray(t *testing.T) {
	const first = `{"candidates":[{"content":{"parts":[{"text":"]},"}]}}],"usageMetadata":{"promptTokenCount":7},"modelVersion":"g","responseId":"r"}`
	const last = `{"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":3,"totalTokenCount":10}}`
	done := marks{Content: true, Finished: true, Terminal: true, Reported: true, Model: "g", ID: "r", Events: 2, Tokens: usage.Tokens{Input: 7, Output: 3}}
	for _, tt := range []struct {
		body string
		want marks
	}{
		{"[" + first + "\n,\n" + last + "\n]\n", done},
		{" \n[ " + first + "," + last + "] ", done},
		{"[" + first + "\n,\n" + last, with(done, func(m *marks) { m.Terminal = false })},
		{"[" + first + "\n,\n" + last[:40], with(done, func(m *marks) { m.Terminal, m.Finished, m.Tokens = false, false, usage.Tokens{Input: 7} })},
		{
			"[" + first + "\n,\n" + `{"error":{"code":503,"message":"Oh","status":"UNAVAILABLE"}}` + "]",
			with(done, func(m *marks) {
				m.Failed, m.Finished, m.Tokens, m.Problem = true, false, usage.Tokens{Input: 7}, Problem{Code: "503", Message: "Oh", Status: "UNAVAILABLE"}
			}),
		},
		{"[" + `{"error":{"code":400,"message":"Oh"}}` + "]", marks{Failed: true, Terminal: true, Events: 1, Problem: Problem{Code: "400", Message: "Oh"}}},
		{"[]", marks{Finished: true, Terminal: true}},
		{"[12]", marks{Content: true}},
		{"[{,}", marks{Content: true, Events: 1}},
	} {
		want := tt.want
		want.Bytes = int64(len(tt.body))
		for i := range len(tt.body) {
			var a Answer
			a.Reset(StreamContent, false, false)
			cuts := []int{i}
			if i == 0 {
				cuts = everyByte([]byte(tt.body))
			}
			feedAnswer(&a, []byte(tt.body), cuts...)
			got := marksOf(&a)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, cut at %v:\n got %+v\nwant %+v", tt.body, cuts, got, want)
			}
		}
	}
}

func TestEstimateOutput(t *testing.T) {
	text := func(op Operation, stream string) int64 {
		var a Answer
		a.Reset(op, true, false)
		a.Split([]byte(stream), false)
		return a.EstimateOutput()
	}
	var chat, messages, responses []string
	for range 200 {
		chat = append(chat, delta(`{"content":" word"}`))
		messages = append(messages, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}`)
		responses = append(responses, `{"type":"response.output_text.delta","item_id":"m","output_index":0,"delta":" word"}`)
	}
	for _, tt := range []struct {
		name        string
		got         int64
		least, most int64
	}{
		{"chat", text(ChatCompletions, events(append([]string{roleOnly}, chat...)...)), 190, 300},
		{"messages", text(CreateMessage, named(append([]string{messageStart, `{"type":"ping"}`}, append(messages, `{"type":"ping"}`)...)...)), 190, 300},
		{"responses", text(CreateResponse, named(append([]string{created}, responses...)...)), 190, 300},
		{"one chunk of gemini", text(StreamContent, events(`{"candidates":[{"content":{"parts":[{"text":"`+strings.Repeat(" word", 400)+`"}]}}]}`)), 400, 600},
		{"preamble only", text(CreateMessage, named(messageStart)), 0, 0},
		{"nothing", text(ChatCompletions, ""), 0, 0},
		{"a tool's name", text(CreateMessage, named(messageStart, `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}`)), 1, 1},
		{"images", text(ImageGenerations, named(`{"type":"image_generation.partial_image","b64_json":"`+strings.Repeat("x", 10_000)+`"}`)), 0, 0},
	} {
		if tt.got < tt.least || tt.got > tt.most {
			t.Errorf("%s: got %d, want %d to %d", tt.name, tt.got, tt.least, tt.most)
		}
	}
	for op, want := range map[Operation]int64{ChatCompletions: 1000, Embeddings: 0, Speech: 0, ImageGenerations: 0, Transcriptions: 1000} {
		var a Answer
		a.Reset(op, false, false)
		a.Feed(bytes.Repeat([]byte("x"), 4000))
		if got := a.EstimateOutput(); got != want {
			t.Errorf("%v: got %d, want %d", op, got, want)
		}
	}
}

// An Answer that is used again knows nothing of before.
func TestAnswerResetForgets(t *testing.T) {
	var a Answer
	for _, s := range streams {
		a.Reset(s.op, true, true)
		through(&a, []byte(s.text[:len(s.text)*2/3]), 32, 64)
		a.Reset(s.op, true, false)
		through(&a, []byte(s.text), 4<<10, MaxEvent)
		want := s.want
		want.Events, want.Bytes = dataOf(s.text)
		if got := marksOf(&a); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", s.name, got, want)
		}
	}
}

// What an Answer says does not change when the window's memory is used again.
func TestAnswerKeepsNothingOfTheWindow(t *testing.T) {
	for _, s := range streams {
		var a Answer
		a.Reset(s.op, true, false)
		window := []byte(s.text)
		a.Split(window, false)
		before := fmt.Sprintf("%+v", marksOf(&a))
		for i := range window {
			window[i] = '#'
		}
		if after := fmt.Sprintf("%+v", marksOf(&a)); after != before {
			t.Errorf("%s: %s became %s", s.name, before, after)
		}
	}
}

func TestHas(t *testing.T) {
	for data, want := range map[string]bool{
		`{"usage":{}}`: true, `{"usage" : 5}`: true, `{"usage":null}`: false, "{\"usage\" :\r\n\tnull}": false, `{"usage":null,"x":{"usage":1}}`: true,
		`{"x":"usage","usage":null}`: true, `{"x":"\"usage\":1"}`: false, `{"xusage":1,"my_usage":2}`: false, `{"usages":1}`: false,
		`{"usage"`: true, `{"usage":`: true, `{"usage": `: true, `usage":1`: false, ``: false,
	} {
		if got := has([]byte(data), `"`, `usage"`); got != want {
			t.Errorf("%s: got %v", data, got)
		}
		if got := has([]byte(data), `"us`, `age"`); got != want {
			t.Errorf("%s, cut elsewhere: got %v", data, got)
		}
	}
}

// Names go into logs and tables: longer ones are none.
func TestAnswerTakesNoLongNames(t *testing.T) {
	var a Answer
	a.Reset(ChatCompletions, false, false)
	a.Feed([]byte(`{"id":"` + strings.Repeat("i", 510) + `","model":"` + strings.Repeat("m", 511) + `"}`))
	if len(a.ID) != 510 || a.Model != "" {
		t.Errorf("id of %d, model of %d bytes", len(a.ID), len(a.Model))
	}
}

func TestFormatsReadEveryOperation(t *testing.T) {
	billed := map[Operation]bool{}
	for op := range Operations() {
		billed[op] = op != StoredResponse && op != CountResponse && op != CountMessage && op != CountContent
	}
	for op := range Operations() {
		for _, events := range []bool{false, true} {
			var a Answer
			a.Reset(op, events, true)
			text := `{"id":"x","type":"y","usage":{},"error":null}`
			if events {
				text = "event: y\ndata: " + text + "\n\n"
				a.Split([]byte(text), true)
			} else {
				a.Feed([]byte(text))
			}
			if media := op.Feature() == "images" || op.Feature() == "audio"; a.HasEnd() == (media || !billed[op]) {
				t.Errorf("%v: HasEnd is %v", op, a.HasEnd())
			}
			if a.EventStream() != events || a.Failed {
				t.Errorf("%v: %+v", op, marksOf(&a))
			}
		}
		f := formatOf(op)
		for _, names := range [][]string{f.body, f.event, f.inner} {
			if len(names) > maxNames || slices.Contains(names, "") {
				t.Errorf("%v looks for %q", op, names)
			}
			for _, name := range names {
				if 6*len(name) > maxKey {
					t.Errorf("%v: %s is longer than names may be", op, name)
				}
			}
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for i, s := range streams {
		f.Add(uint8(s.op), []byte(s.text), uint64(i))
		f.Add(uint8(s.op), []byte(strings.ReplaceAll(s.text, "\n", "\r\n")), uint64(i))
	}
	f.Fuzz(func(t *testing.T, op uint8, text []byte, seed uint64) {
		cuts := randomCuts(text, seed)
		run := func(hide bool, size, most int, cuts ...int) (string, marks, *Answer) {
			var a Answer
			a.Reset(Operation(op%uint8(operations)), true, hide)
			out := through(&a, text, size, most, cuts...)
			a.EstimateOutput()
			return string(out), marksOf(&a), &a
		}
		most := len(text) + 1 // everything fits
		whole, want, a := run(false, most, most)
		if !strings.HasPrefix(string(text), whole) {
			t.Fatalf("forwarded %q", whole)
		}
		if rest := text[len(whole):]; len(rest) > 0 && a.Unfinished() {
			t.Fatalf("unfinished, but %q is missing", rest)
		}
		if got, marks, _ := run(false, 16, most, cuts...); got != whole || !reflect.DeepEqual(marks, want) {
			t.Fatalf("cut at %v:\n got %q %+v\nwant %q %+v", cuts, got, marks, whole, want)
		}
		hidden, marks, _ := run(true, most, most)
		if !reflect.DeepEqual(marks, want) || !isSubsequence(hidden, whole) {
			t.Fatalf("hiding:\n got %q %+v\nwant %q %+v", hidden, marks, whole, want)
		}
		if got, _, _ := run(true, 16, most, cuts...); got != hidden {
			t.Fatalf("hiding, cut at %v:\n got %q\nwant %q", cuts, got, hidden)
		}
		// Through a small window nothing is lost but an event without an end.
		if got, _, _ := run(false, 8, 32, cuts...); !strings.HasPrefix(string(text), got) || len(got) < len(whole) {
			t.Fatalf("a small window forwarded %q of %q", got, text)
		}
		var plain Answer
		plain.Reset(Operation(op%uint8(operations)), false, false)
		feedAnswer(&plain, text)
		want = marksOf(&plain)
		plain.Reset(Operation(op%uint8(operations)), false, false)
		feedAnswer(&plain, text, cuts...)
		if got := marksOf(&plain); !reflect.DeepEqual(got, want) {
			t.Fatalf("read as a plain answer, cut at %v:\n got %+v\nwant %+v", cuts, got, want)
		}
	})
}

// isSubsequence says whether all whole events of part stand in all, in order.
func isSubsequence(part, all string) bool {
	i := 0
	for j := 0; i < len(part) && j < len(all); j++ {
		if part[i] == all[j] {
			i++
		}
	}
	return i == len(part)
}

// A chunk of the size that services send, behind the first content.
var chunk250 = events(`{"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}`)

func BenchmarkSplit(b *testing.B) {
	for _, bb := range []struct {
		name  string
		op    Operation
		begin string
		event string
	}{
		{"chat/250", ChatCompletions, chunk250, chunk250},
		{"chat/small", ChatCompletions, events(hello), events(`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"content":" word"}}]}`)},
		{"chat/usageOnEach", ChatCompletions, events(hello), events(chunk(`[{"index":0,"delta":{"content":"!"}}]`, counted))},
		{"chat/preamble", ChatCompletions, "", events(roleOnly)},
		{"responses", CreateResponse, named(`{"type":"response.output_text.delta","delta":"Hi"}`), named(`{"type":"response.output_text.delta","sequence_number":1234,"item_id":"msg_0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,"delta":" word","logprobs":[],"obfuscation":"abcdefgh"}`)},
		{"messages", CreateMessage, named(`{"type":"content_block_delta","delta":{}}`), named(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}`)},
		{"gemini", StreamContent, "", events(`{"candidates":[{"content":{"parts":[{"text":" some more words"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":107,"candidatesTokenCount":31,"totalTokenCount":138,"promptTokensDetails":[{"modality":"TEXT","tokenCount":107}]},"modelVersion":"gemini-2.5-flash","responseId":"r1"}`)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var a Answer
			a.Reset(bb.op, true, true)
			a.Split([]byte(bb.begin), false)
			window := []byte(bb.event)
			b.SetBytes(int64(len(window)))
			b.ReportAllocs()
			for b.Loop() {
				a.Split(window, false)
			}
			if a.Events < b.N {
				b.Fatal("events were missed")
			}
		})
	}
}

func BenchmarkFeed(b *testing.B) {
	body := []byte(`{"id":"chatcmpl-a1","object":"chat.completion","created":1790000000,"model":"gpt-x-2026-06-01","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"` +
		strings.Repeat("some words of an answer ", 30) + `"}}],"usage":{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690,"prompt_tokens_details":{"cached_tokens":2000},"completion_tokens_details":{"reasoning_tokens":64}}}`)
	var a Answer
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		a.Reset(ChatCompletions, false, false)
		a.Feed(body)
	}
}

func TestAnswerAllocatesNothingPerEvent(t *testing.T) {
	for _, tt := range []struct {
		name         string
		op           Operation
		begin, event string
	}{
		{"chat", ChatCompletions, events(hello), chunk250},
		{"chat usage on each chunk", ChatCompletions, events(hello), events(chunk(`[{"index":0,"delta":{"content":"!"}}]`, counted))},
		{"chat preamble", ChatCompletions, "", events(roleOnly)},
		{"chat CR LF", ChatCompletions, events(hello), strings.ReplaceAll(chunk250, "\n", "\r\n")},
		{"comments", ChatCompletions, events(hello), ": keep-alive\n\n"},
		{"responses", CreateResponse, named(created, `{"type":"response.output_text.delta","delta":"Hi"}`), named(`{"type":"response.output_text.delta","delta":"Hi"}`)},
		{"responses without names", CreateResponse, events(created, `{"type":"response.output_text.delta","delta":"Hi"}`), events(`{"type":"response.output_text.delta","delta":"Hi"}`)},
		{"messages", CreateMessage, named(messageStart, `{"type":"content_block_delta","delta":{}}`), named(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}`)},
		{"gemini", StreamContent, "", events(`{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1,"totalTokenCount":11,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10}]},"modelVersion":"g","responseId":"r"}`)},
	} {
		var a Answer
		a.Reset(tt.op, true, true)
		a.Split([]byte(tt.begin), false)
		window := []byte(tt.event + tt.event + tt.event + tt.event)
		a.Split(window, false) // names are taken once
		if n := testing.AllocsPerRun(100, func() { a.Split(window, false) }); n != 0 {
			t.Errorf("%s: %v allocations for four events", tt.name, n)
		}
	}
}

// However an upstream drips its bytes, each is looked at a bounded number of
// times: an event in many lines does not cost its length for each of them.
func TestSplitGoesOnWhereItWas(t *testing.T) {
	var a Answer
	a.Reset(ChatCompletions, true, false)
	var window []byte
	for range 2_000 {
		window = append(window, "data: x\n"...)
		if _, used := a.Split(window, false); used != 0 {
			t.Fatal("an event without an end was forwarded")
		}
		if a.event.next != len(window) {
			t.Fatalf("of %d bytes %d are done", len(window), a.event.next)
		}
	}
	if len(a.joined) != 2*2_000-1 {
		t.Errorf("%d bytes of data", len(a.joined))
	}
}

// An error can follow a list that broke off between two elements, and makes it
// whole JSON; inside an element nothing can.
func TestAnswerEndsList(t *testing.T) {
	const one = `{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}`
	for body, want := range map[string]string{
		"[" + one:             `,{"error":{"code":502,"message":"Oh","status":"UNAVAILABLE"}}]`,
		"[" + one + "\n,\n":   `{"error":{"code":502,"message":"Oh","status":"UNAVAILABLE"}}]`,
		"[":                   `{"error":{"code":502,"message":"Oh","status":"UNAVAILABLE"}}]`,
		"[" + one + "," + "{": "",
		"[" + one + "]":       "",
		one:                   "",
		"":                    "",
	} {
		var a Answer
		a.Reset(StreamContent, false, false)
		feedAnswer(&a, []byte(body), everyByte([]byte(body))...)
		got := a.EndList(&Error{Fault: BadUpstream, Message: "Oh"})
		if string(got) != want {
			t.Errorf("%s ends with %s", body, got)
		}
		if len(got) > 0 && !json.Valid(append([]byte(body), got...)) {
			t.Errorf("%s%s is not JSON", body, got)
		}
	}
}
