package translate

import (
	"github.com/floway/floway/dialect"
	"github.com/floway/floway/usage"
)

func (c *Conversation) readResponses(s *source) {}

func (r *Request) writeResponses() error { return nil }

type responsesDecoder struct{ a *Answer }

func newResponsesDecoder(a *Answer) decoder { return &responsesDecoder{a: a} }

func (d *responsesDecoder) event(name, data []byte) {}
func (d *responsesDecoder) whole(body []byte)       {}
func (d *responsesDecoder) end()                    {}

type responsesEncoder struct{ a *Answer }

func newResponsesEncoder(a *Answer) encoder { return &responsesEncoder{a: a} }

func (e *responsesEncoder) take(ev *Event)          {}
func (e *responsesEncoder) finish(t *usage.Tokens)  {}
func (e *responsesEncoder) fail(err *dialect.Error) {}

func (a *Answer) writeResponsesReply(r *reply, t *usage.Tokens) {}
