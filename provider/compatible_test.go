package provider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

func newOpenAI(t *testing.T, c Config) Upstream {
	t.Helper()
	kind, _ := Lookup("openai")
	u, err := kind.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCompatibleAddresses(t *testing.T) {
	for base, at := range map[string]string{
		"":                             "https://api.openai.com/v1",
		"http://localhost:8000/":       "http://localhost:8000/v1",
		"http://localhost/a%2Fb/v1":    "http://localhost/a%2Fb/v1",
		"https://h.example/v1beta/x":   "https://h.example/v1beta/x",
		"https://h.example/openai/v1/": "https://h.example/openai/v1",
	} {
		u := newOpenAI(t, Config{BaseURL: base})
		for op := range dialect.Operations() {
			if !u.Speaks(op, "m") || op == dialect.StoredResponse {
				continue
			}
			if got := u.Address(&dialect.Call{Op: op}, "m").String(); got != at+op.Path() {
				t.Errorf("%s of %q is at %s", op, base, got)
			}
		}
		for _, c := range []struct{ id, rest, want string }{
			{"resp_1", "", "/responses/resp_1"},
			{"resp_1", "/input_items", "/responses/resp_1/input_items"},
			{"a/b?c#d e%2F", "/cancel", "/responses/a%2Fb%3Fc%23d%20e%252F/cancel"},
		} {
			got := u.Address(&dialect.Call{Op: dialect.StoredResponse, ID: c.id, Rest: c.rest}, "")
			if got.String() != at+c.want {
				t.Errorf("the response %q of %q is at %s", c.id, base, got)
			}
			if !strings.HasSuffix(got.Path, "/responses/"+c.id+c.rest) {
				t.Errorf("the path of the response %q is %q", c.id, got.Path)
			}
		}
		// Addresses are shared; asking for one changes none of the others.
		if got := u.Address(&dialect.Call{Op: dialect.CreateResponse}, "").String(); got != at+"/responses" {
			t.Errorf("afterwards responses are at %s", got)
		}
	}
}

func TestCompatibleConfig(t *testing.T) {
	kind, _ := Lookup("openai")
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{BaseURL: "ftp://h"}, "base_url"},
		{Config{Dialects: []string{"chat", "chats"}}, `"chats"`},
		{Config{Dialects: []string{"gemini"}}, `"gemini"`}, // its paths name the model
		{Config{Options: map[string][]string{"version": {"1"}}}, "version"},
		{Config{Options: map[string][]string{"project": nil}}, "project: one value"},
		{Config{Options: map[string][]string{"project": {""}}}, "project: one value"},
		{Config{Options: map[string][]string{"project": {"a", "b"}}}, "project: one value"},
		{Config{Options: map[string][]string{"project": {"a\r\nX-Injected: b"}}}, "project: the value"},
		{Config{Options: map[string][]string{"zzz": {"1"}, "aaa": {"1"}}}, "aaa"}, // always the same one
	} {
		if _, err := kind.New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
	u := newOpenAI(t, Config{Options: map[string][]string{"organization": {"org-1"}, "project": {"proj_1"}}})
	if h := u.Headers(); h.Get("OpenAI-Organization") != "org-1" || h.Get("OpenAI-Project") != "proj_1" || len(h) != 2 {
		t.Errorf("the headers are %v", h)
	}
	if u.Transport() != nil {
		t.Error("the network is not used")
	}

	all, some := newOpenAI(t, Config{}), newOpenAI(t, Config{Dialects: []string{"chat", "messages"}})
	for _, c := range []struct {
		op        dialect.Operation
		all, some bool
	}{
		{dialect.ChatCompletions, true, true},
		{dialect.CreateResponse, true, false},
		{dialect.StoredResponse, true, false},
		{dialect.CountMessage, false, true},
		{dialect.GenerateContent, false, false},
		{dialect.ImageEdits, true, false},
	} {
		if all.Speaks(c.op, "m") != c.all || some.Speaks(c.op, "m") != c.some {
			t.Errorf("%s: %t by default, %t as declared", c.op, all.Speaks(c.op, "m"), some.Speaks(c.op, "m"))
		}
	}
	for model, want := range map[string]bool{"gpt-x": true, "o3-mini": true, "text-embedding-3-small": true, "claude-x": false, "my-gpt-x": false, "": false} {
		if all.Family(model) != want {
			t.Errorf("%q is in the family: %t", model, !want)
		}
	}
}

func TestRefusals(t *testing.T) {
	u := newOpenAI(t, Config{})
	for _, c := range []struct {
		status int
		body   string
		want   Meaning
	}{
		{429, `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`, QuotaSpent},
		{429, `{"error":{"message":"x","type":"insufficient_quota","code":null}}`, QuotaSpent},
		{400, `{"error":{"message":"x","code":"billing_hard_limit_reached"}}`, QuotaSpent},
		{429, `{"error":{"message":"Rate limit reached for m","type":"tokens","code":"rate_limit_exceeded"}}`, Plain},
		{429, `{"error":{"message":"The Organization-Wide limit is reached","code":"rate_limit_exceeded"}}`, AccountLimit},
		{401, `{"error":{"message":"x","code":"invalid_api_key"}}`, BadCredential},
		{403, `{"error":{"message":"x","code":"account_deactivated"}}`, BadCredential},
		{404, `{"error":{"message":"The model m does not exist","code":"model_not_found"}}`, NoModel},
		{404, "{\"error\":{\"message\":\"The model `m` does not exist or you do not have access to it.\",\"code\":null}}", NoModel},
		{404, "{\"object\":\"error\",\"message\":\"The model `org/m` does not exist.\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}", NoModel},
		{404, `{"error":"model 'x' not found"}`, NoModel},
		{404, `{"error":{"message":"model \"llama3:8b\" not found, try pulling it first"}}`, NoModel},
		{404, `{"error":{"message":"Model not found"}}`, NoModel},
		{404, `{"error":{"message":"The model gpt-5.1 was not found"}}`, NoModel},
		{404, `{"error":{"message":"Unknown model: m"}}`, NoModel},
		{404, `{"error":{"message":"The API deployment for this resource does not exist.","code":"DeploymentNotFound"}}`, NoModel},
		{404, `{"error":{"message":"model response not found"}}`, Plain},
		{404, `{"error":{"message":"Model response with id 'resp-1' not found."}}`, Plain},
		{404, `{"error":{"message":"The item 'rs_1' of the model's answer was not found"}}`, Plain},
		{404, `{"error":{"message":"This model has no such endpoint"}}`, Plain},
		{404, `{"detail":"Not Found"}`, Plain},
		{404, `{"error":{"message":"not there","param":"model_config"}}`, Plain},
		{400, `{"error":"model 'x' not found"}`, Plain},
		{429, `{"error":{"message":"Request too large for gpt-5 in organization org-1 on tokens per min (TPM): Limit 30000, Requested 45000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, RequestTooLarge},
		{413, `{"error":{"message":"Request too large for model m on tokens per minute (TPM): Limit 6000, Requested 7000","type":"tokens","code":"rate_limit_exceeded"}}`, RequestTooLarge},
		{429, `{"error":{"message":"Rate limit reached for gpt-5 on tokens per min (TPM): Limit 30000, Used 20000, Requested 15000. Please try again in 10s.","type":"tokens","code":"rate_limit_exceeded"}}`, Plain},
		{413, `{"error":{"message":"Request too large","type":"invalid_request_error","code":null}}`, Plain},
		{404, `{"error":{"message":"not there","param":"model"}}`, NoModel},
		{404, `{"error":{"message":"Response with id resp_1 not found."}}`, Plain},
		{403, `{"error":{"message":"Project p does not have access to model m"}}`, NoModel},
		{400, `{"error":{"message":"x","code":"content_filter"}}`, Moderated},
		{400, `{"error":{"message":"x","code":"invalid_encrypted_content"}}`, ForeignReasoning},
		{400, `{"error":{"message":"Unknown field: STREAM_OPTIONS"}}`, UnknownField},
		{422, `{"detail":"stream_options: extra fields not permitted"}`, UnknownField},
		{400, `{"error":{"message":"x","param":"stream_options"}}`, UnknownField},
		{500, `{"error":{"message":"stream_options"}}`, Plain},
		{400, `{"error":{"message":"x","type":"invalid_request_error","code":null}}`, Plain},
		{502, `<html>bad gateway</html>`, Plain},
		{400, ``, Plain},
	} {
		p := dialect.ReadProblem([]byte(c.body))
		if got := u.Meaning(c.status, &p); got != c.want {
			t.Errorf("%d %s means %d, want %d", c.status, c.body, got, c.want)
		}
	}
	// The rows themselves: texts are compared in small letters, and a row that
	// matches anything would hide all below it.
	for _, rows := range []refusals{openAIRefusals, demoRefusals, anthropicVendor.refusals, geminiVendor.refusals} {
		for _, r := range rows {
			if r.text != strings.ToLower(r.text) || r.code == "" && r.kind == "" && r.param == "" && r.text == "" && r.form == nil && r.state == "" && r.details == nil {
				t.Errorf("the row %+v", r)
			}
		}
	}
}

// endlessList is a model list that never ends.
type endlessList struct{ read int }

func (e *endlessList) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "{},"[(e.read+i)%3]
	}
	e.read += len(p)
	return len(p), nil
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestModels(t *testing.T) {
	u := newOpenAI(t, Config{BaseURL: "http://localhost:1/x"})
	ask := func(status int, body io.Reader) ([]Model, error) {
		t.Helper()
		b := &closing{Reader: body}
		models, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
			if req.Method != "GET" || req.URL.String() != "http://localhost:1/x/v1/models" {
				t.Errorf("asked for %s %s", req.Method, req.URL)
			}
			return &http.Response{StatusCode: status, Body: b}, nil
		})
		if !b.closed {
			t.Error("the body was not closed")
		}
		return models, err
	}

	got, err := ask(200, strings.NewReader(`{"object":"list","data":[
		{"id":"a","object":"model","created":1790000000,"owned_by":"openai"},
		{"id":"b","created":1790000000.5},{"id":"c","created":null},{"id":"d","created":"2026-01-01"},{"id":"e","created":1e300},
		{"id":""},{"id":"`+strings.Repeat("x", maxModelName+1)+`"},{"object":"model"}]}`))
	want := []Model{{ID: "a", Created: 1790000000, OwnedBy: "openai"}, {ID: "b", Created: 1790000000}, {ID: "c"}, {ID: "d"}, {ID: "e"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if got, err := ask(200, strings.NewReader(`{"data":[]}`)); err != nil || len(got) != 0 {
		t.Errorf("an upstream without models: %v %v", got, err)
	}
	most := `{"data":[` + strings.Repeat(`{"id":"m"},`, maxModels-1) + `{"id":"m"}`
	if got, err := ask(200, strings.NewReader(most+`]}`)); err != nil || len(got) != maxModels {
		t.Errorf("%d models, %v", len(got), err)
	}

	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{200, most + `,{"id":"m"}]}`, "more than 20000"},
		{200, `<html><title>Sign in</title></html>`, "not JSON"},
		{200, ``, "not JSON"},
		{200, `{"data":[{"id":"a"}`, "not JSON"},
		{200, `[{"id":"a"}]`, "the form of OpenAI's"},
		{200, `{"data":{"id":"a"}}`, "the form of OpenAI's"},
		{200, `{"data":[{"id":5}]}`, "the form of OpenAI's"},
		{200, `{"models":[]}`, "the form of OpenAI's"},
		{200, `null`, "the form of OpenAI's"},
		{301, `moved`, "status 301: moved"},
		{404, `{"error":{"message":"no such path"}}`, "status 404: no such path"},
		{502, `<html>` + strings.Repeat("x", 1000), "status 502: <html>xxx"},
	} {
		models, err := ask(c.status, strings.NewReader(c.body))
		if err == nil || !strings.HasPrefix(err.Error(), "model list: ") || !strings.Contains(err.Error(), c.want) || models != nil {
			t.Errorf("%d %.60s: %v, %v", c.status, c.body, models, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("%d %.60s: the error has %d bytes", c.status, c.body, len(err.Error()))
		}
	}

	// Some servers repeat the key that they refuse.
	_, err = ask(401, strings.NewReader(`{"error":{"message":"Authentication failed, received key = `+credential+`"}}`))
	if err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), credential) {
		t.Errorf("a refused credential: %v", err)
	}

	endless := &endlessList{}
	if _, err := ask(200, io.MultiReader(strings.NewReader(`{"data":[`), endless)); err == nil || !strings.Contains(err.Error(), "longer than 8 MiB") {
		t.Errorf("an endless list: %v", err)
	}
	if endless.read > maxCatalogBytes+1 {
		t.Errorf("%d bytes were read", endless.read)
	}

	cut := errors.New("cut")
	for name, do := range map[string]func(*http.Request) (*http.Response, error){
		"no answer": func(*http.Request) (*http.Response, error) { return nil, cut },
		"a cut answer": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader(`{"data":[`), &brokenWith{cut}))}, nil
		},
	} {
		if _, err := u.Models(t.Context(), do); !errors.Is(err, cut) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = u.Models(ctx, func(req *http.Request) (*http.Response, error) { return nil, req.Context().Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the request does not end with its context: %v", err)
	}
}

type brokenWith struct{ err error }

func (b *brokenWith) Read([]byte) (int, error) { return 0, b.err }
