package matrix

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/floway/floway/e2e/harness"
	"github.com/floway/floway/e2e/mock"
)

// upstream is a mock and what the gateway calls it.
type upstream struct {
	*harness.Upstream
	d    int
	told []mock.Entry // of the gateway's requests, since the start
}

// asked returns what the gateway asked since the last time, and forgets it.
func (u *upstream) asked(t testing.TB) (entries []mock.Entry, requests []mock.Request) {
	t.Helper()
	entries = u.Quiet(t)
	requests, err := u.Requests()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Forget(); err != nil {
		t.Fatal(err)
	}
	u.told = append(u.told, entries...)
	return entries, requests
}

// scripted is what the upstream answers to a request: the mocks give the same
// answer to the same question, so it is asked again, without a stream, and read by
// readers that have nothing in common with the gateway's.
func (u *upstream) scripted(t testing.TB, r *mock.Request) (*said, error) {
	t.Helper()
	body, uri := r.Body, r.URI
	switch u.d {
	case gem:
		uri = strings.Replace(uri, ":streamGenerateContent?alt=sse", ":generateContent", 1)
	case chat:
		body = without(body, "stream", "stream_options")
	default:
		body = without(body, "stream")
	}
	var answer []byte
	u.again(t, r, body, uri, &answer)
	return readers[u.d](answer)
}

func without(body []byte, names ...string) []byte {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		panic(err)
	}
	for _, n := range names {
		delete(all, n)
	}
	return mock.Encode(all)
}

// readers read answers of the upstreams that are no streams.
var readers = [4]func([]byte) (*said, error){readChat, readResponses, readMessages, readGemini}

func readChat(b []byte) (*said, error) {
	var r struct {
		Choices []struct {
			Message struct {
				Content, Refusal *string
				Reasoning        string `json:"reasoning_content"`
				ToolCalls        []struct {
					ID       string
					Function struct{ Name, Arguments string }
					Custom   struct{ Name, Input string }
				} `json:"tool_calls"`
			}
			Finish string `json:"finish_reason"`
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	m := r.Choices[0].Message
	a := &said{thought: m.Reasoning, end: map[string]string{"stop": "stop", "tool_calls": "tools", "length": "length", "content_filter": "filter"}[r.Choices[0].Finish]}
	if m.Content != nil {
		a.text = *m.Content
	}
	if m.Refusal != nil {
		a.refusal, a.end = *m.Refusal, "refusal"
	}
	for _, c := range m.ToolCalls {
		a.calls = append(a.calls, call{c.ID, c.Function.Name + c.Custom.Name, c.Function.Arguments + c.Custom.Input})
	}
	return a, nil
}

func readResponses(b []byte) (*said, error) {
	type part struct{ Type, Text, Refusal string }
	var r struct {
		Status  string
		Details struct{ Reason string } `json:"incomplete_details"`
		Output  []struct {
			Type, Name, Arguments, Input string
			CallID                       string `json:"call_id"`
			Encrypted                    string `json:"encrypted_content"`
			Summary, Content             []part
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	a := &said{end: "stop"}
	for _, item := range r.Output {
		switch item.Type {
		case "message":
			for _, p := range item.Content {
				a.text, a.refusal = a.text+p.Text, a.refusal+p.Refusal
			}
			if a.refusal != "" {
				a.end = "refusal"
			}
		case "reasoning":
			for _, p := range append(item.Summary, item.Content...) {
				a.thought += p.Text
			}
			a.opaque = a.opaque || item.Encrypted != ""
		default:
			a.calls, a.end = append(a.calls, call{item.CallID, item.Name, item.Arguments + item.Input}), "tools"
		}
	}
	if r.Status == "incomplete" {
		a.end = map[string]string{"max_output_tokens": "length", "content_filter": "filter"}[r.Details.Reason]
	}
	return a, nil
}

func readMessages(b []byte) (*said, error) {
	var r struct {
		Content []struct {
			Type, Text, Thinking, ID, Name string
			Input                          json.RawMessage
		}
		Stop    string                       `json:"stop_reason"`
		Details struct{ Explanation string } `json:"stop_details"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	a := &said{refusal: r.Details.Explanation, end: map[string]string{"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tools", "max_tokens": "length", "refusal": "refusal"}[r.Stop]}
	for _, c := range r.Content {
		a.text, a.thought = a.text+c.Text, a.thought+c.Thinking
		a.opaque = a.opaque || strings.Contains(c.Type, "thinking")
		if c.Type == "tool_use" {
			a.calls = append(a.calls, call{c.ID, c.Name, string(c.Input)})
		}
	}
	return a, nil
}

func readGemini(b []byte) (*said, error) {
	var r struct {
		Candidates []struct {
			Content struct {
				Parts []struct {
					Text         string
					Thought      bool
					Signature    string `json:"thoughtSignature"`
					FunctionCall *struct {
						ID, Name string
						Args     json.RawMessage
					}
				}
			}
			FinishReason string
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	a := &said{end: "filter"}
	if len(r.Candidates) == 0 {
		return a, nil
	}
	a.end = map[string]string{"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "filter"}[r.Candidates[0].FinishReason]
	for _, p := range r.Candidates[0].Content.Parts {
		a.opaque = a.opaque || p.Signature != ""
		switch {
		case p.FunctionCall != nil:
			a.calls = append(a.calls, call{p.FunctionCall.ID, p.FunctionCall.Name, string(p.FunctionCall.Args)})
		case p.Thought:
			a.thought += p.Text
		default:
			a.text += p.Text
		}
	}
	if len(a.calls) > 0 && a.end == "stop" {
		a.end = "tools"
	}
	return a, nil
}
