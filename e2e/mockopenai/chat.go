package mockopenai

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

var chatFields = fields{
	"audio": structure, "frequency_penalty": number, "function_call": anything, "functions": list,
	"logit_bias": structure, "logprobs": boolean, "max_completion_tokens": integer, "max_tokens": integer,
	"messages": list, "metadata": structure, "modalities": list, "model": text, "moderation": anything,
	"n": integer, "parallel_tool_calls": boolean, "prediction": structure, "presence_penalty": number,
	"prompt_cache_key": text, "prompt_cache_options": structure, "prompt_cache_retention": text,
	"reasoning_effort": text, "response_format": structure, "safety_identifier": text, "seed": integer,
	"service_tier": text, "stop": anything, "store": boolean, "stream": boolean, "stream_options": structure,
	"temperature": number, "tool_choice": anything, "tools": list, "top_logprobs": integer, "top_p": number,
	"user": text, "verbosity": text, "web_search_options": structure,
}

// chatRequest is what of a request decides the answer.
type chatRequest struct {
	messages  []chatMessage
	tools     []chatTool
	choice    toolChoice
	parallel  bool
	n         int
	limit     int64 // of tokens generated; 0: none
	usage     bool  // a usage chunk was asked for
	logprobs  bool
	schema    json.RawMessage // of the answer; empty: free text
	reasoning bool
}

type chatMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function *struct {
			Name      string  `json:"name"`
			Arguments *string `json:"arguments"`
		} `json:"function"`
		Custom *struct {
			Name  string  `json:"name"`
			Input *string `json:"input"`
		} `json:"custom"`
	} `json:"tool_calls"`
	FunctionCall json.RawMessage `json:"function_call"`
	Refusal      *string         `json:"refusal"`
	Audio        json.RawMessage `json:"audio"`
}

type chatTool struct {
	Type     string `json:"type"`
	Function *struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
		Strict      *bool           `json:"strict"`
	} `json:"function"`
	Custom *struct {
		Name   string          `json:"name"`
		Format json.RawMessage `json:"format"`
	} `json:"custom"`
}

func (t *chatTool) name() string {
	switch {
	case t.Function != nil:
		return t.Function.Name
	case t.Custom != nil:
		return t.Custom.Name
	}
	return ""
}

// toolChoice is none, auto, required, or the name of one tool.
type toolChoice struct{ mode, name string }

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func (s *Server) chat(x *exchange) error {
	q, err := x.chatRequest()
	if err != nil {
		return err
	}
	choices := make([]chatChoice, q.n)
	for i := range choices {
		choices[i] = x.chatChoice(q, i)
	}
	x.count(q.messages, q.tools)
	for i := range choices {
		x.Entry.Tokens.Output += choices[i].tokens
	}
	if q.reasoning || x.How.Scenario == mock.Thinking {
		x.Entry.Tokens.Reasoning = int64(8 + x.Number(3, 16))
		x.Entry.Tokens.Output += x.Entry.Tokens.Reasoning
	}
	if x.Entry.Stream {
		return x.Stream(x.chatEvents(q, choices), event{Data: streamFailure})
	}
	type message struct {
		Role        string     `json:"role"`
		Content     *string    `json:"content"`
		Refusal     *string    `json:"refusal"`
		Annotations []any      `json:"annotations"`
		ToolCalls   []toolCall `json:"tool_calls,omitempty"`

		Reasoning        string `json:"reasoning,omitempty"`
		ReasoningContent string `json:"reasoning_content,omitempty"`
	}
	type choice struct {
		Index        int     `json:"index"`
		Message      message `json:"message"`
		Logprobs     any     `json:"logprobs"`
		FinishReason string  `json:"finish_reason"`
	}
	answer := struct {
		ID                string     `json:"id"`
		Object            string     `json:"object"`
		Created           int64      `json:"created"`
		Model             string     `json:"model"`
		Choices           []choice   `json:"choices"`
		Usage             *chatUsage `json:"usage,omitempty"`
		ServiceTier       string     `json:"service_tier"`
		SystemFingerprint string     `json:"system_fingerprint"`
	}{
		ID: "chatcmpl-" + x.Digest[:24], Object: "chat.completion", Created: created, Model: x.dated(),
		ServiceTier: "default", SystemFingerprint: "fp_mock",
	}
	for i, c := range choices {
		m := message{Role: "assistant", Annotations: []any{}, ToolCalls: c.calls}
		var thought chatDelta
		x.reasoning(&thought)
		m.Reasoning, m.ReasoningContent = thought.Reasoning, thought.ReasoningContent
		switch {
		case c.refuses:
			refusal := strings.Join(c.words, "")
			m.Refusal = &refusal
		case len(c.calls) == 0:
			content := strings.Join(c.words, "")
			m.Content = &content
		}
		answer.Choices = append(answer.Choices, choice{i, m, c.logprobs(q), c.finish})
	}
	if x.How.Usage != UsageAbsent {
		answer.Usage = x.chatUsage()
	}
	return x.AnswerJSON(answer)
}

// dated is the model that answers, as the service names it: not the name asked.
func (x *exchange) dated() string {
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	return base + "-2026-06-01"
}

// streamFailure is what an older stream says before it breaks down.
var streamFailure = []byte(`{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}`)

// chatChoice is one of the answers to a question.
type chatChoice struct {
	words  []string // the text, a token each
	calls  []toolCall
	finish string
	tokens int64
	// refuses: the words say why there is no answer.
	refuses bool
}

type toolCall struct {
	ID       string        `json:"id"`
	Type     string        `json:"type"`
	Function *functionCall `json:"function,omitempty"`
	Custom   *customCall   `json:"custom,omitempty"`
}

type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

type customCall struct {
	Name  string `json:"name"`
	Input string `json:"input"`
}

func (x *exchange) chatChoice(q *chatRequest, index int) chatChoice {
	last := q.messages[len(q.messages)-1]
	called := q.chosen()
	switch x.How.Scenario {
	case mock.Refusal:
		return chatChoice{words: refusal, finish: "stop", tokens: int64(len(refusal)), refuses: true}
	case mock.Filter, mock.Length:
		words, _ := x.Say(index, q.limit)
		words = words[:(len(words)+1)/2]
		finish := map[mock.Scenario]string{mock.Filter: "content_filter", mock.Length: "length"}[x.How.Scenario]
		return chatChoice{words: words, finish: finish, tokens: int64(len(words))}
	}
	switch {
	case len(called) > 0 && last.Role != "tool":
		c := chatChoice{finish: "tool_calls"}
		if x.whole() {
			c.finish = "stop"
		}
		for i, tool := range called {
			call := toolCall{ID: x.callID(i)}
			if tool.Custom != nil {
				words, _ := x.Say(i, 0)
				call.Type, call.Custom = "custom", &customCall{tool.Custom.Name, strings.Join(words, "")}
				c.tokens += count(call.Custom.Input)
			} else {
				args := string(encode(x.Example(tool.Function.Parameters, i)))
				if args == "null" {
					args = "{}"
				}
				call.Type, call.Function = "function", &functionCall{tool.Function.Name, args}
				c.tokens += count(args)
			}
			c.calls = append(c.calls, call)
			c.tokens += 4
		}
		return c
	case len(q.schema) > 0:
		text := string(encode(x.Example(q.schema, index)))
		c := chatChoice{finish: "stop", words: pieces(text, 7)}
		c.tokens = int64(len(c.words))
		return c
	default:
		words, whole := x.Say(index, q.limit)
		c := chatChoice{finish: "stop", words: words, tokens: int64(len(words))}
		if !whole {
			c.finish = "length"
		}
		return c
	}
}

// refusal is what a model says that refuses.
var refusal = []string{"I'm ", "sorry, ", "but I ", "can't help ", "with that."}

// chosen are the tools that the answer calls: up to two, if it may call at all.
func (q *chatRequest) chosen() []chatTool {
	switch q.choice.mode {
	case "none":
		return nil
	case "named":
		i := slices.IndexFunc(q.tools, func(t chatTool) bool { return t.name() == q.choice.name })
		return q.tools[i : i+1]
	}
	n := min(len(q.tools), 2)
	if !q.parallel {
		n = min(n, 1)
	}
	return q.tools[:n]
}

func (c *chatChoice) logprobs(q *chatRequest) any {
	if !q.logprobs {
		return nil
	}
	type token struct {
		Token       string  `json:"token"`
		Logprob     float64 `json:"logprob"`
		Bytes       []int   `json:"bytes"`
		TopLogprobs []any   `json:"top_logprobs"`
	}
	tokens := make([]token, len(c.words))
	for i, w := range c.words {
		tokens[i] = token{w, -0.03125 * float64(i+1), nil, []any{}}
	}
	return map[string]any{"content": tokens, "refusal": nil}
}

type chatUsage struct {
	PromptTokens        int64 `json:"prompt_tokens"`
	CompletionTokens    int64 `json:"completion_tokens"`
	TotalTokens         int64 `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens     int64 `json:"cached_tokens"`
		CacheWriteTokens int64 `json:"cache_write_tokens"`
		AudioTokens      int64 `json:"audio_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionTokensDetails struct {
		ReasoningTokens          int64 `json:"reasoning_tokens"`
		AudioTokens              int64 `json:"audio_tokens"`
		AcceptedPredictionTokens int64 `json:"accepted_prediction_tokens"`
		RejectedPredictionTokens int64 `json:"rejected_prediction_tokens"`
	} `json:"completion_tokens_details"`
}

func (x *exchange) chatUsage() *chatUsage {
	t := &x.Entry.Tokens
	u := &chatUsage{PromptTokens: t.Prompt(), CompletionTokens: t.Output, TotalTokens: t.Prompt() + t.Output}
	u.PromptTokensDetails.CachedTokens = t.CacheRead
	u.PromptTokensDetails.CacheWriteTokens = t.CacheWrite
	u.CompletionTokensDetails.ReasoningTokens = t.Reasoning
	return u
}

// part is u in the middle of an answer that has said so much.
func (u *chatUsage) part(said int64) *chatUsage {
	v := *u
	v.CompletionTokens = min(said, u.CompletionTokens)
	v.TotalTokens = v.PromptTokens + v.CompletionTokens
	v.CompletionTokensDetails.ReasoningTokens = 0
	return &v
}

type chatDelta struct {
	Role      string          `json:"role,omitempty"`
	Content   *string         `json:"content,omitempty"`
	Refusal   json.RawMessage `json:"refusal,omitempty"`
	ToolCalls []deltaCall     `json:"tool_calls,omitempty"`

	// Of compatible servers.
	Reasoning        string `json:"reasoning,omitempty"`
	ReasoningContent string `json:"reasoning_content,omitempty"`
}

type deltaCall struct {
	Index    int            `json:"index"`
	ID       string         `json:"id,omitempty"`
	Type     string         `json:"type,omitempty"`
	Function *deltaFunction `json:"function,omitempty"`
	Custom   *deltaCustom   `json:"custom,omitempty"`
}

type deltaFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type deltaCustom struct {
	Name  string `json:"name,omitempty"`
	Input string `json:"input"`
}

// chatEvents is the stream of an answer: the choices one after the other, the
// fragments of parallel calls in turns.
func (x *exchange) chatEvents(q *chatRequest, choices []chatChoice) []event {
	type choice struct {
		Index        int       `json:"index"`
		Delta        chatDelta `json:"delta"`
		Logprobs     any       `json:"logprobs"`
		FinishReason *string   `json:"finish_reason"`
	}
	type chunk struct {
		ID                string           `json:"id"`
		Object            string           `json:"object"`
		Created           int64            `json:"created"`
		Model             string           `json:"model"`
		ServiceTier       string           `json:"service_tier"`
		SystemFingerprint string           `json:"system_fingerprint"`
		Choices           []choice         `json:"choices"`
		Usage             *json.RawMessage `json:"usage,omitempty"`
		Obfuscation       string           `json:"obfuscation,omitempty"`
	}
	var (
		events []event
		full   = x.chatUsage()
		said   int64
	)
	emit := func(choices []choice, usage any, last bool) {
		c := chunk{ID: "chatcmpl-" + x.Digest[:24], Object: "chat.completion.chunk", Created: created, Model: x.dated(), ServiceTier: "default", SystemFingerprint: "fp_mock", Choices: choices, Obfuscation: "Zm9v"[:1+len(events)%4]}
		if q.usage || usage != nil {
			raw := json.RawMessage(encode(usage))
			c.Usage = &raw
		}
		events = append(events, event{Data: encode(c), Last: last, Told: usage != nil})
	}
	delta := func(index int, d chatDelta, finish *string) {
		var usage any
		switch {
		case x.unasked() && finish != nil:
			usage = full
		case !q.usage:
		case x.How.Usage == UsageEvery && finish == nil:
			usage = full.part(said)
		case (x.How.Usage == UsageEvery || x.How.Usage == UsageLast && finish != nil) && index == len(choices)-1:
			usage = full
		}
		emit([]choice{{Index: index, Delta: d, FinishReason: finish}}, usage, finish != nil)
	}
	for i, c := range choices {
		empty := ""
		first := chatDelta{Role: "assistant", Refusal: json.RawMessage("null")}
		if len(c.calls) == 0 {
			first.Content = &empty
		}
		delta(i, first, nil)
		var thought chatDelta
		if x.reasoning(&thought) {
			delta(i, thought, nil)
		}
		for _, w := range c.words {
			said++
			if c.refuses {
				delta(i, chatDelta{Refusal: encode(w)}, nil)
			} else {
				delta(i, chatDelta{Content: &w}, nil)
			}
		}
		for _, d := range fragments(c.calls, x.whole()) {
			said++
			delta(i, chatDelta{ToolCalls: []deltaCall{d}}, nil)
		}
		delta(i, chatDelta{}, &c.finish)
	}
	if q.usage && x.How.Usage != UsageAbsent && x.How.Usage != UsageLast {
		if x.How.Usage == UsageTwice {
			emit([]choice{}, full.part(full.CompletionTokens/2), true)
		}
		emit([]choice{}, full, true)
	}
	return append(events, done)
}

// fragments cuts calls into the deltas of a stream: all begin, then their
// arguments come in turns; or each comes whole.
func fragments(calls []toolCall, whole bool) []deltaCall {
	var (
		all  []deltaCall
		rest = make([][]string, len(calls))
	)
	for i, c := range calls {
		d := deltaCall{Index: i, ID: c.ID, Type: c.Type}
		if c.Custom != nil {
			d.Custom = &deltaCustom{Name: c.Custom.Name}
			rest[i] = pieces(c.Custom.Input, 5)
		} else {
			d.Function = &deltaFunction{Name: c.Function.Name}
			if rest[i] = pieces(c.Function.Arguments, 5); whole {
				d.Function.Arguments, rest[i] = c.Function.Arguments, nil
			}
		}
		all = append(all, d)
	}
	for more := true; more; {
		more = false
		for i, c := range calls {
			if len(rest[i]) == 0 {
				continue
			}
			piece := rest[i][0]
			rest[i] = rest[i][1:]
			d := deltaCall{Index: i}
			if c.Custom != nil {
				d.Custom = &deltaCustom{Input: piece}
			} else {
				d.Function = &deltaFunction{Arguments: piece}
			}
			all = append(all, d)
			more = true
		}
	}
	return all
}

// count enters the tokens of a prompt.
func (x *exchange) count(messages []chatMessage, tools []chatTool) {
	n := int64(3)
	for _, m := range messages {
		n += 3 + count(string(m.Content))
		for _, c := range m.ToolCalls {
			if c.Function != nil && c.Function.Arguments != nil {
				n += count(*c.Function.Arguments)
			}
		}
	}
	for _, t := range tools {
		if t.Function != nil {
			n += 7 + count(t.Function.Description) + count(string(t.Function.Parameters))
		}
	}
	x.prompt(n)
}
