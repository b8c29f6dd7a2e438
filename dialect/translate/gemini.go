package translate

import (
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

func (c *Conversation) readGemini(s *source) {}

func (r *Request) writeGemini() error { return nil }

type geminiDecoder struct{ a *Answer }

func newGeminiDecoder(a *Answer) decoder { return &geminiDecoder{a: a} }

func (d *geminiDecoder) event(name, data []byte) {}
func (d *geminiDecoder) whole(body []byte)       {}
func (d *geminiDecoder) end()                    {}

type geminiEncoder struct{ a *Answer }

func newGeminiEncoder(a *Answer) encoder { return &geminiEncoder{a: a} }

func (e *geminiEncoder) take(ev *Event)          {}
func (e *geminiEncoder) finish(t *usage.Tokens)  {}
func (e *geminiEncoder) fail(err *dialect.Error) {}

func (a *Answer) writeGeminiReply(r *reply, t *usage.Tokens) {}
