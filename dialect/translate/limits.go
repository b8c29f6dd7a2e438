package translate

import (
	"strings"

	"github.com/floway/floway/dialect"
)

// boundFields are the names of the bound on an answer.
var boundFields = [...]string{
	dialect.Chat: "max_completion_tokens", dialect.Responses: "max_output_tokens",
	dialect.Messages: "max_tokens", dialect.Gemini: "generationConfig.maxOutputTokens",
}

// outputLimits are the greatest bounds that models of OpenAI and Google take, by
// how their names begin; the first that fits counts. Agents ask for what the
// largest models give, and would be refused by the rest. Source: the services'
// lists of their models.
var outputLimits = []struct {
	name string
	most int64
}{
	{"gpt-4o", 16_384},
	{"chatgpt-4o", 16_384},
	{"gpt-4.1", 32_768},
	{"gpt-4-turbo", 4096},
	{"gpt-4-1106", 4096},
	{"gpt-4-0125", 4096},
	{"gpt-4", 8192},
	{"gpt-3.5", 4096},
	{"gemini-2.0", 8192},
	{"gemini-1.5", 8192},
}

// bound returns the bound on the answer that the model takes; 0 if the client gave
// none. One that is lowered is named.
func (r *Request) bound() int64 {
	n := r.c.MaxTokens
	name := r.o.Model[strings.LastIndexByte(r.o.Model, '/')+1:]
	for _, l := range outputLimits {
		if strings.HasPrefix(name, l.name) {
			if n > l.most {
				n = l.most
				r.drop(boundFields[r.c.From])
			}
			break
		}
	}
	return n
}
