package translate

import (
	"bytes"
	"strings"
)

// strictSchema says whether a schema is within what OpenAI's strict mode takes:
// objects without further members, all of whose members are required.
func strictSchema(schema []byte) bool {
	s := newSource(schema)
	return strictNode(s, 0) && s.err == nil
}

// maxStrict is how deep a strict schema may go; OpenAI takes 10 levels.
const maxStrict = 32

func strictNode(s *source, depth int) bool {
	if depth > maxStrict || s.next() != '{' {
		s.skip()
		return false
	}
	strict, object, closed := true, depth == 0, false
	members, required := []string(nil), map[string]bool{}
	node := func() { strict = strictNode(s, depth+1) && strict }
	s.object(func(name []byte) {
		switch string(name) {
		case "type":
			object = strings.Contains(string(s.raw()), `"object"`) || object
		case "properties":
			object = true
			s.object(func(name []byte) {
				members = append(members, string(name))
				node()
			})
		case "required":
			s.list(func(int) { required[s.string()] = true })
		case "additionalProperties":
			closed = string(s.raw()) == "false"
		case "items":
			node()
		case "anyOf":
			s.list(func(int) { node() })
		case "$defs", "definitions":
			s.object(func([]byte) { node() })
		case "allOf", "oneOf", "not", "if", "patternProperties", "propertyNames", "dependentSchemas", "prefixItems":
			s.skip()
			strict = false
		default:
			s.skip()
		}
	})
	for _, m := range members {
		strict = strict && required[m]
	}
	return strict && (!object || closed)
}

// closedSchema is a schema whose objects say that they have no further members,
// where they say nothing of them: Messages refuses answers of open objects, and
// what fits the closed schema fits the open one.
func closedSchema(schema []byte) []byte {
	s := newSource(schema)
	var w writer
	closeNode(s, &w, 0)
	if s.err != nil {
		return schema
	}
	return w.b
}

func closeNode(s *source, w *writer, depth int) {
	if depth > maxStrict || s.next() != '{' {
		w.raw(s.raw())
		return
	}
	object, said := false, false
	w.open('{')
	s.object(func(name []byte) {
		word := string(name)
		w.escapedName(word)
		switch word {
		case "properties", "$defs", "definitions":
			object = object || word == "properties"
			w.open('{')
			s.object(func(name []byte) {
				w.escapedName(string(name))
				closeNode(s, w, depth+1)
			})
			w.shut('}')
		case "anyOf":
			w.open('[')
			s.list(func(int) { closeNode(s, w, depth+1) })
			w.shut(']')
		case "items":
			closeNode(s, w, depth+1)
		default:
			raw := s.raw()
			object = object || word == "type" && bytes.Contains(raw, []byte(`"object"`))
			said = said || word == "additionalProperties"
			w.raw(raw)
		}
	})
	if object && !said {
		w.name("additionalProperties")
		w.literal("false")
	}
	w.shut('}')
}
