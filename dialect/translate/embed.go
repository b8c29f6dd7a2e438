package translate

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

// Embeddings: OpenAI's call and Gemini's two.

// embedding is a request for embeddings, in no dialect.
type embedding struct {
	texts      []string
	dimensions int64
	base64     bool // the client wants numbers as bytes
	single     bool // a client of Gemini asked for one, not for a batch
}

// maxTexts bounds the texts of one request. Services take fewer.
const maxTexts = 10_000

func readEmbeddings(c *Conversation, op dialect.Operation, s *source) {
	e := &embedding{single: op == dialect.EmbedContent}
	c.embed = e
	switch op {
	case dialect.Embeddings:
		c.readOpenAIEmbeddings(s, e)
	case dialect.EmbedContent:
		c.readEmbedContent(s, e)
	default:
		s.object(func(name []byte) {
			if string(name) != "requests" {
				c.useIf(unknownField, s)
				return
			}
			s.list(func(int) { c.readEmbedContent(s, e) })
		})
	}
	if len(e.texts) == 0 {
		s.fail("the request has no text to embed")
	}
}

func (e *embedding) add(s *source, text string) {
	if e.texts = append(e.texts, text); len(e.texts) > maxTexts {
		s.fail("the request has more than %d texts", maxTexts)
	}
}

func (c *Conversation) readOpenAIEmbeddings(s *source, e *embedding) {
	s.object(func(name []byte) {
		field := s.field()
		switch string(name) {
		case "model":
			s.skip()
		case "input":
			if text, ok := s.stringOr(); ok {
				e.add(s, text)
				return
			}
			s.list(func(int) {
				if s.next() != '"' {
					s.fail("%s: texts as token ids cannot be sent to another provider's model", field)
					return
				}
				e.add(s, s.string())
			})
		case "dimensions":
			e.dimensions = s.integer()
		case "encoding_format":
			switch word := s.string(); word {
			case "", "float":
			case "base64":
				e.base64 = true
			default:
				s.fail("encoding_format: %q is none of float and base64", clip(word))
			}
		case "user":
			c.useIf(endUser, s)
		default:
			c.useIf(unknownField, s)
		}
	})
}

func (c *Conversation) readEmbedContent(s *source, e *embedding) {
	s.object(func(name []byte) {
		switch camel(name) {
		case "model":
			s.skip()
		case "content":
			_, parts := c.readContent(s)
			var text strings.Builder
			for _, p := range parts {
				if p.Kind != Text {
					s.fail("%s: only text can be embedded by the model that serves this", p.Field)
					return
				}
				text.WriteString(p.Text)
			}
			e.add(s, text.String())
		case "outputDimensionality":
			e.dimensions = s.integer()
		default: // taskType, title: advice
			c.useIf(unknownField, s)
		}
	})
}

// writeEmbeddings writes the request in the other dialect.
func (r *Request) writeEmbeddings() {
	w, e := &r.w, r.c.embed
	w.open('{')
	if r.to == dialect.Chat {
		r.Op = dialect.Embeddings
		w.member("model", r.o.Model)
		w.name("input")
		w.open('[')
		for _, text := range e.texts {
			w.string(text)
		}
		w.shut(']')
		if e.dimensions > 0 {
			w.intMember("dimensions", e.dimensions)
		}
		w.member("encoding_format", "float")
		w.shut('}')
		return
	}
	r.Op = dialect.BatchEmbedContents
	w.name("requests")
	w.open('[')
	for _, text := range e.texts {
		w.open('{')
		w.member("model", "models/"+r.o.Model)
		w.name("content")
		w.open('{')
		w.name("parts")
		w.open('[')
		w.textPart(text)
		w.shut(']')
		w.shut('}')
		if e.dimensions > 0 {
			w.intMember("outputDimensionality", e.dimensions)
		}
		w.shut('}')
	}
	w.shut(']')
	w.shut('}')
}

// embedder reads and writes the answer.
type embedder struct {
	a       *Answer
	vectors []vector
}

// vector is one embedding: an array of numbers as it stands, or bytes in base64.
type vector struct {
	numbers []byte
	packed  string
}

func (e *embedder) event(_, _ []byte) {}
func (e *embedder) end()              {}
func (e *embedder) take(*Event)       {}

func (e *embedder) fail(*dialect.Error) {}

func (e *embedder) whole(body []byte) {
	s := newSource(body)
	e.vectors = make([]vector, 0, len(e.a.r.c.embed.texts))
	s.object(func(name []byte) {
		switch string(name) {
		case "data", "embeddings":
			s.list(func(int) { e.readVector(s) })
		default:
			s.skip()
		}
	})
	switch {
	case s.err != nil:
		e.a.broken(fmt.Errorf("embeddings cannot be read: %w", s.err))
	case len(e.vectors) != len(e.a.r.c.embed.texts):
		e.a.broken(errors.New("an answer has not one embedding for each text"))
	}
}

// readVector reads one embedding. OpenAI numbers them; servers that do not keep
// the order of the texts are not known.
func (e *embedder) readVector(s *source) {
	var v vector
	s.object(func(name []byte) {
		switch string(name) {
		case "embedding", "values":
			if text, ok := s.stringOr(); ok {
				v.packed = text
				return
			}
			v.numbers = s.raw()
		default:
			s.skip()
		}
	})
	if v.packed == "" && (len(v.numbers) == 0 || v.numbers[0] != '[') {
		s.fail("an embedding has no numbers")
	}
	e.vectors = append(e.vectors, v)
}

func (e *embedder) finish(t *usage.Tokens) {
	c, w := e.a.r.c, &e.a.out
	w.open('{')
	if c.From == dialect.Gemini {
		if c.embed.single {
			w.name("embedding")
			e.writeValues(w, &e.vectors[0])
		} else {
			w.name("embeddings")
			w.open('[')
			for i := range e.vectors {
				w.comma()
				e.writeValues(w, &e.vectors[i])
			}
			w.shut(']')
		}
		w.shut('}')
		return
	}
	w.member("object", "list")
	w.name("data")
	w.open('[')
	for i := range e.vectors {
		w.open('{')
		w.member("object", "embedding")
		w.intMember("index", int64(i))
		w.name("embedding")
		e.writeVector(w, &e.vectors[i], c.embed.base64)
		w.shut('}')
	}
	w.shut(']')
	w.member("model", c.Asked)
	if t != nil {
		w.name("usage")
		w.open('{')
		w.intMember("prompt_tokens", t.InputTotal())
		w.intMember("total_tokens", t.InputTotal())
		w.shut('}')
	}
	w.shut('}')
}

func (e *embedder) writeValues(w *writer, v *vector) {
	w.open('{')
	w.name("values")
	e.writeVector(w, v, false)
	w.shut('}')
}

// writeVector writes an embedding as numbers, or as the bytes of little-endian
// float32 in base64.
func (e *embedder) writeVector(w *writer, v *vector, packed bool) {
	switch {
	case packed && v.packed != "":
		w.string(v.packed)
	case packed:
		var raw []byte
		s := newSource(v.numbers)
		s.list(func(int) {
			f, err := strconv.ParseFloat(string(s.number()), 64)
			if err != nil {
				s.failWith(err)
			}
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(f)))
		})
		if s.err != nil {
			e.a.broken(fmt.Errorf("embeddings cannot be read: %w", s.err))
		}
		w.string(base64.StdEncoding.EncodeToString(raw))
	case v.packed != "":
		raw, err := base64.StdEncoding.DecodeString(v.packed)
		if err != nil || len(raw)%4 != 0 {
			e.a.broken(errors.New("embeddings cannot be read: they are no float32"))
		}
		w.open('[')
		for ; len(raw) >= 4; raw = raw[4:] {
			w.comma()
			w.b = strconv.AppendFloat(w.b, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))), 'g', -1, 32)
		}
		w.shut(']')
	default:
		w.raw(v.numbers)
	}
}
