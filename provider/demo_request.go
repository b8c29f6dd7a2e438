package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/floway/floway/dialect"
)

// What the demo reads of requests. Only what its answers depend on is decoded.

// decode reads a body; a *dialect.Error says what is wrong with it.
func decode(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return malformed("", "the request's body is not valid JSON")
	case errors.As(err, &kind) && !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")):
		return malformed("", "the request's body must be a JSON object")
	case errors.As(err, &kind) && kind.Field == "":
		return malformed("", "the request has a %s in a place where none belongs", kind.Value)
	case errors.As(err, &kind):
		return malformed(kind.Field, "%s: a %s does not belong here", kind.Field, kind.Value)
	}
	return malformed("", "%s", err)
}

func malformed(param, format string, args ...any) error {
	return &dialect.Error{Fault: dialect.Malformed, Param: param, Message: fmt.Sprintf(format, args...)}
}

// knows checks the name of a model.
func knows(model string) error {
	if model == "" {
		return malformed("model", "model: the name of a model is missing")
	}
	if _, ok := demoModels[model]; !ok {
		return &dialect.Error{
			Fault: dialect.NoModel, Param: "model",
			Message: fmt.Sprintf("the demo has no model %.100q", model),
		}
	}
	return nil
}

// allowed returns how many tokens a request allows: n, or otherwise if it does
// not say.
func allowed(name string, n *int, least, otherwise int) (int, error) {
	switch {
	case n == nil:
		return otherwise, nil
	case *n < least:
		return 0, malformed(name, "%s: must be at least %d", name, least)
	}
	return *n, nil
}

// countWords returns how many words a text has.
func countWords(text string) (n int) {
	for range strings.FieldsSeq(text) {
		n++
	}
	return n
}

// prose is the text in a value that is a string or a list of parts, whichever
// dialect's.
type prose string

func (p *prose) UnmarshalJSON(raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	var b strings.Builder
	if !gather(&b, v) {
		return errors.New("the content of a message must be a string or a list of parts")
	}
	*p = prose(b.String())
	return nil
}

// gather collects the text in v, a space between parts. It returns false if v is
// nothing that holds text.
func gather(b *strings.Builder, v any) bool {
	switch v := v.(type) {
	case nil:
	case string:
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(v)
	case []any:
		for _, part := range v {
			if !gather(b, part) {
				return false
			}
		}
	case map[string]any:
		// The names of text, of what a tool gave back and of what Gemini nests.
		return gather(b, v["text"]) && gather(b, v["content"]) && gather(b, v["parts"])
	default:
		return false
	}
	return true
}

// turn is one message, content or item of a conversation.
type turn struct {
	Role    string `json:"role"`
	Type    string `json:"type"`    // in Responses
	Content prose  `json:"content"` // in Gemini it is called parts
	Parts   prose  `json:"parts"`
	Output  prose  `json:"output"` // of a tool, in Responses
}

// turns are a conversation. A string stands for one turn of the user.
type turns []turn

func (ts *turns) UnmarshalJSON(raw []byte) error {
	if raw[0] != '"' {
		return json.Unmarshal(raw, (*[]turn)(ts))
	}
	*ts = turns{{Role: "user"}}
	return json.Unmarshal(raw, &(*ts)[0].Content)
}

// check says what is wrong with a conversation whose field has that name.
func (ts turns) check(field string, roles ...string) error {
	if len(ts) == 0 {
		return malformed(field, "%s: at least one message is required", field)
	}
	for i, t := range ts {
		if t.Type != "" && t.Type != "message" {
			continue // an item of Responses that is no message
		}
		if !slices.Contains(roles, t.Role) {
			return malformed(field, "%s[%d].role: %.40q is not one of %s", field, i, t.Role, strings.Join(roles, ", "))
		}
	}
	return nil
}

// words counts the words of the conversation.
func (ts turns) words() (n int) {
	for _, t := range ts {
		n += countWords(string(t.Content)) + countWords(string(t.Parts)) + countWords(string(t.Output))
	}
	return n
}

// last returns what the user said last.
func (ts turns) last() string {
	for _, t := range slices.Backward(ts) {
		if t.Role == "user" || t.Role == "" && t.Type == "" { // Gemini's users need no role
			return string(t.Content + t.Parts)
		}
	}
	return ""
}

// tool is a tool that a request offers.
type tool struct {
	Type     string `json:"type"`
	Name     string `json:"name"`
	Function struct {
		Name string `json:"name"`
	} `json:"function"` // in Chat
}

func (t *tool) name() string {
	if t.Function.Name != "" {
		return t.Function.Name
	}
	return t.Name
}

// toolChoice says whether a tool must be called. A string stands for its type.
type toolChoice struct {
	tool
	Mode    string `json:"mode"` // of allowed_tools, in Responses
	Tools   []tool `json:"tools"`
	Allowed struct {
		Mode  string `json:"mode"`
		Tools []tool `json:"tools"`
	} `json:"allowed_tools"` // in Chat
}

func (c *toolChoice) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &c.Type)
	}
	type bare toolChoice // without this method
	return json.Unmarshal(raw, (*bare)(c))
}

// forced returns the name of the tool that must be called; empty if none must.
// own is the type of tools that the client runs by itself.
func (c *toolChoice) forced(tools []tool, own string) (string, error) {
	if len(tools) == 0 {
		return "", nil
	}
	name, among := "", tools
	switch {
	case c.Type == "required" || c.Type == "any":
	case c.Type == "allowed_tools" && c.Mode == "required":
		among = c.Tools
	case c.Type == "allowed_tools" && c.Allowed.Mode == "required":
		among = c.Allowed.Tools
	case c.Type == "function" || c.Type == "tool":
		name = c.name()
	default:
		return "", nil
	}
	for _, t := range among {
		if (t.Type == "" || t.Type == own) && t.name() != "" && (name == "" || name == t.name()) {
			return t.name(), nil
		}
	}
	return "", malformed("tool_choice", "tool_choice: there is no such tool, or none that the demo can call")
}

// texts are one text or several. Numbers of tokens stand for words.
type texts []string

func (ts *texts) UnmarshalJSON(raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	} else if len(list) > 0 && isNumber(list[0]) {
		list = []any{list} // one text in tokens
	}
	for _, el := range list {
		text, ok := el.(string)
		if tokens, in := el.([]any); in {
			text, ok = spell(tokens)
		}
		if !ok {
			return errors.New("the input must be a string, a list of strings, or tokens")
		}
		*ts = append(*ts, text)
	}
	return nil
}

func isNumber(v any) bool {
	_, is := v.(float64)
	return is
}

func spell(tokens []any) (string, bool) {
	words := make([]string, len(tokens))
	for i, t := range tokens {
		if !isNumber(t) {
			return "", false
		}
		words[i] = fmt.Sprint(t)
	}
	return strings.Join(words, " "), true
}

// check says what is wrong with texts of that name.
func (ts texts) check(field string, most int) error {
	switch {
	case len(ts) == 0:
		return malformed(field, "%s: a text is missing", field)
	case len(ts) > most:
		return malformed(field, "%s: the demo takes at most %d texts at once", field, most)
	case slices.Contains(ts, ""):
		return malformed(field, "%s: a text is empty", field)
	}
	return nil
}
