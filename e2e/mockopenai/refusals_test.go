package mockopenai_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// post sends a body and returns the answer with its body.
func post(t *testing.T, url, key, contentType, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

const key = "sk-mock-upstream-1"

// What the service refuses is refused, with its status, code and param.
func TestRefusals(t *testing.T) {
	s := start(t)
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	const call = `{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}`
	tests := []struct {
		name, path, body string
		status           int
		code, param      string
	}{
		{"unknown path", "/nothing", `{}`, 404, "unknown_url", ""},
		{"wrong method", "/models", `{}`, 405, "method_not_supported", ""},
		{"empty body", "/chat/completions", ``, 400, "", ""},
		{"not JSON", "/chat/completions", `{"model":`, 400, "", ""},
		{"rubbish behind", "/chat/completions", `{"model":"mock-chat",` + hi + `}x`, 400, "", ""},
		{"a name twice", "/chat/completions", `{"model":"mock-chat","stream":true,"stream":true,` + hi + `}`, 400, "duplicate_parameter", "stream"},
		{"no model", "/chat/completions", `{` + hi + `}`, 400, "missing_required_parameter", "model"},
		{"model of a wrong type", "/chat/completions", `{"model":1,` + hi + `}`, 400, "invalid_type", "model"},
		{"unknown model", "/chat/completions", `{"model":"other",` + hi + `}`, 404, "model_not_found", ""},
		{"unknown field", "/chat/completions", `{"model":"mock-chat","metdata":{},` + hi + `}`, 400, "unknown_parameter", "metdata"},
		{"wrong type", "/chat/completions", `{"model":"mock-chat","temperature":"hot",` + hi + `}`, 400, "invalid_type", "temperature"},
		{"out of range", "/chat/completions", `{"model":"mock-chat","temperature":3,` + hi + `}`, 400, "decimal_above_max_value", "temperature"},
		{"both limits", "/chat/completions", `{"model":"mock-chat","max_tokens":3,"max_completion_tokens":3,` + hi + `}`, 400, "invalid_parameter_combination", "max_tokens"},
		{"max_tokens of a reasoning model", "/chat/completions", `{"model":"mock-reasoner","max_tokens":3,` + hi + `}`, 400, "unsupported_parameter", "max_tokens"},
		{"reasoning of another", "/chat/completions", `{"model":"mock-chat","reasoning_effort":"low",` + hi + `}`, 400, "unsupported_parameter", "reasoning_effort"},
		{"stream_options without stream", "/chat/completions", `{"model":"mock-chat","stream_options":{"include_usage":true},` + hi + `}`, 400, "", "stream_options"},
		{"unknown stream option", "/chat/completions", `{"model":"mock-chat","stream":true,"stream_options":{"x":true},` + hi + `}`, 400, "unknown_parameter", "stream_options.x"},
		{"a stream option twice", "/chat/completions", `{"model":"mock-chat","stream":true,"stream_options":{"include_usage":false,"include_usage":true},` + hi + `}`, 400, "duplicate_parameter", "include_usage"},
		{"no messages", "/chat/completions", `{"model":"mock-chat","messages":[]}`, 400, "empty_array", "messages"},
		{"unknown role", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"robot","content":"hi"}]}`, 400, "invalid_value", "messages[0].role"},
		{"null content", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"user","content":null}]}`, 400, "invalid_type", "messages[0].content"},
		{"image of a system", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"system","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, 400, "invalid_value", "messages[0].content[0].type"},
		{"part of another API", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}`, 400, "invalid_value", "messages[0].content[0].type"},
		{"tool without call", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"user","content":"hi"},{"role":"tool","tool_call_id":"c1","content":"x"}]}`, 400, "", "messages[1].role"},
		{"call without tool", "/chat/completions", `{"model":"mock-chat","messages":[` + call + `,{"role":"user","content":"hi"}]}`, 400, "", "messages[1]"},
		{"call without answer", "/chat/completions", `{"model":"mock-chat","messages":[` + call + `]}`, 400, "", "messages"},
		{"arguments that are no string", "/chat/completions", `{"model":"mock-chat","messages":[{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":{}}}]}]}`, 400, "invalid_type", "messages"},
		{"no tools", "/chat/completions", `{"model":"mock-chat","tools":[],` + hi + `}`, 400, "empty_array", "tools"},
		{"choice without tools", "/chat/completions", `{"model":"mock-chat","tool_choice":"auto",` + hi + `}`, 400, "", "tool_choice"},
		{"choice of an unknown tool", "/chat/completions", `{"model":"mock-chat","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"g"}},` + hi + `}`, 400, "invalid_value", "tool_choice"},
		{"flat tool", "/chat/completions", `{"model":"mock-chat","tools":[{"type":"function","name":"f"}],` + hi + `}`, 400, "missing_required_parameter", "tools[0].function"},
		{"name of a tool", "/chat/completions", `{"model":"mock-chat","tools":[{"type":"function","function":{"name":"a.b"}}],` + hi + `}`, 400, "invalid_value", "tools[0].function.name"},
		{"strict schema", "/chat/completions", `{"model":"mock-chat","tools":[{"type":"function","function":{"name":"f","strict":true,"parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}],` + hi + `}`, 400, "invalid_function_parameters", "tools[0].function.parameters"},
		{"JSON without the word", "/chat/completions", `{"model":"mock-chat","response_format":{"type":"json_object"},` + hi + `}`, 400, "", "messages"},

		{"no prompt", "/completions", `{"model":"mock-instruct"}`, 400, "missing_required_parameter", "prompt"},
		{"messages to completions", "/completions", `{"model":"mock-instruct","prompt":"x",` + hi + `}`, 400, "unknown_parameter", "messages"},
		{"no input", "/embeddings", `{"model":"mock-embedding","input":""}`, 400, "", "input"},
		{"encoding", "/embeddings", `{"model":"mock-embedding","input":"x","encoding_format":"hex"}`, 400, "invalid_value", "encoding_format"},

		{"no response input", "/responses", `{"model":"mock-chat"}`, 400, "missing_required_parameter", "input"},
		{"messages to responses", "/responses", `{"model":"mock-chat",` + hi + `}`, 400, "unknown_parameter", "messages"},
		{"include_usage", "/responses", `{"model":"mock-chat","input":"hi","stream":true,"stream_options":{"include_usage":true}}`, 400, "unknown_parameter", "stream_options.include_usage"},
		{"input_text of an assistant", "/responses", `{"model":"mock-chat","input":[{"role":"assistant","content":[{"type":"input_text","text":"hi"}]}]}`, 400, "invalid_value", "input[0].content[0].type"},
		{"output_text of a user", "/responses", `{"model":"mock-chat","input":[{"role":"user","content":[{"type":"output_text","text":"hi"}]}]}`, 400, "invalid_value", "input[0].content[0].type"},
		{"id of a message", "/responses", `{"model":"mock-chat","input":[{"type":"message","id":"chatcmpl-1","role":"user","content":"hi"}]}`, 400, "invalid_value", "input[0].id"},
		{"output without call", "/responses", `{"model":"mock-chat","input":[{"type":"function_call_output","call_id":"c1","output":"x"}]}`, 400, "", "input"},
		{"call without output", "/responses", `{"model":"mock-chat","input":[{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"}]}`, 400, "", "input"},
		{"nested tool", "/responses", `{"model":"mock-chat","input":"hi","tools":[{"type":"function","function":{"name":"f"}}]}`, 400, "unknown_parameter", "tools[0].function"},
		{"strict unless it says no", "/responses", `{"model":"mock-chat","input":"hi","tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}]}`, 400, "invalid_function_parameters", "tools[0].parameters"},
		{"nested format", "/responses", `{"model":"mock-chat","input":"hi","text":{"format":{"type":"json_schema","json_schema":{}}}}`, 400, "unknown_parameter", "text.format.json_schema"},
		{"too low a limit", "/responses", `{"model":"mock-chat","input":"hi","max_output_tokens":1}`, 400, "integer_below_min_value", "max_output_tokens"},
		{"reasoning of a plain model", "/responses", `{"model":"mock-chat","input":"hi","reasoning":{"effort":"low"}}`, 400, "unsupported_parameter", "reasoning.effort"},
		{"unknown previous response", "/responses", `{"model":"mock-chat","input":"hi","previous_response_id":"resp_1"}`, 400, "previous_response_not_found", "previous_response_id"},
		{"reasoning without content", "/responses", `{"model":"mock-reasoner","input":[{"type":"reasoning","id":"rs_1","summary":[]},{"role":"assistant","content":"hi"}]}`, 404, "", "input"},
		{"invented reasoning", "/responses", `{"model":"mock-reasoner","input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAAAABx"},{"role":"assistant","content":"hi"}]}`, 400, "invalid_encrypted_content", ""},
		{"background without store", "/responses", `{"model":"mock-chat","input":"hi","background":true,"store":false}`, 400, "", "background"},

		{"no voice", "/audio/speech", `{"model":"mock-tts","input":"hi"}`, 400, "missing_required_parameter", "voice"},
		{"JSON to a form", "/audio/transcriptions", `{"model":"mock-whisper"}`, 400, "unsupported_content_type", ""},
		{"no picture prompt", "/images/generations", `{"model":"mock-image"}`, 400, "missing_required_parameter", "prompt"},
		{"no documents", "/rerank", `{"model":"mock-rerank","query":"x"}`, 400, "missing_required_parameter", "documents"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := post(t, s.URL+"/v1"+tt.path, key, "application/json", tt.body)
			checkError(t, resp.StatusCode, body, tt.status, tt.code, tt.param)
		})
	}
	t.Run("no key", func(t *testing.T) {
		resp, body := post(t, s.URL+"/v1/chat/completions", "", "application/json", `{}`)
		checkError(t, resp.StatusCode, body, 401, "", "")
	})
	t.Run("wrong key", func(t *testing.T) {
		resp, body := post(t, s.URL+"/v1/chat/completions", "sk-client-alice-0001", "application/json", `{}`)
		checkError(t, resp.StatusCode, body, 401, "invalid_api_key", "")
	})
	t.Run("content type", func(t *testing.T) {
		resp, body := post(t, s.URL+"/v1/chat/completions", key, "text/plain", `{"model":"mock-chat",`+hi+`}`)
		checkError(t, resp.StatusCode, body, 400, "unsupported_content_type", "")
	})
}

// checkError checks an error's status and body; all four members must be there.
func checkError(t *testing.T, status int, body string, want int, code, param string) {
	t.Helper()
	var e struct {
		Error map[string]*string `json:"error"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%d %q: %v", status, body, err)
	}
	text := func(name string) string {
		v, ok := e.Error[name]
		if !ok {
			t.Errorf("the error has no %s: %s", name, body)
		}
		if v == nil {
			return ""
		}
		return *v
	}
	if status != want || text("code") != code || text("param") != param || text("message") == "" || text("type") == "" {
		t.Errorf("got %d %s\nwant %d with code %q and param %q", status, body, want, code, param)
	}
}
