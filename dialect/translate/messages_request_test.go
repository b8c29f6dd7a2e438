package translate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/floway/floway/dialect"
)

// readMessage reads a body of the Messages API.
func readMessage(t testing.TB, body string) *Conversation {
	t.Helper()
	c, err := tryMessage([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return c
}

func tryMessage(body []byte) (*Conversation, error) {
	req := dialect.Request{Call: dialect.Call{Op: dialect.CreateMessage}, Body: body}
	if err := req.Read(); err != nil {
		return nil, err
	}
	return Read(&req)
}

// messageOptions ask an upstream of the name up.
func messageOptions(model string) *Options {
	return &Options{Upstream: "up", Model: model, NewID: func() string { return "new" }}
}

// writeMessage writes a conversation for a model of Messages and lets a strict
// service look at it.
func writeMessage(t testing.TB, c *Conversation, model string) (*Request, map[string]any) {
	t.Helper()
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Write(dialect.Messages, messageOptions(model))
	if err != nil {
		t.Fatal(err)
	}
	if err := strictMessages(r.Body); err != nil {
		t.Fatalf("a strict service refuses %s: %v", r.Body, err)
	}
	var body map[string]any
	if err := json.Unmarshal(r.Body, &body); err != nil {
		t.Fatal(err)
	}
	return r, body
}

// messagesEqual compares two values by what they say.
func messagesEqual(t testing.TB, what string, got any, want string) {
	t.Helper()
	if raw, ok := got.([]byte); ok {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Errorf("%s: %v in %s", what, err, raw)
			return
		}
		got = v
	}
	var wanted any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatalf("%s: %v in %s", what, err, want)
	}
	if !reflect.DeepEqual(got, wanted) {
		spelled, _ := json.Marshal(got)
		t.Errorf("%s: got\n%s, want\n%s", what, spelled, want)
	}
}

// strictMessages refuses what the service refuses.
func strictMessages(body []byte) error {
	type mark struct {
		Type, TTL string
	}
	type block struct {
		Type, Text, ID, Name, Thinking, Signature, Data, Title string
		Input                                                  json.RawMessage
		ToolUseID                                              string `json:"tool_use_id"`
		Content                                                json.RawMessage
		IsError                                                bool `json:"is_error"`
		Source                                                 *struct {
			Type, Data, URL string
			MediaType       string `json:"media_type"`
		}
		CacheControl *mark `json:"cache_control"`
	}
	var r struct {
		Model     string
		MaxTokens *int64 `json:"max_tokens"`
		Stream    bool
		System    []block
		Messages  []struct {
			Role    string
			Content []block
		}
		Tools []struct {
			Name, Description string
			InputSchema       struct {
				Type string
			} `json:"-"`
			Schema       json.RawMessage `json:"input_schema"`
			Strict       bool
			CacheControl *mark `json:"cache_control"`
		}
		ToolChoice *struct {
			Type, Name string
			Serial     bool `json:"disable_parallel_tool_use"`
		} `json:"tool_choice"`
		Thinking *struct {
			Type, Display string
			Budget        int64 `json:"budget_tokens"`
		}
		OutputConfig *struct {
			Effort string
			Format *struct {
				Type   string
				Schema json.RawMessage
			}
		} `json:"output_config"`
		StopSequences []string `json:"stop_sequences"`
		Temperature   *float64
		TopP          *float64 `json:"top_p"`
		TopK          *int64   `json:"top_k"`
		Metadata      *struct {
			UserID string `json:"user_id"`
		}
		ServiceTier       string          `json:"service_tier"`
		Speed             string          `json:"speed"`
		InferenceGeo      string          `json:"inference_geo"`
		Container         json.RawMessage `json:"container"`
		MCPServers        json.RawMessage `json:"mcp_servers"`
		ContextManagement json.RawMessage `json:"context_management"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return err
	}
	if r.MaxTokens == nil || *r.MaxTokens <= 0 {
		return errors.New("max_tokens: field required")
	}
	marks, short := 0, false
	look := func(m *mark) error {
		if m == nil {
			return nil
		}
		if marks++; marks > 4 || m.Type != "ephemeral" || m.TTL == "1h" && short {
			return fmt.Errorf("cache_control %+v", *m)
		}
		short = short || m.TTL != "1h"
		return nil
	}
	name := regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)
	names := map[string]bool{}
	for _, tool := range r.Tools {
		names[tool.Name] = true
		var schema struct{ Type any }
		if err := json.Unmarshal(tool.Schema, &schema); err != nil || schema.Type != "object" || !name.MatchString(tool.Name) {
			return fmt.Errorf("tool %q with %s: %v", tool.Name, tool.Schema, err)
		}
		if err := look(tool.CacheControl); err != nil {
			return err
		}
	}
	forced := false
	if c := r.ToolChoice; c != nil {
		if forced = c.Type == "any" || c.Type == "tool"; len(r.Tools) == 0 || c.Type == "tool" && !names[c.Name] || c.Serial && c.Type == "none" {
			return fmt.Errorf("tool_choice %+v", *c)
		}
	}
	for _, b := range r.System {
		if b.Type != "text" || strings.TrimSpace(b.Text) == "" {
			return fmt.Errorf("system %+v", b)
		}
		if err := look(b.CacheControl); err != nil {
			return err
		}
	}
	thinks := r.Thinking != nil && r.Thinking.Type != "disabled"
	if thinks && forced {
		return errors.New("thinking may not be enabled when tool_choice forces tool use")
	}
	if thinks && r.Thinking.Type == "enabled" && (r.Thinking.Budget < 1024 || r.Thinking.Budget >= *r.MaxTokens) {
		return fmt.Errorf("budget_tokens %d of %d", r.Thinking.Budget, *r.MaxTokens)
	}
	var open []string
	for i, m := range r.Messages {
		switch {
		case i == 0 && m.Role != "user", i > 0 && m.Role == r.Messages[i-1].Role, len(m.Content) == 0,
			m.Role == "system" && r.Messages[i-1].Role != "user":
			return fmt.Errorf("messages[%d]: role %s with %d blocks", i, m.Role, len(m.Content))
		}
		var calls []string
		for j, b := range m.Content {
			var wrong bool
			switch b.Type {
			case "text":
				wrong = strings.TrimSpace(b.Text) == ""
			case "thinking":
				wrong = m.Role != "assistant" || b.Signature == "" || strings.HasPrefix(b.Signature, sealMark)
			case "redacted_thinking":
				wrong = m.Role != "assistant" || b.Data == "" || strings.HasPrefix(b.Data, sealMark)
			case "tool_use":
				wrong = m.Role != "assistant" || !name.MatchString(b.ID) || !name.MatchString(b.Name) || len(b.Input) == 0 || b.Input[0] != '{'
				calls = append(calls, b.ID)
			case "tool_result":
				wrong = m.Role != "user" || j >= len(open) || !slices.Contains(open, b.ToolUseID)
			case "image":
				wrong = m.Role != "user" || b.Source.Type == "base64" && !regexp.MustCompile(`^image/(jpeg|png|gif|webp)$`).MatchString(b.Source.MediaType)
			case "document":
				wrong = m.Role != "user" || b.Source.Type == "base64" && b.Source.MediaType != "application/pdf"
			default:
				wrong = true
			}
			if wrong {
				return fmt.Errorf("messages[%d].content[%d]: %+v", i, j, b)
			}
			if err := look(b.CacheControl); err != nil {
				return err
			}
		}
		if m.Role == "system" {
			continue
		}
		answered := 0
		for _, b := range m.Content {
			if b.Type == "tool_result" {
				answered++
			}
		}
		if answered != len(open) {
			return fmt.Errorf("messages[%d]: %d results of %d calls", i, answered, len(open))
		}
		open = calls
	}
	if len(r.Messages) == 0 || len(open) > 0 {
		return errors.New("messages: empty, or calls without results")
	}
	return nil
}

// userSays is a conversation of one turn.
func userSays(from dialect.Dialect, text string) *Conversation {
	return &Conversation{
		From: from, Asked: "public",
		Turns: []Turn{{Role: User, Field: "messages[0]", Parts: []Part{{Kind: Text, Text: text, Field: "messages[0].content"}}}},
	}
}

// What the codec knows is the same after reading and writing.
func TestMessagesRoundTrip(t *testing.T) {
	body := `{"model":"public","max_tokens":2000,"stream":true,
	"system":[{"type":"text","text":"Be kind."},{"type":"text","text":"Be short.","cache_control":{"type":"ephemeral","ttl":"1h"}}],
	"tools":[
	  {"name":"look","description":"Looks.","input_schema":{"$schema":"x","type":"object","properties":{"z":{"const":1.0},"a":{}},"required":["z"]},"strict":true},
	  {"type":"custom","name":"write","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral","ttl":"1h"}}],
	"tool_choice":{"type":"auto","disable_parallel_tool_use":true},
	"messages":[
	  {"role":"user","content":"Hello"},
	  {"role":"system","content":"Now whisper."},
	  {"role":"assistant","content":[
	    {"type":"text","text":"Looking."},
	    {"type":"tool_use","id":"toolu_1","name":"look","input":{"z":1.50,"a":[]}},
	    {"type":"tool_use","id":"toolu_2","name":"write","input":{}}]},
	  {"role":"user","content":[
	    {"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"seen"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]},
	    {"type":"tool_result","tool_use_id":"toolu_2","is_error":true,"cache_control":{"type":"ephemeral"}},
	    {"type":"image","source":{"type":"url","url":"https://x.example/a.png"}},
	    {"type":"document","title":"paper","source":{"type":"base64","media_type":"application/pdf","data":"JVBERg=="}},
	    {"type":"document","source":{"type":"url","url":"https://x.example/a.pdf"}},
	    {"type":"document","source":{"type":"text","media_type":"text/plain","data":"plain text"}},
	    {"type":"text","text":"Go on.","cache_control":{"type":"ephemeral"}}]}],
	"thinking":{"type":"adaptive","display":"omitted"},
	"output_config":{"effort":"xhigh","format":{"type":"json_schema","schema":{"type":"object","b":1,"a":2}}},
	"stop_sequences":["END","STOP"],
	"metadata":{"user_id":"{\"device\":\"d\"}"},
	"service_tier":"standard_only","speed":"fast","inference_geo":"us",
	"container":"c_1","mcp_servers":[{"type":"url","url":"https://x.example","name":"m"}],
	"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}`
	r, got := writeMessage(t, readMessage(t, body), "claude-opus-5")
	if len(r.Dropped) > 0 {
		t.Errorf("dropped %q", r.Dropped)
	}
	// A text alone and a list with it mean the same.
	want := strings.NewReplacer(
		`"content":"Hello"`, `"content":[{"type":"text","text":"Hello"}]`,
		`"content":"Now whisper."`, `"content":[{"type":"text","text":"Now whisper."}]`,
		`"type":"custom",`, ``,
		`"model":"public"`, `"model":"claude-opus-5"`).Replace(body)
	messagesEqual(t, "the request", got, want)
	for _, kept := range []string{`{"$schema":"x","type":"object","properties":{"z":{"const":1.0},"a":{}},"required":["z"]}`, `{"z":1.50,"a":[]}`, `{"type":"object","b":1,"a":2}`} {
		if !bytes.Contains(r.Body, []byte(kept)) {
			t.Errorf("%s is spelled differently in %s", kept, r.Body)
		}
	}
	// And once more: the conversation was not changed.
	again, err := r.c.Write(dialect.Messages, messageOptions("claude-opus-5"))
	if err != nil || !bytes.Equal(again.Body, r.Body) {
		t.Errorf("written again it is %s, %v", again.Body, err)
	}
}

// The sampling fields and the budget are those of older models.
func TestMessagesRoundTripOfOlderModels(t *testing.T) {
	body := `{"model":"claude-3-7-sonnet-20250219","max_tokens":9000,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],` +
		`"temperature":0.70,"top_p":0.9,"top_k":40,"service_tier":"auto"}`
	r, got := writeMessage(t, readMessage(t, body), "claude-3-7-sonnet-20250219")
	messagesEqual(t, "sampling", got, body)
	if !bytes.Contains(r.Body, []byte(`"temperature":0.70`)) {
		t.Errorf("the number is spelled anew in %s", r.Body)
	}
	body = `{"model":"claude-sonnet-4-5","max_tokens":9000,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"thinking":{"type":"enabled","budget_tokens":2000}}`
	_, got = writeMessage(t, readMessage(t, body), "claude-sonnet-4-5")
	messagesEqual(t, "budget", got, body)
}

func TestReadMessages(t *testing.T) {
	truth := true
	for name, tt := range map[string]struct {
		body string // the members besides model, max_tokens and a message
		want func(c *Conversation) any
		is   any
	}{
		"system text":       {`"system":"Be kind."`, func(c *Conversation) any { return c.System }, []Part{{Kind: Text, Text: "Be kind.", Field: "system"}}},
		"system blocks":     {`"system":[{"text":"a","type":"text","cache_control":{"type":"ephemeral"}}]`, func(c *Conversation) any { return c.System }, []Part{{Kind: Text, Text: "a", Cache: "5m", Field: "system[0]"}}},
		"any":               {`"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"}`, func(c *Conversation) any { return c.Choice }, Choice{Mode: Required, Field: "tool_choice"}},
		"tool":              {`"tool_choice":{"type":"tool","name":"f"},"tools":[{"name":"f","input_schema":{}}]`, func(c *Conversation) any { return c.Choice }, Choice{Mode: Required, Only: []string{"f"}, Field: "tool_choice"}},
		"none":              {`"tool_choice":{"type":"none"}`, func(c *Conversation) any { return c.Choice.Mode }, None},
		"tool's members":    {`"tools":[{"name":"f","description":"d","strict":true,"input_schema":{"a":1},"cache_control":{"type":"ephemeral","ttl":"1h"}}]`, func(c *Conversation) any { return c.Tools }, []Tool{{Name: "f", Description: "d", Strict: &truth, Schema: []byte(`{"a":1}`), Cache: "1h", Field: "tools[0]"}}},
		"budget":            {`"thinking":{"type":"enabled","budget_tokens":4000}`, func(c *Conversation) any { return c.Reasoning }, Reasoning{Budget: 4000, Visible: true, Sealed: true, Field: "thinking"}},
		"adaptive":          {`"thinking":{"type":"adaptive"}`, func(c *Conversation) any { return c.Reasoning }, Reasoning{Adaptive: true, Visible: true, Sealed: true, Field: "thinking"}},
		"between tools":     {`"thinking":{"type":"between_tools"}`, func(c *Conversation) any { return c.Reasoning }, Reasoning{Adaptive: true, Visible: true, Sealed: true, Field: "thinking"}},
		"omitted":           {`"thinking":{"type":"adaptive","display":"omitted"}`, func(c *Conversation) any { return c.Reasoning.Visible }, false},
		"no thinking":       {`"thinking":{"type":"disabled"}`, func(c *Conversation) any { return c.Reasoning }, Reasoning{Effort: "none", Field: "thinking"}},
		"effort":            {`"output_config":{"effort":"max"}`, func(c *Conversation) any { return c.Reasoning }, Reasoning{Effort: "max", Field: "output_config.effort"}},
		"both":              {`"thinking":{"type":"disabled"},"output_config":{"effort":"low"}`, func(c *Conversation) any { return c.Reasoning.Effort }, "low"},
		"old format":        {`"output_format":{"type":"json_schema","schema":{"a":1}}`, func(c *Conversation) any { return c.Format }, Format{Kind: SchemaFormat, Schema: []byte(`{"a":1}`), Field: "output_format"}},
		"format":            {`"output_config":{"format":{"schema":{"a":1},"type":"json_schema"}}`, func(c *Conversation) any { return c.Format }, Format{Kind: SchemaFormat, Schema: []byte(`{"a":1}`), Field: "output_config.format"}},
		"nulls":             {`"system":null,"tools":null,"tool_choice":null,"thinking":null,"output_config":{"format":null,"effort":null},"output_format":null,"metadata":{"user_id":null},"stop_sequences":null,"temperature":null,"thread":null,"container":null,"mcp_servers":null,"cache_control":null,"service_tier":null,"new_thing":null`, func(c *Conversation) any { return c.used }, []usedField(nil)},
		"no servers":        {`"mcp_servers":[]`, func(c *Conversation) any { return c.used }, []usedField(nil)},
		"unknown":           {`"new_thing":{"a":1}`, func(c *Conversation) any { return c.used }, []usedField{{unknownField, "new_thing"}}},
		"betas":             {`"betas":["a"],"diagnostics":{}`, func(c *Conversation) any { return c.used }, []usedField{{unknownField, "betas"}, {unknownField, "diagnostics"}}},
		"compaction":        {`"compaction":{"type":"x"}`, func(c *Conversation) any { return c.used }, []usedField{{serverState, "compaction"}}},
		"top cache mark":    {`"cache_control":{"type":"ephemeral"}`, func(c *Conversation) any { return c.Turns[0].Parts[0].Cache }, "5m"},
		"tier":              {`"service_tier":"standard_only"`, func(c *Conversation) any { return c.Tier }, "default"},
		"only fills caches": {`"max_tokens":0`, func(c *Conversation) any { return c.MaxTokens }, int64(1)},
		"typed tools": {
			`"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":3},{"type":"bash_20250124","name":"bash"},{"name":"text","type":"text_editor_20250728"},{"type":"computer_20250124","name":"computer","display_width_px":1}]`,
			func(c *Conversation) any { return c.used },
			[]usedField{{hostedTool, "tools[0]"}, {hostedTool, "tools[1]"}, {hostedTool, "tools[2]"}, {hostedTool, "tools[3]"}},
		},
		"forced typed tool": {
			`"tools":[{"type":"web_search_20250305","name":"web_search"}],"tool_choice":{"type":"tool","name":"web_search"}`,
			func(c *Conversation) any { return c.used[1] },
			usedField{forcedHostedTool, "tool_choice"},
		},
		"serial": {
			`"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"auto","disable_parallel_tool_use":true}`,
			func(c *Conversation) any { return []any{c.Serial, c.used[0]} },
			[]any{true, usedField{serialCalls, "tool_choice.disable_parallel_tool_use"}},
		},
		"billing line": {
			`"system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2; cch=8f3;"},{"type":"text","text":"You are"}]`,
			func(c *Conversation) any { return []any{c.System[0].Text, c.used[0]} },
			[]any{"You are", usedField{unknownField, "system[0]"}},
		},
		"escapes": {`"system":"a\"\\\u00e9\ud83d\ude00\n"`, func(c *Conversation) any { return c.System[0].Text }, "a\"\\é😀\n"},
	} {
		c := readMessage(t, `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}],`+tt.body+`}`)
		if got := tt.want(c); !reflect.DeepEqual(got, tt.is) {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.is)
		}
	}
}

// Blocks of the user's and of the assistant's, whatever the order of their members.
func TestReadMessagesBlocks(t *testing.T) {
	envelope := seal(&State{Maker: dialect.Gemini, Upstream: "g", Data: "sig"})
	for name, tt := range map[string]struct {
		role, blocks string
		want         []Part
		used         []usedField
	}{
		"text": {"user", `{"type":"text","text":"a","citations":null}`, []Part{{Kind: Text, Text: "a"}}, nil},
		"citations": {
			"user", `{"text":"a","citations":[{"type":"x"}],"type":"text"}`,
			[]Part{{Kind: Text, Text: "a"}},
			[]usedField{{citations, "messages[1].content[0].citations"}},
		},
		"file": {
			"user", `{"type":"image","source":{"type":"file","file_id":"f_1"}}`,
			[]Part{{Kind: Image, Media: &Media{ID: "f_1"}}},
			[]usedField{{fileID, "messages[1].content[0].source"}},
		},
		"image by address": {
			"user", `{"source":{"url":"http://x","type":"url"},"type":"image"}`,
			[]Part{{Kind: Image, Media: &Media{URL: "http://x"}}},
			[]usedField{{imageURL, "messages[1].content[0]"}},
		},
		"document of blocks": {
			"user",
			`{"type":"document","title":"T","context":"C","citations":{"enabled":true},"source":{"type":"content","content":[{"type":"text","text":"one"},{"type":"text","text":"two"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}}`,
			[]Part{{Kind: Text, Text: "C"}, {Kind: File, Media: &Media{Type: "text/plain", Plain: "one\n\ntwo", Name: "T"}}, {Kind: Image, Media: &Media{Type: "image/png", Data: "AA=="}}},
			[]usedField{{citations, "messages[1].content[0].citations"}, {documentText, "messages[1].content[0]"}},
		},
		"document of text": {
			"user", `{"type":"document","source":{"type":"content","content":"one"}}`,
			[]Part{{Kind: File, Media: &Media{Type: "text/plain", Plain: "one"}}},
			[]usedField{{documentText, "messages[1].content[0]"}},
		},
		"search result": {
			"user", `{"type":"search_result","content":[{"type":"text","text":"found"}],"source":"https://s","title":"T"}`,
			[]Part{{Kind: Text, Text: "T\nhttps://s\n\nfound"}},
			[]usedField{{documentText, "messages[1].content[0]"}},
		},
		"native signature": {"assistant", `{"type":"thinking","thinking":"hm","signature":"EqQB"}`, []Part{{Kind: Thought, Text: "hm", State: State{Maker: dialect.Messages, Data: "EqQB"}}}, nil},
		"redacted":         {"assistant", `{"type":"redacted_thinking","data":"xyz"}`, []Part{{Kind: Thought, State: State{Maker: dialect.Messages, Data: "xyz", Redacted: true}}}, nil},
		"envelope": {
			"assistant", `{"type":"thinking","thinking":"","signature":"` + seal(&State{Maker: dialect.Responses, Upstream: "o", ID: "rs_1", Data: "enc"}) + `"},{"type":"text","text":"a"}`,
			[]Part{{Kind: Thought, State: State{Maker: dialect.Responses, Upstream: "o", ID: "rs_1", Data: "enc"}}, {Kind: Text, Text: "a"}},
			nil,
		},
		"damaged envelope": {"assistant", `{"type":"thinking","thinking":"hm","signature":"fw1.zz"}`, []Part{{Kind: Thought, Text: "hm"}}, nil},
		"a call's own state": {
			"assistant", `{"type":"thinking","thinking":"","signature":"` + envelope + `"},{"type":"tool_use","id":"t1","name":"f","input":{}}`,
			[]Part{{Kind: Call, Call: &ToolCall{ID: "t1", Name: "f", Arguments: "{}"}, State: State{Maker: dialect.Gemini, Upstream: "g", Data: "sig"}}},
			nil,
		},
		"call": {
			"assistant", `{"input": {"b": 1.0, "a": "x y"} ,"name":"f","id":"fwid_Zm9vOjE","type":"tool_use","caller":{"type":"direct"}}`,
			[]Part{{Kind: Call, Call: &ToolCall{ID: "foo:1", Name: "f", Arguments: `{"b":1.0,"a":"x y"}`}}},
			nil,
		},
		"service's own": {
			"assistant", `{"type":"server_tool_use","id":"s","name":"web_search","input":{}},{"type":"web_search_tool_result","tool_use_id":"s","content":{"type":"error"}},{"type":"text","text":"a"}`,
			[]Part{{Kind: Text, Text: "a"}},
			[]usedField{{hostedItem, "messages[1].content[0]"}, {hostedItem, "messages[1].content[1]"}},
		},
		"compaction": {"assistant", `{"content":"before","type":"compaction"}`, []Part{{Kind: Text, Text: "before"}}, nil},
	} {
		body := `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"},{"content":[` + tt.blocks + `],"role":"` + tt.role + `"}]}`
		c := readMessage(t, body)
		if !reflect.DeepEqual(c.used, tt.used) {
			t.Errorf("%s: used %v, want %v", name, c.used, tt.used)
		}
		got := c.Turns[1].Parts
		for i := range got {
			if !strings.HasPrefix(got[i].Field, "messages[1].content[") {
				t.Errorf("%s: part %d says it is %s", name, i, got[i].Field)
			}
			got[i].Field = ""
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestReadMessagesToolResults(t *testing.T) {
	c := readMessage(t, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"},
	{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"tool_use","id":"b","name":"g","input":{}}]},
	{"role":"user","content":[{"type":"text","text":"first"},
	 {"content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AA=="}}],"tool_use_id":"b","type":"tool_result"},
	 {"type":"tool_result","tool_use_id":"a","content":"oops","is_error":true}]}]}`)
	parts := c.Turns[2].Parts
	if len(parts) != 3 || parts[2].Text != "first" {
		t.Fatalf("got %+v", parts)
	}
	b, a := parts[0], parts[1]
	if b.Result.ID != "b" || b.Result.Name != "g" || len(b.Result.Parts) != 2 || b.Result.Parts[1].Kind != File || b.Cache != "5m" || b.Result.Parts[0].Cache != "" {
		t.Errorf("got %+v with %+v", b, b.Result)
	}
	if a.Result.Name != "f" || !a.Result.Failed || a.Result.Parts[0].Text != "oops" {
		t.Errorf("got %+v", a.Result)
	}
}

// Whatever is wrong is a 400 that names the field.
func TestReadMessagesRefuses(t *testing.T) {
	turn := `{"role":"user","content":"hi"}`
	for body, param := range map[string]string{
		`{"model":"m","messages":[` + turn + `]}`:                                   "max_tokens",
		`{"model":"m","max_tokens":null,"messages":[` + turn + `]}`:                 "max_tokens",
		`{"model":"m","max_tokens":-1,"messages":[` + turn + `]}`:                   "max_tokens",
		`{"model":"m","max_tokens":"10","messages":[` + turn + `]}`:                 "max_tokens",
		`{"model":"m","max_tokens":1.5,"messages":[` + turn + `]}`:                  "max_tokens",
		`{"model":"m","max_tokens":10}`:                                             "messages",
		`{"model":"m","max_tokens":10,"messages":null}`:                             "messages",
		`{"model":"m","max_tokens":10,"messages":[]}`:                               "messages",
		`{"model":"m","max_tokens":10,"messages":{}}`:                               "messages",
		`{"model":"m","max_tokens":10,"messages":["x"]}`:                            "messages[0]",
		`{"model":"m","max_tokens":10,"messages":[{"content":"x"}]}`:                "messages[0].role",
		`{"model":"m","max_tokens":10,"messages":[{"role":"tool","content":"x"}]}`:  "messages[0].role",
		`{"model":"m","max_tokens":10,"messages":[{"role":"user"}]}`:                "messages[0].content",
		`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":null}]}`: "messages[0].content",
		`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":7}]}`:    "messages[0].content",
	} {
		refusesMessage(t, body, param)
	}
	for blocks, param := range map[string]string{
		`{"text":"a"}`:                                             "messages[0].content[0].type",
		`{"type":"video","x":1}`:                                   "messages[0].content[0].type",
		`{"type":"text","text":1}`:                                 "messages[0].content[0].text",
		`{"type":"text","text":"a"},7`:                             "messages[0].content[1]",
		`{"type":"image"}`:                                         "messages[0].content[0].source",
		`{"type":"image","source":{}}`:                             "messages[0].content[0].source",
		`{"type":"image","source":{"type":"url"}}`:                 "messages[0].content[0].source",
		`{"type":"document"}`:                                      "messages[0].content[0].source",
		`{"type":"tool_use","id":"a","name":"f","input":{}}`:       "messages[0].content[0]",
		`{"type":"thinking","thinking":"a","signature":"b"}`:       "messages[0].content[0]",
		`{"type":"tool_result","content":"a"}`:                     "messages[0].content[0].tool_use_id",
		`{"type":"tool_result","tool_use_id":"a","content":"a"}`:   "messages[0].content[0]",
		`{"type":"tool_result","tool_use_id":"a","is_error":"no"}`: "messages[0].content[0].is_error",
		`{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_result","tool_use_id":"b"}]}`:                                                                   "messages[0].content[0].content[0]",
		`{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_result","tool_use_id":"b","content":[{"type":"tool_result","tool_use_id":"b","content":[]}]}]}`: "messages[0].content[0].content[0].content[0].content",
	} {
		refusesMessage(t, `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":[`+blocks+`]}]}`, param)
	}
	for blocks, param := range map[string]string{
		`{"type":"tool_use","name":"f","input":{}}`:                         "messages[1].content[0].id",
		`{"type":"tool_use","id":"a","input":{}}`:                           "messages[1].content[0].name",
		`{"type":"tool_use","id":"a","name":"f","input":"{}"}`:              "messages[1].content[0].input",
		`{"type":"tool_use","id":"a","name":"f","input":{"a" 1}}`:           "messages[1].content[0].input",
		`{"type":"image","source":{"type":"url","url":"http://x.example"}}`: "messages[1].content[0]",
	} {
		refusesMessage(t, `{"model":"m","max_tokens":10,"messages":[`+turn+`,{"role":"assistant","content":[`+blocks+`]}]}`, param)
	}
	for member, param := range map[string]string{
		`"system":7`: "system",
		`"system":[{"type":"image","source":{"type":"url","url":"u"}}]`: "system[0]",
		`"temperature":"hot"`:                                "temperature",
		`"temperature":1x`:                                   "temperature",
		`"stop_sequences":"END"`:                             "stop_sequences",
		`"stop_sequences":[1]`:                               "stop_sequences[0]",
		`"metadata":"x"`:                                     "metadata",
		`"thinking":{"type":"hard"}`:                         "thinking.type",
		`"thinking":{"type":"enabled"}`:                      "thinking.budget_tokens",
		`"thinking":{"type":"enabled","budget_tokens":1000}`: "thinking.budget_tokens",
		`"thinking":true`:                                    "thinking",
		`"output_config":{"effort":"none"}`:                  "output_config.effort",
		`"output_config":{"effort":"huge"}`:                  "output_config.effort",
		`"output_config":{"format":{"type":"text"}}`:         "output_config.format.type",
		`"output_format":{"type":"json_schema"}`:             "output_format.schema",
		`"tools":{}`:                                         "tools",
		`"tools":[{"input_schema":{}}]`:                      "tools[0].name",
		`"tools":[{"name":"f"}]`:                             "tools[0].input_schema",
		`"tools":[{"name":"f","input_schema":"x"}]`:          "tools[0].input_schema",
		`"tool_choice":"auto"`:                               "tool_choice",
		`"tool_choice":{"type":"some"}`:                      "tool_choice.type",
		`"tool_choice":{"type":"tool"}`:                      "tool_choice.name",
		`"tool_choice":{"type":"tool","name":"gone"}`:        "tool_choice.name",
	} {
		refusesMessage(t, `{"model":"m","max_tokens":10,"messages":[`+turn+`],`+member+`}`, param)
	}
}

func refusesMessage(t *testing.T, body, param string) {
	t.Helper()
	_, err := tryMessage([]byte(body))
	var b *dialect.BadRequest
	if !errors.As(err, &b) || b.Param != param || b.Message == "" {
		t.Errorf("%s: %#v, want one about %s", body, err, param)
	}
}

// Clients with a thread at the service go on without it only after this error,
// also when what they sent is no whole history.
func TestThreadIsRefusedWithDetails(t *testing.T) {
	for _, messages := range []string{
		`[{"role":"user","content":"hi"}]`,
		`[]`,
		`[{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"x"}]}]`,
	} {
		c := readMessage(t, `{"model":"m","max_tokens":10,"messages":`+messages+`,"thread":{"type":"create"}}`)
		for _, to := range []dialect.Dialect{dialect.Chat, dialect.Responses, dialect.Gemini} {
			_, err := c.Write(to, messageOptions("x"))
			var b *dialect.BadRequest
			if !errors.As(err, &b) || b.Param != "thread" {
				t.Fatalf("%v", err)
			}
			e := dialect.Error{Fault: dialect.Malformed, Message: b.Message, Param: b.Param, Details: b.Details}
			body := string(e.Body(dialect.Messages))
			if !strings.Contains(body, `"details":{"error_code":"thread_unsupported_request","unsupported":["thread"]}`) {
				t.Errorf("the client gets %s", body)
			}
		}
	}
}

// claudeCode is a body like those of Claude Code.
func claudeCode() string {
	var tools []string
	for i := range 24 {
		tools = append(tools, fmt.Sprintf(`{"name":"Tool%d","description":"Does \"things\".\n%s","input_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"path":{"type":"string","pattern":"^/"},"n":{"type":"integer","exclusiveMinimum":0},"m":{"type":"object","propertyNames":{"type":"string"},"additionalProperties":{}},"k":{"const":"x"}},"required":["path"],"additionalProperties":false}}`, i, strings.Repeat("About it. ", 60)))
	}
	return `{"model":"claude-sonnet-5","max_tokens":32000,"stream":true,
	"system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.197; cch=00000;"},{"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral"}},{"type":"text","text":"` + strings.Repeat(`Rules.\n`, 500) + `","cache_control":{"type":"ephemeral","ttl":"1h","scope":"global"}}],
	"thinking":{"type":"adaptive"},"output_config":{"effort":"high"},
	"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},
	"metadata":{"user_id":"{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"s\"}"},
	"messages":[
	 {"role":"user","content":[{"type":"text","text":"<system-reminder>x</system-reminder>"},{"type":"text","text":"List the files."}]},
	 {"role":"system","content":"The date is now."},
	 {"role":"assistant","content":[{"type":"thinking","thinking":"Let me","signature":"EqQBnative"},{"type":"text","text":"Listing."},{"type":"tool_use","id":"toolu_01","name":"Tool3","input":{"path":"/"}}]},
	 {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_01","content":"a\nb","is_error":false,"cache_control":{"type":"ephemeral"}}]}],
	"tools":[` + strings.Join(tools, ",") + `]}`
}

func TestClaudeCodeNeverFails(t *testing.T) {
	c := readMessage(t, claudeCode())
	for _, to := range []dialect.Dialect{dialect.Chat, dialect.Responses, dialect.Messages, dialect.Gemini} {
		r := &Request{c: c, to: to}
		if err := r.applyRules(); err != nil {
			t.Errorf("%v: %v", to, err)
		}
		if to == dialect.Chat && !reflect.DeepEqual(r.Dropped, []string{"cache_control", "system[0]", "context_management"}) {
			t.Errorf("dropped %q", r.Dropped)
		}
	}
	for _, model := range []string{"claude-opus-5", "claude-sonnet-4-5", "claude-3-5-haiku-latest", "qwen3"} {
		writeMessage(t, c, model)
	}
	if len(c.Tools) != 24 || !c.Reasoning.Visible || c.Reasoning.Effort != "high" || len(c.Turns) != 4 {
		t.Errorf("%d tools, %d turns, %+v", len(c.Tools), len(c.Turns), c.Reasoning)
	}
}

func TestWriteMessages(t *testing.T) {
	f := Tool{Name: "f", Field: "tools[0]"}
	g := Tool{Name: "g", Field: "tools[1]"}
	for name, tt := range map[string]struct {
		change  func(c *Conversation)
		model   string
		member  string
		want    string
		dropped []string
	}{
		"default bound":          {func(c *Conversation) {}, "claude-opus-5", "max_tokens", `32000`, nil},
		"bound of a small model": {func(c *Conversation) { c.MaxTokens = 20000 }, "anthropic.claude-3-5-sonnet-20241022-v2:0", "max_tokens", `8192`, []string{"max_completion_tokens"}},
		"its default":            {func(c *Conversation) {}, "claude-3-haiku-20240307", "max_tokens", `4096`, nil},
		"warm":                   {func(c *Conversation) { c.Temperature = "1.7"; c.use(temperature, "temperature") }, "claude-3-7-sonnet", "temperature", `1`, []string{"temperature"}},
		"warm for a new one":     {func(c *Conversation) { c.Temperature = "0.2"; c.use(temperature, "temperature") }, "claude-opus-4.7", "temperature", `null`, []string{"temperature"}},
		"as warm as anyway":      {func(c *Conversation) { c.Temperature, c.TopP = "1.0", "1" }, "claude-sonnet-5-5", "temperature", `null`, nil},
		"top_p and temperature":  {func(c *Conversation) { c.Temperature, c.TopP = "0.5", "0.5"; c.use(topP, "top_p") }, "claude-haiku-4-5", "top_p", `null`, []string{"top_p"}},
		"top_p alone":            {func(c *Conversation) { c.TopP = "0.5" }, "claude-haiku-4-5", "top_p", `0.5`, nil},
		"top_k":                  {func(c *Conversation) { c.TopK = "5"; c.use(topK, "top_k") }, "claude-opus-5", "top_k", `null`, []string{"top_k"}},
		"other vendors are warm": {func(c *Conversation) { c.Temperature = "0.3" }, "kimi-k2", "temperature", `0.3`, nil},
		"no tools, no choice":    {func(c *Conversation) { c.Choice = Choice{Mode: Required, Field: "tool_choice"} }, "claude-opus-5", "tool_choice", `null`, []string{"tool_choice"}},
		"auto":                   {func(c *Conversation) { c.Tools, c.Choice.Mode = []Tool{f}, Auto }, "claude-opus-5", "tool_choice", `{"type":"auto"}`, nil},
		"any":                    {func(c *Conversation) { c.Tools, c.Choice.Mode = []Tool{f}, Required }, "claude-opus-5", "tool_choice", `{"type":"any"}`, nil},
		"none":                   {func(c *Conversation) { c.Tools, c.Choice.Mode, c.Serial = []Tool{f}, None, true }, "claude-opus-5", "tool_choice", `{"type":"none"}`, nil},
		"serial":                 {func(c *Conversation) { c.Tools, c.Serial = []Tool{f}, true }, "claude-opus-5", "tool_choice", `{"type":"auto","disable_parallel_tool_use":true}`, nil},
		"one tool":               {func(c *Conversation) { c.Tools, c.Choice = []Tool{f, g}, Choice{Mode: Required, Only: []string{"g"}} }, "claude-opus-5", "tool_choice", `{"type":"tool","name":"g"}`, nil},
		"a custom one": {func(c *Conversation) {
			c.Tools, c.Choice = []Tool{{Name: "f", Custom: true}}, Choice{Mode: Required, Only: []string{"f"}}
		}, "claude-opus-5", "tool_choice", `{"type":"tool","name":"f"}`, nil},
		"tool without schema": {func(c *Conversation) { c.Tools = []Tool{{Name: "f", Cache: "1h"}} }, "claude-opus-5", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral","ttl":"1h"}}]`, nil},
		"schema without type": {func(c *Conversation) {
			c.Tools = []Tool{{Name: "f", Cache: "5m", Schema: []byte(` { "properties":{}}`)}}
		}, "claude-opus-5", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral"}}]`, nil},
		"empty schema": {func(c *Conversation) { c.Tools = []Tool{{Name: "f", Cache: "5m", Schema: []byte(`{}`)}} }, "claude-opus-5", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral"}}]`, nil},
		"free text":    {func(c *Conversation) { c.Tools = []Tool{{Name: "f", Cache: "5m", Custom: true, Description: "d"}} }, "claude-opus-5", "tools", `[{"name":"f","description":"d","input_schema":` + string(wrapSchema()) + `,"cache_control":{"type":"ephemeral"}}]`, nil},
		"namespace":    {func(c *Conversation) { c.Tools = []Tool{{Name: "f", Cache: "5m", Space: "ns"}} }, "claude-opus-5", "tools", `[{"name":"ns_f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral"}}]`, nil},
		"strict":       {func(c *Conversation) { yes := true; c.Tools = []Tool{{Name: "f", Cache: "5m", Strict: &yes}} }, "claude-opus-5", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"strict":true,"cache_control":{"type":"ephemeral"}}]`, nil},
		"strict for an old one": {func(c *Conversation) {
			yes := true
			c.Tools = []Tool{{Name: "f", Cache: "5m", Strict: &yes, Field: "tools[0]"}}
		}, "claude-sonnet-4-20250514", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral"}}]`, []string{"tools[0].strict"}},
		"not strict":               {func(c *Conversation) { no := false; c.Tools = []Tool{{Name: "f", Cache: "5m", Strict: &no}} }, "claude-opus-5", "tools", `[{"name":"f","input_schema":{"type":"object","properties":{}},"cache_control":{"type":"ephemeral"}}]`, nil},
		"json object":              {func(c *Conversation) { c.Format = Format{Kind: JSONFormat} }, "claude-opus-5", "system", `[{"type":"text","text":"` + jsonInstruction + `","cache_control":{"type":"ephemeral"}}]`, nil},
		"schema":                   {func(c *Conversation) { c.Format = Format{Kind: SchemaFormat, Name: "n", Schema: []byte(`{"a":1}`)} }, "claude-opus-5", "output_config", `{"format":{"type":"json_schema","schema":{"a":1}}}`, nil},
		"user":                     {func(c *Conversation) { c.EndUser = "user_1" }, "claude-opus-5", "metadata", `{"user_id":"user_1"}`, nil},
		"user with a mail address": {func(c *Conversation) { c.EndUser = "ann@example.com" }, "claude-opus-5", "metadata", `{"user_id":"f75d49eb5a14174c9b9bf7e5c5e2e2ac"}`, nil},
		"tier":                     {func(c *Conversation) { c.Tier = "default" }, "claude-opus-5", "service_tier", `"standard_only"`, nil},
		"unknown tier":             {func(c *Conversation) { c.Tier = "flex"; c.use(serviceTier, "service_tier") }, "claude-opus-5", "service_tier", `null`, []string{"service_tier"}},
		"stop":                     {func(c *Conversation) { c.Stop = []string{"a", "b"} }, "claude-opus-5", "stop_sequences", `["a","b"]`, nil},
		"stream":                   {func(c *Conversation) { c.Stream = true }, "claude-opus-5", "stream", `true`, nil},
		"blank instructions":       {func(c *Conversation) { c.System = []Part{{Text: " \n"}} }, "claude-opus-5", "system", `null`, nil},
	} {
		c := userSays(dialect.Chat, "hi")
		tt.change(c)
		r, body := writeMessage(t, c, tt.model)
		if name == "user with a mail address" {
			if id := body["metadata"].(map[string]any)["user_id"].(string); len(id) != 32 || strings.Contains(id, "@") {
				t.Errorf("%s: %s", name, id)
			}
			continue
		}
		messagesEqual(t, name, body[tt.member], tt.want)
		if !reflect.DeepEqual(r.Dropped, tt.dropped) {
			t.Errorf("%s: dropped %q, want %q", name, r.Dropped, tt.dropped)
		}
	}
}

// Effort and budget, for each generation of models.
func TestWriteMessagesThinking(t *testing.T) {
	thought := func(e string) Reasoning { return Reasoning{Effort: e, Visible: true, Field: "reasoning_effort"} }
	for name, tt := range map[string]struct {
		ask              Reasoning
		max              int64
		model            string
		thinking, effort string
		bound            float64
		dropped          []string
	}{
		"nothing":             {Reasoning{}, 0, "claude-opus-5", `null`, `null`, 32000, nil},
		"none":                {thought("none"), 0, "claude-opus-5", `{"type":"disabled"}`, `null`, 32000, nil},
		"none, budget":        {thought("none"), 0, "claude-sonnet-4-5", `{"type":"disabled"}`, `null`, 32000, nil},
		"none, old":           {thought("none"), 0, "claude-3-5-haiku-20241022", `null`, `null`, 8192, nil},
		"high, old":           {thought("high"), 0, "claude-3-opus-20240229", `null`, `null`, 4096, []string{"reasoning_effort"}},
		"minimal":             {thought("minimal"), 0, "claude-opus-4-7", `{"type":"adaptive","display":"summarized"}`, `"low"`, 32000, nil},
		"xhigh":               {thought("xhigh"), 0, "claude-opus-5", `{"type":"adaptive","display":"summarized"}`, `"xhigh"`, 32000, nil},
		"xhigh, 4.6":          {thought("xhigh"), 0, "claude-opus-4-6", `{"type":"adaptive","display":"summarized"}`, `"high"`, 32000, []string{"reasoning_effort"}},
		"hidden":              {Reasoning{Effort: "low"}, 0, "claude-opus-5", `{"type":"adaptive","display":"omitted"}`, `"low"`, 32000, nil},
		"adaptive":            {Reasoning{Adaptive: true, Visible: true}, 0, "claude-opus-5", `{"type":"adaptive","display":"summarized"}`, `null`, 32000, nil},
		"budget to effort":    {Reasoning{Budget: 9000, Visible: true}, 0, "claude-opus-5", `{"type":"adaptive","display":"summarized"}`, `"medium"`, 32000, nil},
		"no name":             {thought("low"), 0, "claude-next", `{"type":"adaptive","display":"summarized"}`, `"low"`, 32000, nil},
		"low, budget":         {thought("low"), 0, "claude-3-7-sonnet-latest", `{"type":"enabled","budget_tokens":2048}`, `null`, 32000, nil},
		"minimal, budget":     {thought("minimal"), 0, "claude-sonnet-4-20250514", `{"type":"enabled","budget_tokens":1024}`, `null`, 32000, nil},
		"max, budget":         {thought("max"), 0, "claude-sonnet-4-5@20250929", `{"type":"enabled","budget_tokens":32000}`, `null`, 64000, nil},
		"max, small":          {thought("max"), 0, "claude-opus-4-1-20250805", `{"type":"enabled","budget_tokens":16000}`, `null`, 32000, nil},
		"adaptive, budget":    {Reasoning{Adaptive: true}, 0, "us.anthropic.claude-sonnet-4-5-20250929-v1:0", `{"type":"enabled","budget_tokens":8192}`, `null`, 32000, nil},
		"budget":              {Reasoning{Budget: 3000}, 5000, "claude-sonnet-4-5", `{"type":"enabled","budget_tokens":3000}`, `null`, 5000, nil},
		"tiny budget":         {Reasoning{Budget: 5}, 5000, "claude-sonnet-4-5", `{"type":"enabled","budget_tokens":1024}`, `null`, 5000, nil},
		"bound below budget":  {thought("high"), 500, "claude-sonnet-4-5", `{"type":"enabled","budget_tokens":16384}`, `null`, 16884, []string{"max_completion_tokens"}},
		"another vendor's":    {thought("medium"), 0, "glm-5", `{"type":"enabled","budget_tokens":8192}`, `null`, 32000, nil},
		"dots in the version": {thought("low"), 0, "anthropic/claude-sonnet-4.6", `{"type":"adaptive","display":"summarized"}`, `"low"`, 32000, nil},
	} {
		c := userSays(dialect.Chat, "hi")
		c.Reasoning, c.MaxTokens = tt.ask, tt.max
		r, body := writeMessage(t, c, tt.model)
		messagesEqual(t, name, body["thinking"], tt.thinking)
		config, _ := body["output_config"].(map[string]any)
		messagesEqual(t, name, config["effort"], tt.effort)
		if body["max_tokens"] != tt.bound || !reflect.DeepEqual(r.Dropped, tt.dropped) {
			t.Errorf("%s: bound %v, dropped %q", name, body["max_tokens"], r.Dropped)
		}
	}
}

// turnsOf is a history of a call and its result, with what the assistant thought
// before it.
func turnsOf(thoughts ...Part) []Turn {
	call := Part{Kind: Call, Field: "messages[1]", Call: &ToolCall{ID: "t1", Name: "f", Arguments: "{}"}}
	return []Turn{
		{Role: User, Parts: []Part{{Kind: Text, Text: "hi"}}},
		{Role: Assistant, Parts: append(thoughts, call)},
		{Role: User, Parts: []Part{{Kind: Result, Result: &ToolResult{ID: "t1", Parts: []Part{{Kind: Text, Text: "r"}}}}}},
	}
}

// Where the model thinks and the history does not allow it, it does not think, and
// the client is told.
func TestTrap35_ThoughtsGoBackToTheirMakerAlone(t *testing.T) {
	own := Part{Kind: Thought, Text: "mine", State: State{Maker: dialect.Messages, Upstream: "up", Data: "EqQB"}}
	hidden := Part{Kind: Thought, State: State{Maker: dialect.Messages, Upstream: "up", Data: "xyz", Redacted: true}}
	foreign := Part{Kind: Thought, Text: "theirs", State: State{Maker: dialect.Responses, Upstream: "up", Data: "enc"}}
	other := Part{Kind: Thought, Text: "other's", State: State{Maker: dialect.Messages, Upstream: "elsewhere", Data: "EqQC"}}
	native := Part{Kind: Thought, Text: "native", State: State{Maker: dialect.Messages, Data: "EqQD"}}
	unsigned := Part{Kind: Thought, Text: "unsigned"}
	f := []Tool{{Name: "f"}}
	for name, tt := range map[string]struct {
		turns    []Turn
		effort   string
		model    string
		choice   Choice
		thinking string
		blocks   string // types of the assistant's turn
		told     bool
	}{
		"own":                   {turnsOf(own), "high", "claude-sonnet-4-5", Choice{}, "enabled", "thinking tool_use", false},
		"own, redacted":         {turnsOf(hidden, own), "high", "claude-sonnet-4-5", Choice{}, "enabled", "redacted_thinking thinking tool_use", false},
		"own, adaptive":         {turnsOf(own), "high", "claude-opus-5", Choice{}, "adaptive", "thinking tool_use", false},
		"own, thinking unsaid":  {turnsOf(own), "", "claude-opus-5", Choice{}, "", "thinking tool_use", false},
		"own, old, unsaid":      {turnsOf(own), "", "claude-sonnet-4-5", Choice{}, "", "tool_use", false},
		"own, switched off":     {turnsOf(own), "none", "claude-opus-5", Choice{}, "disabled", "tool_use", false},
		"foreign":               {turnsOf(foreign), "high", "claude-sonnet-4-5", Choice{}, "disabled", "tool_use", true},
		"foreign, adaptive":     {turnsOf(foreign), "high", "claude-opus-5", Choice{}, "disabled", "tool_use", true},
		"other upstream":        {turnsOf(other), "high", "claude-opus-5", Choice{}, "disabled", "tool_use", true},
		"native, not known":     {turnsOf(native), "high", "claude-opus-5", Choice{}, "disabled", "tool_use", true},
		"unsigned":              {turnsOf(unsigned), "high", "claude-opus-5", Choice{}, "disabled", "tool_use", true},
		"none":                  {turnsOf(), "high", "claude-sonnet-4-5", Choice{}, "disabled", "tool_use", true},
		"none, adaptive":        {turnsOf(), "high", "claude-opus-5", Choice{}, "adaptive", "tool_use", false},
		"forced":                {turnsOf(own), "high", "claude-opus-5", Choice{Mode: Required}, "disabled", "tool_use", true},
		"the loop is over":      {append(turnsOf(), Turn{Role: Assistant, Parts: []Part{{Kind: Text, Text: "done"}}}, Turn{Role: User, Parts: []Part{{Kind: Text, Text: "more"}}}), "high", "claude-sonnet-4-5", Choice{}, "enabled", "tool_use", false},
		"goes on with a prefix": {append(turnsOf(own), Turn{Role: Assistant, Parts: []Part{{Kind: Text, Text: "So \n"}}}), "high", "claude-sonnet-4-5", Choice{}, "disabled", "tool_use", true},
	} {
		c := &Conversation{From: dialect.Chat, Turns: tt.turns, Tools: f, Choice: tt.choice, Reasoning: Reasoning{Effort: tt.effort, Field: "reasoning_effort"}}
		r, body := writeMessage(t, c, tt.model)
		thinking, _ := body["thinking"].(map[string]any)
		kind, _ := thinking["type"].(string)
		var blocks []string
		for _, b := range body["messages"].([]any)[1].(map[string]any)["content"].([]any) {
			blocks = append(blocks, b.(map[string]any)["type"].(string))
		}
		if kind != tt.thinking || strings.Join(blocks, " ") != tt.blocks || slices.Contains(r.Dropped, "reasoning_effort") != tt.told {
			t.Errorf("%s: thinking %q, blocks %q, dropped %q", name, kind, blocks, r.Dropped)
		}
		if bytes.Contains(r.Body, []byte("theirs")) || bytes.Contains(r.Body, []byte(`So \n`)) {
			t.Errorf("%s: %s", name, r.Body)
		}
	}
}

func TestWriteMessagesTurns(t *testing.T) {
	text := func(s string) Part { return Part{Kind: Text, Text: s} }
	call := func(id string) Part {
		return Part{Kind: Call, Call: &ToolCall{ID: id, Name: "f", Arguments: `{"a": 1}`}}
	}
	result := func(id string, parts ...Part) Part {
		return Part{Kind: Result, Result: &ToolResult{ID: id, Parts: parts}}
	}
	for name, tt := range map[string]struct {
		turns   []Turn
		model   string
		want    string
		dropped []string
	}{
		"same role": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: User, Parts: []Part{text("b")}}},
			"claude-opus-5",
			`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`, nil,
		},
		"empty texts": {
			[]Turn{{Role: User, Parts: []Part{text(""), text("a"), text(" \n")}}, {Role: Assistant, Parts: []Part{text("")}}, {Role: User, Parts: []Part{text("b")}}},
			"claude-opus-5",
			`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`, nil,
		},
		"results first, of all calls": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: Assistant, Parts: []Part{text("b"), call("x:1")}}, {Role: Assistant, Parts: []Part{call("y")}}, {Role: User, Parts: []Part{result("y", text("r"))}}, {Role: User, Parts: []Part{text("c"), result("x:1")}}},
			"claude-opus-5",
			`[{"role":"user","content":[{"type":"text","text":"a"}]},
			 {"role":"assistant","content":[{"type":"text","text":"b"},{"type":"tool_use","id":"fwid_eDox","name":"f","input":{"a":1}},{"type":"tool_use","id":"y","name":"f","input":{"a":1}}]},
			 {"role":"user","content":[{"type":"tool_result","tool_use_id":"y","content":[{"type":"text","text":"r"}]},{"type":"tool_result","tool_use_id":"fwid_eDox"},{"type":"text","text":"c"}]}]`, nil,
		},
		"assistant first": {
			[]Turn{{Role: Assistant, Field: "messages[0]", Parts: []Part{text("Welcome")}}, {Role: User, Parts: []Part{text("b")}}},
			"claude-opus-5",
			`[{"role":"user","content":[{"type":"text","text":"Begin."}]},{"role":"assistant","content":[{"type":"text","text":"Welcome"}]},{"role":"user","content":[{"type":"text","text":"b"}]}]`,
			[]string{"messages[0]"},
		},
		"instructions later": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: System, Field: "messages[1]", Parts: []Part{text("whisper")}}, {Role: Assistant, Parts: []Part{text("b")}}, {Role: User, Parts: []Part{text("c")}}},
			"claude-sonnet-4-5",
			`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"<system>\nwhisper\n</system>"}]},{"role":"assistant","content":[{"type":"text","text":"b"}]},{"role":"user","content":[{"type":"text","text":"c"}]}]`,
			[]string{"messages[1]"},
		},
		"which a new one takes": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: System, Field: "messages[1]", Parts: []Part{text("whisper")}}, {Role: Assistant, Parts: []Part{text("b")}}, {Role: System, Field: "messages[3]", Parts: []Part{text("louder")}}, {Role: User, Parts: []Part{text("c")}}},
			"claude-sonnet-5",
			`[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"system","content":[{"type":"text","text":"whisper"}]},{"role":"assistant","content":[{"type":"text","text":"b"}]},{"role":"user","content":[{"type":"text","text":"<system>\nlouder\n</system>"},{"type":"text","text":"c"}]}]`,
			[]string{"messages[3]"},
		},
		"refusal, custom, failed": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: Assistant, Parts: []Part{{Kind: Refusal, Text: "No."}, {Kind: Call, Call: &ToolCall{ID: "c", Name: "patch", Arguments: "*** \"x\"", Custom: true}}}}, {Role: User, Parts: []Part{{Kind: Result, Result: &ToolResult{ID: "c", Failed: true}}}}},
			"claude-opus-5",
			`[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","content":[{"type":"text","text":"No."},{"type":"tool_use","id":"c","name":"patch","input":{"input":"*** \"x\""}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","is_error":true}]}]`, nil,
		},
		"media": {
			[]Turn{{Role: User, Parts: []Part{
				{Kind: Image, Media: &Media{Type: "image/jpg", Data: "AA==", Detail: "high"}},
				{Kind: Image, Media: &Media{Data: "iVBORw0KGgoAAA=="}},
				{Kind: Image, Media: &Media{Type: "image/gif", Data: "R0lG"}},
				{Kind: File, Media: &Media{Data: "JVBE", Name: "a.pdf"}},
				{Kind: File, Media: &Media{Type: "text/markdown; charset=utf-8", Data: base64.StdEncoding.EncodeToString([]byte("# hi"))}},
				{Kind: File, Media: &Media{Type: "image/webp", Data: "UklG"}},
			}}},
			"claude-opus-5",
			`[{"role":"user","content":[
			{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"AA=="}},
			{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgoAAA=="}},
			{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"R0lG"}},
			{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBE"},"title":"a.pdf"},
			{"type":"document","source":{"type":"text","media_type":"text/plain","data":"# hi"}},
			{"type":"image","source":{"type":"base64","media_type":"image/webp","data":"UklG"}}]}]`, nil,
		},
		"prefix of the answer": {
			[]Turn{{Role: User, Parts: []Part{text("a")}}, {Role: Assistant, Parts: []Part{text("{ \n")}}},
			"claude-opus-4-5",
			`[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","content":[{"type":"text","text":"{"}]}]`, nil,
		},
	} {
		// A client of Messages marks what is to be cached: none is added.
		c := &Conversation{From: dialect.Messages, Turns: tt.turns}
		r, body := writeMessage(t, c, tt.model)
		messagesEqual(t, name, body["messages"], tt.want)
		if !reflect.DeepEqual(r.Dropped, tt.dropped) {
			t.Errorf("%s: dropped %q", name, r.Dropped)
		}
	}
}

// A prompt that is instructions alone is answered: other dialects take it.
func TestWriteMessagesInstructionsAlone(t *testing.T) {
	_, body := writeMessage(t, &Conversation{System: []Part{{Text: "Say hi."}}}, "claude-opus-5")
	messagesEqual(t, "messages", body["messages"], `[{"role":"user","content":[{"type":"text","text":"Begin.","cache_control":{"type":"ephemeral"}}]}]`)
}

func TestWriteMessagesRefuses(t *testing.T) {
	for name, part := range map[string]Part{
		"image type":       {Kind: Image, Media: &Media{Type: "image/tiff", Data: "AA=="}},
		"unknown image":    {Kind: Image, Media: &Media{Data: "AA=="}},
		"scheme":           {Kind: Image, Media: &Media{URL: "gs://bucket/a.png"}},
		"file id":          {Kind: File, Media: &Media{ID: "file_1"}},
		"word document":    {Kind: File, Media: &Media{Type: "application/msword", Data: "AA=="}},
		"bad text":         {Kind: File, Media: &Media{Type: "text/plain", Data: "=="}},
		"sound":            {Kind: Audio, Media: &Media{Type: "audio/wav", Data: "AA=="}},
		"film":             {Kind: Video, Media: &Media{URL: "https://x.example/v"}},
		"argument list":    {Kind: Call, Call: &ToolCall{ID: "a", Name: "f", Arguments: "[1]"}},
		"argument garbage": {Kind: Call, Call: &ToolCall{ID: "a", Name: "f", Arguments: `{"a":`}},
		"answer's image":   {Kind: Image, Media: &Media{Type: "image/png", Data: "AA=="}, Cache: "a"},
	} {
		part.Field = "messages[1].content[0]"
		c := userSays(dialect.Chat, "hi")
		role := User
		if part.Kind == Call || part.Cache == "a" {
			role = Assistant
		}
		c.Turns = append(c.Turns, Turn{Role: role, Parts: []Part{part}})
		if part.Kind == Call {
			c.Turns = append(c.Turns, Turn{Role: User, Parts: []Part{{Kind: Result, Result: &ToolResult{ID: "a"}}}})
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		_, err := c.Write(dialect.Messages, messageOptions("claude-opus-5"))
		var b *dialect.BadRequest
		if !errors.As(err, &b) || b.Param != part.Field {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]*Conversation{
		"nothing":      {},
		"schema":       {Turns: userSays(0, "x").Turns, Tools: []Tool{{Name: "f", Schema: []byte(`{"type":"array"}`), Field: "tools[0]"}}},
		"no schema":    {Turns: userSays(0, "x").Turns, Tools: []Tool{{Name: "f", Schema: []byte(`[]`), Field: "tools[0]"}}},
		"unknown tool": {Turns: userSays(0, "x").Turns, Choice: Choice{Mode: Required, Only: []string{"f"}, Field: "tool_choice"}},
	} {
		if _, err := c.Write(dialect.Messages, messageOptions("claude-opus-5")); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// What counts tokens is written without what bounds or shapes an answer.
func TestWriteMessagesForCounting(t *testing.T) {
	c := readMessage(t, `{"model":"m","max_tokens":10,"stream":true,"stop_sequences":["x"],"temperature":0.1,"metadata":{"user_id":"u"},"service_tier":"auto",
	"system":"s","tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto"},"messages":[{"role":"user","content":"hi"}]}`)
	c.Counting, c.From = true, dialect.Chat
	r, err := c.Write(dialect.Messages, messageOptions("claude-3-7-sonnet"))
	if err != nil {
		t.Fatal(err)
	}
	messagesEqual(t, "the request", r.Body, `{"model":"claude-3-7-sonnet","system":[{"type":"text","text":"s"}],"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto"},"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}`)
}

// marksOf lists the marks of a body in their order.
func marksOf(body []byte) string {
	var marks []string
	for _, m := range regexp.MustCompile(`"cache_control":\{"type":"ephemeral"(,"ttl":"1h")?\}`).FindAllString(string(body), -1) {
		if strings.Contains(m, "1h") {
			marks = append(marks, "1h")
		} else {
			marks = append(marks, "5m")
		}
	}
	return strings.Join(marks, " ")
}

func TestWriteMessagesCacheMarks(t *testing.T) {
	part := func(cache string) Part { return Part{Kind: Text, Text: "t", Cache: cache} }
	many := &Conversation{
		From: dialect.Messages, Tools: []Tool{{Name: "f", Cache: "5m"}}, System: []Part{part("1h"), part("1h")},
		Turns: []Turn{{Role: User, Parts: []Part{part("5m"), part(""), part("1h"), part("5m")}}},
	}
	many.use(cacheMark, "cache_control")
	r, _ := writeMessage(t, many, "claude-opus-5")
	if got := marksOf(r.Body); got != "1h 5m 5m 5m" || !slices.Contains(r.Dropped, "cache_control") {
		t.Errorf("marks %s, dropped %q", got, r.Dropped)
	}
	// Clients of dialects that cache by themselves have their prompts cached here too.
	for from, want := range map[dialect.Dialect]string{dialect.Chat: "5m 5m 5m", dialect.Messages: ""} {
		c := userSays(from, "hi")
		c.Tools, c.System = []Tool{{Name: "f"}, {Name: "g"}}, []Part{{Text: "a"}, {Text: "b"}}
		r, body := writeMessage(t, c, "claude-opus-5")
		if got := marksOf(r.Body); got != want || len(r.Dropped) > 0 {
			t.Errorf("%v: marks %q, dropped %q", from, got, r.Dropped)
		}
		if from == dialect.Chat {
			messagesEqual(t, "system", body["system"], `[{"type":"text","text":"a"},{"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]`)
		}
	}
}

func TestTrap25_AllowedToolsAndSerialCallsReachMessages(t *testing.T) {
	c := userSays(dialect.Responses, "hi")
	c.Tools = []Tool{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	c.Choice, c.Serial = Choice{Mode: Auto, Only: []string{"c", "a"}, Field: "tool_choice"}, true
	_, body := writeMessage(t, c, "claude-opus-5")
	messagesEqual(t, "choice", body["tool_choice"], `{"type":"auto","disable_parallel_tool_use":true}`)
	if tools := body["tools"].([]any); len(tools) != 2 || tools[0].(map[string]any)["name"] != "a" || tools[1].(map[string]any)["name"] != "c" {
		t.Errorf("tools %v", tools)
	}
	c.Choice.Mode = Required
	_, body = writeMessage(t, c, "claude-opus-5")
	messagesEqual(t, "choice", body["tool_choice"], `{"type":"any","disable_parallel_tool_use":true}`)
}

func TestTrap27_ToolsKeepTheirOrder(t *testing.T) {
	c := userSays(dialect.Chat, "hi")
	for i := range 40 {
		c.Tools = append(c.Tools, Tool{Name: fmt.Sprintf("tool.%d", 40-i)})
	}
	first, body := writeMessage(t, c, "claude-opus-5")
	for range 5 {
		if again, _ := writeMessage(t, c, "claude-opus-5"); !bytes.Equal(again.Body, first.Body) {
			t.Fatalf("written differently: %s and %s", first.Body, again.Body)
		}
	}
	for i, tool := range body["tools"].([]any) {
		if name := tool.(map[string]any)["name"].(string); !strings.HasPrefix(name, fmt.Sprintf("tool_%d_", 40-i)) {
			t.Errorf("tool %d is %s", i, name)
		}
	}
}

func TestTrap28_CallWithoutResult(t *testing.T) {
	c := userSays(dialect.Chat, "hi")
	c.Turns = append(c.Turns, Turn{Role: Assistant, Parts: []Part{{Kind: Call, Call: &ToolCall{ID: "t1", Name: "f"}, Field: "messages[1].tool_calls[0]"}}})
	_, err := c.Write(dialect.Messages, messageOptions("claude-opus-5"))
	var b *dialect.BadRequest
	if !errors.As(err, &b) || b.Param != "messages[1].tool_calls[0]" || !strings.Contains(b.Message, "t1") {
		t.Errorf("%v", err)
	}
	if _, err := tryMessage([]byte(`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"f","input":{}}]},{"role":"user","content":"b"}]}`)); err == nil || !strings.Contains(err.Error(), "t1") {
		t.Errorf("%v", err)
	}
}

func TestTrap58_SamplingOfNewModelsIsDropped(t *testing.T) {
	for model, taken := range map[string]bool{
		"claude-opus-4-6": true, "claude-sonnet-4-6": false, "claude-opus-4-7": false, "claude-haiku-5-5": false, "claude-mythos-preview": false,
		"claude-3-5-sonnet-v2@20241022": true, "claude-sonnet-4-20250514": true, "claude-opus-4.8": false, "claude-2.1": true,
	} {
		c := userSays(dialect.Chat, "hi")
		c.Temperature = "0.5"
		c.use(temperature, "temperature")
		r, body := writeMessage(t, c, model)
		if _, has := body["temperature"]; has != taken || slices.Contains(r.Dropped, "temperature") == taken {
			t.Errorf("%s: %s, dropped %q", model, r.Body, r.Dropped)
		}
	}
}

func TestTrap59_ImagesOfOtherSchemesAreRefused(t *testing.T) {
	c := userSays(dialect.Chat, "hi")
	c.Turns[0].Parts = append(c.Turns[0].Parts, Part{Kind: Image, Media: &Media{URL: "gs://b/a.png"}, Field: "messages[0].content[1]"})
	_, err := c.Write(dialect.Messages, messageOptions("claude-opus-5"))
	var b *dialect.BadRequest
	if !errors.As(err, &b) || b.Param != "messages[0].content[1]" {
		t.Errorf("%v", err)
	}
}

// Whatever is read can be written so that a strict service takes it, or is refused.
func FuzzReadMessages(f *testing.F) {
	f.Add([]byte(claudeCode()))
	for _, body := range []string{
		`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`,
		`{"model":"m","max_tokens":10,"temperature":1e400,"messages":[{"role":"assistant","content":[{"type":"text","text":"a "}]}]}`,
		`{"model":"m","max_tokens":3,"thinking":{"type":"enabled","budget_tokens":1024},"messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"}]}}]}]}`,
		`{"model":"m","max_tokens":3,"tools":[{"name":"a b","input_schema":{"x":1}}],"tool_choice":{"type":"tool","name":"a b"},"messages":[{"role":"user","content":[{"type":"search_result","content":[],"source":"s","title":"t"}]},{"role":"system","content":[]}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := tryMessage(body)
		if err != nil {
			var b *dialect.BadRequest
			if !errors.As(err, &b) {
				t.Fatalf("%T", err)
			}
			return
		}
		for _, model := range []string{"claude-opus-5", "claude-sonnet-4-5", "other"} {
			r, err := c.Write(dialect.Messages, messageOptions(model))
			if err != nil {
				continue
			}
			if !json.Valid(r.Body) || len(r.Body) > 8*len(body)+4096 {
				t.Fatalf("%d bytes for %d: %s", len(r.Body), len(body), r.Body)
			}
			if err := strictMessages(r.Body); err != nil {
				t.Fatalf("a strict service refuses %s: %v", r.Body, err)
			}
		}
	})
}

func BenchmarkTranslateMessagesRequest(b *testing.B) {
	body := bigMessage()
	o := messageOptions("claude-opus-5")
	req := dialect.Request{Call: dialect.Call{Op: dialect.CreateMessage}, Body: body}
	if err := req.Read(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := Read(&req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(dialect.Messages, o); err != nil {
			b.Fatal(err)
		}
	}
}

// bigMessage is a request of 200 KB: Claude Code's tools and a long history.
func bigMessage() []byte {
	body := strings.TrimSuffix(claudeCode(), "}")
	at := strings.Index(body, `"messages":[`) + len(`"messages":[`)
	var history strings.Builder
	for i := 0; history.Len()+len(body) < 200<<10; i++ {
		fmt.Fprintf(&history, `{"role":"user","content":[{"type":"text","text":"Question %d. %s"}]},{"role":"assistant","content":[{"type":"text","text":"Let me look."},{"type":"tool_use","id":"toolu_%da","name":"Tool1","input":{"path":"/a/%d","n":12}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_%da","content":"%s"}]},`,
			i, strings.Repeat("What is this? ", 20), i, i, i, strings.Repeat(`line of a file\n\t\"quoted\" and more of it `, 40))
	}
	return []byte(body[:at] + history.String() + body[at:] + "}")
}
