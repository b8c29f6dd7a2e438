package provider

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/floway/floway/dialect"
)

// vendor is what of a kind of upstream is data. An OpenAI-compatible service is
// nothing else.
type vendor struct {
	name string
	// baseURL is the default address; empty where there is none.
	baseURL string
	// unversioned: the service's paths have no version in them.
	unversioned bool
	// speaks are the features that the service has.
	speaks []string
	// paths are those of features that are not below the base URL: they stand for
	// its path.
	paths map[string]string
	// original: what it speaks besides Chat Completions is no imitation, so that
	// requests of other dialects are best translated into that.
	original bool
	// families are prefixes of the vendor's own model names.
	families []string
	// refusals say what answers mean beyond their status.
	refusals refusals
	// options are own subdirectives, each sent as the header of that name.
	options map[string]string
	// quirks are what requests of Chat Completions mind.
	quirks Quirks
	// chat are the changes that requests of Chat Completions need; nil for none.
	chat *dialect.Fixes
	// listing says how the service tells what it has; zero for OpenAI's way.
	listing listingForm
	// patience is how long the header of an answer may take; 0 for the default.
	patience time.Duration
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

// listingForm says how a service tells which models it has.
type listingForm struct {
	// none: it does not.
	none bool
	// private is a path that wants a valid key, where the list itself is told to
	// anybody: it is asked first.
	private string
	// ollama: below /api, in Ollama's own form.
	ollama bool
}

// also puts a vendor's own refusals before OpenAI's, which all imitate.
func also(own ...refusal) refusals { return append(own, openAIRefusals...) }

// older is what servers want that keep to the API as it was before OpenAI's models
// began to think: they do not know the role developer, and take no notice of the
// newer bound on answers, or refuse it.
var older = dialect.NewFixes(olderFixes...)

var olderFixes = []dialect.Fix{
	{Path: "messages[].role", Only: `"developer"`, Value: `"system"`},
	{Path: "max_completion_tokens", Rename: "max_tokens"},
}

// Loading a model can take this long before anything is answered.
const loading = 15 * time.Minute

// openAIFamilies are how the names of OpenAI's models begin.
var openAIFamilies = []string{"gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-", "dall-e-", "whisper-", "tts-", "omni-moderation", "davinci", "babbage", "codex-"}

// vendors are the kinds of upstream that are only data. docs/providers.md says the
// same for people, and TestVendors holds each row to what its service was seen, or
// says, to do.
//
// Sources: the services' own documentation of their compatibility with OpenAI's and
// Anthropic's APIs and of their errors; sentences are those that they were seen to
// send.
var vendors = []vendor{
	{
		name: "openai", baseURL: "https://api.openai.com/v1", original: true,
		speaks:   []string{"chat", "responses", "completions", "embeddings", "images", "audio", "moderations", "rerank"},
		families: openAIFamilies,
		refusals: openAIRefusals,
		options:  map[string]string{"organization": "OpenAI-Organization", "project": "OpenAI-Project"},
	},

	// Services.
	{
		name: "cerebras", baseURL: "https://api.cerebras.ai/v1",
		speaks:   []string{"chat", "completions"},
		refusals: openAIRefusals,
		quirks: Quirks{
			MaxTokensName: "max_completion_tokens",
			Omit:          []string{"frequency_penalty", "presence_penalty", "parallel_tool_calls", "service_tier", "prompt_cache_key", "verbosity"},
		},
		chat: dialect.NewFixes(olderFixes[0]),
	},
	{
		name: "dashscope", baseURL: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
		speaks:   []string{"chat", "embeddings"},
		families: []string{"qwen", "qwq-", "qvq-"},
		refusals: also(
			refusal{code: "Arrearage", means: QuotaSpent},
			refusal{code: "AllocationQuota.FreeTierOnly", means: QuotaSpent},
			refusal{code: "data_inspection_failed", means: Moderated},
			refusal{code: "DataInspectionFailed", means: Moderated},
			refusal{code: "InvalidApiKey", means: BadCredential},
			refusal{code: "ModelNotFound", means: NoModel},
			refusal{code: "Model.AccessDenied", means: NoModel},
		),
		chat: older,
	},
	{
		// A turn with calls that comes without its reasoning is refused; other turns
		// need none. Messages takes any name of Claude's for a model of its own.
		name: "deepseek", baseURL: "https://api.deepseek.com/v1",
		speaks:   []string{"chat", "messages"},
		paths:    map[string]string{"messages": "/anthropic/v1"},
		families: []string{"deepseek-"},
		refusals: openAIRefusals,
		quirks:   Quirks{ReasoningName: "reasoning_content"},
		chat:     older,
	},
	{
		name: "fireworks", baseURL: "https://api.fireworks.ai/inference/v1",
		speaks:   []string{"chat", "responses", "completions", "embeddings"},
		families: []string{"accounts/"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		name: "groq", baseURL: "https://api.groq.com/openai/v1",
		speaks:   []string{"chat", "responses", "audio"},
		families: []string{"groq/", "compound-"},
		refusals: also(
			refusal{status: 498, means: Overloaded}, // the flex tier
			refusal{code: "model_decommissioned", means: NoModel},
			refusal{code: "model_permission_blocked_org", means: NoModel},
			refusal{code: "model_permission_blocked_project", means: NoModel},
			refusal{code: "organization_restricted", means: BadCredential},
		),
		// Its tiers have other names.
		quirks: Quirks{MaxTokensName: "max_completion_tokens", Omit: []string{"service_tier"}},
	},
	{
		// It knows what each vendor wants, and fits requests by itself.
		name: "litellm", baseURL: "http://localhost:4000/v1",
		speaks:   []string{"chat", "responses", "messages", "completions", "embeddings", "images", "audio", "moderations", "rerank"},
		refusals: openAIRefusals,
	},
	{
		name: "minimax", baseURL: "https://api.minimax.io/v1",
		speaks:   []string{"chat", "responses", "messages"},
		paths:    map[string]string{"messages": "/anthropic/v1"},
		families: []string{"MiniMax-", "minimax-"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		// Unknown members are a 422; usage comes without being asked for; ids of calls
		// that others made are refused.
		name: "mistral", baseURL: "https://api.mistral.ai/v1",
		speaks:   []string{"chat", "embeddings", "audio", "moderations"},
		families: []string{"mistral-", "ministral-", "magistral-", "codestral-", "devstral-", "pixtral-", "voxtral-", "open-mistral-", "open-mixtral-"},
		refusals: also(refusal{kind: "invalid_model", means: NoModel}),
		quirks: Quirks{
			MaxTokensName: "max_tokens",
			Omit:          []string{"user", "service_tier", "prompt_cache_key", "verbosity"},
		},
		chat: dialect.NewFixes(append(olderFixes[:2:2],
			dialect.Fix{Path: "stream_options", Drop: true},
			dialect.Fix{Path: "seed", Rename: "random_seed"},
			dialect.Fix{Path: "messages[].tool_calls[].id", Letters: 9},
			dialect.Fix{Path: "messages[].tool_call_id", Letters: 9},
		)...),
	},
	{
		name: "moonshot", baseURL: "https://api.moonshot.ai/v1",
		speaks:   []string{"chat", "messages"},
		paths:    map[string]string{"messages": "/anthropic/v1"},
		families: []string{"kimi-", "moonshot-"},
		refusals: also(
			refusal{kind: "exceeded_current_quota_error", means: QuotaSpent},
			refusal{kind: "invalid_authentication_error", means: BadCredential},
			refusal{kind: "content_filter", means: Moderated},
			refusal{status: 404, text: "not found the model", means: NoModel},
		),
		quirks: Quirks{ReasoningName: "reasoning_content"},
		chat:   older,
	},
	{
		name: "nvidia", baseURL: "https://integrate.api.nvidia.com/v1",
		speaks:   []string{"chat", "embeddings"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		// It fits requests by itself to whoever serves the model.
		name: "openrouter", baseURL: "https://openrouter.ai/api/v1",
		speaks:   []string{"chat", "responses", "messages", "completions", "embeddings"},
		families: []string{"openrouter/"},
		options:  map[string]string{"referer": "HTTP-Referer", "title": "X-Title"},
		refusals: also(
			refusal{status: 403, text: "key limit exceeded", means: QuotaSpent},
			refusal{status: 403, text: "moderation", means: Moderated},
			refusal{status: 403, text: "flagged", means: Moderated},
			refusal{status: 400, text: "is not a valid model id", means: NoModel},
			refusal{status: 404, text: "no endpoints found for", means: NoModel},
		),
		quirks:  Quirks{MaxTokensName: "max_tokens"},
		listing: listingForm{private: "key"},
	},
	{
		name: "perplexity", baseURL: "https://api.perplexity.ai", unversioned: true,
		speaks:   []string{"chat"},
		families: []string{"sonar"},
		refusals: openAIRefusals,
		quirks:   Quirks{MaxTokensName: "max_tokens"},
		chat:     older,
		listing:  listingForm{none: true},
	},
	{
		name: "sambanova", baseURL: "https://api.sambanova.ai/v1",
		speaks:   []string{"chat", "embeddings"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		name: "siliconflow", baseURL: "https://api.siliconflow.com/v1",
		speaks:   []string{"chat", "embeddings", "images", "audio", "rerank"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		name: "together", baseURL: "https://api.together.xyz/v1",
		speaks:   []string{"chat", "completions", "embeddings", "images", "audio", "rerank"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		name: "xai", baseURL: "https://api.x.ai/v1",
		speaks:   []string{"chat", "responses", "images"},
		families: []string{"grok-"},
		refusals: also(
			refusal{status: 400, text: "incorrect api key", means: BadCredential},
			refusal{text: "used all available credits", means: QuotaSpent},
			refusal{status: 403, text: "have any credits", means: QuotaSpent},
			refusal{status: 403, text: "usage guidelines", means: Moderated},
		),
		// The models that think refuse both penalties.
		quirks: Quirks{MaxTokensName: "max_completion_tokens", Omit: []string{"frequency_penalty", "presence_penalty"}},
	},
	{
		// Every refusal has a number, and its status may be any.
		name: "zhipu", baseURL: "https://api.z.ai/api/paas/v4",
		speaks:   []string{"chat", "messages"},
		paths:    map[string]string{"messages": "/api/anthropic/v1"},
		families: []string{"glm-"},
		refusals: also(
			refusal{code: "1113", means: QuotaSpent},
			refusal{code: "1000", means: BadCredential},
			refusal{code: "1002", means: BadCredential},
			refusal{code: "1003", means: BadCredential},
			refusal{code: "1004", means: BadCredential},
			refusal{code: "1110", means: BadCredential},
			refusal{code: "1111", means: BadCredential},
			refusal{code: "1112", means: BadCredential},
			refusal{code: "1121", means: BadCredential},
			refusal{code: "1211", means: NoModel},
			refusal{code: "1300", means: Moderated},
			refusal{code: "1301", means: Moderated},
		),
		chat: older,
	},

	// Servers of one's own. A key is needed by those that were started with one.
	{
		name: "llamacpp", baseURL: "http://localhost:8080/v1",
		speaks:   []string{"chat", "messages", "completions", "embeddings", "rerank"},
		refusals: openAIRefusals,
		chat:     older, patience: loading,
	},
	{
		name: "lmstudio", baseURL: "http://localhost:1234/v1",
		speaks:   []string{"chat", "responses", "messages", "completions", "embeddings"},
		refusals: openAIRefusals,
		chat:     older, patience: loading,
	},
	{
		name: "ollama", baseURL: "http://localhost:11434/v1",
		speaks:   []string{"chat", "responses", "messages", "completions", "embeddings"},
		refusals: openAIRefusals,
		chat:     older, patience: loading,
		listing: listingForm{ollama: true},
	},
	{
		name: "sglang", baseURL: "http://localhost:30000/v1",
		speaks:   []string{"chat", "completions", "embeddings", "rerank"},
		refusals: openAIRefusals,
		chat:     older,
	},
	{
		name: "vllm", baseURL: "http://localhost:8000/v1",
		speaks:   []string{"chat", "responses", "messages", "completions", "embeddings", "rerank", "audio"},
		refusals: openAIRefusals,
		chat:     older,
	},
}

func init() {
	for _, v := range vendors {
		Register(v.name, Kind{
			New:       v.open,
			Options:   slices.Sorted(maps.Keys(v.options)),
			NeedsURL:  v.baseURL == "",
			FirstByte: v.patience,
		})
	}
}
