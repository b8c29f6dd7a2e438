package mockanthropic

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// request is what of a request decides the answer.
type request struct {
	Model       string          `json:"model"`
	Messages    []turn          `json:"messages"`
	System      json.RawMessage `json:"system"`
	MaxTokens   *int64          `json:"max_tokens"`
	Stream      bool            `json:"stream"`
	Stop        []string        `json:"stop_sequences"`
	Temperature *float64        `json:"temperature"`
	TopP        *float64        `json:"top_p"`
	TopK        *int64          `json:"top_k"`
	Thread      json.RawMessage `json:"thread"`
	Context     json.RawMessage `json:"context_management"`
	RawTools    []any           `json:"tools"`
	Choice      struct {
		Type        string `json:"type"`
		Name        string `json:"name"`
		NotParallel bool   `json:"disable_parallel_tool_use"`
	} `json:"tool_choice"`
	Thinking struct {
		Type    string `json:"type"`
		Budget  int64  `json:"budget_tokens"`
		Display string `json:"display"`
	} `json:"thinking"`
	Output struct {
		Format struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"format"`
	} `json:"output_config"`

	tools []tool
}

type tool struct {
	Type   string          `json:"type"`
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"input_schema"`
}

type turn struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`

	blocks []block
}

type block struct {
	Type      string            `json:"type"`
	Text      string            `json:"text"`
	Citations []json.RawMessage `json:"citations"`
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Input     json.RawMessage   `json:"input"`
	ToolUseID string            `json:"tool_use_id"`
	Thinking  string            `json:"thinking"`
	Signature string            `json:"signature"`
	Data      string            `json:"data"`
	Content   json.RawMessage   `json:"content"`
	Source    struct {
		Type string `json:"type"`
		Data string `json:"data"`
	} `json:"source"`
}

var (
	callID   = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`)
)

func (x *exchange) request(shape mock.Shape) (*request, error) {
	q := new(request)
	if err := x.read(shape, q); err != nil {
		return nil, err
	}
	x.Entry.Model, x.Entry.Stream = q.Model, q.Stream
	x.digest()
	if err := x.Behave(); err != nil {
		return nil, err
	}
	for _, check := range []func(*request) error{x.checkNumbers, x.checkPreviews, x.checkTools, x.checkThinking, x.checkMessages, x.checkMarks} {
		if err := check(q); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (x *exchange) checkNumbers(q *request) error {
	if q.MaxTokens != nil && *q.MaxTokens < 0 {
		return invalid("max_tokens: must be greater than or equal to 0")
	}
	for _, f := range []struct {
		name string
		set  bool
		bad  bool
	}{
		{"temperature", q.Temperature != nil, q.Temperature != nil && (*q.Temperature < 0 || *q.Temperature > 1)},
		{"top_p", q.TopP != nil, q.TopP != nil && (*q.TopP < 0 || *q.TopP > 1)},
		{"top_k", q.TopK != nil, q.TopK != nil && *q.TopK < 0},
	} {
		switch {
		case f.set && x.version == newVersion:
			return invalid("%s: Extra inputs are not permitted", f.name)
		case f.bad:
			return invalid("%s: range: -1..1", f.name)
		}
	}
	for i, s := range q.Stop {
		if strings.TrimSpace(s) == "" {
			return invalid("stop_sequences.%d: each stop sequence must contain non-whitespace", i)
		}
	}
	return nil
}

// checkPreviews refuses what needs a preview that was not asked for, and what this
// account has not at all.
func (x *exchange) checkPreviews(q *request) error {
	betas := x.betas()
	switch {
	case len(q.Thread) > 0:
		return &Error{Status: 400, Message: "thread: not supported for this request", Details: map[string]any{
			"error_code": "thread_unsupported_request", "unsupported": []string{"thread"},
		}}
	case len(q.Context) > 0 && !slices.Contains(betas, "context-management-2025-06-27"):
		return invalid("context_management: Extra inputs are not permitted")
	}
	return nil
}

func (x *exchange) checkTools(q *request) error {
	names := map[string]bool{}
	for i, raw := range q.RawTools {
		at := mock.At{"tools", i}
		shape := clientTool
		if kind, ok := raw.(map[string]any)["type"].(string); ok && kind != "custom" {
			if !regexp.MustCompile(`^[a-z_]+_20[0-9]{6}$`).MatchString(kind) {
				return invalid("tools.%d: Input tag '%s' found using 'type' does not match any of the expected tags", i, kind)
			}
			shape = hostedTool
		}
		if _, c := shape.Check(at, numbers(raw)); c != nil {
			return complaint(c)
		}
		var t tool
		if err := mock.Decode(raw, &t); err != nil {
			return err
		}
		switch {
		case !toolName.MatchString(t.Name):
			return invalid("tools.%d.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'", i)
		case names[t.Name]:
			return invalid("tools: Tool names must be unique.")
		}
		names[t.Name] = true
		var s struct{ Type any }
		if json.Unmarshal(t.Schema, &s); len(t.Schema) > 0 && s.Type != "object" {
			return invalid("tools.%d.custom.input_schema.type: Input should be 'object'", i)
		}
		if len(t.Schema) > 0 {
			q.tools = append(q.tools, t)
		}
	}
	switch q.Choice.Type {
	case "":
	case "tool":
		if !names[q.Choice.Name] {
			return invalid("Tool '%s' not found in provided tools", q.Choice.Name)
		}
	default:
		if len(names) == 0 {
			return invalid("tool_choice: may only be specified while providing tools")
		}
	}
	return nil
}

// numbers turns plain numbers back into those that shapes look at.
func numbers(v any) any {
	out, _ := mock.ReadJSON(mock.Encode(v))
	return out
}

func (x *exchange) checkThinking(q *request) error {
	on := q.thinks()
	switch {
	case q.Thinking.Type == "enabled" && q.Thinking.Budget < 1024:
		return invalid("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
	case q.Thinking.Type == "enabled" && q.MaxTokens != nil && *q.MaxTokens <= q.Thinking.Budget:
		return invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
	case on && q.Temperature != nil && *q.Temperature != 1:
		return invalid("`temperature` may only be set to 1 when thinking is enabled.")
	case on && q.TopK != nil:
		return invalid("`top_k` must be unset when thinking is enabled.")
	case on && (q.Choice.Type == "any" || q.Choice.Type == "tool"):
		return invalid("Thinking may not be enabled when tool_choice forces tool use.")
	}
	if schema := q.Output.Format.Schema; len(schema) > 0 {
		return closed("output_config.format.schema", schema)
	}
	return nil
}

// thinks says whether the answer begins with thinking.
func (q *request) thinks() bool { return q.Thinking.Type == "enabled" || q.Thinking.Type == "adaptive" }

// closed checks that all objects of an answer's schema name all their members.
func closed(where string, raw json.RawMessage) error {
	var s struct {
		Type       any
		Properties map[string]json.RawMessage
		Additional json.RawMessage `json:"additionalProperties"`
		Items      json.RawMessage
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return invalid("%s: %v", where, err)
	}
	if s.Type == "object" && string(s.Additional) != "false" {
		return invalid("%s: For 'object' type, 'additionalProperties' must be explicitly set to false", where)
	}
	for _, name := range mock.SortedKeys(s.Properties) {
		if err := closed(where+".properties."+name, s.Properties[name]); err != nil {
			return err
		}
	}
	if len(s.Items) > 0 {
		return closed(where+".items", s.Items)
	}
	return nil
}

func (x *exchange) checkMessages(q *request) error {
	if len(q.Messages) == 0 {
		return invalid("messages: at least one message is required")
	}
	if err := systemText(q.System); err != nil {
		return err
	}
	var open []string // calls of the last assistant turn
	seen := map[string]bool{}
	before := "" // the role of the turn before
	for i := range q.Messages {
		m := &q.Messages[i]
		if err := m.read(i, i == len(q.Messages)-1); err != nil {
			return err
		}
		switch {
		case i == 0 && m.Role != "user":
			return invalid("messages: first message must use the \"user\" role")
		case m.Role == "system" && (before != "user" || !slices.Contains(x.betas(), "mid-conversation-system-2026-04-07")):
			return invalid("messages.%d: role 'system' is only supported after a user message on models with mid-conversation system messages", i)
		}
		if len(open) > 0 && m.Role != "system" {
			if missing := m.unanswered(open); m.Role != "user" || len(missing) > 0 {
				return invalid("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each `tool_use` block must have a corresponding `tool_result` block in the next message.", i-1, strings.Join(missing, ", "))
			}
		}
		results := true
		for j := range m.blocks {
			b := &m.blocks[j]
			results = results && b.Type == "tool_result"
			if err := x.checkBlock(m, b, i, j, open, results); err != nil {
				return err
			}
			if b.Type == "tool_use" {
				if seen[b.ID] {
					return invalid("messages.%d.content.%d: `tool_use` ids must be unique", i, j)
				}
				seen[b.ID] = true
			}
		}
		if m.Role != "system" {
			open = nil
		}
		if m.Role == "assistant" {
			for _, b := range m.blocks {
				if b.Type == "tool_use" {
					open = append(open, b.ID)
				}
			}
		}
		before = m.Role
	}
	if len(open) > 0 {
		return invalid("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each `tool_use` block must have a corresponding `tool_result` block in the next message.", len(q.Messages)-1, strings.Join(open, ", "))
	}
	return x.checkReplay(q)
}

func systemText(raw json.RawMessage) error {
	var all []block
	if json.Unmarshal(raw, &all) == nil {
		for i, b := range all {
			if strings.TrimSpace(b.Text) == "" {
				return invalid("system: text content blocks must be non-empty (block %d)", i)
			}
		}
	}
	return nil
}

// read reads a turn's blocks; a text alone is one.
func (m *turn) read(i int, last bool) error {
	if err := json.Unmarshal(m.Content, &m.blocks); err != nil {
		var text string
		json.Unmarshal(m.Content, &text)
		if text != "" {
			m.blocks = []block{{Type: "text", Text: text}}
		}
	}
	if len(m.blocks) == 0 && (m.Role != "assistant" || !last) {
		return invalid("messages.%d: all messages must have non-empty content except for the optional final assistant message", i)
	}
	if m.Role == "assistant" && last && len(m.blocks) > 0 {
		if b := m.blocks[len(m.blocks)-1]; b.Type == "text" && strings.TrimRight(b.Text, " \n\t") != b.Text {
			return invalid("messages: final assistant content cannot end with trailing whitespace")
		}
	}
	return nil
}

// unanswered are the calls that the turn has no result of.
func (m *turn) unanswered(open []string) (missing []string) {
	for _, id := range open {
		if !slices.ContainsFunc(m.blocks, func(b block) bool { return b.Type == "tool_result" && b.ToolUseID == id }) {
			missing = append(missing, id)
		}
	}
	return missing
}

// roleOf are the turns in which a block may stand.
var roleOf = map[string]string{
	"tool_use": "assistant", "thinking": "assistant", "redacted_thinking": "assistant",
	"tool_result": "user", "image": "user", "search_result": "user",
}

func (x *exchange) checkBlock(m *turn, b *block, i, j int, open []string, results bool) error {
	where := "messages." + strconv.Itoa(i) + ".content." + strconv.Itoa(j)
	if role := roleOf[b.Type]; role != "" && role != m.Role || m.Role == "system" && b.Type != "text" {
		return invalid("%s: `%s` blocks can only be in `%s` messages", where, b.Type, role)
	}
	switch b.Type {
	case "text":
		switch {
		case b.Text == "":
			return invalid("messages: text content blocks must be non-empty")
		case strings.TrimSpace(b.Text) == "":
			return invalid("messages: text content blocks must contain non-whitespace text")
		case len(b.Citations) > 0 && m.Role == "user" && x.version == newVersion:
			return invalid("%s.text.citations: Extra inputs are not permitted", where)
		}
	case "document":
		if m.Role == "assistant" && x.version == newVersion {
			return invalid("%s: `document` blocks are not permitted in `assistant` messages", where)
		}
		return base(where, b)
	case "image":
		return base(where, b)
	case "tool_use":
		switch {
		case !callID.MatchString(b.ID):
			return invalid("%s.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'", where)
		case !toolName.MatchString(b.Name):
			return invalid("%s.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'", where)
		}
	case "tool_result":
		switch {
		case !slices.Contains(open, b.ToolUseID):
			return invalid("%s: unexpected `tool_use_id` found in `tool_result` blocks: %s. Each `tool_result` block must have a corresponding `tool_use` block in the previous message.", where, b.ToolUseID)
		case !results:
			return invalid("%s: `tool_result` blocks must come before other content", where)
		}
		var inner []block
		json.Unmarshal(b.Content, &inner)
		for _, in := range inner {
			if in.Type == "text" && in.Text == "" {
				return invalid("messages: text content blocks must be non-empty")
			}
		}
	case "thinking":
		if !mock.Sealed(sealer, b.Signature, b.Thinking) {
			return invalid("%s: Invalid `signature` in `thinking` block", where)
		}
	case "redacted_thinking":
		if !mock.Sealed(sealer, b.Data, "redacted") {
			return invalid("%s: Invalid `data` in `redacted_thinking` block", where)
		}
	}
	return nil
}

// sealer names this service in what it signs.
const sealer = "anthropic"

func base(where string, b *block) error {
	if b.Source.Type == "base64" {
		if _, err := base64.StdEncoding.DecodeString(b.Source.Data); err != nil || b.Source.Data == "" {
			return invalid("%s.%s.source.base64.data: The input is not valid base64", where, b.Type)
		}
	}
	return nil
}

// spoken is how many turns there are without instructions behind the last one.
func (q *request) spoken() int {
	n := len(q.Messages)
	for n > 1 && q.Messages[n-1].Role == "system" {
		n--
	}
	return n
}

// checkReplay checks that a turn whose calls are being answered comes back with
// the thinking that it began with.
func (x *exchange) checkReplay(q *request) error {
	n := q.spoken()
	if q.Messages[n-1].Role == "assistant" && q.thinks() {
		return invalid("This model does not support assistant message prefill when thinking is enabled. The conversation must end with a user message.")
	}
	if q.Thinking.Type != "enabled" || n < 2 {
		return nil
	}
	last, calls := q.Messages[n-1], q.Messages[n-2]
	if last.Role != "user" || calls.Role != "assistant" || last.blocks[0].Type != "tool_result" {
		return nil
	}
	if first := calls.blocks[0].Type; first != "thinking" && first != "redacted_thinking" {
		return invalid("messages.%d.content.0.type: Expected `thinking` or `redacted_thinking`, but found `%s`. When `thinking` is enabled, a final `assistant` message must start with a thinking block.", n-2, first)
	}
	return nil
}

// checkMarks counts the marks of what is to be cached.
func (x *exchange) checkMarks(*request) error {
	var v any
	json.Unmarshal(x.Body, &v)
	if n := marks(v); n > 4 {
		return invalid("A maximum of 4 blocks with cache_control may be provided. Found %d.", n)
	}
	return nil
}

func marks(v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += marks(e)
		}
	case map[string]any:
		for name, e := range v {
			switch name {
			case "cache_control":
				if e != nil {
					n++
				}
			case "input", "input_schema", "schema":
			default:
				n += marks(e)
			}
		}
	}
	return n
}
