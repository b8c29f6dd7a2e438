package openaicalls

import (
	"context"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

var responsesCalls = []Call{
	{Name: "responses", Do: respond},
	{Name: "responses stream", Do: respondStream},
	{Name: "responses cut at the limit", Do: respondLimit},
	{Name: "responses tools", Do: respondTools},
	{Name: "responses stream of tools", Do: respondStreamTools},
	{Name: "responses structured output", Do: respondStructured},
	{Name: "responses with encrypted reasoning", Do: respondReasoning},
	{Name: "responses stream with reasoning", Do: respondStreamReasoning},
	{Name: "responses that go on", Do: respondPrevious},
	{Name: "responses by id", Do: respondByID},
	{Name: "responses in the background", Do: respondBackground},
	{Name: "responses input tokens", Do: respondCount},
	{Name: "responses compact", Do: respondCompact},
}

func input(text string) responses.ResponseNewParamsInputUnion {
	return responses.ResponseNewParamsInputUnion{OfString: openai.String(text)}
}

func create(ctx context.Context, c *openai.Client, t *Tape, p responses.ResponseNewParams) (*responses.Response, error) {
	r, err := c.Responses.New(ctx, p)
	if err != nil {
		return nil, err
	}
	t.Add(r.RawJSON())
	return r, first(
		expect(strings.HasPrefix(r.ID, "resp_"), "id %q", r.ID),
		expect(r.Usage.TotalTokens > 0 && r.Usage.TotalTokens == r.Usage.InputTokens+r.Usage.OutputTokens, "usage is %+v", r.Usage),
	)
}

// followed reads a stream to its end and checks it by the grammar of the API.
func followed(ctx context.Context, c *openai.Client, t *Tape, p responses.ResponseNewParams) (*responses.Response, error) {
	s := c.Responses.NewStreaming(ctx, p)
	defer s.Close()
	var (
		n     int64
		added = map[string]bool{} // items announced and not yet done
		last  responses.ResponseStreamEventUnion
	)
	for s.Next() {
		e := s.Current()
		t.Add(e.RawJSON())
		if e.SequenceNumber != n {
			return nil, expect(false, "event %d has the number %d", n, e.SequenceNumber)
		}
		n++
		last = e
		switch {
		case e.Type == "response.output_item.added":
			added[e.Item.ID] = true
		case e.Type == "response.output_item.done":
			if !added[e.Item.ID] {
				return nil, expect(false, "item %s is done and never was announced", e.Item.ID)
			}
			delete(added, e.Item.ID)
		case strings.HasSuffix(e.Type, ".delta") && !added[e.ItemID]:
			return nil, expect(false, "%s for the item %s, which was not announced", e.Type, e.ItemID)
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return &last.Response, first(
		expect(last.Type == "response.completed" || last.Type == "response.incomplete", "the last event is %s", last.Type),
		expect(len(added) == 0, "items left open: %v", added),
		expect(last.Response.Usage.TotalTokens > 0, "usage is %+v", last.Response.Usage),
	)
}

func respond(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := create(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Where does the river run?"), Instructions: openai.String("Be brief.")})
	if err != nil {
		return err
	}
	return first(expect(r.OutputText() != "", "no text"), expect(r.Status == "completed", "status %s", r.Status))
}

func respondStream(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := followed(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Where does the river run now?")})
	if err != nil {
		return err
	}
	return expect(r.OutputText() != "", "no text")
}

func respondLimit(ctx context.Context, c *openai.Client, t *Tape) error {
	p := responses.ResponseNewParams{Model: "mock-chat+words=40", Input: input("Tell a long story."), MaxOutputTokens: openai.Int(16)}
	r, err := create(ctx, c, t, p)
	if err != nil {
		return err
	}
	if err := expect(r.Status == "incomplete" && r.IncompleteDetails.Reason == "max_output_tokens", "status %s", r.Status); err != nil {
		return err
	}
	r, err = followed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Status == "incomplete", "status %s", r.Status)
}

var responseTools = []responses.ToolUnionParam{
	responses.ToolParamOfFunction("get_weather", weather, true),
	responses.ToolParamOfFunction("get_time", clock, true),
	responses.ToolParamOfCustom("shell"),
	{OfWebSearch: &responses.WebSearchToolParam{Type: "web_search"}},
}

func respondTools(ctx context.Context, c *openai.Client, t *Tape) error {
	p := responses.ResponseNewParams{Model: "mock-chat", Tools: responseTools, Store: openai.Bool(false), Input: list(
		responses.ResponseInputItemParamOfMessage("What is the weather in Oslo, and how late is it?", "user"),
	)}
	r, err := create(ctx, c, t, p)
	if err != nil {
		return err
	}
	return answerTools(ctx, c, t, p, r)
}

// answerTools asks again with what the tools said.
func answerTools(ctx context.Context, c *openai.Client, t *Tape, p responses.ResponseNewParams, r *responses.Response) error {
	items := p.Input.OfInputItemList
	calls := 0
	for _, item := range r.Output {
		if item.Type != "function_call" {
			continue
		}
		calls++
		schema := weather
		if item.Name == "get_time" {
			schema = clock
		}
		if err := fits(item.Arguments.OfString, schema); err != nil {
			return err
		}
		items = append(items, responses.ResponseInputItemParamOfFunctionCall(item.Arguments.OfString, item.CallID, item.Name))
	}
	for _, item := range r.Output {
		if item.Type == "function_call" {
			out := responses.ResponseInputItemParamOfFunctionCallOutput(`{"ok":true}`)
			out.OfFunctionCallOutput.CallID = openai.String(item.CallID)
			items = append(items, out)
		}
	}
	if err := expect(calls == 2, "%d calls", calls); err != nil {
		return err
	}
	p.Input = list(items...)
	r, err := create(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.OutputText() != "", "no text after the tools")
}

func list(items ...responses.ResponseInputItemUnionParam) responses.ResponseNewParamsInputUnion {
	return responses.ResponseNewParamsInputUnion{OfInputItemList: items}
}

func respondStreamTools(ctx context.Context, c *openai.Client, t *Tape) error {
	p := responses.ResponseNewParams{Model: "mock-chat", Tools: responseTools, Input: list(
		responses.ResponseInputItemParamOfMessage("What is the weather in Bergen?", "user"),
	)}
	r, err := followed(ctx, c, t, p)
	if err != nil {
		return err
	}
	if err := answerTools(ctx, c, t, p, r); err != nil {
		return err
	}
	p.ToolChoice = responses.ResponseNewParamsToolChoiceUnion{OfCustomTool: &responses.ToolChoiceCustomParam{Name: "shell"}}
	r, err = followed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(len(r.Output) == 1 && r.Output[0].Type == "custom_tool_call", "output %+v", r.Output)
}

func respondStructured(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := create(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Somebody."), Text: responses.ResponseTextConfigParam{
		Format: responses.ResponseFormatTextConfigUnionParam{OfJSONSchema: &responses.ResponseFormatTextJSONSchemaConfigParam{Name: "person", Schema: person, Strict: openai.Bool(true)}},
	}})
	if err != nil {
		return err
	}
	return fits(r.OutputText(), person)
}

// reasoning asks for reasoning that can be brought back.
func reasoning(text string) responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: "mock-reasoner", Store: openai.Bool(false), Input: list(responses.ResponseInputItemParamOfMessage(text, "user")),
		Reasoning: shared.ReasoningParam{Effort: shared.ReasoningEffortLow, Summary: shared.ReasoningSummaryAuto},
		Include:   []responses.ResponseIncludable{responses.ResponseIncludableReasoningEncryptedContent},
	}
}

// respondReasoning brings reasoning back in the second turn: it must come to the
// account that made it.
func respondReasoning(ctx context.Context, c *openai.Client, t *Tape) error {
	p := reasoning("Think hard.")
	r, err := create(ctx, c, t, p)
	if err != nil {
		return err
	}
	return secondThought(ctx, c, t, p, r)
}

func secondThought(ctx context.Context, c *openai.Client, t *Tape, p responses.ResponseNewParams, r *responses.Response) error {
	if err := expect(len(r.Output) == 2 && r.Output[0].Type == "reasoning" && r.Output[0].EncryptedContent != "", "output %+v", r.Output); err != nil {
		return err
	}
	thought := r.Output[0].AsReasoning().ToParam()
	said := r.Output[1].AsMessage().ToParam()
	items := append(p.Input.OfInputItemList,
		responses.ResponseInputItemUnionParam{OfReasoning: &thought},
		responses.ResponseInputItemUnionParam{OfOutputMessage: &said},
		responses.ResponseInputItemParamOfMessage("Go on.", "user"),
	)
	p.Input = list(items...)
	r, err := create(ctx, c, t, p)
	if err != nil {
		return err
	}
	return expect(r.Usage.OutputTokensDetails.ReasoningTokens > 0, "usage is %+v", r.Usage)
}

func respondStreamReasoning(ctx context.Context, c *openai.Client, t *Tape) error {
	p := reasoning("Think again.")
	r, err := followed(ctx, c, t, p)
	if err != nil {
		return err
	}
	return secondThought(ctx, c, t, p, r)
}

func respondPrevious(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := create(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Remember the number 42.")})
	if err != nil {
		return err
	}
	for range 3 {
		r, err = create(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Which number?"), PreviousResponseID: openai.String(r.ID)})
		if err != nil {
			return err
		}
	}
	return nil
}

func respondByID(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := create(ctx, c, t, responses.ResponseNewParams{Model: "mock-chat", Input: input("Keep this.")})
	if err != nil {
		return err
	}
	again, err := c.Responses.Get(ctx, r.ID, responses.ResponseGetParams{})
	if err != nil {
		return err
	}
	t.Add(again.RawJSON())
	if err := expect(again.RawJSON() == r.RawJSON(), "the response reads %s", again.RawJSON()); err != nil {
		return err
	}
	items, err := c.Responses.InputItems.List(ctx, r.ID, responses.InputItemListParams{})
	if err != nil {
		return err
	}
	t.Add(items.RawJSON())
	// The SDK's own call for this sends a body with a GET.
	var stream string
	if err := c.Get(ctx, "responses/"+r.ID, nil, &stream, option.WithQuery("stream", "true"), option.WithQuery("starting_after", "1")); err != nil {
		return err
	}
	t.Add(stream)
	if err := first(
		expect(strings.HasPrefix(stream, "event: response.output_item.added\n"), "the stream begins %.100q", stream),
		expect(strings.Contains(stream, "\nevent: response.completed\n"), "the stream has no end"),
	); err != nil {
		return err
	}
	if err := c.Responses.Delete(ctx, r.ID); err != nil {
		return err
	}
	_, err = c.Responses.Get(ctx, r.ID, responses.ResponseGetParams{})
	return expect(err != nil && strings.Contains(err.Error(), "404"), "after its end it is still there: %v", err)
}

func respondBackground(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Responses.New(ctx, responses.ResponseNewParams{Model: "mock-chat", Input: input("Take your time."), Background: openai.Bool(true)})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	if err := expect(r.Status == "queued", "status %s", r.Status); err != nil {
		return err
	}
	r, err = c.Responses.Cancel(ctx, r.ID)
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(r.Status == "cancelled", "status %s", r.Status)
}

func respondCount(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Responses.InputTokens.Count(ctx, responses.InputTokenCountParams{
		Model: openai.String("mock-chat"), Input: responses.InputTokenCountParamsInputUnion{OfString: openai.String("How long is this?")},
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(r.InputTokens > 0, "%d tokens", r.InputTokens)
}

func respondCompact(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Responses.Compact(ctx, responses.ResponseCompactParams{
		Model: "mock-chat", Input: responses.ResponseCompactParamsInputUnion{OfString: openai.String("A long conversation.")},
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(len(r.Output) == 1 && r.Usage.TotalTokens > 0, "output %+v, usage %+v", r.Output, r.Usage)
}
