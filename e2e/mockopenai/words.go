package mockopenai

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// created is the time of everything, in Unix seconds, so that equal questions
// have equal answers.
const created = 1790000000

// vocabulary is what answers are made of: plain words, and what readers of
// streams have stumbled on.
var vocabulary = []string{
	"the ", "river ", "runs ", "slowly; ", "naïve ", "façade ", "日本語", "\n\n", "\"quoted\" ", "data: ",
	"[DONE] ", "back\\slash ", "tab\t", "emoji 🚀 ", "line\u2028separator ", "<b>&amp;</b> ", "42 ", "{\"a\":1} ", "\r\n", "end. ",
}

// number returns a number below n that depends on the question and on salt.
func (x *exchange) number(salt, n int) int {
	b, _ := hex.DecodeString(x.digest[:8])
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v ^= uint32(salt) * 0x9e3779b1
	v ^= v >> 15
	v *= 0x85ebca6b
	v ^= v >> 13
	return int(v % uint32(n))
}

// say returns the words of an answer, at most limit of them if that is not 0,
// and whether all were said.
func (x *exchange) say(salt int, limit int64) (words []string, whole bool) {
	n := x.how.Words
	if n == 0 {
		n = 5 + x.number(salt, 12)
	}
	whole = limit == 0 || int64(n) <= limit
	if !whole {
		n = int(limit)
	}
	words = make([]string, n)
	for i := range words {
		words[i] = vocabulary[x.number(salt+31*i, len(vocabulary))]
	}
	return words, whole
}

// count is the number of tokens of a text: one for every four bytes begun.
func count(s string) int64 { return int64(len(s)+3) / 4 }

// prompt divides the tokens of a prompt into buckets, by the question.
func (x *exchange) prompt(n int64) {
	t := &x.entry.Tokens
	if x.number(1, 2) == 0 {
		t.CacheRead = n / 2
	}
	if x.number(2, 3) == 0 {
		t.CacheWrite = n / 4
	}
	t.Input = n - t.CacheRead - t.CacheWrite
}

// encode is JSON without the escapes that keep it out of web pages.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(body)
	z.Close()
	return b.Bytes()
}

// example makes a value of a JSON schema.
func (x *exchange) example(schema json.RawMessage, depth int) any {
	var s struct {
		Type       json.RawMessage            `json:"type"`
		Enum       []any                      `json:"enum"`
		Const      any                        `json:"const"`
		Properties map[string]json.RawMessage `json:"properties"`
		Items      json.RawMessage            `json:"items"`
		AnyOf      []json.RawMessage          `json:"anyOf"`
	}
	if json.Unmarshal(schema, &s) != nil || depth > 16 {
		return nil
	}
	switch {
	case s.Const != nil:
		return s.Const
	case len(s.Enum) > 0:
		return s.Enum[x.number(depth, len(s.Enum))]
	case len(s.AnyOf) > 0:
		return x.example(s.AnyOf[0], depth+1)
	}
	var kind string
	if json.Unmarshal(s.Type, &kind) != nil {
		var kinds []string
		json.Unmarshal(s.Type, &kinds)
		if len(kinds) > 0 {
			kind = kinds[0]
		}
	}
	switch kind {
	case "string":
		words, _ := x.say(depth, 2)
		return strings.Join(words, "")
	case "integer":
		return x.number(depth, 1000)
	case "number":
		return float64(x.number(depth, 1000)) / 8
	case "boolean":
		return x.number(depth, 2) == 1
	case "array":
		return []any{x.example(s.Items, depth+1), x.example(s.Items, depth+2)}
	case "object":
		v := make(map[string]any, len(s.Properties))
		for i, name := range sortedKeys(s.Properties) {
			v[name] = x.example(s.Properties[name], depth+i+1)
		}
		return v
	default:
		return nil
	}
}
