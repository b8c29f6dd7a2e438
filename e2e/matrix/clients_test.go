package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	anthropicparam "github.com/anthropics/anthropic-sdk-go/packages/param"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/respjson"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"

	"github.com/floway/floway/e2e/mock"
)

// The dialects, in the order of all tables here.
const (
	chat = iota
	resp
	msgs
	gem
)

var dialects = [4]string{"chat", "responses", "messages", "gemini"}

// said is an answer in no dialect.
type said struct {
	text, thought, refusal string
	calls                  []call
	end                    string // stop, tools, length, filter, refusal
	used                   used
	// opaque says that the answer carries reasoning which only its maker can read.
	opaque bool
	// turn is what the client puts into its history for it: an array of items for
	// Responses, one object for the rest.
	turn   json.RawMessage
	tier   string
	header http.Header
}

type call struct{ id, name, args string }

// used is what an answer says it used: prompt with what the cache gave and got,
// output with the reasoning.
type used struct{ prompt, read, written, output, reasoning int64 }

func usedOf(t *mock.Tokens) used {
	return used{t.Prompt(), t.CacheRead, t.CacheWrite + t.CacheWrite1h, t.Output, t.Reasoning}
}

// raised is what an SDK throws.
type raised struct {
	status int // 0: no answer of the server's
	text   string
	header http.Header
}

func (r *raised) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

// asker sends a request in JSON by its SDK.
type asker func(ctx context.Context, url, key, model string, body []byte, stream bool) (*said, error)

var askers = [4]asker{askChat, askResponses, askMessages, askGemini}

// with sets a member of a JSON object.
func with(body []byte, name string, value any) []byte {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		panic(fmt.Sprintf("%v: %s", err, body))
	}
	all[name] = mock.Encode(value)
	return mock.Encode(all)
}

func openAI(url, key string, header *http.Header) *openai.Client {
	c := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0),
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			resp, err := next(r)
			if err == nil {
				*header = resp.Header
			}
			return resp, err
		}))
	return &c
}

func raisedByOpenAI(err error) error {
	var e *openai.Error
	if errors.As(err, &e) {
		return &raised{e.StatusCode, e.RawJSON(), e.Response.Header}
	}
	return &raised{text: err.Error()}
}

func extra(f map[string]respjson.Field, name string) string {
	var s string
	if v, ok := f[name]; ok {
		_ = json.Unmarshal([]byte(v.Raw()), &s)
	}
	return s
}

func askChat(ctx context.Context, url, key, model string, body []byte, stream bool) (*said, error) {
	a := new(said)
	c := openAI(url, key, &a.header)
	body = with(body, "model", model)
	var r openai.ChatCompletion
	var opaque string
	customs := map[int64][2]string{} // free text, which the accumulator leaves out
	if stream {
		body = with(body, "stream_options", map[string]bool{"include_usage": true})
		s := c.Chat.Completions.NewStreaming(ctx, param.Override[openai.ChatCompletionNewParams](json.RawMessage(body)))
		defer s.Close()
		var (
			all  openai.ChatCompletionAccumulator
			told openai.CompletionUsage
			n    int
		)
		for s.Next() {
			chunk := s.Current()
			if !all.AddChunk(chunk) {
				return nil, fmt.Errorf("the SDK does not understand the chunk %s", chunk.RawJSON())
			}
			if chunk.Usage.TotalTokens > 0 {
				told = chunk.Usage // of which the accumulator forgets some
			}
			for _, ch := range chunk.Choices {
				for _, c := range ch.Delta.ToolCalls {
					var free struct{ Custom struct{ Name, Input string } }
					_ = json.Unmarshal([]byte(c.RawJSON()), &free)
					customs[c.Index] = [2]string{customs[c.Index][0] + free.Custom.Name, customs[c.Index][1] + free.Custom.Input}
				}
				if n == 0 && ch.Delta.Role != "assistant" {
					return nil, fmt.Errorf("the first chunk has no role: %s", chunk.RawJSON())
				}
				n++
				a.thought += extra(ch.Delta.JSON.ExtraFields, "reasoning_content")
				opaque += extra(ch.Delta.JSON.ExtraFields, "reasoning_opaque")
			}
		}
		if err := s.Err(); err != nil {
			return nil, raisedByOpenAI(err)
		}
		r = all.ChatCompletion
		r.Usage = told
	} else {
		got, err := c.Chat.Completions.New(ctx, param.Override[openai.ChatCompletionNewParams](json.RawMessage(body)))
		if err != nil {
			return nil, raisedByOpenAI(err)
		}
		r = *got
	}
	if len(r.Choices) != 1 || r.Choices[0].FinishReason == "" || !strings.HasPrefix(r.ID, "chatcmpl-") {
		return nil, fmt.Errorf("the completion is %+v", r)
	}
	m := r.Choices[0].Message
	a.text, a.refusal, a.tier = m.Content, m.Refusal, string(r.ServiceTier)
	if !stream {
		a.thought, opaque = extra(m.JSON.ExtraFields, "reasoning_content"), extra(m.JSON.ExtraFields, "reasoning_opaque")
	}
	turn, err := json.Marshal(m.ToParam())
	if err != nil {
		return nil, err
	}
	if opaque != "" {
		a.opaque = true
		turn = with(with(turn, "reasoning_content", a.thought), "reasoning_opaque", opaque)
	}
	a.turn = turn
	for i, t := range m.ToolCalls {
		free := customs[int64(i)]
		a.calls = append(a.calls, call{t.ID, t.Function.Name + t.Custom.Name + free[0], t.Function.Arguments + t.Custom.Input + free[1]})
	}
	u := r.Usage
	if u.TotalTokens != u.PromptTokens+u.CompletionTokens {
		return nil, fmt.Errorf("usage does not add up: %+v", u)
	}
	written := u.PromptTokensDetails.CacheWriteTokens
	a.used = used{u.PromptTokens, u.PromptTokensDetails.CachedTokens, written, u.CompletionTokens, u.CompletionTokensDetails.ReasoningTokens}
	a.end = map[string]string{"stop": "stop", "tool_calls": "tools", "length": "length", "content_filter": "filter"}[r.Choices[0].FinishReason]
	if a.end == "stop" && a.refusal != "" {
		a.end = "refusal"
	}
	return a, nil
}

func askResponses(ctx context.Context, url, key, model string, body []byte, stream bool) (*said, error) {
	a := new(said)
	c := openAI(url, key, &a.header)
	p := param.Override[responses.ResponseNewParams](json.RawMessage(with(body, "model", model)))
	var r *responses.Response
	if stream {
		s := c.Responses.NewStreaming(ctx, p)
		defer s.Close()
		var (
			n    int64
			open = map[string]bool{}
			text = map[string]string{}
		)
		for s.Next() {
			e := s.Current()
			if e.SequenceNumber != n {
				return nil, fmt.Errorf("event %d has the number %d", n, e.SequenceNumber)
			}
			n++
			switch {
			case e.Type == "response.output_item.added":
				open[e.Item.ID] = true
			case e.Type == "response.output_item.done":
				if !open[e.Item.ID] {
					return nil, fmt.Errorf("item %s is done and was never announced", e.Item.ID)
				}
				delete(open, e.Item.ID)
			case strings.HasSuffix(e.Type, ".delta"):
				if !open[e.ItemID] {
					return nil, fmt.Errorf("%s for item %s, which is not open", e.Type, e.ItemID)
				}
				text[e.Type] += e.Delta
			case e.Type == "response.completed", e.Type == "response.incomplete":
				done := e.Response
				r = &done
			case e.Type == "response.failed":
				return nil, &raised{text: e.RawJSON()}
			}
		}
		if err := s.Err(); err != nil {
			return nil, raisedByOpenAI(err)
		}
		if r == nil || len(open) > 0 {
			return nil, fmt.Errorf("the stream has no end, or items are open: %v", open)
		}
		if text["response.output_text.delta"] != r.OutputText() {
			return nil, fmt.Errorf("the deltas say %q, the end says %q", text["response.output_text.delta"], r.OutputText())
		}
	} else {
		var err error
		if r, err = c.Responses.New(ctx, p); err != nil {
			return nil, raisedByOpenAI(err)
		}
	}
	if !strings.HasPrefix(r.ID, "resp_") {
		return nil, fmt.Errorf("the id is %q", r.ID)
	}
	a.text, a.tier = r.OutputText(), string(r.ServiceTier)
	var items []json.RawMessage
	for _, item := range r.Output {
		switch item.Type {
		case "reasoning":
			t := item.AsReasoning()
			for _, part := range t.Summary {
				a.thought += part.Text
			}
			for _, part := range t.Content {
				a.thought += part.Text
			}
			a.opaque = a.opaque || t.EncryptedContent != ""
			items = append(items, mock.Encode(t.ToParam()))
		case "message":
			m := item.AsMessage()
			for _, part := range m.Content {
				a.refusal += part.Refusal
			}
			items = append(items, mock.Encode(m.ToParam()))
		case "function_call":
			f := item.AsFunctionCall()
			a.calls = append(a.calls, call{f.CallID, f.Name, f.Arguments})
			items = append(items, mock.Encode(f.ToParam()))
		case "custom_tool_call":
			f := item.AsCustomToolCall()
			a.calls = append(a.calls, call{f.CallID, f.Name, f.Input})
			items = append(items, mock.Encode(f.ToParam()))
		default:
			return nil, fmt.Errorf("an item of the type %s", item.Type)
		}
	}
	a.turn = mock.Encode(items)
	u := r.Usage
	if u.TotalTokens != u.InputTokens+u.OutputTokens {
		return nil, fmt.Errorf("usage does not add up: %+v", u)
	}
	a.used = used{u.InputTokens, u.InputTokensDetails.CachedTokens, u.InputTokensDetails.CacheWriteTokens, u.OutputTokens, u.OutputTokensDetails.ReasoningTokens}
	switch {
	case r.Status == "incomplete" && r.IncompleteDetails.Reason == "max_output_tokens":
		a.end = "length"
	case r.Status == "incomplete" && r.IncompleteDetails.Reason == "content_filter":
		a.end = "filter"
	case r.Status != "completed":
		return nil, fmt.Errorf("the status is %s", r.Status)
	case a.refusal != "":
		a.end = "refusal"
	case len(a.calls) > 0:
		a.end = "tools"
	default:
		a.end = "stop"
	}
	return a, nil
}

func claude(url, key string, header *http.Header) *anthropic.Client {
	c := anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey(key), anthropicoption.WithMaxRetries(0),
		anthropicoption.WithMiddleware(func(r *http.Request, next anthropicoption.MiddlewareNext) (*http.Response, error) {
			resp, err := next(r)
			if err == nil {
				*header = resp.Header
			}
			return resp, err
		}))
	return &c
}

func raisedByAnthropic(err error) error {
	var e *anthropic.Error
	if errors.As(err, &e) {
		return &raised{e.StatusCode, e.RawJSON(), e.Response.Header}
	}
	return &raised{text: err.Error()}
}

func askMessages(ctx context.Context, url, key, model string, body []byte, stream bool) (*said, error) {
	a := new(said)
	c := claude(url, key, &a.header)
	p := anthropicparam.Override[anthropic.MessageNewParams](json.RawMessage(with(body, "model", model)))
	beta := anthropicoption.WithHeader("anthropic-beta", "mid-conversation-system-2026-04-07,context-management-2025-06-27")
	m := new(anthropic.Message)
	if stream {
		s := c.Messages.NewStreaming(ctx, p, beta)
		defer s.Close()
		open, next := int64(-1), int64(0)
		for s.Next() {
			e := s.Current()
			switch e.Type {
			case "content_block_start":
				if open >= 0 || e.Index != next {
					return nil, fmt.Errorf("block %d begins while block %d is open", e.Index, open)
				}
				open, next = e.Index, next+1
			case "content_block_stop", "content_block_delta":
				if e.Index != open {
					return nil, fmt.Errorf("%s of block %d while block %d is open", e.Type, e.Index, open)
				}
				if e.Type == "content_block_stop" {
					open = -1
				}
			}
			if err := m.Accumulate(e); err != nil {
				return nil, err
			}
		}
		if err := s.Err(); err != nil {
			return nil, raisedByAnthropic(err)
		}
	} else {
		var err error
		if m, err = c.Messages.New(ctx, p, beta); err != nil {
			return nil, raisedByAnthropic(err)
		}
	}
	if m.StopReason == "" || !strings.HasPrefix(m.ID, "msg_") {
		return nil, fmt.Errorf("the message is %+v", m)
	}
	for _, b := range m.Content {
		switch b.Type {
		case "text":
			a.text += b.Text
		case "thinking":
			a.thought += b.Thinking
			a.opaque = a.opaque || b.Signature != ""
		case "redacted_thinking":
			a.opaque = true
		case "tool_use":
			a.calls = append(a.calls, call{b.ID, b.Name, string(b.Input)})
		default:
			return nil, fmt.Errorf("a block of the type %s", b.Type)
		}
	}
	a.turn = mock.Encode(m.ToParam())
	u := m.Usage
	written := u.CacheCreationInputTokens
	a.tier = string(u.ServiceTier)
	a.used = used{u.InputTokens + u.CacheReadInputTokens + written, u.CacheReadInputTokens, written, u.OutputTokens, u.OutputTokensDetails.ThinkingTokens}
	a.end = map[anthropic.StopReason]string{"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tools", "max_tokens": "length", "refusal": "refusal"}[m.StopReason]
	a.refusal = m.StopDetails.Explanation
	return a, nil
}

func google(ctx context.Context, url, key string, header *http.Header) (*genai.Client, error) {
	return genai.NewClient(ctx, &genai.ClientConfig{
		APIKey: key, Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: url},
		HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				*header = resp.Header
			}
			return resp, err
		})},
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// googleRequest is a request in JSON as the SDK wants it: what is not content is
// its configuration, of which generationConfig is no part of its own.
func googleRequest(body []byte) (contents []*genai.Content, config *genai.GenerateContentConfig, err error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(all["contents"], &contents); err != nil {
		return nil, nil, err
	}
	delete(all, "contents")
	if inner, ok := all["generationConfig"]; ok {
		delete(all, "generationConfig")
		if err := json.Unmarshal(inner, &all); err != nil {
			return nil, nil, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(mock.Encode(all)))
	d.DisallowUnknownFields()
	return contents, config, d.Decode(&config)
}

func raisedByGoogle(err error, header http.Header) error {
	var e genai.APIError
	if errors.As(err, &e) {
		return &raised{e.Code, string(mock.Encode(e)), header}
	}
	return &raised{text: err.Error()}
}

func askGemini(ctx context.Context, url, key, model string, body []byte, stream bool) (*said, error) {
	a := new(said)
	c, err := google(ctx, url, key, &a.header)
	if err != nil {
		return nil, err
	}
	contents, config, err := googleRequest(body)
	if err != nil {
		return nil, err
	}
	var r *genai.GenerateContentResponse
	finishes := 0
	if stream {
		for piece, err := range c.Models.GenerateContentStream(ctx, model, contents, config) {
			if err != nil {
				return nil, raisedByGoogle(err, a.header)
			}
			if len(piece.Candidates) > 0 && piece.Candidates[0].FinishReason != "" {
				finishes++
			}
			switch {
			case r == nil:
				r = piece
				continue
			case len(piece.Candidates) > 0 && len(r.Candidates) == 0:
				r.Candidates = piece.Candidates
			case len(piece.Candidates) > 0:
				r.Candidates[0].FinishReason = piece.Candidates[0].FinishReason
				if more := piece.Candidates[0].Content; more != nil {
					if r.Candidates[0].Content == nil {
						r.Candidates[0].Content = &genai.Content{Role: "model"}
					}
					r.Candidates[0].Content.Parts = append(r.Candidates[0].Content.Parts, more.Parts...)
				}
			}
			if piece.UsageMetadata != nil {
				r.UsageMetadata = piece.UsageMetadata
			}
			if piece.PromptFeedback != nil {
				r.PromptFeedback = piece.PromptFeedback
			}
		}
		if r == nil {
			return nil, errors.New("the stream is empty")
		}
	} else {
		if r, err = c.Models.GenerateContent(ctx, model, contents, config); err != nil {
			return nil, raisedByGoogle(err, a.header)
		}
		if len(r.Candidates) > 0 && r.Candidates[0].FinishReason != "" {
			finishes++
		}
	}
	reason := genai.FinishReason("")
	if len(r.Candidates) > 0 {
		reason = r.Candidates[0].FinishReason
		turn := &genai.Content{Role: "model"}
		if content := r.Candidates[0].Content; content != nil {
			for _, p := range content.Parts {
				switch {
				case p.FunctionCall != nil:
					args := p.FunctionCall.Args
					if args == nil {
						args = map[string]any{}
					}
					a.calls = append(a.calls, call{p.FunctionCall.ID, p.FunctionCall.Name, string(mock.Encode(args))})
				case p.Thought:
					a.thought += p.Text
				default:
					a.text += p.Text
				}
				a.opaque = a.opaque || len(p.ThoughtSignature) > 0
				if p.Text != "" || p.FunctionCall != nil || len(p.ThoughtSignature) > 0 {
					turn.Parts = append(turn.Parts, p)
				}
			}
		}
		a.turn = mock.Encode(turn)
	}
	u := r.UsageMetadata
	if u == nil {
		return nil, errors.New("there is no usage")
	}
	if u.TotalTokenCount != u.PromptTokenCount+u.CandidatesTokenCount+u.ThoughtsTokenCount+u.ToolUsePromptTokenCount {
		return nil, fmt.Errorf("usage does not add up: %+v", u)
	}
	a.used = used{int64(u.PromptTokenCount + u.ToolUsePromptTokenCount), int64(u.CachedContentTokenCount), 0, int64(u.CandidatesTokenCount + u.ThoughtsTokenCount), int64(u.ThoughtsTokenCount)}
	switch {
	case r.PromptFeedback != nil && r.PromptFeedback.BlockReason != "" && len(r.Candidates) == 0:
		a.end = "filter"
	case finishes != 1:
		return nil, fmt.Errorf("there are %d reasons to finish", finishes)
	case reason == "STOP" && len(a.calls) > 0:
		a.end = "tools"
	default:
		a.end = map[genai.FinishReason]string{"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "filter"}[reason]
	}
	return a, nil
}
