package translate

import (
	"fmt"

	"github.com/floway/floway/dialect"
)

// feature is something that a request can ask for and that not every dialect can
// express.
type feature uint8

const (
	laterSystem feature = iota
	stopSequences
	temperature
	topP
	topK
	presencePenalty
	frequencyPenalty
	seed
	candidates
	logitBias
	logProbs
	serialCalls
	jsonFormat
	schemaFormat
	otherFormat
	effort
	verbosity
	cacheKey
	cacheMark
	cacheRetention
	cachedContent
	endUser
	serviceTier
	speed
	metadata
	store
	serverState
	truncation
	container
	mcpServers
	thread
	contextManagement
	audioOut
	imageOut
	prediction
	webSearchOptions
	moderation
	safetySettings
	mediaDetail
	labels
	hostedTool
	forcedHostedTool
	customTool
	toolSpace
	imageURL
	fileID
	documentURL
	documentText
	audioIn
	videoIn
	authorName
	citations
	hostedItem
	region
	unknownField
	features
)

// verdict says what becomes of a feature in a dialect.
type verdict uint8

const (
	// carry: the dialect has it. What of it a certain model does not take, the
	// writer decides.
	carry verdict = iota
	// change: the dialect gets something of another meaning, and the client is
	// told.
	change
	// drop: it was advice. The dialect does not get it, and the client is told.
	drop
	// refuse: the answer would not be what was asked for.
	refuse
)

// rule is what becomes of a feature in each dialect.
type rule struct {
	name string // for the documentation
	// to is indexed by the upstream's dialect.
	to [4]verdict
}

// rules decide for every feature and dialect. docs/translation.md is checked
// against them. Order of the verdicts: chat, responses, messages, gemini.
//
// Principle: content, tools and what the answer must look like are never dropped;
// hints are. Coding agents come first: what they always send never fails.
var rules = [features]rule{
	laterSystem:       {"instructions in the middle", [4]verdict{carry, carry, carry, change}},
	stopSequences:     {"stop sequences", [4]verdict{carry, refuse, carry, carry}},
	temperature:       {"temperature", [4]verdict{carry, carry, carry, carry}},
	topP:              {"top_p", [4]verdict{carry, carry, carry, carry}},
	topK:              {"top_k", [4]verdict{drop, drop, carry, carry}},
	presencePenalty:   {"presence penalty", [4]verdict{carry, drop, drop, carry}},
	frequencyPenalty:  {"frequency penalty", [4]verdict{carry, drop, drop, carry}},
	seed:              {"seed", [4]verdict{carry, drop, drop, carry}},
	candidates:        {"more than one answer", [4]verdict{refuse, refuse, refuse, refuse}},
	logitBias:         {"logit bias", [4]verdict{carry, refuse, refuse, refuse}},
	logProbs:          {"log probabilities", [4]verdict{refuse, refuse, refuse, refuse}},
	serialCalls:       {"one call at a time", [4]verdict{carry, carry, carry, change}},
	jsonFormat:        {"any JSON object", [4]verdict{carry, carry, change, carry}},
	schemaFormat:      {"JSON of a schema", [4]verdict{carry, carry, carry, carry}},
	otherFormat:       {"other forms of the answer", [4]verdict{refuse, refuse, refuse, carry}},
	effort:            {"reasoning effort", [4]verdict{carry, carry, carry, carry}},
	verbosity:         {"verbosity", [4]verdict{carry, carry, drop, drop}},
	cacheKey:          {"cache key", [4]verdict{carry, carry, drop, drop}},
	cacheMark:         {"cache marks", [4]verdict{drop, drop, carry, drop}},
	cacheRetention:    {"cache retention", [4]verdict{drop, carry, drop, drop}},
	cachedContent:     {"content cached at the service", [4]verdict{refuse, refuse, refuse, carry}},
	endUser:           {"end user", [4]verdict{carry, carry, carry, drop}},
	serviceTier:       {"service tier", [4]verdict{carry, carry, carry, carry}},
	speed:             {"speed", [4]verdict{drop, drop, carry, drop}},
	metadata:          {"metadata", [4]verdict{drop, carry, drop, drop}},
	store:             {"store", [4]verdict{drop, drop, drop, drop}},
	serverState:       {"state kept by the service", [4]verdict{refuse, refuse, refuse, refuse}},
	truncation:        {"automatic truncation", [4]verdict{drop, carry, drop, drop}},
	container:         {"container", [4]verdict{refuse, refuse, carry, refuse}},
	mcpServers:        {"MCP servers", [4]verdict{refuse, refuse, carry, refuse}},
	thread:            {"thread kept by the service", [4]verdict{refuse, refuse, carry, refuse}},
	contextManagement: {"context management", [4]verdict{drop, drop, carry, drop}},
	audioOut:          {"spoken answers", [4]verdict{refuse, refuse, refuse, refuse}},
	imageOut:          {"painted answers", [4]verdict{refuse, refuse, refuse, carry}},
	prediction:        {"prediction", [4]verdict{carry, drop, drop, drop}},
	webSearchOptions:  {"web search options", [4]verdict{carry, refuse, refuse, refuse}},
	moderation:        {"moderation", [4]verdict{refuse, refuse, refuse, refuse}},
	safetySettings:    {"safety settings", [4]verdict{drop, drop, drop, carry}},
	mediaDetail:       {"detail of images", [4]verdict{carry, carry, drop, drop}},
	labels:            {"labels", [4]verdict{drop, drop, drop, carry}},
	hostedTool:        {"hosted tools", [4]verdict{drop, drop, drop, drop}},
	forcedHostedTool:  {"hosted tools that are forced", [4]verdict{refuse, refuse, refuse, refuse}},
	customTool:        {"tools with free text", [4]verdict{change, carry, change, change}},
	toolSpace:         {"namespaces of tools", [4]verdict{change, carry, change, change}},
	imageURL:          {"images by address", [4]verdict{carry, carry, carry, refuse}},
	fileID:            {"files kept by the service", [4]verdict{refuse, refuse, refuse, refuse}},
	documentURL:       {"documents by address", [4]verdict{refuse, carry, carry, refuse}},
	documentText:      {"documents of plain text", [4]verdict{change, change, carry, change}},
	audioIn:           {"sound", [4]verdict{carry, carry, refuse, carry}},
	videoIn:           {"film", [4]verdict{refuse, refuse, refuse, carry}},
	authorName:        {"names of authors", [4]verdict{carry, drop, drop, drop}},
	citations:         {"citations", [4]verdict{drop, drop, drop, drop}},
	hostedItem:        {"calls of hosted tools in the history", [4]verdict{drop, drop, drop, drop}},
	region:            {"region of inference", [4]verdict{refuse, refuse, carry, refuse}},
	unknownField:      {"unknown fields", [4]verdict{drop, drop, drop, drop}},
}

// applyRules looks up every use of a feature. The first that is refused ends it.
func (r *Request) applyRules() error {
	for _, u := range r.c.used {
		switch rules[u.feature].to[r.to] {
		case refuse:
			return r.refuse(u.feature, u.field)
		case drop, change:
			r.drop(u.field)
		}
	}
	return nil
}

// dialectNames are how error messages call the dialects.
var dialectNames = [...]string{
	dialect.Chat: "Chat Completions", dialect.Responses: "Responses",
	dialect.Messages: "Messages", dialect.Gemini: "Gemini",
}

// refuse is the error for a feature that the upstream's dialect cannot express.
func (r *Request) refuse(f feature, field string) error {
	b := &dialect.BadRequest{
		Param:   field,
		Message: fmt.Sprintf("%s: %s cannot be expressed in the %s API, which serves the model %q", field, rules[f].name, dialectNames[r.to], r.c.Asked),
	}
	if f == thread {
		b.Details = noThreads
	}
	return b
}

// noThreads tells the clients of Messages that keep their conversations at the
// service to go on with whole histories; without it they give up.
// Source: the tool loop of Anthropic's SDK 1.x.
var noThreads = []byte(`{"error_code":"thread_unsupported_request","unsupported":["thread"]}`)
