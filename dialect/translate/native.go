package translate

import (
	"bytes"
	"strings"

	"github.com/floway/floway/dialect"
)

// Native returns the body of a request for an upstream that speaks the client's
// dialect, without the envelopes that other upstreams' reasoning came in: to this
// one they would look like forgeries. changed is false if there are none. mixed
// says that parts of the history may come from other dialects without a trace.
func Native(req *dialect.Request, mixed bool) (body []byte, changed bool) {
	sealed := mayHoldSeal(req.Body)
	if req.Call.Op.Dialect() == dialect.Messages && (sealed || mixed) && bytes.Contains(req.Body, []byte("budget_tokens")) {
		body, changed := req.Body, false
		if sealed {
			body, changed = unsealed(req)
		}
		if cannotThink(body) {
			return withoutThinking(body), true
		}
		return body, changed
	}
	if !sealed {
		return req.Body, false
	}
	return unsealed(req)
}

func unsealed(req *dialect.Request) (body []byte, changed bool) {
	n := native{s: newSource(req.Body)}
	switch req.Call.Op.Dialect() {
	case dialect.Chat:
		n.member("messages", n.chatMessage)
	case dialect.Responses:
		n.member("input", n.responsesItem)
	case dialect.Messages:
		n.member("messages", n.message)
	case dialect.Gemini:
		n.member("contents", n.content)
	}
	if n.s.err != nil || !n.changed {
		return req.Body, false
	}
	return n.w.b, true
}

// cannotThink says whether the calls that are being answered came without thoughts.
// Whoever goes on from them with thinking switched on is refused.
func cannotThink(body []byte) bool {
	enabled, lacks := false, false
	s := newSource(body)
	s.object(func(name []byte) {
		switch string(name) {
		case "thinking":
			enabled = bytes.Contains(s.raw(), []byte(`"enabled"`))
		case "messages":
			// lacks is about the last two turns: an assistant's, and the results.
			before := false
			s.list(func(int) {
				var role, content string
				s.object(func(name []byte) {
					switch string(name) {
					case "role":
						role = s.string()
					case "content":
						content = firstBlock(s.raw())
					default:
						s.skip()
					}
				})
				lacks = before && role == "user" && content == "tool_result"
				before = role == "assistant" && content != "thinking" && content != "redacted_thinking"
			})
		default:
			s.skip()
		}
	})
	return s.err == nil && enabled && lacks
}

// firstBlock is the type of the first block of a message's content; empty where
// that is a text.
func firstBlock(content []byte) (kind string) {
	if len(content) == 0 || content[0] != '[' {
		return ""
	}
	s := newSource(content)
	s.list(func(i int) {
		if i > 0 {
			s.skip()
			return
		}
		s.object(func(name []byte) {
			if string(name) == "type" {
				kind = s.string()
				return
			}
			s.skip()
		})
	})
	return kind
}

func withoutThinking(body []byte) []byte {
	var n native
	return n.members(newSource(body), func(name string, value []byte) []byte {
		if name == "thinking" {
			return nil
		}
		return value
	})
}

// mayHoldSeal says whether an envelope of ours can be in a piece of JSON.
func mayHoldSeal(raw []byte) bool {
	return bytes.Contains(raw, []byte(sealMark)) || bytes.Contains(raw, []byte(sealMarkBytes))
}

// native copies a body and leaves out envelopes.
type native struct {
	s       *source
	w       writer
	changed bool
}

// member copies an object, but for the elements of one member, which copy decides
// about: it returns an element as it is to be, or nil for none.
func (n *native) member(which string, element func(raw []byte) []byte) {
	n.w.b = n.members(n.s, func(name string, value []byte) []byte {
		if camel([]byte(name)) != which || len(value) == 0 || value[0] != '[' {
			return value
		}
		return n.elements(value, element)
	})
}

// members copies an object, each value as change returns it; nil leaves it out.
func (n *native) members(s *source, change func(name string, value []byte) []byte) []byte {
	var w writer
	w.open('{')
	s.object(func(name []byte) {
		word := string(name)
		value := s.raw()
		if value == nil {
			value = []byte("null")
		}
		if value = change(word, value); value != nil {
			w.escapedName(word)
			w.raw(value)
		}
	})
	w.shut('}')
	return w.b
}

// elements copies an array, each element as change returns it.
func (n *native) elements(list []byte, change func(raw []byte) []byte) []byte {
	s := newSource(list)
	var w writer
	w.open('[')
	s.list(func(int) {
		raw := s.raw()
		if raw != nil && mayHoldSeal(raw) {
			raw = change(raw)
		} else if raw == nil {
			raw = []byte("null")
		}
		if raw != nil {
			w.raw(raw)
		}
	})
	w.shut(']')
	return w.b
}

// sealedMember says whether a member of an object is an envelope.
func sealedMember(raw []byte, names ...string) bool {
	s := newSource(raw)
	found := false
	s.object(func(name []byte) {
		word := camel(name)
		for _, want := range names {
			if word == want && s.next() == '"' {
				found = strings.HasPrefix(plainEnvelope(s.string()), sealMark) || found
				return
			}
		}
		s.skip()
	})
	return found
}

// cut leaves out what is an envelope, and keeps the rest.
func (n *native) cut(raw []byte, names ...string) []byte {
	if sealedMember(raw, names...) {
		n.changed = true
		return nil
	}
	return raw
}

func (n *native) responsesItem(item []byte) []byte { return n.cut(item, "encryptedContent") }

// message goes through the blocks of a message. One that held nothing but thoughts
// goes with them.
func (n *native) message(raw []byte) []byte {
	return n.inside(raw, "content", func(block []byte) []byte { return n.cut(block, "signature", "data") })
}

func (n *native) content(raw []byte) []byte {
	return n.inside(raw, "parts", func(part []byte) []byte {
		if !sealedMember(part, "thoughtSignature") {
			return part
		}
		n.changed = true
		call := false
		kept := n.members(newSource(part), func(name string, value []byte) []byte {
			switch camel([]byte(name)) {
			case "functionCall":
				call = true
			case "thoughtSignature":
				return []byte(`"` + noValidation + `"`)
			}
			return value
		})
		if !call {
			return nil
		}
		return kept
	})
}

// inside copies an object, but for the elements of the array in one member. It
// returns nil if none of them is left.
func (n *native) inside(raw []byte, which string, element func([]byte) []byte) []byte {
	empty := false
	out := n.members(newSource(raw), func(name string, value []byte) []byte {
		if name != which || len(value) == 0 || value[0] != '[' {
			return value
		}
		value = n.elements(value, element)
		empty = string(value) == "[]"
		return value
	})
	if empty {
		return nil
	}
	return out
}

// chatMessage shortens the ids of calls that carry an envelope.
func (n *native) chatMessage(raw []byte) []byte {
	shorten := func(object []byte, which string) []byte {
		return n.members(newSource(object), func(name string, value []byte) []byte {
			if name == which && len(value) > 0 && value[0] == '"' {
				if id, _, found := strings.Cut(newSource(value).string(), "__"+sealMark); found {
					n.changed = true
					var w writer
					w.string(id)
					return w.b
				}
			}
			return value
		})
	}
	// With the sealed thoughts of others go their words, which few services know.
	foreign := false
	s := newSource(raw)
	s.object(func(name []byte) {
		is := string(name) == "reasoning_opaque"
		foreign = bytes.Contains(s.raw(), []byte(sealMark)) && is || foreign
	})
	n.changed = n.changed || foreign
	return n.members(newSource(shorten(raw, "tool_call_id")), func(name string, value []byte) []byte {
		switch {
		case foreign && (name == "reasoning_opaque" || name == "reasoning_content"):
			return nil
		case name == "tool_calls" && len(value) > 0 && value[0] == '[':
			return n.elements(value, func(call []byte) []byte { return shorten(call, "id") })
		}
		return value
	})
}
