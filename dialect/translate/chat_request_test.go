package translate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

// readChatBody reads a request of a client of Chat Completions.
func readChatBody(t testing.TB, body string) (*Conversation, error) {
	t.Helper()
	r := &dialect.Request{Call: dialect.Call{Op: dialect.ChatCompletions, Dialect: dialect.Chat}, Body: []byte(body)}
	if err := r.Read(); err != nil {
		return nil, err
	}
	return Read(r)
}

// chatTurnsOf reads a request with the given messages.
func chatTurnsOf(t *testing.T, messages string) *Conversation {
	t.Helper()
	c, err := readChatBody(t, `{"model":"m","messages":`+messages+`}`)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writeChatBody writes a conversation for an upstream of Chat Completions.
func writeChatBody(t *testing.T, c *Conversation, o Options) (*Request, string) {
	t.Helper()
	if o.Model == "" {
		o.Model = "up"
	}
	r, err := c.Write(dialect.Chat, &o)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(r.Body) {
		t.Fatalf("not JSON: %s", r.Body)
	}
	return r, string(r.Body)
}

// TestChatRequestRoundTrip: what the codec reads it writes again. Where the two
// differ the dialect has an older and a newer way, or one that fewer servers take.
func TestChatRequestRoundTrip(t *testing.T) {
	for name, c := range map[string]struct{ in, out string }{
		"everything": {
			`{"model":"m","messages":[
 {"role":"developer","content":[{"type":"text","text":"Be brief."},{"type":"text","text":"Be kind.","prompt_cache_breakpoint":{"mode":"explicit"}}]},
 {"role":"user","content":[{"type":"text","text":"What is this?"},
  {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBOR","detail":"low"}},{"type":"image_url","image_url":{"url":"https://x.test/a.jpg"}},
  {"type":"input_audio","input_audio":{"data":"UklGR","format":"wav"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBER"}}]},
 {"role":"assistant","content":"Look: ","tool_calls":[
  {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1.50,\"é\":\"\\u00e9\"}"}},
  {"id":"call_2","type":"function","function":{"name":"g","arguments":"no JSON"}}]},
 {"role":"tool","tool_call_id":"call_2","content":"two"},
 {"role":"tool","tool_call_id":"call_1","content":[{"type":"text","text":"one"}]},
 {"role":"assistant","content":null,"refusal":"I will not."},
 {"role":"system","content":"From now on in French."},
 {"role":"user","content":"Go on."}],
 "max_completion_tokens":100,"stop":["a","b"],"temperature":0.70,"top_p":1,"presence_penalty":0.5,"frequency_penalty":-0.5,"seed":7,
 "logit_bias":{"50256":-100},"verbosity":"low","prompt_cache_key":"k","safety_identifier":"u-1","service_tier":"flex",
 "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"b":{"minimum":1.0},"a":{}}},"strict":true}},
  {"type":"function","function":{"name":"g"}}],
 "tool_choice":{"type":"function","function":{"name":"g"}},"parallel_tool_calls":false,
 "response_format":{"type":"json_schema","json_schema":{"name":"n","description":"d","schema":{"type":"object"},"strict":false}},
 "reasoning_effort":"high","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}`,
			`{"model":"up","messages":[
 {"role":"system","content":"Be brief.\n\nBe kind."},
 {"role":"user","content":[{"type":"text","text":"What is this?"},
  {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBOR","detail":"low"}},{"type":"image_url","image_url":{"url":"https://x.test/a.jpg"}},
  {"type":"input_audio","input_audio":{"data":"UklGR","format":"wav"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBER"}}]},
 {"role":"assistant","content":"Look: ","tool_calls":[
  {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1.50,\"é\":\"\\u00e9\"}"}},
  {"id":"call_2","type":"function","function":{"name":"g","arguments":"no JSON"}}]},
 {"role":"tool","tool_call_id":"call_2","content":"two"},
 {"role":"tool","tool_call_id":"call_1","content":"one"},
 {"role":"assistant","content":null,"refusal":"I will not."},
 {"role":"system","content":"From now on in French."},
 {"role":"user","content":"Go on."}],
 "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"b":{"minimum":1.0},"a":{}}},"strict":true}},
  {"type":"function","function":{"name":"g"}}],
 "tool_choice":{"type":"function","function":{"name":"g"}},"parallel_tool_calls":false,
 "response_format":{"type":"json_schema","json_schema":{"name":"n","description":"d","schema":{"type":"object"},"strict":false}},
 "max_tokens":100,"stop":["a","b"],"temperature":0.70,"top_p":1,"presence_penalty":0.5,"frequency_penalty":-0.5,"seed":7,
 "reasoning_effort":"high","logit_bias":{"50256":-100},"verbosity":"low","prompt_cache_key":"k","user":"u-1","service_tier":"flex",
 "stream":true,"stream_options":{"include_usage":true}}`,
		},
		"older ways": {
			`{"model":"m","messages":[{"role":"user","content":"hi"},
 {"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},{"role":"function","name":"f","content":"42"}],
 "max_tokens":5,"stop":"x","user":"u","functions":[{"name":"f","description":"d","parameters":{"type":"object"}}],"function_call":{"name":"f"}}`,
			`{"model":"up","messages":[{"role":"user","content":"hi"},
 {"role":"assistant","content":null,"tool_calls":[{"id":"call_fw1x0","type":"function","function":{"name":"f","arguments":"{}"}}]},
 {"role":"tool","tool_call_id":"call_fw1x0","content":"42"}],
 "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
 "tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,"max_tokens":5,"stop":["x"],"user":"u"}`,
		},
		"nulls are absent": {
			`{"model":"m","messages":[{"role":"user","content":"hi","name":null},{"role":"assistant","content":"ho","refusal":null,"tool_calls":null,"function_call":null,"audio":null,"annotations":[],"reasoning_content":null}],
 "max_tokens":null,"max_completion_tokens":null,"stop":null,"temperature":null,"n":null,"logit_bias":null,"logprobs":null,"tools":null,"functions":null,"tool_choice":null,
 "parallel_tool_calls":null,"response_format":null,"reasoning_effort":null,"verbosity":null,"metadata":null,"store":null,"stream":null,"stream_options":null,"audio":null,"x":null}`,
			`{"model":"up","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}`,
		},
		"custom tools are wrapped": {
			`{"model":"m","messages":[{"role":"user","content":"hi"},
 {"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{"name":"patch","input":"*** \"x\""}}]},{"role":"tool","tool_call_id":"c","content":"ok"}],
 "tools":[{"type":"custom","custom":{"name":"patch","description":"d","format":{"type":"text"}}}],"tool_choice":{"type":"custom","custom":{"name":"patch"}}}`,
			`{"model":"up","messages":[{"role":"user","content":"hi"},
 {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"patch","arguments":"{\"input\":\"*** \\\"x\\\"\"}"}}]},{"role":"tool","tool_call_id":"c","content":"ok"}],
 "tools":[{"type":"function","function":{"name":"patch","description":"d","parameters":` + string(wrapSchema()) + `}}],"tool_choice":{"type":"function","function":{"name":"patch"}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conv, err := readChatBody(t, c.in)
			if err != nil {
				t.Fatal(err)
			}
			_, out := writeChatBody(t, conv, Options{})
			sameJSON(t, out, c.out)
			// What was read stays as it is and can be written again.
			_, again := writeChatBody(t, conv, Options{})
			if again != out {
				t.Errorf("written again: %s", again)
			}
			// And what was written is read as the same.
			second, err := readChatBody(t, out)
			if err != nil {
				t.Fatal(err)
			}
			_, third := writeChatBody(t, second, Options{})
			sameJSON(t, third, out)
		})
	}
}

// TestChatKeepsSpelling: schemas and arguments go on byte for byte.
func TestChatKeepsSpelling(t *testing.T) {
	const schema = `{"z":1.50, "a":{"$schema":"x","enum":[1e2,"\u00e9"]}}`
	conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":1.0,"tools":[{"type":"function","function":{"name":"f","parameters":`+schema+`}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	_, out := writeChatBody(t, conv, Options{})
	for _, want := range []string{schema, `"temperature":1.0`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nis not in %s", want, out)
		}
	}
}

// TestChatChoices: every form of tool_choice.
func TestChatChoices(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}],`
	for in, want := range map[string]string{
		`"auto"`: `"auto"`, `"none"`: `"none"`, `"required"`: `"required"`, `"any"`: `"required"`,
		`{"type":"function","function":{"name":"g"}}`:                                                                                                                    `{"type":"function","function":{"name":"g"}}`,
		`{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}`:                                                 `{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}`,
		`{"type":"allowed_tools","allowed_tools":{"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}],"mode":"required"}}`: `{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]}}`,
	} {
		conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],`+tools+`"tool_choice":`+in+`}`)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		_, out := writeChatBody(t, conv, Options{})
		var got struct {
			Choice json.RawMessage `json:"tool_choice"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		sameJSON(t, string(got.Choice), want)
	}
}

// TestChatDropsChoiceWithoutTools: servers refuse one without the other.
func TestChatDropsChoiceWithoutTools(t *testing.T) {
	conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],"tool_choice":"auto","parallel_tool_calls":false}`)
	if err != nil {
		t.Fatal(err)
	}
	r, out := writeChatBody(t, conv, Options{})
	sameJSON(t, out, `{"model":"up","messages":[{"role":"user","content":"hi"}]}`)
	if !slices.Contains(r.Dropped, "tool_choice") {
		t.Errorf("dropped: %v", r.Dropped)
	}
}

// TestChatBadRequests: what cannot be read is an error that names the field.
func TestChatBadRequests(t *testing.T) {
	message := func(m string) string { return `{"model":"m","messages":[{"role":"user","content":"hi"},` + m + `]}` }
	with := func(m string) string { return `{"model":"m","messages":[{"role":"user","content":"hi"}],` + m + `}` }
	for _, c := range []struct{ body, param string }{
		{`{"model":"m"}`, "messages"},
		{`{"model":"m","messages":[]}`, "messages"},
		{`{"model":"m","messages":{}}`, "messages"},
		{message(`null`), "messages[1].role"},
		{message(`7`), "messages[1]"},
		{message(`{"content":"x"}`), "messages[1].role"},
		{message(`{"role":"robot","content":"x"}`), "messages[1].role"},
		{message(`{"role":"user"}`), "messages[1].content"},
		{message(`{"role":"user","content":null}`), "messages[1].content"},
		{message(`{"role":"user","content":[]}`), "messages[1].content"},
		{message(`{"role":"user","content":5}`), "messages[1].content"},
		{message(`{"role":"user","content":[{"text":"x"}]}`), "messages[1].content[0].type"},
		{message(`{"role":"user","content":[{"type":"text"}]}`), "messages[1].content[0].text"},
		{message(`{"role":"user","content":[{"type":"text","text":{}}]}`), "messages[1].content[0].text"},
		{message(`{"role":"user","content":[{"type":"hologram"}]}`), "messages[1].content[0].type"},
		{message(`{"role":"user","content":[{"type":"image_url","image_url":{}}]}`), "messages[1].content[0].image_url"},
		{message(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png,abc"}}]}`), "messages[1].content[0].image_url.url"},
		{message(`{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"x"}}]}`), "messages[1].content[0].input_audio"},
		{message(`{"role":"user","content":[{"type":"file","file":{}}]}`), "messages[1].content[0].file"},
		{message(`{"role":"user","content":[{"type":"refusal","refusal":"no"}]}`), "messages[1].content[0]"},
		{message(`{"role":"system","content":[{"type":"image_url","image_url":{"url":"https://x.test/"}}]}`), "messages[1].content[0]"},
		{message(`{"role":"user","content":"x","tool_calls":[{"id":"a","function":{"name":"f"}}]}`), "messages[1].tool_calls"},
		{message(`{"role":"assistant","tool_calls":[{"function":{"name":"f"}}]}`), "messages[1].tool_calls[0].id"},
		{message(`{"role":"assistant","tool_calls":[{"id":"a","function":{}}]}`), "messages[1].tool_calls[0].function.name"},
		{message(`{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"a","function":{"name":"g"}}]}`), "messages[1].tool_calls[1].id"},
		{message(`{"role":"tool","content":"x"}`), "messages[1].tool_call_id"},
		{message(`{"role":"tool","tool_call_id":"zzz","content":"x"}`), "messages[1]"},
		{message(`{"role":"function","content":"x"}`), "messages[1].name"},
		{message(`{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f"}}]},{"role":"user","content":"x"}`), ""},
		{with(`"max_tokens":0`), "max_tokens"},
		{with(`"max_tokens":"9"`), "max_tokens"},
		{with(`"max_completion_tokens":1.5`), "max_completion_tokens"},
		{with(`"n":0`), "n"},
		{with(`"temperature":"hot"`), "temperature"},
		{with(`"temperature":1x`), "temperature"},
		{with(`"stop":5`), "stop"},
		{with(`"stop":[5]`), "stop[0]"},
		{with(`"logit_bias":[]`), "logit_bias"},
		{with(`"tools":[{"type":"function"}]`), "tools[0].function"},
		{with(`"tools":[{"type":"function","function":{"name":""}}]`), "tools[0].function.name"},
		{with(`"tools":[{"type":"custom","custom":{}}]`), "tools[0].custom.name"},
		{with(`"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]`), "tools[0].function.parameters"},
		{with(`"tools":[{"type":"function","function":{"name":"f","parameters":{"a" 1}}}]`), "tools[0].function.parameters"},
		{with(`"tool_choice":"sometimes"`), "tool_choice"},
		{with(`"tool_choice":{"type":"function"}`), "tool_choice"},
		{with(`"tool_choice":{"type":"function","function":{"name":"f"}}`), "tool_choice"},
		{with(`"response_format":{"type":"xml"}`), "response_format.type"},
		{with(`"response_format":{"type":"json_schema"}`), "response_format.json_schema.schema"},
		{with(`"reasoning_effort":"heroic"`), "reasoning_effort"},
		{with(`"reasoning_effort":5`), "reasoning_effort"},
		{with(`"stream_options":[]`), "stream_options"},
		{with(`"tools":[` + strings.Repeat(`{"type":"function","function":{"name":"f"}},`, maxChatList) + `{"type":"function","function":{"name":"f"}}]`), "tools"},
		{message(`{"role":"assistant","tool_calls":[` + strings.Repeat(`{"id":"a","function":{"name":"f"}},`, maxChatList) + `{"id":"a","function":{"name":"f"}}]}`), "messages[1].tool_calls"},
		{with(`"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[` + strings.Repeat(`{"name":"f"},`, maxChatList) + `{"name":"f"}]}}`), "tool_choice"},
	} {
		_, err := readChatBody(t, c.body)
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != c.param || b.Message == "" {
			t.Errorf("%.400s\ngot %#v, want an error about %q", c.body, err, c.param)
		}
	}
}

// TestChatRules: what other dialects do not get of a request, and what they refuse.
func TestChatRules(t *testing.T) {
	for _, c := range []struct{ member, field string }{
		{`"n":2`, "n"},
		{`"logprobs":true`, "logprobs"},
		{`"modalities":["text","audio"]`, "modalities[1]"},
		{`"audio":{"voice":"x"}`, "audio"},
		{`"web_search_options":{}`, "web_search_options"},
		{`"moderation":{}`, "moderation"},
		{`"tool_choice":{"type":"web_search"}`, "tool_choice"},
	} {
		conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],`+c.member+`}`)
		if err != nil {
			t.Errorf("%s: %v", c.member, err)
			continue
		}
		var b *dialect.BadRequest
		if _, err := conv.Write(dialect.Messages, &Options{}); !errors.As(err, &b) || b.Param != c.field {
			t.Errorf("%s: %#v", c.member, err)
		}
	}
	conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","name":"Ann","content":"hi"}],"metadata":{"a":"b"},"store":true,"prediction":{"type":"content"},
 "prompt_cache_retention":"24h","tools":[{"type":"web_search","x":1},{"type":"function","function":{"name":"f"},"y":2}],"thinking":{"type":"enabled"}}`)
	if err != nil {
		t.Fatal(err)
	}
	r, out := writeChatBody(t, conv, Options{})
	want := []string{"messages[0].name", "metadata", "store", "prompt_cache_retention", "tools[0]", "tools[1].y", "thinking"}
	for _, field := range want {
		carried := field == "messages[0].name" // by the rules
		if slices.Contains(r.Dropped, field) == carried {
			t.Errorf("%s: dropped: %v", field, r.Dropped)
		}
	}
	sameJSON(t, out, `{"model":"up","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f"}}]}`)
}

// TestChatUpstreamsDiffer: what a provider's row says of its servers.
func TestChatUpstreamsDiffer(t *testing.T) {
	conv, err := readChatBody(t, `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"},
 {"role":"assistant","reasoning_content":"hm","tool_calls":[{"id":"a","function":{"name":"f"}}]},{"role":"tool","tool_call_id":"a","content":""},
 {"role":"assistant","reasoning_content":"so","content":"ho"},{"role":"user","content":"go"}],"max_tokens":9,"prompt_cache_key":"k","reasoning_effort":"low","verbosity":"low"}`)
	if err != nil {
		t.Fatal(err)
	}
	r, out := writeChatBody(t, conv, Options{MaxTokensName: "most", NoStreamOptions: true, ReasoningName: "reasoning_content", Omit: []string{"prompt_cache_key", "reasoning_effort"}})
	sameJSON(t, out, `{"model":"up","messages":[{"role":"user","content":"hi"},
 {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a","content":""},
 {"role":"assistant","content":"ho"},{"role":"user","content":"go"}],"most":9,"verbosity":"low","stream":true}`)
	if want := []string{"reasoning_effort", "prompt_cache_key"}; !slices.Equal(r.Dropped, want) {
		t.Errorf("dropped %v, want %v", r.Dropped, want)
	}
}

// TestChatModels: OpenAI's models that think refuse sampling, the others refuse an
// effort; of strangers nothing is known.
func TestChatModels(t *testing.T) {
	for model, want := range map[string]string{
		"gpt-5": "effort", "openai/gpt-5.2-mini": "effort", "o3": "effort", "o4-mini-high": "effort", "gpt-10": "effort",
		"gpt-4o": "temperature", "gpt-4": "temperature", "gpt-3.5-turbo": "temperature", "gpt-5-chat-latest": "temperature", "chatgpt-4o-latest": "temperature",
		"gpt-oss-120b": "both", "llama3": "both", "opus": "both", "o": "both", "gpt-": "both",
	} {
		conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"reasoning_effort":"low"}`)
		if err != nil {
			t.Fatal(err)
		}
		r, out := writeChatBody(t, conv, Options{Model: model})
		hot, thinks := strings.Contains(out, `"temperature":0.5`), strings.Contains(out, `"reasoning_effort":"low"`)
		if hot != (want != "effort") || thinks != (want != "temperature") {
			t.Errorf("%s: %s", model, out)
		}
		if (len(r.Dropped) == 0) != (want == "both") {
			t.Errorf("%s: dropped %v", model, r.Dropped)
		}
	}
}

// TestChatResults: results of another dialect become messages of tools, and what
// they hold besides text stands behind all of them.
func TestChatResults(t *testing.T) {
	image := Part{Kind: Image, Media: &Media{Type: "image/png", Data: "iVBOR"}}
	c := &Conversation{From: dialect.Messages, Turns: []Turn{
		{Parts: []Part{{Kind: Text, Text: "one"}, {Kind: Text, Text: ""}, {Kind: Text, Text: "two"}}},
		{Role: Assistant, Parts: []Part{
			{Kind: Thought, Text: "foreign", State: State{Maker: dialect.Messages, Data: "sig", Upstream: "a"}},
			{Kind: Text, Text: "a"},
			{Kind: Text, Text: "b"},
			{Kind: Call, Call: &ToolCall{ID: "toolu_1", Name: "f", Arguments: `{"x":1}`}},
			{Kind: Call, Call: &ToolCall{ID: "toolu_" + strings.Repeat("2", 60), Name: "g"}},
			{Kind: Call, Call: &ToolCall{ID: "3", Name: "g"}},
		}},
		{Parts: []Part{
			{Kind: Result, Result: &ToolResult{ID: "toolu_1", Parts: []Part{image, {Kind: Text, Text: "seen"}}}},
			{Kind: Result, Result: &ToolResult{ID: "toolu_" + strings.Repeat("2", 60), Failed: true, Parts: []Part{{Kind: Text, Text: "gone"}}}},
			{Kind: Result, Result: &ToolResult{ID: "3", Parts: []Part{image}}},
			{Kind: Text, Text: "and now?"},
		}},
		{Role: Assistant, Parts: []Part{{Kind: Text, Text: ""}}},
	}}
	_, out := writeChatBody(t, c, Options{Upstream: "b"})
	long := safeID("toolu_"+strings.Repeat("2", 60), maxChatID)
	sameJSON(t, out, fmt.Sprintf(`{"model":"up","messages":[
 {"role":"user","content":"one\n\ntwo"},
 {"role":"assistant","content":"ab","tool_calls":[
  {"id":"toolu_1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
  {"id":%[1]q,"type":"function","function":{"name":"g","arguments":"{}"}},
  {"id":"3","type":"function","function":{"name":"g","arguments":"{}"}}]},
 {"role":"tool","tool_call_id":"toolu_1","content":"seen"},
 {"role":"tool","tool_call_id":%[1]q,"content":"Error: gone"},
 {"role":"tool","tool_call_id":"3","content":"The result is in the next message."},
 {"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBOR"}},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBOR"}},{"type":"text","text":"and now?"}]}]}`, long))
	if len(long) > maxChatID {
		t.Errorf("the id %q is too long", long)
	}
}

// TestChatForeignRequests: what other dialects have and this one has not, or in
// another form.
func TestChatForeignRequests(t *testing.T) {
	yes := true
	closed := []byte(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}`)
	open := []byte(`{"type":"object","properties":{"a":{"type":"string"}}}`)
	c := &Conversation{
		From: dialect.Messages, MaxTokens: 7, EndUser: strings.Repeat("u", 65), Tier: "standard_only", Serial: true,
		Turns:     []Turn{{Parts: []Part{{Kind: File, Media: &Media{Plain: "words", Name: "a.txt", Type: "text/plain"}}, {Kind: Text, Text: "hi"}}}},
		Tools:     []Tool{{Name: "a.b", Schema: closed, Strict: &yes}, {Name: "g", Schema: open, Strict: &yes}, {Space: "ns", Name: "g"}},
		Choice:    Choice{Mode: Required, Only: []string{"a.b"}},
		Format:    Format{Kind: SchemaFormat, Schema: open},
		Reasoning: Reasoning{Budget: 9000},
	}
	r, out := writeChatBody(t, c, Options{})
	name := r.names.sent[toolName{name: "a.b"}]
	sameJSON(t, out, fmt.Sprintf(`{"model":"up","messages":[{"role":"user","content":[{"type":"text","text":"a.txt:\n\nwords"},{"type":"text","text":"hi"}]}],
 "tools":[{"type":"function","function":{"name":%[1]q,"parameters":%[2]s,"strict":true}},{"type":"function","function":{"name":"g","parameters":%[3]s,"strict":false}},{"type":"function","function":{"name":"ns_g"}}],
 "tool_choice":{"type":"function","function":{"name":%[1]q}},"parallel_tool_calls":false,
 "response_format":{"type":"json_schema","json_schema":{"name":"response","schema":%[3]s,"strict":false}},
 "max_tokens":7,"reasoning_effort":"medium","user":%[4]q,"service_tier":"default"}`, name, closed, open, chatUser(c.EndUser)))
	if !chatNames.allowed(name) || len(chatUser(c.EndUser)) != 64 {
		t.Errorf("%q, %q", name, chatUser(c.EndUser))
	}
	c.Counting, c.Stream = true, true
	if _, out := writeChatBody(t, c, Options{}); strings.Contains(out, "stream") || strings.Contains(out, "max_") {
		t.Errorf("a request to count with limits: %s", out)
	}
	for name, p := range map[string]Part{
		"a film":                {Kind: Video, Media: &Media{Type: "video/mp4", Data: "x"}},
		"a document by address": {Kind: File, Media: &Media{URL: "https://x.test/a.pdf"}},
		"a file of another":     {Kind: Image, Media: &Media{ID: "file-1"}},
		"sound of a rare kind":  {Kind: Audio, Media: &Media{Type: "audio/flac", Data: "x"}},
		"sound by address":      {Kind: Audio, Media: &Media{URL: "https://x.test/a.wav"}},
		"bytes of no kind":      {Kind: Image, Media: &Media{Data: "x"}},
	} {
		p.Field = "messages[0].content[0]"
		c := &Conversation{From: dialect.Gemini, Turns: []Turn{{Parts: []Part{p}}}}
		var b *dialect.BadRequest
		if r, err := c.Write(dialect.Chat, &Options{}); !errors.As(err, &b) || b.Param != p.Field {
			t.Errorf("%s: %v %v", name, r, err)
		}
	}
}

// TestTrap59_OtherSchemesAreRefused: an image at an address that nobody can fetch
// is an error, it does not vanish.
func TestTrap59_OtherSchemesAreRefused(t *testing.T) {
	_, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"gs://bucket/a.png"}}]}]}`)
	var b *dialect.BadRequest
	if !errors.As(err, &b) || b.Param != "messages[0].content[0].image_url.url" {
		t.Errorf("reading: %v", err)
	}
	c := &Conversation{From: dialect.Gemini, Turns: []Turn{{Parts: []Part{{Kind: Image, Media: &Media{URL: "gs://bucket/a.png"}, Field: "f"}}}}}
	if _, err := c.Write(dialect.Chat, &Options{}); !errors.As(err, &b) || b.Param != "f" {
		t.Errorf("writing: %v", err)
	}
}

// TestTrap51_LimitIsKept: the bound on the answer goes on under the name that the
// upstream knows.
func TestTrap51_LimitIsKept(t *testing.T) {
	for _, in := range []string{`"max_tokens":5`, `"max_completion_tokens":5`, `"max_completion_tokens":5,"max_tokens":9`, `"max_tokens":9,"max_completion_tokens":5`} {
		conv, err := readChatBody(t, `{"model":"m","messages":[{"role":"user","content":"hi"}],`+in+`}`)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []struct{ model, name, want string }{
			{"llama3", "", "max_tokens"},
			{"gpt-5", "", "max_completion_tokens"},
			{"gpt-4o", "", "max_completion_tokens"},
			{"ft:o4-mini:a", "", "max_completion_tokens"},
			{"llama3", "max_completion_tokens", "max_completion_tokens"},
			{"gpt-5", "max_tokens", "max_tokens"},
		} {
			if _, out := writeChatBody(t, conv, Options{Model: u.model, MaxTokensName: u.name}); !strings.Contains(out, `"`+u.want+`":5`) {
				t.Errorf("%s, %v: %s", in, u, out)
			}
		}
	}
}

// TestTrap27_ToolOrderStays: the same request is written the same, byte for byte.
func TestTrap27_ToolOrderStays(t *testing.T) {
	var tools []string
	for i := range 40 {
		tools = append(tools, fmt.Sprintf(`{"type":"function","function":{"name":"tool.%d","parameters":{"type":"object"}}}`, (i*7)%40))
	}
	body := `{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[` + strings.Join(tools, ",") + `]}`
	first := ""
	for range 5 {
		conv, err := readChatBody(t, body)
		if err != nil {
			t.Fatal(err)
		}
		_, out := writeChatBody(t, conv, Options{})
		if first == "" {
			first = out
		}
		if out != first {
			t.Fatal("written in another way")
		}
	}
	at := -1
	for i := range 40 {
		next := strings.Index(first, fmt.Sprintf(`"tool_%d_`, (i*7)%40))
		if next < at {
			t.Fatalf("tool %d stands elsewhere in %s", i, first)
		}
		at = next
	}
}

// TestChatThoughts: several thoughts of one message keep their states.
func TestChatThoughts(t *testing.T) {
	state := func(data string) State { return State{Maker: dialect.Messages, Data: data, Upstream: "a"} }
	a, b := state("one"), state("two")
	sealedA, sealedB := seal(&a), seal(&b)
	for _, c := range []struct {
		text, opaque string
		want         []string // text=data
	}{
		{"hm", "", []string{"hm="}},
		{"hm", sealedA, []string{"hm=one"}},
		{"", sealedA, []string{"=one"}},
		{"é so", sealedA + " 2:" + sealedB, []string{"é=one", " so=two"}},
		{"é so", "2:" + sealedB, []string{"é=", " so=two"}},
		{"é", sealedA + " 2:" + sealedB, []string{"é=one", "=two"}},
		// A text that was changed has lost its states, and itself with them.
		{"é", sealedA + " 1:" + sealedB, nil},
		{"é", sealedA + " 9:" + sealedB, nil},
		{"é", sealedA + " x:" + sealedB, nil},
		{"hm", sealMark + "damaged", nil},
		// What a service itself gave is nobody's that is known here.
		{"hm", "opaque-of-copilot", []string{"hm="}},
	} {
		var got []string
		for _, p := range chatThoughts(c.text, c.opaque, "f") {
			got = append(got, p.Text+"="+p.State.Data)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q, %q: %q, want %q", c.text, c.opaque, got, c.want)
		}
	}
}

// TestChatGivesStatesBack: the upstream that made a state gets it as it was, no
// other does.
func TestChatGivesStatesBack(t *testing.T) {
	const details = `[{"type":"reasoning.text","text":"hm","signature":"s"}]`
	thought := func(data string) *Conversation {
		return &Conversation{From: dialect.Messages, Turns: []Turn{{Role: Assistant, Parts: []Part{
			{Kind: Thought, Text: "hm", State: State{Maker: dialect.Chat, Data: data, Upstream: "a"}}, {Kind: Text, Text: "x"},
		}}}}
	}
	for _, c := range []struct{ data, upstream, want string }{
		{details, "a", `,"reasoning_details":` + details},
		{"opaque", "a", `,"reasoning_text":"hm","reasoning_opaque":"opaque"`},
		{details, "b", ""},
		{"opaque", "b", ""},
		{`[{"type":`, "a", `,"reasoning_text":"hm","reasoning_opaque":"[{\"type\":"`}, // forged: a string all the same
	} {
		_, out := writeChatBody(t, thought(c.data), Options{Upstream: c.upstream})
		sameJSON(t, out, `{"model":"up","messages":[{"role":"assistant","content":"x"`+c.want+`}]}`)
	}
}

// TestTrap36_ReasoningGoesBack: an upstream that wants its reasoning back gets it
// on every turn with calls, over several of them.
func TestTrap36_ReasoningGoesBack(t *testing.T) {
	c := chatTurnsOf(t, `[{"role":"user","content":"q"},
 {"role":"assistant","reasoning_content":"first","tool_calls":[{"id":"1","function":{"name":"f"}}]},{"role":"tool","tool_call_id":"1","content":"a"},
 {"role":"assistant","reasoning_content":"second","tool_calls":[{"id":"2","function":{"name":"f"}}]},{"role":"tool","tool_call_id":"2","content":"b"},
 {"role":"assistant","tool_calls":[{"id":"3","function":{"name":"f"}}]},{"role":"tool","tool_call_id":"3","content":"c"}]`)
	_, out := writeChatBody(t, c, Options{ReasoningName: "reasoning_content"})
	var got struct {
		Messages []struct {
			Role      string
			Reasoning *string `json:"reasoning_content"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, m := range got.Messages {
		if m.Role == "assistant" {
			if m.Reasoning == nil {
				t.Fatalf("a turn without: %s", out)
			}
			said = append(said, *m.Reasoning)
		}
	}
	if want := []string{"first", "second", ""}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	if _, out := writeChatBody(t, c, Options{}); strings.Contains(out, "reasoning") {
		t.Errorf("to an upstream that knows no such member: %s", out)
	}
}

// TestTrap37_EffortOnlyWhereAsked: nobody's effort, nobody's field.
func TestTrap37_EffortOnlyWhereAsked(t *testing.T) {
	c := chatTurnsOf(t, `[{"role":"user","content":"q"}]`)
	if _, out := writeChatBody(t, c, Options{Model: "gpt-5"}); strings.Contains(out, "reasoning") {
		t.Error(out)
	}
}

func TestStrictSchema(t *testing.T) {
	for schema, want := range map[string]bool{
		`{"type":"object","properties":{},"additionalProperties":false}`:                                                                          true,
		`{"type":"object","properties":{"a":{"type":["string","null"]}},"required":["a"],"additionalProperties":false}`:                           true,
		`{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}`:                                                     false,
		`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`:                                                                 false,
		`{"type":"object","properties":{"a":{"type":"object"}},"required":["a"],"additionalProperties":false}`:                                    false,
		`{"type":"object","properties":{"a":{"type":"array","items":{"type":"object"}}},"required":["a"],"additionalProperties":false}`:           false,
		`{"type":"object","properties":{"a":{"anyOf":[{"type":"string"},{"type":"null"}]}},"required":["a"],"additionalProperties":false}`:        true,
		`{"type":"object","properties":{"a":{"oneOf":[{"type":"string"}]}},"required":["a"],"additionalProperties":false}`:                        false,
		`{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"required":["a"],"additionalProperties":false,"$defs":{"x":{"type":"object"}}}`: false,
		`{}`: false, `true`: false, `null`: false, ``: false,
		strings.Repeat(`{"items":`, 1000) + `{}` + strings.Repeat(`}`, 1000): false,
	} {
		if got := strictSchema([]byte(schema)); got != want {
			t.Errorf("%.80s: %v", schema, got)
		}
	}
}

// chatTexts are bodies that FuzzReadChat starts from.
var chatTexts = []string{
	`{"model":"m","messages":[{"role":"user","content":"hi"}]}`,
	`{"model":"m","messages":[{"role":"developer","content":"x"},{"role":"user","content":[{"type":"text","text":"é"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBOR","detail":"low"}},{"type":"input_audio","input_audio":{"data":"x","format":"mp3"}},{"type":"file","file":{"file_data":"data:text/plain;base64,aGk=","filename":"a"}}]}],"stop":"x","n":1}`,
	`{"model":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"reasoning_content":"hm","reasoning_opaque":"fw1.m.YQ..c2ln","tool_calls":[{"id":"c__fw1.g.YQ..c2ln","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"d","type":"custom","custom":{"name":"p","input":"x"}}]},{"role":"tool","tool_call_id":"d","content":"y"},{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"z"}]}],
 "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}},{"type":"custom","custom":{"name":"p","format":{"type":"grammar","grammar":{"syntax":"lark","definition":"d"}}}}],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"f"}}]}}}`,
	`{"model":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","function_call":{"name":"f","arguments":"{}"}},{"role":"function","name":"f","content":"x"}],"functions":[{"name":"f"}],"function_call":"auto","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{}}},"temperature":1,"seed":1,"logit_bias":{"1":2},"reasoning_effort":"max","metadata":{"a":"b"},"store":true,"user":"u","stream":true,"stream_options":{"include_usage":true}}`,
}

func FuzzReadChat(f *testing.F) {
	for _, text := range chatTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		conv, err := readChatBody(t, string(body))
		if err != nil {
			var b *dialect.BadRequest
			if !errors.As(err, &b) || b.Message == "" {
				t.Fatalf("an error that is none for a client: %#v", err)
			}
			return
		}
		r, err := conv.Write(dialect.Chat, &Options{Upstream: "a", Model: "up"})
		if err != nil {
			return
		}
		if !json.Valid(r.Body) {
			t.Fatalf("not JSON: %s", r.Body)
		}
		if len(r.Body) > 1024+16*len(body) {
			t.Fatalf("%d bytes out of %d", len(r.Body), len(body))
		}
	})
}
