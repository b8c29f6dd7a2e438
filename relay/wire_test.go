package relay

import (
	"net/http"
	"strings"
	"testing"

	"github.com/floway/floway/usage"
)

// What the services were documented and seen to answer passes byte for byte, but
// for the usage that the client did not ask for, and is counted as they mean it.
func TestWireExamples(t *testing.T) {
	const chat, stream = `{"model":"gpt-x","messages":[{"role":"user","content":"hi"}]}`, `{"model":"gpt-x","stream":true,"messages":[]}`
	const toolChunks = `data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}

`
	const usageChunk = `data: {"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}

`
	const done = "data: [DONE]\n\n"
	const azure = `data: {"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}

data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x-2026-06-01","choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}]}

data: {"choices":[{"index":0,"finish_reason":null,"content_filter_results":{},"content_filter_offsets":{"check_offset":1,"start_offset":1,"end_offset":9}}],"id":"","model":""}

data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x-2026-06-01","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

`
	const call = `event: response.created
data: {"type":"response.created","response":{"id":"resp_01","object":"response","status":"in_progress","model":"gpt-x","output":[],"usage":null},"sequence_number":0}

event: response.in_progress
data: {"type":"response.in_progress","response":{"id":"resp_01","object":"response","status":"in_progress","model":"gpt-x","output":[],"usage":null},"sequence_number":1}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"","status":"in_progress"}}

event: response.function_call_arguments.delta
data: {"type":"response.function_call_arguments.delta","sequence_number":3,"item_id":"fc_01","output_index":0,"delta":"{\"a\":1}"}

event: response.function_call_arguments.done
data: {"type":"response.function_call_arguments.done","sequence_number":4,"item_id":"fc_01","output_index":0,"name":"f","arguments":"{\"a\":1}"}

event: response.output_item.done
data: {"type":"response.output_item.done","sequence_number":5,"output_index":0,"item":{"id":"fc_01","type":"function_call","call_id":"call_9","name":"f","arguments":"{\"a\":1}","status":"completed"}}

event: response.completed
data: {"type":"response.completed","sequence_number":6,"response":{"id":"resp_01","object":"response","status":"completed","model":"gpt-x","output":[],"usage":{"input_tokens":2600,"input_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400},"output_tokens":90,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":2690}}}

`
	text := func(in, read, write, out int64) usage.Tokens {
		return usage.Tokens{Input: in, CacheRead: read, CacheWrite: write, Output: out}
	}
	thought := func(u usage.Tokens, n int64) usage.Tokens {
		u.Reasoning, u.ReasoningKnown = n, true
		return u
	}
	for _, tt := range []struct {
		name, path, request string
		answer              string
		hidden              string // what of it the client does not see
		tokens              usage.Tokens
	}{
		{
			"chat with a tool call", "/v1/chat/completions", chat,
			`{"id":"chatcmpl-a1","object":"chat.completion","created":1790000000,"model":"gpt-x-2026-06-01","choices":[{"index":0,"finish_reason":"tool_calls","logprobs":null,"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"call_7","type":"function","function":{"name":"get_temp","arguments":"{\"city\":\"Oslo\"}"}}]}}],"service_tier":"default","usage":{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690,"prompt_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}`,
			"", thought(text(200, 2000, 400, 90), 64),
		},
		{
			"chat of DeepSeek", "/v1/chat/completions", chat,
			`{"id":"d","object":"chat.completion","created":1,"model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","reasoning_content":"hm","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}`,
			"", text(36, 64, 0, 20),
		},
		{
			"chat of xAI", "/v1/chat/completions", chat,
			`{"id":"x","object":"chat.completion","created":1,"model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}}`,
			"", thought(text(32, 0, 0, 103), 94),
		},
		{"tools that interleave", "/v1/chat/completions", stream, toolChunks + usageChunk + done, usageChunk, text(12, 0, 0, 9)},
		{
			"usage asked for", "/v1/chat/completions", `{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"messages":[]}`,
			toolChunks + usageChunk + done, "", text(12, 0, 0, 9),
		},
		{"keep-alive comments", "/v1/chat/completions", stream, ": OPENROUTER PROCESSING\n\n" + toolChunks + ": keep-alive\n\n" + usageChunk + done, usageChunk, text(12, 0, 0, 9)},
		{"Azure's filters", "/v1/chat/completions", stream, azure + usageChunk + done, usageChunk, text(12, 0, 0, 9)},
		{
			"usage beside an empty choice", "/v1/chat/completions", stream,
			toolChunks + strings.Replace(usageChunk, `"choices":[]`, `"choices":[{"index":0}]`, 1) + done,
			strings.Replace(usageChunk, `"choices":[]`, `"choices":[{"index":0}]`, 1), text(12, 0, 0, 9),
		},
		{
			"a response", "/v1/responses", `{"model":"gpt-x","input":"hi"}`,
			`{"id":"resp_01","object":"response","created_at":1790000000,"status":"completed","model":"gpt-x","error":null,"incomplete_details":null,"output":[{"id":"msg_01","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Hi","annotations":[]}]}],"usage":{"input_tokens":18014,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":18011},"output_tokens":120,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":18134}}`,
			"", thought(text(3, 0, 18011, 120), 80),
		},
		{"a response with a call", "/v1/responses", `{"model":"gpt-x","stream":true,"input":"hi"}`, call, "", thought(text(200, 2000, 400, 90), 64)},
		{
			"embeddings", "/v1/embeddings", `{"model":"gpt-x","input":"hi","encoding_format":"base64"}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAEA="}],"model":"gpt-x","usage":{"prompt_tokens":8,"total_tokens":8}}`,
			"", text(8, 0, 0, 0),
		},
		{
			"images by the piece", "/v1/images/generations", `{"model":"gpt-x","prompt":"a cat","n":2}`,
			`{"created":1,"data":[{"b64_json":"aGk="},{"b64_json":"aG8="}]}`, "",
			usage.Tokens{Images: 2},
		},
		{
			"images by the token", "/v1/images/generations", `{"model":"gpt-x","prompt":"a cat"}`,
			`{"created":1,"data":[{"b64_json":"aGk="}],"usage":{"input_tokens":50,"output_tokens":50,"total_tokens":100,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}`,
			"",
			usage.Tokens{Input: 50, Output: 50, InImage: 40},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t)
			m := newMock(t)
			s.upstream("a", m.URL, "a1")
			m.on("a1", func(w http.ResponseWriter, _ *http.Request) {
				kind := "application/json"
				if strings.Contains(tt.request, `"stream":true`) {
					kind = "text/event-stream; charset=utf-8"
				}
				w.Header().Set("Content-Type", kind)
				_, _ = w.Write([]byte(tt.answer))
			})
			g := s.start()
			got := g.post(tt.path, tt.request)
			want := tt.answer
			if tt.hidden != "" {
				want = strings.Replace(want, tt.hidden, "", 1)
			}
			if got.status != 200 || got.err != nil || got.body != want {
				t.Errorf("%d %v\n%s\nwant\n%s", got.status, got.err, got.body, want)
			}
			r := g.books.records()[0]
			if r.Tokens != tt.tokens || r.Source != usage.Upstream || r.Outcome != usage.Served {
				t.Errorf("counted %s %s %+v, want %+v", r.Outcome, r.Source, r.Tokens, tt.tokens)
			}
		})
	}
}
