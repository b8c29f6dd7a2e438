package provider

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

func open(t *testing.T, kind string, c Config) Upstream {
	t.Helper()
	k, ok := Lookup(kind)
	if !ok {
		t.Fatalf("there is no provider %s", kind)
	}
	u, err := k.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Where a vendor's own dialect is spoken, and under which name.
func TestNativeAddresses(t *testing.T) {
	for _, c := range []struct {
		kind, base string
		op         dialect.Operation
		model      string
		want       string
	}{
		{"anthropic", "", dialect.CreateMessage, "claude-x", "https://api.anthropic.com/v1/messages"},
		{"anthropic", "http://h/claude/", dialect.CountMessage, "claude-x", "http://h/claude/v1/messages/count_tokens"},
		{"gemini", "", dialect.GenerateContent, "gemini-x", "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent"},
		{"gemini", "https://h/v1", dialect.StreamContent, "gemini-x", "https://h/v1/models/gemini-x:streamGenerateContent"},
		{"gemini", "http://h/a%2Fb", dialect.CountContent, "gemini-x", "http://h/a%2Fb/v1beta/models/gemini-x:countTokens"},
		{"gemini", "http://h", dialect.EmbedContent, "tunedModels/mine-1", "http://h/v1beta/tunedModels/mine-1:embedContent"},
		// A name leads nowhere but to a model.
		{"gemini", "http://h", dialect.BatchEmbedContents, "../../files/x?y#z%2F", "http://h/v1beta/models/..%2F..%2Ffiles%2Fx%3Fy%23z%252F:batchEmbedContents"},
		{"gemini", "http://h", dialect.GenerateContent, "tunedModels/../x", "http://h/v1beta/tunedModels/..%2Fx:generateContent"},
	} {
		u := open(t, c.kind, Config{BaseURL: c.base})
		if !u.Speaks(c.op, c.model) {
			t.Errorf("%s does not speak %s", c.kind, c.op)
		}
		if got := u.Address(&dialect.Call{Op: c.op, Model: "asked"}, c.model).String(); got != c.want {
			t.Errorf("%s of %s is at %s, want %s", c.op, c.model, got, c.want)
		}
	}
	for kind, not := range map[string]dialect.Operation{"anthropic": dialect.ChatCompletions, "gemini": dialect.Embeddings} {
		if open(t, kind, Config{}).Speaks(not, "m") {
			t.Errorf("%s speaks %s natively", kind, not)
		}
	}
}

func TestNativeHeaders(t *testing.T) {
	for _, c := range []struct {
		kind    string
		options map[string][]string
		want    http.Header
	}{
		{"anthropic", nil, http.Header{"Anthropic-Version": {"2023-06-01"}, "X-Api-Key": {"sk-secret-1"}}},
		{"anthropic", map[string][]string{"version": {"2026-10-21"}}, http.Header{"Anthropic-Version": {"2026-10-21"}, "X-Api-Key": {"sk-secret-1"}}},
		{"gemini", nil, http.Header{"X-Goog-Api-Key": {"sk-secret-1"}}},
	} {
		u := open(t, c.kind, Config{Options: c.options})
		got := u.Headers().Clone()
		if err := u.Credential(NewSecret("sk-secret-1")).Authorize(&http.Request{Header: got}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %v: %v", c.kind, c.options, got)
		}
		none := http.Header{}
		if err := u.Credential(NewSecret("")).Authorize(&http.Request{Header: none}); err != nil || len(none) > 0 {
			t.Errorf("%s without a key sends %v, %v", c.kind, none, err)
		}
	}
}

func TestNativeConfig(t *testing.T) {
	for _, c := range []struct {
		kind   string
		config Config
		want   string
	}{
		{"anthropic", Config{Options: map[string][]string{"version": {"latest"}}}, `version: "latest" is not the date of a version, such as 2023-06-01`},
		{"anthropic", Config{Options: map[string][]string{"version": {"2023-06-31"}}}, "version: "},
		{"anthropic", Config{Options: map[string][]string{"version": {"2023-06-01", "2026-10-21"}}}, "version: one value"},
		{"anthropic", Config{Options: map[string][]string{"project": {"x"}}}, "project: the provider anthropic has no such option"},
		{"anthropic", Config{Dialects: []string{"chat"}}, `"chat" is not among what this provider may speak: messages`},
		{"anthropic", Config{BaseURL: "api.anthropic.com"}, "base_url"},
		{"gemini", Config{Dialects: []string{"messages"}}, `"messages" is not among what this provider may speak: gemini`},
		{"gemini", Config{Options: map[string][]string{"version": {"v1"}}}, "version: the provider gemini has no such option"},
		{"gemini", Config{BaseURL: "https://h/?key=x"}, "base_url"},
	} {
		kind, _ := Lookup(c.kind)
		if _, err := kind.New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %+v: %v", c.kind, c.config, err)
		}
	}
}

func TestNativeFamilies(t *testing.T) {
	anthropic, gemini, openai := open(t, "anthropic", Config{}), open(t, "gemini", Config{}), open(t, "openai", Config{})
	for model, want := range map[string][3]bool{
		"claude-opus-4-6": {true, false, false}, "gemini-3-pro": {false, true, false}, "gemma-3-27b-it": {false, true, false},
		"gemini-embedding-001": {false, true, false}, "gpt-5": {false, false, true}, "my-claude-x": {},
	} {
		if got := [3]bool{anthropic.Family(model), gemini.Family(model), openai.Family(model)}; got != want {
			t.Errorf("%s: %v, want %v", model, got, want)
		}
	}
}

func anthropicSays(kind, message string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q},"request_id":"req_1"}`, kind, message)
}

func geminiSays(code int, status, message, details string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":%q,"details":[%s]}}`, code, message, status, details)
}

func TestNativeRefusals(t *testing.T) {
	const quota = `{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"%s"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}`
	const reason = `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"googleapis.com"}`
	for _, c := range []struct {
		kind   string
		status int
		body   string
		want   Meaning
	}{
		{"anthropic", 400, anthropicSays("invalid_request_error", "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."), QuotaSpent},
		{"anthropic", 400, anthropicSays("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."), QuotaSpent},
		{"anthropic", 402, anthropicSays("billing_error", "x"), QuotaSpent},
		{"anthropic", 400, anthropicSays("invalid_request_error", "max_tokens: Field required"), Plain},
		// What a client can make the service say puts no key out.
		{"anthropic", 400, anthropicSays("invalid_request_error", "Your credit balance is too low to access the Anthropic API.: Extra inputs are not permitted"), Plain},
		{"anthropic", 400, anthropicSays("invalid_request_error", "This organization has been disabled.: Extra inputs are not permitted"), Plain},
		{"anthropic", 404, anthropicSays("not_found_error", "The file of the model was not found"), Plain},
		{"gemini", 400, geminiSays(400, "INVALID_ARGUMENT", `Invalid JSON payload received. Unknown name "API key not valid. API_KEY_INVALID": Cannot find field.`,
			`{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"description":"Unknown name \"reason\":\"API_KEY_INVALID\": Cannot find field."}]}`), Plain},
		{"anthropic", 403, anthropicSays("authentication_error", "OAuth token has been revoked."), BadCredential},
		{"anthropic", 400, anthropicSays("invalid_request_error", "This organization has been disabled."), BadCredential},
		{"anthropic", 404, anthropicSays("not_found_error", "model: claude-9"), NoModel},
		{"anthropic", 404, anthropicSays("not_found_error", "Not found"), Plain},
		{"anthropic", 403, anthropicSays("permission_error", "Your account does not have access to this model."), NoModel},
		{"anthropic", 403, anthropicSays("permission_error", "Your API key does not have permission to use the specified resource"), Plain},
		{"anthropic", 400, anthropicSays("invalid_request_error", "Output blocked by content filtering policy"), Moderated},
		{"anthropic", 429, anthropicSays("rate_limit_error", "This request would exceed your organization's rate limit"), Plain},
		{"anthropic", 529, anthropicSays("overloaded_error", "Overloaded"), Plain},
		{"gemini", 400, geminiSays(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", fmt.Sprintf(reason, "API_KEY_INVALID")), BadCredential},
		{"gemini", 400, geminiSays(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", fmt.Sprintf(reason, "API_KEY_INVALID")), BadCredential},
		{"gemini", 403, geminiSays(403, "PERMISSION_DENIED", "Generative Language API has not been used in project 1 before or it is disabled.", fmt.Sprintf(reason, "SERVICE_DISABLED")), BadCredential},
		{"gemini", 403, geminiSays(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.", ""), BadCredential},
		{"gemini", 403, geminiSays(403, "PERMISSION_DENIED", "The caller does not have permission", ""), Plain},
		{"gemini", 429, geminiSays(429, "RESOURCE_EXHAUSTED", "x", fmt.Sprintf(quota, "GenerateRequestsPerDayPerProject")), QuotaSpent},
		{"gemini", 429, geminiSays(429, "RESOURCE_EXHAUSTED", "x", fmt.Sprintf(quota, "GenerateRequestsPerDayPerProjectPerModel-FreeTier")), Plain},
		{"gemini", 429, geminiSays(429, "RESOURCE_EXHAUSTED", "x", fmt.Sprintf(quota, "GenerateRequestsPerMinutePerProject")), Plain},
		{"gemini", 400, geminiSays(400, "FAILED_PRECONDITION", "Please enable billing on project 1.", ""), QuotaSpent},
		{"gemini", 404, geminiSays(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta", ""), NoModel},
		{"gemini", 404, geminiSays(404, "NOT_FOUND", "Requested entity was not found.", ""), Plain},
		{"gemini", 400, geminiSays(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name \"models/\"", ""), Plain},
		{"gemini", 429, "[" + geminiSays(429, "RESOURCE_EXHAUSTED", "x", fmt.Sprintf(quota, "TokensPerDayPerProject")) + "]", QuotaSpent},
	} {
		p := dialect.ReadProblem([]byte(c.body))
		if got := open(t, c.kind, Config{}).Meaning(c.status, &p); got != c.want {
			t.Errorf("%s %d %s means %d, want %d", c.kind, c.status, c.body, got, c.want)
		}
	}
}

// pages answers requests for lists of models one after the other, and checks what
// is asked for.
func pages(t *testing.T, u Upstream, answers map[string]string) ([]Model, error) {
	t.Helper()
	return u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
		body, ok := answers[req.URL.RequestURI()]
		if !ok {
			t.Errorf("asked for %s", req.URL.RequestURI())
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
}

func TestNativeModelsHavePages(t *testing.T) {
	got, err := pages(t, open(t, "anthropic", Config{BaseURL: "http://h"}), map[string]string{
		"/v1/models?limit=1000": `{"data":[{"type":"model","id":"claude-b","display_name":"Claude B","created_at":"2026-05-14T00:00:00Z",
			"max_input_tokens":1000000,"max_tokens":128000}],"has_more":true,"first_id":"claude-b","last_id":"claude-b"}`,
		"/v1/models?after_id=claude-b&limit=1000": `{"data":[{"type":"model","id":"claude-a","display_name":"Claude A","created_at":"long ago"}],"has_more":false,"last_id":"claude-a"}`,
	})
	want := []Model{
		{ID: "claude-b", Name: "Claude B", Created: 1778716800, OwnedBy: "anthropic", MaxInput: 1_000_000, MaxOutput: 128_000},
		{ID: "claude-a", Name: "Claude A", OwnedBy: "anthropic"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("anthropic: %+v, %v", got, err)
	}

	got, err = pages(t, open(t, "gemini", Config{BaseURL: "http://h"}), map[string]string{
		"/v1beta/models?pageSize=1000": `{"models":[{"name":"models/gemini-b","displayName":"Gemini B","inputTokenLimit":1048576,
			"outputTokenLimit":65536,"supportedGenerationMethods":["generateContent","countTokens"]}],"nextPageToken":"a/b=="}`,
		"/v1beta/models?pageSize=1000&pageToken=a%2Fb%3D%3D": `{"nextPageToken":"c"}`,
		"/v1beta/models?pageSize=1000&pageToken=c":           `{"models":[{"name":"models/gemini-a"},{"name":""}]}`,
	})
	want = []Model{
		{ID: "gemini-b", Name: "Gemini B", OwnedBy: "google", MaxInput: 1 << 20, MaxOutput: 1 << 16, Methods: []string{"generateContent", "countTokens"}},
		{ID: "gemini-a", OwnedBy: "google"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("gemini: %+v, %v", got, err)
	}
}

// A list whose pages never end, or that grows without end, is given up.
func TestModelListsAreBounded(t *testing.T) {
	endless := map[string]func(*http.Request) string{
		"anthropic": func(r *http.Request) string {
			return `{"data":[{"id":"a"}],"has_more":true,"last_id":"x` + r.URL.Query().Get("after_id") + `"}`
		},
		"gemini": func(*http.Request) string { return `{"models":[],"nextPageToken":"again"}` },
	}
	for kind, answer := range endless {
		asked := 0
		_, err := open(t, kind, Config{}).Models(t.Context(), func(r *http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(answer(r)))}, nil
		})
		if err == nil || !strings.Contains(err.Error(), "more than 100 pages") || asked != 100 {
			t.Errorf("%s: %v after %d requests", kind, err, asked)
		}
	}
	asked := 0
	_, err := open(t, "gemini", Config{}).Models(t.Context(), func(*http.Request) (*http.Response, error) {
		asked++
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"models":[],"nextPageToken":"` + strings.Repeat("x", 1<<20) + `"}`))}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "longer than 8 MiB") || asked > 9 {
		t.Errorf("%v after %d requests", err, asked)
	}
	for kind, body := range map[string]string{"anthropic": `{"models":[]}`, "gemini": `{"data":[]}`} {
		if _, err := pages(t, open(t, kind, Config{BaseURL: "http://h"}), map[string]string{
			"/v1/models?limit=1000": body, "/v1beta/models?pageSize=1000": body,
		}); err == nil || !strings.Contains(err.Error(), "has not the form of") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
