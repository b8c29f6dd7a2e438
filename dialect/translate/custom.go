package translate

// Tools that take free text become, in dialects that only know functions, a
// function with one string, whose calls are unwrapped again on the way back.

// wrapSchema is the JSON Schema of such a function's arguments.
func wrapSchema() []byte {
	return []byte(`{"type":"object","properties":{"input":{"type":"string","description":"The whole input of the tool, as plain text."}},"required":["input"],"additionalProperties":false}`)
}

// wrapInput spells free text as the arguments of such a function.
func wrapInput(text string) string {
	var w writer
	w.open('{')
	w.member("input", text)
	w.shut('}')
	return string(w.b)
}

// unwrapInput returns the free text that such a function was called with.
// Arguments of another form, which a model may write all the same, are taken for
// the text itself.
func unwrapInput(args string) string {
	s := newSource([]byte(args))
	text, found := "", false
	s.object(func(name []byte) {
		if string(name) == "input" && s.next() == '"' {
			text, found = s.string(), true
			return
		}
		s.skip()
	})
	if s.err != nil || !found || s.next() != 0 {
		return args
	}
	return text
}

// wrapDescription is what such a function says of itself: a grammar that the text
// has to follow cannot be enforced there, only told.
func wrapDescription(t *Tool) string {
	s := newSource(t.Grammar)
	syntax, definition := "", ""
	var read func(name []byte)
	read = func(name []byte) {
		switch string(name) {
		case "syntax":
			syntax = s.string()
		case "definition":
			definition = s.string()
		case "grammar": // Chat Completions has one object more
			s.object(read)
		default:
			s.skip()
		}
	}
	if len(t.Grammar) > 0 {
		s.object(read)
	}
	if s.err != nil || definition == "" {
		return t.Description
	}
	told := "The input must follow this grammar"
	if syntax != "" {
		told += " (" + syntax + ")"
	}
	told += ":\n" + definition
	if t.Description != "" {
		told = t.Description + "\n\n" + told
	}
	return told
}
