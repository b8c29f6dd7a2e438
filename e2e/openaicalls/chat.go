package openaicalls

import (
	"context"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/shared"
)

var chatCalls = []Call{
	{Name: "chat", Do: chat},
	{Name: "chat with everything", Do: chatEverything},
	{Name: "chat with several choices", Do: chatChoices},
	{Name: "chat with an image and a file", Do: chatParts},
	{Name: "chat cut at the limit", Do: chatLimit},
	{Name: "chat of a reasoning model", Do: chatReasoning},
	{Name: "chat stream", Do: chatStream},
	{Name: "chat stream with usage", Do: chatStreamUsage},
	{Name: "chat stream of several choices", Do: chatStreamChoices},
	{Name: "chat tools", Do: chatTools},
	{Name: "chat stream of parallel tools", Do: chatStreamTools},
	{Name: "chat custom tool", Do: chatCustomTool},
	{Name: "chat structured output", Do: chatStructured},
	{Name: "chat stream of structured output", Do: chatStreamStructured},
}

func ask(model, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("Be brief."), openai.UserMessage(text)},
	}
}

func complete(ctx context.Context, c *openai.Client, t *Tape, p openai.ChatCompletionNewParams) (*openai.ChatCompletion, error) {
	r, err := c.Chat.Completions.New(ctx, p)
	if err != nil {
		return nil, err
	}
	t.Add(r.RawJSON())
	return r, first(
		expect(len(r.Choices) > 0, "no choices"),
		expect(r.Usage.TotalTokens > 0 && r.Usage.TotalTokens == r.Usage.PromptTokens+r.Usage.CompletionTokens, "usage is %+v", r.Usage),
	)
}

// streamed reads a stream to its end and checks that the SDK can put it together.
func streamed(ctx context.Context, c *openai.Client, t *Tape, p openai.ChatCompletionNewParams) (*openai.ChatCompletion, error) {
	s := c.Chat.Completions.NewStreaming(ctx, p)
	defer s.Close()
	asked := p.StreamOptions.IncludeUsage.Value
	var acc openai.ChatCompletionAccumulator
	for s.Next() {
		chunk := s.Current()
		if asked {
			t.Add(chunk.RawJSON())
		} else {
			addChunk(t, chunk.RawJSON())
		}
		if strings.Contains(chunk.RawJSON(), `filter_results":`) && chunk.ID == "" {
			continue // Azure's filter says what it thinks in chunks of its own
		}
		if len(chunk.Choices) == 0 && !asked {
			return nil, expect(false, "a chunk without choices that nobody asked for: %s", chunk.RawJSON())
		}
		if !acc.AddChunk(chunk) {
			return nil, expect(false, "chunk does not fit the ones before: %s", chunk.RawJSON())
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	r := &acc.ChatCompletion
	errs := []error{expect(len(r.Choices) > 0, "no choices"), expect((r.Usage.TotalTokens > 0) == asked, "usage is %+v, asked for: %v", r.Usage, asked)}
	for _, choice := range r.Choices {
		errs = append(errs, expect(choice.FinishReason != "", "choice %d has no end", choice.Index))
	}
	return r, first(errs...)
}

func chat(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := complete(ctx, c, t, ask("mock-chat", "Where does the river run?"))
	if err != nil {
		return err
	}
	return first(
		expect(r.Choices[0].Message.Content != "", "no content"),
		expect(r.Choices[0].FinishReason == "stop", "finish reason %s", r.Choices[0].FinishReason),
		expect(r.Model == "mock-chat-2026-06-01", "model is %q", r.Model),
	)
}

func chatEverything(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "Say <something> about \"quotes\", back\\slashes, 日本語 and \u2028.")
	p.Temperature = openai.Float(0.1)
	p.TopP = openai.Float(1)
	p.Seed = openai.Int(9007199254740993) // not a float64
	p.FrequencyPenalty = openai.Float(-0.5)
	p.MaxCompletionTokens = openai.Int(1000)
	p.Logprobs = openai.Bool(true)
	p.TopLogprobs = openai.Int(2)
	p.LogitBias = map[string]int64{"50256": -100}
	p.Metadata = shared.Metadata{"trace": "e2e"}
	p.Store = openai.Bool(false)
	p.User = openai.String("user-1")
	p.PromptCacheKey = openai.String("cache-1")
	p.ServiceTier = openai.ChatCompletionNewParamsServiceTierAuto
	p.Stop = openai.ChatCompletionNewParamsStopUnion{OfStringArray: []string{"\n\nHuman:"}}
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(len(r.Choices[0].Logprobs.Content) > 0, "no logprobs")
}

func chatChoices(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "Three of them.")
	p.N = openai.Int(3)
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(len(r.Choices) == 3 && r.Choices[2].Index == 2, "%d choices", len(r.Choices))
}

func chatParts(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "x")
	p.Messages = append(p.Messages, openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
		openai.TextContentPart("What is this?"),
		openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:image/png;base64,iVBORw0KGgo=", Detail: "low"}),
		openai.InputAudioContentPart(openai.ChatCompletionContentPartInputAudioInputAudioParam{Data: "UklGRg==", Format: "wav"}),
		openai.FileContentPart(openai.ChatCompletionContentPartFileFileParam{FileData: openai.String("data:application/pdf;base64,JVBERi0="), Filename: openai.String("a.pdf")}),
	}))
	_, err := complete(ctx, c, t, p)
	return err
}

func chatLimit(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "Tell a long story.")
	p.MaxCompletionTokens = openai.Int(2)
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Choices[0].FinishReason == "length" && r.Usage.CompletionTokens == 2, "finish reason %s after %d tokens", r.Choices[0].FinishReason, r.Usage.CompletionTokens)
}

func chatReasoning(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-reasoner", "Think hard.")
	p.ReasoningEffort = shared.ReasoningEffortHigh
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Usage.CompletionTokensDetails.ReasoningTokens > 0, "no reasoning tokens")
}

func chatStream(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := streamed(ctx, c, t, ask("mock-chat", "Where does the river run?"))
	if err != nil {
		return err
	}
	return expect(r.Choices[0].Message.Content != "", "no content")
}

func chatStreamUsage(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-reasoner", "Where does the river run, and why?")
	p.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true), IncludeObfuscation: openai.Bool(true)}
	r, err := streamed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Usage.CompletionTokensDetails.ReasoningTokens > 0, "usage is %+v", r.Usage)
}

func chatStreamChoices(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "Two of them.")
	p.N = openai.Int(2)
	r, err := streamed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(len(r.Choices) == 2, "%d choices", len(r.Choices))
}

var functions = []openai.ChatCompletionToolUnionParam{
	openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "get_weather", Description: openai.String("The weather of a city."), Parameters: weather, Strict: openai.Bool(true)}),
	openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "get_time", Parameters: clock}),
}

// chatTools asks, runs the tools that are called, and asks again with what they
// said.
func chatTools(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "What is the weather in Oslo, and how late is it?")
	p.Tools = functions
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return toolTurn(ctx, c, t, p, r)
}

func toolTurn(ctx context.Context, c *openai.Client, t *Tape, p openai.ChatCompletionNewParams, r *openai.ChatCompletion) error {
	m := r.Choices[0].Message
	if err := first(
		expect(len(m.ToolCalls) == 2, "%d tool calls", len(m.ToolCalls)),
		expect(r.Choices[0].FinishReason == "tool_calls", "finish reason %s", r.Choices[0].FinishReason),
	); err != nil {
		return err
	}
	if err := first(
		fits(m.ToolCalls[0].Function.Arguments, weather),
		fits(m.ToolCalls[1].Function.Arguments, clock),
	); err != nil {
		return err
	}
	p.Messages = append(p.Messages, m.ToParam())
	for _, call := range m.ToolCalls {
		p.Messages = append(p.Messages, openai.ToolMessage(`{"ok":true}`, call.ID))
	}
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Choices[0].Message.Content != "", "no content after the tools")
}

func chatStreamTools(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "What is the weather in Bergen, and how late is it?")
	p.Tools = functions
	p.ParallelToolCalls = openai.Bool(true)
	r, err := streamed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return toolTurn(ctx, c, t, p, r)
}

func chatCustomTool(ctx context.Context, c *openai.Client, t *Tape) error {
	p := ask("mock-chat", "Run it.")
	p.Tools = append(functions[:1:1], openai.ChatCompletionCustomTool(openai.ChatCompletionCustomToolCustomParam{Name: "shell"}))
	p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfCustomToolChoice: &openai.ChatCompletionNamedToolChoiceCustomParam{Custom: openai.ChatCompletionNamedToolChoiceCustomCustomParam{Name: "shell"}}}
	r, err := complete(ctx, c, t, p)
	if err != nil {
		return err
	}
	calls := r.Choices[0].Message.ToolCalls
	return expect(len(calls) == 1 && calls[0].Custom.Name == "shell" && calls[0].Custom.Input != "", "tool calls %+v", calls)
}

func structured(text string) openai.ChatCompletionNewParams {
	p := ask("mock-chat", text)
	p.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "person", Schema: person, Strict: openai.Bool(true)},
	}}
	return p
}

func chatStructured(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := complete(ctx, c, t, structured("Somebody."))
	if err != nil {
		return err
	}
	return fits(r.Choices[0].Message.Content, person)
}

func chatStreamStructured(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := streamed(ctx, c, t, structured("Somebody else."))
	if err != nil {
		return err
	}
	return fits(r.Choices[0].Message.Content, person)
}
