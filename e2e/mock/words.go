package mock

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Created is the time of everything, in Unix seconds, so that equal questions
// have equal answers.
const Created = 1790000000

// vocabulary is what answers are made of: plain words, and what readers of
// streams have stumbled on.
var vocabulary = []string{
	"the ", "river ", "runs ", "slowly; ", "naïve ", "façade ", "日本語", "\n\n", "\"quoted\" ", "data: ",
	"[DONE] ", "back\\slash ", "tab\t", "emoji 🚀 ", "line\u2028separator ", "<b>&amp;</b> ", "42 ", "{\"a\":1} ", "\r\n", "end. ",
}

// wide are words of letters that take two to four bytes.
var wide = []string{"日本語", "naïveté", "🚀🛰️", "Ωμέγα", "пример", "🇩🇪", "한국어", "e\u0301", "𝔘𝔫𝔦", "مرحبا"}

// Number returns a number below n that depends on the question and on salt.
func (x *Exchange) Number(salt, n int) int {
	b, _ := hex.DecodeString(x.Digest[:8])
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v ^= uint32(salt) * 0x9e3779b1
	v ^= v >> 15
	v *= 0x85ebca6b
	v ^= v >> 13
	return int(v % uint32(n))
}

// Say returns the words of an answer, at most limit of them if that is not 0,
// and whether all were said.
func (x *Exchange) Say(salt int, limit int64) (words []string, whole bool) {
	from, n := vocabulary, x.How.Words
	switch {
	case n > 0:
	case x.How.Scenario == Long:
		n = 3000
	default:
		n = 5 + x.Number(salt, 12)
	}
	if x.How.Scenario == Unicode {
		from = wide
	}
	whole = limit == 0 || int64(n) <= limit
	if !whole {
		n = int(limit)
	}
	words = make([]string, n)
	for i := range words {
		words[i] = from[x.Number(salt+31*i, len(from))]
	}
	return words, whole
}

// Count is the number of tokens of a text: one for every four bytes begun.
func Count(s string) int64 { return int64(len(s)+3) / 4 }

// Prompt divides the tokens of a prompt into buckets, by the question. A service
// that has not all of them adds those up.
func (x *Exchange) Prompt(n int64) {
	t := &x.Entry.Tokens
	if x.How.Scenario == Cached {
		*t = Tokens{Input: n, CacheRead: 3000, CacheWrite: 1000, CacheWrite1h: 200}
		return
	}
	if x.Number(1, 2) == 0 {
		t.CacheRead = n / 2
	}
	if x.Number(2, 3) == 0 {
		t.CacheWrite = n / 4
	}
	t.Input = n - t.CacheRead - t.CacheWrite
}

// Encode is JSON without the escapes that keep it out of web pages.
func Encode(v any) []byte {
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

// Example makes a value of a JSON schema.
func (x *Exchange) Example(schema json.RawMessage, depth int) any {
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
		return s.Enum[x.Number(depth, len(s.Enum))]
	case len(s.AnyOf) > 0:
		return x.Example(s.AnyOf[0], depth+1)
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
		words, _ := x.Say(depth, 2)
		return strings.Join(words, "")
	case "integer":
		return x.Number(depth, 1000)
	case "number":
		return float64(x.Number(depth, 1000)) / 8
	case "boolean":
		return x.Number(depth, 2) == 1
	case "array":
		return []any{x.Example(s.Items, depth+1), x.Example(s.Items, depth+2)}
	case "object":
		v := make(map[string]any, len(s.Properties))
		for i, name := range SortedKeys(s.Properties) {
			v[name] = x.Example(s.Properties[name], depth+i+1)
		}
		return v
	default:
		return nil
	}
}

// SortedKeys returns the keys of a map in order, so that nothing depends on the
// map's own.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Pieces cuts s every n bytes, but not within a character.
func Pieces(s string, n int) []string {
	var all []string
	for len(s) > 0 {
		end := min(n, len(s))
		for end < len(s) && s[end]&0xc0 == 0x80 {
			end++
		}
		all = append(all, s[:end])
		s = s[end:]
	}
	return all
}
