package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/floway/floway/e2e/anthropiccalls"
	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mockopenai"
	"github.com/floway/floway/e2e/openaicalls"
)

// vendor starts a compatible service and a gateway in front of it.
func vendor(t *testing.T, name string) (*harness.Upstream, *harness.Gateway) {
	mock := harness.StartVendor(t, name)
	c := oneKey(mock)
	c.Floway = strings.NewReplacer("upstream openai mock", "upstream "+name+" mock", "MOCK/v1", "MOCK"+mockopenai.Vendors[name].Base).Replace(c.Floway)
	return mock, harness.StartGateway(t, c)
}

// Each compatible service, as strict as it is, serves what clients of OpenAI's SDK
// send, and what is translated for those of Anthropic's, streamed or not; and the
// account has what the service has.
func TestVendors(t *testing.T) {
	for name := range mockopenai.Vendors {
		t.Run(name, func(t *testing.T) {
			mock, gateway := vendor(t, name)
			chat := openaicalls.Client(gateway.URL+"/v1", alice)
			messages := anthropiccalls.Client(gateway.URL, alice)
			n := 0
			for _, stream := range []bool{false, true} {
				for what, ask := range map[string]func() error{
					"chat":               func() error { return askChat(t.Context(), chat, stream) },
					"tools":              func() error { return useTools(t.Context(), chat, stream, mockopenai.Vendors[name].Back) },
					"messages":           func() error { return askMessages(t.Context(), messages, stream) },
					"tools of messages":  func() error { return useMessageTools(t.Context(), messages, stream) },
					"thought and answer": func() error { return thinkOfMessages(t.Context(), messages, stream, mockopenai.Vendors[name]) },
				} {
					if err := ask(); err != nil {
						t.Errorf("%s, stream: %v: %v", what, stream, err)
					}
				}
				n += 7 // tools take two requests
			}
			if !t.Failed() {
				checkCounts(t, gateway, mock, n)
			}
		})
	}
}

// askChat asks as OpenAI's newest models want it.
func askChat(ctx context.Context, c *openai.Client, stream bool) error {
	p := openai.ChatCompletionNewParams{
		Model: "mock-chat", MaxCompletionTokens: openai.Int(50), Seed: openai.Int(7),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.DeveloperMessage("Be brief."), openai.UserMessage("Where does the river run?")},
	}
	m, err := completion(ctx, c, p, stream)
	switch {
	case err != nil:
		return err
	case m.Message.Content == "" || m.FinishReason != "stop":
		return fmt.Errorf("the answer is %+v", m)
	}
	return nil
}

func completion(ctx context.Context, c *openai.Client, p openai.ChatCompletionNewParams, stream bool) (*openai.ChatCompletionChoice, error) {
	if !stream {
		m, err := c.Chat.Completions.New(ctx, p)
		if err != nil {
			return nil, err
		}
		return &m.Choices[0], nil
	}
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	var all openai.ChatCompletionAccumulator
	s := c.Chat.Completions.NewStreaming(ctx, p)
	defer s.Close()
	for s.Next() {
		chunk := s.Current()
		if chunk.ID == "" {
			continue // of Azure's filter: the accumulator takes it for another answer's
		}
		if !all.AddChunk(chunk) {
			return nil, fmt.Errorf("a chunk does not fit: %s", chunk.RawJSON())
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if all.Usage.TotalTokens == 0 {
		return nil, fmt.Errorf("no usage")
	}
	return &all.Choices[0], nil
}

var schema = map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}

// useTools calls a tool and answers the call. A call of another service's went
// before.
func useTools(ctx context.Context, c *openai.Client, stream, back bool) error {
	p := openai.ChatCompletionNewParams{
		Model: "mock-chat",
		Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "weather", Parameters: schema})},
		Messages: []openai.ChatCompletionMessageParamUnion{
			openai.UserMessage("How is the weather?"),
			called("call_of-another-service-1", "weather", "{}", back), openai.ToolMessage("unknown", "call_of-another-service-1"), openai.UserMessage("Again."),
		},
	}
	m, err := completion(ctx, c, p, stream)
	if err != nil {
		return err
	}
	if len(m.Message.ToolCalls) != 1 || !json.Valid([]byte(m.Message.ToolCalls[0].Function.Arguments)) {
		return fmt.Errorf("the calls are %+v", m)
	}
	call := m.Message.ToolCalls[0]
	p.Messages = append(p.Messages, called(call.ID, call.Function.Name, call.Function.Arguments, back), openai.ToolMessage("sunny", call.ID))
	if m, err = completion(ctx, c, p, stream); err != nil {
		return err
	}
	if m.Message.Content == "" {
		return fmt.Errorf("the answer is %+v", m)
	}
	return nil
}

// called is a turn that calls. With back it has the reasoning that DeepSeek wants,
// as its own clients send it.
func called(id, name, arguments string, back bool) openai.ChatCompletionMessageParamUnion {
	turn := openai.ChatCompletionAssistantMessageParam{ToolCalls: []openai.ChatCompletionMessageToolCallUnionParam{{
		OfFunction: &openai.ChatCompletionMessageFunctionToolCallParam{ID: id, Function: openai.ChatCompletionMessageFunctionToolCallFunctionParam{Name: name, Arguments: arguments}},
	}}}
	if back {
		turn.SetExtraFields(map[string]any{"reasoning_content": ""})
	}
	return openai.ChatCompletionMessageParamUnion{OfAssistant: &turn}
}

func message(ctx context.Context, c *anthropic.Client, p anthropic.MessageNewParams, stream bool) (*anthropic.Message, error) {
	var t anthropiccalls.Tape
	if stream {
		return anthropiccalls.Stream(ctx, c, &t, p)
	}
	return anthropiccalls.Complete(ctx, c, &t, p)
}

func askMessages(ctx context.Context, c *anthropic.Client, stream bool) error {
	p := anthropiccalls.Ask("mock-chat", "Where does the river run?")
	p.Temperature, p.Metadata = anthropic.Float(0.5), anthropic.MetadataParam{UserID: anthropic.String("someone")}
	p.ServiceTier = anthropic.MessageNewParamsServiceTierAuto
	m, err := message(ctx, c, p, stream)
	switch {
	case err != nil:
		return err
	case len(m.Content) != 1 || m.Content[0].Text == "" || m.StopReason != "end_turn" || m.Usage.InputTokens == 0:
		return fmt.Errorf("the message is %+v", m)
	}
	return nil
}

func useMessageTools(ctx context.Context, c *anthropic.Client, stream bool) error {
	p := anthropiccalls.Ask("mock-chat", "How is the weather?")
	p.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: schema["properties"]}}}}
	m, err := message(ctx, c, p, stream)
	if err != nil {
		return err
	}
	if len(m.Content) != 1 || m.Content[0].Name != "weather" || m.StopReason != "tool_use" {
		return fmt.Errorf("the message is %+v", m)
	}
	p.Messages = append(p.Messages, m.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(m.Content[0].ID, "sunny", false)))
	if m, err = message(ctx, c, p, stream); err != nil {
		return err
	}
	if len(m.Content) != 1 || m.Content[0].Text == "" || m.StopReason != "end_turn" {
		return fmt.Errorf("the message is %+v", m)
	}
	return nil
}

// thinkOfMessages asks a model that thinks. Where Messages is spoken natively, it is
// the service's own.
func thinkOfMessages(ctx context.Context, c *anthropic.Client, stream bool, v *mockopenai.Vendor) error {
	p := anthropiccalls.Ask("mock-chat+thinking", "Why?")
	p.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
	m, err := message(ctx, c, p, stream)
	if err != nil {
		return err
	}
	thought, said := "", ""
	for _, b := range m.Content {
		thought, said = thought+b.Thinking, said+b.Text
	}
	if said == "" || thought == "" && (v.Messages != "" || v.Reasoning != "") {
		return fmt.Errorf("the message is %+v", m)
	}
	return nil
}

// What only Ollama knows passes as it came, its models are found without their tag,
// and its Messages and Responses are used as they are.
func TestOllama(t *testing.T) {
	mock := harness.StartVendor(t, "ollama")
	c := oneKey(mock)
	// Without names of its own an upstream serves what it lists.
	c.Floway = strings.NewReplacer("upstream openai mock", "upstream ollama mock", "MOCK/v1", "MOCK", "models *\n", "\n").Replace(c.Floway)
	gateway := harness.StartGateway(t, c)
	harness.Eventually(t, func() error {
		if a := do(t, "GET", gateway.URL+"/v1/models/mock-chat:latest", nil, "Authorization", "Bearer "+alice); a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	body := chat("mock-chat", "hi", `,"keep_alive":"10m","options":{"num_ctx":32768},"think":false`)
	if a := post(t, gateway.URL+"/v1/chat/completions", alice, body); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if last := mock.Last(t); string(last.Body) != body {
		t.Errorf("sent %s, want %s", last.Body, body)
	}
	path := func() string { return mock.Last(t).URI }
	messages := anthropiccalls.Client(gateway.URL, alice)
	if err := askMessages(t.Context(), messages, true); err != nil || path() != "/v1/messages" {
		t.Errorf("messages, at %s: %v", path(), err)
	}
	if a := do(t, "POST", gateway.URL+"/v1/messages", []byte(`{"model":"mock-chat","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`),
		"X-Api-Key", alice, "Content-Type", "application/json", "Anthropic-Version", "2023-01-01"); a.status != 200 {
		t.Errorf("an old version: %d %s", a.status, a.body)
	}
	r, err := openaicalls.Client(gateway.URL+"/v1", alice).Responses.New(t.Context(), responses.ResponseNewParams{
		Model: "mock-chat", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hi")},
	})
	if err != nil || r.OutputText() == "" || path() != "/v1/responses" {
		t.Errorf("responses, at %s: %v", path(), err)
	}
	// It counts no tokens.
	count, err := messages.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
		Model: "mock-chat", Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hello world"))},
	})
	if err != nil || count.InputTokens < 2 || count.InputTokens > 20 {
		t.Errorf("counted %+v, %v", count, err)
	}
	// A model that is not there.
	_, err = openaicalls.Client(gateway.URL+"/v1", alice).Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "nothing", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
	})
	if e := exception(t, err); e.Status != 404 || e.Code != "model_not_found" {
		t.Errorf("%+v", e)
	}
	if a := do(t, "GET", gateway.Admin+"/floway/models", nil); !strings.Contains(string(a.body), `{"model":"mock-chat:latest","served_by":[{"upstream":"mock","name":"mock-chat:latest","rule":"listed","native":["chat",`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
