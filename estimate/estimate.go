// Package estimate counts tokens where nobody reports them, by the vocabularies
// that OpenAI has published. For the models of others, who publish none, the count
// is a guess, for prose mostly within a fifth.
package estimate

import (
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"
)

// Count returns how many tokens the text is to the model. It takes some 0.1 ms for
// 1 KiB; of more than 128 KiB only samples are counted. The first call makes the
// vocabulary, which takes about 20 ms and 7 MiB that stay. Count may be called by
// many goroutines at once.
func Count(model, text string) int64 {
	c := For(model)
	c.Add(text)
	return c.Tokens()
}

// Counter adds up the tokens of several texts that belong together. It belongs to
// one goroutine.
type Counter struct {
	codec  tokenizer.Codec
	tokens float64
	// The texts are counted piece by piece. One piece in stride is counted, the
	// others are taken to be like the last one that was.
	stride, skip int
	counted      int // bytes, since the stride was made longer
	ratio        float64
}

// For returns a counter for a model, which is chosen by its name.
func For(model string) *Counter { return &Counter{codec: codecFor(model), stride: 1} }

const (
	// maxPiece is the greatest piece of a text that is counted at once. The
	// splitter of words takes quadratic time on some texts, such as blanks and
	// line feeds in turn, and four bytes for each of its own.
	maxPiece = 1 << 10
	// exact is how many bytes are counted until the stride doubles. So the time
	// that a text takes grows with the logarithm of its length.
	exact = 128 << 10
)

// Add counts one more text. It need not be valid UTF-8.
func (c *Counter) Add(text string) {
	for len(text) > 0 {
		n := cut(text)
		c.add(text[:n])
		text = text[n:]
	}
}

func (c *Counter) add(piece string) {
	if c.skip > 0 {
		c.skip--
		c.tokens += c.ratio * float64(len(piece))
		return
	}
	n, err := c.codec.Count(piece)
	if err != nil { // the splitter has no time limit, and knows no other error
		n = (len(piece) + 3) / 4
	}
	runtime.Gosched() // whoever waits for a processor has less time
	c.tokens += float64(n)
	c.ratio = float64(n) / float64(len(piece))
	if c.counted += len(piece); c.counted >= exact {
		c.stride, c.counted = 2*c.stride, 0
	}
	c.skip = c.stride - 1
}

// Tokens returns the sum so far.
func (c *Counter) Tokens() int64 { return int64(c.tokens + 0.5) }

// cut returns the length of the piece that a text begins with: up to a blank behind
// a letter, where no token goes across; without such a place, up to the start of a
// character.
func cut(text string) int {
	if len(text) <= maxPiece {
		return len(text)
	}
	for n := maxPiece; n > maxPiece/2; n-- {
		if (text[n] == ' ' || text[n] == '\n') && (text[n-1]|0x20 >= 'a' && text[n-1]|0x20 <= 'z') {
			return n
		}
	}
	n := maxPiece
	for n > maxPiece-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// The vocabularies, made when they are first needed: 6.7 and 3.4 MiB of heap.
var (
	o200k  = sync.OnceValue(func() tokenizer.Codec { return load(tokenizer.O200kBase) })
	cl100k = sync.OnceValue(func() tokenizer.Codec { return load(tokenizer.Cl100kBase) })
)

func load(e tokenizer.Encoding) tokenizer.Codec {
	codec, err := tokenizer.Get(e)
	if err != nil {
		panic(err) // both are part of the program
	}
	return codec
}

// older are the names of the models that use the older vocabulary, by how they
// begin; newer are those that begin alike and do not.
var (
	older = []string{"gpt-4", "gpt-3.5", "gpt-35", "text-embedding-", "davinci-002", "babbage-002"}
	newer = []string{"gpt-4o", "gpt-4.", "gpt-41"}
)

func codecFor(model string) tokenizer.Codec {
	model = strings.ToLower(model[strings.LastIndexByte(model, '/')+1:])
	model = strings.TrimPrefix(model, "ft:")
	if begins(model, older) && !begins(model, newer) {
		return cl100k()
	}
	return o200k()
}

func begins(s string, with []string) bool {
	for _, prefix := range with {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
