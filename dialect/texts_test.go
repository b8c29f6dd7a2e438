package dialect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What the model is given, and nothing that it is not.
func TestPromptTexts(t *testing.T) {
	file := strings.Repeat("iVBORw0KGgo+/", 200)
	for _, tt := range []struct {
		name string
		op   Operation
		body string
		want string // the texts, each behind a bar
		more int64
	}{
		{"chat", ChatCompletions, `{"model":"m","user":"u","messages":[{"role":"system","content":"be terse"},{"role":"user","name":"ann","content":[{"type":"text","text":"say \"hi\"\n"}]}],"stop":"x"}`, "be terse|ann|say \"hi\"\n", 3 + 2*4},
		{
			"tools of chat", ChatCompletions, `{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"call_1","content":"42"}],"tools":[ {"type":"function", "function":{"name":"f"}} ]}`,
			`f|{"a":1}|42|[{"type":"function","function":{"name":"f"}}]`, 3 + 2*4,
		},
		{"images of chat", ChatCompletions, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` + file + `"}},{"type":"image_url","image_url":{"url":"https://x","detail":"low"}},{"type":"text","text":"what?"}]}]}`, "what?", 3 + 4 + 765 + 85},
		{"a file", ChatCompletions, `{"messages":[{"role":"user","content":[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,` + file + `"}}]}]}`, "", 3 + 4},
		{"a schema", ChatCompletions, `{"messages":[],"response_format":{"type":"json_schema"}}`, `{"type":"json_schema"}`, 0},
		{"responses, a text", CreateResponse, `{"input":"hello","instructions":"be nice","metadata":{"a":"b"},"prompt_cache_key":"k"}`, "hello|be nice", 3 + 2*4},
		{
			"responses, items", CreateResponse, `{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"https://x/y.png"}]},{"type":"reasoning","encrypted_content":"gAAAA","summary":[{"type":"summary_text","text":"b"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"done"}]}`,
			"a|b|f|{}|done", 3 + 4*4 + 765,
		},
		{
			"messages", CreateMessage, `{"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"u"},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQB"},{"type":"tool_use","id":"toolu_1","name":"f","input":{"path": "a b"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"r"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + file + `"}}]}]}],"metadata":{"user_id":"x"}}`,
			`s|u|hm|f|{"path":"a b"}|r`, 3 + 4*4 + 1590,
		},
		{
			"gemini", GenerateContent, `{"systemInstruction":{"parts":[{"text":"s"}]},"contents":[{"role":"user","parts":[{"text":"u"},{"inlineData":{"mimeType":"image/png","data":"` + file + `"}}]},{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":"b"}},"thoughtSignature":"x"}]}]}`,
			`s|u|f|{"a":"b"}`, 3 + 3*4 + 258,
		},
		{"completions", Completions, `{"prompt":["a b","c"],"suffix":"d"}`, "a b|c|d", 0},
		{"tokens", Completions, `{"prompt":[[1,2,3],[4]]}`, "", 4},
		{"embeddings", Embeddings, `{"input":["a","b"],"encoding_format":"float"}`, "a|b", 0},
		{"embeddings of tokens", Embeddings, `{"input":[15339, 1917]}`, "", 2},
		{"rerank", Rerank, `{"query":"q","documents":["a",{"text":"b"}]}`, "q|a|b", 0},
		{"embedContent", BatchEmbedContents, `{"requests":[{"model":"models/m","content":{"parts":[{"text":"a"}]}}]}`, "a", 0},
		{"count", CountMessage, `{"messages":[{"role":"user","content":"u"}]}`, "u", 7},
		{"a form", Transcriptions, `--x`, "", 0},

		{"null", ChatCompletions, `null`, "", 0},
		{"no object", ChatCompletions, `[{"messages":["a"]}]`, "", 0},
		{"cut in a text", ChatCompletions, `{"messages":[{"content":"one tw`, "one tw", 7},
		{"cut in an escape", ChatCompletions, `{"messages":[{"content":"one\`, "one", 7},
		{"cut in a long escape", ChatCompletions, `{"messages":[{"content":"one\u00`, "one", 7},
		{"odd escapes", ChatCompletions, `{"messages":[{"content":"a\qb"}]}`, `a\qb`, 7},
		{"values are missing", ChatCompletions, `{"messages":,"tools":}`, "", 7},
		{"brackets do not match", ChatCompletions, `{"messages":[}{"content":"a"]}]}`, "a", 7},
		{"too deep", ChatCompletions, `{"messages":` + strings.Repeat("[", 1<<20), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			more := PromptTexts(tt.op, []byte(tt.body), func(text string) { got = append(got, text) })
			if s := strings.Join(got, "|"); s != tt.want || more != tt.more {
				t.Errorf("got %q and %d more, want %q and %d", s, more, tt.want, tt.more)
			}
		})
	}
}

// roomy gives transcripts room up to a bound, and counts it.
type roomy struct{ most, held int }

func (r *roomy) Grow(n int) bool {
	if r.held+n > r.most {
		return false
	}
	r.held += n
	return true
}

func (r *roomy) Shrink(n int) { r.held -= n }

// said reads an answer as the relay does, through windows of a size, and returns
// what its transcript says that the model wrote.
func said(op Operation, events bool, answer string, window int) (texts []string, times float64) {
	var a Answer
	a.Reset(op, events, false)
	room := &roomy{most: 1 << 30}
	a.Transcript.Room = room
	for rest := []byte(answer); len(rest) > 0; {
		if !events {
			n := min(window, len(rest))
			a.Feed(rest[:n])
			rest = rest[n:]
			continue
		}
		n := min(max(window, 1), len(rest))
		_, used := a.Split(slices.Clone(rest[:n]), n >= window)
		if used == 0 {
			if n == len(rest) {
				a.Rest(slices.Clone(rest))
				break
			}
			window *= 2
			continue
		}
		rest = rest[used:]
	}
	script := a.Transcript.Move()
	times = script.Texts(events, func(text string) { texts = append(texts, text) })
	if script.Drop(); room.held != 0 {
		panic(fmt.Sprint("room is not given back: ", room.held))
	}
	return texts, times
}

func TestTranscripts(t *testing.T) {
	chunk := func(delta string) string {
		return `data: {"id":"c","object":"chat.completion.chunk","model":"m","system_fingerprint":"fp","choices":[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"
	}
	event := func(kind, data string) string {
		return "event: " + kind + "\ndata: {\"type\":\"" + kind + `",` + data + "}\n\n"
	}
	long := strings.Repeat("a long text ", 1<<14)
	for _, tt := range []struct {
		name   string
		op     Operation
		events bool
		answer string
		want   string
	}{
		{"chat", ChatCompletions, true, chunk(`{"role":"assistant","content":""}`) + chunk(`{"content":"Hel"}`) + chunk(`{"content":"lo \"you\""}`) + ": comment\n\n" + chunk(`{"content":"!"}`), `Hello "you"!`},
		{"reasoning and tools", ChatCompletions, true, chunk(`{"reasoning_content":"so "}`) + chunk(`{"reasoning_content":"what","reasoning":"what"}`) + chunk(`{"content":"I call"}`) +
			chunk(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}`) + chunk(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}`) + chunk(`{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}`), `so what|I call|f|{"a":1}`},
		{"two choices", ChatCompletions, true, strings.ReplaceAll(chunk(`{"content":"a"}`), `"index":0`, `"index":1`) + chunk(`{"content":"x"}`) + strings.ReplaceAll(chunk(`{"content":"b"}`), `"index":0`, `"index":1`) + chunk(`{"content":"y"}`), "ab|xy"},
		{"a long event", ChatCompletions, true, chunk(`{"content":"<"}`) + chunk(`{"content":"`+long+`"}`) + chunk(`{"content":">"}`), "<" + long + ">"},
		{"two lines of data", ChatCompletions, true, "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"two\"}}]}\n\n", "two"},
		{"no JSON", ChatCompletions, true, chunk(`{"content":"a"}`) + "data: what?\n\n", "a"},
		{"completions", Completions, true, `data: {"choices":[{"text":"one","index":0}]}` + "\n\n" + `data: {"choices":[{"text":" two","index":0}]}` + "\n\n", "one two"},
		{"responses", CreateResponse, true, event("response.created", `"response":{"instructions":"be nice"}`) + event("response.output_item.added", `"output_index":0,"item":{"type":"message","id":"m","content":[]}`) +
			event("response.output_text.delta", `"item_id":"m","output_index":0,"content_index":0,"delta":"Hel","obfuscation":"xyz"`) + event("response.output_text.delta", `"item_id":"m","output_index":0,"content_index":0,"delta":"lo"`) +
			event("response.output_text.done", `"output_index":0,"text":"Hello"`) + event("response.output_item.added", `"output_index":1,"item":{"type":"function_call","name":"f","arguments":""}`) +
			event("response.function_call_arguments.delta", `"output_index":1,"delta":"{}"`) + event("response.output_item.done", `"item":{"content":[{"text":"Hello"}]}`), "Hello|f|{}"},
		{"messages", CreateMessage, true, event("message_start", `"message":{"model":"c","content":[],"usage":{"input_tokens":9,"output_tokens":1}}`) + event("content_block_start", `"index":0,"content_block":{"type":"thinking","thinking":""}`) +
			event("content_block_delta", `"index":0,"delta":{"type":"thinking_delta","thinking":"hm"}`) + event("content_block_delta", `"index":0,"delta":{"type":"signature_delta","signature":"EqQB"}`) + event("content_block_stop", `"index":0`) +
			event("content_block_delta", `"index":1,"delta":{"type":"text_delta","text":"yes"}`) + event("content_block_start", `"index":2,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}`) +
			event("content_block_delta", `"index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}`) + event("content_block_delta", `"index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}`) + event("ping", `"x":1`), `hm|yes|f|{"a":1}`},
		{"gemini", StreamContent, true, `data: {"candidates":[{"content":{"parts":[{"text":"a","thought":true}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":4},"modelVersion":"g"}` + "\n\n" + `data: {"candidates":[{"content":{"parts":[{"text":"b"},{"functionCall":{"name":"f","args":{"x":1}}}],"role":"model"},"index":0}]}` + "\n\n", `ab|f|{"x":1}`},
		{"a transcription", Transcriptions, true, event("transcript.text.delta", `"delta":"some "`) + event("transcript.text.delta", `"delta":"words"`) + event("transcript.text.done", `"text":"some words"`), "some words"},

		{"plain chat", ChatCompletions, false, `{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","reasoning_content":"hm"},"finish_reason":"stop"}]}`, "hi|hm"},
		{"plain chat, cut", ChatCompletions, false, `{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi th`, "hi th"},
		{"plain responses", CreateResponse, false, `{"id":"r","instructions":"be nice","output":[{"type":"reasoning","summary":[{"text":"hm"}]},{"type":"message","content":[{"type":"output_text","text":"hi"}]}],"text":{"format":{"type":"text"}},"tools":[{"name":"f"}],"reasoning":{"effort":"low"}}`, "hmhi"},
		{"responses in the background", CreateResponse, false, `{"id":"resp_1","status":"queued","background":true,"output":[],"usage":null}`, ""},
		{"plain messages", CreateMessage, false, `{"type":"message","content":[{"type":"text","text":"hi"},{"type":"tool_use","name":"f","input":{"a":1}}]}`, `hi|f|{"a":1}`},
		{"plain gemini", GenerateContent, false, `{"candidates":[{"content":{"parts":[{"text":"hi"}]}}]}`, "hi"},
		{"an array of gemini", StreamContent, false, `[{"candidates":[{"content":{"parts":[{"text":"h"}]}}]},{"candidates":[{"content":{"parts":[{"text":"i"}]}}]}]`, "hi"},
		{"a plain text", Transcriptions, false, "some words", "some words"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, window := range []int{7, 100, 4 << 10, 1 << 20} {
				texts, times := said(tt.op, tt.events, tt.answer, window)
				if got := strings.Join(texts, "|"); got != tt.want || times != 1 {
					t.Fatalf("window %d: got %.300q (%v), want %.300q", window, got, times, tt.want)
				}
			}
		})
	}
}

// Of a long answer only a part is kept, and how much that is known.
func TestTranscriptIsBounded(t *testing.T) {
	for _, most := range []int{0, 10 << 10, 1 << 30} {
		var a Answer
		a.Reset(ChatCompletions, true, false)
		room := &roomy{most: most}
		a.Transcript.Room = room
		const n = 30_000
		for i := range n {
			a.Split(fmt.Appendf(nil, `data: {"id":"%064d","choices":[{"delta":{"content":"%06d "}}]}`+"\n\n", i*7919, i), false)
		}
		heard := 0
		times := a.Transcript.Texts(true, func(text string) { heard += len(text) })
		if got := float64(heard) * times; got < 0.95*7*n || got > 1.05*7*n {
			t.Errorf("room %d: %d bytes heard, %v times that is %v, want %d", most, heard, times, got, 7*n)
		}
		if size := cap(a.Transcript.kept); size > maxScript || size > most+freeScript {
			t.Errorf("room %d: %d bytes are kept", most, size)
		}
		if a.Reset(ChatCompletions, true, false); room.held != 0 {
			t.Errorf("room %d: %d bytes are not given back", most, room.held)
		}
	}
}

// A stream as it usually is takes a few bytes an event.
func TestTranscriptIsSmall(t *testing.T) {
	var a Answer
	a.Reset(ChatCompletions, true, false)
	a.Transcript.Room = &roomy{most: 1 << 30}
	for range 1000 {
		a.Split([]byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"usage":null}`+"\n\n"), false)
	}
	if n := len(a.Transcript.kept); n > 10*1000 {
		t.Errorf("%d bytes for 1000 events", n)
	}
}

// Whatever events come, they are kept as they were.
func FuzzTranscript(f *testing.F) {
	f.Add([]byte(`{"a":"one"}`), []byte(`{"a":"two"}`), []byte(`{"a":"three, which is longer"}`), 3)
	f.Add([]byte(""), []byte("xxxxxxxxxxxxxxxxxxx"), []byte("xxxxxxxx"), 9)
	f.Fuzz(func(t *testing.T, a, b, c []byte, order int) {
		script := Transcript{Room: &roomy{most: 1 << 30}}
		var want []string
		for range 12 {
			data := [][]byte{a, b, c}[uint(order)%3]
			if order /= 3; order%5 == 4 && len(want) > 0 {
				script.piece(data)
				want[len(want)-1] += string(data)
				continue
			}
			script.event(data)
			want = append(want, string(data))
		}
		var got []string
		script.entries(func(data []byte) { got = append(got, string(data)) })
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// No JSON, whole or not, harms who reads its texts, and no text is longer than what
// it stands in.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a\u00e9"}]}],"tools":[{}]}`, `{"input":[[1,2],"x"]}`,
		`{"choices":[{"index":0,"delta":{"content":"a"}}]}`, `{"messages":[}]`, `{"type":"x.delta","delta":"\ud800`, "{\"a\":\"\\", `{"prompt":{{{`, ` "00`, ` "`,
	} {
		f.Add([]byte(s), uint8(ChatCompletions))
		f.Add([]byte(s), uint8(Embeddings))
	}
	f.Fuzz(func(t *testing.T, body []byte, op uint8) {
		sum := 0
		add := func(text string) { sum += len(text) }
		more := PromptTexts(Operation(op)%operations, body, add)
		if whole := json.Valid(body); more < 0 || whole && sum > 3*len(body) { // invalid UTF-8 becomes three bytes
			t.Errorf("%d bytes of text, %d more tokens in %q", sum, more, body)
		}
		for _, events := range []bool{true, false} {
			answerTexts(events, body, func(_, text string) { add(text) })
		}
	})
}
