package translate

import (
	"errors"
	"fmt"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// Calls that count the tokens of a request. Chat Completions has none.

// CountOf returns the call by which a dialect counts tokens; dialect.None where it
// has none.
func CountOf(d dialect.Dialect) dialect.Operation {
	switch d {
	case dialect.Responses:
		return dialect.CountResponse
	case dialect.Messages:
		return dialect.CountMessage
	case dialect.Gemini:
		return dialect.CountContent
	}
	return dialect.None
}

// counter reads and writes the answer to such a call: one number.
type counter struct {
	a      *Answer
	tokens int64
}

func (c *counter) event(_, _ []byte) {}
func (c *counter) end()              {}

func (c *counter) whole(body []byte) {
	s := newSource(body)
	found := false
	s.object(func(name []byte) {
		switch string(name) {
		case "input_tokens", "totalTokens":
			c.tokens, found = s.integer(), true
		default:
			s.skip()
		}
	})
	switch {
	case s.err != nil:
		c.a.broken(fmt.Errorf("a count of tokens cannot be read: %w", s.err))
	case !found || c.tokens < 0:
		c.a.broken(errors.New("an answer has no count of tokens"))
	}
}

func (c *counter) take(*Event)          {}
func (c *counter) fail(*dialect.Error)  {}
func (c *counter) finish(*usage.Tokens) { c.a.out.b = CountAnswer(c.a.out.b, c.a.r.c.From, c.tokens) }

// CountAnswer appends the answer to a client that asked for a count of tokens.
func CountAnswer(out []byte, d dialect.Dialect, tokens int64) []byte {
	w := writer{b: out}
	w.open('{')
	switch d {
	case dialect.Responses:
		w.member("object", "response.input_tokens")
		w.intMember("input_tokens", tokens)
	case dialect.Gemini:
		w.intMember("totalTokens", tokens)
	default:
		w.intMember("input_tokens", tokens)
	}
	w.shut('}')
	return w.b
}
