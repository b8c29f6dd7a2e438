package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"reflect"
	"strings"
	"testing"
)

func request(op Operation, body string) *Request {
	return &Request{Call: Call{Op: op, Dialect: op.Dialect(), Verdict: Found}, Body: []byte(body), ContentType: "application/json"}
}

// mustRead reads a request that is known to be good.
func mustRead(t *testing.T, r *Request) *Request {
	t.Helper()
	if err := r.Read(); err != nil {
		t.Fatalf("%.100s: %v", r.Body, err)
	}
	return r
}

func TestRequestReads(t *testing.T) {
	type want struct {
		Model, PreviousID, CacheKey string
		Stream, AsksUsage, Bound    bool
		MaxTokens                   int64
	}
	for _, tt := range []struct {
		op   Operation
		body string
		want want
	}{
		{ChatCompletions, `{"model":"m","messages":[]}`, want{Model: "m"}},
		{ChatCompletions, " \r\n{ \"stream\" : true , \"model\" : \"m\" } \n", want{Model: "m", Stream: true}},
		{ChatCompletions, `{"mod\u0065l":"\u006d\n","stream":false}`, want{Model: "m\n"}},
		{ChatCompletions, `{"model":"m","stream":null,"stream_options":null}`, want{Model: "m"}},
		{ChatCompletions, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, want{Model: "m", Stream: true, AsksUsage: true}},
		{ChatCompletions, `{"model":"m","stream":true,"stream_options":{"include_usage":false}}`, want{Model: "m", Stream: true}},
		{ChatCompletions, `{"model":"m","stream":true,"stream_options":{"x":{"include_usage":true}}}`, want{Model: "m", Stream: true}},
		{ChatCompletions, `{"model":"m","max_tokens":5,"max_completion_tokens":100.0}`, want{Model: "m", MaxTokens: 100}},
		{ChatCompletions, `{"model":"m","max_tokens":-1}`, want{Model: "m"}},
		{ChatCompletions, `{"model":"m","max_tokens":"5"}`, want{Model: "m"}},
		{ChatCompletions, `{"model":"m","prompt_cache_key":"k\u00e9y"}`, want{Model: "m", CacheKey: "kéy"}},
		// A member of the same name deeper down is something else.
		{ChatCompletions, `{"messages":[{"model":"x","stream":true}],"model":"m","metadata":{"model":"y"}}`, want{Model: "m"}},
		// Only Responses know stored responses.
		{ChatCompletions, `{"model":"m","previous_response_id":"r"}`, want{Model: "m"}},
		{CreateResponse, `{"model":"m","previous_response_id":"resp_1","max_output_tokens":16}`, want{Model: "m", PreviousID: "resp_1", MaxTokens: 16}},
		{CreateResponse, `{"model":"m","previous_response_id":null}`, want{Model: "m"}},
		{CreateResponse, `{"model":"m","input":"hi","include":["reasoning.encrypted_content"]}`, want{Model: "m", Bound: true}},
		{CreateResponse, `{"model":"m","include":[],"input":[{"type":"reasoning","id":"rs","encrypted_content":"gAAA"}]}`, want{Model: "m", Bound: true}},
		{CreateResponse, `{"model":"m","input":"say \"encrypted_content\""}`, want{Model: "m"}},
		{CreateMessage, `{"model":"m","messages":[],"thinking":{"type":"adaptive"}}`, want{Model: "m", Bound: true}},
		{CreateMessage, `{"model":"m","messages":[],"thinking":{"type":"disabled"}}`, want{Model: "m"}},
		{CreateMessage, `{"model":"m","messages":[],"thinking":null}`, want{Model: "m"}},
		{CreateMessage, `{"model":"m","messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"Eq"}]}],"max_tokens":3}`, want{Model: "m", Bound: true, MaxTokens: 3}},
		{CreateMessage, `{"model":"m","messages":[{"role":"user","content":"\"signature\""}],"tools":[{"input_schema":{"properties":{"signature":{}}}}]}`, want{Model: "m"}},
		{StoredResponse, ``, want{}},
		{StoredResponse, `{}`, want{}},
		{ImageEdits, `{"model":"m","prompt":"p"}`, want{Model: "m"}},
	} {
		r := mustRead(t, request(tt.op, tt.body))
		got := want{r.Model, r.PreviousID, r.CacheKey, r.Stream, r.AsksUsage, r.Bound, r.MaxTokens}
		if got != tt.want {
			t.Errorf("%s %s:\n got %+v\nwant %+v", tt.op, tt.body, got, tt.want)
		}
	}
}

func TestRequestReadsGemini(t *testing.T) {
	call := Find("POST", "/v1beta/models/gemini-x:streamGenerateContent")
	r := mustRead(t, &Request{Call: call, Body: []byte(`{"contents":[{"parts":[{"text":"hi","thoughtSignature":"x"}]}],"generationConfig":{"maxOutputTokens":800}}`)})
	if r.Model != "gemini-x" || !r.Stream || !r.Bound || r.MaxTokens != 800 || r.UsageOnRequest() {
		t.Errorf("got %+v", r)
	}
	r = mustRead(t, &Request{Call: Find("POST", "/v1beta/models/g:generateContent"), Body: []byte(`{"generation_config":{"max_output_tokens":7}}`)})
	if r.Stream || r.MaxTokens != 7 {
		t.Errorf("got %+v", r)
	}
}

func TestRequestRefuses(t *testing.T) {
	long := strings.Repeat("m", maxModel+1)
	for _, tt := range []struct {
		op          Operation
		body, param string
	}{
		{ChatCompletions, ``, ""},
		{ChatCompletions, " \n", ""},
		{ChatCompletions, `[]`, ""},
		{ChatCompletions, `"x"`, ""},
		{ChatCompletions, `{"model":"m"`, ""},
		{ChatCompletions, `{"model":"m"}}`, ""},
		{ChatCompletions, `{"model":"m"} {"model":"n"}`, ""},
		{ChatCompletions, `{"model" "m"}`, ""},
		{ChatCompletions, `{}`, "model"},
		{ChatCompletions, `{"messages":[{"model":"m"}]}`, "model"},
		{ChatCompletions, `{"model":null}`, "model"},
		{ChatCompletions, `{"model":1}`, "model"},
		{ChatCompletions, `{"model":["m"]}`, "model"},
		{ChatCompletions, `{"model":""}`, "model"},
		{ChatCompletions, `{"model":" \t"}`, "model"},
		{ChatCompletions, `{"model":"\x"}`, "model"},
		{ChatCompletions, `{"model":"` + long + `"}`, "model"},
		{ChatCompletions, `{"model":"a","model":"b"}`, "model"},
		{ChatCompletions, `{"model":"a","mod\u0065l":"b"}`, "model"},
		{ChatCompletions, `{"model":"a","Model":"b"}`, "model"},
		{ChatCompletions, `{"MODEL":"b"}`, "model"},
		{ChatCompletions, `{"model":"a","stream":true,"stream":false}`, "stream"},
		{ChatCompletions, `{"model":"a","Stream":true}`, "stream"},
		{ChatCompletions, `{"model":"a","ſtream":true}`, "stream"},
		{ChatCompletions, `{"model":"a","stream":"true"}`, "stream"},
		{ChatCompletions, `{"model":"a","stream":1}`, "stream"},
		{ChatCompletions, `{"model":"a","stream_options":{},"Stream_Options":{"include_usage":false}}`, "stream_options"},
		{CreateResponse, `{"model":"a","previous_response_id":"mine","previous_response_id":"theirs"}`, "previous_response_id"},
		{CreateResponse, `{"model":"a","previous_response_ID":"theirs"}`, "previous_response_id"},
		{StoredResponse, `[]`, ""},
	} {
		err := request(tt.op, tt.body).Read()
		var b *BadRequest
		if !errors.As(err, &b) || b.Param != tt.param || b.Message == "" {
			t.Errorf("%.80s: got %v, want a bad request that blames %q", tt.body, err, tt.param)
		}
	}
}

func TestRequestForSplicesNothingElse(t *testing.T) {
	for _, tt := range []struct {
		op    Operation
		body  string
		model string
		ask   bool
		want  string // empty: the very same bytes
	}{
		{op: ChatCompletions, body: `{"model":"m"}`, model: "m"},
		{op: ChatCompletions, body: `{"model":"m"}`, model: "m", ask: true},
		{op: ChatCompletions, body: `{"model":"\u006d"}`, model: "m"},
		{op: ChatCompletions, body: `{ "x":1.0, "model" :  "m" ,"y":1e2}`, model: "n", want: `{ "x":1.0, "model" :  "n" ,"y":1e2}`},
		{op: ChatCompletions, body: `{"mod\u0065l":"m","big":12345678901234567890}`, model: "a\"<b>", want: `{"mod\u0065l":"a\"\u003cb\u003e","big":12345678901234567890}`},
		// Usage.
		{op: ChatCompletions, body: `{"model":"m","stream":true}`, model: "m"},
		{op: ChatCompletions, body: `{"model":"m","stream":true}`, model: "m", ask: true, want: `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		{op: ChatCompletions, body: ` { "model":"m","stream":true}`, model: "n", ask: true, want: ` {"stream_options":{"include_usage":true}, "model":"n","stream":true}`},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":null}`, model: "m", ask: true, want: `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":{}}`, model: "m", ask: true, want: `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":{ }}`, model: "m", ask: true, want: `{"model":"m","stream":true,"stream_options":{"include_usage":true }}`},
		{
			op: ChatCompletions, body: `{"stream_options":{"include_obfuscation":false},"stream":true,"model":"m"}`, model: "n", ask: true,
			want: `{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true,"model":"n"}`,
		},
		{
			op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":{"a":1,"include_usage" : false ,"b":2}}`, model: "m", ask: true,
			want: `{"model":"m","stream":true,"stream_options":{"a":1,"include_usage" : true ,"b":2}}`,
		},
		{
			op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":{"include_usage":null}}`, model: "m", ask: true,
			want: `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`,
		},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, model: "m", ask: true},
		// Options that the upstream has to refuse stay as they are.
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":5}`, model: "m", ask: true},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":[]}`, model: "m", ask: true},
		{op: ChatCompletions, body: `{"model":"m","stream":true,"stream_options":nil}`, model: "m", ask: true},
		{op: Completions, body: `{"model":"m","stream":true}`, model: "m", ask: true, want: `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		// Nobody else has to be asked.
		{op: CreateResponse, body: `{"model":"m","stream":true}`, model: "m", ask: true},
		{op: CreateMessage, body: `{"model":"m","stream":true}`, model: "m", ask: true},
		{op: Embeddings, body: `{"model":"m","input":"x"}`, model: "n", ask: true, want: `{"model":"n","input":"x"}`},
		{op: StoredResponse, body: `{}`, model: "m"},
		{op: StoredResponse, body: ``, model: "m"},
	} {
		r := mustRead(t, request(tt.op, tt.body))
		got := r.For(tt.model, tt.ask, nil)
		if string(r.Body) != tt.body {
			t.Errorf("%s: the request's own body became %s", tt.body, r.Body)
		}
		if tt.want == "" {
			if len(got) != len(tt.body) || len(got) > 0 && &got[0] != &r.Body[0] {
				t.Errorf("%s: got a copy %s", tt.body, got)
			}
		} else if string(got) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.body, got, tt.want)
		}
	}
}

// The model that the path names is the one that was checked: the body must not
// bring in another.
func TestRequestForWithTheModelInThePath(t *testing.T) {
	for _, tt := range []struct{ path, body, model, want string }{
		{"/openai/deployments/dep/chat/completions", `{"model":"dep","messages":[]}`, "dep", `{"model":"dep","messages":[]}`},
		{"/openai/deployments/dep/chat/completions", `{"model":"secret","messages":[]}`, "dep", `{"model":"dep","messages":[]}`},
		{"/openai/deployments/dep/chat/completions", `{"model":null,"messages":[]}`, "dep", `{"model":"dep","messages":[]}`},
		{"/openai/deployments/dep/chat/completions", `{"model":"dep","messages":[]}`, "other", `{"model":"other","messages":[]}`},
		{"/openai/deployments/dep/chat/completions", `{"messages":[]}`, "dep", `{"model":"dep","messages":[]}`},
		{"/openai/deployments/dep/chat/completions", `{}`, "dep", `{"model":"dep"}`},
		{"/openai/deployments/dep/chat/completions", `{"stream":true}`, "dep", `{"model":"dep","stream_options":{"include_usage":true},"stream":true}`},
		// Google's bodies have no place for it; where one is all the same it has a prefix.
		{"/v1beta/models/g:generateContent", `{"contents":[]}`, "h", `{"contents":[]}`},
		{"/v1beta/models/g:embedContent", `{"model":"models/g","content":{}}`, "g", `{"model":"models/g","content":{}}`},
		{"/v1beta/models/g:embedContent", `{"model":"models/secret","content":{}}`, "g", `{"model":"models/g","content":{}}`},
		{"/v1beta/models/g:embedContent", `{"model":"models/g","content":{}}`, "h", `{"model":"models/h","content":{}}`},
		{"/v1beta/models/g:embedContent", `{"model":"g"}`, "h", `{"model":"h"}`},
		{
			"/v1beta/models/g:batchEmbedContents", `{"requests":[{"model":"models/g","content":{"model":"x"}}, {"content":{}},{"model": "models/secret" },{"model":null}]}`, "h",
			`{"requests":[{"model":"models/h","content":{"model":"x"}}, {"content":{}},{"model": "models/h" },{"model":"h"}]}`,
		},
		{"/v1beta/models/g:batchEmbedContents", `{"requests":[{"model":"models/g"},{"model":"models/g"}]}`, "g", `{"requests":[{"model":"models/g"},{"model":"models/g"}]}`},
		{"/v1beta/models/g:batchEmbedContents", `{"requests":[1,"model"],"model":"models/g"}`, "h", `{"requests":[1,"model"],"model":"models/h"}`},
		{"/v1beta/models/g:countTokens", ` {"x":1,"generateContentRequest":{"contents":[],"model":"models/g"},"model":"models/g"}`, "h", ` {"x":1,"generateContentRequest":{"contents":[],"model":"models/h"},"model":"models/h"}`},
		{"/v1beta/models/g:countTokens", `{"generate_content_request":{"model":"models/g"}}`, "h", `{"generate_content_request":{"model":"models/h"}}`},
		{"/v1beta/models/g:generateContent", `{"requests":[{"model":"models/g"}]}`, "h", `{"requests":[{"model":"models/g"}]}`},
	} {
		r := mustRead(t, &Request{Call: Find("POST", tt.path), Body: []byte(tt.body)})
		if want := r.Call.Model; r.Model != want || want == "" {
			t.Errorf("%s: the model is %q, want %q", tt.path, r.Model, want)
		}
		if got := string(r.For(tt.model, true, nil)); got != tt.want {
			t.Errorf("%s %s for %s:\n got %s\nwant %s", tt.path, tt.body, tt.model, got, tt.want)
		}
	}
	for _, body := range []string{`{"model":"a","model":"b"}`, `{"Model":"b"}`} {
		r := &Request{Call: Find("POST", "/openai/deployments/dep/chat/completions"), Body: []byte(body)}
		if r.Read() == nil {
			t.Errorf("%s: accepted", body)
		}
	}
}

// member is one member of an object, as it stands.
type member struct{ key, raw string }

func membersOf(t *testing.T, data []byte) []member {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	var list []member
	mustToken(dec)
	for dec.More() {
		key := mustToken(dec).(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		list = append(list, member{key, string(raw)})
	}
	return list
}

func without(list []member, keys ...string) []member {
	var kept []member
next:
	for _, m := range list {
		for _, key := range keys {
			if m.key == key {
				continue next
			}
		}
		kept = append(kept, m)
	}
	return kept
}

func valueOf(list []member, key string) string {
	for _, m := range list {
		if m.key == key {
			return m.raw
		}
	}
	return ""
}

func FuzzRequest(f *testing.F) {
	for _, s := range nasty {
		f.Add([]byte(s), uint8(ChatCompletions), "other")
	}
	for _, s := range []string{
		`{"model":"m","stream":true}`, `{"model":"m","stream":true,"stream_options":{}}`, `{"model":"m","stream":true,"stream_options":{"include_usage":false,"a":[1]}}`,
		`{"stream":true,"stream_options":null,"model":"m","messages":[{"role":"user","content":"hi"}]}`,
	} {
		f.Add([]byte(s), uint8(ChatCompletions), "o\"th/er")
	}
	f.Fuzz(func(t *testing.T, body []byte, op uint8, model string) {
		r := request(Operation(op%uint8(operations)), string(body))
		if r.Call.Op.Form() || r.Call.Op == None || model == "" {
			return
		}
		if err := r.Read(); err != nil {
			var b *BadRequest
			if !errors.As(err, &b) {
				t.Fatalf("not a bad request: %v", err)
			}
			return
		}
		r.Opening()
		r.EstimateInput()
		r.Identity()
		if same := r.For(r.Model, false, nil); len(body) > 0 && &same[0] != &r.Body[0] {
			t.Fatalf("a copy was made where nothing had to change: %s", same)
		}
		got := r.For(model, true, nil)
		if !bytes.Equal(r.Body, body) {
			t.Fatalf("the body was changed to %s", r.Body)
		}
		if !json.Valid(body) {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%s became %s", body, got)
		}
		before, after := membersOf(t, body), membersOf(t, got)
		if b, a := without(before, "model", "stream_options"), without(after, "model", "stream_options"); !reflect.DeepEqual(b, a) {
			t.Fatalf("%s became %s", body, got)
		}
		if valueOf(before, "model") != "" {
			var name string
			if err := json.Unmarshal([]byte(valueOf(after, "model")), &name); err != nil || name != string([]rune(model)) {
				t.Fatalf("the model is %q in %s, want %q", name, got, model)
			}
		}
		var b, a map[string]json.RawMessage
		wasObject := json.Unmarshal([]byte(valueOf(before, "stream_options")), &b) == nil || valueOf(before, "stream_options") == ""
		switch asks := r.UsageOnRequest() && wasObject; {
		case !asks && valueOf(before, "stream_options") != valueOf(after, "stream_options"):
			t.Fatalf("%s became %s", body, got)
		case asks:
			if err := json.Unmarshal([]byte(valueOf(after, "stream_options")), &a); err != nil || string(a["include_usage"]) != "true" {
				t.Fatalf("%s became %s", body, got)
			}
			delete(a, "include_usage")
			delete(b, "include_usage")
			if len(a) != len(b) || len(a) > 0 && !reflect.DeepEqual(a, b) {
				t.Fatalf("%s became %s", body, got)
			}
		}
	})
}

// formBody joins parts of a header and a value.
func formBody(boundary string, parts ...[2]string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "--%s\r\n%s\r\n\r\n%s\r\n", boundary, p[0], p[1])
	}
	return b.String() + "--" + boundary + "--\r\n"
}

func field(name, value string) [2]string {
	return [2]string{`Content-Disposition: form-data; name="` + name + `"`, value}
}

var filePart = [2]string{
	"Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\" ü;.mp3\"\r\nContent-Type: audio/mpeg",
	"ID3\x00\r\n--not\r\nmodel\r\n\r\n--xyz\r\n\x00\xff\r\n-",
}

func form1(contentType, body string) *Request {
	r := request(Transcriptions, body)
	r.ContentType = contentType
	return r
}

func TestRequestReadsForms(t *testing.T) {
	const plain = "multipart/form-data; boundary=xYz"
	for _, tt := range []struct {
		name, contentType, body string
		model                   string
		stream                  bool
	}{
		{"model first", plain, formBody("xYz", field("model", "whisper"), filePart), "whisper", false},
		{"model last", plain, formBody("xYz", filePart, field("stream", "true"), field("model", "whisper")), "whisper", true},
		{"quoted boundary", `multipart/form-data; boundary="a b'()+_,-./:=?"`, formBody(`a b'()+_,-./:=?`, field("model", "m")), "m", false},
		{"other spelling", `Multipart/Form-Data; charset=utf-8; BOUNDARY=xYz`, formBody("xYz", [2]string{"content-type: text/plain\r\nCONTENT-DISPOSITION:form-data;name=model", "m"}), "m", false},
		{"preamble and epilogue", plain, "--xY\r\nhello\r\n" + formBody("xYz", field("model", "m")) + "\r\n--xYz\r\nmodel", "m", false},
		{"blanks behind the boundary", plain, strings.ReplaceAll(formBody("xYz", field("model", "m")), "--xYz\r\n", "--xYz \t\r\n"), "m", false},
		{"a longer boundary is data", plain, formBody("xYz", field("prompt", "a\r\n--xYzz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbad\r\n"), field("model", "m")), "m", false},
		{"empty value", plain, formBody("xYz", field("prompt", ""), field("model", "m")), "m", false},
		{"an empty file", plain, formBody("xYz", [2]string{`Content-Disposition: form-data; name="file"; filename=""`, ""}, field("model", "m")), "m", false},
		{"no line end behind the last boundary", plain, strings.TrimSuffix(formBody("xYz", field("model", "m")), "\r\n"), "m", false},
	} {
		r := form1(tt.contentType, tt.body)
		if err := r.Read(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.Model != tt.model || r.Stream != tt.stream || r.EstimateInput() != 0 || len(r.Opening()) != 0 {
			t.Errorf("%s: got model %q, stream %v", tt.name, r.Model, r.Stream)
		}
		if same := r.For(tt.model, true, nil); &same[0] != &r.Body[0] {
			t.Errorf("%s: a copy was made", tt.name)
		}
		got := string(r.For("new/model", true, nil))
		i := strings.Index(got, "new/model")
		if i < 0 || got[:i]+tt.model+got[i+len("new/model"):] != tt.body || string(r.Body) != tt.body {
			t.Errorf("%s: got %q", tt.name, got)
		}
	}
}

func TestRequestRefusesForms(t *testing.T) {
	const plain = "multipart/form-data; boundary=xYz"
	good := formBody("xYz", field("prompt", "p"), field("model", "m"))
	header := func(h string) string { return formBody("xYz", field("model", "good"), [2]string{h, "bad"}) }
	for _, tt := range []struct{ name, contentType, body, param string }{
		{"no content type", "", good, ""},
		{"another content type", "text/plain; boundary=xYz", good, ""},
		{"no boundary", "multipart/form-data", good, ""},
		{"empty boundary", `multipart/form-data; boundary=""`, good, ""},
		{"broken content type", `multipart/form-data; boundary="x`, good, ""},
		{"two boundaries", `multipart/form-data; boundary=xYz; boundary=abc`, good, ""},
		{"boundary with a line end", `multipart/form-data; boundary*=utf-8''x%0d%0aYz`, good, ""},
		{"another boundary", "multipart/form-data; boundary=other", good, ""},
		{"no body", plain, "", ""},
		{"only the end", plain, "--xYz--\r\n", "model"},
		{"boundary in the middle of a line", plain, "x" + good[:strings.LastIndex(good, "\r\n--")], ""},
		{"ends in a header", plain, good[:20], ""},
		{"ends in a value", plain, good[:strings.LastIndex(good, "\r\n--")], ""},
		{"line feeds only", plain, strings.ReplaceAll(good, "\r\n", "\n"), ""},
		{"no model", plain, formBody("xYz", field("prompt", "p")), "model"},
		{"empty model", plain, formBody("xYz", field("model", "")), "model"},
		{"blank model", plain, formBody("xYz", field("model", " ")), "model"},
		{"long model", plain, formBody("xYz", field("model", strings.Repeat("m", maxModel+1))), "model"},
		{"two models", plain, formBody("xYz", field("model", "a"), filePart, field("model", "b")), "model"},
		{"model in capitals", plain, formBody("xYz", field("model", "a"), field("Model", "b")), "model"},
		{"part without a name", plain, header(`Content-Disposition: form-data; filename="model"`), ""},
		{"part without a disposition", plain, header(`Content-Type: text/plain`), ""},
		{"two names", plain, header(`Content-Disposition: form-data; name="x"; name="model"`), ""},
		{"two dispositions", plain, header("Content-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"model\""), ""},
		{"name with a backslash", plain, header(`Content-Disposition: form-data; name="mo\del"`), ""},
		{"name in percents", plain, header(`Content-Disposition: form-data; name="mod%65l"`), ""},
		{"folded header", plain, header("Content-Disposition: form-data;\r\n name=\"model\""), ""},
		{"blank before the colon", plain, header(`Content-Disposition : form-data; name="model"`), ""},
		{"line feed in a header", plain, header("Content-Disposition: form-data; name=\"x\"\nContent-Disposition: form-data; name=\"model\""), ""},
		{"not a header", plain, header("hello"), ""},
		{"another kind of part", plain, header(`Content-Disposition: attachment; name="model"`), ""},
		{"long header", plain, header("X: " + strings.Repeat("x", maxPartHead) + "\r\nContent-Disposition: form-data; name=\"x\""), ""},
	} {
		err := form1(tt.contentType, tt.body).Read()
		var b *BadRequest
		if !errors.As(err, &b) || b.Param != tt.param {
			t.Errorf("%s: got %v, want a bad request that blames %q", tt.name, err, tt.param)
		}
	}
	var parts [][2]string
	for range maxParts {
		parts = append(parts, field("prompt", "p"))
	}
	if err := form1(plain, formBody("xYz", append(parts[1:], field("model", "m"))...)).Read(); err != nil {
		t.Errorf("%d parts: %v", maxParts, err)
	}
	if err := form1(plain, formBody("xYz", append(parts, field("model", "m"))...)).Read(); err == nil {
		t.Errorf("%d parts were accepted", maxParts+1)
	}
}

// A form on a path of Azure's has its model there.
func TestRequestFormWithTheModelInThePath(t *testing.T) {
	call := Find("POST", "/openai/deployments/dep/audio/transcriptions")
	body := formBody("xYz", filePart, field("model", "secret"))
	r := mustRead(t, &Request{Call: call, Body: []byte(body), ContentType: "multipart/form-data; boundary=xYz"})
	if got := string(r.For("dep", false, nil)); r.Model != "dep" || got != strings.Replace(body, "secret", "dep", 1) {
		t.Errorf("got model %q and %q", r.Model, got)
	}
	body = formBody("xYz", filePart)
	r = mustRead(t, &Request{Call: call, Body: []byte(body), ContentType: "multipart/form-data; boundary=xYz"})
	if got := string(r.For("other", false, nil)); got != body {
		t.Errorf("got %q", got)
	}
}

// Whatever is accepted, another reader of forms finds the same model in it.
func FuzzForm(f *testing.F) {
	for _, body := range []string{
		formBody("xYz", field("model", "m"), filePart),
		formBody("xYz", filePart, field("stream", "true"), field("model", "m")),
		formBody("xYz", [2]string{`Content-Disposition: form-data; name=model; filename="x"`, "m"}),
		"preamble\r\n--xYz  \r\n" + field("model", "m")[0] + "\r\n\r\nm\r\n--xYz--",
		"--xYz\r\n" + field("model", "m")[0] + "\r\n\r\nm\r\n--xYzz\r\n--xYz--",
		"--xYz\r\n\r\n\r\n--xYz--",
	} {
		f.Add("multipart/form-data; boundary=xYz", []byte(body))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		r := form1(contentType, string(body))
		if err := r.Read(); err != nil || isJSON(contentType) {
			return
		}
		_, params, _ := mime.ParseMediaType(contentType)
		before, ok := partsOf(body, params["boundary"])
		if !ok {
			return
		}
		var models []string
		for _, p := range before {
			if strings.EqualFold(p.key, "model") {
				models = append(models, p.raw)
			}
		}
		if len(models) != 1 || models[0] != r.Model {
			t.Fatalf("read the model %q; another reader finds %q", r.Model, models)
		}
		after, ok := partsOf(r.For("new", false, nil), params["boundary"])
		if !ok || valueOf(after, "model") != "new" || !reflect.DeepEqual(without(before, "model"), without(after, "model")) {
			t.Fatalf("%q became %q", before, after)
		}
	})
}

func partsOf(body []byte, boundary string) (list []member, ok bool) {
	m := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		p, err := m.NextRawPart()
		if err == io.EOF {
			return list, true
		}
		if err != nil {
			return nil, false
		}
		value, err := io.ReadAll(p)
		if err != nil {
			return nil, false
		}
		list = append(list, member{p.FormName(), string(value)})
	}
}

func TestRequestOpening(t *testing.T) {
	for _, tt := range []struct {
		op         Operation
		body, want string
	}{
		{ChatCompletions, `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"first"},{"role":"user","content":"second"}]}`, `"first"`},
		{ChatCompletions, `{"model":"m","messages":[{"content":[{"type":"text"}],"role":"user"}]}`, `[{"type":"text"}]`},
		{ChatCompletions, `{"model":"m","messages":[{"role":"system","content":"s"}]}`, ``},
		{ChatCompletions, `{"model":"m","messages":[]}`, ``},
		{ChatCompletions, `{"model":"m"}`, ``},
		{ChatCompletions, `{"model":"m","messages":"odd"}`, `"odd"`},
		{CreateResponse, `{"model":"m","input":"hello"}`, `"hello"`},
		{CreateResponse, `{"model":"m","messages":"x","input":[{"role":"developer","content":"d"},{"type":"message","role":"user","content":"u"}]}`, `"u"`},
		{CreateMessage, `{"model":"m","system":"s","messages":[{"role":"user","content":"u"}]}`, `"u"`},
		{Completions, `{"model":"m","prompt":"p"}`, `"p"`},
	} {
		if got := string(mustRead(t, request(tt.op, tt.body)).Opening()); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.body, got, tt.want)
		}
	}
	g := &Request{Call: Find("POST", "/v1beta/models/g:generateContent"), Body: []byte(`{"contents":[{"role":"model","parts":[1]},{"parts":[{"text":"x"}]}]}`)}
	if got := string(mustRead(t, g).Opening()); got != `[{"text":"x"}]` {
		t.Errorf("got %s", got)
	}
	long := mustRead(t, request(Completions, `{"model":"m","prompt":"`+strings.Repeat("x", 5000)+`"}`))
	if n := len(long.Opening()); n != 1<<10 {
		t.Errorf("%d bytes of a long turn", n)
	}
}

func TestRequestDropReasoning(t *testing.T) {
	for _, tt := range []struct{ input, want string }{
		{
			`[{"type":"message","role":"user","content":"a"},{"type":"reasoning","id":"rs","encrypted_content":"x"} , {"type":"function_call","name":"reasoning"}]`,
			`[{"type":"message","role":"user","content":"a"},{"type":"function_call","name":"reasoning"}]`,
		},
		{`[{"encrypted_content":"x","type":"reasoning"}]`, `[]`},
		{`[{"role":"user","content":"\"type\":\"reasoning\""}]`, ``},
		{`[]`, ``},
		{`"reasoning"`, ``},
	} {
		body := `{"previous_response_id":"r","input": ` + tt.input + ` ,"model":"m","stream":true}`
		r := mustRead(t, request(CreateResponse, body))
		dropped := r.DropReasoning()
		want := body
		if tt.want != "" {
			want = strings.Replace(body, tt.input, tt.want, 1)
		}
		if dropped != (tt.want != "") || string(r.Body) != want || r.Model != "m" || r.PreviousID != "r" || !r.Stream {
			t.Errorf("%s: got %v, %s", tt.input, dropped, r.Body)
		}
		if got := string(r.For("n", false, nil)); got != strings.Replace(want, `"m"`, `"n"`, 1) {
			t.Errorf("%s: then got %s", tt.input, got)
		}
	}
}

func TestRequestEstimateInput(t *testing.T) {
	file := strings.Repeat("iVBORw0KGgo+/", 1000)
	text := strings.Repeat("some words ", 1000)
	code := strings.Repeat(`a\nb`, 1000)
	for _, tt := range []struct {
		name, body string
		left       int // bytes left out
	}{
		{"text", `{"model":"m","messages":"` + text + `"}`, 0},
		{"code", `{"model":"m","messages":"` + code + `"}`, 0},
		{"data URL", `{"model":"m","url":"data:image/png;base64,` + file + `"}`, len(file) + 22},
		{"Messages, Gemini, audio", `{"model":"m","data": "` + file + `","text":"` + text + `"}`, len(file)},
		{"two", `{"model":"m","a":["` + file + `","` + file + `"]}`, 2 * len(file)},
		{"an event stream as text", `{"model":"m","a":"data: ` + text + `"}`, 0},
		{"short", `{"model":"m","a":"` + file[:500] + `"}`, 0},
	} {
		r := mustRead(t, request(ChatCompletions, tt.body))
		want := int64(len(tt.body)-tt.left) / 4
		if got := r.EstimateInput(); got < want-5 || got > want+5 {
			t.Errorf("%s: got %d, want about %d", tt.name, got, want)
		}
	}
}

func TestRequestIdentity(t *testing.T) {
	a, b, c := request(ChatCompletions, `{"model":"m"}`), request(ChatCompletions, `{"model":"m"}`), request(ChatCompletions, `{"model":"n"}`)
	if a.Identity() != b.Identity() || a.Identity() == c.Identity() {
		t.Error("the identity is not that of the body")
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, bb := range []struct {
		name string
		op   Operation
		body []byte
	}{
		{"chat1k", ChatCompletions, chatBody(1<<10, "hello world ")},
		{"text200k", ChatCompletions, textBody},
		{"messages200k", CreateMessage, textBody},
		{"image1M", ChatCompletions, imageBody},
	} {
		b.Run("read/"+bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				r := Request{Call: Call{Op: bb.op}, Body: bb.body}
				if err := r.Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
		r := Request{Call: Call{Op: bb.op}, Body: bb.body}
		if err := r.Read(); err != nil {
			b.Fatal(err)
		}
		b.Run("for/"+bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				r.For("other", true, nil)
			}
		})
		b.Run("estimate/"+bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.body)))
			for b.Loop() {
				r.EstimateInput()
			}
		})
	}
}

// Reading allocates the model's name and nothing else.
func TestRequestAllocates(t *testing.T) {
	body := chatBody(1<<10, "hello world ")
	var r Request
	if n := testing.AllocsPerRun(100, func() {
		r = Request{Call: Call{Op: ChatCompletions}, Body: body}
		if err := r.Read(); err != nil {
			panic(err)
		}
	}); n > 1 {
		t.Errorf("Read makes %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { r.For("gpt-4o", false, nil) }); n != 0 {
		t.Errorf("For makes %v allocations when nothing has to change", n)
	}
}
