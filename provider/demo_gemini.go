package provider

import (
	"bytes"
	"regexp"
	"slices"

	"github.com/floway/floway/dialect"
)

// The Gemini API, as Google has it.

type geminiPrompt struct {
	Contents turns `json:"contents"`
	System   prose `json:"systemInstruction"`
}

func (p *geminiPrompt) words() int { return p.Contents.words() + countWords(string(p.System)) }

func (p *geminiPrompt) check() error {
	return p.Contents.check("contents", "user", "model", "function", "")
}

// decodeGemini reads a body whose names are in camel case or, as Google's service
// takes them too, in snake case, and checks the model that the path names.
func (x *demoExchange) decodeGemini(into any) error {
	if err := knows(x.call.Model); err != nil {
		return err
	}
	return decode(snakeName.ReplaceAllFunc(x.body, camel), into)
}

// snakeName matches names and not values: a quote within a string has a backslash
// before it, and no colon follows a string.
var snakeName = regexp.MustCompile(`"[a-z]+(_[a-z]+)+"\s*:`)

func camel(name []byte) []byte {
	out := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '_' {
			i++
			c = bytes.ToUpper(name[i : i+1])[0]
		}
		out = append(out, c)
	}
	return out
}

func (x *demoExchange) generate() (*demoAnswer, error) {
	var r struct {
		geminiPrompt
		Config struct {
			MaxOutput *int `json:"maxOutputTokens"`
		} `json:"generationConfig"`
		Tools []struct {
			Functions []tool `json:"functionDeclarations"`
		} `json:"tools"`
		ToolConfig struct {
			Calling struct {
				Mode    string   `json:"mode"`
				Allowed []string `json:"allowedFunctionNames"`
			} `json:"functionCallingConfig"`
		} `json:"toolConfig"`
	}
	if err := x.decodeGemini(&r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	limit, err := allowed("generationConfig.maxOutputTokens", r.Config.MaxOutput, 1, noLimit)
	if err != nil {
		return nil, err
	}
	var functions []tool
	for _, t := range r.Tools {
		functions = append(functions, t.Functions...)
	}
	var choice toolChoice
	if calling := r.ToolConfig.Calling; calling.Mode == "ANY" {
		choice.Type = "required"
		if len(calling.Allowed) > 0 {
			choice.Type, choice.Name = "function", calling.Allowed[0]
		}
	}
	call, err := choice.forced(functions, "")
	if err != nil {
		return nil, err
	}
	a := demoSays(x.call.Model, r.Contents.last(), r.words(), limit, call)
	if x.call.Op == dialect.GenerateContent {
		return demoJSON(x.candidate(&a, x.parts(&a), a.out, true)), nil
	}
	return x.geminiStream(&a), nil
}

// parts are the whole answer.
func (x *demoExchange) parts(a *demoReply) list {
	if a.tool != "" {
		return list{object{"functionCall": object{"name": a.tool, "args": object{}}}}
	}
	return list{object{"text": a.text()}}
}

// candidate is an answer, or a piece of one; out is how many tokens have come so
// far.
func (x *demoExchange) candidate(a *demoReply, parts list, out int, last bool) object {
	c := object{"index": 0, "content": object{"role": "model", "parts": parts}}
	switch {
	case last && a.cut:
		c["finishReason"] = "MAX_TOKENS"
	case last:
		c["finishReason"] = "STOP"
	}
	return object{
		"candidates": list{c},
		"usageMetadata": object{
			"promptTokenCount": a.in, "candidatesTokenCount": out, "totalTokenCount": a.in + out,
			"promptTokensDetails": list{object{"modality": "TEXT", "tokenCount": a.in}},
		},
		"modelVersion": x.call.Model, "responseId": x.id,
	}
}

// geminiStream sends the answer in pieces: as events if the query says so, else
// as the elements of one array.
func (x *demoExchange) geminiStream(a *demoReply) *demoAnswer {
	pieces := []list{x.parts(a)}
	if a.tool == "" {
		pieces = pieces[:0]
		for _, w := range a.words {
			pieces = append(pieces, list{object{"text": w}})
		}
	}
	var events demoEvents
	for i, p := range pieces {
		last := i == len(pieces)-1
		out := i + 1
		if last {
			out = a.out
		}
		o := x.candidate(a, p, out, last)
		if x.sse {
			events.data(o)
			continue
		}
		mark := []byte(",\r\n")
		if i == 0 {
			mark = []byte("[")
		}
		events = append(events, slices.Concat(mark, encode(o)))
	}
	answer := demoEventStream(x.call.Model, events)
	if !x.sse {
		answer.events = append(answer.events, []byte("]\n"))
		answer.contentType = "application/json"
	}
	return answer
}

func (x *demoExchange) countContent() (*demoAnswer, error) {
	var r struct {
		geminiPrompt
		Whole *geminiPrompt `json:"generateContentRequest"`
	}
	if err := x.decodeGemini(&r); err != nil {
		return nil, err
	}
	prompt := &r.geminiPrompt
	if r.Whole != nil {
		prompt = r.Whole
	}
	if err := prompt.check(); err != nil {
		return nil, err
	}
	n := max(prompt.words(), 1)
	return demoJSON(object{
		"totalTokens": n, "promptTokensDetails": list{object{"modality": "TEXT", "tokenCount": n}},
	}), nil
}

type geminiEmbedding struct {
	Content    prose `json:"content"`
	Dimensions *int  `json:"outputDimensionality"`
}

func (x *demoExchange) embedContent() (*demoAnswer, error) {
	var r struct {
		geminiEmbedding
		Requests []geminiEmbedding `json:"requests"`
	}
	if err := x.decodeGemini(&r); err != nil {
		return nil, err
	}
	single := x.call.Op == dialect.EmbedContent
	if single {
		r.Requests = []geminiEmbedding{r.geminiEmbedding}
	}
	var all texts
	for _, e := range r.Requests {
		all = append(all, string(e.Content))
	}
	if err := all.check("content", demoMaxTexts); err != nil {
		return nil, err
	}
	embeddings := make(list, len(r.Requests))
	for i, e := range r.Requests {
		size, err := dimensions("outputDimensionality", e.Dimensions, len(r.Requests))
		if err != nil {
			return nil, err
		}
		embeddings[i] = object{"values": embed(all[i], size)}
	}
	if single {
		return demoJSON(object{"embedding": embeddings[0]}), nil
	}
	return demoJSON(object{"embeddings": embeddings}), nil
}
