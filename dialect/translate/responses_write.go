package translate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// responsesNames is what the Responses API allows in the name of a tool.
var responsesNames = nameRule{most: 64}

// The greatest length of ids and keys that the Responses API takes, and the least
// bound on an answer.
const (
	responsesMaxID     = 64
	responsesMinTokens = 16
)

func (r *Request) writeResponses() error {
	c, w := r.c, &r.w
	w.open('{')
	w.member("model", r.o.Model)
	if err := r.responsesInput(); err != nil {
		return err
	}
	if err := r.responsesTools(); err != nil {
		return err
	}
	r.responsesText()
	thinks := r.responsesReasoning()
	if c.Counting {
		w.shut('}')
		return nil
	}
	if n := r.bound(); n > 0 {
		if n < responsesMinTokens {
			r.drop(boundFields[c.From])
		}
		w.intMember("max_output_tokens", max(n, responsesMinTokens))
	}
	if thinking, _ := openAIModel(r.o.Model); thinking && c.Reasoning.Effort != "none" {
		r.dropUsed(temperature)
		r.dropUsed(topP)
	} else {
		w.numberIf("temperature", c.Temperature)
		w.numberIf("top_p", c.TopP)
	}
	if thinks {
		w.name("include")
		w.literal(`["reasoning.encrypted_content"]`)
	}
	r.responsesTier()
	if len(c.Metadata) > 0 {
		w.rawMember("metadata", c.Metadata)
	}
	if c.EndUser != "" {
		// What Messages calls a user id may be longer than is taken here, and more
		// than a name.
		w.member("safety_identifier", responsesKey(c.EndUser, c.From == dialect.Messages))
	}
	if c.CacheKey != "" {
		w.member("prompt_cache_key", responsesKey(c.CacheKey, false))
	}
	w.boolMember("store", false)
	if c.Stream {
		w.boolMember("stream", true)
	}
	w.shut('}')
	return nil
}

// responsesKey returns a key as it is, or a hash of one that is too long.
func responsesKey(key string, hash bool) string {
	if !hash && len(key) <= responsesMaxID {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// responsesReasoning writes how much to think and says whether to ask for the
// sealed form of the thoughts, without which they cannot be taken up again.
func (r *Request) responsesReasoning() bool {
	w, g := &r.w, &r.c.Reasoning
	effort := g.Effort
	if effort == "" && g.Budget > 0 {
		effort = effortOf(g.Budget)
	}
	wanted := effort != "" || g.Visible
	thinking, plain := openAIModel(r.o.Model)
	if plain {
		if wanted {
			field := g.Field
			if field == "" {
				field = "reasoning"
			}
			r.drop(field)
		}
		return false
	}
	if wanted {
		w.name("reasoning")
		w.open('{')
		w.memberIf("effort", effort)
		if g.Visible {
			summary := g.Summary
			if summary == "" {
				summary = "auto"
			}
			w.member("summary", summary)
		}
		w.shut('}')
	}
	// Models that do not reason refuse to be asked for it.
	return effort != "none" && (wanted || g.Sealed && thinking)
}

// responsesTier writes the service tier. Dialects have words of their own for it.
func (r *Request) responsesTier() {
	tier := strings.ToLower(r.c.Tier)
	switch tier {
	case "":
		return
	case "auto", "default", "flex", "scale", "priority":
	case "standard", "standard_only":
		tier = "default"
	default:
		r.dropUsed(serviceTier)
		return
	}
	r.w.member("service_tier", tier)
}

func (r *Request) responsesText() {
	w, f := &r.w, &r.c.Format
	if f.Kind == AnyFormat && r.c.Verbosity == "" {
		return
	}
	w.name("text")
	w.open('{')
	switch f.Kind {
	case JSONFormat:
		w.name("format")
		w.literal(`{"type":"json_object"}`)
	case SchemaFormat:
		w.name("format")
		w.open('{')
		w.member("type", "json_schema")
		name := f.Name
		if !responsesNames.allowed(name) {
			name = "response" // the dialect wants one
		}
		w.member("name", name)
		w.memberIf("description", f.Description)
		w.rawMember("schema", f.Schema)
		// The others know no formats that are not strict.
		strict := f.Strict != nil && *f.Strict
		if f.Strict == nil && (r.c.From == dialect.Messages || r.c.From == dialect.Gemini) {
			strict = strictSchema(f.Schema)
		}
		w.boolMember("strict", strict)
		w.shut('}')
	}
	w.memberIf("verbosity", r.c.Verbosity)
	w.shut('}')
}

// Tools.

func (r *Request) responsesName(t toolName) string { return r.names.send(t, responsesNames) }

func (r *Request) responsesTools() error {
	w, c := &r.w, r.c
	if len(c.Tools) == 0 {
		return nil // a choice among none is refused by some servers
	}
	w.name("tools")
	w.open('[')
	for i := range c.Tools {
		t := &c.Tools[i]
		w.open('{')
		if t.Custom {
			w.member("type", "custom")
		} else {
			w.member("type", "function")
		}
		w.member("name", r.responsesName(toolName{t.Space, t.Name, t.Custom}))
		w.memberIf("description", t.Description)
		switch {
		case !t.Custom:
			w.name("parameters")
			w.b = appendObjectSchema(w.b, t.Schema)
			// Here a tool is strict unless it says that it is not.
			strict := t.Strict != nil && *t.Strict
			if strict && c.From == dialect.Messages {
				strict = strictSchema(t.Schema)
			}
			w.boolMember("strict", strict)
		case len(t.Grammar) > 0:
			w.name("format")
			w.raw(flatGrammar(t.Grammar))
		}
		w.shut('}')
	}
	w.shut(']')
	if err := r.responsesChoice(); err != nil {
		return err
	}
	if c.Serial {
		w.boolMember("parallel_tool_calls", false)
	}
	return nil
}

func (r *Request) responsesChoice() error {
	w, c := &r.w, &r.c.Choice
	word := [...]string{Auto: "auto", Required: "required", None: "none"}[c.Mode]
	if word == "" {
		return nil
	}
	if len(c.Only) == 0 || c.Mode == None {
		w.member("tool_choice", word)
		return nil
	}
	w.name("tool_choice")
	one := func(name string) error {
		i := slices.IndexFunc(r.c.Tools, func(t Tool) bool { return t.Name == name })
		if i < 0 {
			return bad(c.Field, "the tool %q of %s is not among the tools", clip(name), c.Field)
		}
		t := &r.c.Tools[i]
		w.open('{')
		if t.Custom {
			w.member("type", "custom")
		} else {
			w.member("type", "function")
		}
		w.member("name", r.responsesName(toolName{t.Space, t.Name, t.Custom}))
		w.shut('}')
		return nil
	}
	if len(c.Only) == 1 && c.Mode == Required {
		return one(c.Only[0])
	}
	w.open('{')
	w.member("type", "allowed_tools")
	w.member("mode", word)
	w.name("tools")
	w.open('[')
	for _, name := range c.Only {
		if err := one(name); err != nil {
			return err
		}
	}
	w.shut(']')
	w.shut('}')
	return nil
}

// appendObjectSchema appends the schema of a tool's arguments. It must be one of
// an object that names its properties, if there are none too.
func appendObjectSchema(out, schema []byte) []byte {
	typed, named, other := false, false, false
	s := newSource(schema)
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			typed = true
		case "properties":
			named = true
		case "$ref", "anyOf", "oneOf", "allOf":
			other = true
		}
		s.skip()
	})
	inner := bytes.TrimSpace(schema)
	switch {
	case s.err != nil || len(inner) < 2 || inner[0] != '{':
		return append(out, `{"type":"object","properties":{}}`...)
	case typed && (named || other):
		return append(out, schema...)
	}
	out = append(out, '{')
	if !typed {
		out = append(out, `"type":"object",`...)
	}
	if !named && !other {
		out = append(out, `"properties":{},`...)
	}
	if inner = bytes.TrimSpace(inner[1:]); inner[0] == '}' {
		out = out[:len(out)-1]
	}
	return append(out, inner...)
}

// flatGrammar returns the format of a custom tool as the Responses API has it;
// Chat Completions puts its members one level deeper.
func flatGrammar(format []byte) []byte {
	s := newSource(format)
	var inner []byte
	s.object(func(name []byte) {
		if string(name) == "grammar" {
			inner = s.raw()
			return
		}
		s.skip()
	})
	if s.err != nil || len(inner) < 2 || inner[0] != '{' {
		return format
	}
	flat := []byte(`{"type":"grammar"`)
	if rest := bytes.TrimSpace(inner[1:]); rest[0] != '}' {
		flat = append(append(flat, ','), rest...)
	} else {
		flat = append(flat, '}')
	}
	return flat
}

// The conversation.

func (r *Request) responsesInput() error {
	w, c := &r.w, r.c
	// Instructions alone are no input; and a format of JSON is only taken where
	// the input speaks of it.
	system := -1
	for i := range c.System {
		switch {
		case c.System[i].Text == "":
		case system < 0 && len(c.Turns) > 0 && c.Format.Kind != JSONFormat:
			system = i
		default:
			system = len(c.System)
		}
	}
	if system >= 0 && system < len(c.System) {
		w.member("instructions", c.System[system].Text)
	}
	w.name("input")
	w.open('[')
	if system == len(c.System) && system > 0 {
		if err := r.responsesMessage("system", c.System); err != nil {
			return err
		}
	}
	for i := range c.Turns {
		if err := r.responsesTurn(&c.Turns[i]); err != nil {
			return err
		}
	}
	w.shut(']')
	return nil
}

// responsesRoles are how the roles are called. System is for instructions in the
// middle.
var responsesRoles = [...]string{User: "user", Assistant: "assistant", System: "developer"}

// responsesTurn writes the items that a turn is.
func (r *Request) responsesTurn(t *Turn) error {
	// A thought is only taken with the item that came of it behind it.
	var thoughts []*Part
	for i := 0; i < len(t.Parts); {
		p := &t.Parts[i]
		if p.Kind == Thought {
			if r.readable(&p.State) && p.State.ID != "" {
				thoughts = append(thoughts, p)
			}
			i++
			continue
		}
		end := i + 1
		for end < len(t.Parts) && isContent(p.Kind) && isContent(t.Parts[end].Kind) {
			end++
		}
		said := t.Parts[i:end]
		i = end
		if isContent(p.Kind) && !slices.ContainsFunc(said, func(p Part) bool { return p.Media != nil || p.Text != "" }) {
			continue
		}
		for _, p := range thoughts {
			r.responsesThought(p)
		}
		thoughts = nil
		var err error
		switch p.Kind {
		case Call:
			r.responsesCall(p.Call)
		case Result:
			err = r.responsesResult(p.Result)
		default:
			err = r.responsesMessage(responsesRoles[t.Role], said)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isContent says whether a part belongs into a message.
func isContent(k Kind) bool { return k != Thought && k != Call && k != Result }

func (r *Request) responsesThought(p *Part) {
	w := &r.w
	w.open('{')
	w.member("type", "reasoning")
	w.member("id", p.State.ID)
	w.name("summary")
	w.open('[')
	if p.Text != "" {
		w.open('{')
		w.member("type", "summary_text")
		w.member("text", p.Text)
		w.shut('}')
	}
	w.shut(']')
	w.member("encrypted_content", p.State.Data)
	w.shut('}')
}

func (r *Request) responsesCall(call *ToolCall) {
	w := &r.w
	w.open('{')
	if call.Custom {
		w.member("type", "custom_tool_call")
	} else {
		w.member("type", "function_call")
	}
	w.member("call_id", safeID(call.ID, responsesMaxID))
	w.member("name", r.responsesName(toolName{call.Space, call.Name, call.Custom}))
	switch {
	case call.Custom:
		w.member("input", call.Arguments)
	case call.Arguments == "":
		w.member("arguments", "{}")
	default:
		w.member("arguments", call.Arguments)
	}
	w.shut('}')
}

// failedPrefix says in words that a call went wrong: there is no other place.
const failedPrefix = "Error: "

func (r *Request) responsesResult(res *ToolResult) error {
	w := &r.w
	w.open('{')
	if res.Custom {
		w.member("type", "custom_tool_call_output")
	} else {
		w.member("type", "function_call_output")
	}
	w.member("call_id", safeID(res.ID, responsesMaxID))
	parts, prefix := res.Parts, ""
	if res.Failed {
		prefix = failedPrefix
	}
	w.name("output")
	switch {
	case len(parts) == 0:
		w.string(prefix)
	case len(parts) == 1 && parts[0].Kind == Text:
		w.string(prefix + parts[0].Text)
	default:
		if prefix != "" {
			parts = append([]Part{{Kind: Text, Text: prefix}}, parts...)
		}
		if err := r.responsesParts(parts, "input_text"); err != nil {
			return err
		}
	}
	w.shut('}')
	return nil
}

func (r *Request) responsesMessage(role string, parts []Part) error {
	w := &r.w
	w.open('{')
	w.member("type", "message")
	w.member("role", role)
	w.name("content")
	kind := "input_text"
	if role == "assistant" {
		kind = "output_text"
	}
	if err := r.responsesParts(parts, kind); err != nil {
		return err
	}
	w.shut('}')
	return nil
}

// responsesParts writes a list of content. text is the type of its texts.
func (r *Request) responsesParts(parts []Part, text string) error {
	w := &r.w
	w.open('[')
	for i := range parts {
		p := &parts[i]
		if p.Media == nil && p.Text == "" {
			continue
		}
		if p.Media != nil && text == "output_text" {
			return bad(p.Field, "%s: what the assistant said can only be text in the Responses API, which serves the model %q", p.Field, r.c.Asked)
		}
		w.open('{')
		switch {
		case p.Kind == Refusal && text == "output_text":
			w.member("type", "refusal")
			w.member("refusal", p.Text)
		case p.Media == nil:
			w.member("type", text)
			w.member("text", p.Text)
		default:
			if err := r.responsesMedium(p); err != nil {
				return err
			}
		}
		w.shut('}')
	}
	w.shut(']')
	return nil
}

// responsesMedium writes the members of a part that is an image, file or sound.
func (r *Request) responsesMedium(p *Part) error {
	w, m := &r.w, p.Media
	if m.ID != "" {
		return r.refuse(fileID, p.Field)
	}
	switch p.Kind {
	case Image:
		w.member("type", "input_image")
		if m.URL != "" {
			w.member("image_url", m.URL)
		} else {
			w.name("image_url")
			responsesData(w, m, "image/png")
		}
		w.memberIf("detail", m.Detail)
	case File:
		switch {
		case m.Plain != "":
			w.member("type", "input_text")
			w.member("text", m.Plain)
		case m.URL != "":
			w.member("type", "input_file")
			w.member("file_url", m.URL)
		default:
			w.member("type", "input_file")
			name := m.Name
			if name == "" {
				name = "document.pdf"
			}
			w.member("filename", name)
			w.name("file_data")
			responsesData(w, m, "application/pdf")
		}
	case Audio:
		format := ""
		switch m.Type {
		case "audio/wav", "audio/wave", "audio/x-wav":
			format = "wav"
		case "audio/mpeg", "audio/mp3":
			format = "mp3"
		}
		if m.Data == "" || format == "" {
			return bad(p.Field, "%s: only sound that is sent along as wav or mp3 can be expressed in the Responses API, which serves the model %q", p.Field, r.c.Asked)
		}
		w.member("type", "input_audio")
		w.name("input_audio")
		w.open('{')
		w.member("data", m.Data)
		w.member("format", format)
		w.shut('}')
	default:
		return r.refuse(videoIn, p.Field)
	}
	return nil
}

// responsesData writes the bytes of a medium as a data URL.
func responsesData(w *writer, m *Media, otherwise string) {
	kind := m.Type
	if kind == "" {
		kind = otherwise
	}
	w.comma()
	w.b = append(w.b, '"')
	w.b = appendEscaped(append(appendEscaped(append(w.b, "data:"...), kind), ";base64,"...), m.Data)
	w.b = append(w.b, '"')
}
