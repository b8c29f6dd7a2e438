package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/dialect/translate"
	"github.com/floway/floway/usage"
)

// vendorTest is what is known of a vendor, by which a strict fake of it behaves.
type vendorTest struct {
	name string
	// url is the address that its documentation gives for OpenAI's SDK, and elsewhere
	// that of Messages, if it is another.
	url, elsewhere string
	speaks         string
	// own is a model of its own by name; empty if it has no such names.
	own string
	// refuses are the members, and the role developer and ids of calls that are not 9
	// letters, that it refuses whoever sends them. dislikes are those that only its own
	// clients can do without.
	refuses, dislikes string
	// reasons is the member without which it refuses turns that have calls.
	reasons string
	// list is the path of its models; empty for models below its address.
	list string
	// usage is what it says of 100 tokens of prompt, 64 of them from its cache, and 20
	// of answer; empty for OpenAI's way.
	usage string
}

// A compatible vendor is one line here.
var vendorTests = []vendorTest{
	{name: "openai", url: "https://api.openai.com/v1", speaks: "chat responses completions embeddings images audio moderations rerank", own: "gpt-5"},
	{name: "cerebras", url: "https://api.cerebras.ai/v1", speaks: "chat completions", refuses: "developer", dislikes: "max_tokens frequency_penalty presence_penalty parallel_tool_calls service_tier prompt_cache_key"},
	{name: "dashscope", url: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", speaks: "chat embeddings", own: "qwen3-max", refuses: "developer max_completion_tokens"},
	{name: "deepseek", url: "https://api.deepseek.com/v1", elsewhere: "https://api.deepseek.com/anthropic/v1", speaks: "chat messages", own: "deepseek-chat", refuses: "developer max_completion_tokens", reasons: "reasoning_content", usage: `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}`},
	{name: "fireworks", url: "https://api.fireworks.ai/inference/v1", speaks: "chat responses completions embeddings", own: "accounts/fireworks/models/x", refuses: "developer max_completion_tokens"},
	{name: "groq", url: "https://api.groq.com/openai/v1", speaks: "chat responses audio", own: "groq/compound", dislikes: "max_tokens service_tier", usage: `{"queue_time":0.1,"prompt_tokens":100,"prompt_time":0.2,"completion_tokens":20,"completion_time":0.3,"total_tokens":120,"total_time":0.5,"prompt_tokens_details":{"cached_tokens":64}}`},
	{name: "litellm", url: "http://localhost:4000/v1", speaks: "chat responses messages completions embeddings images audio moderations rerank"},
	{name: "minimax", url: "https://api.minimax.io/v1", elsewhere: "https://api.minimax.io/anthropic/v1", speaks: "chat responses messages", own: "MiniMax-M3", refuses: "developer max_completion_tokens"},
	{name: "mistral", url: "https://api.mistral.ai/v1", speaks: "chat embeddings audio moderations", own: "mistral-large-latest", refuses: "developer max_completion_tokens stream_options seed ids", dislikes: "user service_tier prompt_cache_key"},
	{name: "moonshot", url: "https://api.moonshot.ai/v1", elsewhere: "https://api.moonshot.ai/anthropic/v1", speaks: "chat messages", own: "kimi-k2.5", refuses: "developer max_completion_tokens", reasons: "reasoning_content", usage: `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"cached_tokens":64}`},
	{name: "nvidia", url: "https://integrate.api.nvidia.com/v1", speaks: "chat embeddings", refuses: "developer max_completion_tokens"},
	{name: "openrouter", url: "https://openrouter.ai/api/v1", speaks: "chat responses messages completions embeddings", own: "openrouter/auto", usage: `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"cost":0.1,"is_byok":false,"prompt_tokens_details":{"cached_tokens":64,"cache_write_tokens":0}}`},
	{name: "perplexity", url: "https://api.perplexity.ai", speaks: "chat", own: "sonar-pro", refuses: "developer max_completion_tokens", list: "none"},
	{name: "sambanova", url: "https://api.sambanova.ai/v1", speaks: "chat embeddings", refuses: "developer max_completion_tokens"},
	{name: "siliconflow", url: "https://api.siliconflow.com/v1", speaks: "chat embeddings images audio rerank", refuses: "developer max_completion_tokens"},
	{name: "together", url: "https://api.together.xyz/v1", speaks: "chat completions embeddings images audio rerank", refuses: "developer max_completion_tokens"},
	{name: "xai", url: "https://api.x.ai/v1", speaks: "chat responses images", own: "grok-4", dislikes: "frequency_penalty presence_penalty", usage: `{"prompt_tokens":100,"completion_tokens":8,"total_tokens":120,"prompt_tokens_details":{"text_tokens":100,"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":12}}`},
	{name: "zhipu", url: "https://api.z.ai/api/paas/v4", elsewhere: "https://api.z.ai/api/anthropic/v1", speaks: "chat messages", own: "glm-5", refuses: "developer max_completion_tokens"},
	{name: "llamacpp", url: "http://localhost:8080/v1", speaks: "chat messages completions embeddings rerank", refuses: "developer max_completion_tokens"},
	{name: "lmstudio", url: "http://localhost:1234/v1", speaks: "chat responses messages completions embeddings", refuses: "developer max_completion_tokens"},
	{name: "ollama", url: "http://localhost:11434/v1", speaks: "chat responses messages completions embeddings", refuses: "developer max_completion_tokens", list: "/api/tags"},
	{name: "sglang", url: "http://localhost:30000/v1", speaks: "chat completions embeddings rerank", refuses: "developer max_completion_tokens"},
	{name: "vllm", url: "http://localhost:8000/v1", speaks: "chat responses messages completions embeddings rerank audio", refuses: "developer max_completion_tokens"},
}

func TestVendors(t *testing.T) {
	doc, err := os.ReadFile("../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range vendorTests {
		names = append(names, v.name)
		_, row, ok := strings.Cut(string(doc), "\n| `"+v.name+"` | `"+v.url+"` | ")
		row, _, _ = strings.Cut(row, "\n")
		for feature := range strings.FieldsSeq(v.speaks) {
			ok = ok && strings.Contains(row, feature)
		}
		if !ok {
			t.Errorf("docs/providers.md has no row of %s, or another", v.name)
		}
		t.Run(v.name, v.test)
	}
	var rows []string
	for _, v := range vendors {
		rows = append(rows, v.name)
	}
	slices.Sort(names)
	slices.Sort(rows)
	if !slices.Equal(names, rows) {
		t.Errorf("the rows are of %v, the tests of %v", rows, names)
	}
}

func (v vendorTest) test(t *testing.T) {
	kind, _ := Lookup(v.name)
	u, err := kind.New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	// What it speaks and where.
	spoken := map[string]bool{}
	for op := range dialect.Operations() {
		if !u.Speaks(op, "m") || op.Path() == "" {
			continue
		}
		spoken[op.Feature()] = true
		want := v.url
		if op.Feature() == "messages" && v.elsewhere != "" {
			want = v.elsewhere
		}
		// Of a relative path the string is the same, but no request can have it.
		if at := u.Address(&dialect.Call{Op: op}, "m"); at.String() != want+op.Path() || at.Path[0] != '/' {
			t.Errorf("%s is at %s, with the path %s", op, at, at.Path)
		}
	}
	for feature := range strings.FieldsSeq(v.speaks) {
		if !spoken[feature] {
			t.Errorf("it does not speak %s", feature)
		}
		delete(spoken, feature)
	}
	if len(spoken) > 0 {
		t.Errorf("it also speaks %v", spoken)
	}
	if v.own != "" && !u.Family(v.own) || u.Family("claude-opus-5") || u.Family("gpt-5") != (v.name == "openai") {
		t.Error("the names of its models are others")
	}
	if via := u.Via(dialect.Gemini, "m"); v.name != "openai" && !slices.Equal(via, []dialect.Dialect{dialect.Chat}) {
		t.Errorf("requests of others are translated into %v", via)
	}

	// Its strict fake takes what its own clients send, and what is translated for
	// clients of others.
	fake := httptest.NewServer(&vendorFake{t: t, vendorTest: v})
	t.Cleanup(fake.Close)
	at, _ := url.Parse(v.url)
	if u, err = kind.New(Config{BaseURL: fake.URL + at.Path}); err != nil {
		t.Fatal(err)
	}
	v.call(t, u, dialect.ChatCompletions, []byte(chatOfClient))
	if spoken := u.Speaks(dialect.CreateMessage, "m"); spoken {
		v.call(t, u, dialect.CreateMessage, []byte(messageOfClient))
	}
	req := &dialect.Request{Call: dialect.Call{Op: dialect.CreateMessage, Dialect: dialect.Messages, Verdict: dialect.Found}, Body: []byte(messageOfClient), ContentType: "application/json"}
	if err := req.Read(); err != nil {
		t.Fatal(err)
	}
	conv, err := translate.Read(req)
	if err != nil {
		t.Fatal(err)
	}
	q := u.(Peculiar).Quirks("m")
	made, err := conv.Write(dialect.Chat, &translate.Options{
		Upstream: v.name, Model: "m", MaxTokensName: q.MaxTokensName, ReasoningName: q.ReasoningName, Omit: q.Omit,
	})
	if err != nil {
		t.Fatal(err)
	}
	v.dislikes += " translated"
	v.call(t, u, made.Op, made.Body)

	models, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
		return http.DefaultTransport.RoundTrip(authorized(t, u, req))
	})
	switch {
	case v.list == "none":
		if err != ErrNoList {
			t.Errorf("listed %v, %v", models, err)
		}
	case err != nil || len(models) != 1 || models[0].ID != "m":
		t.Errorf("listed %v, %v", models, err)
	}

	// What its usage means.
	said := v.usage
	if said == "" {
		said = `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64}}`
	}
	for _, answer := range []string{
		`{"model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":` + said + `}`,
		`data: {"model":"m","choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":` + said + "}\n\ndata: [DONE]\n\n",
	} {
		if got := tokensOf(answer); got.Input != 36 || got.CacheRead != 64 || got.CacheWrite != 0 || got.Output != 20 || got.Anomaly != "" {
			t.Errorf("%s is %+v", answer, got)
		}
	}
}

// chatOfClient is what a client of OpenAI's sends that knows nothing of vendors.
const chatOfClient = `{"model":"m","max_completion_tokens":9,"seed":4,"stream":true,"stream_options":{"include_usage":true},"messages":[
	{"role":"developer","content":"be kind"},{"role":"user","content":"developer max_completion_tokens"},
	{"role":"assistant","tool_calls":[{"id":"call_abcdefghijklmnopqrstuvwx","type":"function","function":{"name":"f","arguments":"{}"}}]},
	{"role":"tool","tool_call_id":"call_abcdefghijklmnopqrstuvwx","content":"done"}]}`

// messageOfClient is what a client of Messages sends.
const messageOfClient = `{"model":"m","max_tokens":9,"stream":true,"temperature":0.5,"service_tier":"auto","metadata":{"user_id":"u1"},"system":"be kind",
	"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto","disable_parallel_tool_use":true},"messages":[
	{"role":"user","content":"go"},{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"f","input":{}}]},
	{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"done"}]}]}`

// call sends a request as the relay does.
func (v vendorTest) call(t *testing.T, u Upstream, op dialect.Operation, body []byte) {
	t.Helper()
	h := http.Header{"Content-Type": {"application/json"}}
	if strings.Contains(v.dislikes, "translated") {
		h.Set("X-Translated", v.dislikes)
	}
	if tailor, ok := u.(Tailor); ok {
		body = tailor.Fit(op, body)
		tailor.Describe(op, body, h)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", u.Address(&dialect.Call{Op: op}, "m").String(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	res, err := http.DefaultTransport.RoundTrip(authorized(t, u, req))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if said, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		t.Errorf("%s: %d %s\nto %s", op, res.StatusCode, said, body)
	}
}

func authorized(t *testing.T, u Upstream, req *http.Request) *http.Request {
	t.Helper()
	if err := u.Credential(NewSecret("sk-of-a-test")).Authorize(req); err != nil {
		t.Fatal(err)
	}
	return req
}

func tokensOf(answer string) usage.Tokens {
	var a dialect.Answer
	events := strings.HasPrefix(answer, "data:")
	a.Reset(dialect.ChatCompletions, events, false)
	if events {
		a.Split([]byte(answer), false)
	} else {
		a.Feed([]byte(answer))
	}
	return a.Tokens()
}

// vendorFake is a vendor's service, as far as requests are concerned: it refuses all
// that the vendor does.
type vendorFake struct {
	t *testing.T
	vendorTest
}

var nineLetters = regexp.MustCompile(`^[a-zA-Z0-9]{9}$`)

func (f *vendorFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.check(r); err != nil {
		w.WriteHeader(400)
		fmt.Fprint(w, err)
		return
	}
	if f.list == "/api/tags" {
		fmt.Fprint(w, `{"models":[{"name":"m","model":"m","modified_at":"2026-11-01T10:00:00+01:00","size":1}]}`)
		return
	}
	fmt.Fprint(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
}

func (f *vendorFake) check(r *http.Request) error {
	at, _ := url.Parse(f.url)
	if len(r.Header["Authorization"]) != 1 || r.Header.Get("Authorization") != "Bearer sk-of-a-test" {
		return fmt.Errorf("the credential is %q", r.Header["Authorization"])
	}
	if r.Method == "GET" {
		switch list := f.list; {
		case list != "" && r.URL.Path == list, list == "" && r.URL.Path == at.Path+"/models", f.name == "openrouter" && r.URL.Path == at.Path+"/key":
			return nil
		}
		return fmt.Errorf("no such path: %s", r.URL.Path)
	}
	elsewhere := at
	if f.elsewhere != "" {
		elsewhere, _ = url.Parse(f.elsewhere)
	}
	if r.URL.Path == elsewhere.Path+"/messages" {
		return nil
	}
	if r.URL.Path != at.Path+"/chat/completions" {
		return fmt.Errorf("no such path: %s", r.URL.Path)
	}
	var body map[string]json.RawMessage
	var messages []struct {
		Role   string
		CallID string                `json:"tool_call_id"`
		Calls  []struct{ ID string } `json:"tool_calls"`
		Text   *string               `json:"reasoning_content"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return err
	}
	if err := json.Unmarshal(body["messages"], &messages); err != nil {
		return err
	}
	translated := r.Header.Get("X-Translated")
	refuses := strings.Fields(f.refuses + " " + translated)
	for _, name := range refuses {
		if body[name] != nil {
			return fmt.Errorf("%s is not taken", name)
		}
	}
	if strings.Contains(f.refuses, "seed") && translated == "" && body["random_seed"] == nil {
		return fmt.Errorf("the seed is lost")
	}
	if body["max_tokens"] == nil && body["max_completion_tokens"] == nil {
		return fmt.Errorf("the bound is lost")
	}
	for _, m := range messages {
		switch {
		case m.Role == "developer" && slices.Contains(refuses, "developer"):
			return fmt.Errorf("a role is not known")
		case translated != "" && f.reasons != "" && len(m.Calls) > 0 && m.Text == nil:
			return fmt.Errorf("the reasoning is missing")
		}
		for _, c := range m.Calls {
			m.CallID = c.ID
		}
		if m.CallID != "" && slices.Contains(refuses, "ids") && !nineLetters.MatchString(m.CallID) {
			return fmt.Errorf("the id %s", m.CallID)
		}
	}
	return nil
}

// What the vendors' refusals mean, besides those that are OpenAI's.
func TestVendorRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   Meaning
	}{
		{"deepseek", 402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`, Plain}, // the status says it
		{"dashscope", 400, `{"error":{"code":"Arrearage","param":null,"message":"Access denied, please make sure your account is in good standing.","type":"Arrearage"}}`, QuotaSpent},
		{"dashscope", 400, `{"error":{"code":"data_inspection_failed","param":null,"message":"Input data may contain inappropriate content.","type":"data_inspection_failed"}}`, Moderated},
		{"groq", 498, `{"error":{"message":"capacity exceeded","type":"server_error","code":"capacity_exceeded"}}`, Overloaded},
		{"groq", 400, `{"error":{"message":"The model has been decommissioned","type":"invalid_request_error","code":"model_decommissioned"}}`, NoModel},
		{"groq", 413, `{"error":{"message":"Request too large for model m in organization o on tokens per minute (TPM): Limit 6000, Requested 9000","type":"tokens","code":"rate_limit_exceeded"}}`, RequestTooLarge},
		{"groq", 400, `{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed"}}`, Plain},
		{"mistral", 400, `{"object":"error","message":"Invalid model: mistral-none","type":"invalid_model","param":null,"code":"1500"}`, NoModel},
		{"mistral", 422, `{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}`, UnknownField},
		{"mistral", 422, `{"detail":[{"type":"extra_forbidden","loc":["body","zzz"],"msg":"Extra inputs are not permitted"}]}`, Plain},
		{"moonshot", 429, `{"error":{"message":"You exceeded your current token quota","type":"exceeded_current_quota_error"}}`, QuotaSpent},
		{"moonshot", 429, `{"error":{"message":"The engine is currently overloaded","type":"engine_overloaded_error"}}`, Plain},
		{"moonshot", 400, `{"error":{"message":"The request was rejected because it was considered high risk","type":"content_filter"}}`, Moderated},
		{"moonshot", 404, `{"error":{"message":"Not found the model kimi-none or Permission denied","type":"resource_not_found_error"}}`, NoModel},
		{"openrouter", 403, `{"error":{"message":"Your chosen model requires moderation and your input was flagged","code":403,"metadata":{"reasons":["x"]}}}`, Moderated},
		{"openrouter", 403, `{"error":{"message":"Key limit exceeded (daily limit)","code":403}}`, QuotaSpent},
		{"openrouter", 400, `{"error":{"message":"x/y is not a valid model ID","code":400}}`, NoModel},
		{"openrouter", 404, `{"error":{"message":"No endpoints found for x/y.","code":404}}`, NoModel},
		{"openrouter", 404, `{"error":{"message":"No endpoints found that support tool use.","code":404}}`, Plain},
		{"xai", 400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***ey. You can obtain an API key from https://console.x.ai."}`, BadCredential},
		{"xai", 429, `{"code":"Some resource has been exhausted","error":"Your team has either used all available credits or reached its monthly spending limit."}`, QuotaSpent},
		{"xai", 403, `{"code":"The caller does not have permission","error":"Your newly created teams doesn't have any credits yet."}`, QuotaSpent},
		{"xai", 403, `{"code":"The caller does not have permission","error":"Content violates usage guidelines."}`, Moderated},
		{"xai", 404, `{"code":"Some requested entity was not found","error":"The model grok-99 does not exist or your team does not have access to it."}`, NoModel},
		{"zhipu", 429, `{"error":{"code":"1113","message":"Your account is in arrears, please recharge and try again"}}`, QuotaSpent},
		{"zhipu", 429, `{"error":{"code":"1302","message":"High concurrency usage of this API"}}`, Plain},
		{"zhipu", 429, `{"error":{"code":"1112","message":"Your account has been locked"}}`, BadCredential},
		{"zhipu", 400, `{"error":{"code":"1301","message":"System detected potentially unsafe or sensitive content"}}`, Moderated},
		{"zhipu", 400, `{"error":{"code":1211,"message":"Model does not exist, please check the model code"}}`, NoModel},
		{"ollama", 404, `{"error":{"message":"model 'qwen3' not found","type":"not_found_error","param":null,"code":null}}`, NoModel},
		{"ollama", 404, `{"error":"model \"qwen3:8b\" not found, try pulling it first"}`, NoModel},
		{"ollama", 404, `{"type":"error","error":{"type":"not_found_error","message":"model 'qwen3' not found"}}`, NoModel},
		{"ollama", 400, `{"error":{"message":"registry.ollama.ai/library/m does not support tools","type":"invalid_request_error"}}`, Plain},
		{"vllm", 404, "{\"error\":{\"message\":\"The model `m` does not exist.\",\"type\":\"NotFoundError\",\"param\":\"model\",\"code\":404}}", NoModel},
		{"vllm", 404, `{"detail":"Not Found"}`, Plain},
	} {
		kind, _ := Lookup(c.name)
		u, err := kind.New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		p := dialect.ReadProblem([]byte(c.body))
		if got := u.Meaning(c.status, &p); got != c.want {
			t.Errorf("%s: %d %s means %d, want %d", c.name, c.status, c.body, got, c.want)
		}
	}
	// The rows themselves: texts are compared in small letters, and a row that matches
	// anything would hide all below it.
	for _, v := range vendors {
		for _, r := range v.refusals {
			if r.text != strings.ToLower(r.text) || r.status == 0 && r.code == "" && r.kind == "" && r.param == "" && r.text == "" && r.form == nil {
				t.Errorf("%s: the row %+v", v.name, r)
			}
		}
	}
}

// What lies at another path is there as long as the rest is where the vendor has it.
func TestVendorDetours(t *testing.T) {
	kind, _ := Lookup("deepseek")
	open := func(c Config) Upstream {
		t.Helper()
		u, err := kind.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	at := func(u Upstream, op dialect.Operation) string { return u.Address(&dialect.Call{Op: op}, "m").String() }
	for base, want := range map[string]string{
		"https://api.deepseek.com":      "https://api.deepseek.com/anthropic/v1/messages",
		"http://proxy.example:9":        "http://proxy.example:9/anthropic/v1/messages",
		"http://proxy.example/v1/":      "http://proxy.example/anthropic/v1/messages",
		"http://proxy.example/deepseek": "", // where the rest would be is not known
	} {
		u := open(Config{BaseURL: base})
		if spoken := u.Speaks(dialect.CreateMessage, "m"); spoken != (want != "") || spoken && at(u, dialect.CreateMessage) != want {
			t.Errorf("%s: %t, at %s", base, spoken, at(u, dialect.CreateMessage))
		}
		if !u.Speaks(dialect.ChatCompletions, "m") || len(u.Via(dialect.Messages, "m")) != 1 {
			t.Errorf("%s: chat is not spoken", base)
		}
	}
	u := open(Config{BaseURL: "http://proxy.example/deepseek", Dialects: []string{"chat", "messages"}})
	if got := at(u, dialect.CreateMessage); got != "http://proxy.example/deepseek/v1/messages" {
		t.Errorf("as declared it is at %s", got)
	}
	if got := u.Via(dialect.Gemini, "m"); !slices.Equal(got, []dialect.Dialect{dialect.Messages, dialect.Chat}) {
		t.Errorf("as declared requests go by %v", got)
	}
	if kind, _ = Lookup("perplexity"); at(open(Config{BaseURL: "http://proxy.example"}), dialect.ChatCompletions) != "http://proxy.example/chat/completions" {
		t.Error("a path without a version got one")
	}
}

// A key that is wrong is found out although anybody may see the list.
func TestPublicList(t *testing.T) {
	kind, _ := Lookup("openrouter")
	u, err := kind.New(Config{BaseURL: "http://localhost:1/api/v1"})
	if err != nil {
		t.Fatal(err)
	}
	for status, want := range map[int]string{200: "", 404: "", 500: "", 401: "the credential was refused", 403: "the credential was refused"} {
		var asked []string
		_, err := u.Models(t.Context(), func(req *http.Request) (*http.Response, error) {
			asked = append(asked, req.URL.Path)
			answer := &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"data":[]}`))}
			if req.URL.Path == "/api/v1/key" {
				answer.StatusCode = status
			}
			return answer, nil
		})
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) || err == nil && len(asked) != 2 {
			t.Errorf("%d: %v after %v", status, err, asked)
		}
	}
}
