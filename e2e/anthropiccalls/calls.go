// Package anthropiccalls is the use that an application makes of Anthropic's SDK,
// as a table.
package anthropiccalls

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/floway/floway/e2e/calls"
)

type (
	// Call is one thing that an application does, in one or more requests.
	Call = calls.Call[*anthropic.Client]
	// Tape keeps what came back, in order and as it came.
	Tape = calls.Tape
)

var expect, first = calls.Expect, calls.First

// Client returns the SDK's client of a server, without retries of its own: they
// would hide what the server does.
func Client(baseURL, key string, options ...option.RequestOption) *anthropic.Client {
	options = append([]option.RequestOption{option.WithBaseURL(baseURL), option.WithAPIKey(key), option.WithMaxRetries(0)}, options...)
	c := anthropic.NewClient(options...)
	return &c
}

// All are the calls.
var All = []Call{
	{Name: "message", Do: message},
	{Name: "message with everything", Do: everything},
	{Name: "message by the new version", Do: newVersion},
	{Name: "message with an image and a document", Do: parts},
	{Name: "message cut at the limit", Do: limit},
	{Name: "message of every scenario", Do: scenarios},
	{Name: "message stream", Do: stream},
	{Name: "message stream of every scenario", Do: scenarioStreams},
	{Name: "tools", Do: func(ctx context.Context, c *anthropic.Client, t *Tape) error { return tools(ctx, c, t, false, nil) }},
	{Name: "tools in a stream", Do: func(ctx context.Context, c *anthropic.Client, t *Tape) error { return tools(ctx, c, t, true, nil) }},
	{Name: "tools with thinking", Do: func(ctx context.Context, c *anthropic.Client, t *Tape) error { return tools(ctx, c, t, false, thinks) }},
	{Name: "tools with thinking in a stream", Do: func(ctx context.Context, c *anthropic.Client, t *Tape) error { return tools(ctx, c, t, true, thinks) }},
	{Name: "forced tool", Do: forced},
	{Name: "structured output", Do: structured},
	{Name: "beta", Do: beta},
	{Name: "beta stream", Do: betaStream},
	{Name: "count tokens", Do: countTokens},
	{Name: "models", Do: models},
}

// Ask asks a model for an answer of 4,096 tokens at most.
func Ask(model, text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(model), MaxTokens: 4096, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

// Complete asks without a stream.
func Complete(ctx context.Context, c *anthropic.Client, t *Tape, p anthropic.MessageNewParams, options ...option.RequestOption) (*anthropic.Message, error) {
	m, err := c.Messages.New(ctx, p, options...)
	if err != nil {
		return nil, err
	}
	t.Add(m.RawJSON())
	return m, expect(m.StopReason != "" && m.Usage.OutputTokens > 0 && m.ID != "", "the message is %s", m.RawJSON())
}

// Stream reads a stream to its end and puts it together.
func Stream(ctx context.Context, c *anthropic.Client, t *Tape, p anthropic.MessageNewParams) (*anthropic.Message, error) {
	s := c.Messages.NewStreaming(ctx, p)
	defer s.Close()
	var m anthropic.Message
	for s.Next() {
		e := s.Current()
		t.Add(e.RawJSON())
		if err := m.Accumulate(e); err != nil {
			return nil, err
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return &m, expect(m.StopReason != "" && m.Usage.OutputTokens > 0, "the message is %+v", m)
}

func text(m *anthropic.Message) string {
	var b strings.Builder
	for _, c := range m.Content {
		b.WriteString(c.Text)
	}
	return b.String()
}

func message(ctx context.Context, c *anthropic.Client, t *Tape) error {
	m, err := Complete(ctx, c, t, Ask("mock-chat", "Where does the river run?"))
	if err != nil {
		return err
	}
	return first(expect(text(m) != "" && m.StopReason == "end_turn", "%s", m.RawJSON()), expect(m.Model == "mock-chat-20260601", "model %s", m.Model))
}

func everything(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "Say <something> about \"quotes\", back\\slashes, 日本語 and \u2028.")
	p.System = []anthropic.TextBlockParam{{Text: "Be brief.", CacheControl: anthropic.CacheControlEphemeralParam{TTL: "1h"}}}
	p.Temperature, p.TopP, p.TopK = anthropic.Float(0.5), anthropic.Float(0.9), anthropic.Int(40)
	p.StopSequences = []string{"never said"}
	p.Metadata = anthropic.MetadataParam{UserID: anthropic.String(`{"device":"x"}`)}
	p.ServiceTier = anthropic.MessageNewParamsServiceTierStandardOnly
	p.OutputConfig.Effort = anthropic.OutputConfigEffortHigh
	p.Messages = append(p.Messages, anthropic.NewAssistantMessage(anthropic.NewTextBlock("Something.")), anthropic.NewUserMessage(anthropic.NewTextBlock("Go on."), anthropic.NewTextBlock("And on.")))
	_, err := Complete(ctx, c, t, p)
	return err
}

func newVersion(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "hi")
	version := option.WithHeader("anthropic-version", "2026-10-21")
	if _, err := Complete(ctx, c, t, p, version); err != nil {
		return err
	}
	p.Temperature = anthropic.Float(1)
	_, err := c.Messages.New(ctx, p, version)
	return expect(err != nil && strings.Contains(err.Error(), "temperature: Extra inputs are not permitted"), "temperature under the new version: %v", err)
}

func parts(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "hi")
	p.Messages = []anthropic.MessageParam{anthropic.NewUserMessage(
		anthropic.NewImageBlockBase64("image/png", calls.Pixel), anthropic.NewImageBlock(anthropic.URLImageSourceParam{URL: "https://example.com/a.png"}),
		anthropic.NewDocumentBlock(anthropic.Base64PDFSourceParam{Data: "JVBERi0xLjQK"}), anthropic.NewDocumentBlock(anthropic.PlainTextSourceParam{Data: "A text."}), anthropic.NewTextBlock("What is it?"),
	)}
	_, err := Complete(ctx, c, t, p)
	return err
}

func limit(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "hi")
	p.MaxTokens = 2
	m, err := Complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(m.StopReason == "max_tokens" && m.Usage.OutputTokens == 2, "%s", m.RawJSON())
}

// stops are the reasons with which scenarios end.
var stops = map[string]anthropic.StopReason{
	"unicode": "end_turn", "long": "end_turn", "thinking": "end_turn", "refusal": "refusal", "filter": "refusal", "length": "max_tokens", "cached": "end_turn",
}

func scenario(name string) anthropic.MessageNewParams {
	p := Ask("mock-chat+"+name, "hi")
	if name == "thinking" {
		thinks(&p)
	}
	return p
}

func thinks(p *anthropic.MessageNewParams) { p.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024) }

func scenarios(ctx context.Context, c *anthropic.Client, t *Tape) error {
	return each(func(name string) (*anthropic.Message, error) { return Complete(ctx, c, t, scenario(name)) })
}

func scenarioStreams(ctx context.Context, c *anthropic.Client, t *Tape) error {
	return each(func(name string) (*anthropic.Message, error) { return Stream(ctx, c, t, scenario(name)) })
}

func each(ask func(name string) (*anthropic.Message, error)) error {
	for _, name := range slices.Sorted(maps.Keys(stops)) {
		stop := stops[name]
		m, err := ask(name)
		if err != nil {
			return err
		}
		u := m.Usage
		if err := first(
			expect(m.StopReason == stop, "%s ends with %s", name, m.StopReason),
			expect(name != "cached" || u.CacheReadInputTokens == 3000 && u.CacheCreationInputTokens == 1200 && u.CacheCreation.Ephemeral5mInputTokens == 1000 && u.CacheCreation.Ephemeral1hInputTokens == 200, "cached: %+v", u),
			expect(name != "thinking" || len(m.Content) == 3 && m.Content[0].Thinking != "" && m.Content[0].Signature != "" && m.Content[1].Data != "", "thinking: %+v", m.Content),
		); err != nil {
			return err
		}
	}
	return nil
}

func stream(ctx context.Context, c *anthropic.Client, t *Tape) error {
	m, err := Stream(ctx, c, t, Ask("mock-chat", "Where does the river run?"))
	if err != nil {
		return err
	}
	return expect(text(m) != "" && m.StopReason == "end_turn", "%+v", m)
}

func toolbox() []anthropic.ToolUnionParam {
	schema := func(s map[string]any) anthropic.ToolInputSchemaParam {
		return anthropic.ToolInputSchemaParam{
			Properties: s["properties"], Required: s["required"].([]string),
			ExtraFields: map[string]any{"additionalProperties": false, "$schema": "https://json-schema.org/draft/2020-12/schema"},
		}
	}
	return []anthropic.ToolUnionParam{
		{OfTool: &anthropic.ToolParam{Name: "get_weather", Description: anthropic.String("The weather."), InputSchema: schema(calls.Weather)}},
		{OfTool: &anthropic.ToolParam{Name: "get_time", InputSchema: schema(calls.Clock)}},
		{OfTool: &anthropic.ToolParam{Name: "stop", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{}}}},
	}
}

// tools asks twice: two calls in parallel come, and are answered.
func tools(ctx context.Context, c *anthropic.Client, t *Tape, streamed bool, change func(*anthropic.MessageNewParams)) error {
	ask := func(p anthropic.MessageNewParams) (*anthropic.Message, error) {
		if streamed {
			return Stream(ctx, c, t, p)
		}
		return Complete(ctx, c, t, p)
	}
	p := Ask("mock-chat", "What is the weather, and what time is it?")
	p.Tools = toolbox()
	if change != nil {
		change(&p)
	}
	m, err := ask(p)
	if err != nil {
		return err
	}
	var results []anthropic.ContentBlockParamUnion
	for _, b := range m.Content {
		if b.Type == "tool_use" {
			if err := calls.Fits(string(b.Input), map[string]map[string]any{"get_weather": calls.Weather, "get_time": calls.Clock}[b.Name]); err != nil {
				return err
			}
			results = append(results, anthropic.NewToolResultBlock(b.ID, "42", false))
		}
	}
	if err := expect(len(results) == 2 && m.StopReason == "tool_use", "%d calls, %s", len(results), m.StopReason); err != nil {
		return err
	}
	p.Messages = append(p.Messages, m.ToParam(), anthropic.NewUserMessage(results...))
	m, err = ask(p)
	if err != nil {
		return err
	}
	return expect(m.StopReason == "end_turn" && text(m) != "", "the second turn is %+v", m)
}

func forced(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "hi")
	p.Tools = toolbox()
	p.ToolChoice = anthropic.ToolChoiceParamOfTool("get_time")
	m, err := Complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	n := 0
	for _, b := range m.Content {
		if b.Type == "tool_use" && b.Name == "get_time" {
			n++
		}
	}
	if err := expect(n == 1 && m.StopReason == "tool_use", "%s", m.RawJSON()); err != nil {
		return err
	}
	p.ToolChoice = anthropic.ToolChoiceUnionParam{OfNone: &anthropic.ToolChoiceNoneParam{}}
	m, err = Complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(m.StopReason == "end_turn", "%s", m.RawJSON())
}

func structured(ctx context.Context, c *anthropic.Client, t *Tape) error {
	p := Ask("mock-chat", "Who?")
	p.OutputConfig.Format = anthropic.JSONOutputFormatParam{Schema: calls.Person}
	m, err := Stream(ctx, c, t, p)
	if err != nil {
		return err
	}
	return calls.Fits(text(m), calls.Person)
}

func betaAsk() anthropic.BetaMessageNewParams {
	return anthropic.BetaMessageNewParams{
		Model: "mock-chat", MaxTokens: 1000, Betas: []anthropic.AnthropicBeta{"context-management-2025-06-27", "interleaved-thinking-2025-05-14"},
		Messages:          []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("hi"))},
		ContextManagement: anthropic.BetaContextManagementConfigParam{Edits: []anthropic.BetaContextManagementConfigEditUnionParam{{OfClearToolUses20250919: &anthropic.BetaClearToolUses20250919EditParam{}}}},
	}
}

func beta(ctx context.Context, c *anthropic.Client, t *Tape) error {
	m, err := c.Beta.Messages.New(ctx, betaAsk())
	if err != nil {
		return err
	}
	t.Add(m.RawJSON())
	return nil
}

func betaStream(ctx context.Context, c *anthropic.Client, t *Tape) error {
	s := c.Beta.Messages.NewStreaming(ctx, betaAsk())
	defer s.Close()
	for s.Next() {
		t.Add(s.Current().RawJSON())
	}
	return s.Err()
}

func countTokens(ctx context.Context, c *anthropic.Client, t *Tape) error {
	n, err := c.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{
		Model: "mock-chat", Messages: Ask("", "How many?").Messages,
		System: anthropic.MessageCountTokensParamsSystemUnion{OfString: anthropic.String("Be brief.")},
	})
	if err != nil {
		return err
	}
	t.Add(n.RawJSON())
	return expect(n.InputTokens > 0, "%s", n.RawJSON())
}

// models turns the pages of the list. The gateway makes its own of what the
// upstream lists, so only what the SDK reads is compared.
func models(ctx context.Context, c *anthropic.Client, t *Tape) error {
	all := c.Models.ListAutoPaging(ctx, anthropic.ModelListParams{Limit: anthropic.Int(2)})
	for all.Next() {
		m := all.Current()
		t.AddJSON([]any{m.ID, m.DisplayName, m.CreatedAt, m.Type, m.MaxInputTokens, m.MaxTokens})
	}
	if err := all.Err(); err != nil {
		return err
	}
	m, err := c.Models.Get(ctx, "mock-mini", anthropic.ModelGetParams{})
	if err != nil {
		return err
	}
	t.AddJSON([]any{m.ID, m.DisplayName, m.CreatedAt})
	return expect(len(t.Pieces) == 4, "%d models", len(t.Pieces)-1)
}
