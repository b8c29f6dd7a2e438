package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/floway/floway/dialect"
)

// anthropicVendor is the row of Anthropic's own service, and by base_url of those
// that offer its API.
// Source: error types in Anthropic's documentation and SDK typings; the sentences
// are those that the service was seen to send.
var anthropicVendor = vendor{
	name: "anthropic", baseURL: "https://api.anthropic.com",
	speaks:   []string{"messages"},
	families: []string{"claude-"},
	options:  map[string]string{"version": "Anthropic-Version"},
	refusals: refusals{
		// These come as a 400 of the type that says that the request is wrong. So
		// does the name of any unknown field, but with a colon behind it.
		{status: 400, form: regexp.MustCompile(`^Your credit balance is too low[^:]*$`), means: QuotaSpent},
		{status: 400, form: regexp.MustCompile(`^You have reached your specified API usage limits\. You will regain access on [0-9-]+ at [0-9:]+ UTC\.?$`), means: QuotaSpent},
		{status: 400, form: regexp.MustCompile(`^This organization has been disabled[^:]*$`), means: BadCredential},
		{kind: "billing_error", means: QuotaSpent},
		{kind: "authentication_error", means: BadCredential},
		{status: 404, kind: "not_found_error", form: regexp.MustCompile(`^model: `), means: NoModel},
		{status: 403, kind: "permission_error", form: regexp.MustCompile(`\baccess to (this|the) model\b`), means: NoModel},
		{status: 400, text: "blocked by content filtering policy", means: Moderated},
	},
}

// anthropicVersion is the version of the API that requests name whose caller named
// none: the one that every model still takes with the sampling fields.
const anthropicVersion = "2023-06-01"

// anthropic is an account at Anthropic.
type anthropic struct {
	account
	urls map[dialect.Operation]*url.URL
}

func openAnthropic(c Config) (Upstream, error) {
	a, err := anthropicVendor.account(&c, "v1", anthropicVendor.speaks)
	if err == nil {
		err = a.ofOperation()
	}
	if err != nil {
		return nil, err
	}
	version := a.headers.Get("Anthropic-Version")
	if version == "" {
		a.headers.Set("Anthropic-Version", anthropicVersion)
	} else if _, err := time.Parse(time.DateOnly, version); err != nil {
		return nil, fmt.Errorf("version: %q is not the date of a version, such as %s", version, anthropicVersion)
	}
	return &anthropic{account: a, urls: a.addresses()}, nil
}

func (u *anthropic) Address(call *dialect.Call, _ string) *url.URL { return u.urls[call.Op] }

// Credential sends the secret as an API key. Later SDKs send it as a bearer token,
// which the service takes for the same; servers that imitate it may not.
func (u *anthropic) Credential(s Secret) Credential { return inHeader("X-Api-Key", "", s) }

func (u *anthropic) Models(ctx context.Context, do func(*http.Request) (*http.Response, error)) ([]Model, error) {
	l := listing{account: &u.account, do: do, query: url.Values{"limit": {"1000"}}}
	return l.read(ctx, readAnthropicModels)
}

// readAnthropicModels reads a page of Anthropic's form of a model list.
func readAnthropicModels(body []byte) (page, error) {
	var list struct {
		Data []struct {
			ID        string `json:"id"`
			Name      string `json:"display_name"`
			Created   string `json:"created_at"`
			MaxInput  int64  `json:"max_input_tokens"`
			MaxOutput int64  `json:"max_tokens"`
		} `json:"data"`
		More bool   `json:"has_more"`
		Last string `json:"last_id"`
	}
	if err := json.Unmarshal(body, &list); err != nil || list.Data == nil {
		return page{}, notAList(err, "Anthropic's")
	}
	p := page{param: "after_id", models: make([]Model, len(list.Data))}
	if list.More {
		p.next = list.Last
	}
	for i, m := range list.Data {
		p.models[i] = Model{ID: m.ID, Name: m.Name, OwnedBy: "anthropic", MaxInput: m.MaxInput, MaxOutput: m.MaxOutput}
		if at, err := time.Parse(time.RFC3339, m.Created); err == nil {
			p.models[i].Created = max(at.Unix(), 0)
		}
	}
	return p, nil
}

func init() { Register("anthropic", Kind{New: openAnthropic, Options: []string{"version"}}) }
