package translate

// strictSchema says whether a JSON Schema lies in the subset that OpenAI takes for
// strict tools and formats: every object is closed and requires all it has.
// Source: OpenAI's guide to structured outputs.
func strictSchema(schema []byte) bool {
	s := newSource(schema)
	return s.next() == '{' && strictNode(s, 0) && s.err == nil
}

// maxStrictDepth is deeper than the service goes.
const maxStrictDepth = 16

// strictNode reads a schema.
func strictNode(s *source, depth int) bool {
	if depth > maxStrictDepth || s.next() != '{' {
		s.skip()
		return false
	}
	ok, object, closed := true, false, false
	var has, requires []string
	inner := func() { ok = strictNode(s, depth+1) && ok }
	each := func(visit func(name string)) {
		s.object(func(name []byte) {
			visit(string(name))
			inner()
		})
	}
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			if kind, is := s.stringOr(); is {
				object = object || kind == "object"
			} else if s.next() == '[' {
				s.list(func(int) { object = s.string() == "object" || object })
			} else {
				s.skip()
			}
		case "properties":
			object = true
			each(func(name string) { has = append(has, name) })
		case "$defs", "definitions":
			each(func(string) {})
		case "items":
			inner()
		case "anyOf":
			s.list(func(int) { inner() })
		case "required":
			s.list(func(int) { requires = append(requires, s.string()) })
		case "additionalProperties":
			if c := s.next(); c == '{' || c == '[' || c == '"' {
				s.skip()
			} else {
				closed = string(s.scalar()) == "false"
			}
		case "allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "prefixItems", "dependentRequired", "dependentSchemas":
			ok = false
			s.skip()
		default:
			s.skip()
		}
	})
	if object && (!closed || len(has) != len(requires)) {
		return false
	}
	required := make(map[string]bool, len(requires))
	for _, name := range requires {
		required[name] = true
	}
	for _, name := range has {
		ok = ok && required[name]
	}
	return ok
}
