package provider

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

func newAzure(t *testing.T, base string, words ...string) Upstream {
	t.Helper()
	c := Config{BaseURL: base, Options: map[string][]string{}}
	for _, w := range words {
		if f, ok := strings.CutPrefix(w, "speaks "); ok {
			c.Dialects = append(c.Dialects, f)
		} else {
			c.Options["api_version"] = []string{w}
		}
	}
	return open(t, "azure", c)
}

// Every form of an endpoint leads to the same surfaces, and every operation to where
// Azure has it.
func TestAzureAddresses(t *testing.T) {
	const (
		res    = "https://res.openai.azure.com"
		dated  = "2025-04-01-preview"
		claude = "https://res.services.ai.azure.com/anthropic/v1/messages"
	)
	for _, c := range []struct {
		base, version string
		op            dialect.Operation
		model, want   string
	}{
		{res, "", dialect.ChatCompletions, "prod", res + "/openai/v1/chat/completions"},
		{res + "/", "v1", dialect.CreateResponse, "prod", res + "/openai/v1/responses"},
		{res + "/openai", "", dialect.CompactResponse, "prod", res + "/openai/v1/responses/compact"},
		{res + "/openai/v1/", "preview", dialect.Embeddings, "prod", res + "/openai/v1/embeddings?api-version=preview"},
		{res, "", dialect.ImageGenerations, "img", res + "/openai/v1/images/generations?api-version=preview"},
		{res, "", dialect.Transcriptions, "w", res + "/openai/v1/audio/transcriptions?api-version=preview"},
		{res, "", dialect.StoredResponse, "", res + "/openai/v1/responses/resp_1/input_items"},
		{res, dated, dialect.StoredResponse, "", res + "/openai/responses/resp_1/input_items?api-version=" + dated},
		{res, dated, dialect.ChatCompletions, "prod", res + "/openai/deployments/prod/chat/completions?api-version=" + dated},
		{res + "/openai", dated, dialect.Speech, "tts", res + "/openai/deployments/tts/audio/speech?api-version=" + dated},
		{res, dated, dialect.ImageEdits, "img", res + "/openai/deployments/img/images/edits?api-version=" + dated},
		{res, dated, dialect.CreateResponse, "prod", res + "/openai/responses?api-version=" + dated},
		// A name leads nowhere but to a deployment.
		{res, dated, dialect.Completions, "../../x?y#z%2F/a", res + "/openai/deployments/..%2F..%2Fx%3Fy%23z%252F%2Fa/completions?api-version=" + dated},
		{res, "", dialect.CreateMessage, "claude-opus-4-6", claude},
		{res, dated, dialect.CountMessage, "my-Claude", claude + "/count_tokens"},
		{"https://res.cognitiveservices.azure.com", "", dialect.CreateMessage, "claude-x", claude},
		{"https://res.services.ai.azure.com/anthropic/v1/messages", "", dialect.CreateMessage, "claude-x", claude},
		{"https://res.services.ai.azure.com/anthropic", "", dialect.ChatCompletions, "prod", "https://res.services.ai.azure.com/openai/v1/chat/completions"},
		{"https://res.services.ai.azure.com/api/projects/one", "", dialect.ChatCompletions, "prod", "https://res.services.ai.azure.com/api/projects/one/openai/v1/chat/completions"},
		{"https://res.services.ai.azure.com/api/projects/one/openai/v1", "", dialect.CreateMessage, "claude-x", claude},
		{"https://res.openai.azure.us", "2024-10-21", dialect.Embeddings, "e", "https://res.openai.azure.us/openai/deployments/e/embeddings?api-version=2024-10-21"},
		{"https://res.openai.azure.cn", "", dialect.CreateMessage, "claude-x", "https://res.services.ai.azure.cn/anthropic/v1/messages"},
		{"https://RES.openai.azure.com:8443", "", dialect.CreateMessage, "claude-x", "https://res.services.ai.azure.com:8443/anthropic/v1/messages"},
		{"http://localhost:9/gate/a%2Fb/openai/v1", "", dialect.ChatCompletions, "prod", "http://localhost:9/gate/a%2Fb/openai/v1/chat/completions"},
		{"http://localhost:9/gate", "", dialect.CreateMessage, "claude-x", "http://localhost:9/gate/anthropic/v1/messages"},
	} {
		var words []string
		if c.version != "" {
			words = append(words, c.version)
		}
		u := newAzure(t, c.base, words...)
		if !u.Speaks(c.op, c.model) {
			t.Errorf("%s %s does not speak %s of %s", c.base, c.version, c.op, c.model)
		}
		call := &dialect.Call{Op: c.op, ID: "resp_1", Rest: "/input_items"}
		at := u.Address(call, c.model)
		if got := at.Scheme + "://" + at.Host + at.RequestURI(); got != c.want {
			t.Errorf("%s of %s at %s is %s, want %s", c.op, c.model, c.base, got, c.want)
		}
	}
}

// What is spoken depends on the surface and on whose model it is.
func TestAzureSpeaks(t *testing.T) {
	const res = "https://res.openai.azure.com"
	chat, responses, messages := dialect.Chat, dialect.Responses, dialect.Messages
	for _, c := range []struct {
		words   []string
		model   string
		speaks  string // features
		via     []dialect.Dialect
		maximum string
	}{
		{nil, "prod", "chat responses completions embeddings images audio", []dialect.Dialect{responses, chat}, "max_completion_tokens"},
		{nil, "DeepSeek-V3.1", "chat responses completions embeddings images audio", []dialect.Dialect{chat}, "max_tokens"},
		{nil, "claude-opus-4-6", "messages", nil, "max_completion_tokens"},
		{[]string{"2024-10-21"}, "gpt-4o", "chat completions embeddings images audio", []dialect.Dialect{chat}, "max_completion_tokens"},
		{[]string{"2024-06-01"}, "gpt-4o", "chat completions embeddings images audio", []dialect.Dialect{chat}, "max_tokens"},
		{[]string{"2025-03-01-preview"}, "gpt-4o", "chat responses completions embeddings images audio", []dialect.Dialect{responses, chat}, "max_completion_tokens"},
		{[]string{"2024-10-21", "speaks responses"}, "gpt-4o", "responses", []dialect.Dialect{responses}, "max_completion_tokens"},
		{[]string{"speaks messages"}, "prod", "messages", nil, "max_completion_tokens"},
		{[]string{"speaks messages", "speaks chat"}, "prod", "chat", []dialect.Dialect{chat}, "max_completion_tokens"},
		{[]string{"speaks messages", "speaks chat"}, "Claude", "messages", nil, "max_completion_tokens"},
		{[]string{"speaks chat"}, "claude-opus-4-6", "chat", []dialect.Dialect{chat}, "max_completion_tokens"},
	} {
		u := newAzure(t, res, c.words...)
		var speaks []string
		for op := range dialect.Operations() {
			if u.Speaks(op, c.model) && !slices.Contains(speaks, op.Feature()) {
				speaks = append(speaks, op.Feature())
			}
		}
		want := strings.Fields(c.speaks)
		slices.Sort(speaks)
		slices.Sort(want)
		if !reflect.DeepEqual(speaks, want) {
			t.Errorf("%v speaks %v of %s, want %v", c.words, speaks, c.model, want)
		}
		if got := u.Via(dialect.Messages, c.model); !reflect.DeepEqual(got, c.via) {
			t.Errorf("%v: messages of %s go by %v, want %v", c.words, c.model, got, c.via)
		}
		if c.via == nil {
			if got := u.Via(dialect.Chat, c.model); !reflect.DeepEqual(got, []dialect.Dialect{messages}) {
				t.Errorf("%v: chat of %s goes by %v", c.words, c.model, got)
			}
		}
		if got := u.(Peculiar).Quirks(c.model).MaxTokensName; got != c.maximum {
			t.Errorf("%v: the bound of %s is %s, want %s", c.words, c.model, got, c.maximum)
		}
	}
	if newAzure(t, res, "2024-10-21").Speaks(dialect.ImageEdits, "img") {
		t.Error("an old version has edits of images")
	}
	u := newAzure(t, res, "2025-04-01-preview")
	for _, op := range []dialect.Operation{dialect.CompactResponse, dialect.CountResponse, dialect.ImageVariations, dialect.Moderations, dialect.Rerank} {
		if u.Speaks(op, "prod") {
			t.Errorf("speaks %s", op)
		}
	}
}

// A key goes into the header of the surface, and nothing else does.
func TestAzureKeys(t *testing.T) {
	u := newAzure(t, "https://res.openai.azure.com")
	key := u.Credential(NewSecret("sk-secret-1"))
	for op, want := range map[dialect.Operation]http.Header{
		dialect.ChatCompletions: {"Api-Key": {"sk-secret-1"}},
		dialect.CreateMessage:   {"X-Api-Key": {"sk-secret-1"}, "Anthropic-Version": {"2023-06-01"}},
	} {
		req := &http.Request{URL: u.Address(&dialect.Call{Op: op}, "m"), Header: http.Header{}}
		u.(Tailor).Describe(op, nil, req.Header)
		if err := key.Authorize(req); err != nil || !reflect.DeepEqual(req.Header, want) {
			t.Errorf("%s: %v, %v", op, req.Header, err)
		}
	}
	own := http.Header{"Anthropic-Version": {"2026-10-21"}}
	u.(Tailor).Describe(dialect.CreateMessage, nil, own)
	if own.Get("Anthropic-Version") != "2026-10-21" {
		t.Error("the client's version is lost")
	}
	if key.Renew(nil) {
		t.Error("a key can be renewed")
	}
	if s := fmt.Sprintf("%v %+v %#v", key, key, u); strings.Contains(s, "sk-secret") {
		t.Errorf("prints %s", s)
	}
	none := &http.Request{Header: http.Header{}}
	if err := u.Credential(Secret{}).Authorize(none); err != nil || len(none.Header) > 0 {
		t.Errorf("without a key: %v, %v", none.Header, err)
	}
}

// Groups of tools are described, where an agent leaves that out; nothing else of a
// body is changed.
func TestAzureFits(t *testing.T) {
	u := newAzure(t, "https://res.openai.azure.com").(Tailor)
	for _, c := range []struct {
		op         dialect.Operation
		body, want string
	}{
		{
			dialect.CreateResponse, `{"tools":[{"type":"namespace","name":"a","description":"","tools":[]},{"type":"namespace","description":"b"}]}`,
			`{"tools":[{"type":"namespace","name":"a","description":"Tools.","tools":[]},{"type":"namespace","description":"b"}]}`,
		},
		{dialect.CreateResponse, `{"tools":[{"type":"function","description":""}]}`, ""},
		{dialect.ChatCompletions, `{"tools":[{"type":"namespace","description":""}]}`, ""},
		{dialect.CreateResponse, `{"description":"","input":"namespace"}`, ""},
	} {
		want := c.want
		if want == "" {
			want = c.body
		}
		if got := string(u.Fit(c.op, []byte(c.body))); got != want {
			t.Errorf("%s became %s", c.body, got)
		}
	}
}

func TestAzureRefusals(t *testing.T) {
	u := newAzure(t, "https://res.openai.azure.com")
	for _, c := range []struct {
		status int
		body   string
		want   Meaning
	}{
		{404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}`, NoModel},
		{404, `{"error":{"code":"404","message":"Resource not found"}}`, NoModel},
		{400, `{"error":{"code":"BadRequest","message":"API version not supported"}}`, NoModel},
		{410, `{"error":{"code":"ModelDeprecated","message":"The model has been retired"}}`, NoModel},
		{403, `{"error":{"code":"AuthenticationTypeDisabled","message":"Key based authentication is disabled for this resource."}}`, BadCredential},
		{403, `{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}`, BadCredential},
		{403, `{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 10:12:13."}`, QuotaSpent},
		{429, `{"error":{"code":"429","message":"Requests have exceeded call rate limit. Please retry after 6 seconds."}}`, Plain},
		{400, `{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, Moderated},
		{400, `{"error":{"code":"contentFilter","message":"Your task failed as a result of our safety system."}}`, Moderated},
		{400, `{"error":{"code":"OperationNotSupported","message":"The embeddings operation does not work with the specified model, gpt-4o."}}`, Plain},
		{400, `{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}`, UnknownField},
		{404, `{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}`, NoModel},
		{404, `{"error":{"code":"404","message":"Response resp_1 was not found"}}`, Plain},
	} {
		p := dialect.ReadProblem([]byte(c.body))
		if got := u.Meaning(c.status, &p); got != c.want {
			t.Errorf("%d %s means %d, want %d", c.status, c.body, got, c.want)
		}
	}
}

// The list of models proves a credential. What it names are no deployments.
func TestAzureModels(t *testing.T) {
	for version, want := range map[string]string{
		"v1": "/openai/v1/models", "preview": "/openai/v1/models?api-version=preview", "2024-10-21": "/openai/models?api-version=2024-10-21",
	} {
		u := newAzure(t, "https://res.openai.azure.com", version)
		asked := ""
		models, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
			asked = req.URL.RequestURI()
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"data":[{"id":"gpt-4o"}]}`))}, nil
		})
		if err != nil || models == nil || len(models) > 0 || asked != want {
			t.Errorf("%s: %v, %v, asked %s", version, models, err, asked)
		}
	}
	_, err := newAzure(t, "https://res.openai.azure.com").Models(t.Context(), func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 401, Body: io.NopCloser(strings.NewReader(`{"statusCode":401,"message":"wrong key sk-secret"}`))}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "the credential was refused") || strings.Contains(err.Error(), "sk-secret") {
		t.Error(err)
	}
}
