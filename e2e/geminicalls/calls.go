// Package geminicalls is the use that an application makes of Google's SDK, as a
// table.
package geminicalls

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/genai"

	"github.com/floway/floway/e2e/calls"
)

type (
	// Call is one thing that an application does, in one or more requests.
	Call = calls.Call[*genai.Client]
	// Tape keeps what came back, in order and as the SDK read it.
	Tape = calls.Tape
)

var expect, first = calls.Expect, calls.First

// Client returns the SDK's client of a server; it makes no retries by itself.
func Client(ctx context.Context, baseURL, key string) (*genai.Client, error) {
	return genai.NewClient(ctx, &genai.ClientConfig{
		APIKey: key, Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: baseURL}, HTTPClient: &http.Client{},
	})
}

// All are the calls.
var All = []Call{
	{Name: "content", Do: content},
	{Name: "content with everything", Do: everything},
	{Name: "content with an image and a document", Do: parts},
	{Name: "content cut at the limit", Do: limit},
	{Name: "content of every scenario", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return scenarios(ctx, c, t, Complete) }},
	{Name: "stream", Do: stream},
	{Name: "stream of every scenario", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return scenarios(ctx, c, t, Stream) }},
	{Name: "tools", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return tools(ctx, c, t, Complete, nil) }},
	{Name: "tools in a stream", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return tools(ctx, c, t, Stream, nil) }},
	{Name: "tools with thoughts", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return tools(ctx, c, t, Complete, thinks) }},
	{Name: "tools with thoughts in a stream", Do: func(ctx context.Context, c *genai.Client, t *Tape) error { return tools(ctx, c, t, Stream, thinks) }},
	{Name: "a forced tool", Do: forced},
	{Name: "a tool of the service", Do: hosted},
	{Name: "structured output", Do: structured},
	{Name: "count tokens", Do: countTokens},
	{Name: "embeddings", Do: embeddings},
	{Name: "models", Do: models},
}

// Ask is one user turn.
func Ask(text string) []*genai.Content { return genai.Text(text) }

// A Way of asking: as a whole or as a stream.
type Way func(ctx context.Context, c *genai.Client, t *Tape, model string, contents []*genai.Content, config *genai.GenerateContentConfig) (*genai.GenerateContentResponse, error)

// Complete asks without a stream.
func Complete(ctx context.Context, c *genai.Client, t *Tape, model string, contents []*genai.Content, config *genai.GenerateContentConfig) (*genai.GenerateContentResponse, error) {
	r, err := c.Models.GenerateContent(ctx, model, contents, config)
	if err != nil {
		return nil, err
	}
	keep(t, r)
	return r, expect(r.UsageMetadata != nil && r.UsageMetadata.PromptTokenCount > 0, "usage is %+v", r.UsageMetadata)
}

// keep puts what came on the tape, without the headers of the answer.
func keep(t *Tape, r *genai.GenerateContentResponse) {
	c := *r
	c.SDKHTTPResponse = nil
	t.AddJSON(&c)
}

// Stream reads a stream to its end and puts its parts together.
func Stream(ctx context.Context, c *genai.Client, t *Tape, model string, contents []*genai.Content, config *genai.GenerateContentConfig) (*genai.GenerateContentResponse, error) {
	var all *genai.GenerateContentResponse
	for r, err := range c.Models.GenerateContentStream(ctx, model, contents, config) {
		if err != nil {
			return nil, err
		}
		keep(t, r)
		if all == nil || len(r.Candidates) == 0 {
			all = r
			continue
		}
		all.UsageMetadata = r.UsageMetadata
		all.Candidates[0].FinishReason = r.Candidates[0].FinishReason
		all.Candidates[0].Content.Parts = append(all.Candidates[0].Content.Parts, r.Candidates[0].Content.Parts...)
	}
	return all, expect(all != nil && all.UsageMetadata != nil, "the stream is %+v", all)
}

func ends(r *genai.GenerateContentResponse, reason genai.FinishReason) error {
	return expect(len(r.Candidates) == 1 && r.Candidates[0].FinishReason == reason, "candidates %+v", r.Candidates)
}

func content(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := Complete(ctx, c, t, "mock-chat", Ask("Where does the river run?"), nil)
	if err != nil {
		return err
	}
	return first(ends(r, "STOP"), expect(r.Text() != "" && r.ModelVersion == "mock-chat-001", "%+v", r))
}

func everything(ctx context.Context, c *genai.Client, t *Tape) error {
	contents := []*genai.Content{
		genai.NewContentFromText("Say <something> about \"quotes\", back\\slashes, 日本語 and \u2028.", "user"),
		genai.NewContentFromText("Something.", "model"), genai.NewContentFromText("Go on.", "user"),
	}
	_, err := Complete(ctx, c, t, "mock-chat", contents, &genai.GenerateContentConfig{
		SystemInstruction: genai.NewContentFromText("Be brief.", "user"), Temperature: genai.Ptr[float32](0.5), TopP: genai.Ptr[float32](0.9), TopK: genai.Ptr[float32](40),
		StopSequences: []string{"never said"}, Seed: genai.Ptr[int32](7), MaxOutputTokens: 4000, CandidateCount: 1,
		SafetySettings: []*genai.SafetySetting{{Category: genai.HarmCategoryHateSpeech, Threshold: genai.HarmBlockThresholdBlockNone}},
	})
	return err
}

func parts(ctx context.Context, c *genai.Client, t *Tape) error {
	_, err := Complete(ctx, c, t, "mock-chat", []*genai.Content{genai.NewContentFromParts([]*genai.Part{
		genai.NewPartFromBytes([]byte("\x89PNG\r\n\x1a\n"), "image/png"), genai.NewPartFromBytes([]byte("%PDF-1.4\n"), "application/pdf"),
		genai.NewPartFromURI("https://example.com/a.mp4", "video/mp4"), genai.NewPartFromText("What is it?"),
	}, "user")}, nil)
	return err
}

func limit(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := Complete(ctx, c, t, "mock-chat", Ask("hi"), &genai.GenerateContentConfig{MaxOutputTokens: 2})
	if err != nil {
		return err
	}
	return first(ends(r, "MAX_TOKENS"), expect(r.UsageMetadata.CandidatesTokenCount == 2, "%+v", r.UsageMetadata))
}

// finishes are the reasons with which scenarios end; a refusal has no candidate.
var finishes = map[string]genai.FinishReason{
	"unicode": "STOP", "long": "STOP", "thinking": "STOP", "refusal": "", "filter": "SAFETY", "length": "MAX_TOKENS", "cached": "STOP",
}

func scenarios(ctx context.Context, c *genai.Client, t *Tape, ask Way) error {
	for _, name := range slices.Sorted(maps.Keys(finishes)) {
		var config *genai.GenerateContentConfig
		if name == "thinking" {
			config = new(genai.GenerateContentConfig)
			thinks(config)
		}
		r, err := ask(ctx, c, t, "mock-chat+"+name, Ask("hi"), config)
		if err != nil {
			return err
		}
		if name == "refusal" {
			if err := expect(r.PromptFeedback != nil && r.PromptFeedback.BlockReason == "SAFETY" && len(r.Candidates) == 0, "refusal: %+v", r); err != nil {
				return err
			}
			continue
		}
		u := r.UsageMetadata
		if err := first(
			ends(r, finishes[name]),
			expect(name != "cached" || u.CachedContentTokenCount == 3000 && u.PromptTokenCount > 3000, "cached: %+v", u),
			expect(name != "thinking" || u.ThoughtsTokenCount > 0 && r.Candidates[0].Content.Parts[0].Thought, "thinking: %+v", u),
			expect(u.TotalTokenCount == u.PromptTokenCount+u.CandidatesTokenCount+u.ThoughtsTokenCount+u.ToolUsePromptTokenCount, "%+v", u),
		); err != nil {
			return err
		}
	}
	return nil
}

func thinks(config *genai.GenerateContentConfig) {
	config.ThinkingConfig = &genai.ThinkingConfig{IncludeThoughts: true, ThinkingLevel: genai.ThinkingLevelLow}
}

func stream(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := Stream(ctx, c, t, "mock-chat", Ask("Where does the river run?"), nil)
	if err != nil {
		return err
	}
	return first(ends(r, "STOP"), expect(r.Text() != "", "%+v", r))
}

func toolbox() []*genai.Tool {
	return []*genai.Tool{{FunctionDeclarations: []*genai.FunctionDeclaration{
		{Name: "get_weather", Description: "The weather.", ParametersJsonSchema: calls.Weather},
		{Name: "get_time", Parameters: &genai.Schema{Type: genai.TypeObject, Properties: map[string]*genai.Schema{"zone": {Type: genai.TypeString}}, Required: []string{"zone"}}},
		{Name: "stop"},
	}}}
}

// tools asks twice: two calls in parallel come, and are answered.
func tools(ctx context.Context, c *genai.Client, t *Tape, ask Way, change func(*genai.GenerateContentConfig)) error {
	config := &genai.GenerateContentConfig{Tools: toolbox()}
	if change != nil {
		change(config)
	}
	contents := Ask("What is the weather, and what time is it?")
	r, err := ask(ctx, c, t, "mock-chat", contents, config)
	if err != nil {
		return err
	}
	var answers []*genai.Part
	for _, f := range r.FunctionCalls() {
		args, _ := json.Marshal(f.Args)
		if err := calls.Fits(string(args), map[string]map[string]any{"get_weather": calls.Weather, "get_time": calls.Clock}[f.Name]); err != nil {
			return err
		}
		answers = append(answers, &genai.Part{FunctionResponse: &genai.FunctionResponse{ID: f.ID, Name: f.Name, Response: map[string]any{"result": "42"}}})
	}
	if err := first(ends(r, "STOP"), expect(len(answers) == 2, "%d calls", len(answers))); err != nil {
		return err
	}
	model := r.Candidates[0].Content
	model.Parts = slices.DeleteFunc(model.Parts, func(p *genai.Part) bool { return p.Text == "" && p.FunctionCall == nil && p.ThoughtSignature == nil })
	r, err = ask(ctx, c, t, "mock-chat", append(contents, model, genai.NewContentFromParts(answers, "user")), config)
	if err != nil {
		return err
	}
	return first(ends(r, "STOP"), expect(r.Text() != "", "the second turn is %+v", r))
}

func forced(ctx context.Context, c *genai.Client, t *Tape) error {
	config := &genai.GenerateContentConfig{Tools: toolbox(), ToolConfig: &genai.ToolConfig{FunctionCallingConfig: &genai.FunctionCallingConfig{
		Mode: genai.FunctionCallingConfigModeAny, AllowedFunctionNames: []string{"get_time"},
	}}}
	r, err := Complete(ctx, c, t, "mock-chat", Ask("hi"), config)
	if err != nil {
		return err
	}
	if f := r.FunctionCalls(); len(f) != 1 || f[0].Name != "get_time" {
		return expect(false, "calls %+v", f)
	}
	config.ToolConfig.FunctionCallingConfig = &genai.FunctionCallingConfig{Mode: genai.FunctionCallingConfigModeNone}
	r, err = Complete(ctx, c, t, "mock-chat", Ask("hi"), config)
	if err != nil {
		return err
	}
	return expect(len(r.FunctionCalls()) == 0 && r.Text() != "", "%+v", r)
}

func hosted(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := Stream(ctx, c, t, "mock-chat", Ask("hi"), &genai.GenerateContentConfig{Tools: []*genai.Tool{{GoogleSearch: &genai.GoogleSearch{}}}})
	if err != nil {
		return err
	}
	return expect(r.UsageMetadata.ToolUsePromptTokenCount > 0, "%+v", r.UsageMetadata)
}

func structured(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := Stream(ctx, c, t, "mock-chat", Ask("Who?"), &genai.GenerateContentConfig{ResponseMIMEType: "application/json", ResponseJsonSchema: calls.Person})
	if err != nil {
		return err
	}
	return calls.Fits(r.Text(), calls.Person)
}

func countTokens(ctx context.Context, c *genai.Client, t *Tape) error {
	r, err := c.Models.CountTokens(ctx, "mock-chat", Ask("How many?"), nil)
	if err != nil {
		return err
	}
	t.AddJSON(r.TotalTokens)
	return expect(r.TotalTokens > 0, "%+v", r)
}

func embeddings(ctx context.Context, c *genai.Client, t *Tape) error {
	for _, texts := range [][]string{{"one"}, {"one", "two", "three"}} {
		var contents []*genai.Content
		for _, s := range texts {
			contents = append(contents, genai.NewContentFromText(s, "user"))
		}
		r, err := c.Models.EmbedContent(ctx, "mock-embedding", contents, &genai.EmbedContentConfig{TaskType: "RETRIEVAL_QUERY", OutputDimensionality: genai.Ptr[int32](4)})
		if err != nil {
			return err
		}
		t.AddJSON(r.Embeddings)
		if err := expect(len(r.Embeddings) == len(texts) && len(r.Embeddings[0].Values) == 4, "%+v", r.Embeddings); err != nil {
			return err
		}
	}
	return nil
}

// models turns the pages of the list. The gateway makes its own of what the
// upstream lists, so only what the SDK reads is compared.
func models(ctx context.Context, c *genai.Client, t *Tape) error {
	keep := func(m *genai.Model) {
		t.AddJSON([]any{m.Name, m.DisplayName, m.InputTokenLimit, m.OutputTokenLimit, m.SupportedActions})
	}
	page, err := c.Models.List(ctx, &genai.ListModelsConfig{PageSize: 3})
	for n := 1; err == nil; n++ {
		for _, m := range page.Items {
			keep(m)
		}
		if page.NextPageToken == "" {
			if err := expect(n == 2 && len(t.Pieces) == 4, "%d models on %d pages", len(t.Pieces), n); err != nil {
				return err
			}
			break
		}
		page, err = page.Next(ctx)
	}
	if err != nil {
		return err
	}
	m, err := c.Models.Get(ctx, "mock-mini", nil)
	if err != nil {
		return err
	}
	keep(m)
	return expect(strings.HasSuffix(m.Name, "mock-mini"), "%+v", m)
}
