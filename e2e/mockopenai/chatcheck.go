package mockopenai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/floway/floway/e2e/mock"
)

// chatRequest reads and checks the body of a chat completion.
func (x *exchange) chatRequest() (*chatRequest, error) {
	q := &chatRequest{parallel: true, n: 1}
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	q.reasoning = base == "mock-reasoner"
	steps := []func(*chatRequest) error{
		x.chatNumbers, x.streamOptions, x.chatTools, x.chatToolChoice, x.chatMessages, x.responseFormat,
	}
	for _, step := range steps {
		if err := step(q); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (x *exchange) chatNumbers(q *chatRequest) error {
	if x.has("max_tokens") && x.has("max_completion_tokens") {
		return bad("max_tokens", "invalid_parameter_combination", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	}
	if q.reasoning && x.has("max_tokens") {
		return bad("max_tokens", "unsupported_parameter", "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
	}
	if x.has("reasoning_effort") && !q.reasoning && x.How.Scenario != mock.Thinking {
		return bad("reasoning_effort", "unsupported_parameter", "Unrecognized request argument supplied: reasoning_effort")
	}
	ranges := []struct {
		name      string
		low, high float64
	}{
		{"temperature", 0, 2},
		{"top_p", 0, 1},
		{"frequency_penalty", -2, 2},
		{"presence_penalty", -2, 2},
		{"n", 1, 128},
		{"top_logprobs", 0, 20},
		{"max_tokens", 1, 1 << 40},
		{"max_completion_tokens", 1, 1 << 40},
	}
	for _, r := range ranges {
		if err := x.between(r.name, r.low, r.high); err != nil {
			return err
		}
	}
	if err := x.oneOf("reasoning_effort", "none", "minimal", "low", "medium", "high", "xhigh", "max"); err != nil {
		return err
	}
	if err := x.oneOf("verbosity", "low", "medium", "high"); err != nil {
		return err
	}
	if err := x.oneOf("service_tier", "auto", "default", "flex", "scale", "priority"); err != nil {
		return err
	}
	var modalities []string
	if err := x.decode("modalities", &modalities); err != nil {
		return err
	}
	if slices.Contains(modalities, "audio") {
		return bad("modalities", "unsupported_value", "This model does not support the audio modality.")
	}
	x.decode("n", &q.n)
	x.decode("max_tokens", &q.limit)
	x.decode("max_completion_tokens", &q.limit)
	x.decode("logprobs", &q.logprobs)
	if x.has("top_logprobs") && !q.logprobs {
		return bad("top_logprobs", "", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
	}
	return nil
}

// streamOptions checks stream_options, which the older endpoints share.
func (x *exchange) streamOptions(q *chatRequest) error {
	if !x.has("stream_options") {
		return nil
	}
	if !x.Entry.Stream {
		return bad("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	options, err := object(x.member["stream_options"])
	if err != nil {
		return err
	}
	for name, value := range options {
		if name != "include_usage" && name != "include_obfuscation" {
			return bad("stream_options."+name, "unknown_parameter", "Unknown parameter: 'stream_options.%s'.", name)
		}
		if !isNull(value) && !boolean.holds(value) {
			return bad("stream_options."+name, "invalid_type", "Invalid type for 'stream_options.%s': expected a boolean, but got %s instead.", name, describe(value))
		}
	}
	q.usage = string(options["include_usage"]) == "true"
	return nil
}

func (x *exchange) chatTools(q *chatRequest) error {
	if !x.has("tools") {
		for _, name := range []string{"tool_choice", "parallel_tool_calls"} {
			if x.has(name) {
				return bad(name, "", "Invalid value for '%s': '%s' is only allowed when 'tools' are specified.", name, name)
			}
		}
		return nil
	}
	if err := x.decode("tools", &q.tools); err != nil {
		return err
	}
	if len(q.tools) == 0 {
		return bad("tools", "empty_array", "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	}
	x.decode("parallel_tool_calls", &q.parallel)
	for i := range q.tools {
		t := &q.tools[i]
		where := fmt.Sprintf("tools[%d]", i)
		switch {
		case t.Type == "function" && t.Function != nil, t.Type == "custom" && t.Custom != nil:
		case t.Type != "function" && t.Type != "custom":
			return bad(where+".type", "invalid_value", "Invalid value: '%s'. Supported values are: 'function' and 'custom'.", t.Type)
		default:
			return bad(where+"."+t.Type, "missing_required_parameter", "Missing required parameter: '%s.%s'.", where, t.Type)
		}
		if !toolName.MatchString(t.name()) {
			return bad(where+"."+t.Type+".name", "invalid_value", "Invalid '%s.%s.name': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.", where, t.Type)
		}
		if t.Function != nil && !isNull(t.Function.Parameters) {
			if err := checkSchema(where+".function.parameters", t.Function.Parameters, t.Function.Strict != nil && *t.Function.Strict); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkSchema checks what the service checks of the JSON schema of an object.
func checkSchema(where string, raw json.RawMessage, strict bool) error {
	var s struct{ Type any }
	if err := json.Unmarshal(raw, &s); err != nil || s.Type != "object" {
		return bad(where, "invalid_function_parameters", "Invalid schema: schema must be a JSON Schema of 'type: \"object\"', got 'type: %v'.", s.Type)
	}
	if !strict {
		return nil
	}
	return checkStrict(where, raw)
}

// checkStrict checks that a schema says everything of its objects.
func checkStrict(where string, raw json.RawMessage) error {
	var s struct {
		Type                 any
		Properties           map[string]json.RawMessage
		Required             []string
		AdditionalProperties json.RawMessage
		Items                json.RawMessage
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return bad(where, "invalid_function_parameters", "Invalid schema: %v", err)
	}
	if s.Type == "object" && string(s.AdditionalProperties) != "false" {
		return bad(where, "invalid_function_parameters", "Invalid schema: In context=(), 'additionalProperties' is required to be supplied and to be false.")
	}
	for _, name := range sortedKeys(s.Properties) {
		if !slices.Contains(s.Required, name) {
			return bad(where, "invalid_function_parameters", "Invalid schema: In context=(), 'required' is required to be supplied and to be an array including every key in properties. Missing '%s'.", name)
		}
		if err := checkStrict(where, s.Properties[name]); err != nil {
			return err
		}
	}
	if len(s.Items) > 0 {
		return checkStrict(where, s.Items)
	}
	return nil
}

func (x *exchange) chatToolChoice(q *chatRequest) error {
	raw := x.member["tool_choice"]
	if isNull(raw) {
		return nil
	}
	if text.holds(raw) {
		json.Unmarshal(raw, &q.choice.mode)
		return choice("tool_choice", q.choice.mode, "none", "auto", "required")
	}
	var c struct {
		Type             string
		Function, Custom *struct{ Name string }
		AllowedTools     *struct {
			Mode  string
			Tools []json.RawMessage
		} `json:"allowed_tools"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return bad("tool_choice", "invalid_type", "Invalid value for 'tool_choice': %v", err)
	}
	q.choice.mode = "named"
	switch {
	case c.Type == "function" && c.Function != nil:
		q.choice.name = c.Function.Name
	case c.Type == "custom" && c.Custom != nil:
		q.choice.name = c.Custom.Name
	case c.Type == "allowed_tools" && c.AllowedTools != nil:
		q.choice.mode = c.AllowedTools.Mode
		return choice("tool_choice.allowed_tools.mode", q.choice.mode, "auto", "required")
	default:
		return bad("tool_choice", "invalid_value", "Invalid value for 'tool_choice'.")
	}
	if !slices.ContainsFunc(q.tools, func(t chatTool) bool { return t.name() == q.choice.name }) {
		return bad("tool_choice", "invalid_value", "Invalid value for 'tool_choice': tool '%s' is not in 'tools'.", q.choice.name)
	}
	return nil
}

func (x *exchange) chatMessages(q *chatRequest) error {
	if !x.has("messages") {
		return bad("messages", "missing_required_parameter", "Missing required parameter: 'messages'.")
	}
	d := json.NewDecoder(bytes.NewReader(x.member["messages"]))
	d.DisallowUnknownFields()
	if err := d.Decode(&q.messages); err != nil {
		return bad("messages", "invalid_type", "Invalid value for 'messages': %v", err)
	}
	if len(q.messages) == 0 {
		return bad("messages", "empty_array", "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	}
	open := map[string]bool{} // calls that wait for their tool message
	for i := range q.messages {
		m := &q.messages[i]
		where := fmt.Sprintf("messages[%d]", i)
		if m.Role != "tool" && len(open) > 0 {
			return bad(where, "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: %s", strings.Join(sortedKeys(open), ", "))
		}
		var err error
		switch m.Role {
		case "system", "developer":
			err = checkParts(where, m.Content, true, "text")
		case "user":
			err = checkParts(where, m.Content, true, "text", "image_url", "input_audio", "file")
		case "assistant":
			speaks := len(m.ToolCalls) > 0 || !isNull(m.FunctionCall) || m.Refusal != nil || !isNull(m.Audio)
			err = checkParts(where, m.Content, !speaks, "text", "refusal")
			if err == nil {
				err = checkCalls(where, m, open)
			}
		case "tool":
			if m.ToolCallID == "" {
				return bad(where+".tool_call_id", "missing_required_parameter", "Missing required parameter: '%s.tool_call_id'.", where)
			}
			if !open[m.ToolCallID] {
				return bad(where+".role", "", "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")
			}
			delete(open, m.ToolCallID)
			err = checkParts(where, m.Content, true, "text")
		case "function":
			if m.Name == "" {
				return bad(where+".name", "missing_required_parameter", "Missing required parameter: '%s.name'.", where)
			}
		default:
			return bad(where+".role", "invalid_value", "Invalid value: '%s'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.", m.Role)
		}
		if err != nil {
			return err
		}
	}
	if len(open) > 0 {
		return bad("messages", "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: %s", strings.Join(sortedKeys(open), ", "))
	}
	return nil
}

func checkCalls(where string, m *chatMessage, open map[string]bool) error {
	for j, c := range m.ToolCalls {
		here := fmt.Sprintf("%s.tool_calls[%d]", where, j)
		switch {
		case c.ID == "":
			return bad(here+".id", "missing_required_parameter", "Missing required parameter: '%s.id'.", here)
		case c.Type == "function" && c.Function != nil && c.Function.Arguments != nil && c.Function.Name != "":
		case c.Type == "custom" && c.Custom != nil && c.Custom.Input != nil && c.Custom.Name != "":
		default:
			return bad(here, "missing_required_parameter", "Missing required parameter: '%s.function'.", here)
		}
		if open[c.ID] {
			return bad(here+".id", "invalid_value", "Duplicate tool call id '%s'.", c.ID)
		}
		open[c.ID] = true
	}
	return nil
}

// checkParts checks content that is a string or an array of parts of the given
// types.
func checkParts(where string, raw json.RawMessage, required bool, types ...string) error {
	where += ".content"
	switch {
	case isNull(raw) && required:
		return bad(where, "invalid_type", "Invalid value for 'content': expected a string, got null.")
	case isNull(raw), text.holds(raw):
		return nil
	case !list.holds(raw):
		return bad(where, "invalid_type", "Invalid type for '%s': expected one of a string or array of objects, but got %s instead.", where, describe(raw))
	}
	var parts []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return bad(where, "invalid_type", "Invalid type for '%s': %v", where, err)
	}
	if len(parts) == 0 {
		return bad(where, "empty_array", "Invalid '%s': empty array.", where)
	}
	for i, p := range parts {
		here := fmt.Sprintf("%s[%d]", where, i)
		var kind string
		json.Unmarshal(p["type"], &kind)
		if err := choice(here+".type", kind, types...); err != nil {
			return err
		}
		if isNull(p[kind]) {
			return bad(here+"."+kind, "missing_required_parameter", "Missing required parameter: '%s.%s'.", here, kind)
		}
		var known []string
		switch kind {
		case "image_url":
			known = []string{"url", "detail"}
		case "input_audio":
			known = []string{"data", "format"}
		case "file":
			known = []string{"file_data", "file_id", "filename"}
		default:
			if !text.holds(p[kind]) {
				return bad(here+"."+kind, "invalid_type", "Invalid type for '%s.%s': expected a string, but got %s instead.", here, kind, describe(p[kind]))
			}
			continue
		}
		inner, err := object(p[kind])
		if err != nil {
			return bad(here+"."+kind, "invalid_type", "Invalid type for '%s.%s': expected an object, but got %s instead.", here, kind, describe(p[kind]))
		}
		for name := range inner {
			if !slices.Contains(known, name) {
				return bad(here+"."+kind+"."+name, "unknown_parameter", "Unknown parameter: '%s.%s.%s'.", here, kind, name)
			}
		}
	}
	return nil
}

func (x *exchange) responseFormat(q *chatRequest) error {
	if !x.has("response_format") {
		return nil
	}
	var f struct {
		Type       string
		JSONSchema *struct {
			Name        string
			Description string
			Schema      json.RawMessage
			Strict      bool
		} `json:"json_schema"`
	}
	if err := x.decode("response_format", &f); err != nil {
		return err
	}
	switch f.Type {
	case "text":
		return nil
	case "json_object":
		if !strings.Contains(strings.ToLower(string(x.member["messages"])), "json") {
			return bad("messages", "", "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
		}
		q.schema = json.RawMessage(`{"type":"object","properties":{"answer":{"type":"string"}}}`)
		return nil
	case "json_schema":
		if f.JSONSchema == nil || isNull(f.JSONSchema.Schema) {
			return bad("response_format.json_schema", "missing_required_parameter", "Missing required parameter: 'response_format.json_schema'.")
		}
		if !toolName.MatchString(f.JSONSchema.Name) {
			return bad("response_format.json_schema.name", "invalid_value", "Invalid 'response_format.json_schema.name': string does not match pattern.")
		}
		q.schema = f.JSONSchema.Schema
		return checkSchema("response_format.json_schema.schema", q.schema, f.JSONSchema.Strict)
	default:
		return bad("response_format.type", "invalid_value", "Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', and 'text'.", f.Type)
	}
}
