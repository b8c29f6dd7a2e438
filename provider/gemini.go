package provider

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/floway/floway/dialect"
)

// geminiVendor is the row of Google's Generative Language API.
// Source: Google's documentation of its error model and of the API's quotas.
var geminiVendor = vendor{
	name: "gemini", baseURL: "https://generativelanguage.googleapis.com",
	speaks:   []string{"gemini"},
	families: []string{"gemini-", "gemma-", "learnlm-", "imagen-", "veo-", "embedding-"},
	refusals: refusals{
		{state: "UNAUTHENTICATED", means: BadCredential},
		// A key that is wrong is a 400, one that was stopped a 403.
		{details: reason("API_KEY_INVALID"), means: BadCredential},
		{details: reason("SERVICE_DISABLED"), means: BadCredential},
		{details: reason("API_KEY_SERVICE_BLOCKED"), means: BadCredential},
		{status: 403, text: "has been suspended", means: BadCredential},
		{status: 403, text: "reported as leaked", means: BadCredential},
		// A quota of one model by the day is a limit of that model like any other:
		// the key still serves the rest.
		{state: "RESOURCE_EXHAUSTED", details: quota("PerModel"), means: Plain},
		{state: "RESOURCE_EXHAUSTED", details: quota("PerDay"), means: QuotaSpent},
		{state: "FAILED_PRECONDITION", text: "billing", means: QuotaSpent},
		{status: 404, text: "is not found for api version", means: NoModel},
		{status: 403, text: "permission to access tuned model", means: NoModel},
	},
}

// reason and quota are forms of details. What details repeat of a request stands
// in texts, where quotes are escaped.
func reason(name string) *regexp.Regexp {
	return regexp.MustCompile(`"reason"\s*:\s*"` + name + `"`)
}

func quota(part string) *regexp.Regexp {
	return regexp.MustCompile(`"quotaId"\s*:\s*"[^"\\]*` + part)
}

// gemini is an account at Google's Generative Language API.
type gemini struct{ account }

func openGemini(c Config) (Upstream, error) {
	a, err := geminiVendor.account(&c, "v1beta", geminiVendor.speaks)
	if err == nil {
		err = a.ofOperation()
	}
	if err != nil {
		return nil, err
	}
	return &gemini{a}, nil
}

// geminiActions are the verbs behind the colon of the service's paths.
var geminiActions = map[dialect.Operation]string{
	dialect.GenerateContent:    "generateContent",
	dialect.StreamContent:      "streamGenerateContent",
	dialect.CountContent:       "countTokens",
	dialect.EmbedContent:       "embedContent",
	dialect.BatchEmbedContents: "batchEmbedContents",
}

func (u *gemini) Address(call *dialect.Call, model string) *url.URL {
	// Models that a customer has tuned are a collection of their own.
	collection, name := "models", model
	if tuned, ok := strings.CutPrefix(model, "tunedModels/"); ok {
		collection, name = "tunedModels", tuned
	}
	// The name is one segment, whatever is in it, and not for JoinPath to clean.
	at := *u.base
	at.Path = u.base.Path + "/" + collection + "/" + name + ":" + geminiActions[call.Op]
	at.RawPath = u.base.EscapedPath() + "/" + collection + "/" + url.PathEscape(name) + ":" + geminiActions[call.Op]
	return &at
}

// Credential sends the secret as the SDKs do. A query would show it in logs.
func (u *gemini) Credential(s Secret) Credential { return inHeader("X-Goog-Api-Key", "", s) }

func (u *gemini) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	l := listing{account: &u.account, do: do, query: url.Values{"pageSize": {"1000"}}}
	return l.read(ctx, readGeminiModels)
}

// readGeminiModels reads a page of Google's form of a model list.
func readGeminiModels(body []byte) (page, error) {
	var list struct {
		Models []struct {
			Name      string   `json:"name"`
			Display   string   `json:"displayName"`
			MaxInput  int64    `json:"inputTokenLimit"`
			MaxOutput int64    `json:"outputTokenLimit"`
			Methods   []string `json:"supportedGenerationMethods"`
		} `json:"models"`
		Next string `json:"nextPageToken"`
	}
	// A page of Google's may be empty and then has no member models.
	if err := json.Unmarshal(body, &list); err != nil || list.Models == nil && list.Next == "" && !isEmptyObject(body) {
		return page{}, notAList(err, "Gemini's")
	}
	p := page{param: "pageToken", next: list.Next, models: make([]Model, len(list.Models))}
	for i, m := range list.Models {
		p.models[i] = Model{
			ID: strings.TrimPrefix(m.Name, "models/"), Name: m.Display, OwnedBy: "google",
			MaxInput: m.MaxInput, MaxOutput: m.MaxOutput, Methods: m.Methods,
		}
	}
	return p, nil
}

func isEmptyObject(body []byte) bool {
	return strings.Join(strings.Fields(string(body)), "") == "{}"
}

func init() { Register("gemini", Kind{New: openGemini}) }
