package mockopenai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// responseRequest is what of a request decides the answer.
type responseRequest struct {
	input      []json.RawMessage
	tools      []responseTool
	choice     toolChoice
	parallel   bool
	limit      int64
	prompt     int64 // tokens of it
	schema     json.RawMessage
	store      bool
	background bool
	reasons    bool // the model reasons
	summary    bool // and shows a summary
	encrypted  bool // and its reasoning can be brought back
	// answersCalls: the input ends with outputs of tools.
	answersCalls bool
}

type responseTool struct {
	Type       string          `json:"type"`
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
	Strict     *bool           `json:"strict"`
	Function   json.RawMessage `json:"function"` // the shape of another API
}

var hostedTools = []string{
	"web_search", "web_search_preview", "file_search", "computer", "computer_use_preview", "code_interpreter", "image_generation",
	"mcp", "local_shell", "shell", "apply_patch", "tool_search", "programmatic_tool_calling", "namespace",
}

// responseRequest reads and checks a body of the Responses API.
func (x *exchange) responseRequest() (*responseRequest, error) {
	q := &responseRequest{parallel: true, store: true}
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	q.reasons = base == "mock-reasoner" || x.How.Scenario == mock.Thinking
	for _, step := range []func(*responseRequest) error{x.responseNumbers, x.responseTools, x.responseText, x.responseInput} {
		if err := step(q); err != nil {
			return nil, err
		}
	}
	q.prompt += count(string(x.member["instructions"])) + count(string(x.member["tools"]))
	return q, nil
}

func (x *exchange) responseNumbers(q *responseRequest) error {
	if err := x.between("max_output_tokens", 16, 1<<40); err != nil {
		return &Error{Status: 400, Code: "integer_below_min_value", Param: "max_output_tokens", Message: "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16."}
	}
	if err := x.between("temperature", 0, 2); err != nil {
		return err
	}
	if err := x.between("top_p", 0, 1); err != nil {
		return err
	}
	if err := x.oneOf("truncation", "auto", "disabled"); err != nil {
		return err
	}
	x.decode("max_output_tokens", &q.limit)
	x.decode("store", &q.store)
	x.decode("background", &q.background)
	if q.background && !q.store {
		return bad("background", "", "Background mode requires 'store' to be true.")
	}
	if x.has("stream_options") {
		if !x.Entry.Stream {
			return bad("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
		}
		options, err := object(x.member["stream_options"])
		if err != nil {
			return err
		}
		for name := range options {
			if name != "include_obfuscation" {
				return bad("stream_options."+name, "unknown_parameter", "Unknown parameter: 'stream_options.%s'.", name)
			}
		}
	}
	if x.has("reasoning") {
		if !q.reasons {
			return bad("reasoning.effort", "unsupported_parameter", "Unsupported parameter: 'reasoning.effort' is not supported with this model.")
		}
		var r struct{ Effort, Summary string }
		x.decode("reasoning", &r)
		if r.Summary != "" {
			if err := choice("reasoning.summary", r.Summary, "auto", "concise", "detailed"); err != nil {
				return err
			}
		}
		q.summary = r.Summary != ""
	}
	var include []string
	if err := x.decode("include", &include); err != nil {
		return err
	}
	for _, v := range include {
		if err := choice("include", v, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs", "reasoning.encrypted_content", "message.output_text.logprobs"); err != nil {
			return err
		}
		if v == "reasoning.encrypted_content" {
			if !q.reasons {
				return bad("include", "", "Encrypted content is not supported with this model.")
			}
			q.encrypted = true
		}
	}
	return nil
}

func (x *exchange) responseTools(q *responseRequest) error {
	if err := x.decode("tools", &q.tools); err != nil {
		return err
	}
	x.decode("parallel_tool_calls", &q.parallel)
	for i := range q.tools {
		t := &q.tools[i]
		where := fmt.Sprintf("tools[%d]", i)
		switch {
		case slices.Contains(hostedTools, t.Type):
			continue
		case t.Type != "function" && t.Type != "custom":
			return bad(where+".type", "invalid_value", "Invalid value: '%s'.", t.Type)
		case len(t.Function) > 0:
			return bad(where+".function", "unknown_parameter", "Unknown parameter: '%s.function'.", where)
		case t.Name == "":
			return bad(where+".name", "missing_required_parameter", "Missing required parameter: '%s.name'.", where)
		case !toolName.MatchString(t.Name):
			return bad(where+".name", "invalid_value", "Invalid '%s.name': string does not match pattern.", where)
		}
		if t.Type == "function" && !isNull(t.Parameters) {
			// Here a tool is strict unless it says that it is not.
			if err := checkSchema(where+".parameters", t.Parameters, t.Strict == nil || *t.Strict); err != nil {
				return err
			}
		}
	}
	raw := x.member["tool_choice"]
	if isNull(raw) {
		return nil
	}
	if text.holds(raw) {
		json.Unmarshal(raw, &q.choice.mode)
		return choice("tool_choice", q.choice.mode, "none", "auto", "required")
	}
	var c struct{ Type, Name, Mode string }
	if err := x.decode("tool_choice", &c); err != nil {
		return err
	}
	switch c.Type {
	case "function", "custom":
		q.choice = toolChoice{"named", c.Name}
		if !slices.ContainsFunc(q.tools, func(t responseTool) bool { return t.Type == c.Type && t.Name == c.Name }) {
			return bad("tool_choice", "invalid_value", "Tool choice '%s' not found in 'tools' parameter.", c.Name)
		}
	case "allowed_tools":
		q.choice.mode = c.Mode
	}
	return nil
}

// chosen are the tools that the answer calls: up to two of the client's own.
func (q *responseRequest) chosen() []responseTool {
	var own []responseTool
	for _, t := range q.tools {
		if t.Type == "function" || t.Type == "custom" {
			own = append(own, t)
		}
	}
	switch q.choice.mode {
	case "none":
		return nil
	case "named":
		i := slices.IndexFunc(own, func(t responseTool) bool { return t.Name == q.choice.name })
		return own[i : i+1]
	}
	n := min(len(own), 2)
	if !q.parallel {
		n = min(n, 1)
	}
	return own[:n]
}

func (x *exchange) responseText(q *responseRequest) error {
	var t struct {
		Format *struct {
			Type       string
			Name       string
			Schema     json.RawMessage
			Strict     bool
			JSONSchema json.RawMessage `json:"json_schema"` // the shape of another API
		}
		Verbosity string
	}
	if err := x.decode("text", &t); err != nil || t.Format == nil {
		return err
	}
	switch f := t.Format; f.Type {
	case "text":
	case "json_object":
		if !strings.Contains(strings.ToLower(string(x.member["input"])), "json") {
			return bad("input", "", "Response input messages must contain the word 'json' in some form to use 'text.format' of type 'json_object'.")
		}
		q.schema = json.RawMessage(`{"type":"object","properties":{"answer":{"type":"string"}}}`)
	case "json_schema":
		switch {
		case len(f.JSONSchema) > 0:
			return bad("text.format.json_schema", "unknown_parameter", "Unknown parameter: 'text.format.json_schema'.")
		case f.Name == "":
			return bad("text.format.name", "missing_required_parameter", "Missing required parameter: 'text.format.name'.")
		case isNull(f.Schema):
			return bad("text.format.schema", "missing_required_parameter", "Missing required parameter: 'text.format.schema'.")
		}
		q.schema = f.Schema
		return checkSchema("text.format.schema", f.Schema, f.Strict)
	default:
		return bad("text.format.type", "invalid_value", "Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', and 'text'.", f.Type)
	}
	return nil
}

// inputItem is an item of the input with the members that are checked.
type inputItem struct {
	Type             string          `json:"type"`
	ID               string          `json:"id"`
	Role             string          `json:"role"`
	Content          json.RawMessage `json:"content"`
	CallID           string          `json:"call_id"`
	Name             string          `json:"name"`
	Arguments        *string         `json:"arguments"`
	Input            *string         `json:"input"`
	Output           json.RawMessage `json:"output"`
	Summary          json.RawMessage `json:"summary"`
	EncryptedContent *string         `json:"encrypted_content"`
}

func (x *exchange) responseInput(q *responseRequest) error {
	var previous string
	x.decode("previous_response_id", &previous)
	if previous != "" {
		x.s.mu.Lock()
		r, ok := x.s.stored[x.Entry.Key+"/"+previous]
		x.s.mu.Unlock()
		if !ok {
			return bad("previous_response_id", "previous_response_not_found", "Previous response with id '%s' not found.", previous)
		}
		for _, item := range r.input {
			q.prompt += count(string(item))
		}
		q.prompt += count(string(r.body)) / 8
	}
	raw := x.member["input"]
	switch {
	case isNull(raw) && previous == "" && !x.has("prompt") && !x.has("conversation"):
		return bad("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	case isNull(raw):
		return nil
	case text.holds(raw):
		q.input = []json.RawMessage{encode(map[string]any{"id": "msg_in_" + x.Digest[:24], "type": "message", "role": "user", "status": "completed", "content": []any{map[string]any{"type": "input_text", "text": raw}}})}
		q.prompt += count(string(raw))
		return nil
	case !list.holds(raw):
		return bad("input", "invalid_type", "Invalid type for 'input': expected one of a string or array of input items, but got %s instead.", describe(raw))
	}
	if err := json.Unmarshal(raw, &q.input); err != nil {
		return bad("input", "invalid_type", "Invalid value for 'input': %v", err)
	}
	calls := map[string]bool{}
	for i, item := range q.input {
		q.prompt += 3 + count(string(item))
		if err := x.checkItem(q, i, calls, previous != ""); err != nil {
			return err
		}
	}
	// A call must have its output, unless the client leaves it to the next turn.
	for _, id := range sortedKeys(calls) {
		if calls[id] {
			return bad("input", "", "No tool output found for function call %s.", id)
		}
	}
	return nil
}

// checkItem checks one item of the input. calls maps the ids of calls seen to
// whether their outputs are still to come.
func (x *exchange) checkItem(q *responseRequest, i int, calls map[string]bool, stored bool) error {
	where := fmt.Sprintf("input[%d]", i)
	var it inputItem
	if err := json.Unmarshal(q.input[i], &it); err != nil {
		return bad(where, "invalid_type", "Invalid value for '%s': %v", where, err)
	}
	kind := it.Type
	if kind == "" && it.Role != "" {
		kind = "message"
	}
	q.answersCalls = kind == "function_call_output" || kind == "custom_tool_call_output"
	switch kind {
	case "message":
		if it.ID != "" && !strings.HasPrefix(it.ID, "msg") {
			return bad(where+".id", "invalid_value", "Invalid '%s.id': '%s'. Expected an ID that begins with 'msg'.", where, it.ID)
		}
		types := []string{"input_text", "input_image", "input_file", "input_audio"}
		switch it.Role {
		case "assistant":
			types = []string{"output_text", "refusal"}
		case "user", "system", "developer":
		default:
			return bad(where+".role", "invalid_value", "Invalid value: '%s'. Supported values are: 'assistant', 'system', 'developer', and 'user'.", it.Role)
		}
		return checkItemParts(where+".content", it.Content, types)
	case "function_call", "custom_tool_call":
		if it.CallID == "" || it.Name == "" || it.Arguments == nil && it.Input == nil {
			return bad(where+".call_id", "missing_required_parameter", "Missing required parameter: '%s.call_id'.", where)
		}
		calls[it.CallID] = true
	case "function_call_output", "custom_tool_call_output":
		if isNull(it.Output) {
			return bad(where+".output", "missing_required_parameter", "Missing required parameter: '%s.output'.", where)
		}
		if _, called := calls[it.CallID]; !called && !stored {
			return bad("input", "", "No tool call found for function call output with call_id %s.", it.CallID)
		}
		calls[it.CallID] = false
		if !text.holds(it.Output) {
			return checkItemParts(where+".output", it.Output, []string{"input_text", "input_image", "input_file"})
		}
	case "reasoning":
		if isNull(it.Summary) {
			return bad(where+".summary", "missing_required_parameter", "Missing required parameter: '%s.summary'.", where)
		}
		if it.EncryptedContent == nil {
			return &Error{Status: 404, Param: "input", Message: "Item with id '" + it.ID + "' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input."}
		}
		if i == len(q.input)-1 || !bytes.Contains(q.input[i+1], []byte(`"assistant"`)) && !bytes.Contains(q.input[i+1], []byte(`_call"`)) {
			return bad("input", "", "Item '%s' of type 'reasoning' was provided without its required following item.", it.ID)
		}
		return x.unseal(*it.EncryptedContent, it.ID)
	case "compaction":
		if it.EncryptedContent == nil {
			return bad(where+".encrypted_content", "missing_required_parameter", "Missing required parameter: '%s.encrypted_content'.", where)
		}
		return x.unseal(*it.EncryptedContent, it.ID)
	case "item_reference":
		return &Error{Status: 404, Param: "input", Message: "Item with id '" + it.ID + "' not found."}
	default:
		if !strings.HasSuffix(kind, "_call") && !strings.HasSuffix(kind, "_output") && !strings.HasPrefix(kind, "mcp_") && kind != "compaction_trigger" {
			return bad(where+".type", "invalid_value", "Invalid value: '%s'.", it.Type)
		}
	}
	return nil
}

func checkItemParts(where string, raw json.RawMessage, types []string) error {
	if text.holds(raw) {
		return nil
	}
	var parts []struct {
		Type    string
		Text    *string
		Refusal *string
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return bad(where, "invalid_type", "Invalid value for '%s': %v", where, err)
	}
	for i, p := range parts {
		here := fmt.Sprintf("%s[%d]", where, i)
		if err := choice(here+".type", p.Type, types...); err != nil {
			return err
		}
		if strings.HasSuffix(p.Type, "_text") && p.Text == nil {
			return bad(here+".text", "missing_required_parameter", "Missing required parameter: '%s.text'.", here)
		}
	}
	return nil
}
