package translate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// chatHeard notes the events that a decoder emits, one word each; pieces of one
// block or call become one.
type chatHeard struct {
	words []string
	last  string
	open  map[int]int // by call: index of the word with its arguments
}

func (h *chatHeard) take(e *Event) {
	piece := func(kind string) {
		if h.last == kind {
			h.words[len(h.words)-1] += string(e.Text)
		} else {
			h.words = append(h.words, kind+" "+string(e.Text))
		}
		h.last = kind
	}
	switch e.Kind {
	case TextPiece:
		piece("text")
		return
	case RefusalPiece:
		piece("refusal")
		return
	case ThoughtPiece:
		piece("thought")
		return
	case CallPiece:
		h.words[h.open[e.Call]] += string(e.Text)
		return
	}
	h.last = ""
	word := ""
	switch e.Kind {
	case Start:
		word = "start " + e.ID + " " + e.Model
	case Sealed:
		word = "sealed " + e.State.Data
	case BlockEnd:
		word = "end"
	case CallStart:
		if h.open == nil {
			h.open = map[int]int{}
		}
		h.open[e.Call] = len(h.words)
		word = fmt.Sprintf("call %d %s %s ", e.Call, e.ID, e.Space+e.Name)
		if e.Custom {
			word += "custom "
		}
	case CallEnd:
		word = fmt.Sprintf("callend %d", e.Call)
	case Finish:
		word = fmt.Sprintf("finish %d%s", e.Reason, e.StopSequence)
	}
	h.words = append(h.words, word)
}
func (h *chatHeard) finish(*usage.Tokens) {}
func (h *chatHeard) fail(*dialect.Error)  {}

// chatAnswerOf makes an answer of an upstream of Chat Completions to a client of
// that dialect.
func chatAnswerOf(c *Conversation, events bool) *Answer {
	n := 0
	r := &Request{c: c, to: dialect.Chat, o: Options{
		Upstream: "up", Now: time.Unix(1790000000, 0),
		NewID: func() string { n++; return "new" + strconv.Itoa(n) },
	}}
	r.names.send(toolName{name: "patch", custom: true}, chatNames)
	r.names.send(toolName{space: "ns", name: "deep"}, chatNames)
	a := r.Answer(events)
	return a
}

// hearChat decodes a stream of chunks; each is one event.
func hearChat(chunks ...string) ([]string, error) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true, Stop: []string{"END"}}, true)
	h := &chatHeard{}
	a.enc = h
	for _, chunk := range chunks {
		a.Events([]byte("data: " + chunk + "\n\n"))
	}
	a.End(nil)
	return h.words, a.Problem
}

// delta is a chunk with a delta.
func delta(members string) string {
	return `{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{` + members + `},"finish_reason":null}],"usage":null}`
}

const (
	chatStop = `{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	chatDone = "[DONE]"
	begins   = "start chatcmpl-1 gpt-x"
)

var (
	finishStop  = fmt.Sprintf("finish %d", Stop)
	finishCalls = fmt.Sprintf("finish %d", Calls)
)

// chatExample is the stream of the wire page.
var chatExample = []string{
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"finish_reason":null}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":null}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":null}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}`,
	`{"id":"chatcmpl-b2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}`,
	chatDone,
}

// chatStreams are streams of servers of all sorts and what is heard of them.
var chatStreams = map[string]struct{ chunks, want []string }{
	"the wire page": {chatExample, []string{"start chatcmpl-b2 gpt-x", `call 0 call_1 f {"a":1}`, "call 1 call_2 g {}", "callend 0", "callend 1", finishCalls}},
	"text": {
		[]string{delta(`"role":"assistant","content":""`), delta(`"content":"Gr"`), delta(`"content":"\u00fc\u00df \ud83d\ude00"`), delta(`"content":null`), chatStop, chatDone},
		[]string{begins, "text Grüß 😀", finishStop},
	},
	"no sign of the end but the reason":  {[]string{delta(`"content":"a"`), chatStop}, []string{begins, "text a", finishStop}},
	"the sign of the end, but no reason": {[]string{delta(`"content":"a"`), chatDone}, []string{begins, "text a", fmt.Sprintf("finish %d", Unknown)}},
	"nothing behind the end counts":      {[]string{delta(`"content":"a"`), chatStop, chatDone, delta(`"content":"b"`), `{`}, []string{begins, "text a", finishStop}},
	"refusal": {
		[]string{delta(`"refusal":"I "`), delta(`"refusal":"won't"`), chatStop},
		[]string{begins, "refusal I won't", fmt.Sprint("finish ", Declined)},
	},
	"one name of reasoning in a chunk": {
		[]string{delta(`"reasoning_content":"a","reasoning":"a"`), delta(`"reasoning":"b"`), delta(`"reasoning_text":"c","content":""`), delta(`"reasoning_content":null,"content":"d"`), chatStop},
		[]string{begins, "thought abc", "text d", finishStop},
	},
	"content of Mistral": {
		[]string{
			delta(`"content":[{"type":"thinking","thinking":[{"type":"text","text":"h"},{"type":"text","text":"m"}]}]`),
			delta(`"content":[{"type":"text","text":"a"},{"type":"reference","reference_ids":[1]},"b",null]`),
			`{"id":"x","choices":[{"index":0,"delta":{"content":"c"},"finish_reason":"model_length"}],"usage":{"prompt_tokens":1}}`,
		},
		[]string{begins, "thought hm", "text abc", fmt.Sprintf("finish %d", Length)},
	},
	"members in the order of the alphabet": {
		[]string{
			`{"choices":[{"delta":{"content":"a"},"finish_reason":null,"index":0}],"created":1,"id":"chatcmpl-1","model":"gpt-x"}`,
			`{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"k\":\"\\\"\"}","name":"f"},"id":"c\u0031","index":0,"type":"function"}]},"finish_reason":null,"index":0}],"id":"chatcmpl-1"}`,
			`{"choices":[{"delta":{},"finish_reason":"tool_calls","index":0}]}`,
		},
		[]string{begins, "text a", `call 0 c1 f {"k":"\""}`, "callend 0", finishCalls},
	},
	"the stop sequence that vLLM tells": {
		[]string{delta(`"content":"a"`), `{"choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":"END"}]}`},
		[]string{begins, "text a", fmt.Sprintf("finish %dEND", StopSequence)},
	},
	"an empty reason is none": {
		[]string{`{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}`, delta(`"content":"b"`), chatStop},
		[]string{begins, "text ab", finishStop},
	},
	"filtered": {
		[]string{`{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}`},
		[]string{begins, fmt.Sprintf("finish %d", Filtered)},
	},
	"cut short in a call": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x"}}]`), `{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}`},
		[]string{begins, `call 0 a f {"x`, "callend 0", fmt.Sprintf("finish %d", Length)},
	},
	"a reason that speaks of calls that there are none of": {
		[]string{delta(`"content":"a"`), `{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`},
		[]string{begins, "text a", finishStop},
	},
	"calls without an index": {
		[]string{
			delta(`"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{"}}]`), delta(`"tool_calls":[{"function":{"arguments":"}"}}]`),
			delta(`"tool_calls":[{"id":"b","function":{"name":"f","arguments":"{\"x\":"}}]`), delta(`"tool_calls":[{"id":"b","function":{"arguments":"1}"}}]`), chatStop,
		},
		[]string{begins, "call 0 a f {}", `call 1 b f {"x":1}`, "callend 0", "callend 1", finishCalls},
	},
	"calls without an index, fragments in turns": {
		[]string{
			delta(`"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{"}},{"id":"b","function":{"name":"g","arguments":"["}}]`),
			delta(`"tool_calls":[{"id":"a","function":{"arguments":"}"}},{"id":"b","function":{"arguments":"]"}}]`), chatStop,
		},
		[]string{begins, "call 0 a f {}", "call 1 b g []", "callend 0", "callend 1", finishCalls},
	},
	"all calls with the index 0": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":0,"id":"b","function":{"name":"f","arguments":"{\"x\":1}"}}]`), chatStop},
		[]string{begins, "call 0 a f {}", `call 1 b f {"x":1}`, "callend 0", "callend 1", finishCalls},
	},
	"no ids at all": {
		[]string{
			delta(`"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"x\":"}}]`), delta(`"tool_calls":[{"index":0,"function":{"name":"f","arguments":"1}"}}]`),
			delta(`"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]`), delta(`"tool_calls":[{"index":0,"function":{"name":"g","arguments":"{}"}}]`), chatStop,
		},
		[]string{begins, `call 0 call_new1 f {"x":1}`, "call 1 call_new2 f {}", "call 2 call_new3 g {}", "callend 0", "callend 1", "callend 2", finishCalls},
	},
	"id and name in every fragment": {
		[]string{
			delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]`), delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]`),
			delta(`"tool_calls":[{"index":0,"id":"","function":{"name":"","arguments":"}"}}]`), chatStop,
		},
		[]string{begins, "call 0 a f {}", "callend 0", finishCalls},
	},
	"two calls with one id": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"a","function":{"name":"f"}}]`), chatStop},
		[]string{begins, "call 0 a f {}", "call 1 call_new1 f {}", "callend 0", "callend 1", finishCalls},
	},
	"the name comes late": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{"}}]`), delta(`"tool_calls":[{"index":0,"function":{"name":"f","arguments":"}"}}]`), chatStop},
		[]string{begins, "call 0 a f {}", "callend 0", finishCalls},
	},
	"arguments of null": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","type":null,"function":{"name":"f","arguments":null}}]`), chatStop},
		[]string{begins, "call 0 a f {}", "callend 0", finishCalls},
	},
	"arguments that are no JSON": {
		[]string{delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"please"}}]`), chatStop},
		[]string{begins, "call 0 a f please", "callend 0", finishCalls},
	},
	"the time before tools": {
		[]string{delta(`"function_call":{"name":"f","arguments":""}`), delta(`"function_call":{"arguments":"{}"}`), `{"choices":[{"index":0,"delta":{},"finish_reason":"function_call"}]}`},
		[]string{begins, "call 0 call_new1 f {}", "callend 0", finishCalls},
	},
	"tools by the client's names": {
		[]string{
			delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"patch","arguments":"{\"in"}},{"index":1,"id":"b","function":{"name":"ns_deep","arguments":"{}"}}]`),
			delta(`"tool_calls":[{"index":0,"function":{"arguments":"put\":\"*\\n\"}"}}]`), chatStop,
		},
		[]string{begins, "call 0 a patch custom *\n", "call 1 b nsdeep {}", "callend 0", "callend 1", finishCalls},
	},
	"reasoning of OpenRouter": {
		[]string{
			delta(`"content":"","reasoning":"h","reasoning_details":[{"type":"reasoning.text","text":"h","format":"f1","index":0}]`),
			delta(`"content":"","reasoning":"m","reasoning_details":[{"type":"reasoning.text","text":"m","index":0}]`),
			delta(`"content":"","reasoning":null,"reasoning_details":[{"type":"reasoning.text","signature":"s","index":0}]`),
			delta(`"content":"a"`), delta(`"reasoning_details":[{"type":"reasoning.encrypted","data":"x","id":"r","index":1}]`), chatStop,
		},
		[]string{
			begins, "thought hm", `sealed [{"type":"reasoning.text","text":"hm","signature":"s","format":"f1","index":0}]`, "text a",
			`sealed [{"type":"reasoning.encrypted","data":"x","id":"r","index":1}]`, finishStop,
		},
	},
	"reasoning of Copilot": {
		[]string{delta(`"reasoning_text":"hm","content":null`), delta(`"reasoning_opaque":"x"`), delta(`"content":"a"`), chatStop},
		[]string{begins, "thought hm", "sealed x", "text a", finishStop},
	},
	"nulls and other things where something else belongs": {
		[]string{
			`null`, `{}`, `{"choices":null}`, `{"choices":[null,{"delta":null},{"index":null,"delta":{"content":5,"tool_calls":null,"reasoning":{},"refusal":[],"audio":{"id":"x"}},"logprobs":{}}],"usage":{},"id":5,"error":null}`,
			delta(`"content":"a","tool_calls":[],"annotations":[{}],"obfuscation":"xx"`), chatStop,
		},
		[]string{begins, "text a", finishStop},
	},
	"more than one answer": {
		[]string{`{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}`, `{"choices":[{"index":1,"delta":{"content":"c"}}]}`, delta(`"content":"d"`), chatStop},
		[]string{begins, "text ad", finishStop},
	},
}

func TestChatDecoder(t *testing.T) {
	for name, c := range chatStreams {
		t.Run(name, func(t *testing.T) {
			got, err := hearChat(c.chunks...)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v\ngot  %q\nwant %q", err, got, c.want)
			}
		})
	}
}

// TestChatDecoderBroken: what is no answer ends as one that broke off: nothing
// says that it finished.
func TestChatDecoderBroken(t *testing.T) {
	many := `{"choices":[{"delta":{"tool_calls":[`
	for i := range maxCalls + 1 {
		many += fmt.Sprintf(`{"index":%d,"id":"c%d","function":{"name":"f"}},`, i, i)
	}
	many = strings.TrimSuffix(many, ",") + `]}}]}`
	for name, chunks := range map[string][]string{
		"nothing":                    {},
		"only the end":               {chatDone},
		"only a role":                {delta(`"role":"assistant"`), chatDone},
		"no reason to finish":        {delta(`"content":"a"`)},
		"no JSON":                    {delta(`"content":"a"`), `{"choices":[{"delta":{"content":"b`, chatStop},
		"no object":                  {`[]`, chatStop},
		"text":                       {`hello`, chatStop},
		"more behind the object":     {chatStop + "}"},
		"choices that are no list":   {`{"choices":{}}`, chatStop},
		"a delta that is no object":  {`{"choices":[{"delta":"a"}]}`, chatStop},
		"a call that is no object":   {delta(`"tool_calls":["f"]`), chatStop},
		"a call without a name":      {delta(`"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{}"}}]`), chatStop},
		"too many calls":             {many, chatStop},
		"an error":                   {delta(`"content":"a"`), `{"error":{"message":"boom","code":500}}`, chatDone},
		"an error behind the finish": {delta(`"content":"a"`), chatStop, `{"error":"boom"}`, chatDone},
		"an error as a reason":       {delta(`"content":"a"`), `{"choices":[{"delta":{},"finish_reason":"error"}]}`, chatDone},
	} {
		got, err := hearChat(chunks...)
		if err == nil || slices.ContainsFunc(got, func(w string) bool { return strings.HasPrefix(w, "finish") }) {
			t.Errorf("%s: %v, %.200q", name, err, got)
		}
	}
}

// TestChatWhole: answers that are no streams.
func TestChatWhole(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want []string // nil: broken
	}{
		"the wire page": {
			`{"id":"chatcmpl-a1","object":"chat.completion","created":1790000000,"model":"gpt-x-2026-06-01",
 "choices":[{"index":0,"finish_reason":"tool_calls","logprobs":null,
   "message":{"role":"assistant","content":null,"refusal":null,"annotations":[],
     "tool_calls":[{"id":"call_7","type":"function","function":{"name":"get_temp","arguments":"{\"city\":\"Oslo\"}"}}]}}],
 "service_tier":"default","usage":{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690}}`,
			[]string{"start chatcmpl-a1 gpt-x-2026-06-01", `call 0 call_7 get_temp {"city":"Oslo"}`, "callend 0", finishCalls},
		},
		"reasoning and text": {
			`{"model":"m","choices":[{"message":{"content":"a","reasoning_content":"hm"},"finish_reason":"stop"}],"id":"x"}`,
			[]string{"start x m", "text a", "thought hm", finishStop},
		},
		"Ollama": {
			`{"id":"x","model":"m","choices":[{"message":{"content":"","tool_calls":[{"index":0,"function":{"name":"f","arguments":{"a": 1.0}}},{"index":0,"function":{"name":"f","arguments":{}}}]},"finish_reason":"stop"}]}`,
			[]string{"start x m", `call 0 call_new1 f {"a":1.0}`, "call 1 call_new2 f {}", "callend 0", "callend 1", finishCalls},
		},
		"one id for two calls": {
			`{"id":"x","model":"m","choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"a","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}]}`,
			[]string{"start x m", "call 0 a f {}", "call 1 call_new1 f {}", "callend 0", "callend 1", finishCalls},
		},
		"no reason":           {`{"choices":[{"message":{"content":"a"}}]}`, []string{"start  ", "text a", fmt.Sprintf("finish %d", Unknown)}},
		"no choices":          {`{"id":"x","choices":[]}`, nil},
		"nothing":             {`{}`, nil},
		"an error in an 200":  {`{"error":{"message":"x"},"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}`, nil},
		"HTML":                {`<html>`, nil},
		"half":                {`{"choices":[{"message":{"content":"a"`, nil},
		"a message of a list": {`{"choices":[{"message":[]}]}`, nil},
	} {
		a := chatAnswerOf(&Conversation{From: dialect.Chat}, false)
		h := &chatHeard{}
		a.enc = h
		a.Whole([]byte(c.body))
		a.End(nil)
		if c.want == nil {
			if a.Problem == nil {
				t.Errorf("%s: %q", name, h.words)
			}
		} else if a.Problem != nil || !slices.Equal(h.words, c.want) {
			t.Errorf("%s: %v\ngot  %q\nwant %q", name, a.Problem, h.words, c.want)
		}
	}
}

// TestTrap18_NameAndArgumentsTogether: arguments that come with the name are kept.
func TestTrap18_NameAndArgumentsTogether(t *testing.T) {
	got, err := hearChat(delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":1"}}]`), delta(`"tool_calls":[{"index":0,"function":{"arguments":"}"}}]`), chatStop)
	if want := []string{begins, `call 0 a f {"x":1}`, "callend 0", finishCalls}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestTrap20_CallsInSeveralChoices: one answer, spread over choices.
func TestTrap20_CallsInSeveralChoices(t *testing.T) {
	want := []string{begins, "text Let me see.", "call 0 a f {}", "call 1 b f {}", "callend 0", "callend 1", finishCalls}
	got, err := hearChat(
		`{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"content":"Let me see."},"finish_reason":"stop"},{"index":1,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]}},{"index":2,"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":"{}"}}]}}]}`,
		`{"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]},"finish_reason":"tool_calls"},{"index":3,"delta":{}}]}`)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
	a := chatAnswerOf(&Conversation{From: dialect.Chat}, false)
	h := &chatHeard{}
	a.enc = h
	a.Whole([]byte(`{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"message":{"content":"Let me see."},"finish_reason":"stop"},
 {"index":0,"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"},{"index":0,"message":{"tool_calls":[{"id":"b","function":{"name":"f","arguments":"{}"}}]}}]}`))
	if a.Problem != nil || !slices.Equal(h.words, want) {
		t.Errorf("%v, %q", a.Problem, h.words)
	}
}

// TestTrap21_AllCallsOfAChunk: a chunk may begin several calls and end others.
func TestTrap21_AllCallsOfAChunk(t *testing.T) {
	got, err := hearChat(delta(`"content":"x","tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":1,"id":"b","function":{"name":"g","arguments":"["}}]`),
		delta(`"tool_calls":[{"index":1,"function":{"arguments":"]"}},{"index":2,"id":"c","function":{"name":"h","arguments":"{}"}}]`), `{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`)
	if want := []string{begins, "text x", "call 0 a f {}", "call 1 b g []", "call 2 c h {}", "callend 0", "callend 1", "callend 2", finishCalls}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestTrap22_FragmentsInTurns: fragments of several calls in turns stay apart, and
// no call ends before the answer does.
func TestTrap22_FragmentsInTurns(t *testing.T) {
	piece := func(i int, args string) string {
		return delta(fmt.Sprintf(`"tool_calls":[{"index":%d,"function":{"arguments":%q}}]`, i, args))
	}
	got, err := hearChat(delta(`"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"b","function":{"name":"g"}}]`),
		piece(0, `{"`), piece(1, `{"`), piece(0, `x":`), piece(1, `y":`), piece(1, `2}`), piece(0, `1}`), chatStop)
	if want := []string{begins, `call 0 a f {"x":1}`, `call 1 b g {"y":2}`, "callend 0", "callend 1", finishCalls}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestTrap23_Ollama: finish stop, arguments as an object, all with the index 0, and
// another id in every chunk.
func TestTrap23_Ollama(t *testing.T) {
	chunk := func(id, members, reason string) string {
		return `{"id":"` + id + `","model":"m","choices":[{"index":0,"delta":{` + members + `},"finish_reason":` + reason + `}]}`
	}
	got, err := hearChat(
		chunk("r1", `"role":"assistant","content":"","reasoning":"hm"`, "null"),
		chunk("r2", `"content":"","tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":{"x": 1}}}]`, "null"),
		chunk("r3", `"content":"","tool_calls":[{"index":0,"id":"b","type":"function","function":{"name":"f","arguments":{"x": 2}}}]`, "null"),
		chunk("r4", `"content":""`, `"stop"`), chatDone)
	if want := []string{"start r1 m", "thought hm", `call 0 a f {"x":1}`, `call 1 b f {"x":2}`, "callend 0", "callend 1", finishCalls}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestTrap29_FragmentsWithoutID: fragments that only have arguments go on with the
// call under way.
func TestTrap29_FragmentsWithoutID(t *testing.T) {
	got, err := hearChat(delta(`"tool_calls":[{"id":"a","function":{"name":"f","arguments":""}}]`), delta(`"tool_calls":[{"function":{"arguments":"{\"x\""}}]`),
		delta(`"tool_calls":[{"function":{"arguments":":1"}}]`), delta(`"tool_calls":[{"id":null,"function":{"name":null,"arguments":"}"}}]`), chatStop)
	if want := []string{begins, `call 0 a f {"x":1}`, "callend 0", finishCalls}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// TestTrap32_ReasoningText: reasoning is heard under all of its names.
func TestTrap32_ReasoningText(t *testing.T) {
	for _, name := range []string{"reasoning_content", "reasoning", "reasoning_text"} {
		got, err := hearChat(delta(`"`+name+`":"hm"`), chatStop)
		if want := []string{begins, "thought hm", finishStop}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %q", name, err, got)
		}
	}
}

// TestTrap38_FailureIsNoAnswer: a failure behind the first byte does not become an
// answer without content.
func TestTrap38_FailureIsNoAnswer(t *testing.T) {
	for _, chunks := range [][]string{{delta(`"role":"assistant","content":""`)}, {delta(`"role":"assistant","content":""`), chatDone}, {delta(`"role":"assistant"`), `{"error":{"message":"x"}}`}} {
		a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
		for _, chunk := range chunks {
			a.Events([]byte("data: " + chunk + "\n\n"))
		}
		a.End(nil)
		if out := string(a.Take()); a.Problem == nil || strings.Contains(out, "[DONE]") || strings.Contains(out, `"finish_reason":"`) {
			t.Errorf("%q: %v, %s", chunks, a.Problem, out)
		}
	}
}

// TestTrap56_Azure: a first chunk with nothing in it, and chunks without a delta.
func TestTrap56_Azure(t *testing.T) {
	got, err := hearChat(
		`{"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}`,
		delta(`"role":"assistant","content":""`), delta(`"content":"a"`),
		`{"choices":[{"index":0,"finish_reason":null,"content_filter_results":{},"content_filter_offsets":{"check_offset":1}}],"id":"","model":""}`,
		chatStop, `{"choices":[{"index":0,"finish_reason":null,"content_filter_results":{}}],"id":"","model":""}`, chatDone)
	if want := []string{begins, "text a", finishStop}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

// chatMessageOf puts the chunks of a stream together, as OpenAI's SDK does, and
// checks that they keep to the dialect.
func chatMessageOf(t testing.TB, stream string, asked bool) map[string]any {
	t.Helper()
	frames := strings.Split(stream, "\n\n")
	if frames[len(frames)-1] != "" || len(frames) < 3 || frames[len(frames)-2] != "data: [DONE]" {
		t.Fatalf("no end in %s", stream)
	}
	type call struct {
		ID, Type         string
		Function, Custom map[string]string
	}
	message, calls := map[string]any{}, []call{}
	var id any
	reason := ""
	for i, frame := range frames[:len(frames)-2] {
		var chunk struct {
			ID, Object, Model string
			Created           int64
			Usage             json.RawMessage
			Choices           []struct {
				Index  int
				Finish *string `json:"finish_reason"`
				Delta  map[string]json.RawMessage
			}
		}
		data, ok := strings.CutPrefix(frame, "data: ")
		dec := json.NewDecoder(strings.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&chunk); !ok || err != nil {
			t.Fatalf("%v in %s", err, frame)
		}
		if head := [...]any{chunk.ID, chunk.Object, chunk.Model, chunk.Created}; id == nil {
			id = head
		} else if id != head {
			t.Fatalf("chunks differ: %v and %v", id, head)
		}
		last := i == len(frames)-3
		if asked && last {
			if len(chunk.Choices) != 0 || len(chunk.Usage) < 10 || reason == "" {
				t.Fatalf("no chunk of usage: %s", frame)
			}
			continue
		}
		if (string(chunk.Usage) == "null") != asked || len(chunk.Choices) != 1 {
			t.Fatalf("chunk %d: %s", i, frame)
		}
		c := chunk.Choices[0]
		if c.Finish != nil {
			if reason != "" || len(c.Delta) > 0 {
				t.Fatalf("a second reason, or one with a delta: %s", frame)
			}
			reason = *c.Finish
			continue
		}
		if _, role := c.Delta["role"]; role != (i == 0) || reason != "" {
			t.Fatalf("chunk %d: %s", i, frame)
		}
		for name, raw := range c.Delta {
			var text string
			var fragments []struct {
				Index            *int
				ID, Type         string
				Function, Custom map[string]string
			}
			switch {
			case name == "function_call":
				var f map[string]string
				if err := json.Unmarshal(raw, &f); err != nil {
					t.Fatal(err)
				}
				have, _ := message[name].(map[string]string)
				if have == nil {
					have = map[string]string{}
				}
				for k, v := range f {
					have[k] += v
				}
				message[name] = have
			case name != "tool_calls":
				if err := json.Unmarshal(raw, &text); err != nil {
					t.Fatalf("%s: %v", frame, err)
				}
				before, _ := message[name].(string)
				message[name] = before + text
			default:
				if err := json.Unmarshal(raw, &fragments); err != nil {
					t.Fatalf("%s: %v", frame, err)
				}
				for _, f := range fragments {
					if f.Index == nil || *f.Index > len(calls) {
						t.Fatalf("index: %s", frame)
					}
					if first := *f.Index == len(calls); first != (f.ID != "") || first != (f.Type != "") {
						t.Fatalf("id and type: %s", frame)
					} else if first {
						calls = append(calls, call{ID: f.ID, Type: f.Type})
					}
					c := &calls[*f.Index]
					for k, v := range f.Function {
						if c.Function == nil {
							c.Function = map[string]string{}
						}
						c.Function[k] += v
					}
					for k, v := range f.Custom {
						if c.Custom == nil {
							c.Custom = map[string]string{}
						}
						c.Custom[k] += v
					}
				}
			}
		}
	}
	if reason == "" {
		t.Fatalf("no reason in %s", stream)
	}
	message["calls"], message["reason"] = calls, reason
	return message
}

// chatEvents is an answer with everything in it.
func chatEvents() []Event {
	text := func(kind EventKind, s string) Event { return Event{Kind: kind, Text: []byte(s)} }
	return []Event{
		{Kind: Start, ID: "msg_7", Model: "other"},
		text(ThoughtPiece, "h"), text(ThoughtPiece, "m"),
		{Kind: Sealed, State: State{Data: "sig"}},
		text(TextPiece, "Let \"me\""), text(TextPiece, " see."),
		{Kind: BlockEnd},
		text(TextPiece, "\n"),
		text(ThoughtPiece, "more"),
		{Kind: Sealed, State: State{Data: "sig2"}},
		{Kind: CallStart, Call: 3, ID: "a", Name: "f", State: State{Data: "gem"}},
		{Kind: CallPiece, Call: 3, Text: []byte(`{"x"`)},
		{Kind: CallStart, Call: 5, ID: "b", Name: "patch", Custom: true},
		{Kind: CallPiece, Call: 5, Text: []byte("***")},
		{Kind: CallPiece, Call: 3, Text: []byte(`:1}`)},
		{Kind: CallEnd, Call: 3},
		{Kind: CallEnd, Call: 5},
		{Kind: CallStart, Call: 6, Name: "g"},
		{Kind: CallEnd, Call: 6},
		text(RefusalPiece, "no"),
		{Kind: Finish, Reason: Stop},
	}
}

// TestChatEncoder: the frames that a client gets, byte for byte.
func TestChatEncoder(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Asked: "alias", Stream: true, Usage: true}, true)
	for _, e := range chatEvents() {
		a.enc.take(&e)
	}
	a.enc.finish(&usage.Tokens{Input: 200, CacheRead: 2000, CacheWrite: 300, CacheWrite1h: 100, Output: 90, Reasoning: 64, ReasoningKnown: true})
	state := func(data string) string { s := State{Data: data}; return a.sealed(s) }
	want := ""
	for _, members := range []string{
		`"role":"assistant","content":""`, `"reasoning_content":"h"`, `"reasoning_content":"m"`, `"reasoning_opaque":"` + state("sig") + `"`,
		`"content":"Let \"me\""`, `"content":" see."`, `"content":"\n"`, `"reasoning_content":"more"`, `"reasoning_opaque":" 2:` + state("sig2") + `"`,
		`"tool_calls":[{"index":0,"id":"a__` + state("gem") + `","type":"function","function":{"name":"f","arguments":""}}]`,
		`"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}]`,
		`"tool_calls":[{"index":1,"id":"b","type":"custom","custom":{"name":"patch","input":""}}]`, `"tool_calls":[{"index":1,"custom":{"input":"***"}}]`,
		`"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]`,
		`"tool_calls":[{"index":2,"id":"call_new1","type":"function","function":{"name":"g","arguments":""}}]`, `"tool_calls":[{"index":2,"function":{"arguments":"{}"}}]`,
		`"refusal":"no"`,
	} {
		want += `data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1790000000,"model":"alias","choices":[{"index":0,"delta":{` + members + `},"finish_reason":null}],"usage":null}` + "\n\n"
	}
	want += `data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1790000000,"model":"alias","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}` + "\n\n" +
		`data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1790000000,"model":"alias","choices":[],"usage":{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690,"prompt_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400},"completion_tokens_details":{"reasoning_tokens":64}}}` + "\n\n" +
		"data: [DONE]\n\n"
	got := string(a.Take())
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	chatMessageOf(t, got, true)
}

// TestChatReply: the same answer in one piece, and what a client sends back of it.
func TestChatReply(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Asked: "alias"}, true)
	for _, e := range chatEvents() {
		a.enc.take(&e)
	}
	a.enc.finish(&usage.Tokens{Input: 86, CacheRead: 1920, Output: 300})
	out := string(a.Take())
	gem, sig, sig2 := a.sealed(State{Data: "gem"}), a.sealed(State{Data: "sig"}), a.sealed(State{Data: "sig2"})
	message := `{"role":"assistant","content":"Let \"me\" see.\n","refusal":"no","reasoning_content":"hmmore","reasoning_opaque":"` + sig + ` 2:` + sig2 + `",
 "tool_calls":[{"id":"a__` + gem + `","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"b","type":"custom","custom":{"name":"patch","input":"***"}},{"id":"call_new1","type":"function","function":{"name":"g","arguments":"{}"}}]}`
	sameJSON(t, out, `{"id":"chatcmpl-7","object":"chat.completion","created":1790000000,"model":"alias","choices":[{"index":0,"message":`+message+`,"logprobs":null,"finish_reason":"tool_calls"}],
 "usage":{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,"prompt_tokens_details":{"cached_tokens":1920,"cache_write_tokens":0}}}`)

	c := chatTurnsOf(t, `[{"role":"user","content":"q"},`+message+`,{"role":"tool","tool_call_id":"b","content":"2"},{"role":"tool","tool_call_id":"a__`+gem+`","content":"1"},{"role":"tool","tool_call_id":"call_new1","content":"3"}]`)
	var got []string
	for _, p := range c.Turns[1].Parts {
		switch p.Kind {
		case Thought, Text, Refusal:
			got = append(got, p.Text+"|"+p.State.Data+"|"+p.State.Upstream)
		case Call:
			got = append(got, p.Call.ID+" "+p.Call.Name+" "+p.Call.Arguments+"|"+p.State.Data+"|"+p.State.Upstream)
		}
	}
	want := []string{"hm|sig|up", "more|sig2|up", "Let \"me\" see.\n||", "no||", `a f {"x":1}|gem|up`, "b patch ***||", "call_new1 g {}||"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestChatEmptyReplies: content is null only where something else stands for it.
func TestChatEmptyReplies(t *testing.T) {
	for _, c := range []struct {
		events []Event
		want   string
	}{
		{[]Event{{Kind: Finish, Reason: Filtered}}, `{"index":0,"message":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":"content_filter"}`},
		{[]Event{{Kind: RefusalPiece, Text: []byte("no")}, {Kind: Finish, Reason: Declined}}, `{"index":0,"message":{"role":"assistant","content":null,"refusal":"no"},"logprobs":null,"finish_reason":"stop"}`},
		{[]Event{{Kind: CallStart, ID: "a", Name: "f"}, {Kind: CallEnd}, {Kind: Finish, Reason: Calls}}, `{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}`},
		{[]Event{{Kind: TextPiece, Text: []byte("a")}, {Kind: Finish, Reason: ContextFull}}, `{"index":0,"message":{"role":"assistant","content":"a","refusal":null},"logprobs":null,"finish_reason":"length"}`},
	} {
		a := chatAnswerOf(&Conversation{From: dialect.Chat, Asked: "alias"}, true)
		a.enc.take(&Event{Kind: Start})
		for _, e := range c.events {
			a.enc.take(&e)
		}
		a.enc.finish(nil)
		sameJSON(t, string(a.Take()), `{"id":"chatcmpl-new1","object":"chat.completion","created":1790000000,"model":"alias","choices":[`+c.want+`]}`)
	}
}

// TestChatReasons: every reason has a word, and a call is one of its own.
func TestChatReasons(t *testing.T) {
	for reason, want := range map[Reason][2]string{
		Stop: {"stop", "tool_calls"}, StopSequence: {"stop", "tool_calls"}, Calls: {"stop", "tool_calls"}, Length: {"length", "length"}, ContextFull: {"length", "length"},
		Filtered: {"content_filter", "content_filter"}, Declined: {"stop", "tool_calls"}, Paused: {"stop", "tool_calls"}, BadCall: {"stop", "tool_calls"}, Unknown: {"stop", "tool_calls"},
	} {
		a := chatAnswerOf(&Conversation{}, true)
		if got := [2]string{a.chatReason(reason, false), a.chatReason(reason, true)}; got != want {
			t.Errorf("%d: %q, want %q", reason, got, want)
		}
	}
}

// TestChatLegacyClients: a client of functions gets a function_call, the first.
func TestChatLegacyClients(t *testing.T) {
	for _, stream := range []bool{true, false} {
		c := &Conversation{From: dialect.Chat, Legacy: true, Stream: stream}
		a := chatAnswerOf(c, true)
		for _, e := range []Event{
			{Kind: Start, ID: "x"},
			{Kind: CallStart, ID: "a", Name: "f"},
			{Kind: CallPiece, Text: []byte(`{"x":`)},
			{Kind: CallStart, Call: 1, ID: "b", Name: "g"},
			{Kind: CallPiece, Call: 1, Text: []byte("{}")},
			{Kind: CallPiece, Text: []byte(`1}`)},
			{Kind: CallEnd},
			{Kind: CallEnd, Call: 1},
			{Kind: Finish, Reason: Calls},
		} {
			a.enc.take(&e)
		}
		a.enc.finish(nil)
		out := string(a.Take())
		if !stream {
			sameJSON(t, out, `{"id":"chatcmpl-x","object":"chat.completion","created":1790000000,"model":"","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"function_call":{"name":"f","arguments":"{\"x\":1}"}},"logprobs":null,"finish_reason":"function_call"}]}`)
			continue
		}
		m := chatMessageOf(t, out, false)
		if want := map[string]string{"name": "f", "arguments": `{"x":1}`}; !reflect.DeepEqual(m["function_call"], want) || m["reason"] != "function_call" {
			t.Errorf("%v", m)
		}
	}
}

// TestChatLongStates: a state that is too long for an id is left out.
func TestChatLongStates(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
	a.enc.take(&Event{Kind: Start})
	a.enc.take(&Event{Kind: CallStart, ID: "a", Name: "f", State: State{Data: strings.Repeat("x", maxChatState)}})
	if out := string(a.Take()); !strings.Contains(out, `"id":"a","type"`) {
		t.Errorf("%.300s", out)
	}
}

// TestTrap16_CallsHaveTheirOwnIndex: calls that another dialect numbers in its own
// way count from 0 on here, in the order in which they came.
func TestTrap16_CallsHaveTheirOwnIndex(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
	a.enc.take(&Event{Kind: Start})
	for _, n := range []int{2, 9, 4} {
		a.enc.take(&Event{Kind: CallStart, Call: n, ID: fmt.Sprint("c", n), Name: "f"})
	}
	for _, n := range []int{4, 2, 9} {
		a.enc.take(&Event{Kind: CallPiece, Call: n, Text: fmt.Append(nil, n)})
	}
	a.enc.take(&Event{Kind: Finish})
	a.enc.finish(nil)
	m := chatMessageOf(t, string(a.Take()), false)
	got := fmt.Sprint(m["calls"])
	if want := "[{c2 function map[arguments:2 name:f] map[]} {c9 function map[arguments:9 name:f] map[]} {c4 function map[arguments:4 name:f] map[]}]"; got != want {
		t.Errorf("got %s", got)
	}
}

// TestTrap26_CallsDecideTheReason: whatever the other side says, calls are to be
// answered.
func TestTrap26_CallsDecideTheReason(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
	for _, e := range []Event{{Kind: Start}, {Kind: CallStart, ID: "a", Name: "f"}, {Kind: CallEnd}, {Kind: Finish, Reason: Stop}} {
		a.enc.take(&e)
	}
	a.enc.finish(nil)
	if m := chatMessageOf(t, string(a.Take()), false); m["reason"] != "tool_calls" {
		t.Errorf("%v", m)
	}
}

// TestTrap43_FirstChunkHasARole and its end is one event of its own (trap 50).
func TestTrap43_FirstChunkHasARole(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
	a.enc.take(&Event{Kind: Start, ID: "x"})
	if out := string(a.Take()); !strings.Contains(out, `"delta":{"role":"assistant","content":""}`) {
		t.Errorf("%s", out)
	}
	a.enc.take(&Event{Kind: Finish})
	a.enc.finish(nil)
	if out := string(a.Take()); !strings.HasSuffix(out, "}\n\ndata: [DONE]\n\n") || strings.Count(out, "[DONE]") != 1 {
		t.Errorf("%s", out)
	}
}

// TestChatUsageOnRequest: naive clients read the first choice of every chunk, and
// the chunk of usage has none.
func TestChatUsageOnRequest(t *testing.T) {
	for _, asked := range []bool{true, false} {
		a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true, Usage: asked}, true)
		a.enc.take(&Event{Kind: Start, ID: "x"})
		a.enc.take(&Event{Kind: Finish})
		a.enc.finish(&usage.Tokens{Input: 1})
		chatMessageOf(t, string(a.Take()), asked)
	}
}

// TestChatFail: an error is the last that a client hears.
func TestChatFail(t *testing.T) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true}, true)
	a.enc.take(&Event{Kind: Start, ID: "x"})
	a.Take()
	a.Fail(&dialect.Error{Fault: dialect.Internal, Message: "boom"})
	if out := string(a.Take()); out != `data: {"error":{"message":"boom","type":"server_error","param":null,"code":null}}`+"\n\n" {
		t.Errorf("%s", out)
	}
}

// TestChatStreamSurvives: a stream that is read and written in the same dialect
// says the same, however it is cut: at any event, and any text at any character.
func TestChatStreamSurvives(t *testing.T) {
	for name, c := range chatStreams {
		t.Run(name, func(t *testing.T) {
			read := func(frames []string, step int) map[string]any {
				a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: true, Usage: true}, true)
				out := ""
				for i := 0; i < len(frames); i += step {
					a.Events([]byte("data: " + strings.Join(frames[i:min(i+step, len(frames))], "\n\ndata: ") + "\n\n"))
					out += string(a.Take())
				}
				a.End(&usage.Tokens{Input: 1})
				if a.Problem != nil {
					t.Fatal(a.Problem)
				}
				return chatMessageOf(t, out+string(a.Take()), true)
			}
			want := read(c.chunks, 1)
			for step := 2; step <= len(c.chunks); step++ {
				if got := read(c.chunks, step); !reflect.DeepEqual(got, want) {
					t.Errorf("%d events at once: %v, want %v", step, got, want)
				}
			}
			var fine []string
			for _, chunk := range c.chunks {
				fine = append(fine, splitChatText(chunk)...)
			}
			if got := read(fine, 1); !reflect.DeepEqual(got, want) {
				t.Errorf("in small pieces: %v, want %v", got, want)
			}
		})
	}
}

// splitChatText makes many chunks of one whose delta is nothing but content.
func splitChatText(chunk string) []string {
	var c struct {
		Choices []struct {
			Index  int
			Delta  map[string]any
			Finish any `json:"finish_reason"`
		}
	}
	if json.Unmarshal([]byte(chunk), &c) != nil || len(c.Choices) != 1 || c.Choices[0].Index != 0 || len(c.Choices[0].Delta) != 1 || c.Choices[0].Finish != nil {
		return []string{chunk}
	}
	text, ok := c.Choices[0].Delta["content"].(string)
	if !ok || text == "" {
		return []string{chunk}
	}
	var out []string
	for _, r := range text {
		q, _ := json.Marshal(string(r))
		out = append(out, delta(`"content":`+string(q)))
	}
	return out
}

func FuzzDecodeChat(f *testing.F) {
	for _, c := range chatStreams {
		f.Add([]byte("data: "+strings.Join(c.chunks, "\n\ndata: ")+"\n\n"), true)
	}
	f.Add([]byte(`{"id":"x","choices":[{"message":{"content":"a","tool_calls":[{"id":"a","function":{"name":"f","arguments":{}}}]},"finish_reason":"stop"}]}`), false)
	f.Fuzz(func(t *testing.T, in []byte, events bool) {
		for _, stream := range []bool{true, false} {
			a := chatAnswerOf(&Conversation{From: dialect.Chat, Stream: stream}, events)
			if events {
				a.Events(in)
			} else {
				a.Whole(in)
			}
			a.End(nil)
			out := a.Take()
			if len(out) > 4096+512*len(in) {
				t.Fatalf("%d bytes out of %d", len(out), len(in))
			}
			switch {
			case stream:
				dialect.EachEvent(out, func(_, data []byte) {
					if !json.Valid(data) && string(data) != chatDone {
						t.Fatalf("not JSON: %s", data)
					}
				})
				if a.Problem == nil {
					chatMessageOf(t, string(out), false)
				}
			case a.Problem == nil && !json.Valid(out):
				t.Fatalf("not JSON: %s", out)
			}
		}
	})
}

// BenchmarkTranslateChatRequest reads and writes a conversation of 200 KB.
func BenchmarkTranslateChatRequest(b *testing.B) {
	var body bytes.Buffer
	body.WriteString(`{"model":"m","stream":true,"tools":[`)
	for i := range 24 {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"type":"function","function":{"name":"tool%d","description":%q,"parameters":{"type":"object","properties":{"a":{"type":"string","description":%q}}}}}`, i, strings.Repeat("what it does\n", 80), strings.Repeat("words ", 100))
	}
	body.WriteString(`],"messages":[{"role":"system","content":"Be brief."}`)
	for i := 0; body.Len() < 200<<10; i++ {
		fmt.Fprintf(&body, `,{"role":"user","content":%q},{"role":"assistant","content":"I will look.","tool_calls":[{"id":"call_%d","type":"function","function":{"name":"tool1","arguments":"{\"a\":\"b\"}"}}]},{"role":"tool","tool_call_id":"call_%d","content":%q}`,
			"Look at file "+strconv.Itoa(i), i, i, strings.Repeat("a line of \"code\" that is read\n\t", 60))
	}
	body.WriteString(`]}`)
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		conv, err := readChatBody(b, body.String())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conv.Write(dialect.Chat, &Options{Model: "up"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTranslateChatChunk reads and writes one chunk of a stream.
func BenchmarkTranslateChatChunk(b *testing.B) {
	a := chatAnswerOf(&Conversation{From: dialect.Chat, Asked: "m", Stream: true}, true)
	chunk := []byte("data: " + `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-x","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" some \"words\" of it"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n")
	b.ReportAllocs()
	for b.Loop() {
		a.Events(chunk)
		a.Take()
	}
	if a.Problem != nil {
		b.Fatal(a.Problem)
	}
}
