package mockgemini_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/geminicalls"
	"github.com/floway/floway/e2e/mock"
	"github.com/floway/floway/e2e/mockgemini"
)

const key = "sk-mock-upstream-1"

func start(t *testing.T) mock.Control {
	t.Helper()
	s := mockgemini.New(mock.Config{})
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return mock.Control{URL: server.URL}
}

// The official SDK understands every answer, and equal questions get equal bytes.
func TestOfficialSDK(t *testing.T) {
	client, err := geminicalls.Client(t.Context(), start(t).URL, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range geminicalls.All {
		t.Run(call.Name, func(t *testing.T) {
			var once, again geminicalls.Tape
			for _, tape := range []*geminicalls.Tape{&once, &again} {
				if err := call.Do(t.Context(), client, tape); err != nil {
					t.Fatal(err)
				}
			}
			if len(once.Pieces) == 0 || !slices.Equal(once.Pieces, again.Pieces) {
				t.Errorf("%d pieces, then %d; they differ", len(once.Pieces), len(again.Pieces))
			}
		})
	}
}

func post(t *testing.T, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", key)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, "BROKEN"
	}
	return resp.StatusCode, string(b)
}

// What the real service refuses is refused.
func TestRefusals(t *testing.T) {
	c := start(t)
	const hi = `{"role":"user","parts":[{"text":"hi"}]}`
	turns := func(more ...string) string {
		return `{"contents":[` + strings.Join(append([]string{hi}, more...), ",") + `]}`
	}
	with := func(members string) string { return strings.Replace(turns(), "{", "{"+members+",", 1) }
	function := func(members string) string {
		return with(`"tools":[{"functionDeclarations":[{"name":"f"` + members + `}]}]`)
	}
	call := func(signature string) string {
		return `{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":1}}` + signature + `}]}`
	}
	signed := `,"thoughtSignature":"` + mock.Seal("gemini", "", `f{"a":1}`) + `"`
	const answer = `{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"result":"x"}}}]}`
	for _, tt := range []struct {
		name, body string
		header     []string
		want       string
	}{
		{"no key", turns(), []string{"X-Goog-Api-Key", ""}, "PERMISSION_DENIED"},
		{"wrong key", turns(), []string{"X-Goog-Api-Key", "x"}, "API_KEY_INVALID"},
		{"unknown field", with(`"stream":true`), nil, `Unknown name \"stream\": Cannot find field.`},
		{"unknown field inside", turns(`{"role":"user","parts":[{"type":"text","text":"a"}]}`), nil, `Unknown name \"type\" at 'contents[1].parts[0]': Cannot find field.`},
		{"field twice", `{"contents":[],"contents":[]}`, nil, "stands in one object twice"},
		{"no contents", `{}`, nil, "contents is not specified"},
		{"wrong role", turns(`{"role":"assistant","parts":[{"text":"a"}]}`), nil, "valid role"},
		{"no parts", turns(`{"role":"model","parts":[]}`), nil, "must not be empty"},
		{"empty part", turns(`{"role":"model","parts":[{"thought":true}]}`), nil, "must have one initialized field"},
		{"part of two kinds", turns(`{"role":"model","parts":[{"text":"a","inlineData":{"mimeType":"image/png","data":"aGk="}}]}`), nil, "oneof field 'data' is already set"},
		{"image that is none", turns(`{"role":"user","parts":[{"inlineData":{"mimeType":"image/png","data":"***"}}]}`), nil, "Base64 decoding failed"},
		{"response without a call", turns(answer), nil, "immediately after a function call turn"},
		{"unanswered call", turns(call(signed), hi), nil, "number of function response parts"},
		{"response to another", turns(call(signed), strings.Replace(answer, `"f"`, `"g"`, 1)), nil, "do not answer"},
		{"call at the end", turns(call(signed)), nil, "end with a user role"},
		{"call by the user", turns(strings.Replace(call(signed), "model", "user", 1), answer), nil, "valid role for the function part"},
		{"response that is no object", turns(call(signed), strings.Replace(answer, `{"result":"x"}`, `"x"`, 1)), nil, "want an object"},
		{"signature lost", turns(call(""), answer), nil, "missing a thought_signature"},
		{"signature forged", turns(call(`,"thoughtSignature":"EqQB"`), answer), nil, "signature is not valid"},
		{"signature of another service", turns(call(`,"thoughtSignature":"`+mock.Seal("anthropic", "", `f{"a":1}`)+`"`), answer), nil, "signature is not valid"},
		{"signature of another call", turns(call(`,"thoughtSignature":"`+mock.Seal("gemini", "", `g{}`)+`"`), answer), nil, "signature is not valid"},
		{"schema word", function(`,"parameters":{"type":"OBJECT","properties":{"a":{"type":"STRING"}},"additionalProperties":false}`), nil, `Unknown name \"additionalProperties\" at 'tools[0].functionDeclarations[0].parameters'`},
		{"schema word inside", function(`,"parameters":{"type":"OBJECT","properties":{"a":{"type":"STRING","const":"x"}}}`), nil, `Unknown name \"const\"`},
		{"list of types", function(`,"parameters":{"type":"OBJECT","properties":{"a":{"type":["string","null"]}}}`), nil, "want a string"},
		{"enum of numbers", function(`,"parameters":{"type":"OBJECT","properties":{"a":{"type":"INTEGER","enum":[1]}}}`), nil, "want a string"},
		{"object without members", function(`,"parameters":{"type":"OBJECT","properties":{}}`), nil, "should be non-empty for OBJECT type"},
		{"array of nothing", function(`,"parameters":{"type":"OBJECT","properties":{"a":{"type":"ARRAY"}}}`), nil, "items: missing field"},
		{"both schemas", function(`,"parameters":{"type":"STRING"},"parametersJsonSchema":{}`), nil, "cannot both be set"},
		{"function name", strings.Replace(function(""), `"f"`, `"a b"`, 1), nil, "Invalid function name"},
		{"tool of another dialect", with(`"tools":[{"type":"function"}]`), nil, `Unknown name \"type\"`},
		{"allowed without any", strings.Replace(function(""), "{", `{"toolConfig":{"functionCallingConfig":{"mode":"AUTO","allowedFunctionNames":["f"]}},`, 1), nil, "mode must be ANY"},
		{"allowed and not there", strings.Replace(function(""), "{", `{"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["g"]}},`, 1), nil, "not among"},
		{"level and budget", with(`"generationConfig":{"thinkingConfig":{"thinkingBudget":1,"thinkingLevel":"LOW"}}`), nil, "thinking budget and thinking level"},
		{"schema without its type", with(`"generationConfig":{"responseJsonSchema":{}}`), nil, "response_mime_type"},
		{"too many stops", with(`"generationConfig":{"stopSequences":["a","b","c","d","e","f"]}`), nil, "must not exceed 5"},
		{"temperature", with(`"generationConfig":{"temperature":3}`), nil, "temperature must be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := post(t, c.URL+"/v1beta/models/mock-chat:generateContent", tt.body, tt.header...)
			var e struct {
				Error struct{ Status, Message string }
			}
			if json.Unmarshal([]byte(body), &e); status < 400 || !strings.Contains(body, tt.want) || e.Error.Status == "" {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	for name, body := range map[string]string{
		"signed call": turns(call(signed), answer), "a stand-in": turns(call(`,"thoughtSignature":"skip_thought_signature_validator"`), answer),
		"a stand-in in base64": turns(call(`,"thoughtSignature":"c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="`), answer),
		"a turn of long ago":   turns(call(""), answer, `{"role":"model","parts":[{"text":"x"}]}`, hi),
		"snake case":           with(`"generation_config":{"max_output_tokens":5},"system_instruction":{"parts":[{"text":"x"}]}`),
		"small types":          function(`,"parameters":{"type":"object","properties":{"a":{"type":"string"}}}`),
	} {
		if status, body := post(t, c.URL+"/v1beta/models/mock-chat:generateContent", body); status != 200 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := post(t, c.URL+"/v1beta/models/gpt-5:generateContent", turns()); status != 404 || !strings.Contains(body, "models/gpt-5 is not found") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := post(t, c.URL+"/v1beta/models/mock-chat:generateContent?beta=true", turns()); status != 400 || !strings.Contains(body, "Cannot bind query parameter") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := post(t, c.URL+"/v1beta/models/mock-chat+status=503:streamGenerateContent", turns()); status != 503 || !strings.HasPrefix(body, `[{"error":`) {
		t.Errorf("%d %s", status, body)
	}
}

// Both forms of a stream, and the words of a model's name.
func TestBehavior(t *testing.T) {
	c := start(t)
	const hi = `{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}`
	ask := func(words, query string) (int, string) {
		return post(t, c.URL+"/v1beta/models/mock-chat+words=20"+words+":streamGenerateContent"+query, hi)
	}
	_, events := ask("", "?alt=sse")
	_, array := ask("", "")
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(array), &list); err != nil || len(list) != 21 || strings.Count(events, "data: {") != 21 || !strings.HasSuffix(events, "}\r\n\r\n") {
		t.Fatalf("%v\n%s\n%s", err, array, events)
	}
	for i, data := range strings.Split(strings.TrimSuffix(events, "\r\n\r\n"), "\r\n\r\n") {
		if data != "data: "+string(list[i]) {
			t.Errorf("chunk %d: %s and %s", i, data, list[i])
		}
	}
	for words, check := range map[string]func(string) bool{
		"+cut=5":  func(b string) bool { return b == "BROKEN" },
		"+end=5":  func(b string) bool { return strings.Count(b, `"text"`) == 5 && !strings.Contains(b, "finishReason") },
		"+fail=5": func(b string) bool { return strings.Contains(b, `{"error":{"code":503`) },
	} {
		for _, query := range []string{"", "?alt=sse"} {
			if _, body := ask(words, query); !check(body) {
				t.Errorf("%s: %s", words, body)
			}
		}
	}
	entries, err := c.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if e.Told {
			n++
			if e.Key != "k1" || e.Tokens.Input == 0 || e.Tokens.Output != 20 || e.Operation != "gemini.stream" || !e.Stream || e.Outcome != mock.Full {
				t.Errorf("%+v", e)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d answers told what they used", n)
	}
}
