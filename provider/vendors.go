package provider

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// vendor is what of a kind of upstream is data. An OpenAI-compatible service is
// nothing else.
type vendor struct {
	name string
	// baseURL is the default address; empty where there is none.
	baseURL string
	// speaks are the features that the service has.
	speaks []string
	// families are prefixes of the vendor's own model names.
	families []string
	// refusals say what answers mean beyond their status.
	refusals refusals
	// options are own subdirectives, each sent as the header of that name.
	options map[string]string
	// quirks are what requests that are translated into Chat Completions mind.
	quirks Quirks
}

// refusal is what one form of answer means. Empty fields match anything; text, in
// small letters, is looked for in the message and in the name of the field to
// blame, without regard to case. form is for messages that one text cannot tell
// from others. state and details are Google's: the name of the status, and a form
// of the list of details.
//
// Services repeat what they do not understand. Where a meaning puts a key out, a
// refusal must not match what a client could have made the service say.
type refusal struct {
	status                  int
	code, kind, param, text string
	form                    *regexp.Regexp
	state                   string
	details                 *regexp.Regexp
	means                   Meaning
}

// refusals are a vendor's; the first that matches counts.
type refusals []refusal

func (rs refusals) meaning(status int, p *dialect.Problem) Meaning {
	for i := range rs {
		if rs[i].matches(status, p) {
			return rs[i].means
		}
	}
	return Plain
}

func (r *refusal) matches(status int, p *dialect.Problem) bool {
	return (r.status == 0 || r.status == status) &&
		(r.code == "" || r.code == p.Code) &&
		(r.kind == "" || r.kind == p.Type) &&
		(r.param == "" || r.param == p.Param) &&
		(r.form == nil || r.form.MatchString(p.Message)) &&
		(r.state == "" || r.state == p.Status) &&
		(r.details == nil || r.details.Match(p.Details)) &&
		(r.text == "" || containsFold(p.Message, r.text) || containsFold(p.Param, r.text))
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), part)
}

// noSuchModel are the sentences in which servers say that they do not have a model:
// OpenAI and vLLM "The model `x` does not exist", Ollama "model 'x' not found".
// Many other 404s speak of a model without meaning that, so its name has to be
// seen: in quotes, or not a mere word.
var noSuchModel = regexp.MustCompile("(?i)" +
	"\\bmodel:? (?:(?:['\"`][^'\"`]+['\"`]|[^ '\"`]*[-./:0-9][^ '\"`]*) )?(?:was |is |could )?(?:not (?:be )?found|does ?n[o']t exist|unknown)\\b" +
	"|\\b(?:no such|unknown) model\\b")

// openAIRefusals are the meanings that OpenAI's own answers have and that
// compatible servers took over.
// Source: error codes in OpenAI's documentation and SDK typings.
var openAIRefusals = refusals{
	{code: "insufficient_quota", means: QuotaSpent},
	{kind: "insufficient_quota", means: QuotaSpent},
	{code: "billing_hard_limit_reached", means: QuotaSpent},
	{code: "billing_not_active", means: QuotaSpent},
	{code: "account_deactivated", means: BadCredential},
	{code: "invalid_api_key", means: BadCredential},
	{code: "content_filter", means: Moderated},
	{code: "content_policy_violation", means: Moderated},
	{code: "moderation_blocked", means: Moderated},
	{code: "model_not_found", means: NoModel},
	{status: 404, code: "DeploymentNotFound", means: NoModel},
	{status: 404, param: "model", means: NoModel},
	{status: 404, form: noSuchModel, means: NoModel},
	{status: 403, text: "does not have access to model", means: NoModel},
	{code: "invalid_encrypted_content", means: ForeignReasoning},
	{status: 400, text: "stream_options", means: UnknownField},
	{status: 422, text: "stream_options", means: UnknownField},
	{code: "rate_limit_exceeded", text: "request too large", means: RequestTooLarge},
	{status: 429, code: "rate_limit_exceeded", text: "organization-wide", means: AccountLimit},
}

var vendors = []vendor{
	{
		name: "openai", baseURL: "https://api.openai.com/v1",
		speaks:   []string{"chat", "responses", "completions", "embeddings", "images", "audio", "moderations", "rerank"},
		families: []string{"gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-", "dall-e-", "whisper-", "tts-", "omni-moderation", "davinci", "babbage", "codex-"},
		refusals: openAIRefusals,
		options:  map[string]string{"organization": "OpenAI-Organization", "project": "OpenAI-Project"},
	},
}

func init() {
	for _, v := range vendors {
		Register(v.name, Kind{
			New:      v.open,
			Options:  slices.Sorted(maps.Keys(v.options)),
			NeedsURL: v.baseURL == "",
		})
	}
}
