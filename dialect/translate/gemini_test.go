package translate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// readGeminiBody reads a request of a Gemini client.
func readGeminiBody(t *testing.T, stream bool, body string) (*Conversation, error) {
	t.Helper()
	op := dialect.GenerateContent
	if stream {
		op = dialect.StreamContent
	}
	r := &dialect.Request{Call: dialect.Call{Op: op, Dialect: dialect.Gemini, Model: "gemini-x"}, Body: []byte(body)}
	if err := r.Read(); err != nil {
		t.Fatal(err)
	}
	return Read(r)
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatalf("%v in %s", err, want)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestGeminiRequestRoundTrip: what the codec reads it writes again.
func TestGeminiRequestRoundTrip(t *testing.T) {
	for name, c := range map[string]struct{ model, in, out string }{
		"the example of the wire page": {
			"gemini-3-pro",
			`{"systemInstruction":{"parts":[{"text":"Be brief."}]},
 "contents":[{"role":"user","parts":[{"text":"What is in it?"},{"inlineData":{"mimeType":"image/png","data":"iVBOR"}}]},
  {"role":"model","parts":[{"functionCall":{"id":"c1","name":"f","args":{"a":1}},"thoughtSignature":"CiQ"}]},
  {"role":"user","parts":[{"functionResponse":{"id":"c1","name":"f","response":{"result":"42"}}}]}],
 "tools":[{"functionDeclarations":[{"name":"f","description":"d","parameters":{"type":"OBJECT","properties":{"a":{"type":"INTEGER","nullable":true}}}}]}],
 "toolConfig":{"functionCallingConfig":{"mode":"AUTO"}},
 "generationConfig":{"temperature":1.0,"maxOutputTokens":800,"thinkingConfig":{"includeThoughts":true,"thinkingLevel":"LOW"}},
 "safetySettings":[]}`,
			// The signature came from nobody knows where: it does not go anywhere.
			`{"systemInstruction":{"parts":[{"text":"Be brief."}]},
 "contents":[{"role":"user","parts":[{"text":"What is in it?"},{"inlineData":{"mimeType":"image/png","data":"iVBOR"}}]},
  {"role":"model","parts":[{"functionCall":{"id":"c1","name":"f","args":{"a":1}},"thoughtSignature":"skip_thought_signature_validator"}]},
  {"role":"user","parts":[{"functionResponse":{"id":"c1","name":"f","response":{"result":"42"}}}]}],
 "tools":[{"functionDeclarations":[{"name":"f","description":"d","parametersJsonSchema":{"type":"object","properties":{"a":{"type":["integer","null"]}}}}]}],
 "toolConfig":{"functionCallingConfig":{"mode":"AUTO"}},
 "generationConfig":{"temperature":1.0,"maxOutputTokens":800,"thinkingConfig":{"includeThoughts":true,"thinkingLevel":"LOW"}}}`,
		},
		"snake case, and calls without ids": {
			"gemini-2.5-flash",
			`{"system_instruction":{"parts":{"text":"s"}},"contents":[
 {"parts":[{"text":"go"}]},
 {"role":"model","parts":[{"function_call":{"name":"f","args":{}}},{"function_call":{"name":"f"}}]},
 {"role":"function","parts":[{"function_response":{"name":"f","response":{"output":"1"}}},{"function_response":{"name":"f","response":{"error":"no"}}}]}],
 "generation_config":{"max_output_tokens":5,"top_k":3,"stop_sequences":["x"],"response_mime_type":"application/json","response_schema":{"type":"OBJECT","properties":{"n":{"type":"INTEGER"}}},
 "thinking_config":{"thinking_budget":0}}}`,
			`{"systemInstruction":{"parts":[{"text":"s"}]},"contents":[
 {"role":"user","parts":[{"text":"go"}]},
 {"role":"model","parts":[{"functionCall":{"id":"call_fw1x0","name":"f","args":{}}},{"functionCall":{"id":"call_fw1x1","name":"f","args":{}}}]},
 {"role":"user","parts":[{"functionResponse":{"id":"call_fw1x0","name":"f","response":{"result":"1"}}},{"functionResponse":{"id":"call_fw1x1","name":"f","response":{"error":"no"}}}]}],
 "generationConfig":{"maxOutputTokens":5,"topK":3,"stopSequences":["x"],"responseMimeType":"application/json","responseJsonSchema":{"type":"object","properties":{"n":{"type":"integer"}}},
 "thinkingConfig":{"thinkingBudget":0}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conv, err := readGeminiBody(t, false, c.in)
			if err != nil {
				t.Fatal(err)
			}
			r, err := conv.Write(dialect.Gemini, &Options{Upstream: "g", Model: c.model})
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, string(r.Body), c.out)
		})
	}
}

// TestGeminiSchema: the service's schemas become JSON Schema.
func TestGeminiSchema(t *testing.T) {
	s := newSource(nil)
	got := jsonSchema(s, []byte(`{"type":"OBJECT","nullable":true,"propertyOrdering":["a"],"required":["a"],
 "properties":{"a":{"type":"ARRAY","minItems":"1","maxItems":5,"items":{"type":"STRING","enum":["x"],"format":"enum"}},
 "type":{"anyOf":[{"type":"NUMBER","minimum":0.5},{"type":"BOOLEAN"}]}}}`))
	if s.err != nil {
		t.Fatal(s.err)
	}
	sameJSON(t, string(got), `{"type":["object","null"],"required":["a"],
 "properties":{"a":{"type":"array","minItems":1,"maxItems":5,"items":{"type":"string","enum":["x"],"format":"enum"}},
 "type":{"anyOf":[{"type":"number","minimum":0.5},{"type":"boolean"}]}}}`)
	deep := strings.Repeat(`{"items":`, 100) + `{}` + strings.Repeat(`}`, 100)
	jsonSchema(s, []byte(deep))
	if s.err == nil {
		t.Error("a schema nested 100 deep was taken")
	}
}

func TestGeminiRequestErrors(t *testing.T) {
	for _, c := range []struct{ in, param string }{
		{`{"contents":7}`, "contents"},
		{`{"contents":[{"role":"boss","parts":[{"text":"x"}]}]}`, "contents[0].role"},
		{`{"contents":[{"parts":[{"text":7}]}]}`, "contents[0].parts[0].text"},
		{`{"contents":[{"role":"model","parts":[{"functionCall":{"args":{}}}]}]}`, "contents[0].parts[0].functionCall"},
		{`{"contents":[{"role":"user","parts":[{"functionResponse":{"name":"f","response":{}}}]}]}`, "contents[0].parts[0]"},
		{`{"contents":[{"role":"user","parts":[{"functionResponse":{"name":"f","response":"x"}}]}]}`, "contents[0].parts[0].functionResponse.response"},
		{`{"generationConfig":{"maxOutputTokens":"many"}}`, "generationConfig.maxOutputTokens"},
		{`{"generationConfig":{"thinkingConfig":{"thinkingLevel":"SOME"}}}`, "generationConfig.thinkingConfig.thinkingLevel"},
		{`{"toolConfig":{"functionCallingConfig":{"mode":"SOME"}}}`, "toolConfig.functionCallingConfig.mode"},
	} {
		_, err := readGeminiBody(t, false, c.in)
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != c.param {
			t.Errorf("%s: %v, of the field %v; want one of the field %s", c.in, err, b, c.param)
		}
	}
}

// TestGeminiUses: what the dialect has and others have not is noted.
func TestGeminiUses(t *testing.T) {
	for field, c := range map[string]struct {
		in   string
		uses feature
	}{
		"cachedContent":                       {`{"cachedContent":"cachedContents/x"}`, cachedContent},
		"safetySettings":                      {`{"safetySettings":[{"category":"x"}]}`, safetySettings},
		"labels":                              {`{"labels":{"a":"b"}}`, labels},
		"tools[0].googleSearch":               {`{"tools":[{"googleSearch":{}}]}`, hostedTool},
		"generationConfig.candidateCount":     {`{"generationConfig":{"candidateCount":2}}`, candidates},
		"generationConfig.responseModalities": {`{"generationConfig":{"responseModalities":["TEXT","IMAGE"]}}`, imageOut},
		"generationConfig.speechConfig":       {`{"generationConfig":{"speechConfig":{"a":1}}}`, audioOut},
		"generationConfig.responseMimeType":   {`{"generationConfig":{"responseMimeType":"text/x.enum"}}`, otherFormat},
		"contents[0].parts[0]":                {`{"contents":[{"parts":[{"fileData":{"fileUri":"https://generativelanguage.googleapis.com/v1beta/files/x","mimeType":"image/png"}}]}]}`, fileID},
		"contents[0].parts[0].videoMetadata":  {`{"contents":[{"parts":[{"text":"x","videoMetadata":{"fps":1}}]}]}`, videoIn},
		"wibble":                              {`{"wibble":1}`, unknownField},
	} {
		conv, err := readGeminiBody(t, false, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if len(conv.used) != 1 || conv.used[0] != (usedField{c.uses, field}) {
			t.Errorf("%s: used %v, want %v of %s", c.in, conv.used, c.uses, field)
		}
	}
}

// TestTrap30_ASignatureComesBackToItsMaker: a call's signature travels through a
// client in an envelope, and goes back only to the upstream that made it.
func TestTrap30_ASignatureComesBackToItsMaker(t *testing.T) {
	env := seal(&State{Maker: dialect.Gemini, Data: "CiQ+/=", Upstream: "mine"})
	for upstream, want := range map[string]string{"mine": "CiQ+/=", "other": noValidation} {
		c := &Conversation{Turns: []Turn{
			{Role: User, Parts: []Part{{Kind: Text, Text: "go"}}},
			{Role: Assistant, Parts: []Part{
				{Kind: Thought, Text: "hm", State: stateOf(env, dialect.Messages)},
				{Kind: Call, Call: &ToolCall{ID: "a", Name: "f"}, State: stateOf(env, dialect.Messages)},
				{Kind: Call, Call: &ToolCall{ID: "b", Name: "g"}},
			}},
		}}
		r, err := c.Write(dialect.Gemini, &Options{Upstream: upstream, Model: "gemini-3-pro"})
		if err != nil {
			t.Fatal(err)
		}
		thought := ""
		if upstream == "mine" {
			thought = `{"text":"hm","thought":true,"thoughtSignature":"CiQ+/="},`
		}
		sameJSON(t, string(r.Body), `{"contents":[{"role":"user","parts":[{"text":"go"}]},{"role":"model","parts":[`+thought+
			`{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"`+want+`"},{"functionCall":{"id":"b","name":"g","args":{}}}]}]}`)
	}
}

// geminiStream is a stream that was seen, with a call and its end in different
// events.
var geminiStream = []string{
	`{"candidates":[{"content":{"role":"model","parts":[{"text":"Hmm","thought":true}]},"index":0}],"usageMetadata":{"trafficType":"ON_DEMAND"},"modelVersion":"gemini-x","responseId":"r1"}`,
	`{"candidates":[{"content":{"parts":[{"text":"Grü\ud83d\ude00"}]}}]}`,
	`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a": 1.50}},"thoughtSignature":"CiQ"},{"functionCall":{"id":"x","name":"g"}}]},"index":0}]}`,
	`{"candidates":[{"content":{"role":"model","parts":[{"text":"","thoughtSignature":"AY8"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":107,"candidatesTokenCount":31,"thoughtsTokenCount":148,"totalTokenCount":286}}`,
}

// geminiAnswer answers a Gemini client's request from a Gemini upstream's events.
func geminiAnswer(t *testing.T, c *Conversation, events []string, used *usage.Tokens) (string, error) {
	t.Helper()
	r, err := c.Write(dialect.Gemini, &Options{Upstream: "mine", Model: "m", Now: time.Unix(1, 0), NewID: func() string { return "new" }})
	if err != nil {
		t.Fatal(err)
	}
	a := r.Answer(true)
	var out strings.Builder
	for _, e := range events {
		a.Events([]byte("data: " + e + "\r\n\r\n"))
		out.Write(a.Take())
	}
	a.End(used)
	out.Write(a.Take())
	return out.String(), a.Problem
}

func TestGeminiStream(t *testing.T) {
	used := &usage.Tokens{Input: 107, Output: 179, Reasoning: 148, ReasoningKnown: true}
	unsigned := base64.StdEncoding.EncodeToString([]byte("fw1.n.bWluZQ.."))
	env := seal(&State{Maker: dialect.Gemini, Data: "CiQ", Upstream: "mine"})
	c := &Conversation{From: dialect.Gemini, Asked: "asked", Stream: true, Reasoning: Reasoning{Visible: true}}
	out, err := geminiAnswer(t, c, geminiStream, used)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"candidates":[{"content":{"role":"model","parts":[{"text":"Hmm","thought":true}]},"index":0}],"modelVersion":"asked","responseId":"r1"}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"text":"Grü😀"}]},"index":0}],"modelVersion":"asked","responseId":"r1"}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"call_new","name":"f","args":{"a":1.50}},"thoughtSignature":"` + env + `"}]},"index":0}],"modelVersion":"asked","responseId":"r1"}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"x","name":"g","args":{}},"thoughtSignature":"` + unsigned + `"}]},"index":0}],"modelVersion":"asked","responseId":"r1"}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"text":""}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":107,"candidatesTokenCount":31,"thoughtsTokenCount":148,"totalTokenCount":286},"modelVersion":"asked","responseId":"r1"}`,
	}
	// The SDKs read signatures as bytes.
	for i := range want {
		want[i] = strings.Replace(want[i], env, base64.StdEncoding.EncodeToString([]byte(env)), 1)
	}
	got := strings.Split(strings.TrimSuffix(out, "\r\n\r\n"), "\r\n\r\n")
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d:\n%s", len(got), len(want), out)
	}
	for i := range want {
		sameJSON(t, strings.TrimPrefix(got[i], "data: "), want[i])
	}
	if !strings.Contains(out, `"a": 1.50`) {
		t.Error("a number in the arguments is spelled in another way")
	}

	c.Array = true
	out, err = geminiAnswer(t, c, geminiStream, used)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, out, "["+strings.Join(want, ",")+"]")

	c.Stream, c.Array = false, false
	out, err = geminiAnswer(t, c, geminiStream, used)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, out, `{"candidates":[{"content":{"role":"model","parts":[{"text":"Hmm","thought":true},{"text":"Grü😀"},
 {"functionCall":{"id":"call_new","name":"f","args":{"a":1.5}},"thoughtSignature":"`+base64.StdEncoding.EncodeToString([]byte(env))+`"},{"functionCall":{"id":"x","name":"g","args":{}},"thoughtSignature":"`+unsigned+`"}]},"finishReason":"STOP","index":0}],
 "usageMetadata":{"promptTokenCount":107,"candidatesTokenCount":31,"thoughtsTokenCount":148,"totalTokenCount":286},"modelVersion":"asked","responseId":"r1"}`)
}

// TestGeminiAnswersThatAreNone: each has a decided outcome.
func TestGeminiAnswersThatAreNone(t *testing.T) {
	c := &Conversation{From: dialect.Gemini, Asked: "asked", Stream: true}
	for name, events := range map[string][]string{
		"no end":               geminiStream[:2],
		"nothing":              nil,
		"an array":             {`[]`},
		"no JSON":              {`{"candidates":`},
		"an error":             {`{"error":{"code":503}}`},
		"a call without name":  {`{"candidates":[{"content":{"parts":[{"functionCall":{}}]},"finishReason":"STOP"}]}`},
		"text of another kind": {`{"candidates":[{"content":{"parts":[{"text":{}}]},"finishReason":"STOP"}]}`},
	} {
		if out, err := geminiAnswer(t, c, events, nil); err == nil {
			t.Errorf("%s: taken for an answer: %s", name, out)
		}
	}
	for name, d := range map[string]struct{ event, want string }{
		"a blocked prompt": {`{"promptFeedback":{"blockReason":"SAFETY"}}`, "SAFETY"},
		"no content":       {`{"candidates":[{"finishReason":"MAX_TOKENS"}]}`, "MAX_TOKENS"},
		"nulls":            {`{"candidates":[{"content":null,"finishReason":"STOP"}],"promptFeedback":null,"error":null}`, "STOP"},
		"no candidates":    {`{"candidates":[],"promptFeedback":{"blockReason":"OTHER"}}`, "SAFETY"},
		"an unknown end":   {`{"candidates":[{"content":{"parts":[]},"finishReason":"WHO_KNOWS"}]}`, "OTHER"},
		"a bad call":       {`{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}]}`, "MALFORMED_FUNCTION_CALL"},
	} {
		out, err := geminiAnswer(t, c, []string{d.event}, nil)
		if err != nil || !strings.Contains(out, `"finishReason":"`+d.want+`"`) {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

// TestTrap26_ACallDecidesTheEnd: STOP is said although tools are to be called.
func TestTrap26_ACallDecidesTheEnd(t *testing.T) {
	r := &Request{c: &Conversation{}, to: dialect.Gemini}
	a := r.Answer(true)
	g := &gather{}
	a.enc = &collectTest{g}
	for _, e := range geminiStream {
		a.Events([]byte("data: " + e + "\n\n"))
	}
	a.End(nil)
	if g.reason != Calls {
		t.Errorf("the answer ended for reason %d, want %d", g.reason, Calls)
	}
}

type collectTest struct{ g *gather }

func (c *collectTest) take(e *Event)        { c.g.take(e) }
func (c *collectTest) finish(*usage.Tokens) {}
func (c *collectTest) fail(*dialect.Error)  {}

// TestGeminiEncoderKeepsOrder: calls whose pieces are interleaved come whole, in
// the order in which they began; what is no JSON is no call.
func TestGeminiEncoderKeepsOrder(t *testing.T) {
	c := &Conversation{From: dialect.Gemini, Asked: "m", Stream: true}
	r, err := c.Write(dialect.Gemini, &Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := r.Answer(true)
	for _, e := range []Event{
		{Kind: Start, ID: "r"},
		{Kind: CallStart, Call: 0, ID: "a", Name: "f"},
		{Kind: CallStart, Call: 1, ID: "b", Name: "g"},
		{Kind: CallPiece, Call: 1, Text: []byte(`{"x":`)},
		{Kind: CallPiece, Call: 0, Text: []byte(`{"y":`)},
		{Kind: CallPiece, Call: 1, Text: []byte(`1}`)},
		{Kind: CallEnd, Call: 1},
		{Kind: CallPiece, Call: 0, Text: []byte(`2}`)},
		{Kind: CallEnd, Call: 0},
		{Kind: Finish, Reason: Calls},
	} {
		a.emit(&e)
	}
	a.enc.finish(nil)
	out := string(a.Take())
	if f, g := strings.Index(out, `"args":{"y":2}`), strings.Index(out, `"args":{"x":1}`); f < 0 || g < f {
		t.Errorf("the calls are not in order: %s", out)
	}
	a.emit(&Event{Kind: CallStart, Call: 2, ID: "c", Name: "f"})
	a.emit(&Event{Kind: CallPiece, Call: 2, Text: []byte(`{"cut`)})
	a.emit(&Event{Kind: CallEnd, Call: 2})
	if a.Problem == nil {
		t.Error("arguments that are no JSON were passed on")
	}
}

func FuzzReadGemini(f *testing.F) {
	f.Add(`{"contents":[{"role":"user","parts":[{"text":"a"},{"inlineData":{"mimeType":"text/plain","data":"YQ=="}}]}],"tools":[{"functionDeclarations":[{"name":"f","parameters":{"type":"OBJECT"}}]}]}`)
	f.Add(`{"contents":[{"role":"model","parts":[{"functionCall":{"name":"f"}}]},{"parts":[{"functionResponse":{"name":"f","response":{"result":1}}}]}],"generationConfig":{"thinkingConfig":{"thinkingBudget":99}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		r := &dialect.Request{Call: dialect.Call{Op: dialect.GenerateContent, Dialect: dialect.Gemini, Model: "m"}, Body: []byte(body)}
		if r.Read() != nil {
			return
		}
		c, err := Read(r)
		if err != nil {
			return
		}
		if w, err := c.Write(dialect.Gemini, &Options{Model: "gemini-3"}); err == nil && !json.Valid(w.Body) && json.Valid([]byte(body)) {
			t.Errorf("%s became %s", body, w.Body)
		}
	})
}

func FuzzDecodeGemini(f *testing.F) {
	for _, e := range geminiStream {
		f.Add("data: " + e + "\n\n")
	}
	f.Fuzz(func(t *testing.T, events string) {
		c := &Conversation{From: dialect.Gemini, Stream: true, Array: true}
		r, _ := c.Write(dialect.Gemini, &Options{})
		a := r.Answer(true)
		a.Events([]byte(events))
		a.End(nil)
		if out := a.Take(); a.Problem == nil && !json.Valid(out) {
			t.Errorf("%q became %q", events, out)
		}
	})
}

// What has nothing to say here is no turn, and a budget is a level where models
// take levels.
func TestGeminiTurnsThatSayNothing(t *testing.T) {
	c := &Conversation{From: dialect.Messages, Turns: []Turn{
		{Role: User, Parts: []Part{{Kind: Text, Text: "a"}}},
		{Role: Assistant, Parts: []Part{{Kind: Text}, {Kind: Thought, Text: "hm", State: State{Maker: dialect.Messages, Data: "x", Upstream: "other"}}}},
		{Role: User, Parts: []Part{{Kind: Text, Text: "b"}}},
	}, Reasoning: Reasoning{Budget: 2048}}
	for model, config := range map[string]string{
		"gemini-3-pro": `{"thinkingLevel":"LOW"}`, "gemini-2.5-pro": `{"thinkingBudget":2048}`,
	} {
		r, err := c.Write(dialect.Gemini, &Options{Upstream: "up", Model: model})
		if err != nil {
			t.Fatal(err)
		}
		sameJSON(t, string(r.Body), `{"contents":[{"role":"user","parts":[{"text":"a"},{"text":"b"}]}],"generationConfig":{"thinkingConfig":`+config+`}}`)
	}
}
